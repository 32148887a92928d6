/* Layer norm and its gradients, f32, AVX2. */
#include "vec_avx2.h"

#include "layer_norm_f32.h"

TB_KERNEL(layer_norm_f32_avx2) = ROW_KERNEL(layer_norm);
TB_KERNEL(layer_norm_grad_f32_avx2) = ROW_KERNEL(layer_norm_grad);
TB_KERNEL(layer_norm_param_grad_f32_avx2) = ROW_KERNEL(layer_norm_param_grad);
