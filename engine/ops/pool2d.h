/* What pooling shares whatever its dtypes and layouts are: attributes, geometry, windows. */
#pragma once
#include "tb_op.h"
#include "tb_ops.h"

typedef struct tbi_pool2d_attrs {
    tb_ints kernel, stride, pad;
    bool exclude_pad; /* average */
    tb_ints size;     /* backward ops: height and width of the input */
} tbi_pool2d_attrs;
#define POOL_WINDOW_ATTRS                                                                                              \
    TB_ATTR_LIST(tbi_pool2d_attrs, kernel, "window: height, width"),                                                   \
        TB_ATTR_LIST(tbi_pool2d_attrs, stride, "step of the window: height, width"),                                   \
        TB_ATTR_LIST(tbi_pool2d_attrs, pad, "padding on both sides: height, width")

typedef struct tbi_pool_geometry {
    int64_t planes, in[2], out[2]; /* N C; height, width */
    const tbi_pool2d_attrs *a;
} tbi_pool_geometry;

/* Of an input [N, C, H, W] of that rank; fails where the windows do not fit it. `a` is borrowed. */
TB_MUST_USE tb_status tbi_pool_geometry_of(const char *op, const tbi_pool2d_attrs *a, int rank, const int64_t *x,
                                           tbi_pool_geometry *to);

/* The input places [top, bottom) x [left, right) under a window, cut at the image's border. */
typedef struct tbi_pool_window {
    int64_t top, bottom, left, right;
} tbi_pool_window;

tbi_pool_window tbi_pool_window_at(const tbi_pool_geometry *g, int64_t place); /* of output place y * W' + x */

tb_tensor *tbi_pool2d_call(const tb_op *op, tb_tensor *x, const tb_pool2d_opts *o); /* x is made contiguous */
