/* Convolutions whose groups have one input channel (depthwise), f32: with so few terms a gemm tile would be empty, so
 * rows of outputs are summed straight from the frame, by vectors, in conv2d's order. The gradient for the weights goes
 * through the implicit gemm. */
#pragma once
#include "conv_f32.h"

static bool conv2d_depthwise_supports(const void *args)
{
    const tb_conv_args *a = args;
    return a->groups == a->c && a->o / a->groups < MR; /* more outputs a channel fill a tile */
}

enum { DEPTHWISE_ROWS = VL == 16 ? DEPTHWISE_ROWS_16 : DEPTHWISE_ROWS_8 };

/* `rows` rows of `vectors` vectors of outputs; `src` is where the first tap of the first one is in the frame. */
VEC void depthwise_tile(const int rows, const int vectors, const conv_problem *p, const float *weight, const float *src,
                        float *out, int64_t cols, const float *bias)
{
    const frame *f = &p->f;
    vf acc[DEPTHWISE_ROWS][DEPTHWISE_VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[r][v] = vf_zero();
    for (int64_t channel = 0; channel < f->channels; channel++)
        for (int64_t kh = 0; kh < f->kh; kh++)
            for (int64_t kw = 0; kw < f->kw; kw++) {
                const float *at = src + channel * f->plane + frame_tap(f, kh, kw);
                vf tap = vf_set1(*weight++);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++)
                        acc[r][v] = vf_fma(tap, vf_load(at + r * f->step_h * f->row + v * VL), acc[r][v]);
            }
    vf added = bias ? vf_set1(*bias) : vf_zero();
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *to = out + r * f->out_w + v * VL;
            epilogue_vector(acc[r][v], to, cols - v * VL, p->accumulate, bias, added, conv_residual(p, to), p->act);
        }
}

typedef void (*depthwise_fn)(const conv_problem *p, const float *weight, const float *src, float *out, int64_t cols,
                             const float *bias);
#define DEPTHWISE_FN(name, rows, vectors)                                                                             \
    static void name(const conv_problem *p, const float *weight, const float *src, float *out, int64_t cols,          \
                     const float *bias)                                                                               \
    {                                                                                                                 \
        depthwise_tile(rows, vectors, p, weight, src, out, cols, bias);                                               \
    }
DEPTHWISE_FN(depthwise_row_1, 1, 1)
DEPTHWISE_FN(depthwise_row_2, 1, 2)
DEPTHWISE_FN(depthwise_row_3, 1, 3)
DEPTHWISE_FN(depthwise_row_4, 1, 4)
DEPTHWISE_FN(depthwise_rows_1, DEPTHWISE_ROWS, 1)
DEPTHWISE_FN(depthwise_rows_2, DEPTHWISE_ROWS, 2)
DEPTHWISE_FN(depthwise_rows_3, DEPTHWISE_ROWS, 3)
DEPTHWISE_FN(depthwise_rows_4, DEPTHWISE_ROWS, 4)

/* All outputs of one channel. */
static void depthwise_channel(const conv_problem *p, const float *weight, const float *origin, float *out,
                              const float *bias)
{
    static const depthwise_fn fns[2][DEPTHWISE_VECTORS] = {
        {depthwise_row_1, depthwise_row_2, depthwise_row_3, depthwise_row_4},
        {depthwise_rows_1, depthwise_rows_2, depthwise_rows_3, depthwise_rows_4}};
    const frame *f = &p->f;
    for (int64_t i = 0, rows; i < f->out_h; i += rows) {
        rows = f->out_h - i >= DEPTHWISE_ROWS ? DEPTHWISE_ROWS : 1;
        for (int64_t j = 0; j < f->out_w; j += DEPTHWISE_VECTORS * VL) {
            int64_t vectors = min_i64(div_up(f->out_w - j, VL), DEPTHWISE_VECTORS);
            fns[rows > 1][vectors - 1](p, weight, origin + i * f->step_h * f->row + j, out + i * f->out_w + j,
                                       f->out_w - j, bias);
        }
    }
}

static void depthwise_images(void *arg, int64_t begin, int64_t end, int thread)
{
    conv_problem *p = arg;
    const frame *f = &p->f;
    float *scratch = (float *)p->a->scratch + thread * frame_floats(f, f->channels);
    for (int64_t at = begin; at < end; at++) {
        int64_t group = at % p->a->groups;
        const float *origin = frame_fill(f, scratch, p->image + at * f->channels * f->in_h * f->in_w, 0, f->channels);
        for (int64_t q = 0; q < p->m; q++)
            depthwise_channel(p, p->weight + (group * p->m + q) * p->k, origin,
                              p->out + (at * p->m + q) * f->out_h * f->out_w,
                              p->bias ? p->bias + group * p->m + q : NULL);
    }
}

/* The frame is always a copy here: vectors may read past a row's last output, up to the slack. */
static conv_problem depthwise(conv_problem p)
{
    p.f.plain = false;
    return p;
}

static size_t depthwise_scratch(const conv_problem *p)
{
    return (size_t)(tb_pool_threads(p->a->pool) * frame_floats(&p->f, p->f.channels)) * sizeof(float);
}
static void depthwise_run(conv_problem *p) { tb_pool_run(p->a->pool, p->a->n * p->a->groups, depthwise_images, p); }

static size_t conv2d_depthwise_scratch_bytes(const void *args)
{
    conv_problem p = depthwise(conv_forward(args));
    return depthwise_scratch(&p);
}
static void run_conv2d_depthwise(const void *args)
{
    conv_problem p = depthwise(conv_forward(args));
    depthwise_run(&p);
}
static size_t conv2d_input_grad_depthwise_scratch_bytes(const void *args)
{
    conv_problem p = depthwise(conv_input_grad(args));
    return depthwise_scratch(&p);
}
static void run_conv2d_input_grad_depthwise(const void *args)
{
    conv_problem p = depthwise(conv_input_grad(args)); /* one channel a group: swapping the weights changes nothing */
    depthwise_run(&p);
}

#define DEPTHWISE_KERNEL(op)                                                                                          \
    {                                                                                                                 \
        .name = #op "_depthwise_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .priority = 1, \
        .supports = conv2d_depthwise_supports, .run = run_##op##_depthwise,                                           \
        .scratch_bytes = op##_depthwise_scratch_bytes                                                                 \
    }
