/* gemm and gemm_bf16, products of bf16, plain C. */
#include "vec_scalar.h"

#include "blocking.h"
BLOCKING_BF16_SCALAR;
#include "gemm_bf16_widened.h"

TB_KERNEL(gemm_bf16_scalar) = GEMM_BF16("gemm_bf16_scalar", TB_ISA_SCALAR, dense_operands);
TB_KERNEL(gemm_f32_as_bf16_scalar) = GEMM_F32_AS_BF16("gemm_f32_as_bf16_scalar", TB_ISA_SCALAR, dense_operands);
