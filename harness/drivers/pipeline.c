/* pipeline: trains a model that is cut into stages over the ranks, by a schedule, and counts what each rank holds.
 *
 * Held bytes are predicted before the first step and must be what the allocator counts, exactly (pipeline_plan.h). The
 * first steps are also done by plain accumulation on one rank: the weights must be equal to the last bit
 * (pipeline_reference.h). With `replicas` as many pipelines share a step: ranks are numbered pipeline by pipeline. */
#include "pipeline_plan.h"
#include "pipeline_projection.h"
#include "pipeline_reference.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <math.h>
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

#define METRIC(name_, unit_, dir_, kind_, reduce_, scope_, statistic_, ...)                                            \
    {                                                                                                                  \
        .name = name_, .unit = unit_, .dir = dir_, .kind = kind_, .reduce = reduce_, .scope = scope_,                  \
        .statistic = statistic_, __VA_ARGS__                                                                           \
    }
#define BYTES(name_, reduce_)                                                                                          \
    METRIC(name_, "B", "lower", "exact", reduce_, "measured", "max", .deterministic = 1)
#define MODELLED(name_, unit_, dir_) METRIC(name_, unit_, dir_, "trend", "rank0", "modelled", "last", .margin = 0.1)
static const tb_metric metrics[] = {
    METRIC("step_ms", "ms", "lower", "ratio", "max", "", "median", .margin = 0.05),
    METRIC("samples_per_s", "samples/s", "higher", "ratio", "min", "", "median", .margin = 0.05),
    BYTES("rank0_bytes", "rank0"),
    BYTES("most_bytes", "max"),
    BYTES("sum_bytes", "sum"),
    MODELLED("modelled_samples_per_s", "samples/s", "higher"),
    MODELLED("modelled_efficiency", "", "higher"),
    MODELLED("modelled_step_ms", "ms", "lower"),
    MODELLED("modelled_bubble", "", "lower"),
    MODELLED("modelled_exposed_ms", "ms", "lower"),
    MODELLED("modelled_peak_bytes", "B", "lower"),
    METRIC("model_error", "", "lower", "trend", "rank0", "measured", "last", .margin = 0.1),
    METRIC("loss", "", "lower", "curve", "rank0", "measured", "last", .margin = 0.05),
};

typedef struct state {
    const tb_run *run;
    tb_arrangement_config config;
    tb_dataset *data;
    tb_comm *world, *comm, *replicas; /* all ranks; those of this pipeline; those with this one's stages. NULL: one */
    int replica, rank;                /* of this pipeline; in it */
    tb_stage_plan plan;
    tb_arrangement own;
    tb_pipeline *pipeline;
    bool keeps_events, keeps_costs;
    tb_action_costs costs; /* of every second timed step, where there is a cluster to model; */
    double judged_ns;      /* the steps between judge the model, summed */
    int64_t judged;
} state;

static void on_action(void *arg, const tb_action *a, int64_t t0_ns, int64_t t1_ns, int64_t held)
{
    static const char *const names[TB_ACTION_KINDS] = {"forward", "backward", "input grad", "weight grad", "send",
                                                       "receive", "send",     "receive",    "reduce",      "update"};
    state *s = arg;
    (void)held;
    if (s->costs.sum_ns && s->keeps_costs) tb_action_costs_add(&s->costs, a, t1_ns - t0_ns);
    if (s->keeps_events && a->kind != TB_DO_REDUCE)
        tb_emit_event(s->run, names[a->kind], "", a->stage, a->microbatch, t0_ns, t1_ns);
}

static tb_status open_pipeline(state *s)
{
    TB_TRY(tb_arrangement_open_optim(&s->own));
    tb_pipeline_config c = tb_arrangement_pipeline(&s->own);
    c.comm = s->comm;
    c.replicas = s->replicas;
    c.first_microbatch = s->replica * s->config.microbatches;
    c.on_action = on_action;
    c.on_action_arg = s;
    return tb_pipeline_create(&c, &s->pipeline);
}

static tb_status check_setting(const state *s, const char *schedule)
{
    const tb_run *run = s->run;
    bool is_plain = strcmp(schedule, "accumulate") == 0;
    if (tb_param_int(run, "project") > 0 && (run->ranks < 2 || s->config.replicas > 1))
        return TB_FAIL(TB_ERR_CONFIG, "params.project models from one pipeline on launch.ranks 2 or more");
    if (tb_param_int(run, "project") > 0 && tb_param_int(run, "steps") < 2)
        return TB_FAIL(TB_ERR_CONFIG,
                       "params.project wants params.steps 2 or more: some give costs, others judge them");
    if (!is_plain && tb_param_bool(run, "full_batch"))
        return TB_FAIL(TB_ERR_CONFIG, "params.full_batch has no micro-batches for params.schedule %s", schedule);
    if (run->ranks % s->config.replicas)
        return TB_FAIL(TB_ERR_CONFIG, "launch.ranks %d are no whole number of ranks for params.replicas %d", run->ranks,
                       s->config.replicas);
    if (is_plain && s->config.ranks != 1)
        return TB_FAIL(TB_ERR_CONFIG, "params.schedule %s runs on one rank a replica: launch.ranks %d, not %d",
                       schedule, s->config.replicas, run->ranks);
    return TB_OK;
}

static tb_status open_groups(state *s)
{
    const tb_run *run = s->run;
    const char *backend = tb_param_str(run, "backend");
    if (run->ranks == 1) return TB_OK;
    if (strcmp(backend, "auto") == 0) backend = NULL;
    TB_TRY(tb_run_open_comm(run, backend, &(tb_comm_options){.deadline_ns = patience_ns}, &s->world));
    if (s->config.replicas == 1) {
        s->comm = s->world; /* not split: the flight record is of the group that was opened */
        return TB_OK;
    }
    TB_TRY(tb_comm_split(s->world, s->replica, &s->comm));
    return tb_comm_split(s->world, s->rank, &s->replicas);
}

static void set_sizes(tb_arrangement_config *c, const tb_dataset *data)
{
    int64_t microbatches = tb_param_int(c->run, "microbatches"), rows = tb_param_int(c->run, "rows");
    bool full = tb_param_bool(c->run, "full_batch");
    c->data = data;
    c->microbatches = full ? 1 : microbatches;
    c->rows = full ? rows * microbatches : rows;
    c->time = tb_dataset_kind(data) == TB_DATA_TEXT ? tb_param_int(c->run, "context") : 1;
}

static tb_status setup(const tb_run *run, void **out)
{
    const char *schedule = tb_param_str(run, "schedule");
    state *s = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    *out = s;
    s->run = run;
    int replicas = (int)tb_param_int(run, "replicas"), ranks = run->ranks / replicas;
    s->config = (tb_arrangement_config){.run = run, .ranks = ranks, .replicas = replicas};
    s->rank = ranks ? run->rank % ranks : 0;
    s->replica = ranks ? run->rank / ranks : 0;
    TB_TRY(check_setting(s, schedule));
    TB_TRY(tb_dataset_open(tb_param_str(run, "data"), &s->data));
    set_sizes(&s->config, s->data);
    TB_TRY(tb_stage_plan_make(&s->config, schedule, &s->plan));
    TB_TRY(tb_arrangement_open(&s->config, s->plan.schedule, s->plan.cuts, s->rank, run->device, &s->own));
    TB_TRY(open_groups(s));
    if (tb_param_int(run, "project") > 0) TB_TRY(tb_action_costs_open(&s->costs, s->plan.schedule->stages));
    return open_pipeline(s);
}

static tb_status check(const tb_run *run, void *arg)
{
    state *s = arg;
    char hash[65], before[65], wanted[65] = "";
    double value = 0, first = 0;
    int64_t steps = tb_param_int(run, "checked_steps");
    tb_run_phase(run, "reference", -1, 0);
    if (run->rank == 0) TB_TRY(tb_accumulated_hash(&s->config, steps, wanted));
    if (s->world) TB_TRY(tb_comm_bcast(s->world, wanted, sizeof wanted, 0, NULL, NULL));
    tb_ctx_enter(s->own.ctx);
    TB_TRY(tb_pipeline_weights_hash(s->pipeline, before));
    tb_run_phase(run, "check", -1, 0);
    for (int64_t i = 0; i < steps; i++) {
        TB_TRY(tb_pipeline_step(s->pipeline, &value));
        if (i == 0) first = value;
    }
    tb_emit_value(run, "loss.first", "", first);
    tb_emit_value(run, "loss.last", "", value);
    TB_TRY(tb_pipeline_weights_hash(s->pipeline, hash));
    tb_stage_plan_check(&s->plan, run, s->rank, s->pipeline);
    if (s->rank != 0) return TB_OK; /* the first stage of each pipeline has the hash of its weights */
    tb_emit_check(run, "weights.differ", "parity", strcmp(hash, wanted) != 0, 0,
                  "weights differ from those of plain accumulation on one rank");
    tb_emit_check(run, "weights.unmoved", "parity", strcmp(hash, before) == 0, 0, "the steps have changed no weight");
    return TB_OK;
}

/* ---- steps ---- */
static void emit_step(const state *s, int64_t step, double ms, double value)
{
    const tb_run *run = s->run;
    tb_pipeline_memory m;
    tb_pipeline_get_memory(s->pipeline, &m);
    double bytes = (double)(m.static_bytes + m.held_bytes);
    int64_t rows = s->config.rows * tb_arrangement_pieces(&s->config);
    tb_emit_sample(run, "step_ms", step, ms);
    tb_emit_sample(run, "samples_per_s", step, (double)rows / ms * 1e3);
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
        TB_TRY(tb_pipeline_step(s->pipeline, &value));
        int64_t ns = tb_now_ns() - t0;
        emit_step(s, i, (double)ns * 1e-6, value);
        if (i >= WARMUP_STEPS && !s->keeps_costs) s->judged_ns += (double)ns, s->judged++;
        tb_run_headline(run, "loss", value, "");
        TB_TRY(tb_run_sync(run, &stop));
    }
    return TB_OK;
}

/* ---- elsewhere ---- */
/* Of the whole arrangement: micro-batches of all replicas. */
static void emit_projection(const state *s, const tb_cluster *c, int64_t microbatches, const tb_projection *p)
{
    const tb_run *run = s->run;
    double rows = (double)(s->config.rows * microbatches * c->replicas);
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
    int64_t microbatches = s->config.microbatches * c.stages / run->ranks;
    double grad_bytes = (double)(tb_params_numel(tb_model_params(s->own.model)) * (int64_t)sizeof(float));
    TB_GO(tb_predict_step(s->plan.schedule, times, s->plan.bytes, &c.near, &here_ns));
    TB_GO(tb_project(s->plan.schedule, times, s->plan.bytes, grad_bytes, (int)microbatches, &c, &p));
    tb_emit_sample(run, "model_error", 0, fabs(here_ns - steps_ns) / steps_ns);
    tb_emit_value(run, "predicted_step_ms", "ms", here_ns * 1e-6);
    tb_emit_value(run, "link.latency_us", "us", c.near.latency_ns * 1e-3);
    tb_emit_value(run, "link.gb_per_s", "GB/s", c.near.ns_per_byte > 0 ? 1 / c.near.ns_per_byte : 0);
    emit_projection(s, &c, microbatches, &p);
cleanup:
    tb_free(times);
    return st;
}

/* ---- what came out ---- */
static tb_status finish(const tb_run *run, void *arg)
{
    const state *s = arg;
    char hash[65];
    tb_ctx_enter(s->own.ctx);
    if (s->costs.sum_ns) TB_TRY(project(s));
    TB_TRY(tb_pipeline_weights_hash(s->pipeline, hash));
    tb_stage_plan_emit(&s->plan, run, s->rank, s->pipeline);
    if (run->rank != 0) return TB_OK;
    tb_text text = {0};
    TB_TRY(tb_schedule_write(s->plan.schedule, &text));
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
    if (s->own.ctx) tb_ctx_enter(s->own.ctx);
    tb_pipeline_destroy(s->pipeline);
    tb_arrangement_close(&s->own);
    tb_comm_close(s->replicas);
    if (s->comm != s->world) tb_comm_close(s->comm);
    tb_run_close_comm(s->world);
    tb_dataset_close(s->data);
    tb_stage_plan_free(&s->plan);
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
                                    "weights.unmoved",
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
          .n_metrics = sizeof metrics / sizeof metrics[0], .emits = emits, .setup = setup, .check = check,
          .run = run_steps, .finish = finish, .teardown = teardown);
