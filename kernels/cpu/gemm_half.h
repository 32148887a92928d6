/* gemm on operands of 16 bits, whatever they are: packing, and results that are rounded once, at the end.
 *
 * A step of the tile is 32 bits of an operand, STEP_K elements of k. A tile of A is packed row by row when k runs along
 * memory, else step by step across its rows; A whose rows are such steps already is read where it lies. B is packed by
 * panels, step by step. Operands, C, bias and residual may as well be f32, which is rounded when it is packed.
 *
 * The including file defines STEP_K (elements in a step) and the functions that are declared below. */
#pragma once
#include "gemm_driver.h"

typedef struct half_operand {
    const char *at;
    bool is_f32;
} half_operand;

VEC half_operand operand_at(const void *base, bool is_f32, int64_t element)
{
    return (half_operand){(const char *)base + element * (is_f32 ? 4 : 2), is_f32};
}

/* A step of `n` <= VL adjacent lanes, zeros behind them (none where n <= 0): of a lane the STEP_K elements along k,
 * each k_stride from the one before; those behind k are zero. */
VEC vf half_across(half_operand x, int64_t k_stride, int64_t k, int64_t step, int64_t n);
/* VL steps along k from `step` on; elements behind k are zero. */
VEC vf half_along(half_operand x, int64_t k, int64_t step);
/* `n` <= VL adjacent elements of 16 bits as f32, zeros behind them. */
VEC vf half_widen(const uint16_t *x, int64_t n);
/* To the nearest, halves to even. */
static void half_narrow(uint16_t *to, const float *from, int n);

/* ---- packing; `steps` of which the elements below k count ---- */
/* One panel: dst takes steps * NR floats; columns beyond `cols` are zero. */
static void pack_b_steps(float *dst, half_operand b, int64_t b_row, int64_t b_col, int64_t k, int64_t steps, int cols)
{
    for (int v = 0; v < NV; v++, cols -= VL, b = operand_at(b.at, b.is_f32, VL * b_col)) {
        if (b_col == 1 || cols <= 1) {
            for (int64_t p = 0; p < steps; p++) vf_store(dst + p * NR + v * VL, half_across(b, b_row, k, p, cols));
            continue;
        }
        for (int64_t p = 0; p < steps; p += VL) {
            vf r[VL];
            for (int j = 0; j < VL; j++)
                r[j] = j < cols ? half_along(operand_at(b.at, b.is_f32, j * b_col), k, p) : vf_zero();
            vf_transpose(r);
            for (int j = 0; j < VL && p + j < steps; j++) vf_store(dst + (p + j) * NR + v * VL, r[j]);
        }
    }
}

/* A tile of A, its rows dst_row floats apart. */
static void pack_a_rows(float *dst, int64_t dst_row, half_operand a, int64_t a_row, int64_t k, int64_t steps, int rows)
{
    for (int i = 0; i < rows; i++, a = operand_at(a.at, a.is_f32, a_row))
        for (int64_t p = 0; p < steps; p += VL) vf_store_part(dst + i * dst_row + p, half_along(a, k, p), steps - p);
}

/* The same, step by step across the rows: dst takes steps * MR floats. */
static void pack_a_columns(float *dst, half_operand a, int64_t a_col, int64_t k, int64_t steps, int rows)
{
    for (int64_t p = 0; p < steps; p++)
        for (int i = 0; i < rows; i += VL)
            vf_store_part(dst + p * MR + i, half_across(operand_at(a.at, a.is_f32, i), a_col, k, p, rows - i),
                          rows - i);
}

/* ---- the source of gemm_block.h ---- */
typedef struct half_plan {
    gemm_plan plan; /* first: what gemm_driver.h works on */
    bool is_f32;
} half_plan;

/* Elements of K that the steps [k0, k1) have. */
VEC int64_t elements_of(const tb_gemm_args *g, int64_t k0, int64_t k1)
{
    return min_i64(g->k - STEP_K * k0, STEP_K * (k1 - k0));
}

static void half_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const half_plan *h = w->problem;
    const gemm_plan *p = &h->plan;
    const tb_gemm_args *g = p->g;
    int64_t i = w->i0 + tile_begin(w, tile), steps = w->k1 - w->k0, k = elements_of(g, w->k0, w->k1);
    half_operand a = operand_at(g->a, h->is_f32, i * g->a_row + STEP_K * w->k0 * g->a_col);
    if (!p->pack_a) {
        t->a = (const float *)a.at;
        t->a_row = g->a_row / STEP_K;
        t->a_k = 1;
        return;
    }
    float *pack = w->a_pack + (w->rows_inside ? tile * MR * (p->kc + A_GAP) : 0);
    bool along = g->a_col == 1 || g->k == 1;
    t->a = pack;
    t->a_row = along ? p->kc + A_GAP : 1;
    t->a_k = along ? 1 : MR;
    if (first_use && along) pack_a_rows(pack, t->a_row, a, g->a_row, k, steps, tile_height(w, tile));
    if (first_use && !along) pack_a_columns(pack, a, g->a_col, k, steps, tile_height(w, tile));
}

static void half_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const half_plan *h = w->problem;
    const gemm_plan *p = &h->plan;
    const tb_gemm_args *g = p->g;
    int64_t j = w->j0 + panel * NR, steps = w->k1 - w->k0, k = elements_of(g, w->k0, w->k1);
    t->b_k = NR;
    t->b_panel = steps * NR;
    if (g->packed_b) {
        t->b = (const float *)g->packed_b + w->k0 * round_up(g->n, NR) + j * steps;
        return;
    }
    float *pack = w->b_pack + (w->rows_inside ? 0 : panel * NR * p->kc);
    t->b = pack;
    if (!first_use) return;
    half_operand b = operand_at(g->b, h->is_f32, STEP_K * w->k0 * g->b_row + j * g->b_col);
    for (int q = 0; q < count; q++, b = operand_at(b.at, b.is_f32, NR * g->b_col))
        pack_b_steps(pack + q * steps * NR, b, g->b_row, g->b_col, k, steps, (int)min_i64(w->n - (panel + q) * NR, NR));
}

VEC bool is_sum_alone(const tb_gemm_args *g)
{
    return !g->accumulate && !g->bias && !g->residual && g->act == TB_ACT_NONE;
}

static float *half_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    const half_plan *h = w->problem;
    const tb_gemm_args *g = h->plan.g;
    (void)cols;
    t->out_row = g->c_row;
    return h->is_f32 && is_sum_alone(g) ? (float *)g->c + i * g->c_row + j : NULL;
}

/* n <= 4 * NR elements of a vector or row as f32; NULL stays NULL. */
static const float *widened(float *to, const void *from, int64_t element, bool is_f32, int n)
{
    if (!from) return NULL;
    if (is_f32) return (const float *)from + element;
    for (int j = 0; j < n; j += VL) vf_store(to + j, half_widen((const uint16_t *)from + element + j, n - j));
    return to;
}

static void half_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows,
                        int cols)
{
    const half_plan *h = w->problem;
    const tb_gemm_args *g = h->plan.g;
    if (!h->is_f32 && is_sum_alone(g)) {
        for (int r = 0; r < rows; r++) half_narrow((uint16_t *)g->c + (i + r) * g->c_row + j, sum + r * sum_row, cols);
        return;
    }
    float c_row[4 * NR], bias_row[4 * NR], residual_row[4 * NR];
    const float *bias = widened(bias_row, g->bias, j, h->is_f32, cols);
    for (int r = 0; r < rows; r++, i++) {
        const float *residual = widened(residual_row, g->residual, i * g->residual_row + j, h->is_f32, cols);
        float *c = h->is_f32 ? (float *)g->c + i * g->c_row + j : c_row;
        if (!h->is_f32 && g->accumulate) widened(c_row, g->c, i * g->c_row + j, false, cols);
        epilogue_row(sum + r * sum_row, c, cols, g->accumulate, bias, 1, residual, g->act);
        if (!h->is_f32) half_narrow((uint16_t *)g->c + i * g->c_row + j, c, cols);
    }
}

static const gemm_source half_source = {gemm_pass, half_a, half_b, half_target, half_finish};

/* ---- what a kernel does ---- */
static half_plan plan_half(const tb_gemm_args *g, bool is_f32)
{
    bool whole_steps = STEP_K > 1 && !is_f32 && g->a_col == 1 && g->k % STEP_K == 0;
    bool a_in_place = whole_steps && (g->a_row % STEP_K == 0 || g->m <= 1);
    return (half_plan){plan_blocks(g, &half_source, div_up(g->k, STEP_K), !a_in_place, false), is_f32};
}

VEC size_t scratch_of(const tb_gemm_args *g, bool is_f32)
{
    half_plan p = plan_half(g, is_f32);
    return plan_scratch_bytes(&p.plan);
}

VEC void run_of(const tb_gemm_args *g, bool is_f32)
{
    half_plan p = plan_half(g, is_f32);
    run_plan(&p.plan);
}
