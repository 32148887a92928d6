/* Sums and maxima of rows, and the sum over rows.
 *
 *   row_sum, row_max   out[r * out_stride] = sum / max of row r; NaN in a row gives NaN. An empty row gives 0 / -inf.
 *   column_sum         out[j] = sum over rows of in[r][j], rows ascending, from +0: a block of a sum over the batch;
 *                      the caller adds the blocks as a tree. */
#pragma once
#include "lanes.h"
#include "tb_kernel.h"

static void run_row_sum(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++)
        ((float *)p->out)[r * p->out_stride] = row_sum((const float *)p->in + r * p->in_stride, p->n);
}

static void run_row_max(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        lanes m = lanes_set1(-INFINITY), nan = lanes_set1(0.0f); /* the maximum skips NaN; it is kept here */
        FOR_LANES(i, q, left, p->n) {
            vf v = load_filled(x + i, left, -INFINITY);
            m.v[q] = vf_max(v, m.v[q]);
            nan.v[q] = vf_select(vf_isnan(v), v, nan.v[q]);
        }
        float bad = lanes_sum(nan);
        ((float *)p->out)[r * p->out_stride] = isnan(bad) ? bad : lanes_max(m);
    }
}

enum { COLUMN_VECTORS = 4 };

static void run_column_sum(const void *args)
{
    const tb_row_args *p = args;
    float *out = p->out;
    int64_t j = 0;
    for (; j + COLUMN_VECTORS * VL <= p->n; j += COLUMN_VECTORS * VL) {
        vf sum[COLUMN_VECTORS];
        const float *x = (const float *)p->in + j;
        for (int v = 0; v < COLUMN_VECTORS; v++) sum[v] = vf_zero();
        for (int64_t r = 0; r < p->rows; r++, x += p->in_stride)
            for (int v = 0; v < COLUMN_VECTORS; v++) sum[v] = vf_add(sum[v], vf_load(x + v * VL));
        for (int v = 0; v < COLUMN_VECTORS; v++) vf_store(out + j + v * VL, sum[v]);
    }
    for (; j < p->n; j += VL) {
        vf sum = vf_zero();
        const float *x = (const float *)p->in + j;
        for (int64_t r = 0; r < p->rows; r++, x += p->in_stride) sum = vf_add(sum, vf_load_part(x, p->n - j));
        vf_store_part(out + j, sum, p->n - j);
    }
}
