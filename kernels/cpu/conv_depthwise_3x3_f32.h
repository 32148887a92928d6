/* Depthwise convolutions of 3x3 with neighbouring taps and pixels, f32, from the image as it lies: a row of the image
 * is loaded once for the three rows of outputs that it meets, and masks leave out what is beside it. A frame, copied
 * for each channel, took longer than the sums. Masked loads start no prefetching, so the next channel's rows are asked
 * for here: that halved the time of images that come from memory.
 *
 * Order: conv2d's. Rows of the image come in the order of kh for every row of outputs: from the last one if the taps
 * are flipped. */
#pragma once
#include "conv_f32.h"

typedef struct depthwise_3x3_plane {
    const conv_problem *p;
    const float *image, *weight, *bias; /* of one channel; bias: or NULL */
    float *out;
} depthwise_3x3_plane;

/* A finished vector, of which `cols` outputs are wanted. */
VEC void depthwise_3x3_store(const depthwise_3x3_plane *t, vf sum, float *out, int64_t cols)
{
    const conv_problem *p = t->p;
    if (p->accumulate || p->a->residual || p->act > TB_ACT_RELU) {
        float sums[VL];
        vf_store(sums, sum);
        epilogue_row(sums, out, (int)min_i64(cols, VL), p->accumulate, t->bias, 0, conv_residual(p, out), p->act);
        return;
    }
    if (t->bias) sum = vf_add(sum, vf_set1(*t->bias));
    vf_store_part(out, p->act == TB_ACT_RELU ? vf_relu(sum) : sum, cols);
}

/* All rows of outputs, columns from `first` on, `vectors` wide at most. */
VEC void depthwise_3x3_strip(const int vectors, const depthwise_3x3_plane *t, int64_t first)
{
    enum { ROWS = DEPTHWISE_3X3_ROWS };
    const frame *f = &t->p->f;
    const int64_t down = f->flipped ? -1 : 1, in_h = f->in_h, in_w = f->in_w, out_h = f->out_h, out_w = f->out_w;
    vf weight[9];
    vm inside[DEPTHWISE_3X3_VECTORS][3];
    const float *at[3];
#pragma GCC unroll 9
    for (int q = 0; q < 9; q++) weight[q] = vf_set1(t->weight[q]);
#pragma GCC unroll 3
    for (int q = 0; q < 3; q++) {
        int64_t x = first - f->left + (f->flipped ? 2 - q : q);
        at[q] = t->image + x;
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++, x += VL)
            inside[v][q] = vm_between((int)clip_i64(-x, 0, VL), (int)clip_i64(in_w - x, 0, VL));
    }
    for (int64_t done = 0; done < out_h; done += ROWS) {
        int64_t top = f->flipped ? out_h - 1 - done : done, y = top - f->top + (f->flipped ? 2 : 0);
        vf acc[ROWS][DEPTHWISE_3X3_VECTORS], x[DEPTHWISE_3X3_VECTORS][3];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) acc[r][v] = vf_zero();
#pragma GCC unroll 6
        for (int s = 0; s < ROWS + 2; s++, y += down) { /* a row of the image: tap row s - r of row r of the outputs */
            if (y < 0 || y >= in_h) continue;
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) __builtin_prefetch(at[1] + (in_h + y) * in_w + v * VL);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
#pragma GCC unroll 3
                for (int q = 0; q < 3; q++) x[v][q] = vf_load_if(inside[v][q], at[q] + y * in_w + v * VL);
#pragma GCC unroll 3
            for (int q = 0; q < 3; q++)
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; v++)
                        if (r <= s && s <= r + 2) acc[r][v] = vf_fma(weight[(s - r) * 3 + q], x[v][q], acc[r][v]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            if (done + r == out_h) break;
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                depthwise_3x3_store(t, acc[r][v], t->out + (top + down * r) * out_w + first + v * VL,
                                    out_w - first - v * VL);
        }
    }
}

static void depthwise_3x3_channel(const depthwise_3x3_plane *t)
{
    int64_t first = 0, out_w = t->p->f.out_w;
    for (; out_w - first > VL; first += DEPTHWISE_3X3_VECTORS * VL)
        depthwise_3x3_strip(DEPTHWISE_3X3_VECTORS, t, first);
    if (first < out_w) depthwise_3x3_strip(1, t, first);
}

/* Channels [begin, end) of all images' outputs. */
static void depthwise_3x3_channels(void *arg, int64_t begin, int64_t end, int thread)
{
    const conv_problem *p = arg;
    const frame *f = &p->f;
    (void)thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t channel = at % (p->a->groups * p->m);
        depthwise_3x3_channel(&(depthwise_3x3_plane){.p = p,
                                                     .image = p->image + at / p->m * f->in_h * f->in_w,
                                                     .weight = p->weight + channel * 9,
                                                     .bias = p->bias ? p->bias + channel : NULL,
                                                     .out = p->out + at * f->out_h * f->out_w});
    }
}

static void depthwise_3x3_run(conv_problem *p)
{
    tb_pool_run(p->a->pool, p->a->n * p->a->groups * p->m, depthwise_3x3_channels, p);
}

static bool conv2d_depthwise_3x3_supports(const void *args)
{
    const tb_conv_args *a = args;
    return a->groups == a->c && a->kh == 3 && a->kw == 3 && a->stride[0] == 1 && a->stride[1] == 1 &&
           a->dilation[0] == 1 && a->dilation[1] == 1;
}
static bool conv2d_input_grad_depthwise_3x3_supports(const void *args)
{
    return conv2d_depthwise_3x3_supports(args) && ((const tb_conv_args *)args)->o == ((const tb_conv_args *)args)->c;
}
static void run_conv2d_depthwise_3x3(const void *args)
{
    conv_problem p = conv_forward(args);
    depthwise_3x3_run(&p);
}
static void run_conv2d_input_grad_depthwise_3x3(const void *args)
{
    conv_problem p = conv_input_grad(args);
    depthwise_3x3_run(&p);
}

#define DEPTHWISE_3X3_KERNEL(op)                                                                                       \
    {                                                                                                                  \
        .name = #op "_depthwise_3x3_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA,             \
        .priority = 3, .supports = op##_depthwise_3x3_supports, .run = run_##op##_depthwise_3x3                        \
    }
