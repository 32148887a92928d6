/* Text token by token: whole and streamed, in any company, stopped, late, abandoned, drained; also run under
 * ThreadSanitizer. */
#include "live_server.h"

static const char path[] = "/v2/models/mlp/generate", stream_path[] = "/v2/models/mlp/generate_stream";

static void start(live *l, tb_serve_mode mode, int max_batch)
{
    tb_serve_config config = {.mode = mode, .limits = {.drain_delay_ms = 1}};
    if (!l->step_tokens) l->step_tokens = 64;
    l->max_batch = max_batch;
    live_start_with(l, &config);
    wait_ready(l);
}

static int ask_for(int fd, reply *r, const char *where, const char *text, const char *parameters)
{
    char body[1024];
    int n = snprintf(body, sizeof body, "{\"text_input\":\"%s\",\"parameters\":{%s}}", text, parameters);
    return request(fd, r, "POST", where, "", body, (size_t)n);
}

static int ask(const live *l, reply *r, const char *text, const char *parameters)
{
    int fd = dial(l), status = ask_for(fd, r, path, text, parameters);
    close(fd);
    return status;
}

/* One chunk of a chunked body into `to`; 0: the last one. */
static size_t read_chunk(int fd, char *to, size_t room)
{
    char line[32];
    size_t n = 0, got = 0;
    while (n < sizeof line - 1 && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n') n++;
    line[n] = 0;
    size_t want = strtoul(line, NULL, 16) + 2; /* and CR LF */
    assert_true(want <= room);
    while (got < want) {
        ssize_t k = recv(fd, to + got, want - got, 0);
        if (k <= 0) fail_msg("the stream broke off");
        got += (size_t)k;
    }
    to[want - 2] = 0;
    return want - 2;
}

typedef struct stream {
    int n;                /* tokens */
    uint8_t tokens[512];
    char last[512];       /* the last event but [DONE] */
    bool is_done;
} stream;

/* Reads events to the end of the body. */
static void read_stream(int fd, stream *s)
{
    static _Thread_local char text[1 << 16];
    size_t n = 0, k;
    *s = (stream){0};
    while ((k = read_chunk(fd, text + n, sizeof text - n)) > 0) n += k;
    for (char *at = text, *end; (end = strstr(at, "\n\n")); at = end + 2) {
        *end = 0;
        assert_memory_equal(at, "data: ", 6);
        if (strcmp(at, "data: [DONE]") == 0) {
            s->is_done = true;
            continue;
        }
        snprintf(s->last, sizeof s->last, "%.*s", (int)sizeof s->last - 1, at);
        if (json_field(at, "token") >= 0) s->tokens[s->n++] = (uint8_t)json_field(at, "token");
    }
}

static void a_stream_holds_the_tokens_that_the_model_gives(void **state)
{
    (void)state;
    static reply r;
    static stream s;
    uint8_t want[20];
    step_expect("Once", 20, want);
    for (int worker = 0; worker < 2; worker++) {
        live l = {0};
        start(&l, worker ? TB_SERVE_WORKER : TB_SERVE_LOOP, 4);
        int fd = dial(&l);
        for (int i = 0; i < 2; i++) { /* a connection is kept */
            assert_int_equal(ask_for(fd, &r, stream_path, "Once", "\"max_tokens\":20"), 200);
            assert_string_equal(reply_header(&r, "Content-Type"), "text/event-stream");
            assert_string_equal(reply_header(&r, "Transfer-Encoding"), "chunked");
            read_stream(fd, &s);
            assert_int_equal(s.n, 20);
            assert_memory_equal(s.tokens, want, 20);
            assert_true(s.is_done);
            assert_non_null(strstr(s.last, "\"tokens\":20,\"finish_reason\":\"length\""));
        }
        assert_int_equal(ask_for(fd, &r, path, "Once", "\"max_tokens\":20"), 200);
        assert_int_equal((int)json_field(r.body, "tokens"), 20);
        close(fd);
        assert_int_equal(get(&l, &r, "/metrics"), 200);
        assert_non_null(strstr(r.body, "tensorbrain_generations_total 3\n"));
        assert_non_null(strstr(r.body, "tensorbrain_generated_tokens_total 60\n"));
        assert_non_null(strstr(r.body, "tensorbrain_first_token_seconds_count 3\n"));
        live_stop(&l);
    }
}

static void the_whole_text_is_the_streamed_one(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    static stream s;
    char text[64 * 6 + 1] = "", want[512];
    start(&l, TB_SERVE_LOOP, 4);
    int fd = dial(&l);
    assert_int_equal(ask_for(fd, &r, stream_path, "x", "\"temperature\":1.5,\"seed\":7,\"max_tokens\":30"), 200);
    read_stream(fd, &s);
    for (int i = 0; i < s.n; i++) { /* tokens below 100 as JSON writes them */
        char one[8];
        uint8_t c = s.tokens[i];
        const char *named = c == '\n' ? "\\n" : c == '\t' ? "\\t" : c == '\r' ? "\\r" : c == '\b' ? "\\b"
                          : c == '\f' ? "\\f" : c == '"' ? "\\\"" : c == '\\' ? "\\\\" : NULL;
        if (named) snprintf(one, sizeof one, "%s", named);
        else snprintf(one, sizeof one, c < 0x20 ? "\\u%04x" : "%c", c);
        strcat(text, one);
    }
    snprintf(want, sizeof want, "\"text_output\":\"%s\",\"tokens\":30", text);
    assert_int_equal(ask(&l, &r, "x", "\"temperature\":1.5,\"seed\":7,\"max_tokens\":30"), 200);
    if (!strstr(r.body, want)) fail_msg("%s\nis not in\n%s", want, r.body);
    char again[1024];
    snprintf(again, sizeof again, "%s", r.body);
    assert_int_equal(ask(&l, &r, "x", "\"temperature\":1.5,\"seed\":8,\"max_tokens\":30"), 200);
    assert_string_not_equal(r.body, again);
    close(fd);
    live_stop(&l);
}

/* The first text makes its place grow; those after it ask the engine's heap for nothing, streamed or whole. */
static void texts_allocate_nothing_in_steady_state(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    static stream s;
    uint64_t before = 0;
    start(&l, TB_SERVE_LOOP, 4);
    int fd = dial(&l);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(ask_for(fd, &r, stream_path, "Once", "\"max_tokens\":40"), 200);
        read_stream(fd, &s);
        assert_int_equal(s.n, 40);
        assert_int_equal(ask_for(fd, &r, path, "Once", "\"max_tokens\":40"), 200);
        uint64_t now = allocations(fd, &r);
        if (i > 1) assert_int_equal(now, before);
        before = now;
    }
    close(fd);
    live_stop(&l);
}

/* ---- many at once ---- */
enum { WRITERS = 12, TEXTS = 6 };

typedef struct writer {
    const live *l;
    pthread_t thread;
    int number, wrong;
} writer;

static int length_of(int number, int i) { return 1 + (number * 7 + i * 5) % 40; }

static void *write_texts(void *arg)
{
    writer *w = arg;
    reply *r = malloc(sizeof *r);
    stream *s = malloc(sizeof *s);
    for (int i = 0; i < TEXTS; i++) {
        char text[32], parameters[64];
        uint8_t want[64];
        int n = length_of(w->number, i), fd = dial(w->l);
        snprintf(text, sizeof text, "%.*s%d", 1 + (w->number + i) % 10, "abcdefghijk", w->number);
        snprintf(parameters, sizeof parameters, "\"max_tokens\":%d", n);
        step_expect(text, n, want);
        int status = ask_for(fd, r, stream_path, text, parameters);
        if (status == 200) read_stream(fd, s);
        w->wrong += status != 200 || s->n != n || memcmp(s->tokens, want, (size_t)n) != 0 || !s->is_done;
        close(fd);
    }
    free(s);
    free(r);
    return NULL;
}

static void texts_are_the_same_in_any_company(void **state)
{
    (void)state;
    for (int worker = 0; worker < 2; worker++) {
        live l = {.delay_us = 500}; /* so that they meet */
        static reply r;
        writer w[WRITERS];
        start(&l, worker ? TB_SERVE_WORKER : TB_SERVE_LOOP, 5);
        for (int i = 0; i < WRITERS; i++) {
            w[i] = (writer){.l = &l, .number = i};
            assert_int_equal(pthread_create(&w[i].thread, NULL, write_texts, &w[i]), 0);
        }
        for (int i = 0; i < WRITERS; i++) {
            pthread_join(w[i].thread, NULL);
            assert_int_equal(w[i].wrong, 0);
        }
        assert_int_equal(get(&l, &r, "/metrics"), 200);
        int sizes = 0;
        for (int rows = 1; rows <= 5; rows++) {
            char line[96];
            snprintf(line, sizeof line, "tensorbrain_batches_total{model=\"mlp\",version=\"1\",rows=\"%d\"}", rows);
            sizes += strstr(r.body, line) != NULL;
        }
        if (sizes < 3) fail_msg("the texts did not meet:\n%s", strstr(r.body, "tensorbrain_batches_total"));
        live_stop(&l);
    }
}

/* ---- ends ---- */
static void a_text_ends_behind_its_stop(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    static stream s;
    uint8_t text[40];
    char parameters[96];
    int at = 5;
    start(&l, TB_SERVE_LOOP, 4);
    step_expect("stop here", 40, text);
    while (at < 38 && !(text[at] >= '0' && text[at] <= '9')) at++; /* a digit stands without an escape */
    snprintf(parameters, sizeof parameters, "\"stop\":\"%c\"", text[at]);
    int first = 0, fd = dial(&l);
    while (text[first] != text[at]) first++;
    assert_int_equal(ask_for(fd, &r, stream_path, "stop here", parameters), 200);
    read_stream(fd, &s);
    assert_int_equal(s.n, first + 1);
    assert_non_null(strstr(s.last, "\"finish_reason\":\"stop\""));
    close(fd);
    live_stop(&l);
}

static void what_cannot_be_generated_is_refused(void **state)
{
    (void)state;
    live l = {.step_tokens = 16};
    static reply r;
    static const struct {
        const char *body, *code;
        int status;
    } bad[] = {
        {"", "malformed_json", 400},
        {"[]", "bad_request", 400},
        {"{}", "bad_request", 400},
        {"{\"text_input\":\"\"}", "bad_request", 400},
        {"{\"text_input\":7}", "bad_request", 400},
        {"{\"text_input\":\"a\",\"text_input\":\"b\"}", "malformed_json", 400},
        {"{\"text_input\":\"a\",\"n\":2}", "bad_request", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"top_k\":2}}", "bad_request", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":0}}", "number_range", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":1.5}}", "number_range", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":-1}}", "number_range", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":99999999999999999999}}", "number_range", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":17}}", "bad_request", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"temperature\":-1}}", "number_range", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"temperature\":1e9}}", "number_range", 400},
        {"{\"text_input\":\"a\",\"parameters\":{\"seed\":\"x\"}}", "bad_request", 400},
        {"{\"text_input\":\"seventeen letters\"}", "bad_request", 400},
        {"{\"text_input\":\"a\\ud800\"}", "bad_utf8", 400},
        {"{\"text_input\":\"a\"", "malformed_json", 400},
        {"{\"text_input\":\"a\"}{", "malformed_json", 400},
    };
    start(&l, TB_SERVE_LOOP, 4);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int streamed = 0; streamed < 2; streamed++) {
            assert_int_equal(post(&l, &r, streamed ? stream_path : path, bad[i].body), bad[i].status);
            if (!has_code(&r, bad[i].code)) fail_msg("%s: %s", bad[i].body, r.body);
        }
    assert_int_equal(get(&l, &r, path), 405);
    assert_int_equal(post(&l, &r, "/v2/models/other/generate", "{\"text_input\":\"a\"}"), 404);
    assert_int_equal(post(&l, &r, "/v2/models/mlp/infer", "{}"), 400);
    assert_non_null(strstr(r.body, "generates text"));
    assert_int_equal(ask(&l, &r, "sixteen letters!", ""), 200); /* the cache is full, one token still fits */
    assert_int_equal((int)json_field(r.body, "tokens"), 1);
    live_stop(&l);
    l = (live){0};
    live_start(&l);
    assert_int_equal(post(&l, &r, path, "{\"text_input\":\"a\"}"), 400);
    assert_non_null(strstr(r.body, "does not generate"));
    live_stop(&l);
}

static void a_deadline_ends_a_text_and_one_that_waits(void **state)
{
    (void)state;
    for (int worker = 0; worker < 2; worker++) {
        live l = {.delay_us = 10000};
        static reply r;
        static stream s;
        start(&l, worker ? TB_SERVE_WORKER : TB_SERVE_LOOP, 1);
        int fd = dial(&l), waiting = dial(&l);
        assert_int_equal(ask_for(fd, &r, stream_path, "a", "\"timeout\":400000"), 200);
        assert_int_equal(ask_for(waiting, &r, path, "b", "\"timeout\":30000"), 503); /* 60 tokens are before it */
        assert_true(has_code(&r, "deadline_unattainable"));
        assert_non_null(reply_header(&r, "Retry-After"));
        read_stream(fd, &s);
        assert_true(s.n > 3 && s.n < 50 && !s.is_done);
        assert_non_null(strstr(s.last, "\"code\":\"deadline_expired\",\"status\":504"));
        assert_int_equal(ask_for(waiting, &r, path, "c", "\"timeout\":50000"), 504);
        assert_true(has_code(&r, "deadline_expired"));
        assert_int_equal(ask_for(waiting, &r, path, "c", "\"max_tokens\":2"), 200);
        close(fd);
        close(waiting);
        live_stop(&l);
    }
}

static void a_client_that_leaves_frees_its_slot(void **state)
{
    (void)state;
    for (int worker = 0; worker < 2; worker++) {
        live l = {.delay_us = 5000, .step_tokens = 256};
        static reply r;
        start(&l, worker ? TB_SERVE_WORKER : TB_SERVE_LOOP, 1);
        int fd = dial(&l);
        assert_int_equal(ask_for(fd, &r, stream_path, "a", ""), 200);
        close(fd); /* of 256 tokens hardly any have been written */
        assert_int_equal(ask(&l, &r, "b", "\"max_tokens\":2"), 200);
        assert_int_equal(get(&l, &r, "/metrics"), 200);
        assert_non_null(strstr(r.body, "tensorbrain_generations_total 1\n")); /* the other one never ended */
        live_stop(&l);
    }
}

static void the_queue_is_bounded(void **state)
{
    (void)state;
    live l = {.delay_us = 20000};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1, .queue_rows = 2}};
    static reply r;
    char body[] = "{\"text_input\":\"a\",\"parameters\":{\"max_tokens\":9}}", head[160];
    int fd[4], full = 0;
    l.step_tokens = 64;
    l.max_batch = 1;
    live_start_with(&l, &config);
    wait_ready(&l);
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body),
             body);
    for (int i = 0; i < 4; i++) {
        assert_true(send_all(fd[i] = dial(&l), head, strlen(head)));
        usleep(5000);
    }
    for (int i = 0; i < 4; i++) {
        int status = read_reply(fd[i], &r);
        if (status == 503 && has_code(&r, "queue_full") && reply_header(&r, "Retry-After")) full++;
        else assert_int_equal(status, 200);
        close(fd[i]);
    }
    assert_int_equal(full, 1);
    live_stop(&l);
}

static void a_drain_and_a_reload_let_a_text_end(void **state)
{
    (void)state;
    live l = {.delay_us = 5000};
    static reply r;
    static stream s;
    start(&l, TB_SERVE_WORKER, 2);
    for (int drains = 0; drains < 2; drains++) {
        int fd = dial(&l);
        assert_int_equal(ask_for(fd, &r, stream_path, "a", "\"max_tokens\":50"), 200);
        if (drains) tb_server_drain(l.server);
        else {
            live_add_version(&l, "mlp", "2");
            assert_int_equal(post(&l, &r, "/v2/repository/models/mlp/load", ""), 200);
        }
        read_stream(fd, &s);
        assert_int_equal(s.n, 50);
        assert_true(s.is_done);
        assert_non_null(strstr(s.last, drains ? "\"model_version\":\"2\"" : "\"model_version\":\"1\""));
        close(fd);
    }
    if (live_join(&l) != TB_OK) fail_msg("%s", l.run_message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_holds_the_tokens_that_the_model_gives),
        cmocka_unit_test(the_whole_text_is_the_streamed_one),
        cmocka_unit_test(texts_allocate_nothing_in_steady_state),
        cmocka_unit_test(texts_are_the_same_in_any_company),
        cmocka_unit_test(a_text_ends_behind_its_stop),
        cmocka_unit_test(what_cannot_be_generated_is_refused),
        cmocka_unit_test(a_deadline_ends_a_text_and_one_that_waits),
        cmocka_unit_test(a_client_that_leaves_frees_its_slot),
        cmocka_unit_test(the_queue_is_bounded),
        cmocka_unit_test(a_drain_and_a_reload_let_a_text_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
