/* conv2d and its gradients, f32: directly where channels fill vectors, by pixels for few taps to rows of whole vectors,
 * for 1x1 and depthwise; else gemm's tile and blocking, operands packed from images. */
#include "vec_avx512.h"

#include "blocking.h"
BLOCKING_F32_AVX512;
#include "conv_1x1_f32.h"
#include "conv_depthwise_3x3_f32.h"
#include "conv_depthwise_f32.h"
#include "conv_direct_f32.h"
#include "conv_pixels_f32.h"
#include "conv_weight_grad_f32.h"

TB_KERNEL(conv2d_f32_avx512) = CONV_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_f32_avx512) = CONV_KERNEL(conv2d_input_grad);
TB_KERNEL(conv2d_weight_grad_f32_avx512) = CONV_KERNEL(conv2d_weight_grad);
TB_KERNEL(conv2d_depthwise_f32_avx512) = DEPTHWISE_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_depthwise_f32_avx512) = DEPTHWISE_KERNEL(conv2d_input_grad);
TB_KERNEL(conv2d_depthwise_3x3_f32_avx512) = DEPTHWISE_3X3_KERNEL(conv2d);
TB_KERNEL(conv2d_input_grad_depthwise_3x3_f32_avx512) = DEPTHWISE_3X3_KERNEL(conv2d_input_grad);
TB_KERNEL(conv2d_direct_f32_avx512) =
    DIRECT_KERNEL(conv2d, .pack_bytes = conv2d_direct_pack_bytes, .pack = conv2d_direct_pack);
TB_KERNEL(conv2d_input_grad_direct_f32_avx512) = DIRECT_KERNEL(conv2d_input_grad, .pack = NULL);
TB_KERNEL(conv2d_1x1_f32_avx512) = KERNEL_1X1(conv2d, .pack_bytes = conv2d_1x1_pack_bytes, .pack = conv2d_1x1_pack);
TB_KERNEL(conv2d_input_grad_1x1_f32_avx512) = KERNEL_1X1(conv2d_input_grad, .pack = NULL);
TB_KERNEL(conv2d_pixels_f32_avx512) = PIXELS_KERNEL;
