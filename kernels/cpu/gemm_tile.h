/* The register tile of gemm f32: MR x (NV * VL) of C over one pass of K, in the canonical order.
 *
 * One accumulator per element runs a chain of fused multiply-adds over ascending k. K is cut into `tree` blocks; a
 * finished block's tile goes to a slot, and finished slots of equal height are added, older first, as the carries of
 * a binary counter: the balanced pairwise tree, with log2(tree) slots and without a second pass over memory. A pass
 * that ends inside a block leaves its running chain in slot 0. */
#pragma once
#include "blocking.h"
#include <stdint.h>

enum { NR = NV * VL, TILE = MR * NR, PREFETCH_K = 16 };

typedef struct tile_job {
    const float *a; /* element (i, k0) at a[i * a_row]; k advances by a_k */
    int64_t a_row, a_k;
    const float *b; /* vector v of row k0 at b[v / NV * b_panel + v % NV * VL]; k advances by b_k */
    int64_t b_k, b_panel;
    int64_t k0, k1, k_total; /* this pass of K */
    int64_t block;           /* length of a tree block; the last ones may be short or empty */
    int tree;
    float *slots; /* (1 + log2(tree)) * rows * panels * NR floats, kept between the passes of a tile */
    float *out;   /* rows x panels * NR, written by the last pass */
    int64_t out_row;
} tile_job;

/* acc += a[:, k] * b[k, :]. The shorter side of the outer product is held in registers, the other streams by. */
VEC void tile_step(const int rows, const int panels, const tile_job *t, const float *a, const float *b,
                   vf acc[MR][4 * NV])
{
    const int nv = panels * NV;
    vf held[4 * NV > MR ? 4 * NV : MR];
#pragma GCC unroll 4
    for (int p = 0; p < panels; p++) __builtin_prefetch(b + p * t->b_panel + PREFETCH_K * t->b_k);
    if (rows < nv) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) held[i] = vf_set1(a[i * t->a_row]);
#pragma GCC unroll 16
        for (int v = 0; v < nv; v++) {
            vf bv = vf_load(b + v / NV * t->b_panel + v % NV * VL);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) acc[i][v] = vf_fma(held[i], bv, acc[i][v]);
        }
        return;
    }
#pragma GCC unroll 16
    for (int v = 0; v < nv; v++) held[v] = vf_load(b + v / NV * t->b_panel + v % NV * VL);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        vf av = vf_set1(a[i * t->a_row]);
#pragma GCC unroll 16
        for (int v = 0; v < nv; v++) acc[i][v] = vf_fma(av, held[v], acc[i][v]);
    }
}

VEC void tile_rows(const int rows, const int panels, const tile_job *t)
{
    const int nv = panels * NV, size = rows * nv * VL;
    vf acc[MR][4 * NV];
    int64_t segment = t->k0 / t->block, k = t->k0;
    const float *a = t->a, *b = t->b;
    if (segment >= t->tree) segment = t->tree - 1;
    bool resume = k > segment * t->block;

    for (;; segment++, resume = false) {
        int64_t segment_end = segment == t->tree - 1 ? t->k_total : (segment + 1) * t->block;
        if (segment_end > t->k_total) segment_end = t->k_total;
        int64_t end = segment_end < t->k1 ? segment_end : t->k1;
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
            for (int v = 0; v < nv; v++) acc[i][v] = resume ? vf_load(t->slots + (i * nv + v) * VL) : vf_zero();

        for (; k < end; k++, a += t->a_k, b += t->b_k) tile_step(rows, panels, t, a, b, acc);

        float *slot = t->slots;
        bool block_done = end == segment_end;
        if (block_done) {
            slot += size;
            for (int64_t carry = segment; carry & 1; carry >>= 1, slot += size)
#pragma GCC unroll 16
                for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
                    for (int v = 0; v < nv; v++)
                        acc[i][v] = vf_add(vf_load(slot + (i * nv + v) * VL), acc[i][v]);
            if (segment == t->tree - 1) break;
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
            for (int v = 0; v < nv; v++) vf_store(slot + (i * nv + v) * VL, acc[i][v]);
        if (end == t->k1 && t->k1 < t->k_total) return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int v = 0; v < nv; v++) vf_store(t->out + i * t->out_row + v * VL, acc[i][v]);
}

/* Few rows take more panels of B at once, so that enough independent chains hide the latency of the FMA. */
VEC bool tile_fits(const int rows, const int panels)
{
    const int nv = panels * NV, held = rows < nv ? rows : nv, registers = VL == 16 ? 32 : 16;
    return rows <= MR && (panels == 1 || rows * nv + held + 1 <= registers);
}

VEC int tile_panels(int rows) { return tile_fits(rows, 4) ? 4 : tile_fits(rows, 2) ? 2 : 1; }

typedef void (*tile_fn)(const tile_job *);
#define TILE_FN(rows, panels)                                                                                         \
    static void tile_##rows##_##panels(const tile_job *t)                                                             \
    {                                                                                                                 \
        if (tile_fits(rows, panels)) tile_rows(tile_fits(rows, panels) ? rows : 1, panels, t);                        \
    }
#define TILE_FNS(rows) TILE_FN(rows, 1) TILE_FN(rows, 2) TILE_FN(rows, 4)
#define TILE_ENTRY(rows) {tile_##rows##_1, tile_##rows##_2, NULL, tile_##rows##_4}
TILE_FNS(1) TILE_FNS(2) TILE_FNS(3) TILE_FNS(4) TILE_FNS(5) TILE_FNS(6) TILE_FNS(7)
TILE_FNS(8) TILE_FNS(9) TILE_FNS(10) TILE_FNS(11) TILE_FNS(12) TILE_FNS(13) TILE_FNS(14)

/* tiles[rows - 1][panels - 1] */
static const tile_fn tiles[14][4] = {
    TILE_ENTRY(1), TILE_ENTRY(2), TILE_ENTRY(3),  TILE_ENTRY(4),  TILE_ENTRY(5),  TILE_ENTRY(6),  TILE_ENTRY(7),
    TILE_ENTRY(8), TILE_ENTRY(9), TILE_ENTRY(10), TILE_ENTRY(11), TILE_ENTRY(12), TILE_ENTRY(13), TILE_ENTRY(14),
};
