/* Pointwise f32, AVX-512. */
#include "vec_avx512.h"

#include "pointwise_f32.h"

TB_KERNEL(add_f32_avx512) = POINTWISE(add);
TB_KERNEL(sub_f32_avx512) = POINTWISE(sub);
TB_KERNEL(mul_f32_avx512) = POINTWISE(mul);
TB_KERNEL(div_f32_avx512) = POINTWISE(div);
TB_KERNEL(maximum_f32_avx512) = POINTWISE(maximum);
TB_KERNEL(minimum_f32_avx512) = POINTWISE(minimum);
TB_KERNEL(neg_f32_avx512) = POINTWISE(neg);
TB_KERNEL(abs_f32_avx512) = POINTWISE(abs);
TB_KERNEL(exp_f32_avx512) = POINTWISE(exp);
TB_KERNEL(log_f32_avx512) = POINTWISE(log);
TB_KERNEL(sqrt_f32_avx512) = POINTWISE(sqrt);
TB_KERNEL(rsqrt_f32_avx512) = POINTWISE(rsqrt);
TB_KERNEL(tanh_f32_avx512) = POINTWISE(tanh);
TB_KERNEL(erf_f32_avx512) = POINTWISE(erf);
TB_KERNEL(sigmoid_f32_avx512) = POINTWISE(sigmoid);
TB_KERNEL(relu_f32_avx512) = POINTWISE(relu);
TB_KERNEL(gelu_tanh_f32_avx512) = POINTWISE(gelu_tanh);
TB_KERNEL(gelu_erf_f32_avx512) = POINTWISE(gelu_erf);
TB_KERNEL(silu_f32_avx512) = POINTWISE(silu);
TB_KERNEL(where_f32_avx512) = POINTWISE(where);
TB_KERNEL(clamp_f32_avx512) = POINTWISE(clamp);
TB_KERNEL(relu_grad_f32_avx512) = POINTWISE(relu_grad);
TB_KERNEL(gelu_tanh_grad_f32_avx512) = POINTWISE(gelu_tanh_grad);
TB_KERNEL(gelu_erf_grad_f32_avx512) = POINTWISE(gelu_erf_grad);
TB_KERNEL(silu_grad_f32_avx512) = POINTWISE(silu_grad);
TB_KERNEL(tanh_grad_f32_avx512) = POINTWISE(tanh_grad);
TB_KERNEL(sigmoid_grad_f32_avx512) = POINTWISE(sigmoid_grad);
