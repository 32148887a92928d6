/* Pointwise f32 in plain C: the same bits as the vector kernels. */
#include "vec_scalar.h"

#include "pointwise_f32.h"

TB_KERNEL(add_f32_scalar) = POINTWISE(add);
TB_KERNEL(sub_f32_scalar) = POINTWISE(sub);
TB_KERNEL(mul_f32_scalar) = POINTWISE(mul);
TB_KERNEL(div_f32_scalar) = POINTWISE(div);
TB_KERNEL(maximum_f32_scalar) = POINTWISE(maximum);
TB_KERNEL(minimum_f32_scalar) = POINTWISE(minimum);
TB_KERNEL(neg_f32_scalar) = POINTWISE(neg);
TB_KERNEL(abs_f32_scalar) = POINTWISE(abs);
TB_KERNEL(exp_f32_scalar) = POINTWISE(exp);
TB_KERNEL(log_f32_scalar) = POINTWISE(log);
TB_KERNEL(sqrt_f32_scalar) = POINTWISE(sqrt);
TB_KERNEL(rsqrt_f32_scalar) = POINTWISE(rsqrt);
TB_KERNEL(tanh_f32_scalar) = POINTWISE(tanh);
TB_KERNEL(erf_f32_scalar) = POINTWISE(erf);
TB_KERNEL(sigmoid_f32_scalar) = POINTWISE(sigmoid);
TB_KERNEL(relu_f32_scalar) = POINTWISE(relu);
TB_KERNEL(gelu_tanh_f32_scalar) = POINTWISE(gelu_tanh);
TB_KERNEL(gelu_erf_f32_scalar) = POINTWISE(gelu_erf);
TB_KERNEL(silu_f32_scalar) = POINTWISE(silu);
TB_KERNEL(where_f32_scalar) = POINTWISE(where);
TB_KERNEL(clamp_f32_scalar) = POINTWISE(clamp);
TB_KERNEL(relu_grad_f32_scalar) = POINTWISE(relu_grad);
TB_KERNEL(gelu_tanh_grad_f32_scalar) = POINTWISE(gelu_tanh_grad);
TB_KERNEL(gelu_erf_grad_f32_scalar) = POINTWISE(gelu_erf_grad);
TB_KERNEL(silu_grad_f32_scalar) = POINTWISE(silu_grad);
TB_KERNEL(tanh_grad_f32_scalar) = POINTWISE(tanh_grad);
TB_KERNEL(sigmoid_grad_f32_scalar) = POINTWISE(sigmoid_grad);
