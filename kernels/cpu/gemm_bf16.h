/* gemm in products of bf16 summed in f32. A step of the tile is a pair of adjacent k in 32 bits, the earlier one in the
 * lower half; an odd last k is paired with zero. Blocks of the tree are whole pairs. Two kernels share it:
 *   gemm, dtype bf16        operands and C are bf16; the sum, bias and residual are rounded once, at the end
 *   gemm_bf16, dtype f32    operands and C are f32; operands are rounded to bf16 (nearest even) when they are packed
 *
 * The including file defines TILE_MAC (the products of a pair, added to the sum), bf16_bits (f32 lanes, rounded, in the
 * lower halves of 32 bits) and bf16_pairs (2 * VL adjacent floats as pairs). */
#pragma once
#define STEP_K 2
#include "gemm_half.h"
#include <string.h>

/* ---- operands ---- */
/* `n` <= VL adjacent elements in the lower halves of 32 bits, zeros behind them. */
VEC vi load_halves(half_operand x, int64_t element, int64_t n)
{
    x = operand_at(x.at, x.is_f32, element);
    if (n <= 0) return vi_set1(0);
    if (x.is_f32) return bf16_bits(vf_load_part((const float *)x.at, n));
    if (n >= VL) return vi_load_u16((const uint16_t *)x.at);
    uint16_t some[VL] = {0};
    for (int i = 0; i < n; i++) memcpy(&some[i], x.at + 2 * i, 2);
    return vi_load_u16(some);
}

VEC uint16_t load_half(half_operand x, int64_t element)
{
    x = operand_at(x.at, x.is_f32, element);
    return x.is_f32 ? tb_f32_to_bf16(*(const float *)x.at) : *(const uint16_t *)x.at;
}

VEC vf half_across(half_operand x, int64_t k_stride, int64_t k, int64_t step, int64_t n)
{
    vi low = load_halves(x, 2 * step * k_stride, n);
    vi high = 2 * step + 1 < k ? load_halves(x, (2 * step + 1) * k_stride, n) : vi_set1(0);
    return vi_as_vf(vi_or(low, vi_shl(high, 16)));
}

VEC vf half_along(half_operand x, int64_t k, int64_t step)
{
    if (2 * (step + VL) <= k) {
        half_operand from = operand_at(x.at, x.is_f32, 2 * step);
        return x.is_f32 ? bf16_pairs((const float *)from.at) : vf_load((const float *)from.at);
    }
    uint16_t some[2 * VL] = {0};
    for (int i = 0; i < 2 * VL && 2 * step + i < k; i++) some[i] = load_half(x, 2 * step + i);
    return vf_load((const float *)some);
}

/* ---- rounding ---- */
VEC vf half_widen(const uint16_t *x, int64_t n)
{
    return vi_as_vf(vi_shl(load_halves(operand_at(x, false, 0), 0, n), 16));
}

static void half_narrow(uint16_t *to, const float *from, int n)
{
    int j = 0;
    for (; j + VL <= n; j += VL) vi_store_u16(to + j, bf16_bits(vf_load(from + j)));
    for (; j < n; j++) to[j] = tb_f32_to_bf16(from[j]);
}

/* ---- the kernels ---- */
/* One k alone is refused: its packed weight could not be told from that of f32 by its size. */
static bool dense_operands(const void *args)
{
    const tb_gemm_args *g = args;
    return g->k != 1 && has_dense_operands(g);
}

VEC void pack_of(const tb_gemm_args *g, void *out, bool is_f32)
{
    int64_t all = div_up(g->k, 2), kc = pass_length(all);
    for (int64_t k0 = 0; k0 < all; k0 += kc)
        for (int64_t j = 0; j < g->n; j += NR) {
            int64_t steps = min_i64(kc, all - k0);
            pack_b_steps((float *)out + k0 * round_up(g->n, NR) + j * steps,
                         operand_at(g->b, is_f32, 2 * k0 * g->b_row + j * g->b_col), g->b_row, g->b_col,
                         elements_of(g, k0, k0 + steps), steps, (int)min_i64(g->n - j, NR));
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
