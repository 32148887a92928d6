/* rank_sum, f32, for 2, 4 and 8 ranks: one pass that reads each operand and writes each output once. It is bound by
 * memory: its point is to touch no byte twice, so that a sum over ranks costs what copying the same bytes costs. */
#pragma once
#include "tb_kernel.h"

VEC vf rank_tree(vf *sum, int ranks)
{
    for (int half = ranks / 2; half > 0; half /= 2)
        for (int r = 0; r < half; r++) sum[r] = vf_add(sum[2 * r], sum[2 * r + 1]);
    return sum[0];
}

/* Lines that another core has written take hundreds of cycles to come; a page ahead of their use was best of a quarter
 * of a page to two, on cores that share a last-level cache and on cores that do not: 6 to 15 % on 2 MiB. */
enum { AHEAD = 1024 };

/* `ranks` and `n_out` are constants at each call: pointers and tree stay in registers. */
VEC void rank_sum(const tb_rank_sum_args *a, int ranks, int n_out)
{
    const float *in[8];
    float *out[8];
    vf sum[8];
    int64_t n = a->n, i = 0;
    for (int r = 0; r < ranks; r++) in[r] = a->in[r];
    for (int r = 0; r < n_out; r++) out[r] = a->out[r];
    for (; i + VL <= n; i += VL) {
        for (int r = 0; VL > 1 && r < ranks; r++) __builtin_prefetch(in[r] + i + AHEAD);
        for (int r = 0; r < ranks; r++) sum[r] = vf_load(in[r] + i);
        vf all = rank_tree(sum, ranks);
        for (int r = 0; r < n_out; r++) vf_store(out[r] + i, all);
    }
    if (i == n) return;
    for (int r = 0; r < ranks; r++) sum[r] = vf_load_n(in[r] + i, (int)(n - i));
    vf all = rank_tree(sum, ranks);
    for (int r = 0; r < n_out; r++) vf_store_n(out[r] + i, all, (int)(n - i));
}

static void run_rank_sum(const void *args)
{
    const tb_rank_sum_args *a = args;
    if (a->n_out == 1) {
        if (a->ranks == 2) rank_sum(a, 2, 1);
        else if (a->ranks == 4) rank_sum(a, 4, 1);
        else rank_sum(a, 8, 1);
    } else {
        if (a->ranks == 2) rank_sum(a, 2, 2);
        else if (a->ranks == 4) rank_sum(a, 4, 4);
        else rank_sum(a, 8, 8);
    }
}

static bool rank_sum_supports(const void *args)
{
    const tb_rank_sum_args *a = args;
    return (a->ranks == 2 || a->ranks == 4 || a->ranks == 8) && (a->n_out == 1 || a->n_out == a->ranks);
}

#define RANK_SUM                                                                                                      \
    {                                                                                                                 \
        .name = "rank_sum_f32_" VEC_ISA_NAME, .primitive = "rank_sum", .dtype = TB_F32, .isa = VEC_ISA,               \
        .supports = rank_sum_supports, .run = run_rank_sum                                                            \
    }
