/* The register tile of gemm, summed in f32: MR x (NV * VL) of C over one pass of K, in the canonical order.
 *
 * One accumulator per element runs a chain of fused multiply-adds over ascending k. K is cut into `tree` blocks; a
 * finished block's tile goes to a slot, and finished slots of equal height are added, older first, as the carries of
 * a binary counter: the balanced pairwise tree, with log2(tree) slots and without a second pass over memory. A pass
 * that ends inside a block leaves its running chain in slot 0. Where one pass covers K, a tile may run as two of half
 * its rows, whose spare registers hold every second block: short blocks would cost more in slots than in products. */
#pragma once
#include "blocking.h"
#include <stdint.h>

/* One step of k: c + a b. A step of another dtype (gemm_bf16.h) is several k in 32 bits. */
#ifndef TILE_MAC
#define TILE_MAC vf_fma
#endif
VEC vf tile_mac(vf a, vf b, vf c) { return TILE_MAC(a, b, c); }

enum { NR = NV * VL, TILE = MR * NR, PREFETCH_K = 16 };

typedef struct tile_job {
    const float *a; /* element (i, k0) at a[i * a_row]; k advances by a_k */
    int64_t a_row, a_k;
    const float *b; /* vector v of row k0 at b[v / NV * b_panel + v % NV * VL]; k advances by b_k */
    int64_t b_k, b_panel;
    /* Scattered operand (scattered_tiles): vector v of row k at b[b_row_at[k - k0] + b_vector_at[v]]. */
    const int64_t *b_row_at;
    int32_t b_vector_at[4 * NV];
    int64_t k0, k1, k_total; /* this pass of K */
    int64_t block;           /* length of a tree block; the last ones may be short or empty */
    int tree;
    float *slots; /* (1 + log2(tree)) * rows * panels * NR floats, kept between the passes of a tile */
    float *out;   /* rows x panels * NR, written by the last pass */
    int64_t out_row;
} tile_job;

/* acc += a[:, k] * b[k, :]. The shorter side of the outer product is held in registers, the other streams by. */
VEC void tile_step(const int rows, const int panels, const bool scattered, const tile_job *t, const float *a,
                   const float *b, vf acc[MR][4 * NV])
{
    const int nv = panels * NV;
    vf held[4 * NV > MR ? 4 * NV : MR];
#define B_VECTOR(v) vf_load(b + (scattered ? t->b_vector_at[v] : (v) / NV * t->b_panel + (v) % NV * VL))
#pragma GCC unroll 4
    for (int p = 0; p < panels && !scattered; p++) __builtin_prefetch(b + p * t->b_panel + PREFETCH_K * t->b_k);
    if (rows < nv) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) held[i] = vf_set1(a[i * t->a_row]);
#pragma GCC unroll 16
        for (int v = 0; v < nv; v++) {
            vf bv = B_VECTOR(v);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) acc[i][v] = tile_mac(held[i], bv, acc[i][v]);
        }
        return;
    }
#pragma GCC unroll 16
    for (int v = 0; v < nv; v++) held[v] = B_VECTOR(v);
#undef B_VECTOR
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        vf av = vf_set1(a[i * t->a_row]);
#pragma GCC unroll 16
        for (int v = 0; v < nv; v++) acc[i][v] = tile_mac(av, held[v], acc[i][v]);
    }
}

VEC void tile_rows(const int rows, const int panels, const bool scattered, const tile_job *t)
{
    const int nv = panels * NV, size = rows * nv * VL;
    vf acc[MR][4 * NV];
    int64_t segment = t->k0 / t->block, k = t->k0;
    const float *a = t->a, *b = t->b;
    const int64_t *b_row_at = t->b_row_at;
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

        for (; k < end; k++, a += t->a_k) {
            tile_step(rows, panels, scattered, t, a, scattered ? b + *b_row_at++ : b, acc);
            if (!scattered) b += t->b_k;
        }

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

/* ---- half tiles of a tree that one pass covers: of two blocks the first stays in registers ---- */
enum { REGISTERS = VL == 16 ? 32 : 16, LATENCY_CHAINS = 8 /* latency * issue of the FMA */ };
VEC bool half_tile_fits(const int rows)
{
    return rows * NV >= LATENCY_CHAINS && 2 * rows * NV + NV + 1 <= REGISTERS && 2 * rows <= MR;
}

VEC void half_tile_block(const int rows, const tile_job *t, int64_t segment, vf acc[MR][4 * NV])
{
    int64_t k = segment * t->block, end = segment == t->tree - 1 ? t->k_total : k + t->block;
    const float *a = t->a + k * t->a_k, *b = t->b + k * t->b_k;
    if (end > t->k_total) end = t->k_total;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) acc[i][v] = vf_zero();
    for (; k < end; k++, a += t->a_k, b += t->b_k) tile_step(rows, 1, false, t, a, b, acc);
}

VEC void half_tile(const int rows, const tile_job *t)
{
    vf first[MR][4 * NV], acc[MR][4 * NV];
    for (int64_t pair = 0;; pair++) {
        half_tile_block(rows, t, 2 * pair, first);
        half_tile_block(rows, t, 2 * pair + 1, acc);
        float *slot = t->slots;
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
            for (int v = 0; v < NV; v++) acc[i][v] = vf_add(first[i][v], acc[i][v]);
        for (int64_t carry = pair; carry & 1; carry >>= 1, slot += rows * NR)
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
                for (int v = 0; v < NV; v++) acc[i][v] = vf_add(vf_load(slot + (i * NV + v) * VL), acc[i][v]);
        if (2 * pair + 2 == t->tree) break;
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
            for (int v = 0; v < NV; v++) vf_store(slot + (i * NV + v) * VL, acc[i][v]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int v = 0; v < NV; v++) vf_store(t->out + i * t->out_row + v * VL, acc[i][v]);
}

/* Few rows take more panels of B at once, so that enough independent chains hide the latency of the FMA. */
VEC bool tile_fits(const int rows, const int panels)
{
    const int nv = panels * NV, held = rows < nv ? rows : nv;
    return rows <= MR && (panels == 1 || (rows * panels <= MR && rows * nv + held + 1 <= REGISTERS));
}

VEC int tile_panels(int rows) { return tile_fits(rows, 4) ? 4 : tile_fits(rows, 2) ? 2 : 1; }

typedef void (*tile_fn)(const tile_job *);
#define TILE_FN(name, rows, panels, scattered)                                                                        \
    static void name##_##rows##_##panels(const tile_job *t)                                                           \
    {                                                                                                                 \
        if (tile_fits(rows, panels)) tile_rows(tile_fits(rows, panels) ? rows : 1, panels, scattered, t);             \
    }
#define TILE_FNS(name, rows, scattered)                                                                               \
    TILE_FN(name, rows, 1, scattered) TILE_FN(name, rows, 2, scattered) TILE_FN(name, rows, 4, scattered)
#define TILE_ENTRY(name, rows) {name##_##rows##_1, name##_##rows##_2, NULL, name##_##rows##_4}
/* name[rows - 1][panels - 1] */
#define TILES(name, scattered)                                                                                        \
    TILE_FNS(name, 1, scattered) TILE_FNS(name, 2, scattered) TILE_FNS(name, 3, scattered)                            \
    TILE_FNS(name, 4, scattered) TILE_FNS(name, 5, scattered) TILE_FNS(name, 6, scattered)                            \
    TILE_FNS(name, 7, scattered) TILE_FNS(name, 8, scattered) TILE_FNS(name, 9, scattered)                            \
    TILE_FNS(name, 10, scattered) TILE_FNS(name, 11, scattered) TILE_FNS(name, 12, scattered)                         \
    TILE_FNS(name, 13, scattered) TILE_FNS(name, 14, scattered)                                                       \
    static const tile_fn name[14][4] = {                                                                              \
        TILE_ENTRY(name, 1),  TILE_ENTRY(name, 2),  TILE_ENTRY(name, 3),  TILE_ENTRY(name, 4),  TILE_ENTRY(name, 5),  \
        TILE_ENTRY(name, 6),  TILE_ENTRY(name, 7),  TILE_ENTRY(name, 8),  TILE_ENTRY(name, 9),  TILE_ENTRY(name, 10), \
        TILE_ENTRY(name, 11), TILE_ENTRY(name, 12), TILE_ENTRY(name, 13), TILE_ENTRY(name, 14),                       \
    };
TILES(tiles, false)

#define HALF_TILE_FN(rows)                                                                                             \
    static void half_tile_##rows(const tile_job *t)                                                                    \
    {                                                                                                                  \
        if (half_tile_fits(rows)) half_tile(half_tile_fits(rows) ? rows : 1, t);                                       \
    }
/* clang-format off: it indents what follows a list of macros */
HALF_TILE_FN(4) HALF_TILE_FN(5) HALF_TILE_FN(6) HALF_TILE_FN(7)
/* clang-format on */
/* half_tiles[rows]; NULL: none. */
static const tile_fn half_tiles[8] = {[4] = half_tile_4, half_tile_5, half_tile_6, half_tile_7};
