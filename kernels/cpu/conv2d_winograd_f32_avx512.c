#include "vec_avx512.h"

#include "blocking.h"
BLOCKING_F32_AVX512;
#include "conv_winograd_f32.h"

TB_KERNEL(conv2d_winograd_f32_avx512) = WINOGRAD_KERNEL;
