/* Batches, deadlines, overload: what happens when requests meet; also run under ThreadSanitizer. */
#include "live_server.h"
#include "batcher.h"

enum { CLIENTS = 24 };

static void send_predict(int fd, const float *x, const char *headers)
{
    char text[512], body[128];
    int b = snprintf(body, sizeof body, "{\"data\":[%.9g,%.9g,%.9g,%.9g]}", (double)x[0], (double)x[1],
                     (double)x[2], (double)x[3]);
    int n =
        snprintf(text, sizeof text, "POST /v1/predict HTTP/1.1\r\nHost: t\r\n%sContent-Length: %d\r\n\r\n%s",
                 headers, b, body);
    assert_true(send_all(fd, text, (size_t)n));
}

static void expect_answer(const live *l, const reply *r, const float *x)
{
    float want[3];
    const char *at = strchr(r->body, '[');
    live_expect(l, "1", x, want);
    for (int k = 0; k < 3; k++) {
        char *end;
        float got = strtof(at + 1, &end);
        assert_memory_equal(&got, &want[k], sizeof got);
        at = end;
    }
}

/* Requests that arrive while a batch runs share the next one; each gets its own row's answer, to the bit. */
static void requests_that_meet_share_a_batch(void **state)
{
    (void)state;
    for (int mode = TB_SERVE_LOOP; mode <= TB_SERVE_WORKER; mode++) {
        live l = {.max_batch = 8, .delay_us = 1000}; /* whatever else runs here: eight rows are the best batch */
        tb_serve_config config = {.mode = (tb_serve_mode)mode, .limits = {.drain_delay_ms = 1}};
        static reply r;
        int fd[CLIENTS], sizes[9] = {0};
        float x[CLIENTS][4];
        live_start_with(&l, &config);
        wait_ready(&l);
        for (int i = 0; i < CLIENTS; i++) {
            for (int k = 0; k < 4; k++) x[i][k] = (float)tb_random_normal(1, 9, (uint64_t)(i * 4 + k));
            if (i == 0) live_hold(&l);
            fd[i] = dial(&l);
            send_predict(fd[i], x[i], "");
            if (i == 0) await_stopped(&l);
        }
        if (mode == TB_SERVE_WORKER) await_queue(&l, CLIENTS - 1);
        live_release(&l);
        for (int i = 0; i < CLIENTS; i++) {
            assert_int_equal(read_reply(fd[i], &r), 200);
            expect_answer(&l, &r, x[i]);
            sizes[atoi(reply_header(&r, "X-Batch-Size"))]++;
            close(fd[i]);
        }
        if (sizes[8] < 8)
            fail_msg("mode %d: only %d of %d requests ran in full batches", mode, sizes[8], CLIENTS);
        live_stop(&l);
    }
}

static void health_is_answered_while_a_worker_computes(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1}};
    static reply r;
    float x[4] = {1, 2, 3, 4};
    live_start_with(&l, &config);
    wait_ready(&l);
    int fd = dial(&l);
    live_hold(&l);
    send_predict(fd, x, "");
    await_stopped(&l);
    assert_int_equal(get(&l, &r, "/v2/health/live"), 200);
    assert_int_equal(get(&l, &r, "/metrics"), 200);
    live_release(&l);
    assert_int_equal(read_reply(fd, &r), 200);
    expect_answer(&l, &r, x);
    close(fd);
    live_stop(&l);
}

/* A fast model runs in the loop, one whose row costs many hand-overs by workers; `config` tells what was measured. */
static void the_mode_follows_from_measured_times(void **state)
{
    (void)state;
    for (int slow = 0; slow < 2; slow++) {
        live l = {.delay_us = slow ? 20000 : 0, .max_batch = 2};
        static reply r;
        live_start(&l);
        assert_int_equal(get(&l, &r, "/v2/models/mlp/config"), 200);
        assert_non_null(strstr(r.body, slow ? "\"mode\":\"worker\",\"workers\":1" : "\"mode\":\"loop\",\"workers\":0"));
        double handover_ns = json_field(r.body, "handover_ns"), row_ns = json_field(strstr(r.body, "batch_ns"), "ns");
        assert_true(handover_ns > 0 && row_ns > 0);
        assert_true((row_ns > TBI_SLOW_MODEL * handover_ns) == slow);
        live_stop(&l);
    }
}

static void what_cannot_be_in_time_is_refused_at_once(void **state)
{
    (void)state;
    live l = {.delay_us = 100000, .max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1}};
    static reply r;
    float x[4] = {1, 2, 3, 4};
    live_start_with(&l, &config);
    wait_ready(&l);
    int fd = dial(&l);
    send_predict(fd, x, "X-Request-Timeout-Ms: 20\r\n"); /* one run takes 100 ms */
    assert_int_equal(read_reply(fd, &r), 503);
    assert_true(has_code(&r, "deadline_unattainable"));
    assert_non_null(reply_header(&r, "Retry-After"));
    static const char body[] = "{\"parameters\":{\"timeout\":20000},\"inputs\":[{\"name\":\"x\",\"shape\":[1,"
                               "4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}";
    assert_int_equal(request(fd, &r, "POST", "/v2/models/mlp/infer", "", body, strlen(body)), 503);
    assert_true(has_code(&r, "deadline_unattainable"));
    assert_int_equal(request(fd, &r, "GET", "/v2/models/mlp/stats", "", NULL, 0), 200);
    assert_int_equal((int)json_field(r.body, "execution_count"), 0); /* nothing was computed for them */
    close(fd);
    live_stop(&l);
}

static void what_became_late_is_told_504(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1}};
    static reply r;
    float x[4] = {1, 2, 3, 4};
    live_start_with(&l, &config);
    wait_ready(&l);
    int fd[2] = {dial(&l), dial(&l)};
    live_hold(&l);
    send_predict(fd[0], x, "");
    await_stopped(&l);
    send_predict(fd[1], x, "X-Request-Timeout-Ms: 500\r\n");
    assert_int_equal(read_reply(fd[1], &r), 504);
    assert_true(has_code(&r, "deadline_expired"));
    live_release(&l);
    assert_int_equal(read_reply(fd[0], &r), 200);
    close(fd[0]);
    close(fd[1]);
    live_stop(&l);
}

static void a_full_queue_refuses_with_503_and_keeps_what_it_has(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1, .queue_rows = 4}};
    static reply r;
    int fd[CLIENTS], ok = 0, refused = 0;
    float x[4] = {1, 2, 3, 4};
    live_start_with(&l, &config);
    wait_ready(&l);
    live_hold(&l);
    send_predict(fd[0] = dial(&l), x, "");
    await_stopped(&l);
    for (int i = 1; i < CLIENTS; i++) send_predict(fd[i] = dial(&l), x, "");
    for (int i = CLIENTS - 1; i >= 0; i--) { /* one runs, four wait: the last ones are answered while it is held */
        if (i == 4) live_release(&l);
        int status = read_reply(fd[i], &r);
        if (status == 200) ok++, expect_answer(&l, &r, x);
        else {
            refused++;
            assert_int_equal(status, 503);
            assert_true(has_code(&r, "queue_full"));
            assert_true(atoi(reply_header(&r, "Retry-After")) >= 1);
        }
        close(fd[i]);
    }
    assert_int_equal(ok, 5);
    assert_int_equal(refused, CLIENTS - 5);
    live_stop(&l);
}

static void a_quota_refuses_with_429(void **state)
{
    (void)state;
    live l = {0};
    tb_serve_config config = {.limits = {.drain_delay_ms = 1, .quota_per_s = 1}};
    static reply r;
    live_start_with(&l, &config);
    wait_ready(&l);
    int ok = 0, over = 0;
    for (int i = 0; i < 20; i++) {
        int status = post(&l, &r, "/v1/predict", "{\"data\":[1,2,3,4]}");
        ok += status == 200;
        over += status == 429 && has_code(&r, "quota_exceeded") && reply_header(&r, "Retry-After");
    }
    assert_int_equal(ok + over, 20);
    assert_true(ok >= 1 && over >= 1);
    live_stop(&l);
}

static void a_client_that_leaves_is_not_computed_for(void **state)
{
    (void)state;
    live l = {.max_batch = 1};
    tb_serve_config config = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1}};
    static reply r;
    float x[4] = {1, 2, 3, 4};
    live_start_with(&l, &config);
    wait_ready(&l);
    int first = dial(&l), gone[3];
    live_hold(&l);
    send_predict(first, x, "");
    await_stopped(&l);
    for (int i = 0; i < 3; i++) send_predict(gone[i] = dial(&l), x, "");
    await_queue(&l, 3);
    for (int i = 0; i < 3; i++) { /* one by FIN, two by RST */
        struct linger now = {.l_onoff = i > 0};
        setsockopt(gone[i], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close(gone[i]);
    }
    await_queue(&l, 0);
    live_release(&l);
    assert_int_equal(read_reply(first, &r), 200);
    close(first);
    assert_int_equal(get(&l, &r, "/v2/models/mlp/stats"), 200);
    assert_int_equal((int)json_field(r.body, "execution_count"), 1);
    live_stop(&l);
}

/* ---- the choice of the batch, alone ---- */

static void the_plan_follows_the_measured_times(void **state)
{
    (void)state;
    tb_serve_model model = {.max_batch = 16};
    tbi_batcher b = {.model = &model,
                     .sizes = {1, 2, 4, 8, 16},
                     .n_sizes = 5,
                     .cost_ns = {9000, 52000, 41000, 60000, 96000}};
    assert_int_equal(tbi_batcher_plan(&b, 1, 0, INT64_MAX), 1);
    assert_int_equal(tbi_batcher_plan(&b, 2, 0, INT64_MAX), 1);  /* two together cost more than twice one */
    assert_int_equal(tbi_batcher_plan(&b, 8, 0, INT64_MAX), 8);
    assert_int_equal(tbi_batcher_plan(&b, 16, 0, INT64_MAX), 16);
    assert_int_equal(tbi_batcher_plan(&b, 100, 0, INT64_MAX), 16);
    assert_int_equal(tbi_batcher_plan(&b, 16, 0, 70000), 8);     /* 16 rows would be late */
    assert_int_equal(tbi_batcher_plan(&b, 16, 0, 1000), 1);      /* all would be late: the least */
    assert_int_equal(tbi_batcher_cost(&b, 12), 78000);           /* between 8 and 16 */
}

typedef struct outcome {
    int answered, rows[20];
} outcome;

static void note_outcome(void *arg, tbi_request *r, const tbi_fault *fault, const void *const *out)
{
    outcome *o = arg;
    if (fault->code || !out) return;
    o->rows[o->answered++] = r->batch_rows;
}

/* A batch of any size takes 100 ms by the table. Sixteen wait, the oldest with 50 ms left, the rest with plenty: the
 * oldest is lost, and no small batch is run for it. */
static void under_pressure_the_many_are_not_lost_for_the_oldest(void **state)
{
    (void)state;
    mlp *m = mlp_make("mlp", "1", 4, 8, 3, 16);
    tbi_batcher *b;
    tbi_request r[16];
    tbi_rows in = {0};
    tbi_fault fault = {0};
    outcome o = {0};
    assert_ok(tbi_batcher_create(&m->base, TB_SERVE_LOOP, 1, 64, &b));
    for (int i = 0; i < b->n_sizes; i++) b->cost_ns[i] = 100000000;
    b->row_ns = 1;
    b->finish = note_outcome;
    b->finish_arg = &o;
    assert_true(tbi_rows_reserve(&in, 4 * sizeof(float)));
    memset(in.data, 0, 4 * sizeof(float));
    int64_t now = tb_now_ns();
    for (int i = 0; i < 16; i++) {
        r[i] = (tbi_request){.rows = 1, .in = &in, .deadline_ns = INT64_MAX};
        assert_true(tbi_batcher_admit(b, &r[i], now, &fault));
        r[i].deadline_ns = now + (i == 0 ? 50000000 : 10000000000);
    }
    tbi_batcher_step(b, 0);
    assert_int_equal(o.answered, 15);
    for (int i = 0; i < 15; i++) assert_int_equal(o.rows[i], 15);
    assert_true(r[0].queued);
    tbi_batcher_cancel(b, &r[0]);
    tbi_batcher_destroy(b);
    tb_free(in.data);
    m->base.destroy(&m->base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_that_meet_share_a_batch),
        cmocka_unit_test(health_is_answered_while_a_worker_computes),
        cmocka_unit_test(the_mode_follows_from_measured_times),
        cmocka_unit_test(what_cannot_be_in_time_is_refused_at_once),
        cmocka_unit_test(what_became_late_is_told_504),
        cmocka_unit_test(a_full_queue_refuses_with_503_and_keeps_what_it_has),
        cmocka_unit_test(a_quota_refuses_with_429),
        cmocka_unit_test(a_client_that_leaves_is_not_computed_for),
        cmocka_unit_test(the_plan_follows_the_measured_times),
        cmocka_unit_test(under_pressure_the_many_are_not_lost_for_the_oldest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
