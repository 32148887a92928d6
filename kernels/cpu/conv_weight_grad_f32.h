/* The gradient of conv2d for its weights, f32: an implicit gemm per group whose sum runs over the batch.
 *
 *     dw[o, k] = sum over images n and outputs p of frame(x_n)[k, p] g_n[o, p],  k = (c, kh, kw)
 * Rows of the gemm are k (copied from the frame), columns o, so the result is stored transposed. A pass stays within
 * one image; running chains and the tree over blocks of images are kept between passes (gemm_tile.h). */
#pragma once
#include "conv_f32.h"

typedef struct weight_grad {
    const tb_conv_args *a;
    frame f;
    int64_t m, n, outputs;          /* k = (c, kh, kw) and o of a group; outputs of an image */
    int64_t block_m, block_n, grid_m, grid_n, passes_each, kc;
    int64_t image_floats, a_floats, b_floats, slot_floats;
} weight_grad;

enum { WEIGHT_GRAD_ROWS = WEIGHT_GRAD_K / MR * MR };

static weight_grad plan_weight_grad(const tb_conv_args *a)
{
    conv_problem forward = conv_forward(a);
    weight_grad p = {.a = a, .f = forward.f, .m = forward.k, .n = forward.m, .outputs = a->oh * a->ow};
    int64_t taps = a->kh * a->kw, threads = tb_pool_threads(a->pool), row_tiles = max_i64(div_up(p.m, MR), 1);
    p.grid_n = max_i64(div_up(p.n, NC), 1);
    p.block_n = round_up(div_up(p.n, p.grid_n), NR);
    p.grid_n = max_i64(div_up(p.n, p.block_n), 1);
    p.grid_m = max_i64(div_up(p.m, WEIGHT_GRAD_ROWS), 1);
    if (p.grid_m * p.grid_n * a->groups < threads)
        p.grid_m = min_i64(row_tiles, div_up(threads, p.grid_n * a->groups));
    p.block_m = div_up(row_tiles, p.grid_m) * MR;
    p.grid_m = max_i64(div_up(p.m, p.block_m), 1);
    p.passes_each = max_i64(div_up(p.outputs, KC), 1);
    p.kc = div_up(p.outputs, p.passes_each);
    p.image_floats = frame_floats(&p.f, min_i64(p.f.channels, div_up(p.block_m, taps) + 1));
    p.a_floats = round_up(p.f.plain ? 0 : MR * p.kc, 16);
    p.b_floats = p.block_n * p.kc;
    p.slot_floats = block_slot_floats(p.block_m, p.block_n, a->n * p.passes_each, a->tree);
    return p;
}

static size_t conv2d_weight_grad_scratch_bytes(const void *args)
{
    weight_grad p = plan_weight_grad(args);
    int64_t threads = tb_pool_threads(p.a->pool);
    return (size_t)(threads * (p.image_floats + p.a_floats + p.b_floats + p.slot_floats)) * sizeof(float);
}

/* A block's place; its first channel, and the frame of the current image from that channel on. */
typedef struct weight_grad_work {
    const weight_grad *p;
    int64_t group, channel;
    float *frame_scratch;
    const float *origin, *g;
} weight_grad_work;

static void weight_grad_pass(gemm_block *w)
{
    weight_grad_work *c = w->problem;
    const weight_grad *p = c->p;
    int64_t image = w->pass / p->passes_each, part = w->pass % p->passes_each, taps = p->f.kh * p->f.kw;
    w->k0 = image * p->outputs + min_i64(part * p->kc, p->outputs);
    w->k1 = image * p->outputs + min_i64((part + 1) * p->kc, p->outputs);
    if (part > 0) return;
    int64_t slice = image * p->a->groups + c->group;
    c->origin = frame_fill(&p->f, c->frame_scratch, (const float *)p->a->x + slice * p->f.channels * p->a->h * p->a->w,
                           c->channel, div_up(w->i0 + w->m, taps));
    c->g = (const float *)p->a->g + slice * p->n * p->outputs;
}

static void weight_grad_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const weight_grad_work *c = w->problem;
    const weight_grad *p = c->p;
    int64_t i = w->i0 + tile_begin(w, tile) - c->channel * p->f.kh * p->f.kw;
    int64_t p0 = w->k0 % p->outputs, k = w->k1 - w->k0;
    t->a_k = 1;
    t->a = p->f.plain ? c->origin + i * p->outputs + p0 : w->a_pack;
    t->a_row = p->f.plain ? p->outputs : k;
    for (int r = 0; r < tile_height(w, tile) && first_use && !p->f.plain; r++)
        copy_image_row(w->a_pack + r * k, &p->f, c->origin, i + r, p0, p0 + k);
}

static void weight_grad_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const weight_grad_work *c = w->problem;
    int64_t outputs = c->p->outputs, k = w->k1 - w->k0, p0 = w->k0 % outputs;
    float *pack = w->b_pack + panel * NR * k;
    t->b = pack;
    t->b_k = NR;
    t->b_panel = k * NR;
    for (int q = 0; q < count && first_use; q++)
        pack_b_columns(pack + q * k * NR, c->g + (w->j0 + (panel + q) * NR) * outputs + p0, outputs, k,
                       (int)min_i64(w->n - (panel + q) * NR, NR));
}

static float *weight_grad_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    (void)w, (void)t, (void)i, (void)j, (void)cols;
    return NULL;
}

static void weight_grad_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows,
                               int cols)
{
    const weight_grad_work *c = w->problem;
    const weight_grad *p = c->p;
    for (int q = 0; q < cols; q++) {
        float *dw = (float *)p->a->out + (c->group * p->n + j + q) * p->m + i;
        for (int r = 0; r < rows; r++) dw[r] = (p->a->accumulate ? dw[r] : 0.0f) + sum[r * sum_row + q];
    }
}

static const gemm_source weight_grad_source = {weight_grad_pass, weight_grad_a, weight_grad_b, weight_grad_target,
                                               weight_grad_finish};

static void weight_grad_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const weight_grad *p = arg;
    const tb_conv_args *a = p->a;
    float *scratch = (float *)a->scratch + thread * (p->image_floats + p->a_floats + p->b_floats + p->slot_floats);
    for (int64_t at = begin; at < end; at++) {
        int64_t i0 = at % p->grid_m * p->block_m, j0 = at / p->grid_m % p->grid_n * p->block_n;
        weight_grad_work c = {.p = p, .group = at / (p->grid_m * p->grid_n), .channel = i0 / (a->kh * a->kw),
                              .frame_scratch = scratch};
        gemm_block w = {.source = &weight_grad_source, .problem = &c, .i0 = i0, .j0 = j0,
                        .m = min_i64(p->block_m, p->m - i0), .n = min_i64(p->block_n, p->n - j0),
                        .k = a->n * p->outputs, .tree = a->tree, .passes = a->n * p->passes_each,
                        .tree_block = div_up(a->n, a->tree) * p->outputs,
                        .a_pack = scratch + p->image_floats, .b_pack = scratch + p->image_floats + p->a_floats,
                        .slots = scratch + p->image_floats + p->a_floats + p->b_floats};
        if (w.m > 0 && w.n > 0) run_block(&w);
    }
}

static void run_conv2d_weight_grad(const void *args)
{
    weight_grad p = plan_weight_grad(args);
    if (p.a->n * p.outputs == 0) {
        if (!p.a->accumulate) memset(p.a->out, 0, (size_t)(p.a->groups * p.m * p.n) * sizeof(float));
        return;
    }
    tb_pool_run(p.a->pool, p.grid_m * p.grid_n * p.a->groups, weight_grad_blocks, &p);
}
