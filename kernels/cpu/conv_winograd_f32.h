/* conv2d f32 by minimal filtering in two dimensions (Winograd; Lavin and Gray: "Fast Algorithms for Convolutional
 * Neural Networks", 2016): for square kernels of r = 3 and 5 and stride 1. Outputs are made in tiles of m x m, where
 * m = 7 - r, from 6 x 6 inputs:
 *     tile = A' [ (G w G') . (B' d B) ] A        with the points 0, 1, -1, 2, -2, infinity
 * so 36 products take the place of (m r)^2: 144 or 100. Over channels they are 36 gemms of tiles by filters, each sum
 * one chain over ascending channels. G w G' is packed once, rounded once.
 *
 * A unit of work is some whole images, or a band of an image's rows of tiles, whose transformed inputs and products
 * stay in L2. Channels fill the vectors: VL of them are turned into a frame [row][column][VL], and results back.
 * Nothing that is added depends on how units are cut. */
#pragma once
#include "blocking.h"
#include "gemm_epilogue.h"
#include "sizes.h"
#include "tb_pool.h"
#include <string.h>

enum { NR = NV * VL, EDGE = 6, POINTS = EDGE * EDGE };

typedef struct winograd {
    const tb_conv_args *a;
    int64_t r, m, tiles_h, tiles_w;
    int64_t images, bands, band_rows, units; /* a unit: `images` images, or of one `band_rows` rows of tiles */
    int64_t c_row, o_row;                    /* channels and filters, rounded up to vectors and panels */
    int64_t frame_h, frame_w;
    int64_t in_plane, out_plane; /* floats from point to point, apart from multiples of a page */
    int64_t frame_floats, result_floats, thread_floats;
} winograd;

static winograd winograd_of(const tb_conv_args *a)
{
    winograd w = {.a = a, .r = a->kh, .m = 7 - a->kh, .c_row = round_up(a->c, VL), .o_row = round_up(a->o, NR)};
    int64_t threads = tb_pool_threads(a->pool);
    w.tiles_h = div_up(a->oh, w.m);
    w.tiles_w = div_up(a->ow, w.m);
    int64_t most = max_i64(WINOGRAD_FLOATS / (POINTS * max_i64(w.c_row + w.o_row, 1)), MR);
    int64_t of_image = w.tiles_h * w.tiles_w;
    w.images = clip_i64(most / max_i64(of_image, 1), 1, max_i64(div_up(a->n, threads), 1));
    w.bands = clip_i64(div_up(of_image, most), 1, max_i64(w.tiles_h, 1));
    if (a->n < threads) w.bands = clip_i64(max_i64(w.bands, threads), 1, max_i64(w.tiles_h, 1));
    w.band_rows = div_up(w.tiles_h, w.bands);
    w.bands = div_up(w.tiles_h, max_i64(w.band_rows, 1));
    w.units = div_up(a->n, w.images) * w.bands;
    w.frame_h = w.band_rows * w.m + w.r - 1;
    w.frame_w = w.tiles_w * w.m + w.r - 1;
    int64_t tiles = w.images * w.band_rows * w.tiles_w;
    w.in_plane = round_up(tiles * w.c_row, 16) + 16;
    w.out_plane = round_up(tiles * w.o_row, 16) + 16;
    w.frame_floats = round_up(w.frame_h * w.frame_w * VL, 16);
    w.result_floats = round_up(w.band_rows * w.m * a->ow * VL, 16) + VL * VL;
    w.thread_floats = w.frame_floats + w.result_floats + POINTS * (w.in_plane + w.out_plane);
    return w;
}

static bool winograd_supports(const void *args)
{
    const tb_conv_args *a = args;
    return (a->kh == 3 || a->kh == 5) && a->kh == a->kw && a->stride[0] == 1 && a->stride[1] == 1 &&
           a->dilation[0] == 1 && a->dilation[1] == 1 && a->groups == 1;
}

/* ---- weights: [point][panel][channel][NR] ---- */
/* Row i of G applied to the r taps at `w`, `step` apart: scale_i times the powers of point i. */
static double winograd_filter(int i, int64_t r, const double *w, int64_t step)
{
    static const double point[EDGE] = {0, 1, -1, 2, -2, 0},
                        scale[EDGE] = {1.0 / 4, -1.0 / 6, -1.0 / 6, 1.0 / 24, 1.0 / 24, 1};
    double sum = 0, power = 1;
    if (i == EDGE - 1) return w[(r - 1) * step];
    for (int64_t k = 0; k < r; k++, power *= point[i]) sum += power * w[k * step];
    return scale[i] * sum;
}

static size_t winograd_pack_bytes(const void *args)
{
    winograd w = winograd_of(args);
    return (size_t)(POINTS * w.o_row * w.a->c) * sizeof(float);
}

static void winograd_pack(const void *args, void *out)
{
    winograd w = winograd_of(args);
    const float *weight = w.a->weight;
    int64_t c = w.a->c, r = w.r;
    memset(out, 0, winograd_pack_bytes(args));
    for (int64_t o = 0; o < w.a->o; o++)
        for (int64_t k = 0; k < c; k++, weight += r * r) {
            double taps[25], half[EDGE * 5];
            float *to = (float *)out + (o / NR * c + k) * NR + o % NR;
            for (int64_t i = 0; i < r * r; i++) taps[i] = (double)weight[i];
            for (int i = 0; i < EDGE; i++)
                for (int64_t x = 0; x < r; x++) half[i * r + x] = winograd_filter(i, r, taps + x, r);
            for (int i = 0; i < EDGE; i++)
                for (int j = 0; j < EDGE; j++)
                    to[(i * EDGE + j) * w.o_row * c] = (float)winograd_filter(j, r, half + i * r, 1);
        }
}

/* ---- inputs ---- */
/* B' d */
VEC void winograd_input_1d(const vf d[EDGE], vf t[EDGE])
{
    vf two = vf_set1(2), four = vf_set1(4), five = vf_set1(5);
    vf a = vf_fnma(four, d[2], d[4]), b = vf_fnma(four, d[1], d[3]), c = vf_sub(d[4], d[2]), e = vf_sub(d[3], d[1]);
    t[0] = vf_fma(four, d[0], vf_fnma(five, d[2], d[4]));
    t[1] = vf_add(a, b);
    t[2] = vf_sub(a, b);
    t[3] = vf_fma(two, e, c);
    t[4] = vf_fnma(two, e, c);
    t[5] = vf_fma(four, d[1], vf_fnma(five, d[3], d[5]));
}

/* 6 x 6 vectors of the frame -> one vector of every point */
static void winograd_input(const float *x, int64_t row, float *out, int64_t plane)
{
    _Alignas(64) float half[EDGE][EDGE * VL];
    vf d[EDGE], t[EDGE];
    for (int j = 0; j < EDGE; j++) {
#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++) d[i] = vf_load(x + i * row + j * VL);
        winograd_input_1d(d, t);
#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++) vf_store(half[i] + j * VL, t[i]);
    }
    for (int i = 0; i < EDGE; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < EDGE; j++) d[j] = vf_load(half[i] + j * VL);
        winograd_input_1d(d, t);
#pragma GCC unroll 6
        for (int j = 0; j < EDGE; j++) vf_store(out + (i * EDGE + j) * plane, t[j]);
    }
}

/* `count` planes of the image from input row y and column -pad on; what is outside is zero. */
static void winograd_frame(const winograd *w, const float *image, int64_t count, int64_t y, float *frame)
{
    const tb_conv_args *a = w->a;
    int64_t left = a->pad[1], row = w->frame_w * VL, plane = a->h * a->w;
    int64_t width = min_i64(a->w, w->frame_w - left), right = w->frame_w - left - width;
    for (int64_t i = 0; i < w->frame_h; i++) {
        bool inside = y + i >= 0 && y + i < a->h && width > 0;
        memset(frame + i * row, 0, (size_t)(inside ? left * VL : row) * sizeof(float));
        if (inside) memset(frame + (i + 1) * row - right * VL, 0, (size_t)(right * VL) * sizeof(float));
    }
    int64_t first = max_i64(y, 0), last = min_i64(y + w->frame_h, a->h);
    int64_t i = first - y, j = 0;
    for (int64_t p = first * a->w; p < last * a->w; p += VL) {
        int64_t n = min_i64(VL, last * a->w - p);
        vf r[VL];
        for (int64_t c = 0; c < VL; c++) r[c] = c < count ? vf_load_part(image + c * plane + p, n) : vf_zero();
        vf_transpose(r);
        for (int64_t k = 0; k < n; k++) {
            if (j < width) vf_store(frame + i * row + (left + j) * VL, r[k]);
            if (++j == a->w) j = 0, i++;
        }
    }
}

/* ---- products ---- */
typedef struct winograd_tile {
    const float *in, *weight; /* rows in_row apart; [channel][NR] */
    float *out;               /* rows out_row apart */
    int64_t in_row, out_row, channels;
} winograd_tile;

VEC void winograd_products(const int tiles, const int vectors, const winograd_tile *t)
{
    vf acc[MR][NV];
    const float *x = t->in, *w = t->weight;
#pragma GCC unroll 16
    for (int i = 0; i < tiles; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = vf_zero();
    for (int64_t k = 0; k < t->channels; k++, x++, w += NR) {
        vf held[NV];
        __builtin_prefetch(w + 16 * NR);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) held[v] = vf_load(w + v * VL);
#pragma GCC unroll 16
        for (int i = 0; i < tiles; i++) {
            vf one = vf_set1(x[i * t->in_row]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[i][v] = vf_fma(one, held[v], acc[i][v]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < tiles; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) vf_store(t->out + i * t->out_row + v * VL, acc[i][v]);
}

typedef void (*winograd_fn)(const winograd_tile *);
#define WINOGRAD_FN(tiles, vectors)                                                                                    \
    static void winograd_##tiles##_##vectors(const winograd_tile *t)                                                   \
    {                                                                                                                  \
        if (tiles <= MR && vectors <= NV) winograd_products(tiles <= MR ? tiles : 1, vectors <= NV ? vectors : 1, t);  \
    }
#define WINOGRAD_FNS(tiles) WINOGRAD_FN(tiles, 1) WINOGRAD_FN(tiles, 2) WINOGRAD_FN(tiles, 4)
#define WINOGRAD_ENTRY(tiles)                                                                                          \
    {                                                                                                                  \
        winograd_##tiles##_1, NV == 4 ? winograd_##tiles##_4 : winograd_##tiles##_2                                    \
    }
WINOGRAD_FNS(1)
WINOGRAD_FNS(2) WINOGRAD_FNS(3) WINOGRAD_FNS(4) WINOGRAD_FNS(5) WINOGRAD_FNS(6) WINOGRAD_FNS(7) WINOGRAD_FNS(8)
    WINOGRAD_FNS(9) WINOGRAD_FNS(10) WINOGRAD_FNS(11) WINOGRAD_FNS(12) WINOGRAD_FNS(13) WINOGRAD_FNS(14)
    /* of `tiles` rows by one vector or a panel */
    static const winograd_fn winograd_fns[14][2] = {
        WINOGRAD_ENTRY(1),  WINOGRAD_ENTRY(2),  WINOGRAD_ENTRY(3),  WINOGRAD_ENTRY(4), WINOGRAD_ENTRY(5),
        WINOGRAD_ENTRY(6),  WINOGRAD_ENTRY(7),  WINOGRAD_ENTRY(8),  WINOGRAD_ENTRY(9), WINOGRAD_ENTRY(10),
        WINOGRAD_ENTRY(11), WINOGRAD_ENTRY(12), WINOGRAD_ENTRY(13), WINOGRAD_ENTRY(14)};
_Static_assert(MR <= 14 && (NV == 2 || NV == 4), "the tiles above");

static void winograd_multiply(const winograd *w, const float *in, float *out, int64_t tiles)
{
    int64_t panels = w->o_row / NR, blocks = div_up(tiles, MR), c = w->a->c;
    winograd_tile t = {.in_row = w->c_row, .out_row = w->o_row, .channels = c};
    for (int64_t point = 0; point < POINTS; point++)
        for (int64_t panel = 0; panel < panels; panel++) {
            bool is_one_vector = w->a->o - panel * NR <= VL;
            t.weight = (const float *)w->a->packed_weight + (point * panels + panel) * c * NR;
            for (int64_t b = 0; b < blocks; b++) {
                int64_t from = b * tiles / blocks, n = (b + 1) * tiles / blocks - from;
                t.in = in + point * w->in_plane + from * w->c_row;
                t.out = out + point * w->out_plane + from * w->o_row + panel * NR;
                winograd_fns[n - 1][!is_one_vector](&t);
            }
        }
}

/* ---- results ---- */
/* A' d; of four rows the first `m` are meant */
VEC void winograd_output_1d(const int m, const vf d[EDGE], vf t[4])
{
    vf a = vf_add(d[1], d[2]), b = vf_sub(d[1], d[2]), c = vf_add(d[3], d[4]), e = vf_sub(d[3], d[4]);
    t[0] = vf_add(vf_add(d[0], a), c);
    t[1] = vf_fma(vf_set1(2), e, b);
    if (m == 2) t[1] = vf_add(t[1], d[5]);
    if (m == 2) return;
    t[2] = vf_fma(vf_set1(4), c, a);
    t[3] = vf_add(vf_fma(vf_set1(8), e, b), d[5]);
}

VEC void winograd_output_tile(const int m, const float *in, int64_t plane, float tile[4][4 * VL])
{
    _Alignas(64) float half[4][EDGE * VL];
    vf d[EDGE], t[4];
    for (int j = 0; j < EDGE; j++) {
#pragma GCC unroll 6
        for (int i = 0; i < EDGE; i++) d[i] = vf_load(in + (i * EDGE + j) * plane);
        winograd_output_1d(m, d, t);
#pragma GCC unroll 4
        for (int i = 0; i < m; i++) vf_store(half[i] + j * VL, t[i]);
    }
    for (int i = 0; i < m; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < EDGE; j++) d[j] = vf_load(half[i] + j * VL);
        winograd_output_1d(m, d, t);
#pragma GCC unroll 4
        for (int j = 0; j < m; j++) vf_store(tile[i] + j * VL, t[j]);
    }
}

VEC vf greater_of(vf a, vf b) { return vf_select(vf_isnan(a), a, vf_max(a, b)); } /* NaN wins */

/* The tile whose first output is (y, x) of the band -> results [row][column][VL]; pooled: the greatest of every 2x2. */
static void winograd_output(const winograd *w, const float *in, int64_t y, int64_t x, int64_t rows, float *result)
{
    _Alignas(64) float tile[4][4 * VL];
    int64_t width = w->a->ow;
    if (w->m == 4)
        winograd_output_tile(4, in, w->out_plane, tile);
    else
        winograd_output_tile(2, in, w->out_plane, tile);
    if (!w->a->is_pooled) {
        for (int64_t i = 0; i < min_i64(w->m, rows - y); i++)
            memcpy(result + ((y + i) * width + x) * VL, tile[i],
                   (size_t)(min_i64(w->m, width - x) * VL) * sizeof(float));
        return;
    }
    for (int64_t i = 0; i + 2 <= min_i64(w->m, rows - y); i += 2)
        for (int64_t j = 0; j + 2 <= min_i64(w->m, width - x); j += 2)
            vf_store(result + ((y + i) / 2 * (width / 2) + (x + j) / 2) * VL,
                     greater_of(greater_of(vf_load(tile[i] + j * VL), vf_load(tile[i] + (j + 1) * VL)),
                                greater_of(vf_load(tile[i + 1] + j * VL), vf_load(tile[i + 1] + (j + 1) * VL))));
}

/* results [pixel][VL] of `count` filters from `o` on -> their planes, from pixel `at` on, with the epilogue */
static void winograd_finish(const winograd *w, const float *result, int64_t pixels, int64_t image, int64_t o,
                            int64_t count, int64_t at)
{
    const tb_conv_args *a = w->a;
    int64_t plane = a->is_pooled ? (a->oh / 2) * (a->ow / 2) : a->oh * a->ow, first = (image * a->o + o) * plane + at;
    const float *bias = a->bias, *residual = a->residual;
    for (int64_t p = 0; p < pixels; p += VL) {
        vf r[VL];
        for (int i = 0; i < VL; i++) r[i] = vf_load(result + (p + i) * VL);
        vf_transpose(r);
        for (int64_t c = 0; c < count; c++) {
            int64_t to = first + c * plane + p;
            epilogue_vector(r[c], (float *)a->out + to, pixels - p, false, bias,
                            bias ? vf_set1(bias[o + c]) : vf_zero(), residual ? residual + to : NULL, a->act);
        }
    }
}

/* ---- units [begin, end), in the order images, band ---- */
static void winograd_units(void *arg, int64_t begin, int64_t end, int thread)
{
    const winograd *w = arg;
    const tb_conv_args *a = w->a;
    float *frame = (float *)a->scratch + thread * w->thread_floats, *result = frame + w->frame_floats,
          *in = result + w->result_floats, *out = in + POINTS * w->in_plane;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t image0 = unit / w->bands * w->images, images = min_i64(w->images, a->n - image0);
        int64_t row0 = unit % w->bands * w->band_rows, tile_rows = min_i64(w->band_rows, w->tiles_h - row0);
        int64_t tiles = tile_rows * w->tiles_w, rows = min_i64(tile_rows * w->m, a->oh - row0 * w->m);
        for (int64_t n = 0; n < images; n++)
            for (int64_t c = 0; c < a->c; c += VL) {
                const float *image = (const float *)a->x + ((image0 + n) * a->c + c) * a->h * a->w;
                winograd_frame(w, image, min_i64(VL, a->c - c), row0 * w->m - a->pad[0], frame);
                for (int64_t t = 0; t < tiles; t++)
                    winograd_input(frame + (t / w->tiles_w * w->frame_w + t % w->tiles_w) * w->m * VL, w->frame_w * VL,
                                   in + (n * tiles + t) * w->c_row + c, w->in_plane);
            }
        winograd_multiply(w, in, out, images * tiles);
        for (int64_t n = 0; n < images; n++)
            for (int64_t o = 0; o < a->o; o += VL) {
                for (int64_t t = 0; t < tiles; t++)
                    winograd_output(w, out + (n * tiles + t) * w->o_row + o, t / w->tiles_w * w->m,
                                    t % w->tiles_w * w->m, rows, result);
                int64_t pixels = a->is_pooled ? rows / 2 * (a->ow / 2) : rows * a->ow;
                int64_t at = a->is_pooled ? row0 * w->m / 2 * (a->ow / 2) : row0 * w->m * a->ow;
                winograd_finish(w, result, pixels, image0 + n, o, min_i64(VL, a->o - o), at);
            }
    }
}

static size_t winograd_scratch_bytes(const void *args)
{
    winograd w = winograd_of(args);
    return (size_t)(tb_pool_threads(w.a->pool) * w.thread_floats) * sizeof(float);
}

static void run_winograd(const void *args)
{
    winograd w = winograd_of(args);
    if (w.a->n > 0 && w.a->o > 0) tb_pool_run(w.a->pool, w.units, winograd_units, &w);
}

#define WINOGRAD_KERNEL                                                                                                \
    {                                                                                                                  \
        .name = "conv2d_winograd_f32_" VEC_ISA_NAME, .primitive = "conv2d_winograd", .dtype = TB_F32, .isa = VEC_ISA,  \
        .supports = winograd_supports, .run = run_winograd, .scratch_bytes = winograd_scratch_bytes,                   \
        .pack_bytes = winograd_pack_bytes, .pack = winograd_pack                                                       \
    }
