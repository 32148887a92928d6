/* Layer norm over rows (Ba, Kiros, Hinton 2016), mean and variance in two passes over the row in L1.
 *
 *   layer_norm        out = (x - mean) rstd gamma + beta, rstd = 1 / sqrt(var + eps); gamma, beta [n] or NULL;
 *                     extra[0] = mean, extra[1] = rstd, f32[rows], each may be NULL
 *   layer_norm_grad   in = g, in2 = x, extra_in[0] = mean, extra_in[1] = rstd, gamma or NULL; with h = g gamma and
 *                     xn = (x - mean) rstd:  out = rstd (h - mean(h) - xn mean(h xn))
 *   layer_norm_param_grad   the same inputs, no out: extra[0] = sum over these rows of g xn, extra[1] = of g, f32[n],
 *                     each may be NULL; rows ascending from +0: a block of a sum over the batch */
#pragma once
#include "lanes.h"
#include "tb_kernel.h"

VEC vf column_or(const void *column, int64_t i, int64_t left, float fill)
{
    return column ? vf_load_part((const float *)column + i, left) : vf_set1(fill);
}

static void run_layer_norm(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        float *y = (float *)p->out + r * p->out_stride, mean = row_sum(x, p->n) / (float)p->n;
        lanes s = lanes_set1(0.0f);
        FOR_LANES(i, q, left, p->n) {
            vf d = vf_sub(load_filled(x + i, left, mean), vf_set1(mean));
            s.v[q] = vf_fma(d, d, s.v[q]);
        }
        float rstd = 1.0f / first_of(vf_sqrt(vf_set1(lanes_sum(s) / (float)p->n + (float)p->eps)));
        for (int64_t i = 0; i < p->n; i += VL) {
            int64_t left = p->n - i;
            vf xn = vf_mul(vf_sub(vf_load_part(x + i, left), vf_set1(mean)), vf_set1(rstd));
            vf_store_part(y + i, vf_fma(xn, column_or(p->gamma, i, left, 1.0f), column_or(p->beta, i, left, 0.0f)),
                          left);
        }
        if (p->extra[0]) ((float *)p->extra[0])[r] = mean;
        if (p->extra[1]) ((float *)p->extra[1])[r] = rstd;
    }
}

static void run_layer_norm_grad(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *g = (const float *)p->in + r * p->in_stride, *x = (const float *)p->in2 + r * p->in2_stride;
        float *dx = (float *)p->out + r * p->out_stride, mean = ((const float *)p->extra_in[0])[r];
        vf rstd = vf_set1(((const float *)p->extra_in[1])[r]);
        lanes sum_h = lanes_set1(0.0f), sum_hx = sum_h;
        FOR_LANES(i, q, left, p->n) {
            vf h = vf_mul(load_filled(g + i, left, 0.0f), column_or(p->gamma, i, left, 1.0f));
            vf xn = vf_mul(vf_sub(load_filled(x + i, left, mean), vf_set1(mean)), rstd);
            sum_h.v[q] = vf_add(sum_h.v[q], h);
            sum_hx.v[q] = vf_fma(h, xn, sum_hx.v[q]);
        }
        vf mean_h = vf_set1(lanes_sum(sum_h) / (float)p->n), mean_hx = vf_set1(lanes_sum(sum_hx) / (float)p->n);
        for (int64_t i = 0; i < p->n; i += VL) {
            int64_t left = p->n - i;
            vf h = vf_mul(vf_load_part(g + i, left), column_or(p->gamma, i, left, 1.0f));
            vf xn = vf_mul(vf_sub(vf_load_part(x + i, left), vf_set1(mean)), rstd);
            vf_store_part(dx + i, vf_mul(rstd, vf_fnma(xn, mean_hx, vf_sub(h, mean_h))), left);
        }
    }
}

static void run_layer_norm_param_grad(const void *args)
{
    const tb_row_args *p = args;
    const float *mean = p->extra_in[0], *rstd = p->extra_in[1];
    float *dgamma = p->extra[0], *dbeta = p->extra[1];
    enum { VECTORS = 4 };
    for (int64_t j = 0; j < p->n; j += VECTORS * VL) {
        vf sum_gx[VECTORS], sum_g[VECTORS];
        for (int v = 0; v < VECTORS; v++) sum_gx[v] = sum_g[v] = vf_zero();
        for (int64_t r = 0; r < p->rows; r++) {
            const float *g = (const float *)p->in + r * p->in_stride + j;
            const float *x = (const float *)p->in2 + r * p->in2_stride + j;
            vf m = vf_set1(mean[r]), s = vf_set1(rstd[r]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                int64_t left = p->n - j - v * VL;
                if (left <= 0) continue;
                vf gi = vf_load_part(g + v * VL, left);
                vf xn = vf_mul(vf_sub(vf_load_part(x + v * VL, left), m), s);
                sum_gx[v] = vf_fma(gi, xn, sum_gx[v]);
                sum_g[v] = vf_add(sum_g[v], gi);
            }
        }
        for (int v = 0; v < VECTORS; v++) {
            int64_t left = p->n - j - v * VL;
            if (dgamma && left > 0) vf_store_part(dgamma + j + v * VL, sum_gx[v], left);
            if (dbeta && left > 0) vf_store_part(dbeta + j + v * VL, sum_g[v], left);
        }
    }
}
