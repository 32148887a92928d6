/* The loops around the register tile: blocks, packing, threads, the epilogue on a finished tile.
 *
 * C is cut into a grid of blocks (at most MC x NC); a block is one thread's work and runs the passes over K. Within a
 * pass, a panel of B is packed right before its first use; A is read where it lies when k runs along memory, else
 * packed by tiles. With few rows the tiles go down the rows inside a panel (B is touched once), else along the panels
 * inside a row (A's tile stays in L1). None of this changes the order of arithmetic: gemm_tile.h owns it. */
#pragma once
#include "gemm_epilogue.h"
#include "gemm_pack.h"
#include "tb_kernel.h"
#include "tb_pool.h"

typedef struct gemm_plan {
    int64_t block_m, block_n, grid_m, grid_n; /* block sizes are multiples of a tile, or all of M, N */
    int64_t passes, kc;
    bool pack_a, pack_b, rows_inside;
    int64_t a_floats, b_floats, slot_floats; /* one thread's scratch */
} gemm_plan;

VEC int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
VEC int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
VEC int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

VEC int tree_levels(int tree) { return tree >= 8 ? 3 : tree >= 4 ? 2 : tree >= 2 ? 1 : 0; }

/* Cuts C so that every thread has a block, columns first: a cut of the columns repeats no packing. */
static void plan_grid(const tb_gemm_args *g, gemm_plan *p)
{
    int64_t panels = max_i64(div_up(g->n, NR), 1), row_tiles = max_i64(div_up(g->m, MR), 1);
    int64_t threads = tb_pool_threads(g->pool);
    threads = min_i64(threads, max_i64(g->m * g->n * g->k / MACS_PER_THREAD, 1));
    p->grid_n = div_up(panels, NC / NR);
    p->grid_m = div_up(row_tiles, MC / MR);
    if (threads > 1) {
        p->grid_n = min_i64(panels, div_up(p->grid_n, threads) * threads);
        if (p->grid_n * p->grid_m < threads) p->grid_m = min_i64(row_tiles, div_up(threads, p->grid_n));
    }
    int64_t panels_each = div_up(panels, p->grid_n), tiles_each = div_up(row_tiles, p->grid_m);
    p->grid_n = div_up(panels, panels_each);
    p->grid_m = div_up(row_tiles, tiles_each);
    p->block_n = panels_each * NR;
    p->block_m = min_i64(tiles_each * MR, max_i64(g->m, 1));
}

static gemm_plan plan_gemm(const tb_gemm_args *g)
{
    gemm_plan p;
    plan_grid(g, &p);
    p.passes = max_i64(div_up(g->k, KC), 1);
    p.kc = div_up(g->k, p.passes);
    p.rows_inside = p.block_m <= DIRECT_M;
    p.pack_a = g->a_col != 1 && g->k > 1;
    p.pack_b = !g->packed_b && !(p.rows_inside && (g->b_col == 1 || g->n == 1));

    int64_t row_tiles = div_up(p.block_m, MR), panels = p.block_n / NR;
    p.a_floats = p.pack_a ? (p.rows_inside ? row_tiles : 1) * MR * p.kc : 0;
    p.b_floats = g->packed_b ? 0 : (p.pack_b && !p.rows_inside ? panels : 4) * NR * p.kc;
    p.slot_floats = p.passes > 1 ? row_tiles * panels * (1 + tree_levels(g->tree)) * TILE : 0;
    p.a_floats = div_up(p.a_floats, 16) * 16;
    return p;
}

static size_t gemm_scratch_bytes(const void *args)
{
    const tb_gemm_args *g = args;
    gemm_plan p = plan_gemm(g);
    int64_t threads = p.grid_m * p.grid_n > 1 ? tb_pool_threads(g->pool) : 1;
    return (size_t)((p.a_floats + p.b_floats + p.slot_floats) * threads) * sizeof(float);
}

/* One thread's block of C, and where its operands are in the current pass. */
typedef struct gemm_block {
    const tb_gemm_args *g;
    const gemm_plan *p;
    int64_t i0, j0, m, n;          /* rows and columns of C */
    int64_t row_tiles, panels;
    int group;                     /* panels per tile */
    int64_t k0, k1;
    float *a_pack, *b_pack, *slots;
} gemm_block;

/* Row tiles of a block differ by at most one row, so that none is left with a row or two. */
VEC int64_t tile_begin(const gemm_block *w, int64_t i) { return i * w->m / w->row_tiles; }

/* Points t->b to panels [panel, panel + count) of the pass, packing them at their first use. */
static void tile_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const tb_gemm_args *g = w->g;
    int64_t j = w->j0 + panel * NR, k = w->k1 - w->k0;
    if (g->packed_b) {
        t->b = (const float *)g->packed_b + j * g->k + w->k0 * NR;
        t->b_k = NR;
        t->b_panel = g->k * NR;
        return;
    }
    const float *b = (const float *)g->b + w->k0 * g->b_row + j * g->b_col;
    if (!w->p->pack_b && (panel + count) * NR <= w->n) {
        t->b = b;
        t->b_k = g->b_row;
        t->b_panel = NR;
        return;
    }
    float *pack = w->b_pack + (w->p->rows_inside ? 0 : panel * NR * w->p->kc);
    t->b = pack;
    t->b_k = NR;
    t->b_panel = k * NR;
    if (!first_use) return;
    for (int q = 0; q < count; q++)
        pack_b_panel(pack + q * k * NR, b + q * NR * g->b_col, g->b_row, g->b_col, k,
                     (int)min_i64(w->n - (panel + q) * NR, NR));
}

static void tile_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const tb_gemm_args *g = w->g;
    int64_t i = w->i0 + tile_begin(w, tile);
    const float *a = (const float *)g->a + i * g->a_row + w->k0 * g->a_col;
    if (!w->p->pack_a) {
        t->a = a;
        t->a_row = g->a_row;
        t->a_k = g->a_col;
        return;
    }
    float *pack = w->a_pack + (w->p->rows_inside ? tile * MR * w->p->kc : 0);
    if (first_use)
        pack_a_tile(pack, a, g->a_row, g->a_col, w->k1 - w->k0, (int)(tile_begin(w, tile + 1) - tile_begin(w, tile)));
    t->a = pack;
    t->a_row = 1;
    t->a_k = MR;
}

/* Runs one tile of the pass; in the last one its result goes through the epilogue into C. */
static void run_tile(const gemm_block *w, tile_job *t, int64_t tile, int64_t panel, int count)
{
    const tb_gemm_args *g = w->g;
    _Alignas(64) float finished[TILE], slots[4 * TILE];
    int64_t i = w->i0 + tile_begin(w, tile), j = w->j0 + panel * NR;
    int rows = (int)(tile_begin(w, tile + 1) - tile_begin(w, tile));
    int cols = (int)min_i64(w->n - panel * NR, count * NR);
    bool direct = cols == count * NR && !g->accumulate && !g->bias && g->act == TB_ACT_NONE;
    float *c = (float *)g->c + i * g->c_row + j;

    t->slots = w->p->passes == 1 ? slots
                                 : w->slots + (tile * w->panels + panel) * (1 + tree_levels(g->tree)) * TILE;
    t->out = direct ? c : finished;
    t->out_row = direct ? g->c_row : count * NR;
    tiles[rows - 1][count - 1](t);
    if (direct || w->k1 < g->k) return;
    const float *bias = g->bias ? (const float *)g->bias + j : NULL;
    for (int r = 0; r < rows; r++)
        epilogue_row(finished + r * t->out_row, c + r * g->c_row, cols, g->accumulate, bias, g->act);
}

static void run_block(gemm_block *w)
{
    const tb_gemm_args *g = w->g;
    w->row_tiles = div_up(w->m, MR);
    w->panels = div_up(w->n, NR);
    w->group = tile_panels((int)div_up(w->m, w->row_tiles));
    int64_t groups = div_up(w->panels, w->group), count = groups * w->row_tiles;
    for (int64_t pass = 0; pass < w->p->passes; pass++) {
        w->k0 = min_i64(pass * w->p->kc, g->k);
        w->k1 = min_i64(w->k0 + w->p->kc, g->k);
        tile_job t = {.k0 = w->k0, .k1 = w->k1, .k_total = g->k, .tree = g->tree,
                      .block = max_i64(div_up(g->k, g->tree), 1)};
        for (int64_t at = 0; at < count; at++) {
            int64_t tile = w->p->rows_inside ? at % w->row_tiles : at / groups;
            int64_t panel = (w->p->rows_inside ? at / w->row_tiles : at % groups) * w->group;
            tile_a(w, &t, tile, panel == 0);
            int64_t left = w->panels - panel;
            if (left >= w->group) {
                tile_b(w, &t, panel, w->group, tile == 0);
                run_tile(w, &t, tile, panel, w->group);
            } else {
                for (int64_t q = panel; q < w->panels; q++) {
                    tile_b(w, &t, q, 1, true);
                    run_tile(w, &t, tile, q, 1);
                }
            }
        }
    }
}

typedef struct gemm_job {
    const tb_gemm_args *g;
    gemm_plan p;
} gemm_job;

static void run_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const gemm_job *job = arg;
    const gemm_plan *p = &job->p;
    const tb_gemm_args *g = job->g;
    float *scratch = (float *)g->scratch + (p->a_floats + p->b_floats + p->slot_floats) * thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t i0 = at % p->grid_m * p->block_m, j0 = at / p->grid_m * p->block_n;
        gemm_block w = {.g = g, .p = p, .i0 = i0, .j0 = j0, .m = min_i64(p->block_m, g->m - i0),
                        .n = min_i64(p->block_n, g->n - j0), .a_pack = scratch, .b_pack = scratch + p->a_floats,
                        .slots = scratch + p->a_floats + p->b_floats};
        if (w.m > 0 && w.n > 0) run_block(&w);
    }
}

static void gemm_run(const void *args)
{
    gemm_job job = {.g = args, .p = plan_gemm(args)};
    int64_t blocks = job.p.grid_m * job.p.grid_n;
    if (job.g->m == 0 || job.g->n == 0) return;
    tb_pool_run(job.g->pool, blocks, run_blocks, &job);
}

static size_t gemm_pack_bytes(const void *args)
{
    const tb_gemm_args *g = args;
    return (size_t)(div_up(g->n, NR) * NR * g->k) * sizeof(float);
}

static void gemm_pack(const void *args, void *out)
{
    const tb_gemm_args *g = args;
    for (int64_t j = 0; j < g->n; j += NR)
        pack_b_panel((float *)out + j * g->k, (const float *)g->b + j * g->b_col, g->b_row, g->b_col, g->k,
                     (int)min_i64(g->n - j, NR));
}
