/* conv2d f32 and its gradient for the input, directly: a register tile is neighbouring outputs of one row times output
 * channels, one vector of them where there are no more. Pixels are broadcast from the frame where they lie (those of
 * neighbouring outputs are neighbours there), the weights of NR channels fill the vectors: the width of an image wastes
 * no lanes. An image is cut into bands of output rows, whose frames stay in L2 beside the weights. Weights are packed,
 * [group][panel][k][NR]; those of a layer that stays as it is are packed once (.pack).
 *
 * Not for 1x1 without a stride: there a tile's pixels would be read where they lie, in as many pages as there are
 * channels (conv_1x1_f32.h).
 *
 * Order: conv2d's, a chain over ascending (channel, kh, kw) in one pass. Rows of taps that lie above or below the image
 * are left out. */
#pragma once
#include "conv_f32.h"

/* One tile; also what its function finishes it with. */
typedef struct direct_tile {
    const float *pixel, *weight;      /* channel 0, tap 0 of the first output in the frame; the first used tap */
    int64_t plane, channels;          /* of the frame */
    const int64_t *taps;              /* the used ones of a channel: from its plane */
    int64_t n_taps, skipped;          /* used, unused taps of a channel */
    float *out;                       /* the first output of the first channel, channels out_plane apart */
    int64_t out_plane, filters;       /* channels of the result */
    const float *bias;
    const conv_problem *p;
} direct_tile;

/* n <= VL rows of sums, `width` apart, of the channels of one vector, `filters` of which exist -> channels. */
static __attribute__((noinline)) void direct_store(const direct_tile *t, const float *sums, int width, int n,
                                                   const float *bias, int filters, float *out)
{
    const float *residual = conv_residual(t->p, out), *added = t->p->accumulate ? out : residual; /* never both */
    vf r[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) r[i] = i < n ? vf_load(sums + i * width) : vf_zero();
    if (bias) {
        vf each = vf_load_n(bias, filters);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) r[i] = vf_add(r[i], each);
    }
    vf_transpose(r);
    if (added)
#pragma GCC unroll 16
        for (int o = 0; o < VL && o < filters; o++) r[o] = vf_add(r[o], vf_load_n(added + o * t->out_plane, n));
    if (t->p->act == TB_ACT_RELU)
#pragma GCC unroll 16
        for (int o = 0; o < VL; o++) r[o] = vf_relu(r[o]);
    else if (t->p->act != TB_ACT_NONE)
        for (int o = 0; o < filters; o++) r[o] = epilogue_act(r[o], t->p->act);
#pragma GCC unroll 16
    for (int o = 0; o < VL && o < filters; o++) vf_store_n(out + o * t->out_plane, r[o], n);
}

/* sums[output][vectors * VL] -> channels of `pixels` outputs */
static __attribute__((noinline)) void direct_finish(const direct_tile *t, const float *sums, int pixels, int vectors)
{
    for (int o = 0; o < vectors * VL; o += VL)
        for (int i = 0; i < pixels; i += VL)
            direct_store(t, sums + i * vectors * VL + o, vectors * VL, (int)min_i64(pixels - i, VL),
                         t->bias ? t->bias + o : NULL, (int)min_i64(t->filters - o, VL), t->out + o * t->out_plane + i);
}

/* `run` taps, neighbours in a row, are taken together: a pixel is broadcast once for all outputs that see it. Each of
 * them still meets its taps in ascending order. */
VEC void direct_outputs(const int pixels, const int vectors, const int run, const direct_tile *t)
{
    _Alignas(64) float sums[MR * NR];
    vf acc[MR * NV][NV];
    const float *w = t->weight;
    /* what does not lie in a cache is fetched while the sums grow: stores to as many planes would wait for it */
    for (int64_t o = 0; o < t->filters; o++) __builtin_prefetch(t->out + o * t->out_plane + pixels - 1, 1);
#pragma GCC unroll 32
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = vf_zero();
    for (int64_t channel = 0; channel < t->channels; channel++, w += t->skipped * NR)
        for (int64_t q = 0; q < t->n_taps; q += run, w += run * NR) {
            const float *x = t->pixel + channel * t->plane + t->taps[q];
            vf held[3][NV];
#pragma GCC unroll 4
            for (int s = 0; s < run; s++)
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) {
                    __builtin_prefetch(w + (s + PREFETCH_K) * NR + v * VL);
                    held[s][v] = vf_load(w + s * NR + v * VL);
                }
#pragma GCC unroll 32
            for (int at = 0; at < pixels + run - 1; at++) {
                vf one = vf_set1(x[at]);
#pragma GCC unroll 4
                for (int s = 0; s < run; s++)
#pragma GCC unroll 4
                    for (int v = 0; v < vectors; v++)
                        if (s <= at && at - s < pixels) acc[at - s][v] = vf_fma(one, held[s][v], acc[at - s][v]);
            }
        }
#pragma GCC unroll 32
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) vf_store(sums + (i * vectors + v) * VL, acc[i][v]);
    direct_finish(t, sums, pixels, vectors);
}

typedef void (*direct_fn)(const direct_tile *);
#define DIRECT_FN(pixels, vectors, run)                                                                               \
    static void direct_##pixels##_##vectors##_##run(const direct_tile *t)                                             \
    {                                                                                                                 \
        if (pixels * vectors <= MR * NV) direct_outputs(pixels * vectors <= MR * NV ? pixels : 1, vectors, run, t);   \
    }
#define DIRECT_ENTRY(pixels, vectors, run) direct_##pixels##_##vectors##_##run,
#define TO_14(f, v, r)                                                                                                \
    f(1, v, r) f(2, v, r) f(3, v, r) f(4, v, r) f(5, v, r) f(6, v, r) f(7, v, r) f(8, v, r) f(9, v, r) f(10, v, r)    \
    f(11, v, r) f(12, v, r) f(13, v, r) f(14, v, r)
#define TO_28(f, v, r)                                                                                                \
    TO_14(f, v, r) f(15, v, r) f(16, v, r) f(17, v, r) f(18, v, r) f(19, v, r) f(20, v, r) f(21, v, r) f(22, v, r)    \
    f(23, v, r) f(24, v, r) f(25, v, r) f(26, v, r) f(27, v, r) f(28, v, r)
TO_28(DIRECT_FN, 1, 1) TO_28(DIRECT_FN, 1, 3) TO_14(DIRECT_FN, 2, 1)
static const direct_fn direct_row_fns[28] = {TO_28(DIRECT_ENTRY, 1, 3)}; /* three taps in a row, one vector */
static const direct_fn direct_fns[2][28] = {{TO_28(DIRECT_ENTRY, 1, 1)}, {TO_14(DIRECT_ENTRY, 2, 1)}};
_Static_assert(NV == 2 && MR <= 14, "the tiles above");

/* Three taps of a row that are neighbours in the frame, in ascending order. */
static bool has_runs(const frame *f) { return f->kw == 3 && f->dilation_w == 1 && f->phases == 1 && !f->flipped; }

/* Outputs of a row that a tile has room for, of a panel with so many filters. */
static int64_t direct_width(int64_t filters) { return filters > VL ? MR : MR * NV; }

typedef struct direct_conv {
    conv_problem p;
    const float *weight;                             /* packed */
    int64_t panels, bands;
    int64_t weight_floats, tap_floats, image_floats; /* of scratch: if they are to be packed; a thread's */
} direct_conv;

/* The frame of band `at`; *y is its first output row. */
static frame band_frame(const direct_conv *d, int64_t at, int64_t *y)
{
    frame f = d->p.f;
    *y = at * f.out_h / d->bands;
    f.top -= *y * f.step_h;
    f.out_h = (at + 1) * f.out_h / d->bands - *y;
    frame_layout(&f);
    return f;
}

static direct_conv direct(conv_problem p)
{
    frame *f = &p.f;
    direct_conv d = {.p = p, .panels = div_up(p.m, NR)};
    int64_t threads = tb_pool_threads(p.a->pool), images = max_i64(p.a->n * p.a->groups, 1);
    d.bands = div_up(f->channels * f->plane, BAND_FLOATS);
    if (images % threads != 0 && images < 4 * threads) d.bands = round_up(max_i64(d.bands, 1), threads);
    d.bands = clip_i64(d.bands, 1, max_i64(f->out_h, 1));
    d.weight_floats = p.a->groups * d.panels * p.k * NR;
    d.tap_floats = round_up(f->kh * f->kw * (int64_t)(sizeof(int64_t) / sizeof(float)), 16);
    frame most = *f; /* bands differ by a row */
    most.out_h = div_up(f->out_h, d.bands);
    frame_layout(&most);
    d.image_floats = frame_floats(&most, most.channels);
    return d;
}

/* Channels that fill their vectors, rows of outputs that fill enough of a tile to hide the latency of its sums. */
static bool direct_supports(int64_t m, int64_t width)
{
    int64_t vectors = div_up(m, VL), row_tiles = div_up(width, direct_width(m));
    return width > 0 && 4 * m >= 3 * vectors * VL && div_up(width, row_tiles) * min_i64(vectors, NV) >= LATENCY_CHAINS;
}
static bool conv2d_direct_supports(const void *args)
{
    const tb_conv_args *a = args;
    return a->kh * a->kw * a->stride[0] * a->stride[1] > 1 && direct_supports(a->o / a->groups, a->ow);
}
static bool conv2d_input_grad_direct_supports(const void *args)
{
    const tb_conv_args *a = args;
    return a->kh * a->kw > 1 && direct_supports(a->c / a->groups, a->w);
}

typedef struct direct_packing {
    const direct_conv *d;
    float *out;
} direct_packing;

/* Panels [begin, end) of all groups. Forward: weights [filter][k]; the gradient: [channel][filter][taps]. */
static void direct_pack(void *arg, int64_t begin, int64_t end, int thread)
{
    const direct_packing *to = arg;
    const conv_problem *p = &to->d->p;
    int64_t taps = p->f.kh * p->f.kw;
    (void)thread;
    for (int64_t at = begin; at < end; at++) {
        int64_t group = at / to->d->panels, first = at % to->d->panels * NR;
        int cols = (int)min_i64(p->m - first, NR);
        float *dst = to->out + at * p->k * NR;
        const float *src = p->weight + group * p->m * p->k;
        if (!p->swap_weight) pack_b_columns(dst, src + first * p->k, p->k, p->k, cols);
        for (int64_t c = 0; c < p->f.channels && p->swap_weight; c++)
            pack_b_columns(dst + c * taps * NR, src + (c * p->m + first) * taps, taps, taps, cols);
    }
}

/* The taps of output row y that meet rows of the image; returns the first one's number. */
static int64_t meeting_taps(const frame *f, int64_t y, const int64_t *taps, direct_tile *t)
{
    int64_t from = 0, to = f->kh, last = (f->in_h - 1) * f->insert_h;
#define IMAGE_ROW(at) (y * f->step_h + (f->flipped ? f->kh - 1 - (at) : (at)) * f->dilation_h - f->top)
#define IS_OUTSIDE(at) (IMAGE_ROW(at) < 0 || IMAGE_ROW(at) > last)
    while (from < to && IS_OUTSIDE(from)) from++;
    while (from < to && IS_OUTSIDE(to - 1)) to--;
#undef IS_OUTSIDE
#undef IMAGE_ROW
    t->taps = taps + from * f->kw;
    t->n_taps = (to - from) * f->kw;
    t->skipped = f->kh * f->kw - t->n_taps;
    return from * f->kw;
}

/* frame_fill, but rows that no tap of meeting_taps is in stay as they are: those above and below the image, and what a
 * stride steps over. */
static const float *band_fill(const frame *f, float *scratch, const float *image)
{
    float *origin = scratch + FRAME_SLACK;
    int64_t from = max_i64(0, f->top), to = min_i64(f->rows, f->top + (f->in_h - 1) * f->insert_h + 1);
    int64_t used = (f->kh - 1) * f->dilation_h + 1; /* of each step_h rows */
    for (int64_t c = 0; c < f->channels; c++) {
        const float *src = image + c * f->in_h * f->in_w;
        for (int64_t y = from; y < to; y++) {
            int64_t at = y - f->top, i = f->insert_h == 1 ? at : at / f->insert_h;
            if (used < f->step_h && y % f->step_h >= used) continue;
            frame_row(f, origin + c * f->plane + y * f->row, i * f->insert_h == at ? src + i * f->in_w : NULL);
        }
    }
    return origin;
}

/* Row i of a band's outputs, tile by tile; `out`: the row in the first channel of the group. */
static void direct_row(const direct_conv *d, const frame *f, direct_tile *t, const float *pixel, int64_t first_tap,
                       int64_t group, float *out)
{
    const conv_problem *p = &d->p;
    for (int64_t panel = 0; panel < d->panels; panel++) {
        int64_t m = panel * NR;
        t->weight = d->weight + ((group * d->panels + panel) * p->k + first_tap) * NR;
        t->filters = min_i64(p->m - m, NR);
        t->bias = p->bias ? p->bias + group * p->m + m : NULL;
        const direct_fn *fns = t->filters > VL ? direct_fns[1] : has_runs(f) ? direct_row_fns : direct_fns[0];
        int64_t row_tiles = div_up(f->out_w, direct_width(t->filters));
        for (int64_t tile = 0, j = 0, end; tile < row_tiles; tile++, j = end) {
            end = (tile + 1) * f->out_w / row_tiles;
            t->pixel = pixel + j;
            t->out = out + m * t->out_plane + j;
            fns[end - j - 1](t);
        }
    }
}

/* Bands [begin, end), in the order image, group, band. */
static void direct_bands(void *arg, int64_t begin, int64_t end, int thread)
{
    const direct_conv *d = arg;
    const conv_problem *p = &d->p;
    float *scratch = (float *)p->a->scratch + d->weight_floats + thread * (d->tap_floats + d->image_floats);
    int64_t *taps = (int64_t *)scratch, y;
    for (int64_t at = begin; at < end; at++) {
        int64_t image = at / d->bands, group = image % p->a->groups;
        frame f = band_frame(d, at % d->bands, &y);
        find_taps(&f, 0, f.kh * f.kw, taps);
        direct_tile t = {.p = p, .plane = f.plane, .channels = f.channels, .out_plane = p->f.out_h * p->f.out_w};
        const float *origin = band_fill(&f, scratch + d->tap_floats, p->image + image * f.channels * f.in_h * f.in_w);
        float *out = p->out + image * p->m * t.out_plane + y * f.out_w;
        for (int64_t i = 0; i < f.out_h; i++) {
            int64_t first_tap = meeting_taps(&f, i, taps, &t);
            direct_row(d, &f, &t, origin + i * f.step_h * f.row, first_tap, group, out + i * f.out_w);
        }
    }
}

static void direct_run(direct_conv *d)
{
    const conv_problem *p = &d->p;
    int64_t images = p->a->n * p->a->groups;
    if (images == 0 || p->m == 0 || p->f.out_h * p->f.out_w == 0) return;
    if (p->a->packed_weight) {
        d->weight = p->a->packed_weight;
        d->weight_floats = 0;
    } else {
        d->weight = p->a->scratch;
        tb_pool_run(p->a->pool, p->a->groups * d->panels, direct_pack, &(direct_packing){d, p->a->scratch});
    }
    tb_pool_run(p->a->pool, images * d->bands, direct_bands, d);
}

static size_t direct_scratch(const direct_conv *d)
{
    int64_t weights = d->p.a->packed_weight ? 0 : d->weight_floats, threads = tb_pool_threads(d->p.a->pool);
    return (size_t)(weights + threads * (d->tap_floats + d->image_floats)) * sizeof(float);
}

static size_t conv2d_direct_scratch_bytes(const void *args)
{
    direct_conv d = direct(conv_forward(args));
    return direct_scratch(&d);
}
static void run_conv2d_direct(const void *args)
{
    direct_conv d = direct(conv_forward(args));
    direct_run(&d);
}
static size_t conv2d_direct_pack_bytes(const void *args)
{
    return (size_t)direct(conv_forward(args)).weight_floats * sizeof(float);
}
static void conv2d_direct_pack(const void *args, void *out)
{
    direct_conv d = direct(conv_forward(args));
    direct_pack(&(direct_packing){&d, out}, 0, d.p.a->groups * d.panels, 0);
}
static size_t conv2d_input_grad_direct_scratch_bytes(const void *args)
{
    direct_conv d = direct(conv_input_grad(args));
    return direct_scratch(&d);
}
static void run_conv2d_input_grad_direct(const void *args)
{
    direct_conv d = direct(conv_input_grad(args));
    direct_run(&d);
}

#define DIRECT_KERNEL(op, ...)                                                                                        \
    {                                                                                                                 \
        .name = #op "_direct_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .priority = 2,    \
        .supports = op##_direct_supports, .run = run_##op##_direct, .scratch_bytes = op##_direct_scratch_bytes,       \
        __VA_ARGS__                                                                                                   \
    }
