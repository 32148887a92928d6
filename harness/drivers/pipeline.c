/* pipeline: trains a model that is cut into stages over the ranks, by a schedule, and counts what each rank holds.
 *
 * Held bytes are predicted on the meta device before the first step and must be what the allocator counts, exactly.
 * The first steps are also done by plain accumulation on one rank: the weights must be equal to the last bit. With
 * `replicas` as many pipelines share a step: ranks are numbered pipeline by pipeline, and the one rank folds each one's
 * micro-batches by itself, then adds the sums by the pairwise tree. */
#include "pipeline_model.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_cpu.h"
#include "tb_data.h"
#include "tb_driver.h"
#include "tb_ops.h"
#include "tb_pipeline.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARMUP_STEPS = 2 };
static const int64_t patience_ns = INT64_C(300000000000); /* the others wait while rank 0 makes the reference */

static const tb_key keys[] = {
    {"model", TB_KEY_STR, "", 0, 0, NULL, NULL, "model and its options: name:key=value,key=value"},
    {"data", TB_KEY_STR, "", 0, 0, NULL, "fashion-mnist", "data set"},
    {"context", TB_KEY_INT, "tokens", 1, 65536, NULL, "64", "text: tokens of a row"},
    {"schedule", TB_KEY_CHOICE, "", 0, 0, "accumulate|gpipe|1f1b|interleaved_1f1b|zb_h1", "1f1b",
     "order of a step; accumulate: one rank, no pipeline; interleaved: 2 stages a rank"},
    {"replicas", TB_KEY_INT, "", 1, 256, NULL, "1", "pipelines side by side, each with its own micro-batches"},
    {"full_batch", TB_KEY_BOOL, "", 0, 0, NULL, "false", "the micro-batches of a step in one piece (accumulate)"},
    {"microbatches", TB_KEY_INT, "", 1, 4096, NULL, "8", "pieces of a step's batch, on each pipeline"},
    {"rows", TB_KEY_INT, "rows", 1, 65536, NULL, "8", "of one micro-batch"},
    {"recompute", TB_KEY_BOOL, "", 0, 0, NULL, "false", "keep the blocks' inputs alone, run them again in backward"},
    {"backend", TB_KEY_CHOICE, "", 0, 0, "auto|shm|mpi", "auto", "what moves messages; auto: the fastest for all"},
    {"checked_steps", TB_KEY_INT, "steps", 1, 1 << 20, NULL, "2", "behind which weights must be those of one rank"},
    {"steps", TB_KEY_INT, "", 1, 1000000, NULL, "10", "timed steps"},
    {"rate", TB_KEY_NUM, "", 0, 1e3, NULL, "1e-3", "learning rate of AdamW"},
    {"project", TB_KEY_INT, "ranks", 0, 1024, NULL, "0", "also model the step of so many ranks of a cluster; 0: no"},
    {"project_stages", TB_KEY_INT, "", 0, 1024, NULL, "0", "of them, a pipeline; the rest are its replicas; 0: all"},
    {"ranks_per_node", TB_KEY_INT, "", 1, 1024, NULL, "8", "of the cluster; within a node the link measured here"},
    {"far_latency_us", TB_KEY_NUM, "us", 0, 1e6, NULL, "5", "of the cluster, between nodes"},
    {"far_gb_per_s", TB_KEY_NUM, "GB/s", 1e-3, 1e6, NULL, "12.5", "of the cluster, between nodes"},
};

static const tb_metric metrics[] = {
    {.name = "step_ms",
     .unit = "ms",
     .dir = "lower",
     .kind = "ratio",
     .reduce = "max",
     .scope = "",
     .statistic = "median",
     .margin = 0.05},
    {.name = "samples_per_s",
     .unit = "samples/s",
     .dir = "higher",
     .kind = "ratio",
     .reduce = "min",
     .scope = "",
     .statistic = "median",
     .margin = 0.05},
    {.name = "rank0_bytes",
     .unit = "B",
     .dir = "lower",
     .kind = "exact",
     .reduce = "rank0",
     .scope = "measured",
     .statistic = "max",
     .deterministic = 1},
    {.name = "most_bytes",
     .unit = "B",
     .dir = "lower",
     .kind = "exact",
     .reduce = "max",
     .scope = "measured",
     .statistic = "max",
     .deterministic = 1},
    {.name = "sum_bytes",
     .unit = "B",
     .dir = "lower",
     .kind = "exact",
     .reduce = "sum",
     .scope = "measured",
     .statistic = "max",
     .deterministic = 1},
#define MODELLED(name_, unit_, dir_)                                                                                   \
    {                                                                                                                  \
        .name = name_, .unit = unit_, .dir = dir_, .kind = "trend", .reduce = "rank0", .scope = "modelled",            \
        .statistic = "last", .margin = 0.1                                                                             \
    }
    MODELLED("modelled_samples_per_s", "samples/s", "higher"),
    MODELLED("modelled_efficiency", "", "higher"),
    MODELLED("modelled_step_ms", "ms", "lower"),
    MODELLED("modelled_bubble", "", "lower"),
    MODELLED("modelled_exposed_ms", "ms", "lower"),
    MODELLED("modelled_peak_bytes", "B", "lower"),
    {.name = "model_error",
     .unit = "",
     .dir = "lower",
     .kind = "trend",
     .reduce = "rank0",
     .scope = "measured",
     .statistic = "last",
     .margin = 0.1},
    {.name = "loss",
     .unit = "",
     .dir = "lower",
     .kind = "curve",
     .reduce = "rank0",
     .scope = "measured",
     .statistic = "last",
     .margin = 0.05},
};

/* One arrangement of the training: a context of its own with model, data and executor. */
typedef struct arrangement {
    tb_ctx *ctx;
    tb_schedule *schedule;
    int *cuts;
    tb_model *model;
    tb_optim *optim;
    tb_loader *loader;
    tb_tensor *count; /* labels of a step */
    int64_t pieces;   /* micro-batches of a step, of all pipelines */
    tb_pipeline *pipeline;
} arrangement;

typedef struct state {
    const tb_run *run;
    tb_dataset *data;
    tb_comm *world, *comm, *replicas; /* all ranks; those of this pipeline; those with this one's stages. NULL: one */
    int n_replicas, replica, ranks, rank; /* ranks: of a pipeline */
    arrangement own;
    tb_stage_bytes *bytes; /* [stages] predicted */
    tb_rank_peak *peaks, *gpipe_peaks; /* [ranks] */
    int64_t microbatches, rows, time;
    bool keeps_events, keeps_costs;
    tb_action_costs costs; /* of every second timed step, where there is a cluster to model; */
    double judged_ns;      /* the steps between judge the model, summed */
    int64_t judged;
} state;

/* ---- micro-batches ---- */
static tb_status load(const arrangement *a, int64_t step, int64_t microbatch, tb_batch *out)
{
    TB_TRY(tb_loader_seek(a->loader, step * a->pieces + microbatch));
    return tb_loader_next(a->loader, out);
}

static tb_tensor *input(void *arg, int64_t step, int64_t microbatch)
{
    tb_batch batch;
    return load(arg, step, microbatch, &batch) == TB_OK ? batch.x : tb_poison();
}

static tb_tensor *loss(void *arg, int64_t step, int64_t microbatch, tb_tensor *output)
{
    const arrangement *a = arg;
    tb_batch batch;
    if (load(a, step, microbatch, &batch) != TB_OK) return tb_poison();
    return tb_cross_entropy(output, batch.y, &(tb_ce_opts){.count = a->count});
}

/* ---- arrangements ---- */
static bool is_plain(const char *schedule) { return strcmp(schedule, "accumulate") == 0; }

static tb_status make_schedule(const state *s, const char *name, int ranks, tb_schedule **out)
{
    tb_schedule_config c = {.ranks = ranks, .microbatches = (int)s->microbatches};
    if (strcmp(name, "interleaved_1f1b") == 0) c.chunks = 2;
    return tb_schedule_make(name, &c, out);
}

/* Cuts so that the stage that keeps most for its backward pass keeps as little as possible: every block is probed as
 * a stage of its own, with the model of the current (meta) context. */
static tb_status find_cuts(const arrangement *a, tb_pipeline_config c, int *cuts)
{
    int blocks = tb_model_blocks(a->model);
    tb_schedule *each = NULL;
    tb_stage_bytes *bytes = tb_calloc((size_t)blocks, sizeof *bytes);
    double *cost = tb_calloc((size_t)blocks, sizeof *cost);
    int *ones = tb_calloc((size_t)blocks + 1, sizeof *ones);
    tb_status st = bytes && cost && ones ? TB_OK : TB_ERR_OOM;
    for (int b = 0; st == TB_OK && b <= blocks; b++) ones[b] = b;
    if (st == TB_OK)
        st = tb_schedule_make("accumulate", &(tb_schedule_config){.ranks = 1, .microbatches = 1, .chunks = blocks},
                              &each);
    c.schedule = each;
    c.cuts = ones;
    c.recompute = false;
    if (st == TB_OK) st = tb_pipeline_stage_bytes(&c, bytes);
    for (int b = 0; st == TB_OK && b < blocks; b++) cost[b] = (double)bytes[b].act;
    if (st == TB_OK) st = tb_pipeline_cut(blocks, cost, a->schedule->stages, cuts);
    tb_schedule_free(each);
    tb_free(bytes);
    tb_free(cost);
    tb_free(ones);
    return st;
}

typedef struct filter {
    const arrangement *a;
    int rank;
} filter;

static bool is_held(void *arg, int block)
{
    const filter *f = arg;
    int stage = 0;
    while (f->a->cuts[stage + 1] <= block) stage++;
    return f->a->schedule->placement[stage] == f->rank;
}

static tb_pipeline_config config_of(const state *s, arrangement *a)
{
    return (tb_pipeline_config){.schedule = a->schedule, .model = a->model, .cuts = a->cuts, .rows = s->rows,
                                .time = s->time, .recompute = tb_param_bool(s->run, "recompute"),
                                .source = {input, loss, a}, .optim = a->optim};
}

/* Context, schedule, model, data; `rank` < 0: all blocks. Cuts must be there for a rank's part. */
static tb_status open_base(const state *s, arrangement *a, const char *schedule, int ranks, int rank,
                           const char *device)
{
    const tb_run *run = s->run;
    bool is_real = strcmp(device, "meta") != 0;
    a->pieces = s->microbatches * s->n_replicas;
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.threads = is_real ? run->threads : 1, .seed = run->seed, .device = device,
                                          .cores = is_real ? run->cores : NULL, .n_cores = is_real ? run->n_cores : 0},
                         &a->ctx));
    tb_ctx_enter(a->ctx);
    if (!a->schedule) TB_TRY(make_schedule(s, schedule, ranks, &a->schedule));
    filter f = {a, rank};
    TB_TRY(tb_model_create_part(tb_param_str(run, "model"), TB_F32, rank < 0 ? NULL : is_held, &f, &a->model));
    TB_TRY(tb_params_make_arena(tb_model_params(a->model), false));
    TB_TRY(tb_loader_open(&(tb_loader_config){.data = s->data,
                                              .split = TB_SPLIT_TRAIN,
                                              .mode = TB_LOAD_TRAIN,
                                              .batch = s->rows * a->pieces,
                                              .pieces = (int)a->pieces,
                                              .context = s->time,
                                              .seed = run->seed},
                          &a->loader));
    a->count = tb_retain(tb_scalar(TB_I64, (double)(s->rows * a->pieces * s->time)));
    return tb_ctx_take_error(a->ctx);
}

static void on_action(void *arg, const tb_action *a, int64_t t0_ns, int64_t t1_ns, int64_t held)
{
    static const char *const names[TB_ACTION_KINDS] = {"forward", "backward", "input grad", "weight grad", "send",
                                                       "receive", "send", "receive", "reduce", "update"};
    state *s = arg;
    (void)held;
    if (s->costs.sum_ns && s->keeps_costs) tb_action_costs_add(&s->costs, a, t1_ns - t0_ns);
    if (s->keeps_events && a->kind != TB_DO_REDUCE)
        tb_emit_event(s->run, names[a->kind], "", a->stage, a->microbatch, t0_ns, t1_ns);
}

static tb_status open_optim(const state *s, arrangement *a)
{
    tb_optim_config adamw = {.kind = TB_OPTIM_ADAMW, .rate = tb_param_num(s->run, "rate"), .decay = 0.1};
    return tb_optim_create(tb_model_params(a->model), &adamw, &a->optim);
}

static tb_status open_trainer(state *s, arrangement *a)
{
    TB_TRY(open_optim(s, a));
    tb_pipeline_config c = config_of(s, a);
    c.comm = s->comm;
    c.replicas = s->replicas;
    c.first_microbatch = s->replica * s->microbatches;
    c.on_action = on_action;
    c.on_action_arg = s;
    return tb_pipeline_create(&c, &a->pipeline);
}

static void close_arrangement(arrangement *a)
{
    if (!a->ctx) return;
    tb_ctx_enter(a->ctx);
    tb_pipeline_destroy(a->pipeline);
    tb_optim_destroy(a->optim);
    tb_loader_close(a->loader);
    tb_release(a->count);
    tb_model_destroy(a->model);
    tb_schedule_free(a->schedule);
    tb_free(a->cuts);
    (void)tb_ctx_destroy(a->ctx);
    *a = (arrangement){0};
}

/* ---- before the first step ---- */
/* On the meta device: where to cut, the bytes of each stage, what each rank will hold, and what GPipe would. */
static tb_status predict(state *s, const char *schedule)
{
    arrangement meta = {0};
    tb_schedule *gpipe = NULL;
    tb_status st = open_base(s, &meta, schedule, s->ranks, -1, "meta");
    if (st != TB_OK) goto cleanup;
    size_t stages = (size_t)meta.schedule->stages;
    int *cuts = s->own.cuts = tb_calloc(stages + 1, sizeof *cuts);
    s->bytes = tb_calloc(stages, sizeof *s->bytes);
    s->peaks = tb_calloc((size_t)s->ranks, sizeof *s->peaks);
    s->gpipe_peaks = tb_calloc((size_t)s->ranks, sizeof *s->gpipe_peaks);
    if (!cuts || !s->bytes || !s->peaks || !s->gpipe_peaks) {
        st = TB_ERR_OOM;
        goto cleanup;
    }
    tb_pipeline_config c = config_of(s, &meta);
    TB_GO(find_cuts(&meta, c, cuts));
    c.cuts = cuts;
    TB_GO(tb_pipeline_stage_bytes(&c, s->bytes));
    tb_schedule_peaks(meta.schedule, s->bytes, s->peaks);
    if (meta.schedule->stages == s->ranks) { /* other stages would be other bytes */
        TB_GO(make_schedule(s, "gpipe", s->ranks, &gpipe));
        tb_schedule_peaks(gpipe, s->bytes, s->gpipe_peaks);
    }
    s->own.schedule = meta.schedule;
    meta.schedule = NULL;
cleanup:
    tb_schedule_free(gpipe);
    close_arrangement(&meta);
    return st;
}

static tb_status check_setting(const state *s, const char *schedule)
{
    const tb_run *run = s->run;
    if (tb_param_int(run, "project") > 0 && (run->ranks < 2 || s->n_replicas > 1))
        return TB_FAIL(TB_ERR_CONFIG, "params.project models from one pipeline on launch.ranks 2 or more");
    if (tb_param_int(run, "project") > 0 && tb_param_int(run, "steps") < 2)
        return TB_FAIL(TB_ERR_CONFIG,
                       "params.project wants params.steps 2 or more: some give costs, others judge them");
    if (!is_plain(schedule) && tb_param_bool(run, "full_batch"))
        return TB_FAIL(TB_ERR_CONFIG, "params.full_batch has no micro-batches for params.schedule %s", schedule);
    if (run->ranks % s->n_replicas)
        return TB_FAIL(TB_ERR_CONFIG, "launch.ranks %d are no whole number of ranks for params.replicas %d", run->ranks,
                       s->n_replicas);
    if (is_plain(schedule) && s->ranks != 1)
        return TB_FAIL(TB_ERR_CONFIG, "params.schedule %s runs on one rank a replica: launch.ranks %d, not %d",
                       schedule, s->n_replicas, run->ranks);
    return TB_OK;
}

static tb_status open_groups(state *s)
{
    const tb_run *run = s->run;
    const char *backend = tb_param_str(run, "backend");
    if (run->ranks == 1) return TB_OK;
    if (strcmp(backend, "auto") == 0) backend = NULL;
    TB_TRY(tb_run_open_comm(run, backend, &(tb_comm_options){.deadline_ns = patience_ns}, &s->world));
    if (s->n_replicas == 1) {
        s->comm = s->world; /* not split: the flight record is of the group that was opened */
        return TB_OK;
    }
    TB_TRY(tb_comm_split(s->world, s->replica, &s->comm));
    return tb_comm_split(s->world, s->rank, &s->replicas);
}

static tb_status open_own(state *s, const char *schedule)
{
    TB_TRY(predict(s, schedule));
    TB_TRY(open_base(s, &s->own, schedule, s->ranks, s->rank, s->run->device));
    TB_TRY(open_groups(s));
    if (tb_param_int(s->run, "project") > 0) TB_TRY(tb_action_costs_open(&s->costs, s->own.schedule->stages));
    return open_trainer(s, &s->own);
}

static tb_status setup(const tb_run *run, void **out)
{
    const char *schedule = tb_param_str(run, "schedule");
    state *s = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    *out = s;
    s->run = run;
    s->n_replicas = (int)tb_param_int(run, "replicas");
    s->ranks = run->ranks / s->n_replicas;
    s->rank = s->ranks ? run->rank % s->ranks : 0;
    s->replica = s->ranks ? run->rank / s->ranks : 0;
    TB_TRY(check_setting(s, schedule));
    TB_TRY(tb_dataset_open(tb_param_str(run, "data"), &s->data));
    bool full = tb_param_bool(run, "full_batch");
    s->microbatches = full ? 1 : tb_param_int(run, "microbatches");
    s->rows = tb_param_int(run, "rows") * (full ? tb_param_int(run, "microbatches") : 1);
    s->time = tb_dataset_kind(s->data) == TB_DATA_TEXT ? tb_param_int(run, "context") : 1;
    return open_own(s, schedule);
}

/* ---- the weights of plain accumulation ---- */
/* An arrangement on one rank and, over its model, a pipeline of one stage for each replica's share of a step. */
typedef struct reference {
    arrangement one;
    tb_pipeline **shares; /* [replicas]; they leave their gradients where they are */
    float **sums;         /* [replicas] gradients of a share */
    size_t bytes;
} reference;

static tb_status open_reference(const state *s, reference *r)
{
    size_t n = (size_t)s->n_replicas;
    r->shares = tb_calloc(n, sizeof *r->shares);
    r->sums = tb_calloc(n, sizeof *r->sums);
    r->one.cuts = tb_calloc(2, sizeof *r->one.cuts);
    if (!r->shares || !r->sums || !r->one.cuts) return TB_ERR_OOM;
    TB_TRY(open_base(s, &r->one, "accumulate", 1, -1, s->run->device));
    r->one.cuts[1] = tb_model_blocks(r->one.model);
    TB_TRY(open_optim(s, &r->one));
    r->bytes = tb_tensor_bytes(tb_params_arena(tb_model_params(r->one.model)));
    for (int i = 0; i < s->n_replicas; i++) {
        tb_pipeline_config c = config_of(s, &r->one);
        c.optim = NULL;
        c.first_microbatch = i * s->microbatches;
        TB_TRY(tb_pipeline_create(&c, &r->shares[i]));
        if (!(r->sums[i] = tb_calloc(1, r->bytes))) return TB_ERR_OOM;
    }
    return TB_OK;
}

static void close_reference(const state *s, reference *r)
{
    if (r->one.ctx) tb_ctx_enter(r->one.ctx);
    for (int i = 0; i < s->n_replicas; i++) {
        if (r->shares) tb_pipeline_destroy(r->shares[i]);
        if (r->sums) tb_free(r->sums[i]);
    }
    tb_free(r->shares);
    tb_free(r->sums);
    if (r->one.ctx)
        close_arrangement(&r->one);
    else
        tb_free(r->one.cuts);
}

/* The pairwise tree in the order of replicas, as ranks sum. */
static void add_shares(float **sums, int n, int64_t count)
{
    for (int step = 1; step < n; step *= 2)
        for (int r = 0; r + step < n; r += 2 * step)
            for (int64_t i = 0; i < count; i++) sums[r][i] += sums[r + step][i];
}

static tb_status reference_step(const state *s, reference *r)
{
    tb_params *ps = tb_model_params(r->one.model);
    tb_tensor *arena = tb_params_arena(ps);
    double value;
    for (int i = 0; i < s->n_replicas; i++) {
        tb_params_clear_grads(ps);
        TB_TRY(tb_pipeline_step(r->shares[i], &value));
        TB_TRY(tb_tensor_read(arena, r->sums[i], r->bytes));
    }
    add_shares(r->sums, s->n_replicas, (int64_t)(r->bytes / sizeof **r->sums));
    TB_TRY(tb_tensor_write(arena, r->sums[0], r->bytes));
    return tb_optim_step(r->one.optim);
}

static tb_status reference_hash(const state *s, char hex[65])
{
    reference r = {0};
    int64_t steps = tb_param_int(s->run, "checked_steps");
    tb_status st = open_reference(s, &r);
    for (int64_t i = 0; st == TB_OK && i < steps; i++) st = reference_step(s, &r);
    if (st == TB_OK) st = tb_pipeline_weights_hash(r.shares[0], hex);
    close_reference(s, &r);
    return st;
}

static tb_status check(const tb_run *run, void *arg)
{
    state *s = arg;
    char hash[65], before[65], wanted[65] = "";
    double value = 0, first = 0;
    int64_t steps = tb_param_int(run, "checked_steps");
    tb_run_phase(run, "reference", -1, 0);
    if (run->rank == 0) TB_TRY(reference_hash(s, wanted));
    if (s->world) TB_TRY(tb_comm_bcast(s->world, wanted, sizeof wanted, 0, NULL, NULL));
    tb_ctx_enter(s->own.ctx);
    TB_TRY(tb_pipeline_weights_hash(s->own.pipeline, before));
    tb_run_phase(run, "check", -1, 0);
    for (int64_t i = 0; i < steps; i++) {
        TB_TRY(tb_pipeline_step(s->own.pipeline, &value));
        if (i == 0) first = value;
    }
    tb_emit_value(run, "loss.first", "", first);
    tb_emit_value(run, "loss.last", "", value);
    TB_TRY(tb_pipeline_weights_hash(s->own.pipeline, hash));
    tb_pipeline_memory m;
    tb_pipeline_get_memory(s->own.pipeline, &m);
    const tb_rank_peak *peak = &s->peaks[s->rank];
    tb_emit_check(run, "held_bytes.difference", "parity", (double)llabs(m.held_bytes - peak->held_bytes), 0,
                  "held bytes differ from those predicted on the meta device");
    tb_emit_check(run, "act_bytes.difference", "parity", (double)llabs(m.act_bytes - peak->act_bytes), 0,
                  "activation bytes differ from those predicted on the meta device");
    if (s->rank != 0) return TB_OK; /* the first stage of each pipeline has the hash of its weights */
    tb_emit_check(run, "weights.differ", "parity", strcmp(hash, wanted) != 0, 0,
                  "weights differ from those of plain accumulation on one rank");
    tb_emit_check(run, "weights.stood_still", "parity", strcmp(hash, before) == 0, 0, "training changed no weight");
    return TB_OK;
}

/* ---- steps ---- */
static void emit_step(const state *s, int64_t step, double ms, double value)
{
    const tb_run *run = s->run;
    tb_pipeline_memory m;
    tb_pipeline_get_memory(s->own.pipeline, &m);
    double bytes = (double)(m.static_bytes + m.held_bytes);
    tb_emit_sample(run, "step_ms", step, ms);
    tb_emit_sample(run, "samples_per_s", step, (double)(s->rows * s->own.pieces) / ms * 1e3);
    tb_emit_sample(run, "rank0_bytes", step, bytes);
    tb_emit_sample(run, "most_bytes", step, bytes);
    tb_emit_sample(run, "sum_bytes", step, bytes);
    tb_emit_sample(run, "loss", step, value);
}

static tb_status run_steps(const tb_run *run, void *arg)
{
    state *s = arg;
    int64_t steps = tb_param_int(run, "steps");
    bool stop = false;
    for (int64_t i = 0; i < WARMUP_STEPS + steps && !stop; i++) {
        double value;
        tb_run_warming(run, i < WARMUP_STEPS);
        tb_run_phase(run, "step", i, WARMUP_STEPS + steps);
        TB_TRY(tb_run_barrier(run));
        s->keeps_costs = i >= WARMUP_STEPS && i % 2 == 0;
        s->keeps_events = i + 1 == WARMUP_STEPS + steps;
        int64_t t0 = tb_now_ns();
        TB_TRY(tb_pipeline_step(s->own.pipeline, &value));
        int64_t ns = tb_now_ns() - t0;
        emit_step(s, i, (double)ns * 1e-6, value);
        if (i >= WARMUP_STEPS && !s->keeps_costs) s->judged_ns += (double)ns, s->judged++;
        tb_run_headline(run, "loss", value, "");
        TB_TRY(tb_run_sync(run, &stop));
    }
    return TB_OK;
}

/* ---- what came out ---- */
/* Micro-batches in flight on a rank of one stage, by the formulas; 0: this schedule has none here. */
static int64_t in_flight(const char *schedule, int64_t m, int ranks, int rank)
{
    bool flush = strcmp(schedule, "1f1b") == 0;
    if (is_plain(schedule)) return 1;
    if (strcmp(schedule, "gpipe") == 0) return m;
    return flush ? (m < ranks - rank ? m : ranks - rank) : 0;
}

static void emit_memory(const state *s)
{
    const tb_run *run = s->run;
    tb_pipeline_memory m;
    tb_pipeline_get_memory(s->own.pipeline, &m);
    const tb_rank_peak *peak = &s->peaks[s->rank], *gpipe = &s->gpipe_peaks[s->rank];
    int64_t flying = in_flight(tb_param_str(run, "schedule"), s->microbatches, s->ranks, s->rank);
    tb_emit_value(run, "static_bytes", "B", (double)m.static_bytes);
    tb_emit_value(run, "held_bytes", "B", (double)m.held_bytes);
    tb_emit_value(run, "predicted_held_bytes", "B", (double)peak->held_bytes);
    tb_emit_value(run, "act_bytes", "B", (double)m.act_bytes);
    if (flying) tb_emit_value(run, "formula_act_bytes", "B", (double)(flying * s->bytes[s->rank].act));
    tb_emit_value(run, "transient_peak_bytes", "B", (double)m.peak_bytes);
    tb_emit_value(run, "graph_bytes", "B", (double)m.held_by_tag[TB_MEM_OTHER]);
    if (gpipe->held_bytes) {
        double all = (double)(m.static_bytes + gpipe->held_bytes);
        tb_emit_value(run, "saved_against_gpipe", "", 1 - (double)(m.static_bytes + m.held_bytes) / all);
        tb_emit_value(run, "static_to_gpipe_act", "", (double)m.static_bytes / (double)gpipe->act_bytes);
    }
    for (int t = 0; t < TB_MEM_TAGS; t++) {
        char name[64];
        snprintf(name, sizeof name, "held_bytes.%s", tb_mem_tag_name((tb_mem_tag)t));
        if (m.held_by_tag[t]) tb_emit_value(run, name, "B", (double)m.held_by_tag[t]);
    }
}

/* ---- elsewhere ---- */
/* Of the whole arrangement: micro-batches of all replicas. */
static void emit_projection(const state *s, const tb_cluster *c, int64_t microbatches, const tb_projection *p)
{
    const tb_run *run = s->run;
    double rows = (double)(s->rows * microbatches * c->replicas);
    tb_emit_sample(run, "modelled_samples_per_s", 0, rows / p->step_ns * 1e9);
    tb_emit_sample(run, "modelled_efficiency", 0, p->busy);
    tb_emit_sample(run, "modelled_step_ms", 0, p->step_ns * 1e-6);
    tb_emit_sample(run, "modelled_bubble", 0, p->bubble);
    tb_emit_sample(run, "modelled_exposed_ms", 0, p->exposed_ns * 1e-6);
    tb_emit_sample(run, "modelled_peak_bytes", 0, (double)p->peak_bytes);
}

/* Micro-batches per stage stay what they are here. Behind it the error of the same model for the ranks that ran, in
 * steps that its costs were not taken from. */
static tb_status project(const state *s)
{
    const tb_run *run = s->run;
    int ranks = (int)tb_param_int(run, "project"), stages = (int)tb_param_int(run, "project_stages");
    tb_cluster c = {.stages = stages && stages < ranks ? stages : ranks,
                    .ranks_per_node = (int)tb_param_int(run, "ranks_per_node"),
                    .far = {tb_param_num(run, "far_latency_us") * 1e3, 1 / tb_param_num(run, "far_gb_per_s")}};
    tb_projection p;
    double here_ns, steps_ns = s->judged_ns / (double)s->judged;
    tb_stage_time *times = tb_calloc((size_t)s->costs.stages, sizeof *times);
    if (!times) return TB_ERR_OOM;
    tb_status st = tb_action_costs_gather(&s->costs, s->comm, times);
    if (st == TB_OK) st = tb_measure_link(s->comm, &c.near);
    if (st == TB_OK && ranks % c.stages)
        st = TB_FAIL(TB_ERR_CONFIG, "params.project %d is no multiple of params.project_stages %d", ranks, c.stages);
    if (st != TB_OK || run->rank != 0) goto cleanup;
    c.replicas = ranks / c.stages;
    int64_t microbatches = s->microbatches * c.stages / run->ranks;
    double grad_bytes = (double)(tb_params_numel(tb_model_params(s->own.model)) * (int64_t)sizeof(float));
    TB_GO(tb_predict_step(s->own.schedule, times, s->bytes, &c.near, &here_ns));
    TB_GO(tb_project(s->own.schedule, times, s->bytes, grad_bytes, (int)microbatches, &c, &p));
    tb_emit_sample(run, "model_error", 0, fabs(here_ns - steps_ns) / steps_ns);
    tb_emit_value(run, "predicted_step_ms", "ms", here_ns * 1e-6);
    tb_emit_value(run, "link.latency_us", "us", c.near.latency_ns * 1e-3);
    tb_emit_value(run, "link.gb_per_s", "GB/s", c.near.ns_per_byte > 0 ? 1 / c.near.ns_per_byte : 0);
    emit_projection(s, &c, microbatches, &p);
cleanup:
    tb_free(times);
    return st;
}

static tb_status finish(const tb_run *run, void *arg)
{
    const state *s = arg;
    char hash[65];
    tb_ctx_enter(s->own.ctx);
    if (s->costs.sum_ns) TB_TRY(project(s));
    TB_TRY(tb_pipeline_weights_hash(s->own.pipeline, hash));
    emit_memory(s);
    if (run->rank != 0) return TB_OK;
    tb_text text = {0};
    TB_TRY(tb_schedule_write(s->own.schedule, &text));
    tb_emit_text(run, "schedule", tb_text_str(&text));
    tb_text_free(&text);
    tb_emit_text(run, "weights_hash", hash);
    tb_emit_fact(run, "data/train/sha256", tb_dataset_part(s->data, TB_SPLIT_TRAIN)->sha256);
    tb_emit_fact(run, "model/spec", tb_model_spec(s->own.model));
    tb_emit_fact(run, "comm/backend", s->world ? tb_comm_backend(s->world) : "none");
    return TB_OK;
}

static void teardown(void *arg)
{
    state *s = arg;
    if (!s) return;
    close_arrangement(&s->own);
    tb_comm_close(s->replicas);
    if (s->comm != s->world) tb_comm_close(s->comm);
    tb_run_close_comm(s->world);
    tb_dataset_close(s->data);
    tb_free(s->bytes);
    tb_free(s->peaks);
    tb_free(s->gpipe_peaks);
    tb_action_costs_close(&s->costs);
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"static_bytes",
                                    "held_bytes",
                                    "held_bytes.*",
                                    "predicted_held_bytes",
                                    "act_bytes",
                                    "act_bytes.difference",
                                    "formula_act_bytes",
                                    "transient_peak_bytes",
                                    "graph_bytes",
                                    "saved_against_gpipe",
                                    "static_to_gpipe_act",
                                    "weights.differ",
                                    "weights.stood_still",
                                    "weights_hash",
                                    "loss.first",
                                    "loss.last",
                                    "schedule",
                                    "predicted_step_ms",
                                    "link.latency_us",
                                    "link.gb_per_s",
                                    NULL};

TB_DRIVER(pipeline, .version = 1, .doc = "training cut into stages: memory, time and weights of a pipeline schedule",
          .keys = keys, .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics,
          .n_metrics = sizeof metrics / sizeof metrics[0], .emits = emits,
          .setup = setup, .check = check, .run = run_steps,
          .finish = finish, .teardown = teardown);
