/* The training step. */
#include "trainer.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include <math.h>

/* Labels of one global batch. */
static int64_t step_targets(const tb_trainer_config *c)
{
    return tb_dataset_kind(c->data) == TB_DATA_TEXT ? c->batch * c->context : c->batch;
}

/* Where the ranks are 1, 2, 4 or 8, their blocks are those of one rank (engine/README.md, sums over the batch). */
static tb_status set_batch_blocks(tb_ctx *ctx, int ranks)
{
    int blocks = 8;
    while (blocks > 1 && blocks * ranks > 8) blocks /= 2;
    return tb_ctx_set_batch_blocks(ctx, blocks);
}

static tb_status prepare(tb_trainer *t)
{
    const tb_trainer_config *c = &t->cfg;
    tb_params *ps = tb_model_params(c->model);
    int rank = c->comm ? tb_comm_rank(c->comm) : 0, ranks = c->comm ? tb_comm_size(c->comm) : 1;
    TB_TRY(tb_lr_check(&c->schedule));
    int exponent;
    bool is_scale = c->loss_scale >= 1 && c->loss_scale <= TB_LOSS_SCALE_MAX;
    if (c->loss_scale != 0 && (!is_scale || frexp(c->loss_scale, &exponent) != 0.5))
        return TB_FAIL(TB_ERR_CONFIG, "training: the loss scale starts at a power of two from 1 to 2^40, not at %g",
                       c->loss_scale);
    t->scaling = (tb_loss_scale){.scale = c->loss_scale, .growth_steps = c->scale_growth ? c->scale_growth : 2000};
    if (ranks > 1 && tb_params_buffer_count(ps) > 0)
        return TB_FAIL(
            TB_ERR_UNSUPPORTED,
            "training on %d ranks: %s keeps running averages, and ranks would each keep their own; "
            "train it on one",
            ranks, tb_model_spec(c->model));
    TB_TRY(set_batch_blocks(t->ctx, ranks));
    if (!tb_params_arena(ps)) TB_TRY(tb_params_make_arena(ps, ranks > 1));
    TB_TRY(tb_optim_create(ps, &c->optim, &t->optim));
    t->count = tb_retain(tb_scalar(TB_I64, (double)step_targets(c)));
    TB_TRY(tb_ctx_take_error(t->ctx));
    return tb_loader_open(&(tb_loader_config){.data = c->data, .split = TB_SPLIT_TRAIN, .mode = TB_LOAD_TRAIN,
                                              .batch = c->batch, .pieces = c->microbatches, .context = c->context,
                                              .seed = c->seed, .rank = rank, .ranks = ranks, .ahead = c->ahead},
                          &t->loader);
}

tb_status tb_trainer_create(const tb_trainer_config *config, tb_trainer **out)
{
    *out = NULL;
    tb_trainer *t = tb_calloc(1, sizeof *t);
    if (!t) return TB_ERR_OOM;
    t->cfg = *config;
    if (t->cfg.microbatches == 0) t->cfg.microbatches = 1;
    t->ctx = tb_ctx_current();
    tb_status st = prepare(t);
    if (st == TB_OK) *out = t;
    else tb_trainer_destroy(t);
    return st;
}

void tb_trainer_destroy(tb_trainer *t)
{
    if (!t) return;
    tb_loader_close(t->loader);
    tb_optim_destroy(t->optim);
    tb_release(t->count);
    tb_free(t);
}

int64_t tb_trainer_steps(const tb_trainer *t) { return tb_optim_steps(t->optim) + t->scaling.skipped; }
const tb_optim *tb_trainer_optim(const tb_trainer *t) { return t->optim; }
const tb_loss_scale *tb_trainer_loss_scale(const tb_trainer *t) { return t->cfg.loss_scale != 0 ? &t->scaling : NULL; }
int64_t tb_trainer_steps_per_epoch(const tb_trainer *t) { return tb_loader_batches(t->loader); }

static uint64_t stream_of(int64_t step, int micro)
{
    uint64_t stream = tb_stream_index(tb_stream_name(0, "step"), (uint64_t)step);
    return tb_stream_index(stream, (uint64_t)micro);
}

/* Forward and backward of one micro-batch; gradients add up in the arena. Each loss is divided by the count of the
 * whole step, so their sum is the step's mean. */
static tb_status microbatch(tb_trainer *t, int micro, float *loss)
{
    tb_batch batch;
    tb_scope *scope = tb_scope_open();
    tb_status st = tb_loader_next(t->loader, &batch);
    if (st == TB_OK) {
        tb_ctx_set_stream(t->ctx, stream_of(tb_trainer_steps(t), micro), batch.first_row);
        tb_tensor *logits = tb_model_forward(t->cfg.model, batch.x);
        tb_tensor *l = tb_cross_entropy(logits, batch.y, &(tb_ce_opts){.count = t->count});
        float value;
        tb_tensor *scale = t->cfg.loss_scale != 0 ? tb_scalar(TB_F32, t->scaling.scale) : NULL;
        st = tb_backward_with(l, &(tb_backward_opts){.grad = scale});
        if (st == TB_OK) st = tb_item_f32(l, &value);
        if (st == TB_OK) *loss += value;
    }
    tb_scope_close(scope);
    return st;
}

/* Sums gradients and loss over the ranks. */
static tb_status reduce(tb_trainer *t, float *loss)
{
    tb_comm *comm = t->cfg.comm;
    tb_tensor *arena = tb_params_arena(tb_model_params(t->cfg.model));
    if (!comm || tb_comm_size(comm) == 1) return TB_OK;
    void *gradients = tb_tensor_host(arena);
    if (!gradients)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "training on several ranks: gradients on device %s cannot be sent",
                       tb_ctx_device(t->ctx)->name);
    TB_TRY(tb_comm_allreduce(comm, gradients, tb_tensor_numel(arena), tb_tensor_dtype(arena), TB_REDUCE_SUM, NULL,
                             NULL));
    tb_tensor_touch(arena);
    TB_TRY(tb_params_join_grads(tb_model_params(t->cfg.model)));
    return tb_comm_allreduce(comm, loss, 1, TB_F32, TB_REDUCE_SUM, NULL, NULL);
}

static tb_status apply(tb_trainer *t)
{
    bool taken;
    if (t->cfg.loss_scale == 0) return tb_optim_step(t->optim);
    TB_TRY(tb_optim_step_scaled(t->optim, t->scaling.scale, &taken));
    return tb_loss_scale_update(&t->scaling, taken);
}

tb_status tb_trainer_step(tb_trainer *t, double *loss)
{
    int64_t step = tb_trainer_steps(t);
    float sum = 0;
    tb_status st = TB_OK;
    tb_model_set_training(t->cfg.model, true);
    for (int i = 0; st == TB_OK && i < t->cfg.microbatches; i++) st = microbatch(t, i, &sum);
    if (st == TB_OK) st = reduce(t, &sum);
    tb_optim_set_rate(t->optim, tb_lr_at(&t->cfg.schedule, step));
    if (st == TB_OK) st = apply(t);
    if (st == TB_OK) {
        *loss = (double)sum;
        return TB_OK;
    }
    tb_error_add("step %lld", (long long)step);
    tb_params_clear_grads(tb_model_params(t->cfg.model));
    return st;
}
