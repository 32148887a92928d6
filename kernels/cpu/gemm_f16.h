/* gemm f16: operands, C, bias and residual are f16. Operands are widened to f32 when they are packed, so that an
 * element is the chain of gemm_f32.h; the sum, bias and residual are rounded once, at the end. It stores half the bytes
 * and saves no arithmetic: these instruction sets have no products of f16 that sum in f32. */
#pragma once
#include "gemm_driver.h"

/* `n` <= VL adjacent elements, zeros behind them; none where n <= 0. */
VEC vf load_halves(const uint16_t *x, int64_t n)
{
    uint16_t some[VL] = {0};
    if (n >= VL) return vf_load_f16(x);
    for (int64_t i = 0; i < n; i++) some[i] = x[i];
    return n > 0 ? vf_load_f16(some) : vf_zero();
}

static void widen_row(float *to, const uint16_t *from, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) vf_store_part(to + i, load_halves(from + i, n - i), n - i);
}

static void narrow_row(uint16_t *to, const float *from, int n)
{
    int j = 0;
    for (; j + VL <= n; j += VL) vf_store_f16(to + j, vf_load(from + j));
    for (; j < n; j++) to[j] = tb_f32_to_f16(from[j]);
}

/* ---- the source of gemm_block.h ---- */
static void f16_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    const uint16_t *a = (const uint16_t *)g->a + (w->i0 + tile_begin(w, tile)) * g->a_row + w->k0 * g->a_col;
    float *pack = w->a_pack + (w->rows_inside ? tile * MR * (p->kc + A_GAP) : 0);
    int64_t k = w->k1 - w->k0;
    int rows = tile_height(w, tile);
    bool along = g->a_col == 1 || g->k == 1;
    t->a = pack;
    t->a_row = along ? p->kc + A_GAP : 1;
    t->a_k = along ? 1 : MR;
    if (!first_use) return;
    for (int i = 0; along && i < rows; i++) widen_row(pack + i * t->a_row, a + i * g->a_row, k);
    for (int64_t q = 0; !along && q < k; q++) widen_row(pack + q * MR, a + q * g->a_col, rows);
}

/* One panel: dst takes k * NR floats; columns beyond `cols` are zero. */
static void pack_b_halves(float *dst, const uint16_t *b, int64_t b_row, int64_t b_col, int64_t k, int64_t cols)
{
    for (int v = 0; v < NV; v++, cols -= VL, b += VL * b_col) {
        if (b_col == 1 || cols <= 1) {
            for (int64_t q = 0; q < k; q++) vf_store(dst + q * NR + v * VL, load_halves(b + q * b_row, cols));
            continue;
        }
        for (int64_t q = 0; q < k; q += VL) {
            vf r[VL];
            for (int j = 0; j < VL; j++) r[j] = j < cols ? load_halves(b + j * b_col + q, k - q) : vf_zero();
            vf_transpose(r);
            for (int j = 0; j < VL && q + j < k; j++) vf_store(dst + (q + j) * NR + v * VL, r[j]);
        }
    }
}

static void f16_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    int64_t j = w->j0 + panel * NR, k = w->k1 - w->k0;
    float *pack = w->b_pack + (w->rows_inside ? 0 : panel * NR * p->kc);
    t->b = pack;
    t->b_k = NR;
    t->b_panel = k * NR;
    if (!first_use) return;
    const uint16_t *b = (const uint16_t *)g->b + w->k0 * g->b_row + j * g->b_col;
    for (int q = 0; q < count; q++, b += NR * g->b_col)
        pack_b_halves(pack + q * k * NR, b, g->b_row, g->b_col, k, min_i64(w->n - (panel + q) * NR, NR));
}

static float *f16_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    (void)w, (void)t, (void)i, (void)j, (void)cols;
    return NULL;
}

/* n <= 4 * NR elements as f32; NULL stays NULL. */
static const float *widened(float *to, const void *from, int64_t element, int n)
{
    if (!from) return NULL;
    widen_row(to, (const uint16_t *)from + element, n);
    return to;
}

static void f16_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows, int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    bool is_plain = !g->accumulate && !g->bias && !g->residual && g->act == TB_ACT_NONE;
    float c_row[4 * NR], bias_row[4 * NR], residual_row[4 * NR];
    const float *bias = widened(bias_row, g->bias, j, cols);
    for (int r = 0; r < rows; r++, i++, sum += sum_row) {
        uint16_t *c = (uint16_t *)g->c + i * g->c_row + j;
        const float *residual = widened(residual_row, g->residual, i * g->residual_row + j, cols);
        if (g->accumulate) widen_row(c_row, c, cols);
        if (!is_plain) epilogue_row(sum, c_row, cols, g->accumulate, bias, 1, residual, g->act);
        narrow_row(c, is_plain ? sum : c_row, cols);
    }
}

static const gemm_source f16_source = {gemm_pass, f16_a, f16_b, f16_target, f16_finish};

/* ---- the kernel ---- */
static bool f16_supports(const void *args) { return has_dense_operands(args); }

static size_t f16_scratch(const void *args)
{
    const tb_gemm_args *g = args;
    gemm_plan p = plan_blocks(g, &f16_source, g->k, true, false);
    return plan_scratch_bytes(&p);
}

static void f16_run(const void *args)
{
    const tb_gemm_args *g = args;
    gemm_plan p = plan_blocks(g, &f16_source, g->k, true, false);
    run_plan(&p);
}

#define GEMM_F16(name_, isa_)                                                                                          \
    {                                                                                                                  \
        .name = name_, .primitive = "gemm", .dtype = TB_F16, .isa = isa_, .supports = f16_supports, .run = f16_run,    \
        .scratch_bytes = f16_scratch                                                                                   \
    }
