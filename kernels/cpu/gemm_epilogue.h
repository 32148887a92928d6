/* What happens to a finished tile of gemm on its way into C: (C +) sum (+ bias) (+ residual), then the activation. */
#pragma once
#include "tb_kernel.h"
#include "vec_math.h"

VEC vf epilogue_act(vf x, tb_epilogue_act act)
{
    switch (act) {
    case TB_ACT_RELU: return vf_relu(x);
    case TB_ACT_GELU_TANH: return vf_gelu_tanh(x);
    case TB_ACT_GELU_ERF: return vf_gelu_erf(x);
    case TB_ACT_SILU: return vf_silu(x);
    case TB_ACT_NONE: break;
    }
    return x;
}

/* One vector on its way to `c`, of which `left` elements are wanted. */
VEC void epilogue_vector(vf x, float *c, int64_t left, bool accumulate, bool has_bias, vf bias, const float *residual,
                         tb_epilogue_act act)
{
    if (accumulate) x = vf_add(vf_load_part(c, left), x);
    if (has_bias) x = vf_add(x, bias);
    if (residual) x = vf_add(x, vf_load_part(residual, left));
    vf_store_part(c, epilogue_act(x, act), left);
}

/* `bias` of element j is at j * bias_step: 1 per column, 0 one for the row. */
static __attribute__((unused)) void epilogue_row(const float *sum, float *c, int n, bool accumulate, const float *bias,
                                                 int bias_step, const float *residual, tb_epilogue_act act)
{
    for (int j = 0; j < n; j += VL) {
        int left = n - j;
        vf added = !bias ? vf_zero() : bias_step ? vf_load_part(bias + j, left) : vf_set1(*bias);
        epilogue_vector(vf_load_part(sum + j, left), c + j, left, accumulate, bias, added,
                        residual ? residual + j : NULL, act);
    }
}
