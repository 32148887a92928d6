/* conv2d and its gradients, f32: gemm's tile and blocking, operands packed from images; depthwise directly. */
#include "vec_scalar.h"

#include "blocking.h"
BLOCKING_F32_SCALAR;
#include "conv_depthwise_3x3_f32.h"
#include "conv_depthwise_f32.h"
#include "conv_weight_grad_f32.h"

TB_KERNEL(conv2d_f32_scalar) = CONV_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_f32_scalar) = CONV_KERNEL(conv2d_input_grad);
TB_KERNEL(conv2d_weight_grad_f32_scalar) = CONV_KERNEL(conv2d_weight_grad);
TB_KERNEL(conv2d_depthwise_f32_scalar) = DEPTHWISE_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_depthwise_f32_scalar) = DEPTHWISE_KERNEL(conv2d_input_grad);
TB_KERNEL(conv2d_depthwise_3x3_f32_scalar) = DEPTHWISE_3X3_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_depthwise_3x3_f32_scalar) = DEPTHWISE_3X3_KERNEL(conv2d_input_grad);
