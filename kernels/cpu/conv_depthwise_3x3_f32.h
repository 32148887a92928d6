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

/* Sums of a vector, `cols` of whose outputs are wanted, where more than a bias and relu is to come. */
static __attribute__((noinline)) void depthwise_3x3_finish(const depthwise_3x3_plane *t, const float *sums, float *out,
                                                           int cols)
{
    const conv_problem *p = t->p;
    epilogue_row(sums, out, cols, p->accumulate, t->bias, 0, conv_residual(p, out), p->act);
}

/* All rows of outputs, columns from `first` on, `vectors` wide at most. Taps ascend, so places in a row of the image
 * descend where they are flipped; vectors that touch give each other's places, the strip's ends are loaded. */
VEC void depthwise_3x3_strip(const int vectors, const bool flipped, const depthwise_3x3_plane *t, int64_t first)
{
    enum { ROWS = DEPTHWISE_3X3_ROWS };
    const conv_problem *p = t->p;
    const frame *f = &p->f;
    const int64_t pixels = f->in_h * f->in_w, out_h = f->out_h, out_w = f->out_w;
    const int64_t down = flipped ? -f->in_w : f->in_w, out_down = flipped ? -out_w : out_w;
    const int last_cols = (int)min_i64(out_w - first - (vectors - 1) * VL, VL);
    const bool is_simple = !p->accumulate && !p->a->residual && p->act <= TB_ACT_RELU, has_bias = t->bias != NULL,
               has_relu = p->act == TB_ACT_RELU;
    const vf bias = has_bias ? vf_set1(*t->bias) : vf_zero();
    vf weight[9];
    vm inside[DEPTHWISE_3X3_VECTORS][3]; /* the image; used where a place is loaded */
    const float *image = t->image + first - f->left;
#pragma GCC unroll 9
    for (int q = 0; q < 9; q++) weight[q] = vf_set1(t->weight[q]);
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
#pragma GCC unroll 3
        for (int place = 0; place < 3; place++) {
            int64_t from = first - f->left + v * VL + place;
            inside[v][place] = vm_between((int)clip_i64(-from, 0, VL), (int)clip_i64(f->in_w - from, 0, VL));
        }
    /* the image's row that the group's first tap is in, and the group's first outputs */
    int64_t group = (flipped ? out_h + 1 - f->top : -f->top) * f->in_w;
    float *out = t->out + (flipped ? (out_h - 1) * out_w : 0) + first;
    for (int64_t left = out_h; left > 0; left -= ROWS, group += ROWS * down) {
        vf acc[ROWS][DEPTHWISE_3X3_VECTORS], x[DEPTHWISE_3X3_VECTORS][3];
        int64_t row = group;
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) acc[r][v] = vf_zero();
#pragma GCC unroll 6
        for (int s = 0; s < ROWS + 2; s++, row += down) { /* of the image: tap row s - r of row r of the outputs */
            if ((uint64_t)row >= (uint64_t)pixels) continue;
            const float *from = image + row;
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) {
                __builtin_prefetch(from + pixels + 1 + v * VL);
                x[v][1] = vf_load_if(inside[v][1], from + 1 + v * VL);
            }
            x[0][0] = vf_load_if(inside[0][0], from);
            x[vectors - 1][2] = vf_load_if(inside[vectors - 1][2], from + 2 + (vectors - 1) * VL);
#pragma GCC unroll 2
            for (int v = 1; v < vectors; v++) {
                x[v][0] = vf_behind(x[v - 1][1], x[v][1]);
                x[v - 1][2] = vf_ahead(x[v - 1][1], x[v][1]);
            }
#pragma GCC unroll 3
            for (int q = 0; q < 3; q++)
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; v++)
                        if (r <= s && s <= r + 2)
                            acc[r][v] = vf_fma(weight[(s - r) * 3 + q], x[v][flipped ? 2 - q : q], acc[r][v]);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++, out += out_down) {
            if (r == left) break;
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) {
                vf y = acc[r][v];
                int cols = v == vectors - 1 ? last_cols : VL;
                if (!is_simple) {
                    float sums[VL];
                    vf_store(sums, y);
                    depthwise_3x3_finish(t, sums, out + v * VL, cols);
                    continue;
                }
                if (has_bias) y = vf_add(y, bias);
                if (has_relu) y = vf_relu(y);
                if (v < vectors - 1) vf_store(out + v * VL, y);
                else vf_store_n(out + v * VL, y, cols);
            }
        }
    }
}

VEC void depthwise_3x3_strips(const bool flipped, const depthwise_3x3_plane *t)
{
    int64_t first = 0, out_w = t->p->f.out_w;
    for (; out_w - first > VL; first += DEPTHWISE_3X3_VECTORS * VL)
        depthwise_3x3_strip(DEPTHWISE_3X3_VECTORS, flipped, t, first);
    if (first < out_w) depthwise_3x3_strip(1, flipped, t, first);
}

static void depthwise_3x3_channel(const depthwise_3x3_plane *t)
{
    if (t->p->f.flipped) depthwise_3x3_strips(true, t);
    else depthwise_3x3_strips(false, t);
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
