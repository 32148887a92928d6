/* Rows quantized by their own range, and the way back, AVX-512. */
#include "vec_avx512.h"

#include "row_quantize_f32.h"

TB_KERNEL(row_quantize_u8_f32_avx512) = ROW_KERNEL(row_quantize_u8);
TB_KERNEL(row_rescale_f32_avx512) = ROW_KERNEL(row_rescale);
