/* gemm, f32, AVX2 + FMA: 6 x 16 tile, 12 accumulators; 2 FMA, 2 loads a clock bound it (12 FMA, 8 loads a step of
 * k). */
#include "vec_avx2.h"

#include "blocking.h"
BLOCKING_F32_AVX2;
#include "gemm_f32.h"

TB_KERNEL(gemm_f32_avx2) = {.name = "gemm_f32_avx2",
                            .primitive = "gemm",
                            .dtype = TB_F32,
                            .isa = TB_ISA_AVX2,
                            .run = gemm_run,
                            .scratch_bytes = gemm_scratch_bytes,
                            .pack_bytes = gemm_pack_bytes,
                            .pack = gemm_pack};
