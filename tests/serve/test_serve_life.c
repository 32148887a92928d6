/* Loading, reloading, draining, slow clients, limits of connections, keys; also run under ThreadSanitizer. */
#include "live_server.h"
#include <signal.h>

static const char predict_request[] =
    "POST /v1/predict HTTP/1.1\r\nHost: t\r\nContent-Length: 18\r\n\r\n{\"data\":[1,2,3,4]}";

/* A thread that asks without pause and counts what went wrong. */
typedef struct asker {
    const live *l;
    pthread_t thread;
    atomic_bool stop;
    atomic_int answered;
    int failed;
    int versions[8];
} asker;

/* Until each has had an answer from now on. */
static void await_answers(const asker *a, int n)
{
    for (int i = 0; i < n; i++) {
        int before = atomic_load(&a[i].answered);
        for (int k = 0; k < 10000 && atomic_load(&a[i].answered) < before + 2; k++) usleep(1000);
        assert_true(atomic_load(&a[i].answered) >= before + 2); /* the first may have been on its way */
    }
}

static void *ask(void *arg)
{
    asker *a = arg;
    reply *r = malloc(sizeof *r);
    int fd = -1;
    while (!atomic_load(&a->stop)) {
        if (fd < 0) fd = dial(a->l);
        int status = request(fd, r, "POST", "/v1/predict", "", "{\"data\":[1,2,3,4]}", 18);
        if (status == 200) {
            a->versions[atoi(reply_header(r, "X-Model-Version")) & 7]++;
            atomic_fetch_add(&a->answered, 1);
        } else {
            a->failed++;
        }
        bool closes = status == 0 || (reply_header(r, "Connection") &&
                                      strcasecmp(reply_header(r, "Connection"), "close") == 0);
        if (closes) {
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0) close(fd);
    free(r);
    return NULL;
}

static void a_reload_under_load_loses_nothing(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    asker askers[4];
    live_start(&l);
    for (int i = 0; i < 4; i++) {
        askers[i] = (asker){.l = &l};
        assert_int_equal(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
    }
    for (int version = 2; version <= 6; version++) {
        char text[8];
        snprintf(text, sizeof text, "%d", version);
        live_add_version(&l, "mlp", text);
        await_answers(askers, 4);
        assert_int_equal(post(&l, &r, "/v2/repository/models/mlp/load", "{}"), 200);
    }
    await_answers(askers, 4);
    int answered = 0, failed = 0, seen[8] = {0};
    for (int i = 0; i < 4; i++) {
        atomic_store(&askers[i].stop, true);
        pthread_join(askers[i].thread, NULL);
        failed += askers[i].failed;
        answered += askers[i].answered;
        for (int v = 0; v < 8; v++) seen[v] += askers[i].versions[v];
    }
    assert_int_equal(failed, 0);
    assert_true(answered >= 2 * 4);
    assert_true(seen[1] > 0 && seen[6] > 0);
    assert_int_equal(get(&l, &r, "/v2/models/mlp"), 200);
    assert_non_null(strstr(r.body, "\"versions\":[\"6\"]"));
    live_stop(&l);
}

static void a_broken_model_is_not_loaded_and_the_old_one_serves_on(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    live_start(&l);
    for (int broken = 1; broken <= 2; broken++) {
        char version[2] = {(char)('1' + broken), 0};
        live_add_version(&l, "mlp", version);
        atomic_store(&l.broken, broken);
        assert_int_equal(post(&l, &r, "/v2/repository/models/mlp/load", ""), 400);
        assert_int_equal(post(&l, &r, "/v2/repository/index", ""), 200);
        assert_non_null(strstr(r.body, "\"version\":\"1\",\"state\":\"READY\""));
        assert_non_null(strstr(r.body, broken == 1 ? "other bits in a batch" : "not finite"));
        assert_int_equal(post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"), 200);
        assert_string_equal(reply_header(&r, "X-Model-Version"), "1");
    }
    atomic_store(&l.broken, 0);
    assert_int_equal(post(&l, &r, "/v2/repository/models/mlp/load", ""), 200);
    assert_int_equal(post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"), 200);
    assert_string_equal(reply_header(&r, "X-Model-Version"), "3");
    live_stop(&l);
}

static void an_unloaded_model_is_gone_and_its_queue_is_answered(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1}};
    static reply r;
    int fd[3];
    live_start_with(&l, &config);
    wait_ready(&l);
    live_hold(&l);
    for (int i = 0; i < 3; i++)
        assert_true(send_all(fd[i] = dial(&l), predict_request, strlen(predict_request)));
    await_queue(&l, 2);
    assert_int_equal(
        post(&l, &r, "/v2/repository/models/mlp/unload", "{\"parameters\":{\"unload_dependents\":false}}"),
        200);
    assert_int_equal(post(&l, &r, "/v2/models/mlp/infer", "{}"), 404);
    assert_true(has_code(&r, "unknown_model"));
    live_release(&l);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_reply(fd[i], &r), 200);
        close(fd[i]);
    }
    for (int i = 0; i < 1000 && atomic_load(&l.destroyed) == 0; i++) usleep(10000);
    assert_int_equal(atomic_load(&l.destroyed), 1);
    live_stop(&l);
}

static void new_models_are_found_and_folders_that_are_none_are_not(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    char path[128];
    live_start(&l);
    live_add_version(&l, "second", "1");
    live_add_version(&l, ".hidden", "1");
    live_add_version(&l, "bad name", "1");
    snprintf(path, sizeof path, "%s/empty", l.dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(post(&l, &r, "/v2/repository/models/second/load", ""), 200);
    assert_int_equal(get(&l, &r, "/v2/models/second/ready"), 200);
    assert_int_equal(post(&l, &r, "/v2/repository/models/empty/load", ""), 400);
    assert_int_equal(post(&l, &r, "/v2/repository/models/.hidden/load", ""), 404);
    assert_int_equal(post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"), 400); /* which of them? */
    assert_true(has_code(&r, "bad_request"));
    live_stop(&l);
}

static void draining_answers_all_that_was_asked(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1500}};
    static reply r;
    int fd[4];
    live_start_with(&l, &config);
    wait_ready(&l);
    int idle = dial(&l);
    live_hold(&l);
    for (int i = 0; i < 4; i++)
        assert_true(send_all(fd[i] = dial(&l), predict_request, strlen(predict_request)));
    await_queue(&l, 3);
    tb_server_drain(l.server);
    for (int i = 0; i < 100 && get(&l, &r, "/v2/health/ready") == 200; i++) usleep(5000);
    assert_int_equal(r.status, 503); /* balancers go elsewhere */
    assert_true(has_code(&r, "draining"));
    assert_int_equal(get(&l, &r, "/v2/health/live"), 200);
    live_release(&l);
    assert_int_equal(post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"),
                     200); /* but who still comes is served */
    assert_string_equal(reply_header(&r, "Connection"), "close");
    for (int i = 0; i < 4; i++) {
        assert_int_equal(read_reply(fd[i], &r), 200);
        close(fd[i]);
    }
    assert_true(peer_closed(idle));
    close(idle);
    if (live_join(&l) != TB_OK) fail_msg("%s", l.run_message);
}

static void draining_under_load_fails_no_request(void **state)
{
    (void)state;
    live l = {0};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1000}};
    asker askers[4];
    live_start_with(&l, &config);
    wait_ready(&l);
    for (int i = 0; i < 4; i++) {
        askers[i] = (asker){.l = &l};
        assert_int_equal(pthread_create(&askers[i].thread, NULL, ask, &askers[i]), 0);
    }
    usleep(100000);
    tb_server_drain(l.server);
    usleep(150000); /* all have been told to close by then; what they dial anew is still served */
    for (int i = 0; i < 4; i++) {
        atomic_store(&askers[i].stop, true);
        pthread_join(askers[i].thread, NULL);
        assert_int_equal(askers[i].failed, 0);
        assert_true(askers[i].answered > 0);
    }
    if (live_join(&l) != TB_OK) fail_msg("%s", l.run_message);
}

static void a_second_call_ends_at_once_and_a_deadline_ends_the_rest(void **state)
{
    (void)state;
    static reply r;
    for (int twice = 0; twice < 2; twice++) {
        live l = {.delay_us = 400000, .max_batch = 1};
        tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1, .drain_ms = 150}};
        int fd[3];
        live_start_with(&l, &config);
        wait_ready(&l);
        for (int i = 0; i < 3; i++)
            assert_true(send_all(fd[i] = dial(&l), predict_request, strlen(predict_request)));
        await_queue(&l, 2);
        int64_t begin = tb_now_ns();
        tb_server_drain(l.server);
        if (twice) tb_server_drain(l.server);
        tb_status st = live_join(&l);
        assert_int_equal(st, twice ? TB_ERR_CANCELLED : TB_ERR_TIMEOUT);
        assert_true(tb_now_ns() - begin < 5000000000); /* of the 10 s that a drain may take */
        for (int i = 0; i < 3; i++) {
            int status = read_reply(fd[i], &r);
            if (!twice) assert_int_equal(status, 503);
            close(fd[i]);
        }
    }
}

static void slow_headers_and_bodies_are_cut(void **state)
{
    (void)state;
    live l = {0};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1, .header_ms = 1000, .body_ms = 1000}};
    static reply r;
    live_start_with(&l, &config);
    wait_ready(&l);
    for (int body = 0; body < 3; body++) {
        /* 0: a first header byte by byte; 1: a body; 2: a second header on a connection that has been served
         */
        int fd = dial(&l), i = 0;
        const char *head = "POST /v1/predict HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n";
        if (body == 1) assert_true(send_all(fd, head, strlen(head)));
        if (body == 2) {
            assert_true(send_all(fd, predict_request, strlen(predict_request)));
            assert_int_equal(read_reply(fd, &r), 200);
            usleep(1100000); /* idle is no sin */
        }
        while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 50) == 0 && i < 100)
            if (!send_all(fd, body == 1 ? " " : &head[i < 8 ? i : 8], 1))
                break; /* a path without an end */
            else i++;
        assert_int_equal(read_reply(fd, &r), 408);
        assert_true(has_code(&r, "slow_request"));
        assert_true(peer_closed(fd));
        close(fd);
    }
    assert_int_equal(post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"), 200);
    live_stop(&l);
}

static void idle_and_half_closed_connections_do_not_stay(void **state)
{
    (void)state;
    live l = {0};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1, .idle_ms = 300}};
    static reply r;
    live_start_with(&l, &config);
    wait_ready(&l);
    int fd = dial(&l);
    assert_int_equal(request(fd, &r, "GET", "/v2", "", NULL, 0), 200);
    assert_true(peer_closed(fd));
    close(fd);
    fd = dial(&l); /* half-closing is no reason not to answer */
    assert_true(send_all(fd, predict_request, strlen(predict_request)));
    shutdown(fd, SHUT_WR);
    assert_int_equal(read_reply(fd, &r), 200);
    assert_true(peer_closed(fd));
    close(fd);
    live_stop(&l);
}

static void too_many_connections_are_told_so(void **state)
{
    (void)state;
    live l = {0};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1, .connections = 20}};
    static reply r;
    int fd[30], refused = 0;
    live_start_with(&l, &config);
    wait_ready(&l);
    int stays = dial(&l); /* and is the only one, once what asked before has left */
    do assert_int_equal(request(stays, &r, "GET", "/metrics", "", NULL, 0), 200);
    while (!strstr(r.body, "\ntensorbrain_open_connections 1\n"));
    for (int i = 0; i < 30; i++) {
        fd[i] = dial(&l);
        (void)!send(fd[i], predict_request, strlen(predict_request), MSG_NOSIGNAL);
    }
    for (int i = 0; i < 30; i++) {
        int status = read_reply(fd[i], &r);
        if (status == 503) refused++, assert_true(has_code(&r, "too_many_connections"));
        else if (status) assert_int_equal(status, 200);
        else refused++; /* a reset may overtake the refusal, since the request was not read */
    }
    assert_int_equal(refused, 11);
    close(stays);
    for (int i = 0; i < 30; i++) close(fd[i]);
    for (int i = 0; i < 1000 && post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}") != 200; i++) usleep(10000);
    assert_int_equal(r.status, 200);
    live_stop(&l);
}

static void connections_come_and_go(void **state)
{
    (void)state;
    live l = {0};
    static reply r;
    int rounds = getenv("TB_TEST_FULL") ? 10000 : 500;
    live_start(&l);
    for (int i = 0; i < rounds; i++) {
        int fd = dial(&l);
        if (i % 3 == 0) (void)!send(fd, predict_request, 10 + (size_t)i % 60, MSG_NOSIGNAL);
        if (i % 4 == 0) {
            struct linger now = {.l_onoff = 1};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        }
        close(fd);
    }
    bool gone = false;
    for (int i = 0; i < 100 && !gone; i++) {
        usleep(30000);
        assert_int_equal(get(&l, &r, "/metrics"), 200);
        gone = strstr(r.body, "\ntensorbrain_open_connections 1\n") != NULL;
    }
    assert_true(gone);
    live_stop(&l);
}

static void a_reader_that_never_reads_holds_nobody_up(void **state)
{
    (void)state;
    live l = {.in = 4, .hidden = 8, .out = 200, .max_batch = 256};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1, .send_ms = 500}};
    static reply r;
    static char body[8192];
    int fd, small = 4096;
    live_start_with(&l, &config);
    wait_ready(&l);
    fd = dial(&l);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    size_t n = (size_t)snprintf(body, sizeof body, "{\"data\":[[1,2,3,4]");
    for (int i = 0; i < 255; i++) n += (size_t)snprintf(body + n, sizeof body - n, ",[1,2,3,4]");
    n += (size_t)snprintf(body + n, sizeof body - n, "]}");
    char head[128];
    snprintf(head, sizeof head, "POST /v1/predict HTTP/1.1\r\nHost: t\r\nContent-Length: %zu\r\n\r\n", n);
    for (int i = 0; i < 12; i++) { /* half a megabyte of reply each */
        if (!send_all(fd, head, strlen(head))) break;
        if (!send_all(fd, body, n)) break;
    }
    for (int i = 0; i < 5; i++) assert_int_equal(post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}"), 200);
    await_metric(&l, "slow_requests_cut_total 1");
    close(fd);
    live_stop(&l);
}

static void a_key_is_wanted_where_one_is_set(void **state)
{
    (void)state;
    live l = {0};
    tb_serve_config config = {.api_key = "0123456789abcdef", .limits = {.drain_delay_ms = 1}};
    static reply r;
    static const struct {
        const char *headers;
        int status;
    } cases[] = {{"", 401},
                 {"Authorization: Bearer 0123456789abcdef\r\n", 200},
                 {"X-Api-Key: 0123456789abcdef\r\n", 200},
                 {"X-Api-Key: 0123456789abcdeF\r\n", 401},
                 {"X-Api-Key: 0123456789abcde\r\n", 401},
                 {"X-Api-Key: 0123456789abcdef0123456789abcdef\r\n", 401},
                 {"X-Api-Key: \r\n", 401},
                 {"Authorization: Basic 0123456789abcdef\r\n", 401},
                 {"X-Api-Key: a\r\nX-Api-Key: 0123456789abcdef\r\n", 400}};
    live_start_with(&l, &config);
    wait_ready(&l); /* health needs none */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = fetch(&l, &r, "POST", "/v1/predict", cases[i].headers, "{\"data\":[1,2,3,4]}", 18);
        if (status != cases[i].status) fail_msg("%s -> %d", cases[i].headers, status);
    }
    assert_int_equal(get(&l, &r, "/metrics"), 401);
    assert_int_equal(get(&l, &r, "/"), 200);
    live_stop(&l);
}

static void unsafe_configurations_do_not_start(void **state)
{
    (void)state;
    tb_server *s;
    tb_serve_config open = {.repository = "/tmp", .bind = "0.0.0.0", .open = live_open};
    assert_fails(tb_server_create(&open, &s), TB_ERR_CONFIG, "API key");
    tb_serve_config weak = {.repository = "/tmp", .api_key = "short", .open = live_open};
    assert_fails(tb_server_create(&weak, &s), TB_ERR_CONFIG, "16 characters");
    tb_serve_config nowhere = {.repository = "/does/not/exist", .open = live_open};
    assert_fails(tb_server_create(&nowhere, &s), TB_ERR_NOT_FOUND, "/does/not/exist");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reload_under_load_loses_nothing),
        cmocka_unit_test(a_broken_model_is_not_loaded_and_the_old_one_serves_on),
        cmocka_unit_test(an_unloaded_model_is_gone_and_its_queue_is_answered),
        cmocka_unit_test(new_models_are_found_and_folders_that_are_none_are_not),
        cmocka_unit_test(draining_answers_all_that_was_asked),
        cmocka_unit_test(draining_under_load_fails_no_request),
        cmocka_unit_test(a_second_call_ends_at_once_and_a_deadline_ends_the_rest),
        cmocka_unit_test(slow_headers_and_bodies_are_cut),
        cmocka_unit_test(idle_and_half_closed_connections_do_not_stay),
        cmocka_unit_test(too_many_connections_are_told_so),
        cmocka_unit_test(connections_come_and_go),
        cmocka_unit_test(a_reader_that_never_reads_holds_nobody_up),
        cmocka_unit_test(a_key_is_wanted_where_one_is_set),
        cmocka_unit_test(unsafe_configurations_do_not_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
