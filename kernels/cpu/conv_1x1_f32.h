/* conv2d f32 of 1x1 without stride and border, and its gradient for the input: out[m, p] = weight[m, k] image[k, p],
 * where both images are matrices as they lie. A register tile is MR channels of the result by NR pixels. Weights are
 * packed, [group][tile][k][MR]; those of a layer that stays as it is are packed once (.pack).
 *
 * A panel of NR pixels lies in as many pages as there are channels: the first tile that reads it there writes it side
 * by side for the others, and all of them together ask for the next panel's lines, evenly, so that neither caches nor
 * memory see a burst of misses.
 *
 * Order: conv2d's, a chain over ascending channels in one pass. */
#pragma once
#include "conv_f32.h"

/* One tile, and what becomes of it. */
typedef struct pixel_tile {
    const float *weight;                 /* [k][MR] */
    const float *image, *next;           /* the panel's pixels in channel 0; channels of the next panel to ask for */
    float *panel;                        /* [k][NR]: the panel side by side */
    int64_t k, plane;                    /* channels of the image, plane floats apart */
    int64_t fetch_every;                 /* channels of this panel to one of the next that is asked for */
    float *out;                          /* channels plane apart */
    int64_t cols;                        /* pixels wanted */
    int64_t out_at[NV], left[NV];        /* of each vector: where it goes in a channel; pixels wanted */
    const int64_t *taps;                 /* of a frame (conv_pixels_f32.h): where row k is from image, */
    int64_t at[NV];                      /* and where a vector is from there */
    const float *bias;
    const conv_problem *p;
} pixel_tile;

/* All but accumulation and the rarer activations, which epilogue_row adds to sums in memory. */
VEC bool is_simple(const conv_problem *p) { return !p->accumulate && p->act <= TB_ACT_RELU; }

static __attribute__((noinline)) void pixels_finish(const pixel_tile *t, const float *sums, int rows)
{
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < NV; v++) {
            float *out = t->out + i * t->plane + t->out_at[v];
            epilogue_row(sums + i * NR + v * VL, out, (int)t->left[v], t->p->accumulate, t->bias ? t->bias + i : NULL,
                         0, conv_residual(t->p, out), t->p->act);
        }
}

VEC void pixels_store(const int rows, const int vectors, const pixel_tile *t, vf acc[MR][NV])
{
    _Alignas(64) float sums[TILE];
    if (!is_simple(t->p)) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) vf_store(sums + i * NR + v * VL, acc[i][v]);
        pixels_finish(t, sums, rows);
        return;
    }
    const float *residual = conv_residual(t->p, t->out);
    bool has_relu = t->p->act == TB_ACT_RELU;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            int64_t at = i * t->plane + t->out_at[v], left = t->left[v];
            vf x = acc[i][v];
            if (t->bias) x = vf_add(x, vf_set1(t->bias[i]));
            if (residual) x = vf_add(x, vf_load_part(residual + at, left));
            vf_store_part(t->out + at, has_relu ? vf_relu(x) : x, left);
        }
}

/* Where a tile's pixels come from: the first of a whole panel's tiles reads them where they lie, and packs them. */
typedef enum pixel_source { FROM_PANEL, FROM_IMAGE, FROM_FRAME } pixel_source;

VEC void pixels_by_channels(const int rows, const int vectors, const pixel_source from, const pixel_tile *t)
{
    const bool packs = from != FROM_PANEL;
    const float *w = t->weight, *x = packs ? t->image : t->panel, *next = t->next;
    const int64_t x_k = from == FROM_PANEL ? NR : from == FROM_IMAGE ? t->plane : 0;
    float *panel = t->panel;
    vf acc[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(t->out + i * t->plane + t->out_at[v], 1); /* stores would wait for it */
            acc[i][v] = vf_zero();
        }
    for (int64_t k = 0; k < t->k; next += t->plane) {
        int64_t end = min_i64(k + t->fetch_every, t->k);
#pragma GCC unroll 4
        for (int v = 0; v < NV; v++) __builtin_prefetch(next + v * VL, 0, 2);
        for (; k < end; k++, w += MR, x += x_k) {
            vf held[NV];
            if (!packs) __builtin_prefetch(x + PREFETCH_K * NR);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                held[v] = vf_load(x + (from == FROM_FRAME ? t->taps[k] + t->at[v] : v * VL));
#pragma GCC unroll 4
            for (int v = 0; v < vectors && packs; v++) vf_store(panel + v * VL, held[v]);
            if (packs) panel += NR;
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                vf one = vf_set1(w[i]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) acc[i][v] = vf_fma(one, held[v], acc[i][v]);
            }
        }
    }
    pixels_store(rows, vectors, t, acc);
}

typedef void (*pixels_fn)(const pixel_tile *);
#define PIXELS_FN(name, rows, vectors, from)                                                                          \
    static void name##_##rows(const pixel_tile *t)                                                                    \
    {                                                                                                                 \
        if (rows <= MR) pixels_by_channels(rows <= MR ? rows : 1, vectors, from, t);                                  \
    }
#define PIXELS_FNS(name, vectors, from)                                                                               \
    PIXELS_FN(name, 1, vectors, from) PIXELS_FN(name, 2, vectors, from) PIXELS_FN(name, 3, vectors, from)             \
    PIXELS_FN(name, 4, vectors, from) PIXELS_FN(name, 5, vectors, from) PIXELS_FN(name, 6, vectors, from)             \
    PIXELS_FN(name, 7, vectors, from) PIXELS_FN(name, 8, vectors, from) PIXELS_FN(name, 9, vectors, from)             \
    PIXELS_FN(name, 10, vectors, from) PIXELS_FN(name, 11, vectors, from) PIXELS_FN(name, 12, vectors, from)          \
    PIXELS_FN(name, 13, vectors, from) PIXELS_FN(name, 14, vectors, from)                                             \
    static const pixels_fn name[14] = {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7,          \
                                       name##_8, name##_9, name##_10, name##_11, name##_12, name##_13, name##_14};
PIXELS_FNS(pixels_packing, NV, FROM_IMAGE)
PIXELS_FNS(pixels_framed, NV, FROM_FRAME)
PIXELS_FNS(pixels_packed, NV, FROM_PANEL)
PIXELS_FNS(pixels_vector, 1, FROM_PANEL)

/* ---- weights: [group][tile][k][MR] ---- */
static int64_t pixel_tiles(const conv_problem *p) { return div_up(p->m, MR); }
static int64_t pixel_weight_floats(const conv_problem *p)
{
    return round_up(p->a->groups * pixel_tiles(p) * p->k * MR + VL, 16); /* pack_a_tile writes beyond a tile */
}

/* One tile after another: a tile's end is overwritten by the next. */
static void pack_pixel_weights(const conv_problem *p, float *out)
{
    int64_t each = pixel_tiles(p), row = p->swap_weight ? 1 : p->k, col = p->swap_weight ? p->m : 1;
    for (int64_t at = 0; at < p->a->groups * each; at++) {
        int64_t tile = at % each, first = tile * p->m / each, last = (tile + 1) * p->m / each;
        pack_a_tile(out + at * p->k * MR, p->weight + at / each * p->m * p->k + first * row, row, col, p->k,
                    (int)(last - first));
    }
}

/* The layer's packed weights, or those packed now at the beginning of scratch. */
static const float *pixel_weights(const conv_problem *p)
{
    if (p->a->packed_weight) return p->a->packed_weight;
    pack_pixel_weights(p, p->a->scratch);
    return p->a->scratch;
}

typedef struct conv_1x1 {
    conv_problem p;
    const float *weight;          /* packed */
    int64_t tiles, pixels;        /* of a panel; of an image */
    int64_t chunks, chunk_pixels; /* of an image */
    int64_t weight_floats;
} conv_1x1;

static conv_1x1 make_1x1(conv_problem p)
{
    conv_1x1 d = {.p = p, .tiles = pixel_tiles(&p), .pixels = p.f.out_h * p.f.out_w};
    int64_t threads = tb_pool_threads(p.a->pool), images = p.a->n * p.a->groups, panels = div_up(d.pixels, NR);
    d.chunks = images % threads != 0 && images < 4 * threads ? min_i64(threads, max_i64(panels, 1)) : 1;
    d.chunk_pixels = div_up(panels, d.chunks) * NR;
    d.weight_floats = pixel_weight_floats(&p);
    return d;
}

/* All tiles of a panel of pixels; t has what they share, `next`: the next one's pixels in channel 0. */
static void run_panel(pixel_tile *t, const float *weight, const float *bias, const float *next, float *out)
{
    int64_t m = t->p->m, each = pixel_tiles(t->p), share = div_up(t->k, each);
    if (t->cols < NR) pack_b_rows(t->panel, t->image, t->plane, t->k, (int)t->cols);
    for (int64_t tile = 0; tile < each; tile++) {
        int64_t first = tile * m / each, last = (tile + 1) * m / each;
        const pixels_fn *fns = t->cols <= VL                ? pixels_vector
                               : t->cols < NR || tile > 0 ? pixels_packed
                                                          : pixels_packing;
        t->weight = weight + tile * t->k * MR;
        t->next = next + min_i64(tile * share, t->k - 1) * t->plane;
        t->out = out + first * t->plane;
        t->bias = bias ? bias + first : NULL;
        fns[last - first - 1](t);
    }
}

/* Chunks of images [begin, end), in the order image, group, chunk. */
static void run_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    const conv_1x1 *d = arg;
    const conv_problem *p = &d->p;
    float *scratch = (float *)p->a->scratch + (p->a->packed_weight ? 0 : d->weight_floats);
    pixel_tile t = {.panel = scratch + thread * p->k * NR, .k = p->k, .plane = d->pixels, .fetch_every = d->tiles,
                    .p = p};
    for (int64_t at = begin; at < end; at++) {
        int64_t image = at / d->chunks, group = image % p->a->groups, from = at % d->chunks * d->chunk_pixels;
        const float *pixels = p->image + image * p->k * d->pixels;
        for (int64_t j = from; j < min_i64(from + d->chunk_pixels, d->pixels); j += NR) {
            const float *next = j + NR < d->pixels ? pixels + j + NR
                                : at + 1 < end     ? pixels + p->k * d->pixels
                                                   : pixels + j;
            t.image = pixels + j;
            t.cols = min_i64(d->pixels - j, NR);
            for (int v = 0; v < NV; v++) {
                t.out_at[v] = v * VL;
                t.left[v] = clip_i64(t.cols - v * VL, 0, VL);
            }
            run_panel(&t, d->weight + group * d->tiles * p->k * MR, p->bias ? p->bias + group * p->m : NULL, next,
                      p->out + image * p->m * d->pixels + j);
        }
    }
}

static void run_1x1(conv_1x1 *d)
{
    const conv_problem *p = &d->p;
    int64_t images = p->a->n * p->a->groups;
    if (images == 0 || d->pixels == 0) return;
    d->weight = pixel_weights(p);
    tb_pool_run(p->a->pool, images * d->chunks, run_chunks, d);
}

static size_t scratch_1x1(const conv_1x1 *d)
{
    int64_t weights = d->p.a->packed_weight ? 0 : d->weight_floats, threads = tb_pool_threads(d->p.a->pool);
    return (size_t)(weights + threads * d->p.k * NR) * sizeof(float);
}

/* Channels that fill a tile enough to hide the latency of its sums. */
static bool supports_1x1(const tb_conv_args *a, int64_t m)
{
    return a->kh * a->kw * a->stride[0] * a->stride[1] == 1 && a->oh == a->h && a->ow == a->w && a->pad[0] == 0 &&
           a->pad[1] == 0 && m * NV >= LATENCY_CHAINS;
}
static bool conv2d_1x1_supports(const void *args)
{
    const tb_conv_args *a = args;
    return supports_1x1(a, a->o / a->groups);
}
static bool conv2d_input_grad_1x1_supports(const void *args)
{
    const tb_conv_args *a = args;
    return supports_1x1(a, a->c / a->groups);
}

static size_t conv2d_1x1_scratch_bytes(const void *args)
{
    conv_1x1 d = make_1x1(conv_forward(args));
    return scratch_1x1(&d);
}
static void run_conv2d_1x1(const void *args)
{
    conv_1x1 d = make_1x1(conv_forward(args));
    run_1x1(&d);
}
static size_t conv2d_1x1_pack_bytes(const void *args)
{
    return (size_t)make_1x1(conv_forward(args)).weight_floats * sizeof(float);
}
static void conv2d_1x1_pack(const void *args, void *out)
{
    conv_problem p = conv_forward(args);
    pack_pixel_weights(&p, out);
}
static size_t conv2d_input_grad_1x1_scratch_bytes(const void *args)
{
    conv_1x1 d = make_1x1(conv_input_grad(args));
    return scratch_1x1(&d);
}
static void run_conv2d_input_grad_1x1(const void *args)
{
    conv_1x1 d = make_1x1(conv_input_grad(args));
    run_1x1(&d);
}

#define KERNEL_1X1(op, ...)                                                                                           \
    {                                                                                                                 \
        .name = #op "_1x1_f32_" VEC_ISA_NAME, .primitive = #op, .dtype = TB_F32, .isa = VEC_ISA, .priority = 2,       \
        .supports = op##_1x1_supports, .run = run_##op##_1x1, .scratch_bytes = op##_1x1_scratch_bytes, __VA_ARGS__    \
    }
