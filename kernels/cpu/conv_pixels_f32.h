/* conv2d f32 with few taps in all, to rows of whole vectors: conv_1x1_f32.h's tile, MR channels of the result by NR
 * pixels, whose panel is packed from the frame of a band of rows (conv_direct_f32.h cuts and fits them). A vector is a
 * piece of one output row, so that finished sums are stored as they are, in whole lines. The direct kernel transposes
 * its sums on their way out, into parts of lines: with so few taps that is a tenth of its time.
 *
 * Order: conv2d's, a chain over ascending (channel, kh, kw) in one pass. */
#pragma once
#include "conv_1x1_f32.h"
#include "conv_direct_f32.h"

typedef struct conv_pixels {
    direct_conv d;                                   /* its bands; its weights are not used */
    const float *weight;                             /* packed */
    int64_t weight_floats, tap_floats, panel_floats; /* of scratch: if they are to be packed; a thread's */
} conv_pixels;

static conv_pixels make_pixels(conv_problem p)
{
    return (conv_pixels){.d = direct(p),
                         .weight_floats = p.a->packed_weight ? 0 : pixel_weight_floats(&p),
                         .tap_floats = round_up(p.k * (int64_t)(sizeof(int64_t) / sizeof(float)), 16),
                         .panel_floats = p.k * NR};
}
static int64_t thread_floats(const conv_pixels *c) { return c->tap_floats + c->panel_floats + c->d.image_floats; }

/* Points t to NV vectors of the outputs of f from `first` on; beyond the last one nothing is wanted. */
static void place_vectors(pixel_tile *t, const frame *f, int64_t first)
{
    int64_t row = f->out_w / VL, vectors = f->out_h * row;
    for (int v = 0; v < NV; v++) {
        int64_t which = min_i64(first + v, vectors - 1), y = which / row, x = which % row * VL;
        t->at[v] = y * f->step_h * f->row + x;
        t->out_at[v] = y * f->out_w + x;
        t->left[v] = first + v < vectors ? VL : 0;
    }
}

/* Bands [begin, end), in the order image, group, band. */
static void pixel_bands(void *arg, int64_t begin, int64_t end, int thread)
{
    const conv_pixels *c = arg;
    const conv_problem *p = &c->d.p;
    float *scratch = (float *)p->a->scratch + c->weight_floats + thread * thread_floats(c);
    int64_t *taps = (int64_t *)scratch, each = pixel_tiles(p), y;
    pixel_tile t = {.panel = scratch + c->tap_floats,
                    .k = p->k,
                    .plane = p->f.out_h * p->f.out_w,
                    .fetch_every = p->k, /* the next panel comes from the frame, which is near */
                    .taps = taps,
                    .p = p};
    for (int64_t at = begin; at < end; at++) {
        int64_t image = at / c->d.bands, group = image % p->a->groups;
        frame f = band_frame(&c->d, at % c->d.bands, &y);
        find_taps(&f, 0, p->k, taps);
        t.image = t.next = frame_fill(&f, scratch + c->tap_floats + c->panel_floats,
                                      p->image + image * f.channels * f.in_h * f.in_w, 0, f.channels);
        for (int64_t first = 0; first < f.out_h * (f.out_w / VL); first += NV) {
            place_vectors(&t, &f, first);
            for (int64_t tile = 0; tile < each; tile++) {
                int64_t m = tile * p->m / each, rows = (tile + 1) * p->m / each - m;
                const pixels_fn *fns = tile == 0 ? pixels_framed : pixels_packed;
                t.weight = c->weight + (group * each + tile) * p->k * MR;
                t.out = p->out + (image * p->m + m) * t.plane + y * f.out_w;
                t.bias = p->bias ? p->bias + group * p->m + m : NULL;
                fns[rows - 1](&t);
            }
        }
    }
}

/* Rows of whole vectors, a panel that stays in L1, and channels that hide the latency of a tile's sums. */
static bool conv2d_pixels_supports(const void *args)
{
    const tb_conv_args *a = args;
    int64_t taps = a->kh * a->kw, k = a->c / a->groups * taps;
    return taps * a->stride[0] * a->stride[1] > 1 && a->ow > 0 && a->ow % VL == 0 && k <= PIXELS_K &&
           a->o / a->groups * NV >= LATENCY_CHAINS;
}
static size_t conv2d_pixels_scratch_bytes(const void *args)
{
    conv_pixels c = make_pixels(conv_forward(args));
    return (size_t)(c.weight_floats + tb_pool_threads(c.d.p.a->pool) * thread_floats(&c)) * sizeof(float);
}
static void run_conv2d_pixels(const void *args)
{
    conv_pixels c = make_pixels(conv_forward(args));
    const conv_problem *p = &c.d.p;
    int64_t images = p->a->n * p->a->groups;
    if (images == 0 || p->f.out_h == 0) return;
    c.weight = pixel_weights(p);
    tb_pool_run(p->a->pool, images * c.d.bands, pixel_bands, &c);
}
static size_t conv2d_pixels_pack_bytes(const void *args)
{
    conv_problem p = conv_forward(args);
    return (size_t)pixel_weight_floats(&p) * sizeof(float);
}
static void conv2d_pixels_pack(const void *args, void *out)
{
    conv_problem p = conv_forward(args);
    pack_pixel_weights(&p, out);
}

#define PIXELS_KERNEL                                                                                                  \
    {                                                                                                                  \
        .name = "conv2d_pixels_f32_" VEC_ISA_NAME, .primitive = "conv2d", .dtype = TB_F32, .isa = VEC_ISA,             \
        .priority = 3, .supports = conv2d_pixels_supports, .run = run_conv2d_pixels,                                   \
        .scratch_bytes = conv2d_pixels_scratch_bytes, .pack_bytes = conv2d_pixels_pack_bytes,                          \
        .pack = conv2d_pixels_pack                                                                                     \
    }
