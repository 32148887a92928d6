/* Max and average pooling, f32; the loops are in pool2d_f32.h. */
#include "vec_scalar.h"

#include "pool2d_f32.h"

TB_KERNEL(max_pool2d_f32_scalar) = POOL2D_KERNEL(max_pool2d, TB_ISA_SCALAR, "scalar");
TB_KERNEL(max_pool2d_grad_f32_scalar) = POOL2D_KERNEL(max_pool2d_grad, TB_ISA_SCALAR, "scalar");
TB_KERNEL(avg_pool2d_f32_scalar) = POOL2D_KERNEL(avg_pool2d, TB_ISA_SCALAR, "scalar");
TB_KERNEL(avg_pool2d_grad_f32_scalar) = POOL2D_KERNEL(avg_pool2d_grad, TB_ISA_SCALAR, "scalar");
