/* Softmax over rows, its logarithm, the loss made of it, and their gradients. A row is read from memory once; the
 * further passes over it find it in L1.
 *
 *   row_softmax        out = exp(x - max) / sum exp(x - max)
 *   row_log_softmax    out = x - max - log(sum exp(x - max))
 *   softmax_grad       in = g, in2 = y (the softmax):        out = y (g - sum g y)
 *   log_softmax_grad   in = g, in2 = y (the log-softmax):    out = g - exp(y) sum g
 *   cross_entropy      extra_in[0] = labels, i64[rows]; extra[0] = loss f32[rows], 0 where label == ignore_index;
 *                      extra[1] = log(sum exp x) f32[rows]; no out. Labels must be < n or ignored.
 *   cross_entropy_grad extra_in[0] = labels, extra_in[1] = log(sum exp x); in2 = scale of a row's loss, f32, row r's
 *                      at r * in2_stride (0: one for all): out = scale (exp(x - lse) - [j == label]), 0 if ignored. */
#pragma once
#include "lanes.h"
#include "tb_kernel.h"

/* sum exp(x - max); where `out` is given it takes the terms. */
VEC float row_exp_sum(const float *x, float max, int64_t n, float *out)
{
    lanes s = lanes_set1(0.0f);
    FOR_LANES(i, q, left, n) {
        vf e = vf_exp(vf_sub(load_filled(x + i, left, -INFINITY), vf_set1(max)));
        if (out) vf_store_part(out + i, e, left);
        s.v[q] = vf_add(s.v[q], e);
    }
    return lanes_sum(s);
}

static void run_row_softmax(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        float *y = (float *)p->out + r * p->out_stride;
        vf scale = vf_set1(1.0f / row_exp_sum(x, row_max(x, p->n), p->n, y));
        for (int64_t i = 0; i < p->n; i += VL)
            vf_store_part(y + i, vf_mul(vf_load_part(y + i, p->n - i), scale), p->n - i);
    }
}

static void run_row_log_softmax(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        float *y = (float *)p->out + r * p->out_stride, max = row_max(x, p->n);
        vf log_sum = vf_set1(first_of(vf_log(vf_set1(row_exp_sum(x, max, p->n, NULL)))));
        for (int64_t i = 0; i < p->n; i += VL)
            vf_store_part(y + i, vf_sub(vf_sub(vf_load_part(x + i, p->n - i), vf_set1(max)), log_sum), p->n - i);
    }
}

static void run_softmax_grad(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *g = (const float *)p->in + r * p->in_stride, *y = (const float *)p->in2 + r * p->in2_stride;
        float *dx = (float *)p->out + r * p->out_stride;
        lanes s = lanes_set1(0.0f);
        FOR_LANES(i, q, left, p->n)
            s.v[q] = vf_fma(load_filled(g + i, left, 0.0f), load_filled(y + i, left, 0.0f), s.v[q]);
        vf sum = vf_set1(lanes_sum(s));
        for (int64_t i = 0; i < p->n; i += VL) {
            vf gi = vf_load_part(g + i, p->n - i), yi = vf_load_part(y + i, p->n - i);
            vf_store_part(dx + i, vf_mul(yi, vf_sub(gi, sum)), p->n - i);
        }
    }
}

static void run_log_softmax_grad(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *g = (const float *)p->in + r * p->in_stride, *y = (const float *)p->in2 + r * p->in2_stride;
        float *dx = (float *)p->out + r * p->out_stride;
        vf sum = vf_set1(row_sum(g, p->n));
        for (int64_t i = 0; i < p->n; i += VL) {
            vf gi = vf_load_part(g + i, p->n - i), yi = vf_load_part(y + i, p->n - i);
            vf_store_part(dx + i, vf_fnma(vf_exp(yi), sum, gi), p->n - i);
        }
    }
}

static void run_cross_entropy(const void *args)
{
    const tb_row_args *p = args;
    const int64_t *labels = p->extra_in[0];
    float *loss = p->extra[0], *lse = p->extra[1];
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        float max = row_max(x, p->n), log_sum = first_of(vf_log(vf_set1(row_exp_sum(x, max, p->n, NULL))));
        lse[r] = max + log_sum;
        loss[r] = labels[r] == p->ignore_index ? 0.0f : log_sum - (x[labels[r]] - max);
    }
}

static void run_cross_entropy_grad(const void *args)
{
    const tb_row_args *p = args;
    const int64_t *labels = p->extra_in[0];
    const float *lse = p->extra_in[1], *scales = p->in2;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        float *dx = (float *)p->out + r * p->out_stride, scale = scales[r * p->in2_stride];
        bool ignored = labels[r] == p->ignore_index;
        for (int64_t i = 0; i < p->n; i += VL) {
            vf e = vf_exp(vf_sub(vf_load_part(x + i, p->n - i), vf_set1(lse[r])));
            vf_store_part(dx + i, ignored ? vf_zero() : vf_mul(e, vf_set1(scale)), p->n - i);
        }
        if (!ignored) dx[labels[r]] -= scale;
    }
}
