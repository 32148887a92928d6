/* mean_u8 */
#include "mean_u8.h"

TB_KERNEL(mean_u8_scalar) = {
    .name = "mean_u8_scalar", .primitive = "mean_u8", .dtype = TB_U8, .isa = TB_ISA_SCALAR, .run = run};
