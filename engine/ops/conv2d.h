/* The geometry of a convolution, which its ops share whatever their dtypes and layouts are. */
#pragma once
#include "tb_op.h"

/* What the attributes of conv2d and conv2d_u8s8 begin with. */
typedef struct tbi_conv_window {
    tb_ints stride, pad, dilation; /* height, width */
    int64_t groups;
} tbi_conv_window;

typedef struct tbi_conv_geometry {
    int64_t n, c, o, groups, cg, og;  /* cg, og: channels of a group */
    int64_t in[2], kernel[2], out[2]; /* height, width */
    int64_t stride[2], pad[2], dilation[2];
} tbi_conv_geometry;

/* Of an input x [N, C, H, W] and a weight w [O, C / groups, P, Q]; fails where they do not fit each other. */
TB_MUST_USE tb_status tbi_conv_geometry_of(const char *op, tbi_conv_window a, const int64_t *x, const int64_t *w,
                                           tbi_conv_geometry *to);

/* Place in the input that output place `o` sees through window element `k`; negative in the padding. */
static inline int64_t tbi_conv_input_place(const tbi_conv_geometry *g, int axis, int64_t o, int64_t k)
{
    int64_t i = o * g->stride[axis] - g->pad[axis] + k * g->dilation[axis];
    return i < g->in[axis] ? i : -1;
}

typedef struct tbi_conv2d_u8s8_attrs {
    tb_ints stride, pad, dilation;
    int64_t groups, x_zero; /* x_zero: zero point of x */
    bool to_u8;
    int64_t zero, low;      /* of the result */
} tbi_conv2d_u8s8_attrs;

typedef struct tbi_conv2d_winograd_attrs {
    tb_ints pad;
    int64_t act; /* tb_epilogue_act */
    bool is_pooled;
} tbi_conv2d_winograd_attrs;
