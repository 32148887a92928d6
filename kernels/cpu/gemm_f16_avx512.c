/* gemm of f16 with sums in f32; the work is in gemm_f16.h. */
#include "vec_avx512.h"

#include "blocking.h"
BLOCKING_F32_AVX512;
#include "gemm_f16.h"

TB_KERNEL(gemm_f16_avx512) = GEMM_F16("gemm_f16_avx512", TB_ISA_AVX512);
