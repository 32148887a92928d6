/* gemm f32: strided and packed operands as a source of gemm_block.h. A is read where it lies when k runs along memory,
 * else packed by tiles; B is packed by panels unless the rows are few or it comes packed. */
#pragma once
#include "gemm_driver.h"

static void gemm_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    const float *a = (const float *)g->a + (w->i0 + tile_begin(w, tile)) * g->a_row + w->k0 * g->a_col;
    if (!p->pack_a) {
        t->a = a;
        t->a_row = g->a_row;
        t->a_k = g->a_col;
        return;
    }
    float *pack = w->a_pack + (w->rows_inside ? tile * MR * p->kc : 0);
    if (first_use) pack_a_tile(pack, a, g->a_row, g->a_col, w->k1 - w->k0, tile_height(w, tile));
    t->a = pack;
    t->a_row = 1;
    t->a_k = MR;
}

static void gemm_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    int64_t j = w->j0 + panel * NR, k = w->k1 - w->k0;
    if (g->packed_b) {
        t->b = (const float *)g->packed_b + j * g->k + w->k0 * NR;
        t->b_k = NR;
        t->b_panel = g->k * NR;
        return;
    }
    const float *b = (const float *)g->b + w->k0 * g->b_row + j * g->b_col;
    if (!p->pack_b && (panel + count) * NR <= w->n) {
        t->b = b;
        t->b_k = g->b_row;
        t->b_panel = NR;
        return;
    }
    float *pack = w->b_pack + (w->rows_inside ? 0 : panel * NR * p->kc);
    t->b = pack;
    t->b_k = NR;
    t->b_panel = k * NR;
    if (!first_use) return;
    for (int q = 0; q < count; q++)
        pack_b_panel(pack + q * k * NR, b + q * NR * g->b_col, g->b_row, g->b_col, k,
                     (int)min_i64(w->n - (panel + q) * NR, NR));
}

static float *gemm_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    (void)cols;
    t->out_row = g->c_row;
    bool is_plain = !g->accumulate && !g->bias && !g->residual && g->act == TB_ACT_NONE;
    return is_plain ? (float *)g->c + i * g->c_row + j : NULL;
}

static void gemm_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows, int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    const float *bias = g->bias ? (const float *)g->bias + j : NULL, *residual = g->residual;
    for (int r = 0; r < rows; r++)
        epilogue_row(sum + r * sum_row, (float *)g->c + (i + r) * g->c_row + j, cols, g->accumulate, bias, 1,
                     residual ? residual + (i + r) * g->residual_row + j : NULL, g->act);
}

static const gemm_source matrix_source = {gemm_pass, gemm_a, gemm_b, gemm_target, gemm_finish};

static gemm_plan plan_f32(const tb_gemm_args *g)
{
    return plan_blocks(g, &matrix_source, g->k, g->a_col != 1 && g->k > 1, g->b_col == 1 || g->n == 1);
}

static size_t gemm_scratch_bytes(const void *args)
{
    gemm_plan p = plan_f32(args);
    return plan_scratch_bytes(&p);
}

static void gemm_run(const void *args)
{
    gemm_plan p = plan_f32(args);
    run_plan(&p);
}

static size_t gemm_pack_bytes(const void *args)
{
    const tb_gemm_args *g = args;
    return (size_t)(round_up(g->n, NR) * g->k) * sizeof(float);
}

static void gemm_pack(const void *args, void *out)
{
    const tb_gemm_args *g = args;
    for (int64_t j = 0; j < g->n; j += NR)
        pack_b_panel((float *)out + j * g->k, (const float *)g->b + j * g->b_col, g->b_row, g->b_col, g->k,
                     (int)min_i64(g->n - j, NR));
}
