/* The built-in page: it needs nothing but this server, and a browser shows what the model says. */
#include "live_server.h"

enum { SIDE = 28, PIXELS = SIDE * SIDE, IMAGES = 5, CLASSES = 3 };

static uint8_t pixels[IMAGES * PIXELS];
static const uint8_t labels[IMAGES] = {2, 0, 1, 2, 0};
static const char *const names[CLASSES] = {"circle", "square", "triangle"};
static const tb_serve_samples samples = {IMAGES, SIDE, SIDE, CLASSES, pixels, labels, names};

static void start(live *l)
{
    tb_serve_config config = {.samples = &samples, .limits = {.drain_delay_ms = 1}};
    for (int i = 0; i < IMAGES * PIXELS; i++) pixels[i] = (uint8_t)(i * 37 % 251);
    live_start_with(l, &config);
    wait_ready(l);
}

static void the_page_uses_nothing_from_elsewhere(void **state)
{
    (void)state;
    live l = {.in = PIXELS, .hidden = 8, .out = CLASSES};
    static reply r;
    static const char *const outside[] = {"http:", "https:", "//cdn", "src=", "@import", "url("};
    start(&l);
    assert_int_equal(get(&l, &r, "/"), 200);
    assert_non_null(strstr(r.body, "default-src 'none'"));
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (strstr(r.body, outside[i])) fail_msg("the page has '%s'", outside[i]);
    assert_int_equal(get(&l, &r, "/page/samples"), 200);
    assert_memory_equal(r.body, "TBS1", 4);
    assert_int_equal(r.body_bytes, 20 + strlen("circle\nsquare\ntriangle\n") + IMAGES + sizeof pixels);
    live_stop(&l);
}

/* What the model says of the first image, scaled as the page does for a model of floats. */
static int class_of_first(const live *l, reply *r)
{
    static char body[1 << 16];
    size_t n = (size_t)snprintf(body, sizeof body, "{\"data\":[");
    for (int i = 0; i < PIXELS; i++)
        n += (size_t)snprintf(body + n, sizeof body - n, "%s%.17g", i ? "," : "", pixels[i] / 255.0);
    snprintf(body + n, sizeof body - n, "]}");
    assert_int_equal(post(l, r, "/v1/predict", body), 200);
    char *at = strchr(r->body, '[');
    int best = 0;
    float most = 0;
    for (int k = 0; k < CLASSES; k++) {
        at += strspn(at, "[,");
        float x = strtof(at, &at);
        if (k == 0 || x > most) best = k, most = x;
    }
    return best;
}

static void a_browser_shows_the_prediction(void **state)
{
    (void)state;
    if (!getenv("TB_TEST_FULL") || system("command -v chromium >/dev/null") != 0) {
        print_message("SKIPPED: a browser is asked for by scripts/dev test --full, which installs chromium\n");
        skip();
    }
    live l = {.in = PIXELS, .hidden = 8, .out = CLASSES};
    static reply r;
    static char dom[1 << 18], expected[64], command[512];
    start(&l);
    snprintf(expected, sizeof expected, "id=\"answer\">%s<span", names[class_of_first(&l, &r)]);
    snprintf(command, sizeof command,
             "timeout 60 chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage "
             "--virtual-time-budget=5000 --dump-dom http://127.0.0.1:%d/ 2>/dev/null",
             l.port);
    FILE *browser = popen(command, "r");
    assert_non_null(browser);
    size_t n = fread(dom, 1, sizeof dom - 1, browser);
    assert_int_equal(pclose(browser), 0);
    dom[n] = 0;
    const char *body = strstr(dom, "<main>");
    assert_non_null(body);
    if (!strstr(body, expected)) fail_msg("no %s in the page:\n%.3000s", expected, body);
    assert_non_null(strstr(body, "class=\"bar best\""));
    assert_non_null(strstr(body, "batch of 1."));
    live_stop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_uses_nothing_from_elsewhere),
        cmocka_unit_test(a_browser_shows_the_prediction),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
