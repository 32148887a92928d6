/* gemm on matrices: the grid of blocks, scratch, and the source of gemm_block.h for strided and packed operands.
 *
 * C is cut into a grid of blocks (at most MC x NC), each one thread's work. A is read where it lies when k runs along
 * memory, else packed by tiles; B is packed by panels unless the rows are few or it comes packed. */
#pragma once
#include "gemm_block.h"

typedef struct gemm_plan {
    const tb_gemm_args *g;
    int64_t block_m, block_n, grid_m, grid_n; /* block sizes are multiples of a tile, or all of M, N */
    int64_t passes, kc;
    bool pack_a, pack_b, rows_inside;
    int64_t a_floats, b_floats, slot_floats; /* one thread's scratch */
} gemm_plan;

/* Cuts C so that every thread has a block, columns first: a cut of the columns repeats no packing. */
static void plan_grid(gemm_plan *p)
{
    const tb_gemm_args *g = p->g;
    int64_t panels = max_i64(div_up(g->n, NR), 1), row_tiles = max_i64(div_up(g->m, MR), 1);
    int64_t threads = tb_pool_threads(g->pool);
    threads = min_i64(threads, max_i64(g->m * g->n * g->k / MACS_PER_THREAD, 1));
    p->grid_n = div_up(panels, NC / NR);
    p->grid_m = div_up(row_tiles, MC / MR);
    if (threads > 1) {
        p->grid_n = min_i64(panels, round_up(p->grid_n, threads));
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
    gemm_plan p = {.g = g};
    plan_grid(&p);
    p.passes = max_i64(div_up(g->k, KC), 1);
    p.kc = div_up(g->k, p.passes);
    p.rows_inside = p.block_m <= DIRECT_M;
    p.pack_a = g->a_col != 1 && g->k > 1;
    p.pack_b = !g->packed_b && !(p.rows_inside && (g->b_col == 1 || g->n == 1));

    int64_t row_tiles = div_up(p.block_m, MR), panels = p.block_n / NR;
    p.a_floats = p.pack_a ? round_up((p.rows_inside ? row_tiles : 1) * MR * p.kc, 16) : 0;
    p.b_floats = g->packed_b ? 0 : (p.pack_b && !p.rows_inside ? panels : 4) * NR * p.kc;
    p.slot_floats = block_slot_floats(p.block_m, p.block_n, p.passes, g->tree);
    return p;
}

static size_t gemm_scratch_bytes(const void *args)
{
    gemm_plan p = plan_gemm(args);
    int64_t threads = p.grid_m * p.grid_n > 1 ? tb_pool_threads(p.g->pool) : 1;
    return (size_t)((p.a_floats + p.b_floats + p.slot_floats) * threads) * sizeof(float);
}

static void gemm_pass(gemm_block *w)
{
    const gemm_plan *p = w->problem;
    w->k0 = min_i64(w->pass * p->kc, w->k);
    w->k1 = min_i64(w->k0 + p->kc, w->k);
}

static void gemm_a(const gemm_block *w, tile_job *t, int64_t tile, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    const float *a = (const float *)g->a + (w->i0 + tile_begin(w, tile)) * g->a_row + w->k0 * g->a_col;
    if (!p->pack_a) {
        t->a = a;
        t->a_row = g->a_row;
        t->a_k = g->a_col;
        return;
    }
    float *pack = w->a_pack + (w->rows_inside ? tile * MR * p->kc : 0);
    if (first_use) pack_a_tile(pack, a, g->a_row, g->a_col, w->k1 - w->k0, tile_height(w, tile));
    t->a = pack;
    t->a_row = 1;
    t->a_k = MR;
}

static void gemm_b(const gemm_block *w, tile_job *t, int64_t panel, int count, bool first_use)
{
    const gemm_plan *p = w->problem;
    const tb_gemm_args *g = p->g;
    int64_t j = w->j0 + panel * NR, k = w->k1 - w->k0;
    if (g->packed_b) {
        t->b = (const float *)g->packed_b + j * g->k + w->k0 * NR;
        t->b_k = NR;
        t->b_panel = g->k * NR;
        return;
    }
    const float *b = (const float *)g->b + w->k0 * g->b_row + j * g->b_col;
    if (!p->pack_b && (panel + count) * NR <= w->n) {
        t->b = b;
        t->b_k = g->b_row;
        t->b_panel = NR;
        return;
    }
    float *pack = w->b_pack + (w->rows_inside ? 0 : panel * NR * p->kc);
    t->b = pack;
    t->b_k = NR;
    t->b_panel = k * NR;
    if (!first_use) return;
    for (int q = 0; q < count; q++)
        pack_b_panel(pack + q * k * NR, b + q * NR * g->b_col, g->b_row, g->b_col, k,
                     (int)min_i64(w->n - (panel + q) * NR, NR));
}

static float *gemm_target(const gemm_block *w, tile_job *t, int64_t i, int64_t j, int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    (void)cols;
    t->out_row = g->c_row;
    bool is_plain = !g->accumulate && !g->bias && !g->residual && g->act == TB_ACT_NONE;
    return is_plain ? (float *)g->c + i * g->c_row + j : NULL;
}

static void gemm_finish(const gemm_block *w, const float *sum, int64_t sum_row, int64_t i, int64_t j, int rows, int cols)
{
    const tb_gemm_args *g = ((const gemm_plan *)w->problem)->g;
    const float *bias = g->bias ? (const float *)g->bias + j : NULL, *residual = g->residual;
    for (int r = 0; r < rows; r++)
        epilogue_row(sum + r * sum_row, (float *)g->c + (i + r) * g->c_row + j, cols, g->accumulate, bias, 1,
                     residual ? residual + (i + r) * g->residual_row + j : NULL, g->act);
}

static const gemm_source matrix_source = {gemm_pass, gemm_a, gemm_b, gemm_target, gemm_finish};

static void run_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    gemm_plan *p = arg;
    const tb_gemm_args *g = p->g;
    float *scratch = (float *)g->scratch + (p->a_floats + p->b_floats + p->slot_floats) * thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t i0 = at % p->grid_m * p->block_m, j0 = at / p->grid_m * p->block_n;
        gemm_block w = {.source = &matrix_source, .problem = p, .i0 = i0, .j0 = j0, .m = min_i64(p->block_m, g->m - i0),
                        .n = min_i64(p->block_n, g->n - j0), .k = g->k, .tree = g->tree,
                        .tree_block = max_i64(div_up(g->k, g->tree), 1), .passes = p->passes,
                        .rows_inside = p->rows_inside, .a_pack = scratch, .b_pack = scratch + p->a_floats,
                        .slots = scratch + p->a_floats + p->b_floats};
        if (w.m > 0 && w.n > 0) run_block(&w);
    }
}

static void gemm_run(const void *args)
{
    gemm_plan p = plan_gemm(args);
    if (p.g->m == 0 || p.g->n == 0) return;
    tb_pool_run(p.g->pool, p.grid_m * p.grid_n, run_blocks, &p);
}

static size_t gemm_pack_bytes(const void *args)
{
    const tb_gemm_args *g = args;
    return (size_t)(round_up(g->n, NR) * g->k) * sizeof(float);
}

static void gemm_pack(const void *args, void *out)
{
    const tb_gemm_args *g = args;
    for (int64_t j = 0; j < g->n; j += NR)
        pack_b_panel((float *)out + j * g->k, (const float *)g->b + j * g->b_col, g->b_row, g->b_col, g->k,
                     (int)min_i64(g->n - j, NR));
}
