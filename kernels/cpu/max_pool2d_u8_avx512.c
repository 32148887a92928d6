/* max_pool2d_u8 */
#include "pool2d_u8.h"

TB_KERNEL(max_pool2d_u8_avx512) = {.name = "max_pool2d_u8_avx512", .primitive = "max_pool2d_u8", .dtype = TB_U8,
                               .isa = TB_ISA_AVX512, .run = run};
