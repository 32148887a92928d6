/* The table of the AVX-512 kernels that the tests compiled with emulated instructions. */
#include "kernel_test.h"
#include <stddef.h>

#define TB_KERNEL_ENTRY(name) extern const tb_kernel tbi_emulated_##name;
#include "emulated_list.inc"
#undef TB_KERNEL_ENTRY

const tb_kernel *const emulated_kernels[] = {
#define TB_KERNEL_ENTRY(name) &tbi_emulated_##name,
#include "emulated_list.inc"
#undef TB_KERNEL_ENTRY
    NULL,
};
