/* add_u8 */
#include "add_u8.h"

TB_KERNEL(add_u8_avx512) = {
    .name = "add_u8_avx512", .primitive = "add_u8", .dtype = TB_U8, .isa = TB_ISA_AVX512, .run = run};
