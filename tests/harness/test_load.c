/* The load generator: schedules are what they say, nothing is omitted, answers are compared, lateness voids.
 * Also run under ThreadSanitizer. */
#include "../serve/live_server.h"
#include "storm.h"
#include "target.h"
#include "tb_load.h"
#include <math.h>

static float rows[64][4], answers[64][3];
static tb_load_samples samples;

static tb_load_config config(void)
{
    return (tb_load_config){
        .host = "127.0.0.1", .port = server.port, .connections = 8, .slo_ms = 500, .keep_columns = true};
}

/* ---- schedules ---- */

static int64_t make(const tb_load_schedule *s, int64_t **at)
{
    int64_t n;
    assert_ok(tb_load_schedule_make(s, at, &n));
    for (int64_t i = 1; i < n; i++) assert_true((*at)[i] >= (*at)[i - 1]);
    return n;
}

static void schedules_are_functions_of_their_seed(void **state)
{
    (void)state;
    for (int kind = TB_ARRIVALS_CONSTANT; kind <= TB_ARRIVALS_RAMP; kind++) {
        tb_load_schedule s = {.kind = (tb_arrivals)kind, .rate = 2000, .duration_s = 3, .seed = 5};
        int64_t *a, *b, *c, na = make(&s, &a), nb = make(&s, &b);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, sizeof *a * (size_t)na);
        s.seed = 6;
        int64_t nc = make(&s, &c);
        if (kind != TB_ARRIVALS_CONSTANT) assert_true(nc != na || memcmp(a, c, sizeof *a * (size_t)na) != 0);
        tb_free(a);
        tb_free(b);
        tb_free(c);
    }
}

/* Rate and squared coefficient of variation of the gaps: 0, 1 and 1/shape. */
static void gaps_have_the_moments_of_their_law(void **state)
{
    (void)state;
    static const struct {
        tb_arrivals kind;
        double shape, scv;
    } cases[] = {{TB_ARRIVALS_CONSTANT, 0, 0},
                 {TB_ARRIVALS_POISSON, 0, 1},
                 {TB_ARRIVALS_GAMMA, 0.25, 4},
                 {TB_ARRIVALS_GAMMA, 4, 0.25}};
    for (int k = 0; k < 4; k++) {
        tb_load_schedule s = {
            .kind = cases[k].kind, .rate = 50000, .duration_s = 4, .seed = 1, .shape = cases[k].shape};
        int64_t *at, n = make(&s, &at);
        double mean = (double)at[n - 1] / (double)(n - 1), square = 0;
        for (int64_t i = 1; i < n; i++) square += pow((double)(at[i] - at[i - 1]) / mean - 1, 2);
        assert_true(fabs((double)n / 200000 - 1) < 0.02);
        assert_true(fabs(square / (double)(n - 1) - cases[k].scv) < 0.05 * (1 + cases[k].scv));
        tb_free(at);
    }
}

static void bursts_and_ramps_have_their_rates(void **state)
{
    (void)state;
    int64_t *at, in_burst = 0, first_half = 0;
    tb_load_schedule s = {.kind = TB_ARRIVALS_BURSTS,
                     .rate = 5000,
                     .duration_s = 10,
                     .seed = 1,
                     .factor = 5,
                     .burst_s = 0.2,
                     .period_s = 1};
    int64_t n = make(&s, &at);
    for (int64_t i = 0; i < n; i++) in_burst += at[i] % 1000000000 < 200000000;
    assert_true(fabs((double)in_burst / 50000 - 1) < 0.03);         /* 25000/s in 2 of 10 seconds */
    assert_true(fabs((double)(n - in_burst) / 40000 - 1) < 0.03);   /* 5000/s in the other 8 */
    tb_free(at);
    s.kind = TB_ARRIVALS_RAMP;
    n = make(&s, &at);
    for (int64_t i = 0; i < n; i++) first_half += at[i] < 5000000000;
    assert_true(fabs((double)first_half / (double)n - 0.25) < 0.02);
    tb_free(at);
}

static void a_replay_is_its_file_and_a_bad_file_is_refused(void **state)
{
    (void)state;
    char path[] = "/tmp/tb_replay_XXXXXX";
    int fd = mkstemp(path);
    static const char good[] = "0\n1500\n1500\n2000000\n", bad[] = "0\n5\n4\n";
    assert_int_equal(write(fd, good, strlen(good)), (ssize_t)strlen(good));
    tb_load_schedule s = {.kind = TB_ARRIVALS_REPLAY, .file = path};
    int64_t *at, n = make(&s, &at);
    assert_int_equal(n, 4);
    assert_int_equal(at[3], 2000000);
    tb_free(at);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, bad, strlen(bad), 0), (ssize_t)strlen(bad));
    assert_fails(tb_load_schedule_make(&s, &at, &n), TB_ERR_PARSE, "line 3");
    close(fd);
    unlink(path);
}

/* ---- histogram ---- */

static void quantiles_are_within_a_thousandth(void **state)
{
    (void)state;
    static tb_histogram a, b;
    tb_histogram_clear(&a);
    tb_histogram_clear(&b);
    for (int64_t i = 1; i <= 100000; i++) tb_histogram_add(i % 2 ? &a : &b, i * 1000);
    tb_histogram_merge(&a, &b);
    assert_int_equal(a.count, 100000);
    for (int q = 1; q <= 999; q++) {
        double exact = ceil(q * 1e-3 * 100000 - 1e-9) * 1000,
               got = (double)tb_histogram_quantile(&a, q * 1e-3);
        if (got < exact || got > exact * 1.001 + 1) fail_msg("q %d: %g, not %g", q, got, exact);
    }
    assert_int_equal(tb_histogram_quantile(&a, 1), 100000000);
    tb_histogram_clear(&b);
    assert_int_equal(tb_histogram_quantile(&b, 0.5), 0);
}

/* ---- runs ---- */

static void every_form_is_answered_and_compared(void **state)
{
    (void)state;
    static const char *const paths[] = {"/v1/predict", "/v2/models/mlp/infer", "/v2/models/mlp/infer"};
    for (int form = TB_LOAD_PREDICT; form <= TB_LOAD_BINARY; form++) {
        tb_load_requests *q;
        tb_load_result *r;
        tb_load_config c = config();
        tb_load_schedule s = {.kind = TB_ARRIVALS_POISSON, .rate = 1000, .duration_s = 0.4, .seed = 2};
        assert_ok(tb_load_requests_make(&samples, (tb_load_form)form, "127.0.0.1", paths[form], NULL, &q));
        assert_ok(tb_load_run(&c, &s, q, &r));
        assert_true(r->n > 300 && r->n < 500);
        assert_int_equal(r->ok, r->n);
        assert_int_equal(r->wrong + r->failed + r->refused, 0);
        assert_int_equal(r->latency.count, r->n);
        for (int64_t i = 0; i < r->n; i++) {
            assert_true(r->columns[i].dispatch_ns >= r->columns[i].intended_ns);
            assert_true(r->columns[i].done_ns > r->columns[i].dispatch_ns);
            assert_true(r->columns[i].batch >= 1);
        }
        tb_load_result_free(r);
        tb_load_requests_free(q);
    }
}

static void a_wrong_answer_is_found_down_to_the_last_bit(void **state)
{
    (void)state;
    for (int form = TB_LOAD_PREDICT; form <= TB_LOAD_BINARY; form++) {
        tb_load_requests *q;
        tb_load_result *r;
        tb_load_config c = config();
        tb_load_schedule s = {.kind = TB_ARRIVALS_CONSTANT, .rate = 640, .duration_s = 0.3, .seed = 2};
        uint32_t bits;
        memcpy(&bits, &answers[7][1], 4);
        bits ^= 1;
        memcpy(&answers[7][1], &bits, 4);
        assert_ok(tb_load_requests_make(&samples, (tb_load_form)form, "127.0.0.1",
                                        form == TB_LOAD_PREDICT ? "/v1/predict" : "/v2/models/mlp/infer",
                                        NULL, &q));
        assert_ok(tb_load_run(&c, &s, q, &r));
        assert_int_equal(r->n, 192);
        assert_int_equal(r->wrong, 3); /* sample 7 of 64, three times round */
        assert_int_equal(r->ok, 189);
        assert_true(r->columns[7].wrong && r->columns[71].wrong && !r->columns[8].wrong);
        tb_load_result_free(r);
        tb_load_requests_free(q);
        bits ^= 1;
        memcpy(&answers[7][1], &bits, 4);
    }
}

/* A server that stalls must show in the latency of all that were due meanwhile, although hardly any was sent.
 */
static void a_stall_delays_every_request_that_was_due(void **state)
{
    (void)state;
    live slow = {.delay_us = 100000, .max_batch = 1};
    tb_serve_config serve = {.mode = TB_SERVE_LOOP, .limits = {.drain_delay_ms = 1, .queue_rows = 1000}};
    live_start_with(&slow, &serve);
    wait_ready(&slow);
    tb_load_requests *q;
    tb_load_result *r;
    tb_load_config c = {.host = "127.0.0.1", .port = slow.port, .connections = 1, .timeout_s = 20};
    tb_load_schedule s = {.kind = TB_ARRIVALS_CONSTANT, .rate = 100, .duration_s = 0.2, .seed = 2};
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_ok(tb_load_run(&c, &s, q, &r));
    assert_int_equal(r->ok, 20);
    /* 20 arrivals in 0.2 s, served one every 0.1 s: the last waits 1.8 s for the 19 before it */
    assert_true(tb_histogram_quantile(&r->latency, 1) > 1700000000);
    assert_true(tb_histogram_quantile(&r->service, 0.5) < 600000000); /* what a closed loop would have told */
    assert_true(tb_histogram_quantile(&r->wait, 1) > 1500000000);     /* and not the generator's fault */
    assert_true(tb_histogram_quantile(&r->lag, 0.5) < 50000000);
    tb_load_result_free(r);
    tb_load_requests_free(q);
    live_stop(&slow);
}

static void a_server_that_is_not_there_is_told(void **state)
{
    (void)state;
    tb_load_requests *q;
    tb_load_result *r;
    tb_load_config c = {.host = "127.0.0.1", .port = 1, .connections = 1};
    tb_load_schedule s = {.kind = TB_ARRIVALS_CONSTANT, .rate = 10, .duration_s = 0.2};
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_fails(tb_load_run(&c, &s, q, &r), TB_ERR_IO, "0 of 1 connections");
    tb_load_requests_free(q);
}

static void a_model_that_generates_is_told_from_one_of_rows(void **state)
{
    (void)state;
    live l = {.step_tokens = 64, .max_batch = 2};
    tb_target target;
    char url[64];
    live_start(&l);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", l.port);
    assert_fails(tb_target_open(url, NULL, &target), TB_ERR_UNSUPPORTED, "'mlp' generates text");
    tb_target_close(&target);
    live_stop(&l);
}

static void closing_connections_are_made_anew_without_losing_requests(void **state)
{
    (void)state;
    live few = {.max_batch = 4};
    tb_serve_config serve = {.limits = {.drain_delay_ms = 1, .requests_per_connection = 3}};
    live_start_with(&few, &serve);
    wait_ready(&few);
    tb_load_requests *q;
    tb_load_result *r;
    tb_load_config c = {.host = "127.0.0.1", .port = few.port, .connections = 4};
    tb_load_schedule s = {.kind = TB_ARRIVALS_POISSON, .rate = 600, .duration_s = 0.5, .seed = 4};
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_ok(tb_load_run(&c, &s, q, &r));
    assert_int_equal(r->ok, r->n);
    assert_true(r->reconnects >= r->n / 3 - 8);
    tb_load_result_free(r);
    tb_load_requests_free(q);
    live_stop(&few);
}

typedef struct early_end {
    atomic_bool over;
    pthread_t thread;
} early_end;

static void *end_soon(void *arg)
{
    usleep(100000);
    atomic_store(&((early_end *)arg)->over, true);
    return NULL;
}

static void at_edge(void *arg, bool end)
{
    early_end *e = arg;
    if (!end)
        assert_int_equal(pthread_create(&e->thread, NULL, end_soon, e), 0);
    else
        pthread_join(e->thread, NULL);
}

static void a_closed_loop_that_is_ended_early_counts_its_own_time(void **state)
{
    (void)state;
    tb_load_requests *q;
    tb_load_result *r;
    early_end early = {0};
    tb_load_config c = config();
    tb_load_schedule s = {.kind = TB_ARRIVALS_CLOSED, .duration_s = 20};
    c.until = &early.over;
    c.edge = at_edge;
    c.edge_arg = &early;
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_ok(tb_load_run(&c, &s, q, &r));
    assert_true(r->n > 0);
    assert_int_equal(r->ok, r->n);
    assert_true(r->wall_s < 10);
    assert_true(r->achieved_per_s > 0.9 * (double)r->ok / r->wall_s);
    tb_load_result_free(r);
    tb_load_requests_free(q);
}

/* What was due when it was told to end is answered and counted, what was not is not made. */
static void an_open_loop_that_is_ended_early_reports_what_was_due(void **state)
{
    (void)state;
    tb_load_requests *q;
    tb_load_result *r;
    early_end early = {0};
    tb_load_config c = config();
    tb_load_schedule s = {.kind = TB_ARRIVALS_CONSTANT, .rate = 500, .duration_s = 20};
    c.until = &early.over;
    c.edge = at_edge;
    c.edge_arg = &early;
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_ok(tb_load_run(&c, &s, q, &r));
    assert_int_equal(r->planned, 10000);
    assert_true(r->n >= 40 && r->n < 5000);
    assert_int_equal(r->ok, r->n);
    assert_true(r->columns[r->n - 1].intended_ns >= (r->n - 1) * 2000000 && r->columns[r->n].dispatch_ns < 0);
    assert_true(fabs(r->offered_per_s - 500) < 1);
    assert_true(r->wall_s < 10);
    tb_load_result_free(r);
    tb_load_requests_free(q);
}

static void every_bad_request_of_a_storm_gets_the_answer_it_deserves(void **state)
{
    (void)state;
    tb_storm *storm;
    tb_storm_result bad;
    tb_load_requests *q;
    tb_load_result *r;
    tb_load_config c = config();
    tb_load_schedule s = {.kind = TB_ARRIVALS_POISSON, .rate = 300, .duration_s = 0.6, .seed = 2};
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_ok(tb_storm_start(server.port, 200, &storm));
    assert_ok(tb_load_run(&c, &s, q, &r));
    tb_storm_stop(storm, &bad);
    assert_true(bad.sent >= 16); /* every case at least once */
    if (bad.unexpected) fail_msg("%s", bad.example);
    assert_int_equal(r->ok, r->n); /* and the good ones beside them are answered */
    tb_load_result_free(r);
    tb_load_requests_free(q);
}

/* ---- judgement ---- */

static void objectives_are_read_or_refused(void **state)
{
    (void)state;
    tb_slo slo;
    assert_ok(tb_slo_parse("p99.9:0.5", &slo));
    assert_true(fabs(slo.quantile - 0.999) < 1e-12 && slo.limit_ms == 0.5);
    static const char *const bad[] = {"", "p95", "95:25", "p95:", "p0:1", "p100:1", "p95:-1", "p95:25ms"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(tb_slo_parse(bad[i], &slo), TB_ERR_CONFIG, "p95:25");
}

static void the_rules_void_and_refuse_what_they_must(void **state)
{
    (void)state;
    static tb_load_result r;
    char why[160];
    tb_slo slo = {.quantile = 0.95, .limit_ms = 25};
    tb_histogram_clear(&r.latency);
    for (int i = 0; i < 1000; i++) tb_histogram_add(&r.latency, i < 960 ? 1000000 : 90000000);
    r.n = r.ok = r.answered = 1000;
    r.offered_per_s = r.achieved_per_s = 500;
    r.first_third_p50_ns = r.last_third_p50_ns = 1e6;
    assert_true(tb_slo_holds(&r, &slo, why));
    slo.quantile = 0.97;
    assert_false(tb_slo_holds(&r, &slo, why));
    assert_non_null(strstr(why, "p97 is 9"));
    slo.quantile = 0.95;
    r.ok = 999;
    assert_false(tb_slo_holds(&r, &slo, why));
    r.ok = 1000;
    r.achieved_per_s = 495; /* of 2 s; with 25 ms behind them 494 are due */
    assert_true(tb_slo_holds(&r, &slo, why));
    r.achieved_per_s = 491;
    assert_false(tb_slo_holds(&r, &slo, why));
    assert_non_null(strstr(why, "achieved 491 of 500"));
    r.achieved_per_s = 499;
    r.last_third_p50_ns = 9e6;
    assert_false(tb_slo_holds(&r, &slo, why));
    assert_non_null(strstr(why, "backlog"));
    r.last_third_p50_ns = 1.1e6;
    snprintf(r.void_reason, sizeof r.void_reason, "the generator was late");
    assert_false(tb_slo_holds(&r, &slo, why));
}

static void a_body_without_the_answer_is_wrong(void **state)
{
    (void)state;
    tb_load_requests *q;
    static const char *const bodies[] = {"", "{}", "{\"y\":[]}", "{\"y\":[0,0,0]}"};
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    for (int i = 0; i < 4; i++) assert_false(tb_load_verify(q, 0, bodies[i], strlen(bodies[i]), -1));
    char good[128];
    int n = snprintf(good, sizeof good, "{\"y\":[%.9g,%.9g,%.9g]}", (double)answers[0][0], (double)answers[0][1],
                     (double)answers[0][2]);
    for (int turn = 0; turn < 2; turn++) { /* parsed, then compared as text */
        assert_true(tb_load_verify(q, 0, good, (size_t)n, -1));
        assert_false(tb_load_verify(q, 1, good, (size_t)n, -1));
        assert_false(tb_load_verify(q, 0, good, (size_t)n - 2, -1));
    }
    tb_load_requests_free(q);
}

static void the_search_finds_what_a_slow_server_can_do(void **state)
{
    (void)state;
    live slow = {.delay_us = 10000, .max_batch = 1}; /* about 95 a second at most */
    tb_serve_config serve = {.mode = TB_SERVE_WORKER, .limits = {.drain_delay_ms = 1, .queue_rows = 1000}};
    live_start_with(&slow, &serve);
    wait_ready(&slow);
    tb_load_requests *q;
    tb_slo_result found;
    tb_load_config c = {.host = "127.0.0.1", .port = slow.port, .connections = 32};
    tb_load_schedule s = {.kind = TB_ARRIVALS_CONSTANT, .seed = 1};
    tb_slo slo = {.quantile = 0.95, .limit_ms = 150, .start_rate = 20, .point_s = 0.5, .confirm = 1};
    assert_ok(tb_load_requests_make(&samples, TB_LOAD_PREDICT, "127.0.0.1", "/v1/predict", NULL, &q));
    assert_ok(tb_slo_search(&c, &s, q, &slo, NULL, &found));
    assert_true(found.n >= 1);
    /* On a busy machine no rate may hold: then the search says 0 and why, never a rate that the server cannot do. */
    if (found.rate > 105) fail_msg("found %g a second", found.rate);
    for (int i = 0; i < found.n; i++) assert_true(found.points[i].holds == !*found.points[i].why);
    if (found.rate == 0) assert_false(found.points[found.n - 1].holds);
    tb_load_requests_free(q);
    live_stop(&slow);
}

/* Slots for fewer texts than are asked for at a time, tokens that come one by one and several in a chunk. */
static void streams_are_timed_by_token_and_every_token_is_compared(void **state)
{
    (void)state;
    enum { PROMPTS = 6, BYTES = 5, TOKENS = 20 };
    live text = {.step_tokens = 64, .max_batch = 4};
    uint8_t prompts[PROMPTS][BYTES + 1] = {{0}}, sent[PROMPTS][BYTES], tokens[PROMPTS][TOKENS];
    live_start(&text);
    for (int i = 0; i < PROMPTS; i++) {
        snprintf((char *)prompts[i], BYTES + 1, "ab\"%d ", i);
        memcpy(sent[i], prompts[i], BYTES);
        step_expect((const char *)prompts[i], TOKENS, tokens[i]);
    }
    tb_load_samples s = {
        .n = PROMPTS, .u8 = true, .elements = BYTES, .rows = sent, .n_tokens = TOKENS, .tokens = &tokens[0][0]};
    tb_load_config c = {.host = "127.0.0.1", .port = text.port, .connections = 8, .keep_columns = true};
    for (int closed = 0; closed < 2; closed++)
        for (int spoilt = 0; spoilt < 2; spoilt++) {
            tb_load_requests *q;
            tb_load_result *r;
            tb_load_schedule schedule = {
                .kind = closed ? TB_ARRIVALS_CLOSED : TB_ARRIVALS_POISSON, .rate = 200, .duration_s = 0.3, .seed = 3};
            if (spoilt) tokens[2][TOKENS - 1] ^= 1;
            assert_ok(tb_load_requests_make(&s, TB_LOAD_TEXT, "127.0.0.1", "/v2/models/mlp/generate_stream", NULL, &q));
            assert_ok(tb_load_run(&c, &schedule, q, &r));
            assert_true(r->n >= PROMPTS);
            assert_int_equal(r->answered, r->n);
            assert_int_equal(r->failed, 0);
            assert_int_equal(r->tokens, r->n * TOKENS);
            assert_int_equal(r->first_token.count, r->n);
            assert_int_equal(r->token_gap.count, r->n * (TOKENS - 1));
            assert_int_equal(r->ok + r->wrong, r->n);
            for (int64_t k = 0; k < r->n; k++) assert_int_equal(r->columns[k].wrong, spoilt && k % PROMPTS == 2);
            if (spoilt) tokens[2][TOKENS - 1] ^= 1;
            tb_load_result_free(r);
            tb_load_requests_free(q);
        }
    live_stop(&text);
}

static void the_self_test_reports_both_sides(void **state)
{
    (void)state;
    tb_load_ceiling c;
    assert_ok(tb_load_self_test(4, 500, 0.2, &c));
    assert_true(c.closed_per_s > 100);
    assert_true(c.client_us > 0 && c.server_us > 0);
    assert_true(c.p50_us > 0 && c.p95_us >= c.p50_us);
}

static int setup(void **state)
{
    (void)state;
    live_start(&server);
    for (int i = 0; i < 64; i++) {
        for (int k = 0; k < 4; k++) rows[i][k] = (float)tb_random_normal(3, 1, (uint64_t)(4 * i + k));
        live_expect(&server, "1", rows[i], answers[i]);
    }
    samples = (tb_load_samples){.n = 64,
                                .elements = 4,
                                .rank = 1,
                                .shape = {4},
                                .rows = rows,
                                .answer_elements = 3,
                                .answers = &answers[0][0],
                                .input_name = "x",
                                .output_name = "y"};
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    live_stop(&server);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_are_functions_of_their_seed),
        cmocka_unit_test(gaps_have_the_moments_of_their_law),
        cmocka_unit_test(bursts_and_ramps_have_their_rates),
        cmocka_unit_test(a_replay_is_its_file_and_a_bad_file_is_refused),
        cmocka_unit_test(quantiles_are_within_a_thousandth),
        cmocka_unit_test(every_form_is_answered_and_compared),
        cmocka_unit_test(a_wrong_answer_is_found_down_to_the_last_bit),
        cmocka_unit_test(a_stall_delays_every_request_that_was_due),
        cmocka_unit_test(a_server_that_is_not_there_is_told),
        cmocka_unit_test(a_model_that_generates_is_told_from_one_of_rows),
        cmocka_unit_test(closing_connections_are_made_anew_without_losing_requests),
        cmocka_unit_test(a_closed_loop_that_is_ended_early_counts_its_own_time),
        cmocka_unit_test(an_open_loop_that_is_ended_early_reports_what_was_due),
        cmocka_unit_test(every_bad_request_of_a_storm_gets_the_answer_it_deserves),
        cmocka_unit_test(objectives_are_read_or_refused),
        cmocka_unit_test(the_rules_void_and_refuse_what_they_must),
        cmocka_unit_test(a_body_without_the_answer_is_wrong),
        cmocka_unit_test(the_search_finds_what_a_slow_server_can_do),
        cmocka_unit_test(streams_are_timed_by_token_and_every_token_is_compared),
        cmocka_unit_test(the_self_test_reports_both_sides),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
