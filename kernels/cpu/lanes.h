/* Reductions along a row in one order for all ISAs: 32 strided lanes (element i goes to lane i mod 32), then a fixed
 * tree that halves them. 32 lanes are 4 vectors of AVX2 or 2 of AVX-512: enough chains to hide most of an addition's
 * latency, few enough that a row of 64 elements gains. */
#pragma once
#include "tb_kernel.h"
#include "vec_math.h"

enum { LANES = 32, LANE_VECTORS = LANES / VL };

typedef struct lanes {
    vf v[LANE_VECTORS];
} lanes;

VEC lanes lanes_set1(float x)
{
    lanes s;
    for (int q = 0; q < LANE_VECTORS; q++) s.v[q] = vf_set1(x);
    return s;
}

/* The next `left` elements; lanes past the end hold `fill`. */
VEC vf load_filled(const float *p, int64_t left, float fill)
{
    if (left >= VL) return vf_load(p);
    int n = left > 0 ? (int)left : 0;
    return vf_select(vm_first(n), vf_load_n(p, n), vf_set1(fill));
}

VEC float lanes_sum(lanes s)
{
    for (int half = LANE_VECTORS / 2; half > 0; half /= 2)
        for (int q = 0; q < half; q++) s.v[q] = vf_add(s.v[q], s.v[q + half]);
    return vf_tree_sum(s.v[0]);
}

VEC float lanes_max(lanes s)
{
    for (int half = LANE_VECTORS / 2; half > 0; half /= 2)
        for (int q = 0; q < half; q++) s.v[q] = vf_max(s.v[q], s.v[q + half]);
    return vf_tree_max(s.v[0]);
}

/* For each vector of a row of n: `i` is its first element, `q` its place among the lanes, `left` > 0 what remains from
 * i on. The loop over q unrolls, so that accumulators indexed by it stay in registers. */
#define FOR_LANES(i, q, left, n)                                                                                      \
    for (int64_t base_##i = 0; base_##i < (n); base_##i += LANES)                                                     \
        _Pragma("GCC unroll 4") for (int64_t q = 0, i = base_##i, left = (n) - i; q < LANE_VECTORS;                   \
                                     q++, i += VL, left -= VL) if (left > 0)

VEC float row_max(const float *x, int64_t n)
{
    lanes m = lanes_set1(-INFINITY);
    FOR_LANES(i, q, left, n) m.v[q] = vf_max(load_filled(x + i, left, -INFINITY), m.v[q]);
    return lanes_max(m);
}

VEC float row_sum(const float *x, int64_t n)
{
    lanes s = lanes_set1(0.0f);
    FOR_LANES(i, q, left, n) s.v[q] = vf_add(s.v[q], load_filled(x + i, left, 0.0f));
    return lanes_sum(s);
}

VEC float first_of(vf x)
{
    float t[VL];
    vf_store(t, x);
    return t[0];
}

#define ROW_KERNEL(op)                                                                                                \
    {                                                                                                                 \
        .name = #op "_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .run = run_##op          \
    }
