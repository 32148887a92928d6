/* conv2d f32 and its gradient for the input, directly: a register tile is neighbouring outputs of one row times output
 * channels. Pixels are broadcast from the frame where they lie, the weights of NR channels fill the vectors: the width
 * of an image wastes no lanes. An image is cut into bands of output rows, whose frames stay in L2 beside the weights.
 * Weights are packed, [group][panel][k][NR]; those of a layer that stays as it is are packed once (.pack).
 *
 * Not for 1x1: there a tile's pixels lie in as many pages as there are channels, and packed panels are faster.
 *
 * Order: conv2d's, a chain over ascending (channel, kh, kw) in one pass. Rows of taps that lie above or below the image
 * are left out. */
#pragma once
#include "conv_f32.h"

/* One tile; also what its function finishes it with. */
typedef struct direct_tile {
    const float *pixel, *weight;      /* channel 0, tap 0 of the first output in the frame; the first used tap */
    int64_t step, plane, channels;    /* of neighbouring outputs, of channels in the frame */
    const int64_t *taps;              /* the used ones of a channel: from its plane */
    int64_t n_taps, skipped;          /* used, unused taps of a channel */
    float *out;                       /* the first output of the first channel, channels out_plane apart */
    int64_t out_plane, filters;       /* channels of the result */
    const float *bias;
    const conv_problem *p;
} direct_tile;

/* sums[output][NR] -> channels of `pixels` outputs */
static __attribute__((noinline)) void direct_finish(const direct_tile *t, const float *sums, int pixels)
{
    for (int64_t v = 0; v < NV && v * VL < t->filters; v++) {
        vf r[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) r[i] = i < pixels ? vf_load(sums + i * NR + v * VL) : vf_zero();
        vf_transpose(r);
        for (int64_t o = v * VL; o < min_i64((v + 1) * VL, t->filters); o++) {
            float *out = t->out + o * t->out_plane;
            epilogue_vector(r[o % VL], out, pixels, t->p->accumulate, t->bias,
                            t->bias ? vf_set1(t->bias[o]) : vf_zero(), conv_residual(t->p, out), t->p->act);
        }
    }
}

VEC void direct_outputs(const int pixels, const int vectors, const direct_tile *t)
{
    _Alignas(64) float sums[MR * NR];
    vf acc[MR][NV];
    const float *w = t->weight;
#pragma GCC unroll 16
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = vf_zero();
    for (int64_t channel = 0; channel < t->channels; channel++, w += t->skipped * NR)
        for (int64_t q = 0; q < t->n_taps; q++, w += NR) {
            const float *x = t->pixel + channel * t->plane + t->taps[q];
            vf held[NV];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                __builtin_prefetch(w + PREFETCH_K * NR + v * VL);
                held[v] = vf_load(w + v * VL);
            }
#pragma GCC unroll 16
            for (int i = 0; i < pixels; i++) {
                vf one = vf_set1(x[i * t->step]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) acc[i][v] = vf_fma(one, held[v], acc[i][v]);
            }
        }
#pragma GCC unroll 16
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) vf_store(sums + i * NR + v * VL, acc[i][v]);
    direct_finish(t, sums, pixels);
}

typedef void (*direct_fn)(const direct_tile *);
#define DIRECT_FN(pixels, vectors)                                                                                    \
    static void direct_##pixels##_##vectors(const direct_tile *t)                                                     \
    {                                                                                                                 \
        if (pixels <= MR) direct_outputs(pixels <= MR ? pixels : 1, vectors, t);                                      \
    }
#define DIRECT_FNS(pixels) DIRECT_FN(pixels, 1) DIRECT_FN(pixels, 2)
#define DIRECT_ENTRY(pixels) {direct_##pixels##_1, direct_##pixels##_2}
DIRECT_FNS(1) DIRECT_FNS(2) DIRECT_FNS(3) DIRECT_FNS(4) DIRECT_FNS(5) DIRECT_FNS(6) DIRECT_FNS(7)
DIRECT_FNS(8) DIRECT_FNS(9) DIRECT_FNS(10) DIRECT_FNS(11) DIRECT_FNS(12) DIRECT_FNS(13) DIRECT_FNS(14)
static const direct_fn direct_fns[14][2] = {
    DIRECT_ENTRY(1), DIRECT_ENTRY(2), DIRECT_ENTRY(3),  DIRECT_ENTRY(4),  DIRECT_ENTRY(5),  DIRECT_ENTRY(6),
    DIRECT_ENTRY(7), DIRECT_ENTRY(8), DIRECT_ENTRY(9),  DIRECT_ENTRY(10), DIRECT_ENTRY(11), DIRECT_ENTRY(12),
    DIRECT_ENTRY(13), DIRECT_ENTRY(14)};
_Static_assert(NV == 2 && MR <= 14 && (int)MR <= (int)VL, "the tiles above; the transposes of direct_finish");

enum { BAND_FLOATS = 32 << 10 }; /* of a frame: an eighth of L2 */

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
    f->phases = 1;
    frame_layout(f);
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
static bool direct_supports(const tb_conv_args *a, int64_t m, int64_t width)
{
    int64_t vectors = div_up(m, VL);
    return a->kh * a->kw > 1 && width > 0 && 4 * m >= 3 * vectors * VL &&
           div_up(width, div_up(width, MR)) * min_i64(vectors, NV) >= 8;
}
static bool conv2d_direct_supports(const void *args)
{
    const tb_conv_args *a = args;
    return direct_supports(a, a->o / a->groups, a->ow);
}
static bool conv2d_input_grad_direct_supports(const void *args)
{
    const tb_conv_args *a = args;
    return direct_supports(a, a->c / a->groups, a->w);
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

/* frame_fill, but rows above and below the image stay as they are: no tap of meeting_taps is there. */
static const float *band_fill(const frame *f, float *scratch, const float *image)
{
    float *origin = scratch + FRAME_SLACK;
    int64_t from = max_i64(0, f->top), to = min_i64(f->rows, f->top + (f->in_h - 1) * f->insert_h + 1);
    for (int64_t c = 0; c < f->channels; c++) {
        const float *src = image + c * f->in_h * f->in_w;
        for (int64_t y = from; y < to; y++) {
            int64_t at = y - f->top, i = f->insert_h == 1 ? at : at / f->insert_h;
            frame_row(f, origin + c * f->plane + y * f->row, i * f->insert_h == at ? src + i * f->in_w : NULL);
        }
    }
    return origin;
}

/* Outputs of one band of an image and group, tile by tile; `y`: its first row. */
static void direct_band(const direct_conv *d, const frame *f, direct_tile *t, const float *origin, const int64_t *taps,
                        int64_t image, int64_t y)
{
    const conv_problem *p = &d->p;
    int64_t group = image % p->a->groups, row_tiles = div_up(f->out_w, MR);
    for (int64_t at = 0; at < f->out_h * row_tiles; at++) {
        int64_t i = at / row_tiles, tile = at % row_tiles, j = tile * f->out_w / row_tiles;
        int64_t pixels = (tile + 1) * f->out_w / row_tiles - j, first_tap = meeting_taps(f, i, taps, t);
        t->pixel = origin + i * f->step_h * f->row + j * f->step_w;
        for (int64_t panel = 0; panel < d->panels; panel++) {
            t->weight = d->weight + ((group * d->panels + panel) * p->k + first_tap) * NR;
            t->filters = min_i64(p->m - panel * NR, NR);
            t->out = p->out + (image * p->m + panel * NR) * t->out_plane + (y + i) * f->out_w + j;
            t->bias = p->bias ? p->bias + group * p->m + panel * NR : NULL;
            direct_fns[pixels - 1][t->filters > VL](t);
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
        int64_t image = at / d->bands;
        frame f = band_frame(d, at % d->bands, &y);
        find_taps(&f, 0, f.kh * f.kw, taps);
        direct_tile t = {.p = p, .step = f.step_w, .plane = f.plane, .channels = f.channels,
                         .out_plane = p->f.out_h * p->f.out_w};
        const float *origin = band_fill(&f, scratch + d->tap_floats, p->image + image * f.channels * f.in_h * f.in_w);
        direct_band(d, &f, &t, origin, taps, image, y);
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
