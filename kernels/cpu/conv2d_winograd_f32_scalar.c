#include "vec_scalar.h"

#include "blocking.h"
BLOCKING_F32_SCALAR;
#include "conv_winograd_f32.h"

TB_KERNEL(conv2d_winograd_f32_scalar) = WINOGRAD_KERNEL;
