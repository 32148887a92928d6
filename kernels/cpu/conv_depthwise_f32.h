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

enum { ROW_VECTORS = 4 };

/* Outputs of one row, from the frame's channels; offset[k] is where tap k = (channel, kh, kw) of the first is. */
static void depthwise_row(const conv_work *c, const float *weight, const float *src, float *out, float bias)
{
    const conv_problem *p = c->p;
    const frame *f = &p->f;
    for (int64_t j = 0; j < f->out_w; j += ROW_VECTORS * VL) {
        vf acc[ROW_VECTORS];
        int64_t vectors = min_i64(div_up(f->out_w - j, VL), ROW_VECTORS);
        const float *w = weight;
        for (int v = 0; v < ROW_VECTORS; v++) acc[v] = vf_zero();
        for (int64_t channel = 0; channel < f->channels; channel++)
            for (int64_t kh = 0; kh < f->kh; kh++)
                for (int64_t kw = 0; kw < f->kw; kw++) {
                    const float *at = src + channel * f->plane + frame_tap(f, kh, kw) + j;
                    vf tap = vf_set1(*w++);
                    if (vectors == ROW_VECTORS) {
#pragma GCC unroll 4
                        for (int v = 0; v < ROW_VECTORS; v++) acc[v] = vf_fma(tap, vf_load(at + v * VL), acc[v]);
                    } else {
                        for (int v = 0; v < vectors; v++) acc[v] = vf_fma(tap, vf_load(at + v * VL), acc[v]);
                    }
                }
        float finished[ROW_VECTORS * VL];
        for (int v = 0; v < ROW_VECTORS; v++) vf_store(finished + v * VL, acc[v]);
        epilogue_row(finished, out + j, (int)min_i64(f->out_w - j, ROW_VECTORS * VL), p->accumulate,
                     c->bias ? &bias : NULL, 0, conv_residual(p, out + j), p->act);
    }
}

static void depthwise_images(void *arg, int64_t begin, int64_t end, int thread)
{
    conv_problem *p = arg;
    const frame *f = &p->f;
    float *scratch = (float *)p->a->scratch + thread * frame_floats(f, f->channels);
    conv_work c = {.p = p, .bias = p->bias};
    for (int64_t at = begin; at < end; at++) {
        int64_t group = at % p->a->groups;
        const float *origin = frame_fill(f, scratch, p->image + at * f->channels * f->in_h * f->in_w, 0, f->channels);
        for (int64_t i = 0; i < p->m * f->out_h; i++) {
            int64_t channel = i / f->out_h, y = i % f->out_h;
            depthwise_row(&c, p->weight + (group * p->m + channel) * p->k, origin + y * f->step_h * f->row,
                          p->out + (at * p->m * f->out_h + i) * f->out_w, p->bias ? p->bias[group * p->m + channel] : 0.0f);
        }
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
