/* Plain accumulation on one rank: an arrangement and, over its model, a pipeline of one stage for each replica's share
 * of a step. */
#include "pipeline_reference.h"
#include "tb_alloc.h"

typedef struct reference {
    tb_arrangement one;
    tb_schedule *schedule;
    int cuts[2];
    tb_pipeline **shares; /* [replicas]; they leave their gradients where they are */
    float **sums;         /* [replicas] gradients of a share */
    size_t bytes;
} reference;

static tb_status open_reference(const tb_arrangement_config *c, reference *r)
{
    size_t n = (size_t)c->replicas;
    r->shares = tb_calloc(n, sizeof *r->shares);
    r->sums = tb_calloc(n, sizeof *r->sums);
    if (!r->shares || !r->sums) return TB_ERR_OOM;
    TB_TRY(tb_arrangement_schedule(c, "accumulate", 1, &r->schedule));
    TB_TRY(tb_arrangement_open(c, r->schedule, r->cuts, -1, c->run->device, &r->one));
    r->cuts[1] = tb_model_blocks(r->one.model);
    TB_TRY(tb_arrangement_open_optim(&r->one));
    r->bytes = tb_tensor_bytes(tb_params_arena(tb_model_params(r->one.model)));
    for (int i = 0; i < c->replicas; i++) {
        tb_pipeline_config share = tb_arrangement_pipeline(&r->one);
        share.optim = NULL;
        share.first_microbatch = i * c->microbatches;
        TB_TRY(tb_pipeline_create(&share, &r->shares[i]));
        if (!(r->sums[i] = tb_calloc(1, r->bytes))) return TB_ERR_OOM;
    }
    return TB_OK;
}

static void close_reference(const tb_arrangement_config *c, reference *r)
{
    if (r->one.ctx) tb_ctx_enter(r->one.ctx);
    for (int i = 0; i < c->replicas; i++) {
        if (r->shares) tb_pipeline_destroy(r->shares[i]);
        if (r->sums) tb_free(r->sums[i]);
    }
    tb_free(r->shares);
    tb_free(r->sums);
    tb_arrangement_close(&r->one);
    tb_schedule_free(r->schedule);
}

/* The pairwise tree in the order of replicas, as ranks sum. */
static void add_shares(float **sums, int n, int64_t count)
{
    for (int step = 1; step < n; step *= 2)
        for (int r = 0; r + step < n; r += 2 * step)
            for (int64_t i = 0; i < count; i++) sums[r][i] += sums[r + step][i];
}

static tb_status reference_step(reference *r, int replicas)
{
    tb_params *ps = tb_model_params(r->one.model);
    tb_tensor *arena = tb_params_arena(ps);
    double loss;
    for (int i = 0; i < replicas; i++) {
        tb_params_clear_grads(ps);
        TB_TRY(tb_pipeline_step(r->shares[i], &loss));
        TB_TRY(tb_tensor_read(arena, r->sums[i], r->bytes));
    }
    add_shares(r->sums, replicas, (int64_t)(r->bytes / sizeof **r->sums));
    TB_TRY(tb_tensor_write(arena, r->sums[0], r->bytes));
    return tb_optim_step(r->one.optim);
}

tb_status tb_accumulated_hash(const tb_arrangement_config *c, int64_t steps, char hex[65])
{
    reference r = {0};
    tb_status st = open_reference(c, &r);
    for (int64_t i = 0; st == TB_OK && i < steps; i++) st = reference_step(&r, c->replicas);
    if (st == TB_OK) st = tb_pipeline_weights_hash(r.shares[0], hex);
    close_reference(c, &r);
    return st;
}
