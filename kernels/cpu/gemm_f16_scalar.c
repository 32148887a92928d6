/* gemm of f16 with sums in f32; the work is in gemm_f16.h. */
#include "vec_scalar.h"

#include "blocking.h"
BLOCKING_F32_SCALAR;
#include "gemm_f16.h"

TB_KERNEL(gemm_f16_scalar) = GEMM_F16("gemm_f16_scalar", TB_ISA_SCALAR);
