/* Softmax, log-softmax, cross entropy and their gradients over rows, f32, plain C: the same bits as the vector
 * kernels. */
#include "vec_scalar.h"

#include "row_softmax_f32.h"

TB_KERNEL(row_softmax_f32_scalar) = ROW_KERNEL(row_softmax);
TB_KERNEL(row_log_softmax_f32_scalar) = ROW_KERNEL(row_log_softmax);
TB_KERNEL(softmax_grad_f32_scalar) = ROW_KERNEL(softmax_grad);
TB_KERNEL(log_softmax_grad_f32_scalar) = ROW_KERNEL(log_softmax_grad);
TB_KERNEL(cross_entropy_f32_scalar) = ROW_KERNEL(cross_entropy);
TB_KERNEL(cross_entropy_grad_f32_scalar) = ROW_KERNEL(cross_entropy_grad);
