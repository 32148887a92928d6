/* train: a training run from the first weights to the test result, on one rank or data-parallel on several.
 *
 * Each step is timed by itself and counted: calls of the allocator and minor page faults of the whole process, which a
 * steady step must not make. Memory at the peak is told by purpose. Beside a text model's loss stand the entropy of
 * single bytes and what bzip2 makes of the text.
 *
 * --trace profiles a few steps after the warm-up; their samples are kept apart, as those of the warm-up are. */
#include "malloc_count.h"
#include "tb_alloc.h"
#include "tb_comm.h"
#include "tb_cpu.h"
#include "tb_driver.h"
#include "tb_profile.h"
#include "tb_train.h"
#include "text_reference.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { WARMUP_STEPS = 10, PROFILED_STEPS = 5, PROFILED_CALLS = 1 << 15, TEXT_EVAL_BATCH = 64, IMAGE_EVAL_BATCH = 500 };

static const tb_key keys[] = {
    {"model", TB_KEY_STR, "", 0, 0, NULL, "mlp", "a model, with options: gpt:layers=2,width=64"},
    {"data", TB_KEY_STR, "", 0, 0, NULL, "fashion-mnist", "fashion-mnist, jargon, idx:IMAGES,LABELS or text:PATH"},
    {"batch", TB_KEY_INT, "rows", 1, 1 << 20, NULL, "64", "of a step, over all ranks and micro-batches"},
    {"micro_batches", TB_KEY_INT, "", 1, 1024, NULL, "1", "a step accumulates this many"},
    {"context", TB_KEY_INT, "tokens", 1, 1 << 16, NULL, "128", "text: length of a row"},
    {"epochs", TB_KEY_NUM, "", 0, 1e6, NULL, "1", "length of the run where steps is 0"},
    {"steps", TB_KEY_INT, "", 0, 1e9, NULL, "0", "length of the run; 0: as epochs say"},
    {"precision", TB_KEY_CHOICE, "", 0, 0, "f32|bf16|f16", "f32",
     "of the operands of products, whose sums are f32; f16: of their results too, with dynamic loss scaling"},
    {"loss_scale", TB_KEY_NUM, "", 1, 0x1p24, NULL, "65536", "f16: the first, a power of two"},
    {"scale_growth", TB_KEY_INT, "steps", 1, 1e9, NULL, "2000", "f16: without overflow, until the scale doubles"},
    {"optimizer", TB_KEY_CHOICE, "", 0, 0, "sgd|adam|adamw", "sgd", ""},
    {"rate", TB_KEY_NUM, "", 0, 1e3, NULL, "0.05", "learning rate, at its highest"},
    {"momentum", TB_KEY_NUM, "", 0, 1, NULL, "0.9", "sgd"},
    {"nesterov", TB_KEY_BOOL, "", 0, 0, NULL, "false", "sgd"},
    {"beta2", TB_KEY_NUM, "", 0, 1, NULL, "0.999", "adam, adamw"},
    {"decay", TB_KEY_NUM, "", 0, 10, NULL, "0", "weight decay of matrices and filters"},
    {"clip", TB_KEY_NUM, "", 0, 1e9, NULL, "0", "largest global norm of the gradients; 0: none"},
    {"schedule", TB_KEY_CHOICE, "", 0, 0, "constant|cosine", "constant", "after the warm-up"},
    {"warmup", TB_KEY_INT, "steps", 0, 1e9, NULL, "0", "the rate rises linearly"},
    {"floor", TB_KEY_NUM, "", 0, 1, NULL, "0", "cosine ends at this part of the rate"},
    {"eval_every", TB_KEY_INT, "steps", 0, 1e9, NULL, "0", "the test part is evaluated; 0: at the end only"},
    {"prefetch", TB_KEY_INT, "", 0, 64, NULL, "2", "micro-batches filled ahead by a thread"},
    {"start", TB_KEY_STR, "", 0, 0, NULL, "", "safetensors file with the first weights"},
    {"resume", TB_KEY_STR, "", 0, 0, NULL, "", "checkpoint of the same run to go on from"},
    {"save", TB_KEY_STR, "", 0, 0, NULL, "", "checkpoint written at the end"},
    {"sample_bytes", TB_KEY_INT, "B", 0, 1 << 16, NULL, "0", "text models: length of the text written at the end"},
    {"sample_prompt", TB_KEY_STR, "", 0, 0, NULL, "hacker ", "what it goes on from"},
    {"temperature", TB_KEY_NUM, "", 0, 100, NULL, "0.8", "of its draws"},
};

#define RATIO .kind = "ratio", .scope = "", .statistic = "median", .margin = 0.05
#define CURVE .kind = "curve", .reduce = "rank0", .scope = "", .statistic = "last", .margin = 0.05
#define REFERENCE .kind = "exact", .reduce = "rank0", .scope = "", .statistic = "last", .margin = 0
static const tb_metric metrics[] = {
    {.name = "loss", .unit = "nats", .dir = "lower", CURVE},
    {.name = "step_ms", .unit = "ms", .dir = "lower", .reduce = "max", RATIO},
    {.name = "samples_per_s", .unit = "samples/s", .dir = "higher", .reduce = "min", RATIO},
    {.name = "test_loss", .unit = "nats", .dir = "lower", CURVE},
    {.name = "test_accuracy", .unit = "", .dir = "higher", CURVE},
    /* What else says how well text can be foretold: counted bytes, a compressor. */
    {.name = "unigram_nats", .unit = "nats", .dir = "none", REFERENCE},
    {.name = "bzip2_nats", .unit = "nats", .dir = "none", REFERENCE},
    {.name = "mallocs", .unit = "calls/step", .dir = "lower", .kind = "exact", .reduce = "max", .scope = "",
     .statistic = "max", .margin = 0},
    /* p95: a page that the system moves for reasons of its own (compaction, write-back) costs a fault now and then. */
    {.name = "page_faults", .unit = "faults/step", .dir = "lower", .kind = "exact", .reduce = "max", .scope = "",
     .statistic = "p95", .margin = 0},
};

typedef struct train_state {
    tb_ctx *ctx;
    tb_comm *comm;
    tb_dataset *data;
    tb_model *model;
    tb_trainer *trainer;
    tb_profile *profile; /* NULL without --trace */
    int64_t steps, context;
    bool is_text;
} train_state;

/* ---- setup ---- */
static tb_optim_kind optim_kind(const char *name)
{
    return strcmp(name, "sgd") == 0 ? TB_OPTIM_SGD : strcmp(name, "adam") == 0 ? TB_OPTIM_ADAM : TB_OPTIM_ADAMW;
}

static tb_trainer_config config_of(const tb_run *run, const train_state *s)
{
    double rate = tb_param_num(run, "rate");
    bool cosine = strcmp(tb_param_str(run, "schedule"), "cosine") == 0;
    bool is_f16 = strcmp(tb_param_str(run, "precision"), "f16") == 0;
    return (tb_trainer_config){.loss_scale = is_f16 ? tb_param_num(run, "loss_scale") : 0,
                               .scale_growth = tb_param_int(run, "scale_growth"),
                               .model = s->model,
                               .data = s->data,
                               .batch = tb_param_int(run, "batch"),
                               .context = s->context,
                               .microbatches = (int)tb_param_int(run, "micro_batches"),
                               .seed = run->seed,
                               .comm = s->comm,
                               .ahead = (int)tb_param_int(run, "prefetch"),
                               .optim = {.kind = optim_kind(tb_param_str(run, "optimizer")),
                                         .decay = tb_param_num(run, "decay"),
                                         .momentum = tb_param_num(run, "momentum"),
                                         .nesterov = tb_param_bool(run, "nesterov"),
                                         .beta1 = 0.9,
                                         .beta2 = tb_param_num(run, "beta2"),
                                         .eps = 1e-8,
                                         .clip_norm = tb_param_num(run, "clip")},
                               .schedule = {.kind = cosine ? TB_LR_COSINE : TB_LR_CONSTANT,
                                            .rate = rate,
                                            .floor = rate * tb_param_num(run, "floor"),
                                            .warmup = tb_param_int(run, "warmup"),
                                            .steps = s->steps}};
}

/* The length in steps: known before the trainer, since its schedule needs it. */
static int64_t length_of(const tb_run *run, const train_state *s)
{
    int64_t steps = tb_param_int(run, "steps"), rows = tb_dataset_part(s->data, TB_SPLIT_TRAIN)->rows;
    if (s->is_text) rows = rows / s->context - 1;
    double per_epoch = floor((double)rows / (double)tb_param_int(run, "batch"));
    return steps > 0 ? steps : (int64_t)ceil(tb_param_num(run, "epochs") * per_epoch);
}

static tb_status open_comm(const tb_run *run, train_state *s)
{
    tb_comm_options options = {.deadline_ns = 300 * INT64_C(1000000000), .heap = tb_ctx_heap(s->ctx)};
    return tb_run_open_comm(run, NULL, &options, &s->comm);
}

static tb_status setup(const tb_run *run, void **out)
{
    train_state *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    tb_ctx_config c = {.threads = run->threads, .seed = run->seed, .device = run->device, .cores = run->cores,
                       .n_cores = run->n_cores};
    TB_TRY(tb_ctx_create(&c, &s->ctx));
    tb_ctx_enter(s->ctx);
    tb_ctx_set_bf16_products(s->ctx, strcmp(tb_param_str(run, "precision"), "bf16") == 0);
    tb_ctx_set_f16_products(s->ctx, strcmp(tb_param_str(run, "precision"), "f16") == 0);
    TB_TRY(open_comm(run, s));
    TB_TRY(tb_dataset_open(tb_param_str(run, "data"), &s->data));
    s->is_text = tb_dataset_kind(s->data) == TB_DATA_TEXT;
    s->context = s->is_text ? tb_param_int(run, "context") : 0;
    TB_TRY(tb_model_create(tb_param_str(run, "model"), TB_F32, &s->model));
    const char *start = tb_param_str(run, "start"), *resume = tb_param_str(run, "resume");
    if (start[0]) TB_TRY(tb_model_load(s->model, start));
    s->steps = length_of(run, s);
    tb_trainer_config config = config_of(run, s);
    TB_TRY(tb_trainer_create(&config, &s->trainer));
    if (resume[0]) TB_TRY(tb_trainer_load(s->trainer, resume));
    if (run->traced) TB_TRY(tb_profile_create(s->ctx, PROFILED_CALLS, &s->profile));
    tb_emit_fact(run, "data/train/sha256", tb_dataset_part(s->data, TB_SPLIT_TRAIN)->sha256);
    tb_emit_fact(run, "data/test/sha256", tb_dataset_part(s->data, TB_SPLIT_TEST)->sha256);
    tb_emit_fact(run, "model/spec", tb_model_spec(s->model));
    tb_emit_value(run, "params", "", (double)tb_params_numel(tb_model_params(s->model)));
    tb_emit_value(run, "steps", "", (double)s->steps);
    return TB_OK;
}

/* ---- the run ---- */
typedef struct counters {
    int64_t ns, mallocs, faults;
} counters;

static counters count_now(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (counters){tb_now_ns(), tb_malloc_is_counted() ? tb_malloc_calls() : 0, use.ru_minflt};
}

static tb_status timed_step(const tb_run *run, train_state *s, int64_t step)
{
    double loss;
    counters before = count_now();
    TB_TRY(tb_trainer_step(s->trainer, &loss));
    counters after = count_now();
    double ms = (double)(after.ns - before.ns) * 1e-6;
    tb_emit_sample(run, "loss", step, loss);
    tb_emit_sample(run, "step_ms", step, ms);
    tb_emit_sample(run, "samples_per_s", step, (double)tb_param_int(run, "batch") / ms * 1e3);
    if (tb_malloc_is_counted()) tb_emit_sample(run, "mallocs", step, (double)(after.mallocs - before.mallocs));
    tb_emit_sample(run, "page_faults", step, (double)(after.faults - before.faults));
    tb_run_headline(run, "loss", loss, "nats");
    return isfinite(loss) ? TB_OK
                          : TB_FAIL(TB_ERR_INVALID, "training: the loss is %g in step %lld", loss, (long long)step);
}

static tb_status profiled_step(const tb_run *run, train_state *s, int64_t step)
{
    int64_t start = tb_now_ns();
    tb_profile_on(s->profile, true);
    TB_TRY(timed_step(run, s, step));
    tb_profile_on(s->profile, false);
    tb_profile_span(s->profile, "step", start, tb_now_ns());
    return TB_OK;
}

static tb_status evaluate(const tb_run *run, train_state *s)
{
    tb_evaluation e;
    int64_t step = tb_trainer_steps(s->trainer);
    tb_run_phase(run, "evaluate", step, s->steps);
    TB_TRY(tb_evaluate(s->model, s->data, TB_SPLIT_TEST, s->is_text ? TEXT_EVAL_BATCH : IMAGE_EVAL_BATCH, s->context,
                       s->comm, &e));
    tb_emit_sample(run, "test_loss", step, e.loss);
    tb_emit_sample(run, "test_accuracy", step, e.accuracy);
    return TB_OK;
}

/* Rank 0 chooses how many steps take about a second until all look up from their work again. */
static tb_status sync(const tb_run *run, train_state *s, int64_t since_ns, int64_t *next, bool *stop)
{
    int64_t elapsed = tb_now_ns() - since_ns, steps = *next;
    double per_step = (double)elapsed / (double)steps;
    *next = per_step < 1e9 ? (int64_t)(1e9 / per_step) : 1;
    if (*next > 4 * steps) *next = 4 * steps;
    TB_TRY(tb_comm_bcast(s->comm, next, sizeof *next, 0, NULL, NULL));
    return tb_run_sync(run, stop);
}

static tb_status train(const tb_run *run, void *state)
{
    train_state *s = state;
    int64_t first = tb_trainer_steps(s->trainer), every = tb_param_int(run, "eval_every"), interval = 1, since = 0;
    int64_t start_ns = tb_now_ns();
    bool stop = false;
    for (int64_t step = first; step < s->steps && !stop; step++) {
        int64_t done = step - first;
        bool profiled = s->profile && done >= WARMUP_STEPS && done < WARMUP_STEPS + PROFILED_STEPS;
        tb_run_warming(run, done < WARMUP_STEPS || profiled);
        tb_run_phase(run, "train", step, s->steps);
        TB_TRY(profiled ? profiled_step(run, s, step) : timed_step(run, s, step));
        if (++since == interval) {
            TB_TRY(sync(run, s, start_ns, &interval, &stop));
            since = 0;
            start_ns = tb_now_ns();
        }
        if (every > 0 && (step + 1) % every == 0 && step + 1 < s->steps) {
            TB_TRY(evaluate(run, s));
            start_ns = tb_now_ns();
            since = 0;
        }
    }
    tb_run_warming(run, false);
    return TB_OK;
}

/* ---- the end ---- */
static void emit_memory(const tb_run *run, const train_state *s)
{
    tb_mem_stats m;
    tb_heap_stats(tb_ctx_heap(s->ctx), &m);
    tb_emit_value(run, "peak_bytes", "B", (double)m.peak_bytes);
    for (int t = 0; t < TB_MEM_TAGS; t++) {
        char name[64];
        snprintf(name, sizeof name, "peak_bytes.%s", tb_mem_tag_name((tb_mem_tag)t));
        tb_emit_value(run, name, "B", (double)m.at_peak_by_tag[t]);
    }
}

/* All ranks must hold the same weights: the hashes' first digits, as a number, least and largest over ranks. */
static tb_status emit_hash(const tb_run *run, const train_state *s)
{
    char hex[TB_SHA256_HEX], digits[14] = "";
    TB_TRY(tb_params_hash(tb_model_params(s->model), hex));
    memcpy(digits, hex, sizeof digits - 1);
    int64_t least = strtoll(digits, NULL, 16), most = least;
    TB_TRY(tb_comm_allreduce(s->comm, &least, 1, TB_I64, TB_REDUCE_MIN, NULL, NULL));
    TB_TRY(tb_comm_allreduce(s->comm, &most, 1, TB_I64, TB_REDUCE_MAX, NULL, NULL));
    tb_emit_text(run, "weights_hash", hex);
    tb_emit_check(run, "ranks_differ", "parity", least != most, 0, "the ranks' weights differ");
    return TB_OK;
}

static tb_status emit_references(const tb_run *run, const train_state *s)
{
    const tb_data_part *a = tb_dataset_part(s->data, TB_SPLIT_TRAIN), *b = tb_dataset_part(s->data, TB_SPLIT_TEST);
    int64_t bytes = a->rows + b->rows; /* the parts lie side by side */
    double packed;
    TB_TRY(tb_bzip2_entropy(a->bytes, bytes, &packed));
    tb_emit_sample(run, "unigram_nats", 0, tb_unigram_entropy(a->bytes, bytes));
    tb_emit_sample(run, "bzip2_nats", 0, packed);
    return TB_OK;
}

static tb_status emit_sample_text(const tb_run *run, const train_state *s)
{
    int64_t n = tb_param_int(run, "sample_bytes");
    const char *prompt = tb_param_str(run, "sample_prompt");
    size_t n_prompt = strlen(prompt);
    tb_sampling how = {.temperature = tb_param_num(run, "temperature"), .context = s->context, .seed = run->seed};
    if (n == 0) return TB_OK;
    char *text = tb_calloc(n_prompt + (size_t)n + 1, 1);
    if (!text) return TB_ERR_OOM;
    memcpy(text, prompt, n_prompt);
    tb_status st = tb_sample_text(s->model, &how, (const uint8_t *)prompt, (int64_t)n_prompt, n,
                                  (uint8_t *)text + n_prompt);
    for (size_t i = n_prompt; st == TB_OK && i < n_prompt + (size_t)n; i++)
        if ((unsigned char)text[i] >= 0x80 || ((unsigned char)text[i] < 0x20 && !strchr("\n\t", text[i])))
            text[i] = '?';
    if (st == TB_OK) tb_emit_text(run, "sample", text);
    tb_free(text);
    return st;
}

static tb_status emit_profile(const tb_run *run, const train_state *s)
{
    tb_text trace = {0}, table = {0};
    tb_profile_trace(s->profile, run->rank, &trace);
    tb_status st = tb_profile_table(s->profile, &table);
    if (st == TB_OK && trace.failed) st = TB_ERR_OOM;
    if (st == TB_OK) {
        tb_emit_text(run, "profile", tb_text_str(&table));
        tb_emit_text(run, "trace", tb_text_str(&trace));
    }
    tb_text_free(&trace);
    tb_text_free(&table);
    return st;
}

static tb_status finish(const tb_run *run, void *state)
{
    train_state *s = state;
    const char *save = tb_param_str(run, "save");
    emit_memory(run, s);
    const tb_loss_scale *scaling = tb_trainer_loss_scale(s->trainer);
    if (scaling) {
        tb_emit_value(run, "loss_scale", "", scaling->scale);
        tb_emit_value(run, "steps_skipped", "", (double)scaling->skipped);
    }
    if (s->profile) TB_TRY(emit_profile(run, s));
    TB_TRY(evaluate(run, s));
    TB_TRY(emit_hash(run, s));
    if (run->rank == 0 && save[0]) TB_TRY(tb_trainer_save(s->trainer, save));
    if (run->rank > 0 || !s->is_text) return TB_OK;
    TB_TRY(emit_references(run, s));
    return emit_sample_text(run, s);
}

static void teardown(void *state)
{
    train_state *s = state;
    if (!s) return;
    tb_profile_destroy(s->profile);
    tb_trainer_destroy(s->trainer);
    tb_model_destroy(s->model);
    tb_dataset_close(s->data);
    tb_run_close_comm(s->comm);
    tb_ctx_destroy(s->ctx);
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"params", "steps",   "peak_bytes", "peak_bytes.*", "ranks_differ",  "weights_hash",
                                    "sample", "profile", "trace",      "loss_scale",   "steps_skipped", NULL};

TB_DRIVER(train, .version = 1, .doc = "a training run: loss, test result, speed, memory, allocations", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics, .n_metrics = sizeof metrics / sizeof metrics[0],
          .emits = emits, .setup = setup, .run = train, .finish = finish, .teardown = teardown);
