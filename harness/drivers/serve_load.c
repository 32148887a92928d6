/* serve_load: a trained model served over HTTP on loopback, under open-loop load.
 *
 * Setup trains the model, writes the deploy artefact, and starts the server in a thread of its own; each repeat sends one
 * schedule of Poisson arrivals at params.rate from the generator in this process. Every answer is compared, bit for
 * bit, with the forward pass computed beforehand one row at a time. Latency counts from the intended send time; the point
 * is invalid where the generator itself was late. Server and generator share the machine's cores. */
#include "arms.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_driver.h"
#include "tb_load.h"
#include "tb_serve.h"
#include "tb_serve_artefact.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SAMPLES = 1024, MAX_BATCH = 64, SERVED_ARM = 2 };

static const tb_key keys[] = {
    {"model", TB_KEY_STR, "", 0, 0, NULL, "mlp", "an image model, with options"},
    {"data", TB_KEY_STR, "", 0, 0, NULL, "fashion-mnist", "images"},
    {"train_steps", TB_KEY_INT, "", 1, 1e7, NULL, "1000", "before the measurement"},
    {"rate", TB_KEY_NUM, "1/s", 1, 1e6, NULL, "1200", "requests a second, Poisson"},
    {"form", TB_KEY_CHOICE, "", 0, 0, "predict|json|binary", "json", "of the request's body"},
    {"seconds", TB_KEY_NUM, "s", 0.1, 600, NULL, "5", "of arrivals in an iteration"},
    {"repeats", TB_KEY_INT, "", 1, 1000, NULL, "5", "measured loads, after one to warm up"},
    {"connections", TB_KEY_INT, "", 1, 1024, NULL, "64", "kept alive"},
    {"slo_ms", TB_KEY_NUM, "ms", 0.01, 1e5, NULL, "25", "latency that goodput may have"},
};

#define RATIO .kind = "ratio", .scope = "", .statistic = "median", .margin = 0.05
static const tb_metric metrics[] = {
    {.name = "p50_ms", .unit = "ms", .dir = "lower", .reduce = "max", RATIO},
    {.name = "p95_ms", .unit = "ms", .dir = "lower", .reduce = "max", RATIO},
    {.name = "p99_ms", .unit = "ms", .dir = "lower", .reduce = "max", RATIO},
    {.name = "service_p95_ms", .unit = "ms", .dir = "lower", .reduce = "max", RATIO},
    {.name = "goodput_per_s", .unit = "1/s", .dir = "higher", .reduce = "min", RATIO},
    {.name = "lag_p99_ms", .unit = "ms", .dir = "lower", .reduce = "max", RATIO},
    {.name = "mean_batch", .unit = "rows", .dir = "none", .reduce = "max", RATIO},
};

typedef struct serve_state {
    tb_ctx *ctx;
    tb_arms *arms;
    tb_server *server;
    pthread_t thread;
    bool is_running;
    char repository[64];
    float *answers;
    int64_t shape[1];
    tb_load_samples samples;
    tb_load_requests *requests;
    int64_t iteration;
    int64_t wrong, failed, late; /* over all iterations */
    uint64_t batches[257];
} serve_state;

static void show_training(void *arg, int64_t step, int64_t steps) { tb_run_phase(arg, "training", step, steps); }

static void *serve(void *arg)
{
    serve_state *s = arg;
    if (tb_server_run(s->server) != TB_OK) fprintf(stderr, "server: %s\n", tb_error_message());
    return NULL;
}

/* REPOSITORY/model/1 holds the artefact. */
static tb_status write_repository(serve_state *s)
{
    char dir[128];
    snprintf(s->repository, sizeof s->repository, "/tmp/tb-serve-XXXXXX");
    if (!mkdtemp(s->repository)) return TB_FAIL(TB_ERR_IO, "cannot make a folder for the model in /tmp");
    snprintf(dir, sizeof dir, "%s/model", s->repository);
    if (mkdir(dir, 0700) != 0) return TB_FAIL(TB_ERR_IO, "cannot make %s", dir);
    snprintf(dir, sizeof dir, "%s/model/1", s->repository);
    return tb_arms_export(s->arms, SERVED_ARM, "model", MAX_BATCH, dir);
}

static void remove_repository(const serve_state *s)
{
    static const char *const files[] = {"1/graph.tbir", "1/weights.safetensors", "1/golden.safetensors", "1/model.yaml", "1", ""};
    char path[192];
    if (!s->repository[0]) return;
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/model/%s", s->repository, files[i]);
        remove(path);
    }
    remove(s->repository);
}

static tb_status start_server(serve_state *s)
{
    tb_serve_config c = {.repository = s->repository, .open = tb_serve_artefact_open};
    TB_TRY(tb_server_create(&c, &s->server));
    if (pthread_create(&s->thread, NULL, serve, s) != 0) return TB_FAIL(TB_ERR_OOM, "cannot start the server's thread");
    s->is_running = true;
    return TB_OK;
}

static tb_status make_requests(const tb_run *run, serve_state *s)
{
    const char *form = tb_param_str(run, "form");
    int64_t n, pixels;
    const uint8_t *images = tb_arms_images(s->arms, &n, &pixels);
    tb_load_form how = strcmp(form, "binary") == 0 ? TB_LOAD_BINARY : strcmp(form, "json") == 0 ? TB_LOAD_JSON : TB_LOAD_PREDICT;
    s->shape[0] = pixels;
    s->answers = tb_calloc((size_t)(SAMPLES * tb_arms_classes(s->arms)), sizeof *s->answers);
    if (!s->answers) return TB_ERR_OOM;
    TB_TRY(tb_arms_answers(s->arms, SERVED_ARM, SAMPLES, s->answers));
    s->samples = (tb_load_samples){.n = SAMPLES, .u8 = true, .elements = pixels, .rank = 1, .shape = {pixels}, .rows = images,
                                   .answer_elements = tb_arms_classes(s->arms), .answers = s->answers,
                                   .input_name = "image", .output_name = "logits"};
    return tb_load_requests_make(&s->samples, how, "127.0.0.1", how == TB_LOAD_PREDICT ? "/v1/predict" : "/v2/models/model/infer",
                                 NULL, &s->requests);
}

static tb_status send_load(const tb_run *run, serve_state *s, double seconds, uint64_t seed, tb_load_result **out)
{
    tb_load_config c = {.host = "127.0.0.1", .port = tb_server_port(s->server), .connections = (int)tb_param_int(run, "connections"),
                        .slo_ms = tb_param_num(run, "slo_ms")};
    tb_load_schedule schedule = {.kind = TB_ARRIVALS_POISSON, .rate = tb_param_num(run, "rate"), .duration_s = seconds, .seed = seed};
    return tb_load_run(&c, &schedule, s->requests, out);
}

/* The model loads in the background: requests are refused until it is ready. */
static tb_status wait_until_ready(const tb_run *run, serve_state *s)
{
    for (int i = 0; i < 100; i++) {
        tb_load_result *r;
        TB_TRY(send_load(run, s, 0.05, 1, &r));
        bool ready = r->ok > 0 && r->ok == r->n;
        tb_load_result_free(r);
        if (ready) return TB_OK;
        usleep(50000);
    }
    return TB_FAIL(TB_ERR_TIMEOUT, "the server did not answer within 5 s");
}

static tb_status setup(const tb_run *run, void **out)
{
    serve_state *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    if (run->ranks != 1) return TB_FAIL(TB_ERR_CONFIG, "serve_load: one rank serves and loads; set launch.ranks to 1");
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = run->seed, .device = run->device}, &s->ctx));
    tb_ctx_enter(s->ctx);
    tb_arms_config c = {.ctx = s->ctx, .model = tb_param_str(run, "model"), .data = tb_param_str(run, "data"), .batch = 1,
                        .train_steps = tb_param_int(run, "train_steps"), .train_batch = 64, .rate = 0.05, .seed = run->seed,
                        .progress = show_training, .arg = (void *)(uintptr_t)run};
    TB_TRY(tb_arms_create(&c, &s->arms));
    TB_TRY(write_repository(s));
    TB_TRY(start_server(s));
    TB_TRY(make_requests(run, s));
    return wait_until_ready(run, s);
}

static double quantile_ms(const tb_histogram *h, double q) { return (double)tb_histogram_quantile(h, q) / 1e6; }

static double mean_batch(const tb_load_result *r)
{
    double requests = 0, calls = 0;
    for (int b = 1; b < 257; b++) {
        requests += (double)r->batches[b];
        calls += (double)r->batches[b] / b;
    }
    return calls > 0 ? requests / calls : 0;
}

static tb_status measure(const tb_run *run, serve_state *s)
{
    tb_load_result *r;
    int64_t i = s->iteration++;
    TB_TRY(send_load(run, s, tb_param_num(run, "seconds"), run->seed + (uint64_t)i, &r));
    tb_emit_sample(run, "p50_ms", i, quantile_ms(&r->latency, 0.5));
    tb_emit_sample(run, "p95_ms", i, quantile_ms(&r->latency, 0.95));
    tb_emit_sample(run, "p99_ms", i, quantile_ms(&r->latency, 0.99));
    tb_emit_sample(run, "service_p95_ms", i, quantile_ms(&r->service, 0.95));
    tb_emit_sample(run, "goodput_per_s", i, r->goodput_per_s);
    tb_emit_sample(run, "lag_p99_ms", i, quantile_ms(&r->lag, 0.99));
    tb_emit_sample(run, "mean_batch", i, mean_batch(r));
    for (int b = 0; b < 257; b++) s->batches[b] += r->batches[b];
    s->wrong += r->wrong;
    s->failed += r->failed + r->refused;
    s->late += r->void_reason[0] != 0;
    if (r->void_reason[0]) tb_emit_text(run, "void_reason", r->void_reason);
    tb_load_result_free(r);
    return TB_OK;
}

static tb_status run_all(const tb_run *run, void *state)
{
    serve_state *s = state;
    int64_t repeats = tb_param_int(run, "repeats");
    bool stop = false;
    for (int64_t i = 0; i <= repeats && !stop; i++) {
        tb_run_phase(run, i ? "load" : "warm-up", i, repeats);
        tb_run_warming(run, i == 0);
        TB_TRY(measure(run, s));
        if (i == 0) s->late = 0; /* what the warm-up was does not matter */
        TB_TRY(tb_run_sync(run, &stop));
    }
    return TB_OK;
}

static tb_status finish(const tb_run *run, void *state)
{
    serve_state *s = state;
    int sizes = 0;
    for (int b = 1; b < 257; b++) sizes += s->batches[b] > 0;
    tb_emit_value(run, "batch_sizes", "", sizes);
    tb_emit_value(run, "late_iterations", "", (double)s->late);
    tb_emit_check(run, "answers.wrong", "parity", (double)s->wrong, 0, "an answer differs from the offline forward");
    tb_emit_check(run, "requests.failed", "valid", (double)s->failed, 0, "requests failed or were refused");
    return TB_OK;
}

static void teardown(void *state)
{
    serve_state *s = state;
    if (!s) return;
    if (s->is_running) {
        tb_server_drain(s->server);
        tb_server_drain(s->server); /* nothing is in flight: end at once */
        pthread_join(s->thread, NULL);
    }
    tb_server_destroy(s->server);
    tb_load_requests_free(s->requests);
    remove_repository(s);
    tb_arms_destroy(s->arms);
    tb_ctx_destroy(s->ctx);
    tb_free(s->answers);
    tb_free(s);
}

TB_DRIVER(serve_load, .version = 1, .doc = "A model served over HTTP under open-loop load, every answer verified", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics, .n_metrics = sizeof metrics / sizeof metrics[0],
          .setup = setup, .run = run_all, .finish = finish, .teardown = teardown);
