/* gemm f32 for products so small that planning blocks would take longer than the arithmetic: rows of C in groups, one
 * vector of columns at a time, operands read where they lie; a B whose columns are apart is copied to the stack. */
#pragma once
#include "blocking.h"
#include "gemm_epilogue.h"

enum { TINY_ROWS = 8 };

VEC bool is_tiny(const tb_gemm_args *g) { return !g->packed_b && g->k <= TINY_K && g->m * g->n * g->k <= TINY_MACS; }

/* The chain of k in [from, to) for a group of rows; row p of B's vector at b + p * b_row. */
VEC void tiny_chain(const int rows, const tb_gemm_args *g, int64_t i, int64_t from, int64_t to, const float *b,
                    int64_t b_row, int64_t left, vf *sum)
{
    const float *a = (const float *)g->a + i * g->a_row;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sum[r] = vf_zero();
    for (int64_t p = from; p < to; p++) {
        vf x = vf_load_part(b + p * b_row, left);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) sum[r] = vf_fma(vf_set1(a[r * g->a_row + p * g->a_col]), x, sum[r]);
    }
}

/* The pairwise tree over the chains of the blocks of k; empty blocks count +0. */
VEC void tiny_tree(const int rows, const tb_gemm_args *g, int64_t i, const float *b, int64_t b_row, int64_t left,
                   vf *sum)
{
    vf part[8][TINY_ROWS];
    int64_t block = (g->k + g->tree - 1) / g->tree;
    for (int s = 0; s < g->tree; s++) {
        int64_t from = s * block < g->k ? s * block : g->k, to = from + block < g->k ? from + block : g->k;
        tiny_chain(rows, g, i, from, to, b, b_row, left, part[s]);
    }
    for (int step = 1; step < g->tree; step *= 2)
        for (int s = 0; s < g->tree; s += 2 * step)
            for (int r = 0; r < rows; r++) part[s][r] = vf_add(part[s][r], part[s + step][r]);
    for (int r = 0; r < rows; r++) sum[r] = part[0][r];
}

VEC void tiny_rows(const int rows, const tb_gemm_args *g, int64_t i, int64_t j, const float *b, int64_t b_row)
{
    vf sum[TINY_ROWS], bias = vf_zero();
    int64_t left = g->n - j;
    if (g->tree == 1)
        tiny_chain(rows, g, i, 0, g->k, b, b_row, left, sum);
    else
        tiny_tree(rows, g, i, b, b_row, left, sum);
    if (g->bias) bias = vf_load_part((const float *)g->bias + j, left);
    for (int r = 0; r < rows; r++)
        epilogue_vector(sum[r], (float *)g->c + (i + r) * g->c_row + j, left, g->accumulate, g->bias, bias,
                        g->residual ? (const float *)g->residual + (i + r) * g->residual_row + j : NULL, g->act);
}

static void run_tiny(const tb_gemm_args *g)
{
    _Alignas(64) float copy[TINY_K * VL];
    for (int64_t j = 0; j < g->n; j += VL) {
        const float *b = (const float *)g->b + j * g->b_col;
        int64_t b_row = g->b_row, i = 0;
        if (g->b_col != 1) {
            int64_t columns = g->n - j < VL ? g->n - j : VL;
            for (int64_t p = 0; p < g->k; p++)
                for (int64_t q = 0; q < columns; q++) copy[p * VL + q] = b[p * g->b_row + q * g->b_col];
            b = copy;
            b_row = VL;
        }
        for (; i + TINY_ROWS <= g->m; i += TINY_ROWS) tiny_rows(TINY_ROWS, g, i, j, b, b_row);
        for (; i + 4 <= g->m; i += 4) tiny_rows(4, g, i, j, b, b_row);
        for (; i < g->m; i++) tiny_rows(1, g, i, j, b, b_row);
    }
}
