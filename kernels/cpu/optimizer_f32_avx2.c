/* Optimizer steps, f32, AVX2. */
#include "vec_avx2.h"

#include "optimizer_f32.h"

TB_KERNEL(sgd_f32_avx2) = UPDATE_KERNEL(sgd);
TB_KERNEL(adamw_f32_avx2) = UPDATE_KERNEL(adamw);
