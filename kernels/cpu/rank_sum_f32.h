/* rank_sum, f32, for 2, 4 and 8 ranks: one pass that reads each operand and writes each output once. It is bound by
 * memory: its point is to touch no byte twice, so that a sum over ranks costs what copying the same bytes costs. */
#pragma once
#include "tb_kernel.h"

VEC vf rank_tree(const float *const *in, int ranks, int64_t i, int64_t left)
{
    vf sum[8];
    for (int r = 0; r < ranks; r++) sum[r] = vf_load_part(in[r] + i, left);
    for (int half = ranks / 2; half > 0; half /= 2)
        for (int r = 0; r < half; r++) sum[r] = vf_add(sum[2 * r], sum[2 * r + 1]);
    return sum[0];
}

/* `ranks` is a constant at each call, so that the tree stays in registers. */
VEC void rank_sum(const tb_rank_sum_args *a, int ranks)
{
    const float *in[8];
    for (int r = 0; r < ranks; r++) in[r] = a->in[r];
    for (int64_t i = 0; i < a->n; i += VL) {
        vf sum = rank_tree(in, ranks, i, a->n - i);
        for (int r = 0; r < a->n_out; r++) vf_store_part((float *)a->out[r] + i, sum, a->n - i);
    }
}

static void run_rank_sum(const void *args)
{
    const tb_rank_sum_args *a = args;
    if (a->ranks == 2) rank_sum(a, 2);
    else if (a->ranks == 4) rank_sum(a, 4);
    else rank_sum(a, 8);
}

static bool rank_sum_supports(const void *args)
{
    const tb_rank_sum_args *a = args;
    return a->ranks == 2 || a->ranks == 4 || a->ranks == 8;
}

#define RANK_SUM                                                                                                      \
    {                                                                                                                 \
        .name = "rank_sum_f32_" VEC_ISA_NAME, .primitive = "rank_sum", .dtype = TB_F32, .isa = VEC_ISA,               \
        .supports = rank_sum_supports, .run = run_rank_sum                                                            \
    }
