/* Rows quantized by their own range, and the way back, plain C. */
#include "vec_scalar.h"

#include "row_quantize_f32.h"

TB_KERNEL(row_quantize_u8_f32_scalar) = ROW_KERNEL(row_quantize_u8);
TB_KERNEL(row_rescale_f32_scalar) = ROW_KERNEL(row_rescale);
