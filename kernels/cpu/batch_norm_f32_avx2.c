/* Batch norm in training and evaluation and its gradients, f32, AVX2. */
#include "vec_avx2.h"

#include "batch_norm_f32.h"

TB_KERNEL(batch_norm_f32_avx2) = ROW_KERNEL(batch_norm);
TB_KERNEL(batch_norm_eval_f32_avx2) = ROW_KERNEL(batch_norm_eval);
TB_KERNEL(batch_norm_grad_f32_avx2) = ROW_KERNEL(batch_norm_grad);
