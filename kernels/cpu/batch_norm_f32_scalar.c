/* Batch norm in training and evaluation and its gradients, f32, plain C: the same bits as the vector kernels.
 */
#include "vec_scalar.h"

#include "batch_norm_f32.h"

TB_KERNEL(batch_norm_f32_scalar) = ROW_KERNEL(batch_norm);
TB_KERNEL(batch_norm_eval_f32_scalar) = ROW_KERNEL(batch_norm_eval);
TB_KERNEL(batch_norm_grad_f32_scalar) = ROW_KERNEL(batch_norm_grad);
