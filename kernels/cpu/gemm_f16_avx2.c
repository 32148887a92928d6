/* gemm of f16 with sums in f32; the work is in gemm_f16.h. */
#include "vec_avx2.h"

#include "blocking.h"
BLOCKING_F32_AVX2;
#include "gemm_f16.h"

TB_KERNEL(gemm_f16_avx2) = GEMM_F16("gemm_f16_avx2", TB_ISA_AVX2);
