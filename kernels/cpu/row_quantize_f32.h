/* Quantization of rows by their own range, and the way back of products of such rows:
 *
 *   row_quantize_u8   u8 around the zero point 128, one step a row
 *   row_rescale       integer sums times their row's step, then bias, residual, activation
 *
 * The largest magnitude needs no rounding and everything after it is one product, one rounding and exact steps, so the
 * integers are the same on every ISA. */
#pragma once
#include "gemm_epilogue.h"
#include "lanes.h"

VEC float row_max_abs(const float *x, int64_t n)
{
    lanes m = lanes_set1(0.0f);
    FOR_LANES(i, q, left, n) m.v[q] = vf_max(vf_abs(load_filled(x + i, left, 0.0f)), m.v[q]); /* NaN is passed over */
    return lanes_max(m);
}

VEC vi row_quantized(vf x, vf inverse)
{
    vf q = vf_add(vf_round(vf_mul(x, inverse)), vf_set1(128.0f));
    return vf_to_vi(vf_min(vf_max(q, vf_set1(1.0f)), vf_set1(255.0f)));
}

static void run_row_quantize_u8(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride;
        uint8_t *y = (uint8_t *)p->out + r * p->out_stride;
        float most = row_max_abs(x, p->n);
        bool is_zero = most < 0x1p-100f;
        vf inverse = vf_set1(is_zero ? 0.0f : 127.0f / most);
        ((float *)p->extra[0])[r] = is_zero ? 0.0f : most / 127.0f;
        int64_t i = 0;
        for (; i + VL <= p->n; i += VL) vi_store_u8(y + i, row_quantized(vf_load(x + i), inverse));
        if (i < p->n) {
            uint8_t last[VL];
            vi_store_u8(last, row_quantized(vf_load_part(x + i, p->n - i), inverse));
            __builtin_memcpy(y + i, last, (size_t)(p->n - i));
        }
    }
}

static void run_row_rescale(const void *args)
{
    const tb_row_args *p = args;
    for (int64_t r = 0; r < p->rows; r++) {
        const float *x = (const float *)p->in + r * p->in_stride, *bias = p->beta;
        const float *residual = p->in2 ? (const float *)p->in2 + r * p->in2_stride : NULL;
        float *y = (float *)p->out + r * p->out_stride;
        vf step = vf_set1(((const float *)p->extra_in[0])[r]);
        for (int64_t i = 0; i < p->n; i += VL) {
            int64_t left = p->n - i;
            vf v = vf_mul(vf_load_part(x + i, left), step);
            if (bias) v = vf_add(v, vf_load_part(bias + i, left));
            if (residual) v = vf_add(v, vf_load_part(residual + i, left));
            vf_store_part(y + i, epilogue_act(v, p->act), left);
        }
    }
}
