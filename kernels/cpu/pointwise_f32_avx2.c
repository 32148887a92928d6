/* Pointwise f32, AVX2: bound by memory, or by the polynomials (vec_math.h). */
#include "vec_avx2.h"

#include "pointwise_f32.h"

TB_KERNEL(add_f32_avx2) = POINTWISE(add);
TB_KERNEL(sub_f32_avx2) = POINTWISE(sub);
TB_KERNEL(mul_f32_avx2) = POINTWISE(mul);
TB_KERNEL(div_f32_avx2) = POINTWISE(div);
TB_KERNEL(maximum_f32_avx2) = POINTWISE(maximum);
TB_KERNEL(minimum_f32_avx2) = POINTWISE(minimum);
TB_KERNEL(neg_f32_avx2) = POINTWISE(neg);
TB_KERNEL(abs_f32_avx2) = POINTWISE(abs);
TB_KERNEL(exp_f32_avx2) = POINTWISE(exp);
TB_KERNEL(log_f32_avx2) = POINTWISE(log);
TB_KERNEL(sqrt_f32_avx2) = POINTWISE(sqrt);
TB_KERNEL(rsqrt_f32_avx2) = POINTWISE(rsqrt);
TB_KERNEL(tanh_f32_avx2) = POINTWISE(tanh);
TB_KERNEL(erf_f32_avx2) = POINTWISE(erf);
TB_KERNEL(sigmoid_f32_avx2) = POINTWISE(sigmoid);
TB_KERNEL(relu_f32_avx2) = POINTWISE(relu);
TB_KERNEL(gelu_tanh_f32_avx2) = POINTWISE(gelu_tanh);
TB_KERNEL(gelu_erf_f32_avx2) = POINTWISE(gelu_erf);
TB_KERNEL(silu_f32_avx2) = POINTWISE(silu);
TB_KERNEL(where_f32_avx2) = POINTWISE(where);
TB_KERNEL(clamp_f32_avx2) = POINTWISE(clamp);
TB_KERNEL(relu_grad_f32_avx2) = POINTWISE(relu_grad);
TB_KERNEL(gelu_tanh_grad_f32_avx2) = POINTWISE(gelu_tanh_grad);
TB_KERNEL(gelu_erf_grad_f32_avx2) = POINTWISE(gelu_erf_grad);
TB_KERNEL(silu_grad_f32_avx2) = POINTWISE(silu_grad);
TB_KERNEL(tanh_grad_f32_avx2) = POINTWISE(tanh_grad);
TB_KERNEL(sigmoid_grad_f32_avx2) = POINTWISE(sigmoid_grad);
