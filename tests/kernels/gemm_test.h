/* What the tests of floating gemms share: how operands may lie, what may be asked for besides the product, and random
 * choices of both. */
#pragma once
#include "kernel_test.h"
#include "tb_pool.h"
#include "tb_rng.h"

typedef struct gemm_layout {
    bool a_transposed, b_transposed, packed, accumulate;
    int tree, threads;
    tb_epilogue_act act;
    bool bias, residual, in_place; /* in_place: the residual is C itself */
    int c_gap;                     /* elements between rows of C */
} gemm_layout;

/* The `draw`-th of a fixed sequence; a third of them has an activation. */
static inline gemm_layout gemm_layout_draw(uint64_t draw)
{
    uint32_t r = tb_random_u32(5, 1, draw);
    return (gemm_layout){.a_transposed = r & 1,
                         .b_transposed = r >> 1 & 1,
                         .packed = (r >> 2 & 3) == 0,
                         .accumulate = (r >> 4 & 3) == 0,
                         .tree = 1 << (r >> 6 & 3),
                         .threads = 1 + (r >> 8 & 1),
                         .act = (r >> 9 & 1) ? (tb_epilogue_act)((r >> 10) % 5) : TB_ACT_NONE,
                         .bias = (r >> 16 & 3) == 0,
                         .residual = (r >> 20 & 3) == 0,
                         .in_place = r >> 22 & 1,
                         .c_gap = (r >> 18 & 3) == 0 ? 5 : 0};
}

/* Sizes, strides and threads; the caller adds the operands. */
static inline tb_gemm_args gemm_layout_args(const gemm_layout *l, int64_t m, int64_t n, int64_t k, tb_pool *pool)
{
    return (tb_gemm_args){.m = m,
                          .n = n,
                          .k = k,
                          .a_row = l->a_transposed ? 1 : k,
                          .a_col = l->a_transposed ? m : 1,
                          .b_row = l->b_transposed ? 1 : n,
                          .b_col = l->b_transposed ? k : 1,
                          .c_row = n + l->c_gap,
                          .tree = l->tree,
                          .accumulate = l->accumulate,
                          .act = l->act,
                          .pool = l->threads > 1 ? pool : NULL};
}

/* Runs the kernel with scratch, and with B packed where that is asked for and the kernel packs. */
static inline void gemm_run_kernel(const tb_kernel *k, tb_gemm_args g, bool packed)
{
    if (packed && k->pack) {
        void *to = guarded(k->pack_bytes(&g));
        k->pack(&g, to);
        g.packed_b = to;
        g.b = NULL;
    }
    g.scratch = guarded((k->scratch_bytes(&g) + 63) / 64 * 64);
    k->run(&g);
}

static inline double gemm_activated(double x, tb_epilogue_act act)
{
    switch (act) {
    case TB_ACT_RELU:
        return x < 0 ? 0 : x;
    case TB_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case TB_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case TB_ACT_SILU:
        return x / (1 + exp(-x));
    case TB_ACT_NONE:
        break;
    }
    return x;
}
