/* Attention backward, f32. With P = exp(scale q k^T - lse) and D = rowsum(g out):
 *     dv = P^T g,   dS = scale P (g v^T - D),   dq = dS k,   dk = dS^T q.
 * Query tiles of a head go in order; dq is finished with its tile (a chain over ascending keys), dk and dv are chains
 * over ascending queries that stay open, in slots, from tile to tile. A head is one thread's work. */
#pragma once
#include "attention_f32.h"

typedef struct attention_grad_plan {
    attention_plan p;
    int64_t kt, vt, k, q, g, probability, slope, dq, dk, dv, slots, all; /* offsets into a thread's scratch */
} attention_grad_plan;

static int64_t take(int64_t *at, int64_t floats)
{
    int64_t from = *at;
    *at += round_up(floats, 16);
    return from;
}

static attention_grad_plan plan_attention_grad(const void *args)
{
    attention_grad_plan p = {.p = plan_attention(args)};
    const tb_attention_args *a = p.p.a;
    int64_t d_row = round_up(a->d, NR), e_row = round_up(a->e, NR), key_tiles = div_up(a->s, MR), at = 0;
    p.kt = take(&at, p.p.score_row * a->d);
    p.vt = take(&at, p.p.score_row * a->e);
    p.k = take(&at, a->s * d_row);
    p.q = take(&at, p.p.tile * d_row);
    p.g = take(&at, p.p.tile * e_row);
    p.probability = take(&at, p.p.tile * (p.p.score_row + MR));
    p.slope = take(&at, p.p.tile * (p.p.score_row + MR));
    p.dq = take(&at, p.p.tile * d_row);
    p.dk = take(&at, key_tiles * d_row * MR);
    p.dv = take(&at, key_tiles * e_row * MR);
    p.slots = take(&at, div_up(p.p.tile, MR) * div_up(max_i64(max_i64(a->s, a->d), a->e), NR) * TILE);
    p.all = at;
    return p;
}

static size_t attention_grad_scratch_bytes(const void *args)
{
    attention_grad_plan p = plan_attention_grad(args);
    return (size_t)(p.all * tb_pool_threads(p.p.a->pool)) * sizeof(float);
}

/* A head: its operands and gradients, and how far they are packed. */
typedef struct head_grad {
    const attention_grad_plan *plan;
    const tb_attention_args *a;
    float *scratch;
    int64_t b, h, valid, kt_done, vt_done, k_done;
} head_grad;

/* P and dS of a tile from scores and g v^T, zeros where a query sees nothing. */
static void weights_and_slopes(const head_grad *w, int64_t t0, int64_t m, int64_t width)
{
    const tb_attention_args *a = w->a;
    int64_t row = w->plan->p.score_row + MR;
    const float *g = head_of(a->g, a->g_stride, w->b, w->h), *out = head_of(a->out, a->out_stride, w->b, w->h);
    vf scale = vf_set1((float)a->scale);
    for (int64_t i = 0; i < m; i++) {
        int64_t seen = keys_seen(a, t0 + i, w->valid);
        const float *gi = g + (t0 + i) * a->g_stride[2], *yi = out + (t0 + i) * a->out_stride[2];
        float *p = w->scratch + w->plan->probability + i * row, *s = w->scratch + w->plan->slope + i * row;
        lanes dot = lanes_set1(0.0f);
        FOR_LANES(j, q, left, a->e)
            dot.v[q] = vf_fma(load_filled(gi + j, left, 0), load_filled(yi + j, left, 0), dot.v[q]);
        vf mean = vf_set1(lanes_sum(dot)), lse = vf_set1(((const float *)a->lse)[(w->b * a->h + w->h) * a->t + t0 + i]);
        for (int64_t j = 0; j < seen; j += VL) {
            vf pj = vf_exp(vf_sub(vf_mul(vf_load(p + j), scale), lse));
            vf_store(p + j, pj);
            vf_store(s + j, vf_mul(vf_mul(pj, scale), vf_sub(vf_load(s + j), mean)));
        }
        memset(p + seen, 0, (size_t)(width + MR - seen) * sizeof(float));
        memset(s + seen, 0, (size_t)(width + MR - seen) * sizeof(float));
    }
}

/* Adds tile^T x (x: m rows in panels, n wide) to the open chains of keys [0, seen), for queries [t0, t0 + m). Chains
 * start at the zeros that the head began with, so that every pass resumes: the pass's k is the query + 1. The last
 * tile of queries writes the finished sums to `out`. */
static void add_transposed(const head_grad *w, const float *tile, const float *x, int64_t n, float *chains, int64_t t0,
                           int64_t m, int64_t seen, void *out, const int64_t *out_stride)
{
    int64_t panels = div_up(n, NR), row = w->plan->p.score_row + MR, end = w->a->t + 1;
    float *to = (float *)out + w->b * out_stride[0] + w->h * out_stride[1];
    _Alignas(64) float finished[TILE];
    for (int64_t key = 0; key < seen; key += MR)
        for (int64_t panel = 0; panel < panels; panel++) {
            tile_job t = {.a = tile + key, .a_row = 1, .a_k = row, .b = x + panel * m * NR, .b_k = NR, .k0 = t0 + 1,
                          .k1 = t0 + 1 + m, .k_total = end, .block = end, .tree = 1,
                          .slots = chains + (key / MR * panels + panel) * TILE, .out = finished, .out_row = NR};
            tiles[MR - 1][0](&t); /* rows past `seen` are zeros */
            for (int64_t r = 0; t.k1 == end && r < min_i64(seen - key, MR); r++)
                for (int64_t j = 0; j < NR && panel * NR + j < n; j += VL)
                    vf_store_part(to + (key + r) * out_stride[2] + panel * NR + j, vf_load(finished + r * NR + j),
                                  n - panel * NR - j);
        }
}

static void copy_rows(float *to, int64_t to_row, const float *from, int64_t from_row, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++)
        if (from) memcpy(to + i * to_row, from + i * from_row, (size_t)n * sizeof(float));
        else memset(to + i * to_row, 0, (size_t)n * sizeof(float));
}

static void grad_tile(head_grad *w, int64_t t0)
{
    const attention_grad_plan *p = w->plan;
    const tb_attention_args *a = w->a;
    int64_t m = min_i64(p->p.tile, a->t - t0), seen = keys_seen(a, t0 + m - 1, w->valid), width = round_up(seen, NR);
    int64_t row = p->p.score_row + MR, d_row = round_up(a->d, NR);
    const float *q = head_of(a->q, a->q_stride, w->b, w->h) + t0 * a->q_stride[2];
    const float *k = head_of(a->k, a->k_stride, w->b, w->h), *v = head_of(a->v, a->v_stride, w->b, w->h);
    const float *g = head_of(a->g, a->g_stride, w->b, w->h) + t0 * a->g_stride[2];
    float *s = w->scratch,
          *dq = (float *)a->dq + w->b * a->dq_stride[0] + w->h * a->dq_stride[1] + t0 * a->dq_stride[2];
    pack_more_columns(s + p->kt, k, a->k_stride[2], a->d, w->valid, &w->kt_done, seen);
    pack_more_columns(s + p->vt, v, a->v_stride[2], a->e, w->valid, &w->vt_done, seen);
    pack_more_rows(s + p->k, k, a->k_stride[2], a->d, a->s, &w->k_done, seen);
    pack_more_rows(s + p->q, q, a->q_stride[2], a->d, m, &(int64_t){0}, m);
    pack_more_rows(s + p->g, g, a->g_stride[2], a->e, m, &(int64_t){0}, m);
    run_product(&(product){.m = m, .panels = width / NR, .k = a->d, .a = q, .a_row = a->q_stride[2], .a_k = 1,
                           .b = s + p->kt, .b_k = NR, .b_panel = a->d * NR, .slots = s + p->slots,
                           .out = s + p->probability, .out_row = row});
    run_product(&(product){.m = m, .panels = width / NR, .k = a->e, .a = g, .a_row = a->g_stride[2], .a_k = 1,
                           .b = s + p->vt, .b_k = NR, .b_panel = a->e * NR, .slots = s + p->slots, .out = s + p->slope,
                           .out_row = row});
    weights_and_slopes(w, t0, m, width);
    run_product(&(product){.m = m, .panels = d_row / NR, .k = seen, .a = s + p->slope, .a_row = row, .a_k = 1,
                           .b = s + p->k, .b_k = NR, .b_panel = a->s * NR, .slots = s + p->slots, .out = s + p->dq,
                           .out_row = d_row});
    copy_rows(dq, a->dq_stride[2], s + p->dq, d_row, m, a->d);
    add_transposed(w, s + p->probability, s + p->g, a->e, s + p->dv, t0, m, seen, a->dv, a->dv_stride);
    add_transposed(w, s + p->slope, s + p->q, a->d, s + p->dk, t0, m, seen, a->dk, a->dk_stride);
}

static void grad_heads(void *arg, int64_t begin, int64_t end, int thread)
{
    const attention_grad_plan *p = arg;
    const tb_attention_args *a = p->p.a;
    for (int64_t at = begin; at < end; at++) {
        head_grad w = {
            .plan = p, .a = a, .scratch = (float *)a->scratch + thread * p->all, .b = at / a->h, .h = at % a->h};
        w.valid = keys_valid(a, w.b);
        memset(w.scratch + p->dk, 0, (size_t)(p->slots - p->dk) * sizeof(float)); /* dk and dv */
        for (int64_t t0 = 0; t0 < a->t; t0 += p->p.tile) grad_tile(&w, t0);
        int64_t reached = a->t > 0 ? w.valid : 0; /* the last query sees every valid key */
        copy_rows((float *)a->dk + w.b * a->dk_stride[0] + w.h * a->dk_stride[1] + reached * a->dk_stride[2],
                  a->dk_stride[2], NULL, 0, a->s - reached, a->d);
        copy_rows((float *)a->dv + w.b * a->dv_stride[0] + w.h * a->dv_stride[1] + reached * a->dv_stride[2],
                  a->dv_stride[2], NULL, 0, a->s - reached, a->e);
    }
}

static void run_attention_grad(const void *args)
{
    attention_grad_plan p = plan_attention_grad(args);
    tb_pool_run(p.p.a->pool, p.p.a->b * p.p.a->h, grad_heads, &p);
}

#define ATTENTION_KERNEL(op)                                                                                          \
    {                                                                                                                 \
        .name = #op "_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .run = run_##op,         \
        .scratch_bytes = op##_scratch_bytes                                                                           \
    }
