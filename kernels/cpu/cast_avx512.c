/* Casts between f32, bf16 and f16, and from bytes; the work is in cast.h. */
#include "vec_avx512.h"

#include "cast.h"

TB_KERNEL(cast_bf16_f32_avx512) = CAST("cast_bf16", TB_F32, "f32", run_cast_bf16);
TB_KERNEL(cast_f16_f32_avx512) = CAST("cast_f16", TB_F32, "f32", run_cast_f16);
TB_KERNEL(cast_f32_bf16_avx512) = CAST("cast_f32", TB_BF16, "bf16", run_cast_from_bf16);
TB_KERNEL(cast_f32_f16_avx512) = CAST("cast_f32", TB_F16, "f16", run_cast_from_f16);
TB_KERNEL(cast_f32_u8_avx512) = CAST("cast_f32", TB_U8, "u8", run_cast_from_u8);
