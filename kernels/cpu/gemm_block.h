/* One thread's block of C, from any operands: the loops around the register tile.
 *
 * A gemm_source says where the operands are (a matrix, an image seen as one) and what becomes of a finished tile. A
 * block runs the passes over K; within a pass, with few rows the tiles go down the rows inside a panel of B (B is
 * touched once), else along the panels inside a row of tiles (A's tile stays in L1). Operands are packed at their
 * first use. None of this changes the order of arithmetic: gemm_tile.h owns it. */
#pragma once
#include "gemm_epilogue.h"
#include "gemm_pack.h"
#include "sizes.h"
#include "tb_kernel.h"
#include "tb_pool.h"

typedef struct gemm_block {
    const struct gemm_source *source;
    void *problem;                   /* the source's own */
    int64_t i0, j0, m, n;            /* rows and columns of C, both > 0 */
    int64_t k, tree_block, passes;   /* length of the sums, of one block of the tree */
    int tree;
    bool rows_inside;
    const tile_fn (*tiles)[4];       /* NULL: `tiles` of gemm_tile.h */
    float *a_pack, *b_pack, *slots;  /* scratch; slots only where passes > 1 */
    int64_t pass, k0, k1;            /* the current pass; set by source->pass */
    int64_t row_tiles, panels;       /* set by run_block */
} gemm_block;

typedef struct gemm_source {
    void (*pass)(gemm_block *w);     /* sets k0 and k1 for w->pass; passes ascend and cover [0, k) */
    /* Points t to the operand of one row tile / of `count` panels; packs it when this is its first use in the pass. */
    void (*a)(const gemm_block *w, tile_job *t, int64_t tile, bool first_use);
    void (*b)(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use);
    /* Where a tile may be written as it is (rows t->out_row apart); NULL: it must go through finish. */
    float *(*target)(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols);
    void (*finish)(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows, int cols);
} gemm_source;

VEC int tree_levels(int tree) { return tree >= 8 ? 3 : tree >= 4 ? 2 : tree >= 2 ? 1 : 0; }
VEC int64_t block_slot_floats(int64_t m, int64_t n, int64_t passes, int tree)
{
    return passes > 1 ? div_up(m, MR) * div_up(n, NR) * (1 + tree_levels(tree)) * TILE : 0;
}

/* Row tiles of a block differ by at most one row, so that none is left with a row or two. */
VEC int64_t tile_begin(const gemm_block *w, int64_t tile) { return tile * w->m / w->row_tiles; }
VEC int tile_height(const gemm_block *w, int64_t tile) { return (int)(tile_begin(w, tile + 1) - tile_begin(w, tile)); }

static void run_rows(const gemm_block *w, const tile_job *t, int rows, int count)
{
    int upper = (rows + 1) / 2;
    if (w->tree > 1 && w->passes == 1 && !w->tiles && count == 1 && half_tile_fits(upper) &&
        half_tile_fits(rows - upper)) {
        tile_job lower = *t;
        lower.a += upper * t->a_row;
        lower.out += upper * t->out_row;
        half_tiles[upper](t);
        half_tiles[rows - upper](&lower);
        return;
    }
    (w->tiles ? w->tiles : tiles)[rows - 1][count - 1](t);
}

static void run_tile(const gemm_block *w, tile_job *t, int64_t tile, int64_t panel, int count, bool first_use)
{
    _Alignas(64) float finished[TILE], slots[4 * TILE];
    int64_t i = w->i0 + tile_begin(w, tile), j = w->j0 + panel * NR;
    int rows = tile_height(w, tile), cols = (int)min_i64(w->n - panel * NR, count * NR);
    w->source->b(w, t, panel, count, first_use);
    t->slots = w->passes == 1 ? slots : w->slots + (tile * w->panels + panel) * (1 + tree_levels(w->tree)) * TILE;
    t->out = cols == count * NR ? w->source->target(w, t, i, j, cols) : NULL;
    bool direct = t->out != NULL;
    if (!direct) {
        t->out = finished;
        t->out_row = count * NR;
    }
    run_rows(w, t, rows, count);
    if (!direct && w->k1 == w->k) w->source->finish(w, finished, count * NR, i, j, rows, cols);
}

static void run_block(gemm_block *w)
{
    w->row_tiles = div_up(w->m, MR);
    w->panels = div_up(w->n, NR);
    int group = tile_panels((int)div_up(w->m, w->row_tiles));
    int64_t groups = div_up(w->panels, group);
    for (w->pass = 0; w->pass < w->passes; w->pass++) {
        w->source->pass(w);
        tile_job t = {.k0 = w->k0, .k1 = w->k1, .k_total = w->k, .tree = w->tree, .block = w->tree_block};
        for (int64_t at = 0; at < groups * w->row_tiles; at++) {
            int64_t tile = w->rows_inside ? at % w->row_tiles : at / groups;
            int64_t panel = (w->rows_inside ? at / w->row_tiles : at % groups) * group;
            w->source->a(w, &t, tile, panel == 0);
            if (w->panels - panel >= group) run_tile(w, &t, tile, panel, group, tile == 0);
            else
                for (int64_t q = panel; q < w->panels; q++) run_tile(w, &t, tile, q, 1, true);
        }
    }
}
