/* conv2d_u8s8 where every group is one channel (depthwise), to u8. Channels are adjacent, so a vector holds
 * the same tap of BLOCK channels; the bytes of TAPS taps are interleaved, for instructions that add products
 * of neighbours.
 *
 * Rows of the image are copied into a frame with zero points around them and channels padded to whole blocks.
 * The sums of a block lie in VECTORS vectors of LANES, in the order that the interleaving leaves: weights,
 * offsets and scales are put into that order once.
 *
 * The including file defines BLOCK, TAPS, VECTORS, LANES, wtap (a packed weight), place(vector, lane) (the
 * channel of a block that a sum belongs to) and void pixel(at, tap, steps, w, offset, scale, zero, low, out)
 * one pixel of one block: `steps` times TAPS taps, which lie tap[k] bytes behind `at`, with weights
 * w[step][vector][LANES * TAPS], then the epilogue of gemm_u8s8.h; writes BLOCK bytes. */
#pragma once
#include "blocking.h"
#include "sizes.h"
#include "tb_kernel.h"
#include "tb_pool.h"
#include <string.h>

enum { MAX_TAPS = 64 };

static void pixel(const uint8_t *at, const int64_t *tap, int64_t steps, const wtap *w, const int32_t *offset,
                  const float *scale, float zero, float low, uint8_t *out);

typedef struct depthwise {
    const tb_conv_u8s8_args *a;
    int64_t channels, blocks;   /* padded; of BLOCK */
    int64_t steps, width;       /* of TAPS taps; pixels of a row of the frame */
    int64_t chunk_rows, chunks; /* output rows of a chunk, chunks of an image */
    int64_t frame_bytes;
    int64_t tap[MAX_TAPS + TAPS];
    const int32_t *offset;
    const float *scale;
} depthwise;

static bool depthwise_supports(const void *args)
{
    const tb_conv_u8s8_args *a = args;
    bool is_dense = a->x_stride[3] == 1 && a->x_stride[2] == a->c;
    return a->groups == a->c && a->o == a->c && a->c > 1 && a->to_u8 && is_dense && a->kh * a->kw <= MAX_TAPS;
}

static depthwise plan_depthwise(const tb_conv_u8s8_args *a)
{
    int64_t taps = a->kh * a->kw, halo = (a->kh - 1) * a->dilation[0] + 1, threads = tb_pool_threads(a->pool);
    depthwise p = {.a = a,
                   .blocks = div_up(a->c, BLOCK),
                   .steps = div_up(taps, TAPS),
                   .width = (a->ow - 1) * a->stride[1] + (a->kw - 1) * a->dilation[1] + 1};
    p.channels = p.blocks * BLOCK;
    int64_t row = p.width * p.channels;
    for (int64_t t = 0; t < taps; t++)
        p.tap[t] =
            t / a->kw * a->dilation[0] * row + t % a->kw * a->dilation[1] * p.channels; /* behind them: 0 */
    int64_t fit_rows = max_i64((FRAME_CELLS / max_i64(row, 1) - halo) / a->stride[0] + 1, 1);
    p.chunks = max_i64(div_up(a->oh, fit_rows), 1);
    if (a->n * p.chunks < threads && a->oh * a->ow * p.blocks > MIN_CHUNK_PIXELS * threads)
        p.chunks = clip_i64(div_up(threads, max_i64(a->n, 1)), 1, max_i64(a->oh, 1));
    p.chunk_rows = max_i64(div_up(a->oh, p.chunks), 1);
    p.chunks = div_up(a->oh, p.chunk_rows);
    p.frame_bytes = round_up(((p.chunk_rows - 1) * a->stride[0] + halo) * row, 64);
    return p;
}

static size_t depthwise_scratch_bytes(const void *args)
{
    depthwise p = plan_depthwise(args);
    return (size_t)(8 * p.channels + p.frame_bytes * tb_pool_threads(p.a->pool));
}

/* ---- weights: [block][step][vector][LANES][TAPS] ---- */
static size_t depthwise_pack_bytes(const void *args)
{
    depthwise p = plan_depthwise(args);
    return (size_t)(p.channels * p.steps * TAPS) * sizeof(wtap);
}

static void depthwise_pack(const void *args, void *out)
{
    depthwise p = plan_depthwise(args);
    int64_t taps = p.a->kh * p.a->kw;
    wtap *to = out;
    for (int64_t block = 0; block < p.blocks; block++)
        for (int64_t step = 0; step < p.steps; step++)
            for (int v = 0; v < VECTORS; v++)
                for (int lane = 0; lane < LANES; lane++)
                    for (int64_t t = step * TAPS, k = block * BLOCK + place(v, lane); t < (step + 1) * TAPS;
                         t++)
                        *to++ = t < taps && k < p.a->c ? p.a->weight[k * taps + t] : 0;
}

/* Offsets and scales in the order of the sums, at the beginning of the scratch; what is behind the channels
 * is 0. */
static void order_channels(depthwise *p)
{
    int32_t *offset = p->a->scratch;
    float *scale = (float *)offset + p->channels;
    p->offset = offset;
    p->scale = scale;
    for (int64_t at = 0; at < p->channels; at++) {
        int64_t k = at / BLOCK * BLOCK + place((int)(at % BLOCK / LANES), (int)(at % LANES));
        offset[at] = k < p->a->c ? p->a->offset[k] : 0;
        scale[at] = k < p->a->c ? p->a->scale[k] : 0;
    }
}

/* ---- frames ---- */
static void copy_pixels(const depthwise *p, const uint8_t *src, int64_t n, uint8_t *to)
{
    int64_t c = p->a->c;
    if (c == p->channels) {
        memcpy(to, src, (size_t)(n * c));
        return;
    }
    for (int64_t x = 0; x < n; x++, src += c, to += p->channels) {
        memcpy(to, src, (size_t)c);
        memset(to + c, 0, (size_t)(p->channels - c));
    }
}

/* Rows of the image as the chunk from output row i0 on sees them. */
static void fill_frame(const depthwise *p, const uint8_t *image, int64_t i0, int64_t rows, uint8_t *to)
{
    const tb_conv_u8s8_args *a = p->a;
    int64_t top = i0 * a->stride[0] - a->pad[0], left = min_i64(a->pad[1], p->width),
            row = p->width * p->channels;
    int64_t columns = clip_i64(a->w, 0, p->width - left);
    for (int64_t y = top; y < top + rows; y++, to += row) {
        if (y < 0 || y >= a->h) {
            memset(to, a->x_zero, (size_t)row);
            continue;
        }
        memset(to, a->x_zero, (size_t)(left * p->channels));
        copy_pixels(p, image + y * a->x_stride[1], columns, to + left * p->channels);
        memset(to + (left + columns) * p->channels, a->x_zero,
               (size_t)((p->width - left - columns) * p->channels));
    }
}

static void run_block(const depthwise *p, const uint8_t *frame, int64_t block, int64_t rows, uint8_t *out)
{
    const tb_conv_u8s8_args *a = p->a;
    const wtap *w = (const wtap *)a->packed_w + block * BLOCK * p->steps * TAPS;
    const int32_t *offset = p->offset + block * BLOCK;
    const float *scale = p->scale + block * BLOCK;
    int64_t there = min_i64(a->c - block * BLOCK, BLOCK);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < a->ow; j++) {
            const uint8_t *at =
                frame + (i * a->stride[0] * p->width + j * a->stride[1]) * p->channels + block * BLOCK;
            uint8_t *to = out + (i * a->ow + j) * a->c + block * BLOCK, last[BLOCK];
            pixel(at, p->tap, p->steps, w, offset, scale, (float)a->zero, (float)a->low,
                  there == BLOCK ? to : last);
            if (there < BLOCK) memcpy(to, last, (size_t)there);
        }
}

static void depthwise_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    const depthwise *p = arg;
    const tb_conv_u8s8_args *a = p->a;
    uint8_t *frame = (uint8_t *)a->scratch + 8 * p->channels + thread * p->frame_bytes;
    for (int64_t at = begin; at < end; at++) {
        int64_t image = at / p->chunks, i0 = at % p->chunks * p->chunk_rows,
                rows = min_i64(p->chunk_rows, a->oh - i0);
        fill_frame(p, a->x + image * a->x_stride[0], i0,
                   (rows - 1) * a->stride[0] + (a->kh - 1) * a->dilation[0] + 1, frame);
        for (int64_t block = 0; block < p->blocks; block++)
            run_block(p, frame, block, rows, (uint8_t *)a->out + ((image * a->oh + i0) * a->ow) * a->c);
    }
}

static void depthwise_run(const void *args)
{
    depthwise p = plan_depthwise(args);
    if (p.a->oh * p.a->ow <= 0) return;
    order_channels(&p);
    tb_pool_run(p.a->pool, p.a->n * p.chunks, depthwise_chunks, &p);
}

#define DEPTHWISE_U8S8_KERNEL(isa_, name_)                                                                   \
    {                                                                                                        \
        .name = "conv2d_u8s8_depthwise_" name_, .primitive = "conv2d_u8s8", .dtype = TB_I8, .isa = isa_,     \
        .priority = 1, .supports = depthwise_supports, .run = depthwise_run,                                 \
        .scratch_bytes = depthwise_scratch_bytes, .pack_bytes = depthwise_pack_bytes, .pack = depthwise_pack \
    }
