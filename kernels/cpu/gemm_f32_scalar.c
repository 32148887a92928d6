/* gemm, f32, plain C (fmaf): the same bits as the vector kernels. */
#include "vec_scalar.h"

#include "blocking.h"
BLOCKING_F32_SCALAR;
#include "gemm_f32.h"

TB_KERNEL(gemm_f32_scalar) = {.name = "gemm_f32_scalar",
                            .primitive = "gemm",
                            .dtype = TB_F32,
                            .isa = TB_ISA_SCALAR,
                            .run = gemm_run,
                            .scratch_bytes = gemm_scratch_bytes,
                            .pack_bytes = gemm_pack_bytes,
                            .pack = gemm_pack};
