/* OpenBLAS: cblas_sgemm. It has no call that takes a packed operand, so it packs in every one. */
#include "tb_peer_library.h"
#include <cblas.h>
#include <stdio.h>

static void *gemm_open(tb_peer_gemm *g)
{
    if (g->is_i8) {
        snprintf(g->detail, sizeof g->detail, "has no product of integers");
        return NULL;
    }
    openblas_set_num_threads(g->threads);
    const char *config = openblas_get_config(); /* "OpenBLAS 0.3.21 ..." */
    snprintf(g->detail, sizeof g->detail, "%.15s, %s, %d threads", config, openblas_get_corename(),
             openblas_get_num_threads());
    return g;
}

static void gemm_run(void *state)
{
    const tb_peer_gemm *g = state;
    blasint m = (blasint)g->m, k = (blasint)g->k, n = (blasint)g->n;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1, g->a, k, g->w, n, 0, g->c, n);
}

static void gemm_close(void *state) { (void)state; }

const tb_peer_library tb_peer_entry = {
    .gemm_open = gemm_open, .gemm_run = gemm_run, .gemm_close = gemm_close};
