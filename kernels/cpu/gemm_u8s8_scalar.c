/* gemm_u8s8 in plain loops. */
#include "blocking.h"
#include "gemm_u8s8.h"

static void run_part(const tb_gemm_u8s8_args *g)
{
    int64_t quads = (g->k + 3) / 4;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            const int8_t *w = g->packed_w + (j / 16 * quads * 16 + j % 16) * 4;
            int32_t sum = 0;
            for (int64_t k = 0; k < g->k; k++) sum += (int32_t)g->a[i * g->a_row + k] * w[k / 4 * 64 + k % 4];
            u8s8_store(g, i, j, sum);
        }
}

static void run(const void *args) { u8s8_run_split(args, MACS_PER_THREAD, run_part); }

TB_KERNEL(gemm_u8s8_scalar) = {.name = "gemm_u8s8_scalar", .primitive = "gemm_u8s8", .dtype = TB_I8,
                               .isa = TB_ISA_SCALAR, .run = run};
