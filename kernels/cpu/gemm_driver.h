/* gemm on matrices: the grid of blocks and their scratch. C is cut into a grid of blocks (at most MC x NC), each one
 * thread's work. What the operands are is the source's matter: gemm_f32.h, gemm_bf16.h, gemm_f16.h. */
#pragma once
#include "gemm_block.h"

/* A length in parts that differ by at most one, the longer ones first. */
typedef struct even_parts {
    int64_t each, longer; /* the first `longer` parts have one more */
} even_parts;
VEC even_parts parts_of(int64_t length, int64_t parts) { return (even_parts){length / parts, length % parts}; }
VEC int64_t part_begin(even_parts p, int64_t i) { return i * p.each + min_i64(i, p.longer); }
VEC int64_t longest_part(even_parts p) { return p.each + (p.longer > 0); }

/* Two lines of the cache: with what a third one takes to another core, 64 cubed on two threads is 2 % slower. */
typedef struct gemm_plan {
    _Alignas(64) const tb_gemm_args *g;
    const gemm_source *source;
    int64_t k; /* steps of k: 32 bits of an operand */
    int64_t grid_m, grid_n;
    even_parts rows, panels; /* of blocks */
    bool by_rows;            /* a thread's blocks share rows, not columns */
    int64_t passes, kc;
    bool pack_a, pack_b, rows_inside;
    int64_t a_floats, b_floats, slot_floats; /* one thread's scratch */
} gemm_plan;
_Static_assert(sizeof(gemm_plan) == 128, "what threads read of a plan fits two lines");

/* Passes over K are of one length, but for the last. */
static int64_t pass_length(int64_t k) { return div_up(k, max_i64(div_up(k, KC), 1)); }

/* Work per k, in multiply-adds, of a thread that has `own` rows and all columns (or the other way round): its products,
 * and reading or packing the operand that the threads share. */
static int64_t share_cost(int64_t own, int64_t all) { return (own + PACKED_ELEMENT_MACS) * all; }

/* Do threads share out rows? They do where it is about as good: what goes over C next goes along its rows too, and
 * finds those of each thread in the cache of its core. */
static bool shares_rows(const tb_gemm_args *g, int64_t threads, int64_t row_tiles, int64_t panels)
{
    if (threads == 1 || row_tiles < threads) return false;
    int64_t by_rows = share_cost(div_up(g->m, threads), panels * NR);
    int64_t by_columns = share_cost(div_up(panels, threads) * NR, g->m);
    return by_rows - by_columns <= by_columns / ROWS_MARGIN;
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
    p->rows = parts_of(max_i64(g->m, 1), p->grid_m);
    p->panels = parts_of(panels, p->grid_n);
}

/* b_in_place: B can be read where it lies, if that is worth it. */
static gemm_plan plan_blocks(const tb_gemm_args *g, const gemm_source *source, int64_t k, bool pack_a, bool b_in_place)
{
    gemm_plan p = {.g = g, .source = source, .k = k, .pack_a = pack_a};
    p.passes = max_i64(div_up(k, KC), 1);
    p.kc = pass_length(k);
    plan_grid(&p);
    int64_t block_m = longest_part(p.rows), row_tiles = div_up(block_m, MR), panels = longest_part(p.panels);
    p.rows_inside = block_m <= DIRECT_M;
    p.pack_b = !g->packed_b && !(p.rows_inside && b_in_place);

    p.a_floats = p.pack_a ? round_up((p.rows_inside ? row_tiles : 1) * MR * (p.kc + A_GAP), 16) : 0;
    p.b_floats = g->packed_b ? 0 : (p.pack_b && !p.rows_inside ? panels : 4) * NR * p.kc;
    p.slot_floats = block_slot_floats(block_m, panels * NR, p.passes, g->tree);
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

static void run_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    gemm_plan *p = arg;
    const tb_gemm_args *g = p->g;
    float *scratch = (float *)g->scratch + (p->a_floats + p->b_floats + p->slot_floats) * thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t inner = p->by_rows ? p->grid_n : p->grid_m, i = p->by_rows ? at / inner : at % inner,
                j = p->by_rows ? at % inner : at / inner;
        int64_t i0 = part_begin(p->rows, i), j0 = part_begin(p->panels, j) * NR;
        gemm_block w = {.source = p->source, .problem = p, .i0 = i0, .j0 = j0, .m = part_begin(p->rows, i + 1) - i0,
                        .n = min_i64(part_begin(p->panels, j + 1) * NR, g->n) - j0, .k = p->k, .tree = g->tree,
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
