/* ddp: steps of data-parallel training, timed: every rank has the model and `rows` rows of the step's batch.
 *
 * What the ranks learn is compared first: a rank that does the whole batch alone must get the same weights, to the
 * last bit. `sync: false` leaves the sums out, so that the ranks only contend for the machine: with the times of one
 * rank, of ranks without sums and of ranks with them, efficiency is contention x communication. */
#include "peer.h"
#include "stats.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_cpu.h"
#include "tb_data.h"
#include "tb_ddp.h"
#include "tb_driver.h"
#include "tb_model.h"
#include "tb_ops.h"
#include "tb_optim.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINK_ROUNDS = 30, LINK_SMALL = 2, LINK_LARGE = 1 << 20 };
static const int64_t patience_ns = INT64_C(300000000000); /* the others wait while rank 0 makes the reference */

static const tb_key keys[] = {
    {"model", TB_KEY_STR, "", 0, 0, NULL, "mlp", "a model, with options: mlp:widths=784-512-10"},
    {"data", TB_KEY_STR, "", 0, 0, NULL, "fashion-mnist", "data set"},
    {"rows", TB_KEY_INT, "rows", 1, 1 << 20, NULL, "64", "of a step, on each rank"},
    {"strong", TB_KEY_BOOL, "", 0, 0, NULL, "false", "`rows` are of all ranks together: strong scaling"},
    {"load", TB_KEY_INT, "", 1, 64, NULL, "1", "times `rows`: what so many ranks would do, on one"},
    {"context", TB_KEY_INT, "tokens", 1, 1 << 16, NULL, "128", "text: length of a row"},
    {"optimizer", TB_KEY_CHOICE, "", 0, 0, "sgd|adamw", "sgd", "sgd: momentum 0.9"},
    {"rate", TB_KEY_NUM, "", 0, 1e3, NULL, "0.01", "learning rate"},
    {"bucket_kib", TB_KEY_INT, "KiB", 1, 1 << 22, NULL, "1024", "a bucket is full behind this many"},
    {"update", TB_KEY_CHOICE, "", 0, 0, "replicated|fused", "replicated",
     "who updates parameters: every rank all of them, or each rank the share that it sums, in one pass"},
    {"engine", TB_KEY_CHOICE, "", 0, 0, "tensorbrain|torch", "tensorbrain",
     "torch: DistributedDataParallel over gloo with the same sizes: mlp, mlp:widths=.., cnn, gpt"},
    {"backend", TB_KEY_CHOICE, "", 0, 0, "auto|shm|mpi", "auto", "what moves sums; auto: the fastest that reaches all"},
    {"checked_steps", TB_KEY_INT, "steps", 1, 1 << 20, NULL, "3", "behind which ranks must have one rank's weights"},
    {"other_seed", TB_KEY_BOOL, "", 0, 0, NULL, "false", "also check that another seed gives other weights"},
    {"sync", TB_KEY_BOOL, "", 0, 0, NULL, "true", "sum the gradients; false: to measure what the sums cost"},
};

static const tb_metric metrics[] = {
    {.name = "samples_per_s", .unit = "samples/s", .dir = "higher", .kind = "ratio", .reduce = "sum", .scope = "",
     .statistic = "median", .margin = 0.05},
    {.name = "step_ms", .unit = "ms", .dir = "lower", .kind = "ratio", .reduce = "max", .scope = "",
     .statistic = "median", .margin = 0.05},
    {.name = "gflop_per_s", .unit = "GFLOP/s", .dir = "higher", .kind = "ratio", .reduce = "sum", .scope = "",
     .statistic = "median", .margin = 0.05},
    {.name = "sums_ms", .unit = "ms", .dir = "lower", .kind = "trend", .reduce = "max", .scope = "",
     .statistic = "median", .margin = 0.2},
    {.name = "wire_bytes", .unit = "B", .dir = "lower", .kind = "exact", .reduce = "sum", .scope = "measured",
     .statistic = "median", .deterministic = 1},
};

/* One training: this rank's share of it, or all of it on one rank. */
typedef struct training {
    tb_ctx *ctx;
    tb_comm *comm;
    tb_model *model;
    tb_optim *optim;
    tb_ddp *ddp;
    tb_loader *loader;
    tb_tensor *count;
} training;

typedef struct state {
    const tb_run *run;
    tb_dataset *data;
    training own;
    int64_t time, global_rows, step;
    tb_peer *peer; /* NULL: our own training */
    double flop; /* of this rank's share of a step */
} state;

static tb_optim_config optimizer_of(const tb_run *run)
{
    double rate = tb_param_num(run, "rate");
    if (strcmp(tb_param_str(run, "optimizer"), "adamw") == 0) return (tb_optim_config){TB_OPTIM_ADAMW, .rate = rate};
    return (tb_optim_config){TB_OPTIM_SGD, .rate = rate, .momentum = 0.9};
}

/* 8 blocks of the global batch, shared among the ranks (engine/README.md, sums over the batch). */
static int blocks_of(int ranks)
{
    int blocks = 8;
    while (blocks > 1 && blocks * ranks > 8) blocks /= 2;
    return blocks;
}

static tb_status open_comm(const tb_run *run, int ranks, tb_comm **out)
{
    const char *backend = tb_param_str(run, "backend");
    if (ranks == 1) return tb_comm_open("self", 0, 1, NULL, NULL, out);
    return tb_run_open_comm(run, strcmp(backend, "auto") == 0 ? NULL : backend,
                            &(tb_comm_options){.deadline_ns = patience_ns}, out);
}

/* The reference of one rank is never fused. */
static tb_status open_training(const state *s, training *t, int rank, int ranks, uint64_t seed)
{
    const tb_run *run = s->run;
    TB_TRY(tb_ctx_create(
        &(tb_ctx_config){
            .threads = run->threads, .seed = seed, .device = run->device, .cores = run->cores, .n_cores = run->n_cores},
        &t->ctx));
    tb_ctx_enter(t->ctx);
    TB_TRY(tb_ctx_set_batch_blocks(t->ctx, blocks_of(ranks)));
    TB_TRY(open_comm(run, ranks, &t->comm));
    TB_TRY(tb_model_create(tb_param_str(run, "model"), TB_F32, &t->model));
    tb_params *ps = tb_model_params(t->model);
    tb_optim_config optimizer = optimizer_of(run);
    bool fused = strcmp(tb_param_str(run, "update"), "fused") == 0 && rank == run->rank && ranks == run->ranks;
    if (!fused) TB_TRY(tb_optim_create(ps, &optimizer, &t->optim));
    TB_TRY(tb_ddp_create(&(tb_ddp_config){.params = ps, .comm = t->comm, .update = fused ? &optimizer : NULL,
                                          .bucket_bytes = tb_param_int(run, "bucket_kib") << 10}, &t->ddp));
    TB_TRY(tb_loader_open(&(tb_loader_config){.data = s->data,
                                              .split = TB_SPLIT_TRAIN,
                                              .mode = TB_LOAD_TRAIN,
                                              .batch = s->global_rows,
                                              .context = s->time,
                                              .seed = seed,
                                              .rank = rank,
                                              .ranks = ranks},
                          &t->loader));
    t->count = tb_retain(tb_scalar(TB_I64, (double)(s->global_rows * s->time)));
    tb_model_set_training(t->model, true);
    return tb_ctx_take_error(t->ctx);
}

static void close_training(training *t)
{
    if (!t->ctx) return;
    tb_ctx_enter(t->ctx);
    tb_loader_close(t->loader);
    tb_ddp_destroy(t->ddp);
    tb_optim_destroy(t->optim);
    tb_release(t->count);
    tb_model_destroy(t->model);
    tb_run_close_comm(t->comm);
    (void)tb_ctx_destroy(t->ctx);
    *t = (training){0};
}

/* *part: this rank's of the loss; NULL: not asked for. */
static tb_status train_step(training *t, int64_t step, bool sync, float *part)
{
    tb_batch batch;
    tb_scope *scope = tb_scope_open();
    tb_status st = tb_loader_next(t->loader, &batch);
    if (st == TB_OK) {
        tb_ctx_set_stream(t->ctx, (uint64_t)step, batch.first_row);
        tb_tensor *logits = tb_model_forward(t->model, batch.x);
        tb_tensor *loss = tb_cross_entropy(logits, batch.y, &(tb_ce_opts){.count = t->count});
        tb_ddp_begin(t->ddp, sync);
        st = tb_backward(loss);
        if (st == TB_OK && part) st = tb_item_f32(loss, part);
    }
    tb_scope_close(scope);
    if (st == TB_OK && !t->optim) return tb_ddp_step(t->ddp);
    if (st == TB_OK && sync) st = tb_ddp_finish(t->ddp);
    return st == TB_OK ? tb_optim_step(t->optim) : st;
}

/* ---- the peer ---- */
/* One port for all, free a moment ago or not: a clash ends the launch with torch's own words. */
static tb_status start_peer(state *s)
{
    const tb_run *run = s->run;
    int64_t port = 20000 + getpid() % 20000;
    char text[5][32], version[64];
    if (!tb_param_bool(run, "sync")) return TB_FAIL(TB_ERR_CONFIG, "params.engine torch has no params.sync false");
    TB_TRY(open_comm(run, run->ranks, &s->own.comm));
    TB_TRY(tb_comm_bcast(s->own.comm, &port, sizeof port, 0, NULL, NULL));
    const int64_t numbers[] = {run->threads, run->rank, run->ranks, port, s->global_rows / run->ranks};
    for (int i = 0; i < 5; i++) snprintf(text[i], sizeof text[i], "%lld", (long long)numbers[i]);
    char bucket_mib[32];
    snprintf(bucket_mib, sizeof bucket_mib, "%g", (double)tb_param_int(run, "bucket_kib") / 1024);
    char *model = (char *)(uintptr_t)tb_param_str(run, "model");
    char *optimizer = (char *)(uintptr_t)tb_param_str(run, "optimizer");
    char *args[] = {text[0], text[1], text[2], text[3], model, text[4], bucket_mib, optimizer, NULL};
    TB_TRY(tb_peer_start("torch_ddp.py", args, &s->peer, version));
    if (run->rank == 0) tb_emit_fact(run, "peer/torch", version);
    return TB_OK;
}

/* ---- the driver ---- */
/* Products with weights: 2 flop per weight and row forward, 4 backward (Kaplan et al. 2020, section 2.1), what
 * attention adds not counted. Convolutions reuse their weights: no figure. The model is made of sizes alone. */
static tb_status count_flop(state *s)
{
    const char *spec = tb_param_str(s->run, "model");
    tb_ctx *ctx = NULL;
    tb_model *m = NULL;
    if (strncmp(spec, "cnn", 3) == 0) return TB_OK;
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.device = "meta"}, &ctx));
    tb_ctx_enter(ctx);
    tb_status st = tb_model_create(spec, TB_F32, &m);
    int64_t places = s->global_rows / s->run->ranks * s->time;
    if (st == TB_OK) s->flop = 6.0 * (double)tb_params_numel(tb_model_params(m)) * (double)places;
    tb_model_destroy(m);
    (void)tb_ctx_destroy(ctx);
    return st;
}

static tb_status setup(const tb_run *run, void **out)
{
    state *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    s->run = run;
    TB_TRY(tb_dataset_open(tb_param_str(run, "data"), &s->data));
    s->time = tb_dataset_kind(s->data) == TB_DATA_TEXT ? tb_param_int(run, "context") : 1;
    s->global_rows = tb_param_int(run, "rows") * tb_param_int(run, "load");
    if (!tb_param_bool(run, "strong")) s->global_rows *= run->ranks;
    if (s->global_rows % run->ranks)
        return TB_FAIL(TB_ERR_CONFIG, "params.strong: %lld rows cannot be shared among %d ranks",
                       (long long)s->global_rows, run->ranks);
    if (strcmp(tb_param_str(run, "update"), "fused") == 0 && !tb_param_bool(run, "sync"))
        return TB_FAIL(TB_ERR_CONFIG, "params.update fused has no params.sync false: it happens in the sums");
    TB_TRY(count_flop(s));
    if (strcmp(tb_param_str(run, "engine"), "torch") == 0) return start_peer(s);
    return open_training(s, &s->own, run->rank, run->ranks, run->seed);
}

/* losses[2]: this rank's part of the first and of the last. */
static tb_status steps_hash(training *t, int64_t steps, char hex[65], float losses[2])
{
    tb_ctx_enter(t->ctx);
    for (int64_t i = 0; i < steps; i++) TB_TRY(train_step(t, i, true, &losses[i > 0]));
    return tb_params_hash(tb_model_params(t->model), hex);
}

/* One rank with the whole batch. */
static tb_status hash_alone(const state *s, uint64_t seed, char hex[65])
{
    training alone = {0};
    float losses[2];
    tb_status st = open_training(s, &alone, 0, 1, seed);
    if (st == TB_OK) st = steps_hash(&alone, tb_param_int(s->run, "checked_steps"), hex, losses);
    close_training(&alone);
    return st;
}

static tb_status check(const tb_run *run, void *arg)
{
    state *s = arg;
    char before[65], mine[65], wanted[65] = "", other[65] = "";
    float losses[2] = {0, 0};
    int64_t steps = tb_param_int(run, "checked_steps");
    if (s->peer) return TB_OK;
    if (run->rank == 0) {
        tb_run_phase(run, "reference", -1, 0);
        TB_TRY(hash_alone(s, run->seed, wanted));
        if (tb_param_bool(run, "other_seed")) TB_TRY(hash_alone(s, run->seed + 1, other));
    }
    tb_run_phase(run, "check", -1, 0);
    TB_TRY(steps_hash(&s->own, 0, before, losses));
    TB_TRY(steps_hash(&s->own, steps, mine, losses));
    s->step = steps;
    TB_TRY(tb_comm_bcast(s->own.comm, wanted, sizeof wanted, 0, NULL, NULL));
    tb_emit_check(run, "weights.differ", "parity", strcmp(mine, wanted) != 0, 0,
                  "the ranks do not have the weights of one rank with the whole batch");
    tb_emit_check(run, "weights.unmoved", "parity", strcmp(mine, before) == 0, 0, "the steps have changed no weight");
    if (other[0])
        tb_emit_check(run, "weights.seedless", "parity", strcmp(mine, other) == 0, 0,
                      "another seed gives the same weights");
    TB_TRY(tb_comm_allreduce(s->own.comm, losses, 2, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    tb_emit_value(run, "loss.first", "", (double)losses[0]);
    tb_emit_value(run, "loss.last", "", (double)losses[1]);
    if (run->rank == 0) tb_emit_text(run, "weights_hash", mine);
    return TB_OK;
}

static void emit_speed(const state *s, int64_t at, double ms)
{
    tb_emit_sample(s->run, "step_ms", at, ms);
    tb_emit_sample(s->run, "samples_per_s", at, (double)s->global_rows / s->run->ranks / ms * 1e3);
    if (s->flop > 0) tb_emit_sample(s->run, "gflop_per_s", at, s->flop / ms * 1e-6);
}

static tb_status peer_once(state *s)
{
    double ms;
    TB_TRY(tb_peer_iterate(s->peer, &ms));
    emit_speed(s, s->step++, ms);
    return TB_OK;
}

static tb_status run_once(const tb_run *run, void *arg)
{
    state *s = arg;
    if (s->peer) return peer_once(s);
    int64_t t0 = tb_now_ns();
    tb_comm_stats before, after;
    tb_comm_get_stats(s->own.comm, &before);
    TB_TRY(train_step(&s->own, s->step, tb_param_bool(run, "sync"), NULL));
    int64_t ns = tb_now_ns() - t0, at = s->step++ - tb_param_int(run, "checked_steps");
    tb_comm_get_stats(s->own.comm, &after);
    emit_speed(s, at, (double)ns * 1e-6);
    tb_emit_sample(run, "sums_ms", at, (double)tb_ddp_sum_ns(s->own.ddp) * 1e-6);
    tb_emit_sample(run, "wire_bytes", at, (double)(after.wire_bytes - before.wire_bytes));
    return TB_OK;
}

/* ---- the bound: what the sums of a step cost when nothing hides them ---- */
static tb_status time_sums(tb_comm *c, float *data, int64_t count, double *ns)
{
    double took[LINK_ROUNDS];
    for (int i = 0; i < LINK_ROUNDS; i++) {
        TB_TRY(tb_comm_barrier(c));
        int64_t t0 = tb_now_ns();
        TB_TRY(tb_comm_allreduce(c, data, count, TB_F32, TB_REDUCE_SUM, NULL, NULL));
        took[i] = (double)(tb_now_ns() - t0);
    }
    tb_sort(took, LINK_ROUNDS);
    *ns = tb_median(took, LINK_ROUNDS);
    return TB_OK;
}

static tb_status emit_bound(const state *s)
{
    const tb_run *run = s->run;
    tb_comm *c = s->own.comm;
    double small = 0, large = 0;
    float *data = tb_comm_alloc(c, LINK_LARGE * sizeof *data);
    if (!data) return tb_error_code();
    tb_status st = time_sums(c, data, LINK_SMALL, &small);
    if (st == TB_OK) st = time_sums(c, data, LINK_LARGE, &large);
    tb_comm_free(c, data);
    TB_TRY(st);
    double beta = (large - small) / ((double)LINK_LARGE * sizeof *data);
    double sums_ms = (small * tb_ddp_buckets(s->own.ddp) + beta * (double)tb_ddp_bytes(s->own.ddp)) * 1e-6;
    tb_emit_value(run, "link.alpha_us", "us", small * 1e-3);
    tb_emit_value(run, "link.beta_ns_per_byte", "ns/B", beta);
    tb_emit_value(run, "alpha_beta_ms", "ms", run->ranks > 1 ? sums_ms : 0);
    return TB_OK;
}

static tb_status finish(const tb_run *run, void *arg)
{
    const state *s = arg;
    if (s->peer) return TB_OK;
    tb_ctx_enter(s->own.ctx);
    TB_TRY(emit_bound(s));
    tb_emit_value(run, "params", "", (double)tb_params_numel(tb_model_params(s->own.model)));
    tb_emit_value(run, "buckets", "", tb_ddp_buckets(s->own.ddp));
    tb_emit_value(run, "gradient_bytes", "B", (double)tb_ddp_bytes(s->own.ddp));
    if (run->rank != 0) return TB_OK;
    tb_emit_fact(run, "data/train/sha256", tb_dataset_part(s->data, TB_SPLIT_TRAIN)->sha256);
    tb_emit_fact(run, "model/spec", tb_model_spec(s->own.model));
    tb_emit_fact(run, "comm/backend", tb_comm_backend(s->own.comm));
    return TB_OK;
}

static void teardown(void *arg)
{
    state *s = arg;
    if (!s) return;
    tb_peer_stop(s->peer);
    if (s->own.ctx) close_training(&s->own);
    else
        tb_run_close_comm(s->own.comm);
    tb_dataset_close(s->data);
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"weights.differ",
                                    "weights.unmoved",
                                    "weights.seedless",
                                    "weights_hash",
                                    "loss.first",
                                    "loss.last",
                                    "link.alpha_us",
                                    "link.beta_ns_per_byte",
                                    "alpha_beta_ms",
                                    "params",
                                    "buckets",
                                    "gradient_bytes",
                                    NULL};

TB_DRIVER(ddp, .version = 1, .doc = "steps of data-parallel training: speed kept by more ranks, and the same weights",
          .keys = keys, .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics,
          .n_metrics = sizeof metrics / sizeof metrics[0], .emits = emits,
          .setup = setup, .check = check, .run_once = run_once,
          .finish = finish, .teardown = teardown);
