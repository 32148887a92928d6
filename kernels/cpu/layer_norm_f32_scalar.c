/* Layer norm and its gradients, f32, plain C: the same bits as the vector kernels. */
#include "vec_scalar.h"

#include "layer_norm_f32.h"

TB_KERNEL(layer_norm_f32_scalar) = ROW_KERNEL(layer_norm);
TB_KERNEL(layer_norm_grad_f32_scalar) = ROW_KERNEL(layer_norm_grad);
TB_KERNEL(layer_norm_param_grad_f32_scalar) = ROW_KERNEL(layer_norm_param_grad);
