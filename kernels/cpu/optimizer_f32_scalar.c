/* Optimizer steps, f32, plain C: the same bits as the vector kernels. */
#include "vec_scalar.h"

#include "optimizer_f32.h"

TB_KERNEL(sgd_f32_scalar) = UPDATE_KERNEL(sgd);
TB_KERNEL(adamw_f32_scalar) = UPDATE_KERNEL(adamw);
