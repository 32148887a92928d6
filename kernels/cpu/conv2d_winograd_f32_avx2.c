#include "vec_avx2.h"

#include "blocking.h"
BLOCKING_F32_AVX2;
#include "conv_winograd_f32.h"

TB_KERNEL(conv2d_winograd_f32_avx2) = WINOGRAD_KERNEL;
