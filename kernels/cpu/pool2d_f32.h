/* Max and average pooling of planes, f32, and their gradients: plain loops that the compiler vectorises for the file's
 * ISA (nothing here rounds differently for it), and windows of 2x2 over the lanes of vec_*.h, which comes first.
 *
 * A row of outputs is made in two steps, in pieces that fit a buffer: down the window's rows for every column, then
 * across its columns. Among equal maxima the first in row-major order wins, NaN wins over numbers. Sums of average
 * pooling run down each column, then over the columns, ascending. */
#pragma once
#include "sizes.h"
#include "tb_kernel.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { PIECE = 1024 };
static const int32_t lane_numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Outputs [j0, j1) of row i, and the part of the plane under them: columns [x0, x1), rows [y0, y1). */
typedef struct piece {
    int64_t j0, j1, x0, x1, y0, y1;
} piece;

static piece piece_of(const tb_pool2d_args *p, int64_t i, int64_t j0)
{
    int64_t top = i * p->stride[0] - p->pad[0], left = j0 * p->stride[1] - p->pad[1];
    piece q = {.j0 = j0, .j1 = clip_i64(j0 + (PIECE - p->kw) / p->stride[1] + 1, 0, p->ow)};
    q.x0 = clip_i64(left, 0, p->w);
    q.x1 = clip_i64(left + (q.j1 - 1 - j0) * p->stride[1] + p->kw, q.x0, p->w);
    q.y0 = clip_i64(top, 0, p->h);
    q.y1 = clip_i64(top + p->kh, q.y0, p->h);
    return q;
}

static bool pool2d_supports(const void *args)
{
    const tb_pool2d_args *p = args;
    return p->kw <= PIECE && p->h * p->w <= INT32_MAX;
}

/* The columns of output j's window, counted from the piece's first. */
static inline void window(const tb_pool2d_args *p, const piece *q, int64_t j, int64_t *from, int64_t *to)
{
    int64_t left = j * p->stride[1] - p->pad[1];
    *from = clip_i64(left, q->x0, q->x1) - q->x0;
    *to = clip_i64(left + p->kw, q->x0, q->x1) - q->x0;
}

/* Whether x takes the place of the best so far. */
static inline bool wins(float x, float best) { return (x > best) | ((x != x) & (best == best)); }

static void max_piece(const tb_pool2d_args *p, const piece *q, const float *plane, float *out, int32_t *index)
{
    float best[PIECE];
    int32_t at[PIECE];
    int64_t n = q->x1 - q->x0;
    for (int64_t y = q->y0; y < q->y1; y++) {
        const float *row = plane + y * p->w + q->x0;
        int32_t here = (int32_t)(y * p->w + q->x0);
        if (y == q->y0) {
            for (int64_t x = 0; x < n; x++) best[x] = row[x], at[x] = here + (int32_t)x;
            continue;
        }
        for (int64_t x = 0; x < n; x++) {
            bool better = wins(row[x], best[x]);
            best[x] = better ? row[x] : best[x];
            at[x] = better ? here + (int32_t)x : at[x];
        }
    }
    for (int64_t j = q->j0; j < q->j1; j++) {
        int64_t from, to;
        window(p, q, j, &from, &to);
        float b = -INFINITY;
        int32_t where = -1;
        for (int64_t x = from; x < to && q->y0 < q->y1; x++) {
            bool equal = best[x] == b || (best[x] != best[x] && b != b);
            if (where < 0 || best[x] > b || (best[x] != best[x] && b == b) || (equal && at[x] < where))
                b = best[x], where = at[x];
        }
        out[j] = b;
        if (index) index[j] = where;
    }
}

/* The greater of two with where it lies: the first of equals, NaN over numbers. */
VEC void keep_greater(vf *best, vi *at, vf x, vi x_at)
{
    vm stays = vf_le(x, *best), is_nan = vf_isnan(*best);
    *at = vi_select(is_nan, *at, vi_select(stays, *at, x_at));
    *best = vf_select(is_nan, *best, vf_select(stays, *best, x));
}

VEC vf greater(vf best, vf x)
{
    vm stays = vf_le(x, best);
    return vf_select(vf_isnan(best), best, vf_select(stays, best, x));
}

/* One row of outputs of windows 2x2 side by side, all inside the plane: the usual case, without a buffer. The four
 * are looked at in row-major order. `index` may be NULL. */
static void max_row_2x2(const float *top, const float *bottom, int64_t ow, int32_t w, int32_t first, float *out,
                        int32_t *index)
{
    vi lane = vf_bits(vf_load((const float *)lane_numbers)), at, one = vi_set1(1), below = vi_set1(w),
       across = vi_set1(w + 1);
    for (int64_t j = 0; j < ow; j += VL) {
        int n = ow - j < VL ? (int)(ow - j) : VL;
        vf a, b, c, d;
        vf_load_pairs(top + 2 * j, n, &a, &b);
        vf_load_pairs(bottom + 2 * j, n, &c, &d);
        if (!index) {
            vf_store_part(out + j, greater(greater(greater(a, b), c), d), n);
            continue;
        }
        at = vi_add(vi_set1(first + 2 * (int32_t)j), vi_add(lane, lane));
        vi a_at = at;
        keep_greater(&a, &at, b, vi_add(a_at, one));
        keep_greater(&a, &at, c, vi_add(a_at, below));
        keep_greater(&a, &at, d, vi_add(a_at, across));
        vf_store_part(out + j, a, n);
        vf_store_part((float *)index + j, vi_as_vf(at), n); /* bits */
    }
}

static void run_max_pool2d_2x2(const tb_pool2d_args *p)
{
    for (int64_t row = 0; row < p->planes * p->oh; row++) {
        int64_t y = row % p->oh * 2;
        const float *top = (const float *)p->in + (row / p->oh * p->h + y) * p->w;
        max_row_2x2(top, top + p->w, p->ow, (int32_t)p->w, (int32_t)(y * p->w), (float *)p->out + row * p->ow,
                    p->index ? (int32_t *)p->index + row * p->ow : NULL);
    }
}

static void average_piece(const tb_pool2d_args *p, const piece *q, const float *plane, float *out)
{
    float sum[PIECE];
    int64_t n = q->x1 - q->x0;
    for (int64_t x = 0; x < n; x++) sum[x] = 0.0f;
    for (int64_t y = q->y0; y < q->y1; y++)
        for (int64_t x = 0; x < n; x++) sum[x] += plane[y * p->w + q->x0 + x];
    for (int64_t j = q->j0; j < q->j1; j++) {
        int64_t from, to;
        window(p, q, j, &from, &to);
        float s = 0.0f;
        for (int64_t x = from; x < to; x++) s += sum[x];
        out[j] = s / (float)(p->count_pad ? p->kh * p->kw : (q->y1 - q->y0) * (to - from));
    }
}

static void run_max_pool2d(const void *args)
{
    const tb_pool2d_args *p = args;
    if (p->kh == 2 && p->kw == 2 && p->stride[0] == 2 && p->stride[1] == 2 && p->pad[0] == 0 && p->pad[1] == 0) {
        run_max_pool2d_2x2(p);
        return;
    }
    for (int64_t row = 0; row < p->planes * p->oh; row++) {
        const float *plane = (const float *)p->in + row / p->oh * p->h * p->w;
        int32_t *index = p->index ? (int32_t *)p->index + row * p->ow : NULL;
        for (int64_t j = 0; j < p->ow;) {
            piece q = piece_of(p, row % p->oh, j);
            max_piece(p, &q, plane, (float *)p->out + row * p->ow, index);
            j = q.j1;
        }
    }
}

static void run_avg_pool2d(const void *args)
{
    const tb_pool2d_args *p = args;
    for (int64_t row = 0; row < p->planes * p->oh; row++) {
        const float *plane = (const float *)p->in + row / p->oh * p->h * p->w;
        for (int64_t j = 0; j < p->ow;) {
            piece q = piece_of(p, row % p->oh, j);
            average_piece(p, &q, plane, (float *)p->out + row * p->ow);
            j = q.j1;
        }
    }
}

/* Each plane's gradients in row-major order of the outputs. */
static void run_max_pool2d_grad(const void *args)
{
    const tb_pool2d_args *p = args;
    int64_t size = p->h * p->w, outputs = p->oh * p->ow;
    memset(p->out, 0, (size_t)(p->planes * size) * sizeof(float));
    for (int64_t plane = 0; plane < p->planes; plane++) {
        const float *g = (const float *)p->in + plane * outputs;
        const int32_t *index = (const int32_t *)p->index + plane * outputs;
        float *dx = (float *)p->out + plane * size;
        for (int64_t i = 0; i < outputs; i++)
            if (index[i] >= 0) dx[index[i]] += g[i];
    }
}

static void run_avg_pool2d_grad(const void *args)
{
    const tb_pool2d_args *p = args;
    int64_t size = p->h * p->w;
    memset(p->out, 0, (size_t)(p->planes * size) * sizeof(float));
    for (int64_t row = 0; row < p->planes * p->oh; row++) {
        const float *g = (const float *)p->in + row * p->ow;
        float *dx = (float *)p->out + row / p->oh * size;
        for (int64_t j = 0; j < p->ow; j++) {
            piece q = piece_of(p, row % p->oh, j);
            int64_t from, to;
            window(p, &q, j, &from, &to);
            float each = g[j] / (float)(p->count_pad ? p->kh * p->kw : (q.y1 - q.y0) * (to - from));
            for (int64_t y = q.y0; y < q.y1; y++)
                for (int64_t x = q.x0 + from; x < q.x0 + to; x++) dx[y * p->w + x] += each;
        }
    }
}

#define POOL2D_KERNEL(op, isa_, isa_name)                                                                             \
    {                                                                                                                 \
        .name = #op "_f32_" isa_name, .primitive = #op, .dtype = TB_F32, .isa = isa_, .supports = pool2d_supports,    \
        .run = run_##op                                                                                               \
    }
