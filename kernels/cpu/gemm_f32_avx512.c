/* gemm, f32, AVX-512: 14 x 32 tile, 28 accumulators; 28 FMA and 16 loads a step of k. */
#include "vec_avx512.h"

#include "blocking.h"
BLOCKING_F32_AVX512;
#include "gemm_f32.h"

TB_KERNEL(gemm_f32_avx512) = {.name = "gemm_f32_avx512",
                            .primitive = "gemm",
                            .dtype = TB_F32,
                            .isa = TB_ISA_AVX512,
                            .run = gemm_run,
                            .scratch_bytes = gemm_scratch_bytes,
                            .pack_bytes = gemm_pack_bytes,
                            .pack = gemm_pack};
