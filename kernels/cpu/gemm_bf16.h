/* gemm in products of bf16 summed in f32. A step of the tile is a pair of adjacent k in 32 bits, the earlier one in the
 * lower half; an odd last k is paired with zero. Two kernels share it:
 *   gemm, dtype bf16        operands and C are bf16; the sum, bias and residual are rounded once, at the end
 *   gemm_bf16, dtype f32    operands and C are f32; operands are rounded to bf16 (nearest even) when they are packed
 *
 * A tile of A is packed row by row when k runs along memory, else pair by pair across its rows; A of bf16 whose rows
 * are whole pairs is read where it lies. B is packed by panels, pair by pair. Blocks of the tree are whole pairs.
 *
 * The including file defines TILE_MAC (the products of a pair, added to the sum), bf16_bits (f32 lanes, rounded, in the
 * lower halves of 32 bits) and bf16_pairs (2 * VL adjacent floats as pairs). */
#pragma once
#include "gemm_driver.h"
#include <string.h>

/* ---- operands ---- */
typedef struct bf16_operand {
    const char *at;
    bool is_f32;
} bf16_operand;

VEC bf16_operand operand_at(const void *base, bool is_f32, int64_t element)
{
    return (bf16_operand){(const char *)base + element * (is_f32 ? 4 : 2), is_f32};
}

/* `n` <= VL adjacent elements in the lower halves of 32 bits, zeros behind them. */
VEC vi load_halves(bf16_operand x, int64_t element, int n)
{
    x = operand_at(x.at, x.is_f32, element);
    if (n <= 0) return vi_set1(0);
    if (x.is_f32) return bf16_bits(vf_load_part((const float *)x.at, n));
    if (n >= VL) return vi_load_u16((const uint16_t *)x.at);
    uint16_t some[VL] = {0};
    for (int i = 0; i < n; i++) memcpy(&some[i], x.at + 2 * i, 2);
    return vi_load_u16(some);
}

VEC uint16_t load_half(bf16_operand x, int64_t element)
{
    x = operand_at(x.at, x.is_f32, element);
    return x.is_f32 ? tb_f32_to_bf16(*(const float *)x.at) : *(const uint16_t *)x.at;
}

/* Pairs `step` of adjacent lanes: element (2 step, lane) and, inside k, (2 step + 1, lane). */
VEC vf across_pairs(bf16_operand x, int64_t k_stride, int64_t k, int64_t step, int n)
{
    vi low = load_halves(x, 2 * step * k_stride, n);
    vi high = 2 * step + 1 < k ? load_halves(x, (2 * step + 1) * k_stride, n) : vi_set1(0);
    return vi_as_vf(vi_or(low, vi_shl(high, 16)));
}

/* VL pairs along k from `step` on; those behind k are zero. */
VEC vf along_pairs(bf16_operand x, int64_t k, int64_t step)
{
    if (2 * (step + VL) <= k) {
        bf16_operand from = operand_at(x.at, x.is_f32, 2 * step);
        return x.is_f32 ? bf16_pairs((const float *)from.at) : vf_load((const float *)from.at);
    }
    uint16_t some[2 * VL] = {0};
    for (int i = 0; i < 2 * VL && 2 * step + i < k; i++) some[i] = load_half(x, 2 * step + i);
    return vf_load((const float *)some);
}

/* ---- packing; `steps` pairs of which the elements below k count ---- */
/* One panel: dst takes steps * NR pairs; columns beyond `cols` are zero. */
static void pack_b_pairs(float *dst, bf16_operand b, int64_t b_row, int64_t b_col, int64_t k, int64_t steps, int cols)
{
    for (int v = 0; v < NV; v++, cols -= VL, b = operand_at(b.at, b.is_f32, VL * b_col)) {
        if (b_col == 1 || cols <= 1) {
            for (int64_t p = 0; p < steps; p++) vf_store(dst + p * NR + v * VL, across_pairs(b, b_row, k, p, cols));
            continue;
        }
        for (int64_t p = 0; p < steps; p += VL) {
            vf r[VL];
            for (int j = 0; j < VL; j++)
                r[j] = j < cols ? along_pairs(operand_at(b.at, b.is_f32, j * b_col), k, p) : vf_zero();
            vf_transpose(r);
            for (int j = 0; j < VL && p + j < steps; j++) vf_store(dst + (p + j) * NR + v * VL, r[j]);
        }
    }
}

/* A tile of A, row by row: dst takes rows * steps pairs. */
static void pack_a_rows(float *dst, bf16_operand a, int64_t a_row, int64_t k, int64_t steps, int rows)
{
    for (int i = 0; i < rows; i++, a = operand_at(a.at, a.is_f32, a_row))
        for (int64_t p = 0; p < steps; p += VL) vf_store_part(dst + i * steps + p, along_pairs(a, k, p), steps - p);
}

/* The same, pair by pair across the rows: dst takes steps * MR pairs. */
static void pack_a_columns(float *dst, bf16_operand a, int64_t a_col, int64_t k, int64_t steps, int rows)
{
    for (int64_t p = 0; p < steps; p++)
        for (int i = 0; i < rows; i += VL)
            vf_store_part(dst + p * MR + i, across_pairs(operand_at(a.at, a.is_f32, i), a_col, k, p, rows - i),
                          rows - i);
}

/* ---- the source of gemm_block.h ---- */
typedef struct bf16_plan {
    gemm_plan plan; /* first: what gemm_driver.h works on */
    bool is_f32;
} bf16_plan;

static void bf16_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const bf16_plan *b = w->problem;
    const gemm_plan *p = &b->plan;
    const tb_gemm_args *g = p->g;
    int64_t i = w->i0 + tile_begin(w, tile), steps = w->k1 - w->k0, k = min_i64(g->k - 2 * w->k0, 2 * steps);
    bf16_operand a = operand_at(g->a, b->is_f32, i * g->a_row + 2 * w->k0 * g->a_col);
    if (!p->pack_a) {
        t->a = (const float *)a.at;
        t->a_row = g->a_row / 2;
        t->a_k = 1;
        return;
    }
    float *pack = w->a_pack + (w->rows_inside ? tile * MR * p->kc : 0);
    bool along = g->a_col == 1 || g->k == 1;
    if (first_use && along) pack_a_rows(pack, a, g->a_row, k, steps, tile_height(w, tile));
    if (first_use && !along) pack_a_columns(pack, a, g->a_col, k, steps, tile_height(w, tile));
    t->a = pack;
    t->a_row = along ? steps : 1;
    t->a_k = along ? 1 : MR;
}

static void bf16_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const bf16_plan *f = w->problem;
    const gemm_plan *p = &f->plan;
    const tb_gemm_args *g = p->g;
    int64_t j = w->j0 + panel * NR, steps = w->k1 - w->k0, k = min_i64(g->k - 2 * w->k0, 2 * steps);
    t->b_k = NR;
    if (g->packed_b) {
        t->b = (const float *)g->packed_b + w->k0 * round_up(g->n, NR) + j * steps;
        t->b_panel = steps * NR;
        return;
    }
    float *pack = w->b_pack + (w->rows_inside ? 0 : panel * NR * p->kc);
    t->b = pack;
    t->b_panel = steps * NR;
    if (!first_use) return;
    bf16_operand b = operand_at(g->b, f->is_f32, 2 * w->k0 * g->b_row + j * g->b_col);
    for (int q = 0; q < count; q++, b = operand_at(b.at, b.is_f32, NR * g->b_col))
        pack_b_pairs(pack + q * steps * NR, b, g->b_row, g->b_col, k, steps, (int)min_i64(w->n - (panel + q) * NR, NR));
}

static float *bf16_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    const bf16_plan *b = w->problem;
    const tb_gemm_args *g = b->plan.g;
    (void)cols;
    t->out_row = g->c_row;
    bool is_plain = b->is_f32 && !g->accumulate && !g->bias && !g->residual && g->act == TB_ACT_NONE;
    return is_plain ? (float *)g->c + i * g->c_row + j : NULL;
}

/* n <= 4 * NR elements of a vector or row as f32; NULL stays NULL. */
static const float *widened(float *to, const void *from, int64_t element, bool is_f32, int n)
{
    if (!from) return NULL;
    bf16_operand x = operand_at(from, is_f32, element);
    if (is_f32) return (const float *)x.at;
    for (int j = 0; j < n; j += VL) vf_store(to + j, vi_as_vf(vi_shl(load_halves(x, j, n - j), 16)));
    return to;
}

static void narrow_row(uint16_t *to, const float *from, int n)
{
    int j = 0;
    for (; j + VL <= n; j += VL) vi_store_u16(to + j, bf16_bits(vf_load(from + j)));
    for (; j < n; j++) to[j] = tb_f32_to_bf16(from[j]);
}

static void bf16_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows,
                        int cols)
{
    const bf16_plan *b = w->problem;
    const tb_gemm_args *g = b->plan.g;
    if (!b->is_f32 && !g->accumulate && !g->bias && !g->residual && g->act == TB_ACT_NONE) {
        for (int r = 0; r < rows; r++) narrow_row((uint16_t *)g->c + (i + r) * g->c_row + j, sum + r * sum_row, cols);
        return;
    }
    float c_row[4 * NR], bias_row[4 * NR], residual_row[4 * NR];
    const float *bias = widened(bias_row, g->bias, j, b->is_f32, cols);
    for (int r = 0; r < rows; r++, i++) {
        const float *residual = widened(residual_row, g->residual, i * g->residual_row + j, b->is_f32, cols);
        float *c = b->is_f32 ? (float *)g->c + i * g->c_row + j : c_row;
        if (!b->is_f32 && g->accumulate) widened(c_row, g->c, i * g->c_row + j, false, cols);
        epilogue_row(sum + r * sum_row, c, cols, g->accumulate, bias, 1, residual, g->act);
        if (!b->is_f32) narrow_row((uint16_t *)g->c + i * g->c_row + j, c, cols);
    }
}

static const gemm_source bf16_source = {gemm_pass, bf16_a, bf16_b, bf16_target, bf16_finish};

/* ---- the kernels ---- */
/* One k alone is refused: its packed weight could not be told from that of f32 by its size. */
static bool dense_operands(const void *args)
{
    const tb_gemm_args *g = args;
    return g->k != 1 && has_dense_operands(g);
}

static bf16_plan plan_bf16(const tb_gemm_args *g, bool is_f32)
{
    bool whole_pairs = !is_f32 && g->a_col == 1 && g->k % 2 == 0 && (g->a_row % 2 == 0 || g->m <= 1);
    return (bf16_plan){plan_blocks(g, &bf16_source, div_up(g->k, 2), !whole_pairs, false), is_f32};
}

VEC size_t scratch_of(const tb_gemm_args *g, bool is_f32)
{
    bf16_plan p = plan_bf16(g, is_f32);
    return plan_scratch_bytes(&p.plan);
}

VEC void run_of(const tb_gemm_args *g, bool is_f32)
{
    bf16_plan p = plan_bf16(g, is_f32);
    run_plan(&p.plan);
}

VEC void pack_of(const tb_gemm_args *g, void *out, bool is_f32)
{
    int64_t all = div_up(g->k, 2), kc = pass_length(all);
    for (int64_t k0 = 0; k0 < all; k0 += kc)
        for (int64_t j = 0; j < g->n; j += NR) {
            int64_t steps = min_i64(kc, all - k0), k = min_i64(g->k - 2 * k0, 2 * steps);
            pack_b_pairs((float *)out + k0 * round_up(g->n, NR) + j * steps,
                         operand_at(g->b, is_f32, 2 * k0 * g->b_row + j * g->b_col), g->b_row, g->b_col, k, steps,
                         (int)min_i64(g->n - j, NR));
        }
}

static size_t pack_bytes(const void *args)
{
    const tb_gemm_args *g = args;
    return (size_t)(round_up(g->n, NR) * div_up(g->k, 2)) * sizeof(float);
}

static size_t scratch_bf16(const void *args) { return scratch_of(args, false); }
static size_t scratch_f32(const void *args) { return scratch_of(args, true); }
static void run_bf16(const void *args) { run_of(args, false); }
static void run_f32(const void *args) { run_of(args, true); }
static void pack_bf16(const void *args, void *out) { pack_of(args, out, false); }
static void pack_f32(const void *args, void *out) { pack_of(args, out, true); }

#define GEMM_BF16(name_, isa_, supports_)                                                                             \
    {                                                                                                                 \
        .name = name_, .primitive = "gemm", .dtype = TB_BF16, .isa = isa_, .supports = supports_, .run = run_bf16,    \
        .scratch_bytes = scratch_bf16, .pack_bytes = pack_bytes, .pack = pack_bf16                                    \
    }
#define GEMM_F32_AS_BF16(name_, isa_, supports_)                                                                      \
    {                                                                                                                 \
        .name = name_, .primitive = "gemm_bf16", .dtype = TB_F32, .isa = isa_, .supports = supports_, .run = run_f32, \
        .scratch_bytes = scratch_f32, .pack_bytes = pack_bytes, .pack = pack_f32                                      \
    }
