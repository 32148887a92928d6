/* The generated table of kernels and the search in it. */
#include "tb_kernel.h"
#include <string.h>

#define TB_KERNEL_ENTRY(name) extern const tb_kernel tbi_kernel_##name;
#include "tb_kernel_list.inc"
#undef TB_KERNEL_ENTRY

static const tb_kernel *const all_kernels[] = {
#define TB_KERNEL_ENTRY(name) &tbi_kernel_##name,
#include "tb_kernel_list.inc"
#undef TB_KERNEL_ENTRY
    NULL,
};

int tb_kernel_count(void) { return (int)(sizeof all_kernels / sizeof all_kernels[0]) - 1; }

const tb_kernel *tb_kernel_at(int index) { return all_kernels[index]; }

static bool is_better(const tb_kernel *a, const tb_kernel *b)
{
    return a->isa != b->isa ? a->isa > b->isa : a->priority > b->priority;
}

int tb_kernel_find(const char *primitive, tb_dtype dtype, tb_isa isa, const tb_kernel **out, int max)
{
    int n = 0;
    for (int i = 0; i < tb_kernel_count(); i++) {
        const tb_kernel *k = all_kernels[i];
        if (k->dtype != dtype || k->isa > isa || strcmp(k->primitive, primitive) != 0) continue;
        if (n == max && !is_better(k, out[max - 1])) continue;
        int at = n < max ? n++ : max - 1;
        for (; at > 0 && is_better(k, out[at - 1]); at--) out[at] = out[at - 1];
        out[at] = k;
    }
    return n;
}
