/* Context, model, micro-batches and optimizer of one arrangement. */
#include "pipeline_arrangement.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include <string.h>

/* ---- micro-batches ---- */
static tb_status load(const tb_arrangement *a, int64_t step, int64_t microbatch, tb_batch *out)
{
    TB_TRY(tb_loader_seek(a->loader, step * tb_arrangement_pieces(a->config) + microbatch));
    return tb_loader_next(a->loader, out);
}

static tb_tensor *input(void *arg, int64_t step, int64_t microbatch)
{
    tb_batch batch;
    return load(arg, step, microbatch, &batch) == TB_OK ? batch.x : tb_poison();
}

static tb_tensor *loss(void *arg, int64_t step, int64_t microbatch, tb_tensor *output)
{
    const tb_arrangement *a = arg;
    tb_batch batch;
    if (load(a, step, microbatch, &batch) != TB_OK) return tb_poison();
    return tb_cross_entropy(output, batch.y, &(tb_ce_opts){.count = a->count});
}

int64_t tb_arrangement_pieces(const tb_arrangement_config *c) { return c->microbatches * c->replicas; }

/* ---- the arrangement ---- */
tb_status tb_arrangement_schedule(const tb_arrangement_config *c, const char *name, int ranks, tb_schedule **out)
{
    tb_schedule_config config = {.ranks = ranks, .microbatches = (int)c->microbatches};
    if (strcmp(name, "interleaved_1f1b") == 0) config.chunks = 2;
    return tb_schedule_make(name, &config, out);
}

typedef struct part {
    const tb_arrangement *a;
    int rank;
} part;

static bool is_held(void *arg, int block)
{
    const part *p = arg;
    int stage = 0;
    while (p->a->cuts[stage + 1] <= block) stage++;
    return p->a->schedule->placement[stage] == p->rank;
}

static tb_status open_context(const tb_run *run, const char *device, tb_ctx **out)
{
    tb_ctx_config c = {.threads = 1, .seed = run->seed, .device = device};
    if (strcmp(device, "meta") != 0) {
        c.threads = run->threads;
        c.cores = run->cores;
        c.n_cores = run->n_cores;
    }
    TB_TRY(tb_ctx_create(&c, out));
    tb_ctx_enter(*out);
    return TB_OK;
}

tb_status tb_arrangement_open(const tb_arrangement_config *c, const tb_schedule *schedule, const int *cuts, int rank,
                              const char *device, tb_arrangement *a)
{
    const tb_run *run = c->run;
    int64_t pieces = tb_arrangement_pieces(c);
    part held = {a, rank};
    *a = (tb_arrangement){.config = c, .schedule = schedule, .cuts = cuts};
    TB_TRY(open_context(run, device, &a->ctx));
    TB_TRY(tb_model_create_part(tb_param_str(run, "model"), TB_F32, rank < 0 ? NULL : is_held, &held, &a->model));
    TB_TRY(tb_params_make_arena(tb_model_params(a->model), false));
    TB_TRY(tb_loader_open(&(tb_loader_config){.data = c->data,
                                              .split = TB_SPLIT_TRAIN,
                                              .mode = TB_LOAD_TRAIN,
                                              .batch = c->rows * pieces,
                                              .pieces = (int)pieces,
                                              .context = c->time,
                                              .seed = run->seed},
                          &a->loader));
    a->count = tb_retain(tb_scalar(TB_I64, (double)(c->rows * pieces * c->time)));
    return tb_ctx_take_error(a->ctx);
}

tb_status tb_arrangement_open_optim(tb_arrangement *a)
{
    tb_optim_config adamw = {.kind = TB_OPTIM_ADAMW, .rate = tb_param_num(a->config->run, "rate"), .decay = 0.1};
    return tb_optim_create(tb_model_params(a->model), &adamw, &a->optim);
}

void tb_arrangement_close(tb_arrangement *a)
{
    if (!a->ctx) return;
    tb_ctx_enter(a->ctx);
    tb_optim_destroy(a->optim);
    tb_loader_close(a->loader);
    tb_release(a->count);
    tb_model_destroy(a->model);
    (void)tb_ctx_destroy(a->ctx);
    *a = (tb_arrangement){0};
}

tb_pipeline_config tb_arrangement_pipeline(tb_arrangement *a)
{
    const tb_arrangement_config *c = a->config;
    return (tb_pipeline_config){.schedule = a->schedule,
                                .model = a->model,
                                .cuts = a->cuts,
                                .rows = c->rows,
                                .time = c->time,
                                .recompute = tb_param_bool(c->run, "recompute"),
                                .source = {input, loss, a},
                                .optim = a->optim};
}
