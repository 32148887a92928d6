/* An image as the matrix that a convolution multiplies (im2col), without making that matrix.
 *
 * A thread first copies the image into a frame: zeros around it (padding), zeros between its pixels (`insert`: the
 * gradient of a strided convolution), its columns sorted by their remainder modulo `phases` (the step of a strided
 * convolution whose outputs fill vectors). In the frame, row k = (channel, kh, kw) of the matrix is one offset, and
 * neighbouring outputs are
 * neighbours in memory: a panel is packed by plain vector loads. */
#pragma once
#include "gemm_block.h"

typedef struct frame {
    int64_t channels, in_h, in_w;       /* the image */
    int64_t top, left;                  /* frame coordinates of its first pixel; may be negative */
    int64_t insert_h, insert_w;         /* distance of its pixels in the frame */
    int64_t step_h, step_w;             /* distance of neighbouring outputs in the frame */
    int64_t phases;                     /* step_w, or 1: columns stay in their order */
    int64_t out_h, out_w, kh, kw, dilation_h, dilation_w;
    bool flipped;                       /* the last tap comes first */
    bool plain;                         /* 1x1 taps on the image as it is: no copy is needed */
    int64_t rows, row, phase, plane;    /* layout: channel, row, column % phases, column / phases */
} frame;

enum { FRAME_SLACK = 64 }; /* floats before and after, so that a vector may start before a run of outputs */

static void frame_layout(frame *f)
{
    f->rows = (f->out_h - 1) * f->step_h + (f->kh - 1) * f->dilation_h + 1;
    f->phase = div_up((f->out_w - 1) * f->step_w + (f->kw - 1) * f->dilation_w + 1, f->phases);
    f->row = f->phase * f->phases;
    f->plane = f->rows * f->row;
    f->plain = f->kh * f->kw == 1 && f->step_h * f->step_w * f->insert_h * f->insert_w == 1 && f->top == 0 &&
               f->left == 0 && f->in_h == f->rows && f->in_w == f->row;
}

static int64_t frame_floats(const frame *f, int64_t channels)
{
    return f->plain ? 0 : round_up(channels * f->plane + 2 * FRAME_SLACK, 16);
}

/* VL columns of a frame's row from x on, in their order: pixels of an image's row, zeros beside it. */
VEC vf frame_columns(const frame *f, const float *src, int64_t x)
{
    int64_t at = x - f->left;
    if (at >= 0 && at + VL <= f->in_w) return vf_load(src + at);
    return vf_load_if(vm_between((int)clip_i64(-at, 0, VL), (int)clip_i64(f->in_w - at, 0, VL)), src + at);
}

/* Whole vectors are written, in ascending order: what reaches past the row is overwritten by the next one, or lies in
 * the slack. */
VEC void frame_row(const frame *f, float *dst, const float *src)
{
    if (src && f->insert_w == 1 && f->phases == 1) {
        for (int64_t x = 0; x < f->row; x += VL) vf_store(dst + x, frame_columns(f, src, x));
        return;
    }
    if (src && f->insert_w == 1 && f->phases == 2) {
        for (int64_t x = 0; x < f->phase; x += VL) {
            vf even, odd;
            vf_unzip(frame_columns(f, src, 2 * x), frame_columns(f, src, 2 * x + VL), &even, &odd);
            vf_store_part(dst + x, even, f->phase - x);
            vf_store(dst + f->phase + x, odd);
        }
        return;
    }
    for (int64_t x = 0; x < f->row; x += VL) vf_store(dst + x, vf_zero());
    if (!src) return;
    for (int64_t i = 0; i < f->in_w; i++) {
        int64_t x = i * f->insert_w + f->left;
        if (x >= 0 && x < f->row) dst[x % f->phases * f->phase + x / f->phases] = src[i];
    }
}

/* Fills the frame of channels [from, to) of an image at `scratch`; returns the address of the first one's origin. */
static const float *frame_fill(const frame *f, float *scratch, const float *image, int64_t from, int64_t to)
{
    if (f->plain) return image + from * f->plane;
    float *origin = scratch + FRAME_SLACK;
    memset(scratch, 0, FRAME_SLACK * sizeof(float));
    memset(origin + (to - from) * f->plane, 0, FRAME_SLACK * sizeof(float));
    for (int64_t c = from; c < to; c++)
        for (int64_t y = 0; y < f->rows; y++) {
            int64_t at = y - f->top, i = at / f->insert_h;
            bool is_pixel = at >= 0 && at % f->insert_h == 0 && i < f->in_h;
            frame_row(f, origin + (c - from) * f->plane + y * f->row,
                      is_pixel ? image + (c * f->in_h + i) * f->in_w : NULL);
        }
    return origin;
}

/* Where tap (kh, kw) of output (0, 0) is, from its channel's plane. */
VEC int64_t frame_tap(const frame *f, int64_t kh, int64_t kw)
{
    int64_t y = (f->flipped ? f->kh - 1 - kh : kh) * f->dilation_h,
            x = (f->flipped ? f->kw - 1 - kw : kw) * f->dilation_w;
    return y * f->row + x % f->phases * f->phase + x / f->phases;
}

/* The lanes of a panel's vectors, as runs of outputs in one row: lane l of run s is at[s] + l from the tap. */
typedef struct panel_runs {
    int runs[NV];
    int first_lane[NV][VL];
    int64_t at[NV][VL];
} panel_runs;

static void find_runs(const frame *f, int64_t j, int cols, panel_runs *p)
{
    for (int v = 0; v < NV; v++) {
        int lanes = (int)max_i64(0, min_i64(cols - v * VL, VL)), n = 0;
        for (int lane = 0; lane < lanes || n == 0;) {
            int64_t at = min_i64(j + v * VL + lane, f->out_h * f->out_w - 1), y = at / f->out_w, x = at % f->out_w;
            p->first_lane[v][n] = lane;
            p->at[v][n++] = y * f->step_h * f->row + x - lane;
            lane += (int)min_i64(f->out_w - x, VL);
        }
        p->runs[v] = n;
    }
}

/* Where the taps of rows [k0, k1) of the matrix are, from the frame's origin. */
static void find_taps(const frame *f, int64_t k0, int64_t k1, int64_t *taps)
{
    int64_t each = f->kh * f->kw, channel = k0 / each, kh = k0 % each / f->kw, kw = k0 % f->kw;
    for (int64_t k = k0; k < k1; k++) {
        *taps++ = channel * f->plane + frame_tap(f, kh, kw);
        if (++kw < f->kw) continue;
        kw = 0;
        if (++kh == f->kh) kh = 0, channel++;
    }
}

/* One vector of a panel, of `runs` runs, for n rows. */
VEC void pack_runs(const int runs, float *dst, const float *src, const int64_t *taps, int64_t n, const int *first_lane,
                   const int64_t *at)
{
    for (int64_t k = 0; k < n; k++, dst += NR) {
        vf x = vf_load(src + taps[k] + at[0]);
#pragma GCC unroll 4
        for (int s = 1; s < runs; s++) x = vf_select(vm_first(first_lane[s]), x, vf_load(src + taps[k] + at[s]));
        vf_store(dst, x);
    }
}

/* n rows of the matrix, outputs [j, j + cols), as a panel. Lanes beyond cols hold whatever lies there. */
static void pack_b_image(float *dst, const frame *f, const float *origin, const int64_t *taps, int64_t n, int64_t j,
                         int cols)
{
    if (f->plain) {
        pack_b_rows(dst, origin + taps[0] + j, f->plane, n, cols);
        return;
    }
    panel_runs p;
    find_runs(f, j, cols, &p);
    for (int v = 0; v < NV; v++, dst += VL) {
        if (p.runs[v] == 1) pack_runs(1, dst, origin, taps, n, p.first_lane[v], p.at[v]);
        else if (p.runs[v] == 2) pack_runs(2, dst, origin, taps, n, p.first_lane[v], p.at[v]);
        else pack_runs(p.runs[v], dst, origin, taps, n, p.first_lane[v], p.at[v]);
    }
}

/* Row k of the matrix (its channel counted from the frame's first), outputs [p0, p1). */
static void copy_image_row(float *dst, const frame *f, const float *origin, int64_t k, int64_t p0, int64_t p1)
{
    int64_t taps = f->kh * f->kw;
    const float *src = origin + k / taps * f->plane + frame_tap(f, k % taps / f->kw, k % f->kw);
    for (int64_t p = p0; p < p1;) {
        int64_t y = p / f->out_w, x = p % f->out_w, n = min_i64(f->out_w - x, p1 - p);
        memcpy(dst + (p - p0), src + y * f->step_h * f->row + x, (size_t)n * sizeof(float));
        p += n;
    }
}
