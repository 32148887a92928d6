/* One f32 lane in plain C: the names of vec_avx2.h, for the ISA every machine has. */
#pragma once
#include "tb_dtype.h"
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define VEC static inline __attribute__((always_inline, unused))

#define VEC_ISA TB_ISA_SCALAR
#define VEC_ISA_NAME "scalar"

enum { VL = 1 };
typedef float vf;
typedef int32_t vi;
typedef bool vm;

VEC vf vf_zero(void) { return 0.0f; }
VEC vf vf_set1(float x) { return x; }
VEC vf vf_load(const float *p) { return *p; }
VEC vf vf_load_n(const float *p, int n) { return n > 0 ? *p : 0.0f; }
VEC void vf_store(float *p, vf x) { *p = x; }
VEC void vf_store_n(float *p, vf x, int n)
{
    if (n > 0) *p = x;
}
/* The next `left` > 0 elements of an array, at most VL. */
VEC vf vf_load_part(const float *p, int64_t left) { return left >= VL ? vf_load(p) : vf_load_n(p, (int)left); }
VEC void vf_store_part(float *p, vf x, int64_t left)
{
    if (left >= VL) vf_store(p, x);
    else vf_store_n(p, x, (int)left);
}

VEC vf vf_add(vf a, vf b) { return a + b; }
VEC vf vf_sub(vf a, vf b) { return a - b; }
VEC vf vf_mul(vf a, vf b) { return a * b; }
VEC vf vf_div(vf a, vf b) { return a / b; }
VEC vf vf_sqrt(vf a) { return sqrtf(a); }
VEC vf vf_fma(vf a, vf b, vf c) { return fmaf(a, b, c); }
VEC vf vf_fnma(vf a, vf b, vf c) { return fmaf(-a, b, c); }
VEC vf vf_min(vf a, vf b) { return a < b ? a : b; }
VEC vf vf_max(vf a, vf b) { return a > b ? a : b; }
VEC vf vf_round(vf a) { return rintf(a); }

VEC vi vf_bits(vf a)
{
    vi i;
    memcpy(&i, &a, sizeof i);
    return i;
}
VEC vf vi_as_vf(vi a)
{
    vf f;
    memcpy(&f, &a, sizeof f);
    return f;
}
VEC vi vf_to_vi(vf a) { return a >= -0x1p31f && a < 0x1p31f ? (vi)rintf(a) : INT32_MIN; }
VEC vf vi_to_vf(vi a) { return (vf)a; }
VEC vi vi_set1(int32_t x) { return x; }
VEC vi vi_add(vi a, vi b) { return (vi)((uint32_t)a + (uint32_t)b); }
VEC vi vi_sub(vi a, vi b) { return (vi)((uint32_t)a - (uint32_t)b); }
VEC vi vi_and(vi a, vi b) { return a & b; }
VEC vi vi_or(vi a, vi b) { return a | b; }
VEC vi vi_xor(vi a, vi b) { return a ^ b; }
VEC vi vi_shl(vi a, int bits) { return (vi)((uint32_t)a << bits); }
VEC vi vi_shr(vi a, int bits) { return (vi)((uint32_t)a >> bits); }
VEC vi vi_sar(vi a, int bits) { return a >> bits; }

VEC float vf_tree_sum(vf v) { return v; }
VEC float vf_tree_max(vf v) { return v; }

/* x 2^n for whole n in [-250, 254], rounded once. The factor goes on in two halves, so that results near the top and
 * denormal ones are right. */
VEC vf vf_scale(vf x, vf n)
{
    vi whole = vf_to_vi(n), half = vi_sar(whole, 1), rest = vi_sub(whole, half), bias = vi_set1(127);
    return vf_mul(vf_mul(x, vi_as_vf(vi_shl(vi_add(half, bias), 23))), vi_as_vf(vi_shl(vi_add(rest, bias), 23)));
}

VEC vm vf_lt(vf a, vf b) { return a < b; }
VEC vm vf_le(vf a, vf b) { return a <= b; }
VEC vm vf_eq(vf a, vf b) { return a == b; }
VEC vm vf_isnan(vf a) { return a != a; }
VEC vm vi_eq(vi a, vi b) { return a == b; }
VEC vm vm_first(int n) { return n > 0; }
VEC vm vm_between(int from, int to) { return from <= 0 && to > 0; }
VEC vf vf_load_if(vm m, const float *p) { return m ? *p : 0.0f; }
VEC vf vf_select(vm m, vf yes, vf no) { return m ? yes : no; }
VEC vi vi_select(vm m, vi yes, vi no) { return m ? yes : no; }

VEC vf vf_ahead(vf a, vf b) { return (void)a, b; }
VEC vf vf_behind(vf a, vf b) { return (void)b, a; }

VEC void vf_unzip(vf a, vf b, vf *even, vf *odd)
{
    *even = a;
    *odd = b;
}
VEC void vf_load_pairs(const float *p, int n, vf *even, vf *odd)
{
    *even = n > 0 ? p[0] : 0.0f;
    *odd = n > 0 ? p[1] : 0.0f;
}
VEC vi vi_load_u8(const uint8_t *p) { return *p; }
VEC void vi_store_u8(uint8_t *p, vi x) { *p = (uint8_t)x; }
VEC vm vm_load_bool(const uint8_t *p) { return *p != 0; }

VEC void vf_transpose(vf r[VL]) { (void)r; }

VEC vf vf_load_f16(const uint16_t *p) { return tb_f16_to_f32(*p); }
VEC void vf_store_f16(uint16_t *p, vf x) { *p = tb_f32_to_f16(x); }
VEC vi vi_load_u16(const uint16_t *p) { return *p; }
VEC void vi_store_u16(uint16_t *p, vi x) { *p = (uint16_t)x; }
