/* serve_load: a trained model served over HTTP on loopback, or a peer without one, under load; seven scenarios:
 *
 *   load      open loop at params.rate: latency from the intended send times
 *   generate  texts of params.tokens tokens each, streamed: when the first and the others come
 *   search    the largest rate that holds the objective params.slo
 *   overload  the capacity in closed loop, then half of it with a burst of twice the capacity in front
 *   storm     two loads, one of them beside bad requests at a tenth of the rate
 *   reload    closed loop while the model is reloaded params.reloads times, each with 64 requests in flight at least
 *   drain     closed loop while the server drains and ends, as many in flight
 *
 * Every answer of our server is compared, bit for bit, with the forward pass computed beforehand one row at a
 * time. The point is invalid where the generator itself was late. Server and generator share the machine's
 * cores. */
#include "serve_scenarios.h"
#include "tb_alloc.h"
#include <stdio.h>
#include <string.h>

enum { SAMPLES = 1024, PROMPTS = 64, MAX_BATCH = 64, MOST_TEXTS = 16, CONTEXT = 128 };

static const tb_key keys[] = {
    {"server", TB_KEY_CHOICE, "", 0, 0, "tensorbrain|fastapi-pydantic|fastapi-raw|echo", "tensorbrain",
     "the others have no model; echo is a bare loop that answers without looking: the floor"},
    {"scenario", TB_KEY_CHOICE, "", 0, 0, "load|generate|search|overload|storm|reload|drain", "load", "what happens"},
    {"model", TB_KEY_STR, "", 0, 0, NULL, "mlp", "an image model, with options"},
    {"data", TB_KEY_STR, "", 0, 0, NULL, "fashion-mnist", "images; generate: text"},
    {"weights", TB_KEY_STR, "", 0, 0, NULL, "",
     "file, from the folder of experiments/ up, that the first point trains and the others read; empty: train"},
    {"prompt", TB_KEY_INT, "bytes", 1, 256, NULL, "16", "generate: of the test text, before the tokens"},
    {"tokens", TB_KEY_INT, "", 1, 1024, NULL, "64", "generate: of a text"},
    {"precision", TB_KEY_CHOICE, "", 0, 0, "f32|int8", "f32", "int8: quantized after training"},
    {"accuracy", TB_KEY_BOOL, "", 0, 0, NULL, "false", "test accuracy of both precisions, before the load"},
    {"train_steps", TB_KEY_INT, "", 1, 1e7, NULL, "1000", "before the measurement"},
    {"arrivals", TB_KEY_CHOICE, "", 0, 0, "poisson|constant|gamma|bursts|closed", "poisson",
     "of the open loop; closed: a request follows the answer on every connection"},
    {"rate", TB_KEY_NUM, "1/s", 1, 1e6, NULL, "1200", "requests a second; search: the first that is tried"},
    {"form", TB_KEY_CHOICE, "", 0, 0, "predict|json|binary", "json",
     "of the request's body; peers know predict; generate does without"},
    {"seconds", TB_KEY_NUM, "s", 0.1, 600, NULL, "5", "of arrivals in an iteration; search: at each rate"},
    {"repeats", TB_KEY_INT, "", 1, 1000, NULL, "5", "measured iterations, after one to warm up (search: none)"},
    {"connections", TB_KEY_INT, "", 1, 128, NULL, "64",
     "kept alive; reload, drain: twice as many; overload: four times, of which three measure the capacity, as many as "
     "the server holds"},
    {"slo", TB_KEY_STR, "", 0, 0, NULL, "p95:25",
     "objective, percentile:milliseconds; goodput is within the milliseconds"},
    {"confirm", TB_KEY_INT, "", 1, 15, NULL, "5", "search: runs at the rate that was found"},
    {"reloads", TB_KEY_INT, "", 1, 1000, NULL, "10", "reload: in an iteration"},
};

/* clang-format off */
#define RATIO .kind = "ratio", .scope = "", .statistic = "median", .margin = 0.05
#define LOWER(name_, unit_) {.name = name_, .unit = unit_, .dir = "lower", .reduce = "max", RATIO}
#define HIGHER(name_, unit_) {.name = name_, .unit = unit_, .dir = "higher", .reduce = "min", RATIO}
static const tb_metric metrics[] = {
    LOWER("p50_ms", "ms"), LOWER("p95_ms", "ms"), LOWER("p99_ms", "ms"), LOWER("service_p95_ms", "ms"),
    HIGHER("tokens_per_s", "1/s"), LOWER("first_token_p50_ms", "ms"), LOWER("first_token_p95_ms", "ms"),
    LOWER("token_gap_p50_ms", "ms"), LOWER("token_gap_p95_ms", "ms"), LOWER("lag_p99_ms", "ms"),
    LOWER("server_us", "us"), LOWER("client_us", "us"), HIGHER("goodput_per_s", "1/s"),
    {.name = "mean_batch", .unit = "rows", .dir = "none", .reduce = "max", RATIO},
    {.name = "http_mallocs", .unit = "calls/request", .dir = "lower", .reduce = "max", RATIO},
    HIGHER("max_rate_per_s", "1/s"),
    HIGHER("capacity_per_s", "1/s"), HIGHER("goodput_share", ""), LOWER("accepted_p99_ms", "ms"),
    LOWER("refusal_p99_ms", "ms"), LOWER("row_us", "us"), LOWER("recovery_ms", "ms"),
    LOWER("calm_p99_ms", "ms"), LOWER("storm_p99_ms", "ms"), LOWER("storm_p99_ratio", ""),
};
/* clang-format on */

/* ---- setup ---- */

static void show_training(void *arg, int64_t step, int64_t steps)
{
    tb_run_phase(arg, "training", step, steps);
}

static tb_status train(const tb_run *run, tb_serve_state *s)
{
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = run->seed, .device = run->device}, &s->ctx));
    tb_ctx_enter(s->ctx);
    const char *weights = tb_param_str(run, "weights");
    bool text = tb_scenario_is(run, "generate");
    tb_arms_config c = {.ctx = s->ctx,
                        .model = tb_param_str(run, "model"),
                        .data = tb_param_str(run, "data"),
                        .context = text ? CONTEXT : 0,
                        .is_stepped = text,
                        .batch = 1,
                        .train_steps = tb_param_int(run, "train_steps"),
                        .train_batch = text ? 16 : 64,
                        .rate = text ? 0.002 : 0.05,
                        .decay = text ? 0.1 : 0,
                        .adamw = text,
                        .weights = weights[0] ? weights : NULL,
                        .seed = run->seed,
                        .progress = show_training,
                        .arg = (void *)(uintptr_t)run};
    s->arm = strcmp(tb_param_str(run, "precision"), "int8") == 0 ? TB_ARM_INT8 : TB_ARM_FUSED;
    return tb_arms_create(&c, &s->arms);
}

static tb_status start_server(const tb_run *run, tb_serve_state *s)
{
    char version[64];
    tb_serving_config c = {.server = tb_param_str(run, "server"),
                           .arms = s->arms,
                           .arm = s->arm,
                           .max_batch = tb_scenario_is(run, "generate") ? MOST_TEXTS : MAX_BATCH};
    /* What cannot be answered in time is refused at once: a fifth of the objective is the way there and back. All that
     * the server holds, running and queued, is less than the connections, or the line would form in the generator. */
    if (tb_scenario_is(run, "overload")) {
        c.limits.max_timeout_ms = (int)(0.8 * s->slo.limit_ms);
        c.limits.queue_rows = 2 * (int)tb_param_int(run, "connections");
    }
    if (tb_scenario_is(run, "drain")) c.limits.drain_delay_ms = TB_DRAIN_DELAY_MS;
    tb_run_phase(run, "starting the server", 0, 0);
    TB_TRY(tb_serving_start(&c, &s->serving, version));
    if (version[0]) tb_emit_fact(run, "peer/versions", version);
    return TB_OK;
}

/* Prompts side by side in the test text, what is no ASCII character a blank; and what follows them, one text at a time:
 * the server's must be the same in any company. */
static tb_status make_prompts(const tb_run *run, tb_serve_state *s)
{
    int64_t bytes = tb_param_int(run, "prompt"), tokens = tb_param_int(run, "tokens"), n;
    const uint8_t *test = tb_arms_test_text(s->arms, &n);
    if (bytes + tokens > CONTEXT + 1)
        return TB_FAIL(TB_ERR_CONFIG, "serve_load: params.prompt and params.tokens together are at most %d",
                       CONTEXT + 1);
    uint8_t *text = tb_calloc((size_t)(bytes + tokens), 1);
    s->prompts = tb_calloc(PROMPTS, (size_t)bytes);
    s->tokens = tb_calloc(PROMPTS, (size_t)tokens);
    tb_status st = text && s->prompts && s->tokens ? TB_OK : TB_ERR_OOM;
    for (int64_t i = 0; i < PROMPTS && st == TB_OK; i++) {
        for (int64_t k = 0; k < bytes; k++) {
            uint8_t c = test[(i * bytes + k) % n];
            text[k] = c < ' ' || c > '~' ? ' ' : c;
        }
        st = tb_arms_continue(s->arms, s->arm, bytes, tokens, text);
        memcpy(s->prompts + i * bytes, text, (size_t)bytes);
        memcpy(s->tokens + i * tokens, text + bytes, (size_t)tokens);
    }
    tb_free(text);
    TB_TRY(st);
    s->samples = (tb_load_samples){
        .n = PROMPTS, .u8 = true, .elements = bytes, .rows = s->prompts, .n_tokens = tokens, .tokens = s->tokens};
    return tb_load_requests_make(&s->samples, TB_LOAD_TEXT, "127.0.0.1", "/v2/models/model/generate_stream", NULL,
                                 &s->requests);
}

static tb_status make_requests(const tb_run *run, tb_serve_state *s)
{
    static const char *const forms[] = {"predict", "json", "binary"}; /* as tb_load_form counts */
    const tb_data_part *test = tb_dataset_part(s->data, TB_SPLIT_TEST);
    int64_t pixels = tb_dataset_height(s->data) * tb_dataset_width(s->data),
            classes = tb_dataset_classes(s->data);
    tb_load_form form = TB_LOAD_PREDICT;
    while (strcmp(forms[form], tb_param_str(run, "form")) != 0) form++;
    s->samples = (tb_load_samples){.n = SAMPLES,
                                   .u8 = true,
                                   .elements = pixels,
                                   .rank = 1,
                                   .shape = {pixels},
                                   .rows = test->bytes,
                                   .answer_elements = classes,
                                   .input_name = "image",
                                   .output_name = "logits"};
    if (s->arms) {
        s->answers = tb_calloc((size_t)(SAMPLES * classes), sizeof *s->answers);
        if (!s->answers) return TB_ERR_OOM;
        TB_TRY(tb_arms_answers(s->arms, s->arm, SAMPLES, s->answers));
        s->samples.answers = s->answers;
    } else if (form != TB_LOAD_PREDICT || !(tb_scenario_is(run, "load") || tb_scenario_is(run, "search"))) {
        return TB_FAIL(TB_ERR_CONFIG, "serve_load: %s serves params.form predict under load and search only",
                       tb_param_str(run, "server"));
    }
    return tb_load_requests_make(&s->samples, form, "127.0.0.1",
                                 form == TB_LOAD_PREDICT ? "/v1/predict" : "/v2/models/model/infer", NULL,
                                 &s->requests);
}

static tb_status setup(const tb_run *run, void **out)
{
    tb_serve_state *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    if (run->ranks != 1)
        return TB_FAIL(TB_ERR_CONFIG, "serve_load: one rank serves and loads; set launch.ranks to 1");
    s->latency = tb_calloc(1, sizeof *s->latency);
    s->service = tb_calloc(1, sizeof *s->service);
    if (!s->latency || !s->service) return TB_ERR_OOM;
    tb_histogram_clear(s->latency);
    tb_histogram_clear(s->service);
    s->may_refuse = tb_scenario_is(run, "overload");
    TB_TRY(tb_slo_parse(tb_param_str(run, "slo"), &s->slo));
    TB_TRY(tb_dataset_open(tb_param_str(run, "data"), &s->data));
    bool text = tb_scenario_is(run, "generate");
    if (text && strcmp(tb_param_str(run, "server"), "tensorbrain") != 0)
        return TB_FAIL(TB_ERR_CONFIG, "serve_load: %s generates no text", tb_param_str(run, "server"));
    if (!text && tb_dataset_kind(s->data) != TB_DATA_IMAGES)
        return TB_FAIL(TB_ERR_CONFIG, "serve_load: params.data holds no images; params.scenario generate takes text");
    if (!text && tb_dataset_part(s->data, TB_SPLIT_TEST)->rows < SAMPLES)
        return TB_FAIL(TB_ERR_CONFIG, "serve_load: params.data must have %d test images", SAMPLES);
    if (strcmp(tb_param_str(run, "server"), "tensorbrain") == 0) TB_TRY(train(run, s));
    TB_TRY(text ? make_prompts(run, s) : make_requests(run, s));
    return start_server(run, s);
}

/* Before any load: what the served model knows. Its answers are checked during the load, every one. */
static tb_status check(const tb_run *run, void *state)
{
    tb_serve_state *s = state;
    tb_arms_facts f;
    if (!s->arms || !tb_param_bool(run, "accuracy")) return TB_OK;
    TB_TRY(tb_arms_check(s->arms, &f));
    tb_emit_fact(run, "model/spec", f.model_spec);
    tb_emit_value(run, "accuracy_f32", "", f.accuracy_f32);
    tb_emit_value(run, "accuracy_int8", "", f.accuracy_int8);
    tb_emit_check(run, "parity.graph_difference", "parity", f.difference, 0,
                  "a compiled graph gives other bits than eager execution");
    tb_emit_check(run, "parity.int8_accuracy_drop", "parity", f.accuracy_f32 - f.accuracy_int8, 0.005,
                  "integers lose more than 0.5 points of accuracy");
    return TB_OK;
}

/* ---- the run ---- */

static tb_status run_all(const tb_run *run, void *state)
{
    tb_serve_state *s = state;
    bool search = tb_scenario_is(run, "search"), stop = false;
    int64_t repeats = tb_param_int(run, "repeats");
    for (int64_t i = search ? 1 : 0; i <= repeats && !stop; i++) {
        tb_run_phase(run, i ? "measuring" : "warm-up", i, repeats);
        tb_run_warming(run, i == 0);
        TB_TRY(tb_scenario_measure(run, s, i));
        if (i == 0) { /* only the verdicts about answers cover the warm-up */
            s->late = s->allocations = 0;
            tb_histogram_clear(s->latency);
            tb_histogram_clear(s->service);
        }
        TB_TRY(tb_run_sync(run, &stop));
    }
    return TB_OK;
}

static void emit_spectrum(const tb_run *run, const char *name, const tb_histogram *h)
{
    static const double at[] = {0.1,  0.25,  0.5,   0.75,  0.9,    0.95,  0.98,
                                0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999};
    char key[64];
    for (size_t k = 0; k < sizeof at / sizeof at[0] && (double)h->count * (1 - at[k]) >= 10; k++) {
        snprintf(key, sizeof key, "%s.%g", name, at[k]);
        tb_emit_value(run, key, "ms", tb_histogram_ms(h, at[k]));
    }
}

static void emit_batches(const tb_run *run, const tb_serve_state *s)
{
    char key[32];
    int sizes = 0;
    for (int b = 1; b <= TB_LARGEST_BATCH; b++) {
        if (!s->batches[b]) continue;
        sizes++;
        snprintf(key, sizeof key, "batch.%d", b);
        tb_emit_value(run, key, "requests", (double)s->batches[b]);
    }
    tb_emit_value(run, "batch_sizes", "", sizes);
}

static tb_status emit_stages(const tb_run *run, const tb_serve_state *s)
{
    static const char *const stages[] = {"receive", "parse", "queue", "compute", "serialize"};
    char key[32];
    double us;
    for (size_t k = 0; k < sizeof stages / sizeof stages[0]; k++) {
        TB_TRY(tb_serving_stage_us(s->serving, stages[k], &us));
        snprintf(key, sizeof key, "stage_us.%s", stages[k]);
        tb_emit_value(run, key, "us", us);
    }
    return TB_OK;
}

static tb_status finish(const tb_run *run, void *state)
{
    tb_serve_state *s = state;
    emit_spectrum(run, "corrected_ms", s->latency);
    emit_spectrum(run, "uncorrected_ms", s->service);
    if (s->arms) emit_batches(run, s);
    if (s->arms && tb_scenario_is(run, "load")) TB_TRY(emit_stages(run, s));
    tb_emit_value(run, "answers_verified", "", (double)s->verified);
    tb_emit_value(run, "late_iterations", "", (double)s->late);
    if (s->actions) {
        tb_emit_value(run, "actions", "", (double)s->actions);
        tb_emit_value(run, "least_in_flight", "requests", s->least_in_flight);
    }
    if (s->arms && tb_scenario_is(run, "load"))
        tb_emit_check(run, "engine.allocations", "valid", (double)s->allocations, 0,
                      "the engine's heap was asked for memory while requests ran");
    tb_emit_check(run, "answers.wrong", "parity", (double)s->wrong, 0,
                  "an answer differs from the offline forward");
    tb_emit_check(run, "requests.failed", "valid", (double)s->failed, 0, "requests failed or were refused");
    if (s->generator_limited)
        tb_emit_check(run, "generator.limited", "bound", 1, 0,
                      "the generator was late first: the rate is a lower bound");
    if (tb_scenario_is(run, "storm")) {
        tb_emit_value(run, "bad_requests", "", (double)s->storm.sent);
        tb_emit_check(run, "storm.unexpected", "parity", (double)s->storm.unexpected, 0, s->storm.example);
    }
    return TB_OK;
}

static void teardown(void *state)
{
    tb_serve_state *s = state;
    if (!s) return;
    tb_serving_stop(s->serving);
    tb_load_requests_free(s->requests);
    tb_arms_destroy(s->arms);
    tb_dataset_close(s->data);
    tb_ctx_destroy(s->ctx);
    tb_free(s->answers);
    tb_free(s->prompts);
    tb_free(s->tokens);
    tb_free(s->latency);
    tb_free(s->service);
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"accuracy_f32", "accuracy_int8", "parity.graph_difference",
                                    "parity.int8_accuracy_drop", "corrected_ms.*", "uncorrected_ms.*",
                                    "batch.*", "batch_sizes", "stage_us.*", "answers_verified",
                                    "late_iterations", "actions", "least_in_flight", "engine.allocations",
                                    "answers.wrong", "requests.failed",
                                    "generator.limited", "bad_requests", "storm.unexpected", "void_reason",
                                    "search", NULL};

TB_DRIVER(serve_load, .version = 3,
          .doc = "A model served over HTTP under load, every answer verified; peers", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics,
          .n_metrics = sizeof metrics / sizeof metrics[0], .emits = emits,
          .setup = setup, .check = check, .run = run_all,
          .finish = finish, .teardown = teardown);
