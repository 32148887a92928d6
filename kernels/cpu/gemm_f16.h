/* gemm f16: operands, C, bias and residual are f16. Operands are widened to f32 when they are packed, so that an
 * element is the chain of gemm_f32.h; the sum, bias and residual are rounded once, at the end. It stores half the bytes
 * and saves no arithmetic: these instruction sets have no products of f16 that sum in f32. */
#pragma once
#define STEP_K 1
#include "gemm_half.h"

VEC vf half_widen(const uint16_t *x, int64_t n)
{
    uint16_t some[VL] = {0};
    if (n >= VL) return vf_load_f16(x);
    for (int64_t i = 0; i < n; i++) some[i] = x[i];
    return n > 0 ? vf_load_f16(some) : vf_zero();
}

VEC vf half_across(half_operand x, int64_t k_stride, int64_t k, int64_t step, int64_t n)
{
    (void)k;
    return half_widen((const uint16_t *)x.at + step * k_stride, n);
}

VEC vf half_along(half_operand x, int64_t k, int64_t step)
{
    return half_widen((const uint16_t *)x.at + step, k - step);
}

static void half_narrow(uint16_t *to, const float *from, int n)
{
    int j = 0;
    for (; j + VL <= n; j += VL) vf_store_f16(to + j, vf_load(from + j));
    for (; j < n; j++) to[j] = tb_f32_to_f16(from[j]);
}

static bool f16_supports(const void *args) { return has_dense_operands(args); }
static size_t f16_scratch(const void *args) { return scratch_of(args, false); }
static void f16_run(const void *args) { run_of(args, false); }

#define GEMM_F16(name_, isa_)                                                                                          \
    {                                                                                                                  \
        .name = name_, .primitive = "gemm", .dtype = TB_F16, .isa = isa_, .supports = f16_supports, .run = f16_run,    \
        .scratch_bytes = f16_scratch                                                                                   \
    }
