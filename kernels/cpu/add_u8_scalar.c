/* add_u8 */
#include "add_u8.h"

TB_KERNEL(add_u8_scalar) = {
    .name = "add_u8_scalar", .primitive = "add_u8", .dtype = TB_U8, .isa = TB_ISA_SCALAR, .run = run};
