/* The seven scenarios. All samples of an iteration are emitted, whether its run was void or not: the driver's
 * tally of late iterations voids the point. */
#include "serve_scenarios.h"
#include "malloc_count.h"
#include "tb_alloc.h"
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define WARM_S 0.5 /* of a warm-up, at most */

bool tb_scenario_is(const tb_run *run, const char *name)
{
    return strcmp(tb_param_str(run, "scenario"), name) == 0;
}

/* ---- loads ---- */

static tb_load_config target(const tb_run *run, const tb_serve_state *s)
{
    return (tb_load_config){.host = "127.0.0.1",
                            .port = tb_serving_port(s->serving),
                            .slo_ms = s->slo.limit_ms,
                            .connections = (int)tb_param_int(run, "connections")};
}

static tb_status open_loop(const tb_run *run, int64_t i, tb_load_schedule *out)
{
    double seconds = tb_param_num(run, "seconds");
    *out = (tb_load_schedule){.rate = tb_param_num(run, "rate"),
                              .duration_s = i == 0 && seconds > WARM_S ? WARM_S : seconds,
                              .seed = run->seed + (uint64_t)i};
    return tb_arrivals_parse(tb_param_str(run, "arrivals"), &out->kind);
}

static void count(const tb_run *run, tb_serve_state *s, const tb_load_result *r)
{
    s->verified += s->arms ? r->ok : 0;
    s->wrong += r->wrong;
    s->failed += s->may_refuse ? r->failed - r->expired : r->failed + r->refused;
    for (int b = 0; b <= TB_LARGEST_BATCH; b++) s->batches[b] += r->batches[b];
    if (r->void_reason[0]) tb_emit_text(run, "void_reason", r->void_reason);
}

/* A run in which the generator was late is made again, up to twice, every answer of it counted; a third one voids the
 * point. */
static tb_status send(const tb_run *run, tb_serve_state *s, const tb_load_config *c,
                      const tb_load_schedule *schedule, tb_load_result **out)
{
    bool open = schedule->kind != TB_ARRIVALS_CLOSED; /* behind a closed loop the server may be gone */
    for (int i = 0;; i++) {
        int64_t cpu[2] = {0};
        if (open) TB_TRY(tb_serving_cpu_ns(s->serving, &cpu[0]));
        TB_TRY(tb_load_run(c, schedule, s->requests, out));
        if (open) TB_TRY(tb_serving_cpu_ns(s->serving, &cpu[1]));
        s->server_cpu_ns = cpu[1] - cpu[0];
        count(run, s, *out);
        bool is_void = (*out)->void_reason[0] != 0;
        if (is_void && (*out)->answered > 0 && i < 2) {
            tb_load_result_free(*out);
            continue;
        }
        s->late += is_void;
        return TB_OK;
    }
}

static double mean_batch(const tb_load_result *r)
{
    double requests = 0, calls = 0;
    for (int b = 1; b <= TB_LARGEST_BATCH; b++) {
        requests += (double)r->batches[b];
        calls += (double)r->batches[b] / b;
    }
    return calls > 0 ? requests / calls : 0;
}

/* What server and generator together ask for while requests run. The generator asks for nothing then, so that the C
 * library's calls are those of the HTTP library. */
typedef struct asked_memory {
    int64_t engine, mallocs;
} asked_memory;

static void count_asked(void *arg, bool end)
{
    asked_memory *a = arg;
    tb_mem_stats heap;
    tb_heap_stats(tb_heap_process(), &heap);
    int64_t mallocs = tb_malloc_is_counted() ? tb_malloc_calls() : 0;
    a->engine = heap.requests - (end ? a->engine : 0);
    a->mallocs = mallocs - (end ? a->mallocs : 0);
}

static tb_status measure_load(const tb_run *run, tb_serve_state *s, int64_t i)
{
    tb_load_result *r;
    tb_load_schedule schedule;
    tb_load_config c = target(run, s);
    asked_memory asked = {0};
    c.edge = count_asked;
    c.edge_arg = &asked;
    TB_TRY(open_loop(run, i, &schedule));
    TB_TRY(send(run, s, &c, &schedule, &r));
    tb_emit_sample(run, "p50_ms", i, tb_histogram_ms(&r->latency, 0.5));
    tb_emit_sample(run, "p95_ms", i, tb_histogram_ms(&r->latency, 0.95));
    tb_emit_sample(run, "p99_ms", i, tb_histogram_ms(&r->latency, 0.99));
    tb_emit_sample(run, "service_p95_ms", i, tb_histogram_ms(&r->service, 0.95));
    tb_emit_sample(run, "goodput_per_s", i, r->goodput_per_s);
    tb_emit_sample(run, "lag_p99_ms", i, tb_histogram_ms(&r->lag, 0.99));
    if (r->ok > 0) {
        tb_emit_sample(run, "server_us", i, (double)s->server_cpu_ns / 1e3 / (double)r->ok);
        tb_emit_sample(run, "client_us", i, r->generator_cpu * r->wall_s * 1e6 / (double)r->ok);
    }
    if (s->arms) {
        tb_emit_sample(run, "mean_batch", i, mean_batch(r));
        if (tb_malloc_is_counted() && r->answered > 0)
            tb_emit_sample(run, "http_mallocs", i, (double)asked.mallocs / (double)r->answered);
        s->allocations += asked.engine;
    }
    tb_histogram_merge(s->latency, &r->latency);
    tb_histogram_merge(s->service, &r->service);
    tb_load_result_free(r);
    return TB_OK;
}

/* Texts, token by token. Closed: as many at a time as there are connections, whose times to the first token are then
 * those of a full server. */
static tb_status measure_generate(const tb_run *run, tb_serve_state *s, int64_t i)
{
    tb_load_result *r;
    tb_load_schedule schedule;
    tb_load_config c = target(run, s);
    TB_TRY(open_loop(run, i, &schedule));
    TB_TRY(send(run, s, &c, &schedule, &r));
    tb_emit_sample(run, "tokens_per_s", i, (double)r->tokens / r->wall_s);
    tb_emit_sample(run, "first_token_p50_ms", i, tb_histogram_ms(&r->first_token, 0.5));
    tb_emit_sample(run, "first_token_p95_ms", i, tb_histogram_ms(&r->first_token, 0.95));
    tb_emit_sample(run, "token_gap_p50_ms", i, tb_histogram_ms(&r->token_gap, 0.5));
    tb_emit_sample(run, "token_gap_p95_ms", i, tb_histogram_ms(&r->token_gap, 0.95));
    tb_load_result_free(r);
    return TB_OK;
}

static tb_status measure_search(const tb_run *run, tb_serve_state *s, int64_t i)
{
    tb_load_schedule schedule;
    tb_load_config c = target(run, s);
    tb_slo slo = s->slo;
    slo.start_rate = tb_param_num(run, "rate");
    slo.point_s = tb_param_num(run, "seconds");
    slo.confirm = (int)tb_param_int(run, "confirm");
    tb_slo_result r;
    tb_text tried = {0};
    TB_TRY(open_loop(run, i, &schedule));
    TB_TRY(tb_slo_search(&c, &schedule, s->requests, &slo, NULL, &r));
    for (int k = 0; k < r.n; k++)
        tb_text_add(&tried, "%.0f/s: %.3f ms %s\n", r.points[k].rate, r.points[k].quantile_ms,
                    r.points[k].holds ? "holds" : r.points[k].why);
    tb_emit_text(run, "search", tb_text_str(&tried));
    tb_text_free(&tried);
    if (r.rate <= 0)
        s->late++; /* no rate held: nothing was measured */
    else
        tb_emit_sample(run, "max_rate_per_s", i, r.rate);
    s->generator_limited |= r.generator_limited;
    return TB_OK;
}

/* ---- overload ---- */

typedef struct burst_tally { /* of a run that begins with a burst */
    double goodput_per_s, recovery_ms;
} burst_tally;

static burst_tally tally_burst(const tb_load_result *r, double burst_s, double slo_ms)
{
    burst_tally t = {0};
    for (int64_t k = 0; k < r->n; k++) {
        const tb_load_column *c = &r->columns[k];
        double at_s = (double)c->intended_ns * 1e-9;
        bool good = c->status == 200 && (double)(c->done_ns - c->intended_ns) <= slo_ms * 1e6;
        t.goodput_per_s += good && (double)c->done_ns * 1e-9 <= burst_s ? 1 / burst_s : 0;
        if (at_s >= burst_s && !good) t.recovery_ms = (at_s - burst_s) * 1e3;
    }
    return t;
}

static tb_status measure_overload(const tb_run *run, tb_serve_state *s, int64_t i)
{
    tb_load_result *r;
    tb_load_config c = target(run, s);
    double seconds = tb_param_num(run, "seconds");
    tb_load_schedule closed = {.kind = TB_ARRIVALS_CLOSED, .duration_s = seconds, .seed = run->seed};
    c.connections *= 3; /* as many as the server holds: a batch runs, twice as much is queued */
    TB_TRY(send(run, s, &c, &closed, &r));
    double capacity = r->achieved_per_s;
    tb_load_result_free(r);
    if (capacity < 1) return TB_FAIL(TB_ERR_INTERNAL, "serve_load: the closed loop got no answer");
    tb_load_schedule burst = {.kind = TB_ARRIVALS_BURSTS,
                              .rate = capacity / 2,
                              .factor = 4,
                              .burst_s = seconds,
                              .period_s = 2 * seconds,
                              .duration_s = 2 * seconds,
                              .seed = run->seed + (uint64_t)i};
    c.connections = 4 * (int)tb_param_int(run, "connections");
    c.sleeps = true; /* the model has a core of its own, and the server's loop wants the other */
    c.keep_columns = true;
    TB_TRY(send(run, s, &c, &burst, &r));
    double row_us;
    TB_TRY(tb_serving_row_us(s->serving, &row_us));
    burst_tally t = tally_burst(r, seconds, s->slo.limit_ms);
    tb_emit_sample(run, "row_us", i, row_us);
    tb_emit_sample(run, "capacity_per_s", i, capacity);
    tb_emit_sample(run, "goodput_share", i, t.goodput_per_s / capacity);
    tb_emit_sample(run, "accepted_p99_ms", i, tb_histogram_ms(&r->latency, 0.99));
    tb_emit_sample(run, "refusal_p99_ms", i, tb_histogram_ms(&r->refusal, 0.99));
    tb_emit_sample(run, "recovery_ms", i, t.recovery_ms);
    tb_load_result_free(r);
    return TB_OK;
}

/* ---- storm ---- */

static tb_status measure_storm(const tb_run *run, tb_serve_state *s, int64_t i)
{
    double p99[2] = {0};
    for (int turn = 0; turn < 2; turn++) {
        bool stormy = (turn + i) % 2 == 1;
        tb_storm *storm = NULL;
        tb_storm_result got;
        tb_load_schedule schedule;
        tb_load_result *r = NULL;
        tb_load_config c = target(run, s);
        TB_TRY(open_loop(run, i, &schedule));
        if (stormy) TB_TRY(tb_storm_start(c.port, schedule.rate / 10, &storm));
        tb_status st = send(run, s, &c, &schedule, &r);
        tb_storm_stop(storm, &got);
        TB_TRY(st);
        p99[stormy] = tb_histogram_ms(&r->latency, 0.99);
        tb_load_result_free(r);
        if (got.unexpected > 0 && s->storm.unexpected == 0)
            memcpy(s->storm.example, got.example, sizeof got.example);
        s->storm.sent += got.sent;
        s->storm.unexpected += got.unexpected;
    }
    tb_emit_sample(run, "calm_p99_ms", i, p99[0]);
    tb_emit_sample(run, "storm_p99_ms", i, p99[1]);
    tb_emit_sample(run, "storm_p99_ratio", i, p99[1] / p99[0]);
    return TB_OK;
}

/* ---- reload, drain: something is done to the server while every connection has a request in flight ---- */

typedef struct disturbance {
    tb_serving *serving;
    tb_status (*act)(tb_serving *);
    double every_s;
    int64_t n, done;
    atomic_int in_flight;
    int want_in_flight, least_in_flight;
    double after_s; /* how long the load goes on behind the last action */
    atomic_bool over;
    tb_status status;
    char message[256];
} disturbance;

static tb_status wait_for_flight(disturbance *d)
{
    int n = 0;
    for (int i = 0; i < 100000 && (n = atomic_load(&d->in_flight)) < d->want_in_flight; i++) usleep(100);
    if (n < d->want_in_flight)
        return TB_FAIL(TB_ERR_TIMEOUT, "serve_load: only %d requests were in flight, not %d, before action %lld", n,
                       d->want_in_flight, (long long)d->done + 1);
    if (d->done == 0 || n < d->least_in_flight) d->least_in_flight = n;
    return TB_OK;
}

static void *disturb(void *arg)
{
    disturbance *d = arg;
    while (d->done < d->n && d->status == TB_OK) {
        usleep((useconds_t)(d->every_s * 1e6));
        d->status = wait_for_flight(d);
        if (d->status == TB_OK) d->status = d->act(d->serving);
        if (d->status != TB_OK)
            snprintf(d->message, sizeof d->message, "%s", tb_error_message());
        else
            d->done++;
    }
    usleep((useconds_t)(d->after_s * 1e6));
    atomic_store(&d->over, true);
    return NULL;
}

static tb_status disturbed(const tb_run *run, tb_serve_state *s, int64_t i, disturbance *d)
{
    pthread_t thread;
    tb_load_result *r = NULL;
    tb_load_config c = target(run, s);
    tb_load_schedule closed = {
        .kind = TB_ARRIVALS_CLOSED, .duration_s = 10 * tb_param_num(run, "seconds") + 10, .seed = run->seed};
    d->serving = s->serving;
    d->want_in_flight = c.connections < TB_IN_FLIGHT ? c.connections : TB_IN_FLIGHT;
    c.connections *= 2; /* between an answer and the next request a connection has nothing in flight */
    c.in_flight = &d->in_flight;
    c.until = &d->over;
    if (pthread_create(&thread, NULL, disturb, d) != 0) return TB_FAIL(TB_ERR_OOM, "serve_load: no thread");
    tb_status st = send(run, s, &c, &closed, &r);
    pthread_join(thread, NULL);
    TB_TRY(st);
    tb_emit_sample(run, "goodput_per_s", i, r->goodput_per_s);
    tb_load_result_free(r);
    if (s->actions == 0 || d->least_in_flight < s->least_in_flight) s->least_in_flight = d->least_in_flight;
    s->actions += d->done;
    if (d->status != TB_OK) tb_error_set(d->status, d->message);
    return d->status;
}

static tb_status measure_reload(const tb_run *run, tb_serve_state *s, int64_t i)
{
    int64_t n = tb_param_int(run, "reloads");
    double seconds = tb_param_num(run, "seconds");
    disturbance d = {.act = tb_serving_reload, .n = n, .every_s = seconds / (double)n};
    return disturbed(run, s, i, &d);
}

/* The load goes on for a quarter of the time that the server gives its clients to go elsewhere. */
static tb_status measure_drain(const tb_run *run, tb_serve_state *s, int64_t i)
{
    disturbance d = {.act = tb_serving_drain,
                     .n = 1,
                     .every_s = tb_param_num(run, "seconds"),
                     .after_s = 0.25e-3 * TB_DRAIN_DELAY_MS};
    TB_TRY(disturbed(run, s, i, &d));
    return tb_serving_restart(s->serving);
}

tb_status tb_scenario_measure(const tb_run *run, tb_serve_state *s, int64_t i)
{
    static const struct {
        const char *name;
        tb_status (*measure)(const tb_run *run, tb_serve_state *s, int64_t i);
    } all[] = {{"load", measure_load},         {"generate", measure_generate}, {"search", measure_search},
               {"overload", measure_overload}, {"storm", measure_storm},       {"reload", measure_reload},
               {"drain", measure_drain}};
    int k = 0;
    while (!tb_scenario_is(run, all[k].name)) k++;
    return all[k].measure(run, s, i);
}
