/* gemm f32: strided and packed operands as a source of gemm_block.h. A is read where it lies when k runs along memory
 * (or copied, where its rows would push each other out of L1), else packed by tiles; B is packed by panels unless the
 * rows are few or it comes packed. Where B is a weight [N, K] that would be packed for few rows, the transposed product
 * C^T = B^T A^T runs instead: it packs A. Every element has the same chain either way. */
#pragma once
#include "gemm_driver.h"
#include "gemm_tiny_f32.h"

typedef struct f32_plan {
    gemm_plan plan; /* first: what gemm_driver.h works on */
    tb_gemm_args transposed;
} f32_plan;

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
    float *pack = w->a_pack + (w->rows_inside ? tile * MR * (p->kc + A_GAP) : 0);
    int64_t k = w->k1 - w->k0;
    bool along = g->a_col == 1;
    t->a = pack;
    t->a_row = along ? p->kc + A_GAP : 1;
    t->a_k = along ? 1 : MR;
    if (!first_use) return;
    if (!along) pack_a_tile(pack, a, g->a_row, g->a_col, k, tile_height(w, tile));
    for (int i = 0; along && i < tile_height(w, tile); i++)
        memcpy(pack + i * t->a_row, a + i * g->a_row, (size_t)k * sizeof(float));
}

static void gemm_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    int64_t j = w->j0 + panel * NR, k = w->k1 - w->k0;
    if (g->packed_b) {
        t->b = (const float *)g->packed_b + w->k0 * round_up(g->n, NR) + j * k;
        t->b_k = NR;
        t->b_panel = k * NR;
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

static void gemm_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows,
                        int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    const float *bias = g->bias ? (const float *)g->bias + j : NULL, *residual = g->residual;
    for (int r = 0; r < rows; r++)
        epilogue_row(sum + r * sum_row, (float *)g->c + (i + r) * g->c_row + j, cols, g->accumulate, bias, 1,
                     residual ? residual + (i + r) * g->residual_row + j : NULL, g->act);
}

static const gemm_source matrix_source = {gemm_pass, gemm_a, gemm_b, gemm_target, gemm_finish};

/* ---- the transposed product: a tile's rows are columns of C ---- */
static float *no_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    (void)w, (void)t, (void)i, (void)j, (void)cols;
    return NULL;
}

static void finish_transposed(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows,
                              int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    const float *bias = g->bias, *residual = g->residual;
    for (int at = 0; at < rows; at += VL, i += VL) {
        vf added = bias ? vf_load_part(bias + i, rows - at) : vf_zero();
        for (int col = 0; col < cols; col += VL) {
            vf r[VL];
            for (int q = 0; q < VL; q++) r[q] = at + q < rows ? vf_load(sum + (at + q) * sum_row + col) : vf_zero();
            vf_transpose(r);
            for (int q = 0; q < VL && col + q < cols; q++) {
                int64_t row = j + col + q;
                epilogue_vector(r[q], (float *)g->c + row * g->c_row + i, rows - at, g->accumulate, bias, added,
                                residual ? residual + row * g->residual_row + i : NULL, g->act);
            }
        }
    }
}

static const gemm_source transposed_source = {gemm_pass, gemm_a, gemm_b, no_target, finish_transposed};

/* Work per k, in multiply-adds: of the tiles, padded to whole panels, and of packing B. */
VEC int64_t work_packing_b(int64_t m, int64_t n) { return (m + PACKED_ELEMENT_MACS) * round_up(n, NR); }

static void plan_f32(const tb_gemm_args *g, f32_plan *p)
{
    const gemm_source *source = &matrix_source;
    if (!g->packed_b && g->b_row == 1 && g->b_col != 1 && work_packing_b(g->n, g->m) < work_packing_b(g->m, g->n)) {
        p->transposed = *g;
        p->transposed.m = g->n, p->transposed.n = g->m;
        p->transposed.a = g->b, p->transposed.a_row = g->b_col, p->transposed.a_col = g->b_row;
        p->transposed.b = g->a, p->transposed.b_row = g->a_col, p->transposed.b_col = g->a_row;
        g = &p->transposed;
        source = &transposed_source;
    }
    bool shares_sets = g->a_col == 1 && g->m > 1 && g->n >= SET_PANELS * NR && g->a_row % SHARED_SETS_FLOATS == 0;
    p->plan = plan_blocks(g, source, g->k, (g->a_col != 1 && g->k > 1) || shares_sets, g->b_col == 1 || g->n == 1);
}

static size_t gemm_scratch_bytes(const void *args)
{
    f32_plan p;
    if (is_tiny(args)) return 0;
    plan_f32(args, &p);
    return plan_scratch_bytes(&p.plan);
}

static void gemm_run(const void *args)
{
    f32_plan p;
    if (is_tiny(args)) {
        run_tiny(args);
        return;
    }
    plan_f32(args, &p);
    run_plan(&p.plan);
}

static size_t gemm_pack_bytes(const void *args)
{
    const tb_gemm_args *g = args;
    return (size_t)(round_up(g->n, NR) * g->k) * sizeof(float);
}

/* Pass by pass, so that what a pass reads lies together: panels a whole K apart would share the sets of L2. */
static void gemm_pack(const void *args, void *out)
{
    const tb_gemm_args *g = args;
    int64_t kc = pass_length(g->k);
    for (int64_t k0 = 0; k0 < g->k; k0 += kc)
        for (int64_t j = 0; j < g->n; j += NR) {
            int64_t k = min_i64(kc, g->k - k0);
            pack_b_panel((float *)out + k0 * round_up(g->n, NR) + j * k,
                         (const float *)g->b + k0 * g->b_row + j * g->b_col, g->b_row, g->b_col, k,
                         (int)min_i64(g->n - j, NR));
        }
}
