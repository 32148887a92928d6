/* mean_u8 */
#include "mean_u8.h"

TB_KERNEL(mean_u8_avx2) = {
    .name = "mean_u8_avx2", .primitive = "mean_u8", .dtype = TB_U8, .isa = TB_ISA_AVX2, .run = run};
