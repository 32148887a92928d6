/* conv2d and its gradients, f32: gemm's tile and blocking, operands packed from images; depthwise directly. */
#include "vec_avx2.h"

#include "blocking.h"
BLOCKING_F32_AVX2;
#include "conv_depthwise_f32.h"
#include "conv_weight_grad_f32.h"

TB_KERNEL(conv2d_f32_avx2) = CONV_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_f32_avx2) = CONV_KERNEL(conv2d_input_grad);
TB_KERNEL(conv2d_weight_grad_f32_avx2) = CONV_KERNEL(conv2d_weight_grad);
TB_KERNEL(conv2d_depthwise_f32_avx2) = DEPTHWISE_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_depthwise_f32_avx2) = DEPTHWISE_KERNEL(conv2d_input_grad);
