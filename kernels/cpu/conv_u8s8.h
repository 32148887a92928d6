/* conv2d_u8s8: an implicit gemm over channels-last images. Rows are output pixels, columns output channels, and the
 * sum runs along memory: of a kernel row, kw * c bytes of a window are adjacent, so nothing is unfolded.
 *
 * An image is copied into a frame first (zero points around it, cells of the width that the tile multiplies), unless
 * it can be read where it lies. A window is then `runs` stretches of `run` cells, each rounded up to whole quads: the
 * weights behind a run's end are 0. A block is PANELS panels of channels of all pixels of a chunk: its weights stay in
 * L1 while the tiles of pixels pass by.
 *
 * The including file defines `cell` (an element of the frame), `wcell` (of packed weights), packed_place() (of a
 * channel's k-th weight within a quad of a panel), TILE_ROWS, PANELS, and tile(t, rows, panels, out, i, j): the sums of
 * `rows` pixels and 16 * `panels` channels, through the epilogue, to out's rows from i and its columns from j on; those
 * behind its last column are dropped. */
#pragma once
#include "blocking.h"
#include "gemm_u8s8.h"
#include "sizes.h"
#include "tb_pool.h"
#include <string.h>

enum {
    PANEL = TB_U8S8_COLUMNS,
    SLACK = 4, /* cells behind the last run that its last quad may read */
};

typedef struct tile_job {
    const cell *row[TILE_ROWS]; /* where the window of each pixel begins */
    const wcell *w;             /* [panel][quad][PANEL * 4] */
    int64_t panel_cells;        /* between panels of w */
    int64_t kh, kw, step_h, step_w, quads; /* runs: kh * kw, so many cells apart, of so many quads */
} tile_job;

static void tile(const tile_job *t, int rows, int panels, const tb_gemm_u8s8_args *out, int64_t i, int64_t j);

typedef struct conv_u8s8 {
    tb_conv_u8s8_args a;
    int64_t cg, og, panels;      /* of a group: input and output channels, panels of the latter */
    int64_t run, kh, kw, quads;  /* cells of a run; runs down and across; quads of a run */
    int64_t width, step_h;       /* of the frame: pixels of a row; cells between runs downwards */
    int64_t chunk_rows, chunks;  /* output rows of a chunk, chunks of an image */
    int64_t frame_cells;         /* 0: x is read where it lies */
} conv_u8s8;

static conv_u8s8 plan_conv(const tb_conv_u8s8_args *args)
{
    conv_u8s8 p = {.a = *args};
    tb_conv_u8s8_args *a = &p.a;
    if (a->c == 1) a->x_stride[3] = 1;
    bool is_dense = a->x_stride[3] == 1 && a->x_stride[2] == a->c && a->x_stride[1] == a->w * a->c;
    bool is_pixelwise = a->kh * a->kw == 1 && a->stride[0] * a->stride[1] == 1 && a->pad[0] + a->pad[1] == 0;
    if (is_pixelwise && is_dense && (a->x_stride[0] == a->h * a->w * a->c || a->n == 1)) { /* rows of one image */
        a->h *= a->n, a->oh *= a->n;
        a->n = 1;
    }
    bool is_adjacent = a->groups == 1 && a->dilation[1] == 1;
    p.cg = a->c / a->groups, p.og = a->o / a->groups;
    p.panels = div_up(p.og, PANEL);
    p.run = is_adjacent ? a->kw * a->c : p.cg;
    p.kh = a->kh, p.kw = is_adjacent ? 1 : a->kw;
    p.quads = div_up(p.run, 4);

    bool fits = (a->oh - 1) * a->stride[0] + (a->kh - 1) * a->dilation[0] < a->h &&
                (a->ow - 1) * a->stride[1] + (a->kw - 1) * a->dilation[1] < a->w;
    bool is_direct = sizeof(cell) == 1 && is_dense && a->pad[0] + a->pad[1] == 0 && p.run % 4 == 0 && fits;
    p.width = is_direct ? a->w : (a->ow - 1) * a->stride[1] + (a->kw - 1) * a->dilation[1] + 1;
    p.step_h = a->dilation[0] * p.width * a->c;

    int64_t threads = tb_pool_threads(a->pool), halo = (a->kh - 1) * a->dilation[0] + 1;
    int64_t fit_rows = max_i64((FRAME_CELLS / max_i64(p.width * a->c, 1) - halo) / a->stride[0] + 1, 1);
    p.chunks = max_i64(div_up(a->oh, fit_rows), 1);
    if (a->n * p.chunks < threads && a->n * a->oh * a->ow * a->o * p.kh * p.kw * p.run > MACS_PER_THREAD)
        p.chunks = clip_i64(div_up(threads, max_i64(a->n, 1)), 1, max_i64(a->oh, 1));
    p.chunk_rows = max_i64(div_up(a->oh, p.chunks), 1);
    p.chunks = div_up(a->oh, p.chunk_rows);
    int64_t frame_rows = (p.chunk_rows - 1) * a->stride[0] + halo;
    p.frame_cells = is_direct ? 0 : round_up(frame_rows * p.width * a->c + SLACK, 64);
    return p;
}

static size_t conv_scratch_bytes(const void *args)
{
    conv_u8s8 p = plan_conv(args);
    return (size_t)(p.frame_cells * tb_pool_threads(p.a.pool)) * sizeof(cell);
}

/* ---- weights: [group][panel][run][quad][PANEL * 4], in the order of the tile's vectors ---- */
static size_t conv_pack_bytes(const void *args)
{
    conv_u8s8 p = plan_conv(args);
    return (size_t)(p.a.groups * p.panels * p.kh * p.kw * p.quads * PANEL * 4) * sizeof(wcell);
}

static void conv_pack(const void *args, void *out)
{
    conv_u8s8 p = plan_conv(args);
    wcell *to = out;
    int64_t runs = p.kh * p.kw;
    memset(out, 0, conv_pack_bytes(args));
    for (int64_t o = 0; o < p.a.o; o++) {
        int64_t column = o % p.og, panel = o / p.og * p.panels + column / PANEL;
        for (int64_t r = 0; r < runs; r++)
            for (int64_t k = 0; k < p.run; k++)
                to[((panel * runs + r) * p.quads + k / 4) * PANEL * 4 + packed_place(column % PANEL, k % 4)] =
                    p.a.weight[(o * runs + r) * p.run + k];
    }
}

/* ---- frames ---- */
static void fill_cells(cell *to, int64_t n, cell value)
{
    for (int64_t i = 0; i < n; i++) to[i] = value;
}

/* Rows of the image as the chunk from output row i0 on sees them. */
static void fill_frame(const conv_u8s8 *p, const uint8_t *image, int64_t i0, int64_t rows, cell *to)
{
    const tb_conv_u8s8_args *a = &p->a;
    int64_t top = i0 * a->stride[0] - a->pad[0], left = min_i64(a->pad[1], p->width), row = p->width * a->c;
    int64_t columns = clip_i64(a->w, 0, p->width - left);
    bool is_dense = a->x_stride[3] == 1 && a->x_stride[2] == a->c;
    cell zero = (cell)a->x_zero;
    for (int64_t y = 0; y < rows; y++, to += row) {
        const uint8_t *src = image + (top + y) * a->x_stride[1];
        if (top + y < 0 || top + y >= a->h) {
            fill_cells(to, row, zero);
            continue;
        }
        cell *at = to + left * a->c;
        fill_cells(to, left * a->c, zero);
        if (is_dense && sizeof(cell) == 1)
            memcpy(at, src, (size_t)(columns * a->c));
        else if (is_dense)
            for (int64_t k = 0; k < columns * a->c; k++) at[k] = src[k];
        else
            for (int64_t x = 0; x < columns; x++)
                for (int64_t k = 0; k < a->c; k++) at[x * a->c + k] = src[x * a->x_stride[2] + k * a->x_stride[3]];
        fill_cells(at + columns * a->c, row - (left + columns) * a->c, zero);
    }
    fill_cells(to, SLACK, 0);
}

/* ---- chunks ---- */
/* Output pixels [first, first + pixels) of the image at `origin`, whose pixel 0 is the first one of chunk row 0. */
static void run_group(const conv_u8s8 *p, const cell *origin, int64_t group, int64_t first, int64_t pixels)
{
    const tb_conv_u8s8_args *a = &p->a;
    tb_gemm_u8s8_args out = {.n = p->og, .offset = a->offset + group * p->og, .scale = a->scale + group * p->og,
                             .c = (char *)a->out + (size_t)(group * p->og) * (a->to_u8 ? 1 : sizeof(float)),
                             .c_row = a->o, .to_u8 = a->to_u8, .zero = a->zero, .low = a->low};
    tile_job t = {.kh = p->kh, .kw = p->kw, .step_h = p->step_h, .step_w = a->dilation[1] * a->c, .quads = p->quads};
    int64_t row_step = a->stride[0] * p->width * a->c, pixel_step = a->stride[1] * a->c;
    int64_t tiles = div_up(pixels, TILE_ROWS);
    t.panel_cells = p->kh * p->kw * p->quads * PANEL * 4;
    for (int64_t panel = 0; panel < p->panels; panel += PANELS) {
        int panels = (int)min_i64(p->panels - panel, PANELS);
        int64_t i = 0, j = 0;
        t.w = (const wcell *)a->packed_w + (group * p->panels + panel) * t.panel_cells;
        for (int64_t at = 0; at < tiles; at++) { /* tiles differ by at most one row */
            int64_t begin = at * pixels / tiles;
            int rows = (int)((at + 1) * pixels / tiles - begin);
            for (int r = 0; r < rows; r++) {
                t.row[r] = origin + i * row_step + j * pixel_step + group * p->cg;
                if (++j == a->ow) j = 0, i++;
            }
            tile(&t, rows, panels, &out, first + begin, panel * PANEL);
        }
    }
}

static void run_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    const conv_u8s8 *p = arg;
    const tb_conv_u8s8_args *a = &p->a;
    cell *frame = (cell *)a->scratch + thread * p->frame_cells;
    for (int64_t at = begin; at < end; at++) {
        int64_t image = at / p->chunks, i0 = at % p->chunks * p->chunk_rows, rows = min_i64(p->chunk_rows, a->oh - i0);
        const uint8_t *x = a->x + image * a->x_stride[0];
        const cell *origin = frame;
        if (p->frame_cells) fill_frame(p, x, i0, (rows - 1) * a->stride[0] + (a->kh - 1) * a->dilation[0] + 1, frame);
        else origin = (const cell *)(const void *)(x + i0 * a->stride[0] * a->w * a->c);
        for (int64_t group = 0; group < a->groups; group++)
            run_group(p, origin, group, (image * a->oh + i0) * a->ow, rows * a->ow);
    }
}

static void conv_run(const void *args)
{
    conv_u8s8 p = plan_conv(args);
    if (p.a.oh * p.a.ow * p.a.o > 0) tb_pool_run(p.a.pool, p.a.n * p.chunks, run_chunks, &p);
}

#define CONV_U8S8_KERNEL(isa_, name_)                                                                                 \
    {                                                                                                                 \
        .name = "conv2d_u8s8_" name_, .primitive = "conv2d_u8s8", .dtype = TB_I8, .isa = isa_, .run = conv_run,       \
        .scratch_bytes = conv_scratch_bytes, .pack_bytes = conv_pack_bytes, .pack = conv_pack                         \
    }
