/* tile() of conv_u8s8.h in vectors of LANES 32-bit sums. A step multiplies the 32 bits of a few adjacent cells, the
 * same for all channels, with a vector of weights: one step a quad where cells are bytes, two where they are 16 bits
 * wide.
 *
 * The including file defines vi, LANES and vi_zero, vi_load, vi_store, vi_set1, vi_dot(sum, cells, weights), and
 * vi_finish(out, i, j, sums): the epilogue for LANES columns. */
#pragma once
#include "conv_u8s8.h"

enum { STEPS = (int)sizeof(cell), STEP = 4 / STEPS, PANEL_VECTORS = PANEL / LANES, VECTORS = PANELS * PANEL_VECTORS };

/* Straight from the register; columns behind the last one are dropped. */
static inline void finish(const tb_gemm_u8s8_args *out, int64_t i, int64_t j, vi sum)
{
    if (j + LANES <= out->n) {
        vi_finish(out, i, j, sum);
        return;
    }
    _Alignas(64) int32_t sums[LANES];
    vi_store(sums, sum);
    for (int64_t k = j; k < out->n; k++) u8s8_store(out, i, k, sums[k - j]);
}

static inline __attribute__((always_inline)) void tile_of(const tile_job *t, const int rows, const int panels,
                                                          const tb_gemm_u8s8_args *out, int64_t i, int64_t j)
{
    const int vectors = panels * PANEL_VECTORS;
    const wcell *w = t->w;
    vi acc[TILE_ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[r][v] = vi_zero();
    for (int64_t y = 0; y < t->kh; y++)
        for (int64_t x = 0; x < t->kw; x++) {
            int64_t at = y * t->step_h + x * t->step_w;
            for (int64_t step = 0; step < t->quads * STEPS; step++, at += STEP, w += PANEL * STEP) {
                vi weights[VECTORS];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    weights[v] = vi_load(w + v / PANEL_VECTORS * t->panel_cells + v % PANEL_VECTORS * LANES * STEP);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    int32_t cells;
                    __builtin_memcpy(&cells, t->row[r] + at, 4);
                    vi pixel = vi_set1(cells);
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++) acc[r][v] = vi_dot(acc[r][v], pixel, weights[v]);
                }
            }
        }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) finish(out, i + r, j + v * LANES, acc[r][v]);
}

typedef void (*tile_fn)(const tile_job *t, const tb_gemm_u8s8_args *out, int64_t i, int64_t j);
#define TILE_HEIGHT(rows) (rows < TILE_ROWS ? rows : TILE_ROWS)
#define TILE_FN(rows, panels)                                                                                          \
    static void tile_##rows##_##panels(const tile_job *t, const tb_gemm_u8s8_args *out, int64_t i, int64_t j)          \
    {                                                                                                                  \
        tile_of(t, TILE_HEIGHT(rows), panels < PANELS ? panels : PANELS, out, i, j);                                   \
    }
#define TILE_FNS(rows) TILE_FN(rows, 1) TILE_FN(rows, 2)
/* clang-format off: it indents what follows a list of macros */
TILE_FNS(1) TILE_FNS(2) TILE_FNS(3) TILE_FNS(4) TILE_FNS(5) TILE_FNS(6)
TILE_FNS(7) TILE_FNS(8) TILE_FNS(9) TILE_FNS(10) TILE_FNS(11) TILE_FNS(12)
/* clang-format on */

static void tile(const tile_job *t, int rows, int panels, const tb_gemm_u8s8_args *out, int64_t i, int64_t j)
{
#define TILE_ENTRY(rows) {tile_##rows##_1, tile_##rows##_2}
    static const tile_fn tiles[12][2] = {
        TILE_ENTRY(1), TILE_ENTRY(2), TILE_ENTRY(3), TILE_ENTRY(4),  TILE_ENTRY(5),  TILE_ENTRY(6),
        TILE_ENTRY(7), TILE_ENTRY(8), TILE_ENTRY(9), TILE_ENTRY(10), TILE_ENTRY(11), TILE_ENTRY(12),
    };
    tiles[rows - 1][panels - 1](t, out, i, j);
}
