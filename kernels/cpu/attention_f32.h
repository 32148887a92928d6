/* Attention forward, f32: out = softmax(scale q k^T) v for every batch entry and head, lse = log of each row's sum.
 *
 * After "FlashAttention" (Dao et al. 2022) the T x S scores never exist: a few queries at a time meet all keys that
 * they see, their scores stay in L2, and the softmax is exact (no running rescaling, so a row's bits depend on nothing
 * but its own operands). Keys and values of a head are packed into panels once, as far as queries have come to see
 * them. Products run in gemm's order: over the width for scores, over ascending keys for sums of values. */
#pragma once
#include "gemm_pack.h"
#include "lanes.h"
#include "sizes.h"
#include "tb_pool.h"

/* Queries in a tile: few enough that their scores (SCORE_FLOATS) and a pass of the packed operands stay in L2. A tile
 * meets the keys that its last query sees; under a causal mask CAUSAL_TILES of a head leave out a third of the pairs
 * (measured at 128 queries: 2 and 4 are slower). */
enum { SCORE_FLOATS = 48 * 1024, MAX_QUERIES = 8 * MR, CAUSAL_TILES = 3, PRODUCT_KC = 256 };

/* out[m, panels * NR] = a b, k in passes that keep a panel's part in L1; slots carry the chains between them. */
typedef struct product {
    int64_t m, panels, k, a_row, a_k, b_k, b_panel;
    const float *a, *b;
    float *slots; /* div_up(m, MR) * panels * TILE floats */
    float *out;
    int64_t out_row;
} product;

static void run_product(const product *p)
{
    int64_t row_tiles = div_up(p->m, MR), k0 = 0;
    int group = tile_panels((int)div_up(p->m, max_i64(row_tiles, 1)));
    do {
        tile_job t = {.a_row = p->a_row, .a_k = p->a_k, .b_k = p->b_k, .b_panel = p->b_panel, .k0 = k0,
                      .k1 = min_i64(k0 + PRODUCT_KC, p->k), .k_total = p->k, .block = max_i64(p->k, 1), .tree = 1,
                      .out_row = p->out_row};
        for (int64_t panel = 0; panel < p->panels;) {
            int count = p->panels - panel >= group ? group : 1;
            for (int64_t tile = 0; tile < row_tiles; tile++) {
                int64_t i = tile * p->m / row_tiles, rows = (tile + 1) * p->m / row_tiles - i;
                t.a = p->a + i * p->a_row + k0 * p->a_k;
                t.b = p->b + panel * p->b_panel + k0 * p->b_k;
                t.slots = p->slots + (tile * p->panels + panel) * TILE;
                t.out = p->out + i * p->out_row + panel * NR;
                tiles[rows - 1][count - 1](&t);
            }
            panel += count;
        }
        k0 = t.k1;
    } while (k0 < p->k);
}

/* Rows of a matrix, at b * stride[0] + h * stride[1] + i * stride[2]. */
static inline const float *head_of(const void *x, const int64_t *stride, int64_t b, int64_t h)
{
    return (const float *)x + b * stride[0] + h * stride[1];
}

/* Keys that query i sees. */
static inline int64_t keys_seen(const tb_attention_args *a, int64_t i, int64_t valid)
{
    return a->causal ? clip_i64(i + 1 + valid - a->t, 0, valid) : valid;
}
static inline int64_t keys_valid(const tb_attention_args *a, int64_t b) { return a->kv_len ? a->kv_len[b] : a->s; }

/* Packs rows [*done, want) of x, `width` wide, into panels of `rows` rows each: panel p, row r at (p * rows + r) *
 * NR. */
static void pack_more_rows(float *pack, const float *x, int64_t row, int64_t width, int64_t rows, int64_t *done,
                           int64_t want)
{
    for (int64_t j = 0; j < width && *done < want; j += NR)
        pack_b_rows(pack + (j / NR * rows + *done) * NR, x + *done * row + j, row, want - *done,
                    (int)min_i64(width - j, NR));
    *done = max_i64(*done, want);
}

/* Packs the transpose of rows [.., want) of x in whole panels of NR rows; *done is a multiple of NR. */
static void pack_more_columns(float *pack, const float *x, int64_t row, int64_t width, int64_t rows, int64_t *done,
                              int64_t want)
{
    for (; *done < want; *done += NR)
        pack_b_columns(pack + *done * width, x + *done * row, row, width, (int)min_i64(rows - *done, NR));
}

typedef struct attention_plan {
    const tb_attention_args *a;
    int64_t tile, tiles;         /* queries in a tile, tiles of a head */
    int64_t score_row;           /* floats of a row of scores */
    int64_t chunks;              /* parts a head's tiles are cut into, so that every thread has one */
    int64_t k_floats, v_floats, score_floats, sum_floats, slot_floats;
} attention_plan;

static attention_plan plan_attention(const void *args)
{
    attention_plan p = {.a = args};
    const tb_attention_args *a = p.a;
    int64_t heads = max_i64(a->b * a->h, 1), threads = tb_pool_threads(a->pool);
    p.score_row = round_up(a->s, NR);
    p.tile = min_i64(clip_i64(SCORE_FLOATS / max_i64(p.score_row, 1) / MR * MR, MR, MAX_QUERIES), max_i64(a->t, 1));
    if (a->causal) p.tile = min_i64(p.tile, max_i64(round_up(div_up(a->t, CAUSAL_TILES), MR), MR));
    p.tiles = div_up(a->t, p.tile);
    p.chunks = heads >= threads ? 1 : max_i64(min_i64(div_up(threads, heads), p.tiles), 1);
    p.k_floats = p.score_row * a->d;
    p.v_floats = a->s * round_up(a->e, NR);
    p.score_floats = p.tile * p.score_row;
    p.sum_floats = p.tile * round_up(a->e, NR);
    p.slot_floats = div_up(p.tile, MR) * div_up(max_i64(a->s, a->e), NR) * TILE;
    return p;
}

static int64_t attention_thread_floats(const attention_plan *p)
{
    return round_up(p->k_floats, 16) + round_up(p->v_floats, 16) + round_up(p->score_floats, 16) +
           round_up(p->sum_floats, 16) + p->slot_floats;
}

static size_t attention_scratch_bytes(const void *args)
{
    attention_plan p = plan_attention(args);
    return (size_t)(attention_thread_floats(&p) * tb_pool_threads(p.a->pool)) * sizeof(float);
}

/* Scores of a row -> exp(scale (s - max)), zeros from `seen` to `width`; returns the sum and the log of it. */
static float scores_to_weights(float *score, int64_t seen, int64_t width, float scale, float *lse)
{
    for (int64_t j = 0; j < seen; j += VL)
        vf_store_part(score + j, vf_mul(vf_load_part(score + j, seen - j), vf_set1(scale)), seen - j);
    float max = row_max(score, seen);
    lanes s = lanes_set1(0.0f);
    FOR_LANES(j, q, left, seen) {
        vf e = vf_exp(vf_sub(load_filled(score + j, left, -INFINITY), vf_set1(max)));
        vf_store_part(score + j, e, left);
        s.v[q] = vf_add(s.v[q], e);
    }
    memset(score + seen, 0, (size_t)(width - seen) * sizeof(float));
    float sum = lanes_sum(s);
    *lse = seen ? max + first_of(vf_log(vf_set1(sum))) : -INFINITY;
    return sum;
}

/* One thread's memory and what it holds of the current head. */
typedef struct attention_work {
    float *k, *v, *score, *sum, *slots;
    int64_t head, k_done, v_done;
} attention_work;

static void attend_tile(const attention_plan *p, attention_work *w, int64_t b, int64_t h, int64_t t0)
{
    const tb_attention_args *a = p->a;
    int64_t m = min_i64(p->tile, a->t - t0), valid = keys_valid(a, b), e_row = round_up(a->e, NR);
    int64_t seen = keys_seen(a, t0 + m - 1, valid), width = round_up(seen, NR);
    float *out = (float *)a->out + b * a->out_stride[0] + h * a->out_stride[1] + t0 * a->out_stride[2];
    float *lse = (float *)a->lse + (b * a->h + h) * a->t + t0;
    pack_more_columns(w->k, head_of(a->k, a->k_stride, b, h), a->k_stride[2], a->d, valid, &w->k_done, seen);
    pack_more_rows(w->v, head_of(a->v, a->v_stride, b, h), a->v_stride[2], a->e, a->s, &w->v_done, seen);
    run_product(&(product){.m = m, .panels = width / NR, .k = a->d, .a_row = a->q_stride[2], .a_k = 1,
                           .a = head_of(a->q, a->q_stride, b, h) + t0 * a->q_stride[2], .b = w->k, .b_k = NR,
                           .b_panel = a->d * NR, .slots = w->slots, .out = w->score, .out_row = p->score_row});
    float scale[MAX_QUERIES];
    for (int64_t i = 0; i < m; i++) {
        float sum = scores_to_weights(w->score + i * p->score_row, keys_seen(a, t0 + i, valid), width, (float)a->scale,
                                      &lse[i]);
        scale[i] = sum > 0 || isnan(sum) ? 1.0f / sum : 0.0f;
    }
    run_product(&(product){.m = m,
                           .panels = e_row / NR,
                           .k = seen,
                           .a = w->score,
                           .a_row = p->score_row,
                           .a_k = 1,
                           .b = w->v,
                           .b_k = NR,
                           .b_panel = a->s * NR,
                           .slots = w->slots,
                           .out = w->sum,
                           .out_row = e_row});
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < a->e; j += VL)
            vf_store_part(out + i * a->out_stride[2] + j, vf_mul(vf_load(w->sum + i * e_row + j), vf_set1(scale[i])),
                          a->e - j);
}

/* Chunks [begin, end), in the order batch, head, chunk of tiles. */
static void attend_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    const attention_plan *p = arg;
    attention_work w = {.k = (float *)p->a->scratch + thread * attention_thread_floats(p), .head = -1};
    w.v = w.k + round_up(p->k_floats, 16);
    w.score = w.v + round_up(p->v_floats, 16);
    w.sum = w.score + round_up(p->score_floats, 16);
    w.slots = w.sum + round_up(p->sum_floats, 16);
    for (int64_t at = begin; at < end; at++) {
        int64_t head = at / p->chunks, chunk = at % p->chunks;
        if (head != w.head) w.head = head, w.k_done = w.v_done = 0;
        for (int64_t tile = chunk * p->tiles / p->chunks; tile < (chunk + 1) * p->tiles / p->chunks; tile++)
            attend_tile(p, &w, head / p->a->h, head % p->a->h, tile * p->tile);
    }
}

static void run_attention(const void *args)
{
    attention_plan p = plan_attention(args);
    tb_pool_run(p.a->pool, p.a->b * p.a->h * p.chunks, attend_chunks, &p);
}
