/* Packing of gemm operands.
 *
 * B goes into panels of NR columns, k by k, columns beyond N as zeros:   A into tiles of MR rows, k by k:
 *     k=0: b00 b01 .. b0,NR-1 | k=1: b10 b11 .. | ...                        k=0: a00 a10 .. | k=1: a01 a11 .. | ...
 * so that a tile reads both in the order in which it needs them. */
#pragma once
#include "gemm_tile.h"
#include <string.h>

/* One panel: rows k of B from `b`, `cols` <= NR columns; dst takes k * NR floats. */
static inline void pack_b_rows(float *dst, const float *b, int64_t b_row, int64_t k, int cols)
{
    if (cols == NR) {
        for (int64_t p = 0; p < k; p++, b += b_row, dst += NR) {
            __builtin_prefetch(b + PREFETCH_K * b_row);
#pragma GCC unroll 4
            for (int v = 0; v < NV; v++) vf_store(dst + v * VL, vf_load(b + v * VL));
        }
        return;
    }
    for (int64_t p = 0; p < k; p++, b += b_row, dst += NR)
        for (int v = 0; v < NV; v++) {
            int n = cols - v * VL;
            vf_store(dst + v * VL, vf_load_n(b + v * VL, n < 0 ? 0 : n > VL ? VL : n));
        }
}

/* The same where B's columns lie along memory: VL x VL blocks are transposed in registers. */
static inline void pack_b_columns(float *dst, const float *b, int64_t b_col, int64_t k, int cols)
{
    for (int v = 0; v < NV; v++) {
        const float *column = b + v * VL * b_col;
        int n = cols - v * VL;
        int64_t p = 0;
        for (; n > 0 && p + VL <= k; p += VL) {
            vf r[VL];
            for (int j = 0; j < VL; j++) r[j] = j < n ? vf_load(column + j * b_col + p) : vf_zero();
            vf_transpose(r);
            for (int j = 0; j < VL; j++) vf_store(dst + (p + j) * NR + v * VL, r[j]);
        }
        for (; p < k; p++)
            for (int j = 0; j < VL; j++) dst[p * NR + v * VL + j] = j < n ? column[j * b_col + p] : 0.0f;
    }
}

static inline void pack_b_panel(float *dst, const float *b, int64_t b_row, int64_t b_col, int64_t k, int cols)
{
    if (b_col == 1 || cols == 1)
        pack_b_rows(dst, b, b_row, k, cols);
    else if (b_row == 1 || k == 1)
        pack_b_columns(dst, b, b_col, k, cols);
    else
        for (int64_t p = 0; p < k; p++)
            for (int j = 0; j < NR; j++) dst[p * NR + j] = j < cols ? b[p * b_row + j * b_col] : 0.0f;
}

/* `rows` <= MR rows of A whose k runs across memory. Rows that lie along memory move as a vector, whose end the next
 * k overwrites: dst has VL floats beyond the tile. */
static inline void pack_a_tile(float *dst, const float *a, int64_t a_row, int64_t a_col, int64_t k, int rows)
{
    if (a_row == 1) {
        for (int64_t p = 0; p < k; p++, a += a_col, dst += MR)
            for (int i = 0; i < rows; i += VL) vf_store(dst + i, vf_load_part(a + i, rows - i));
        return;
    }
    for (int64_t p = 0; p < k; p++)
        for (int i = 0; i < rows; i++) dst[p * MR + i] = a[i * a_row + p * a_col];
}
