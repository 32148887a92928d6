/* gemm on matrices: the grid of blocks and their scratch. C is cut into a grid of blocks (at most MC x NC), each one
 * thread's work. What the operands are is the source's matter: gemm_f32.h, gemm_bf16.h, gemm_f16.h. */
#pragma once
#include "gemm_block.h"

typedef struct gemm_plan {
    const tb_gemm_args *g;
    const gemm_source *source;
    int64_t k; /* steps of k: 32 bits of an operand */
    int64_t grid_m, grid_n;
    int64_t block_m, block_n; /* of the largest block; the others have a row or a panel less */
    bool by_rows;             /* a thread's blocks share rows, not columns */
    int64_t passes, kc;
    bool pack_a, pack_b, rows_inside;
    int64_t a_floats, b_floats, slot_floats; /* one thread's scratch */
} gemm_plan;

/* Passes over K are of one length, but for the last. */
static int64_t pass_length(int64_t k) { return div_up(k, max_i64(div_up(k, KC), 1)); }

/* Work per k, in multiply-adds, of a thread that has `own` rows and all columns (or the other way round): its products,
 * and reading or packing the operand that the threads share. */
static int64_t share_cost(int64_t own, int64_t all) { return (own + PACKED_ELEMENT_MACS) * all; }

/* Do threads share out rows? They do where it is about as good: what goes over C next goes along its rows too, and
 * finds those of each thread in the cache of its core. */
static bool shares_rows(const tb_gemm_args *g, int64_t threads, int64_t row_tiles, int64_t panels)
{
    int64_t by_rows = share_cost(div_up(g->m, threads), panels * NR);
    int64_t by_columns = share_cost(div_up(panels, threads) * NR, g->m);
    return threads > 1 && row_tiles >= threads && by_rows - by_columns <= by_columns / ROWS_MARGIN;
}

/* Cuts C so that every thread has a block. */
static void plan_grid(gemm_plan *p)
{
    const tb_gemm_args *g = p->g;
    int64_t panels = max_i64(div_up(g->n, NR), 1), row_tiles = max_i64(div_up(g->m, MR), 1);
    int64_t threads = tb_pool_threads(g->pool);
    threads = min_i64(threads, max_i64(g->m * g->n * g->k / MACS_PER_THREAD, 1));
    p->grid_n = div_up(panels, NC / NR * KC / max_i64(p->kc, 1)); /* shorter passes, more columns in L2 */
    p->grid_m = div_up(row_tiles, MC / MR);
    p->by_rows = shares_rows(g, threads, row_tiles, panels);
    if (p->by_rows) {
        p->grid_m = min_i64(row_tiles, round_up(p->grid_m, threads));
    } else if (threads > 1) {
        p->grid_n = min_i64(panels, round_up(p->grid_n, threads));
        if (p->grid_n * p->grid_m < threads) p->grid_m = min_i64(row_tiles, div_up(threads, p->grid_n));
    }
    p->block_n = div_up(panels, p->grid_n) * NR;
    p->block_m = div_up(max_i64(g->m, 1), p->grid_m);
}

/* b_in_place: B can be read where it lies, if that is worth it. */
static gemm_plan plan_blocks(const tb_gemm_args *g, const gemm_source *source, int64_t k, bool pack_a, bool b_in_place)
{
    gemm_plan p = {.g = g, .source = source, .k = k, .pack_a = pack_a};
    p.passes = max_i64(div_up(k, KC), 1);
    p.kc = pass_length(k);
    plan_grid(&p);
    p.rows_inside = p.block_m <= DIRECT_M;
    p.pack_b = !g->packed_b && !(p.rows_inside && b_in_place);

    int64_t row_tiles = div_up(p.block_m, MR), panels = p.block_n / NR;
    p.a_floats = p.pack_a ? round_up((p.rows_inside ? row_tiles : 1) * MR * (p.kc + A_GAP), 16) : 0;
    p.b_floats = g->packed_b ? 0 : (p.pack_b && !p.rows_inside ? panels : 4) * NR * p.kc;
    p.slot_floats = block_slot_floats(p.block_m, p.block_n, p.passes, g->tree);
    return p;
}

/* One dimension of a matrix is dense, or has one element. */
VEC bool is_dense(int64_t row, int64_t col, int64_t rows, int64_t cols)
{
    return row == 1 || col == 1 || rows <= 1 || cols <= 1;
}
VEC bool has_dense_operands(const tb_gemm_args *g)
{
    return is_dense(g->a_row, g->a_col, g->m, g->k) && is_dense(g->b_row, g->b_col, g->k, g->n);
}

static size_t plan_scratch_bytes(const gemm_plan *p)
{
    int64_t threads = p->grid_m * p->grid_n > 1 ? tb_pool_threads(p->g->pool) : 1;
    return (size_t)((p->a_floats + p->b_floats + p->slot_floats) * threads) * sizeof(float);
}

static void gemm_pass(gemm_block *w)
{
    const gemm_plan *p = w->problem;
    w->k0 = min_i64(w->pass * p->kc, w->k);
    w->k1 = min_i64(w->k0 + p->kc, w->k);
}

static int64_t column_begin(const gemm_plan *p, int64_t j)
{
    return min_i64(j * div_up(p->g->n, NR) / p->grid_n * NR, p->g->n);
}

static void run_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    gemm_plan *p = arg;
    const tb_gemm_args *g = p->g;
    float *scratch = (float *)g->scratch + (p->a_floats + p->b_floats + p->slot_floats) * thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t i = p->by_rows ? at / p->grid_n : at % p->grid_m, j = p->by_rows ? at % p->grid_n : at / p->grid_m;
        int64_t i0 = i * g->m / p->grid_m, j0 = column_begin(p, j);
        gemm_block w = {.source = p->source, .problem = p, .i0 = i0, .j0 = j0, .m = (i + 1) * g->m / p->grid_m - i0,
                        .n = column_begin(p, j + 1) - j0, .k = p->k, .tree = g->tree,
                        .tree_block = max_i64(div_up(p->k, g->tree), 1), .passes = p->passes,
                        .rows_inside = p->rows_inside, .a_pack = scratch, .b_pack = scratch + p->a_floats,
                        .slots = scratch + p->a_floats + p->b_floats};
        if (w.m > 0 && w.n > 0) run_block(&w);
    }
}

static void run_plan(gemm_plan *p)
{
    if (p->g->m > 0 && p->g->n > 0) tb_pool_run(p->g->pool, p->grid_m * p->grid_n, run_blocks, p);
}
