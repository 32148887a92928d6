/* gemm in products of bf16 without an instruction for them: both halves of a pair are widened to f32, whose product is
 * exact, and added to the sum by fused multiply-adds, the earlier k first. */
#pragma once
#include "tb_dtype.h"
#include <string.h>

VEC vf lower_half(vf pair) { return vi_as_vf(vi_shl(vf_bits(pair), 16)); }
VEC vf upper_half(vf pair) { return vi_as_vf(vi_and(vf_bits(pair), vi_set1((int32_t)0xffff0000u))); }
VEC vf mac_widened(vf a, vf b, vf c)
{
    return vf_fma(upper_half(a), upper_half(b), vf_fma(lower_half(a), lower_half(b), c));
}
#define TILE_MAC mac_widened

/* Nearest even; NaN stays NaN. */
VEC vi bf16_bits(vf x)
{
    vi bits = vf_bits(x), odd = vi_and(vi_shr(bits, 16), vi_set1(1));
    vi rounded = vi_shr(vi_add(bits, vi_add(odd, vi_set1(0x7fff))), 16);
    return vi_select(vf_isnan(x), vi_or(vi_shr(bits, 16), vi_set1(0x40)), rounded);
}

VEC vf bf16_pairs(const float *x)
{
    uint16_t halves[2 * VL];
    vi_store_u16(halves, bf16_bits(vf_load(x)));
    vi_store_u16(halves + VL, bf16_bits(vf_load(x + VL)));
    vf pairs;
    memcpy(&pairs, halves, sizeof pairs);
    return pairs;
}

#include "gemm_bf16.h"
