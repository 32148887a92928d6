/* Optimizer steps, f32, AVX-512. */
#include "vec_avx512.h"

#include "optimizer_f32.h"

TB_KERNEL(sgd_f32_avx512) = UPDATE_KERNEL(sgd);
TB_KERNEL(adamw_f32_avx512) = UPDATE_KERNEL(adamw);
