/* The built-in page: it needs nothing but this server, and works in a browser (page_in_browser.py). */
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

static void a_browser_draws_picks_and_shows_what_is_live(void **state)
{
    (void)state;
    if (!getenv("TB_TEST_FULL") || system("command -v chromium >/dev/null") != 0) {
        print_message("SKIPPED: a browser is asked for by scripts/dev test --full, which installs chromium\n");
        skip();
    }
    live l = {.in = PIXELS, .hidden = 8, .out = CLASSES};
    static reply r;
    char command[512];
    start(&l);
    snprintf(command, sizeof command,
             "timeout 90 /usr/bin/python3 " TB_SOURCE_DIR "/tests/serve/page_in_browser.py http://127.0.0.1:%d/ %s",
             l.port, names[class_of_first(&l, &r)]);
    assert_int_equal(system(command), 0);
    live_stop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_uses_nothing_from_elsewhere),
        cmocka_unit_test(a_browser_draws_picks_and_shows_what_is_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
