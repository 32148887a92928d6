/* Batch norm in training and evaluation and its gradients, f32, AVX-512. */
#include "vec_avx512.h"

#include "batch_norm_f32.h"

TB_KERNEL(batch_norm_f32_avx512) = ROW_KERNEL(batch_norm);
TB_KERNEL(batch_norm_eval_f32_avx512) = ROW_KERNEL(batch_norm_eval);
TB_KERNEL(batch_norm_grad_f32_avx512) = ROW_KERNEL(batch_norm_grad);
