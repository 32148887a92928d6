/* add_u8 */
#include "add_u8.h"

TB_KERNEL(add_u8_avx2) = {
    .name = "add_u8_avx2", .primitive = "add_u8", .dtype = TB_U8, .isa = TB_ISA_AVX2, .run = run};
