/* gemm and gemm_bf16, products of bf16, AVX2: widened in registers; 4 x 16 tile, 8 sums beside the halves of B. */
#include "vec_avx2.h"

#include "blocking.h"
BLOCKING_BF16_AVX2;
#include "gemm_bf16_widened.h"

TB_KERNEL(gemm_bf16_avx2) = GEMM_BF16("gemm_bf16_avx2", TB_ISA_AVX2, dense_operands);
TB_KERNEL(gemm_f32_as_bf16_avx2) = GEMM_F32_AS_BF16("gemm_f32_as_bf16_avx2", TB_ISA_AVX2, dense_operands);
