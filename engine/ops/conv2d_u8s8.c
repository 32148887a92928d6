/* conv2d_u8s8: convolution in integers, channels last: the scheme of quantized.c. Padding is pixels of x's zero point,
 * so that `offset` holds -zero_x * (sum of a channel's weights) wherever the window is. */
#include "conv2d.h"
#include "tb_ops.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
/* x u8 [N, H, W, C], w s8 [O, P, Q, C / groups], offset i32 [O], scale f32 [O] -> f32 [N, H', W', O], or u8 with the
 * zero point `zero` where to_u8; values below `low` become it (the zero point: a relu). opts NULL: all defaults. */
typedef struct tb_u8s8_opts {
    int64_t x_zero; /* zero point of x */
    bool to_u8;
    int64_t zero, low;
} tb_u8s8_opts;
tb_tensor *tb_conv2d_u8s8(tb_tensor *x, tb_tensor *w, tb_tensor *offset, tb_tensor *scale, const tb_conv2d_opts *opts,
                          const tb_u8s8_opts *to);
//<<<
#endif

enum { MAX_DEPTH = 66311 /* 255 * 127 * K stays below 2^31 */ };

static const tb_attr conv2d_u8s8_attr_table[] = {
    TB_ATTR_LIST(tbi_conv2d_u8s8_attrs, stride, "step of the window: height, width"),
    TB_ATTR_LIST(tbi_conv2d_u8s8_attrs, pad, "zero points on both sides: height, width"),
    TB_ATTR_LIST(tbi_conv2d_u8s8_attrs, dilation, "distance of the window's elements: height, width"),
    TB_ATTR_INT(tbi_conv2d_u8s8_attrs, groups, 1, "channels are split into this many independent groups"),
    TB_ATTR_INT(tbi_conv2d_u8s8_attrs, x_zero, 0, "zero point of x"),
    TB_ATTR_BOOL(tbi_conv2d_u8s8_attrs, to_u8, 0, "the result is u8"),
    TB_ATTR_INT(tbi_conv2d_u8s8_attrs, zero, 0, "zero point of the result"),
    TB_ATTR_INT(tbi_conv2d_u8s8_attrs, low, 0, "lowest value of the result (the zero point: relu)"),
};

static tb_status geometry_of(const tb_op_call *c, tbi_conv_geometry *g)
{
    const tbi_conv2d_u8s8_attrs *a = c->attrs;
    const int64_t *x = c->in[0]->dims, *w = c->in[1]->dims; /* to channels first */
    return tbi_conv_geometry_of("conv2d_u8s8", (tbi_conv_window){a->stride, a->pad, a->dilation, a->groups},
                                (int64_t[]){x[0], x[3], x[1], x[2]}, (int64_t[]){w[0], w[3], w[1], w[2]}, g);
}

static bool is_byte(int64_t x) { return x >= 0 && x <= 255; }

static tb_status shape(tb_op_call *c)
{
    const tbi_conv2d_u8s8_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *w = c->in[1], *offset = c->in[2], *scale = c->in[3];
    tbi_conv_geometry g;
    bool types = x->dtype == TB_U8 && w->dtype == TB_I8 && offset->dtype == TB_I32 && scale->dtype == TB_F32;
    if (!types) return TB_FAIL(TB_ERR_DTYPE, "conv2d_u8s8: takes x u8, w i8, offset i32, scale f32");
    if (x->rank != 4 || w->rank != 4)
        return TB_FAIL(TB_ERR_SHAPE, "conv2d_u8s8: x %s and w %s must be [N, H, W, C] and [O, P, Q, C / groups]",
                       tb_shape_text(x), tb_shape_text(w));
    TB_TRY(geometry_of(c, &g));
    if (offset->rank != 1 || offset->dims[0] != g.o || scale->rank != 1 || scale->dims[0] != g.o)
        return TB_FAIL(TB_ERR_SHAPE, "conv2d_u8s8: w %s has %lld channels, offset %s and scale %s do not",
                       tb_shape_text(w), (long long)g.o, tb_shape_text(offset), tb_shape_text(scale));
    if (g.cg * g.kernel[0] * g.kernel[1] > MAX_DEPTH)
        return TB_FAIL(TB_ERR_SHAPE, "conv2d_u8s8: a window of %lld terms could overflow 32 bits; at most %d",
                       (long long)(g.cg * g.kernel[0] * g.kernel[1]), MAX_DEPTH);
    if (!is_byte(a->x_zero) || !is_byte(a->zero) || !is_byte(a->low))
        return TB_FAIL(TB_ERR_INVALID, "conv2d_u8s8: x_zero %lld, zero %lld and low %lld must be 0 to 255",
                       (long long)a->x_zero, (long long)a->zero, (long long)a->low);
    tb_out_set(c, 0, a->to_u8 ? TB_U8 : TB_F32, 4, (int64_t[]){g.n, g.out[0], g.out[1], g.o});
    return TB_OK;
}

/* ---- the definition ---- */
static int32_t window_sum(const tb_op_call *c, const tbi_conv_geometry *g, int64_t n, int64_t i, int64_t j, int64_t o)
{
    const tb_tensor *x = c->in[0], *w = c->in[1];
    const uint8_t *pixels = tb_op_data(x);
    const int8_t *weights = tb_op_data(w);
    int32_t sum = 0, zero = (int32_t)((const tbi_conv2d_u8s8_attrs *)c->attrs)->x_zero;
    for (int64_t p = 0; p < g->kernel[0]; p++)
        for (int64_t q = 0; q < g->kernel[1]; q++) {
            int64_t y = tbi_conv_input_place(g, 0, i, p), z = tbi_conv_input_place(g, 1, j, q);
            bool inside = y >= 0 && z >= 0;
            int64_t at = n * x->strides[0] + y * x->strides[1] + z * x->strides[2] + o / g->og * g->cg * x->strides[3];
            int64_t w_at = o * w->strides[0] + p * w->strides[1] + q * w->strides[2];
            for (int64_t k = 0; k < g->cg; k++)
                sum += (inside ? (int32_t)pixels[at + k * x->strides[3]] : zero) * weights[w_at + k * w->strides[3]];
        }
    return sum;
}

static tb_status ref(tb_op_call *c)
{
    const tbi_conv2d_u8s8_attrs *a = c->attrs;
    const int32_t *offset = tb_op_data(c->in[2]);
    const float *scale = tb_op_data(c->in[3]);
    void *out = tb_op_data(c->out[0]);
    tbi_conv_geometry g;
    TB_TRY(geometry_of(c, &g));
    for (int64_t at = 0; at < c->out[0]->numel; at++) {
        int64_t o = at % g.o, pixel = at / g.o, row = pixel / g.out[1];
        int32_t sum = window_sum(c, &g, row / g.out[0], row % g.out[0], pixel % g.out[1], o);
        sum = (int32_t)((uint32_t)sum + (uint32_t)offset[o * c->in[2]->strides[0]]);
        float y = (float)sum * scale[o * c->in[3]->strides[0]], q = rintf(y) + (float)a->zero;
        if (a->to_u8) ((uint8_t *)out)[at] = (uint8_t)(q < (float)a->low ? (float)a->low : q > 255 ? 255 : q);
        else ((float *)out)[at] = y;
    }
    return TB_OK;
}

/* ---- kernels ---- */
static tb_status fast(tb_op_call *c)
{
    const tbi_conv2d_u8s8_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *w = c->in[1];
    tbi_conv_geometry g;
    TB_TRY(geometry_of(c, &g));
    tb_conv_u8s8_args k = {
        .n = g.n, .c = g.c, .h = g.in[0], .w = g.in[1], .o = g.o, .kh = g.kernel[0], .kw = g.kernel[1], .oh = g.out[0],
        .ow = g.out[1], .groups = g.groups, .x = tb_op_data(x), .weight = tb_op_data(w), .offset = tb_op_data(c->in[2]),
        .scale = tb_op_data(c->in[3]), .out = tb_op_data(c->out[0]), .to_u8 = a->to_u8, .x_zero = (int32_t)a->x_zero,
        .zero = (int32_t)a->zero, .low = (int32_t)a->low, .pool = c->ctx->pool};
    for (int i = 0; i < 2; i++) k.stride[i] = g.stride[i], k.pad[i] = g.pad[i], k.dilation[i] = g.dilation[i];
    for (int i = 0; i < 4; i++) k.x_stride[i] = x->strides[i];
    if (!w->is_contiguous || !c->in[2]->is_contiguous || !c->in[3]->is_contiguous) return TB_ERR_UNSUPPORTED;
    const tb_kernel *kernel = tb_call_kernel(c, 0, TB_I8, &k);
    if (!kernel) return TB_ERR_UNSUPPORTED;
    if (c->out[0]->numel == 0) return TB_OK;
    tbi_layout layout = {.of = kernel, .variant = g.groups | g.dilation[1] << 32, .bytes = kernel->pack_bytes(&k)};
    TB_TRY(tbi_use_packed(c, w, layout, kernel->pack, &k, true, &k.packed_w));
    size_t scratch = kernel->scratch_bytes(&k);
    if (scratch && !(k.scratch = tb_op_scratch(c, scratch))) return TB_ERR_OOM;
    kernel->run(&k);
    return TB_OK;
}

static void cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[0], *w = c->in[1];
    const tb_out_spec *y = &c->spec[0];
    double pixels = (double)(y->dims[0] * y->dims[1] * y->dims[2]), results = pixels * (double)w->dims[0];
    *out = (tb_cost){.flops = 2 * pixels * (double)w->numel, .k = 1,
                     .bytes = (double)x->numel + (double)w->numel + results * (double)tb_dtype_size(y->dtype)};
}

/* ---- samples ---- */
#define PAIR(a, b) {2, {a, b}}
#define WINDOW(s, s2, p, p2, d, d2, g) PAIR(s, s2), PAIR(p, p2), PAIR(d, d2), g
static void samples(tb_samples *to)
{
    static const struct {
        tbi_conv2d_u8s8_attrs attrs;
        int64_t x[4], w[4];
    } cases[] = {
        {{WINDOW(1, 1, 0, 0, 1, 1, 1), 0, true, 3, 3}, {2, 5, 4, 2}, {3, 3, 2, 2}},
        {{WINDOW(1, 1, 1, 1, 1, 1, 1), 117, true, 120, 0}, {2, 9, 7, 16}, {33, 3, 3, 16}},
        {{WINDOW(2, 1, 1, 2, 1, 1, 1), 255, false, 0, 0}, {1, 6, 5, 1}, {17, 3, 3, 1}},
        {{WINDOW(1, 2, 2, 1, 2, 3, 1), 9, true, 7, 7}, {1, 5, 7, 3}, {5, 3, 2, 3}},
        {{WINDOW(1, 1, 1, 1, 1, 1, 2), 100, true, 128, 0}, {2, 3, 3, 4}, {2, 3, 3, 2}},
        {{WINDOW(2, 2, 0, 0, 1, 1, 3), 0, false, 0, 0}, {1, 4, 4, 3}, {3, 1, 1, 1}},
        {{WINDOW(1, 1, 0, 0, 1, 1, 1), 50, true, 0, 0}, {3, 4, 5, 8}, {48, 1, 1, 8}},
        {{WINDOW(1, 1, 0, 0, 1, 1, 1), 0, true, 0, 0}, {0, 4, 4, 1}, {2, 3, 3, 1}},
        {{WINDOW(1, 1, 2, 2, 1, 1, 1), 128, true, 10, 10}, {3, 14, 14, 3}, {64, 5, 5, 3}},
        {{WINDOW(1, 1, 0, 0, 1, 1, 1), 3, false, 0, 0}, {5, 12, 12, 12}, {20, 5, 5, 12}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t *x = cases[i].x, *w = cases[i].w;
#define INTEGER(t, least, most) .has_dtype = true, .dtype = t, .lo = least, .hi = most, .fill = TB_FILL_INTEGER
        tb_sample(to, &cases[i].attrs, 4,
                  (tb_sample_in[]){{TB_SHAPE(x[0], x[1], x[2], x[3]), INTEGER(TB_U8, 0, 255)},
                                   {TB_SHAPE(w[0], w[1], w[2], w[3]), INTEGER(TB_I8, -127, 127)},
                                   {TB_SHAPE(w[0]), INTEGER(TB_I32, -5000, 5000)},
                                   {TB_SHAPE(w[0]), .has_dtype = true, .dtype = TB_F32, .lo = 0.001, .hi = 0.01}});
    }
}

TB_OP(conv2d_u8s8, .doc = "integer convolution (NHWC, OHWI) with requantization", .n_in_min = 4, .n_in = 4, .n_out = 1,
      .dtypes = TB_DTYPE_BIT(TB_U8), .dtypes_reason = "activations are u8, weights i8",
      TB_ATTRS(tbi_conv2d_u8s8_attrs, conv2d_u8s8_attr_table), .shape = shape, .ref = ref, .fast = fast,
      .primitives = {"conv2d_u8s8"}, .no_grad = "integers have none", .fusion = TB_FUSE_ANCHOR, .by_rows = 1,
      .cost = cost, .samples = samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_conv2d_u8s8(tb_tensor *x, tb_tensor *w, tb_tensor *offset, tb_tensor *scale, const tb_conv2d_opts *opts,
                          const tb_u8s8_opts *to)
{
    const tb_conv2d_opts o = opts ? *opts : (tb_conv2d_opts){0};
    tbi_conv2d_u8s8_attrs a = {.stride.n = 2, .pad.n = 2, .dilation.n = 2, .groups = o.groups ? o.groups : 1,
                           .x_zero = to->x_zero, .to_u8 = to->to_u8, .zero = to->zero, .low = to->low};
    for (int i = 0; i < 2; i++) {
        a.stride.at[i] = o.stride[i] ? o.stride[i] : 1;
        a.pad.at[i] = o.pad[i];
        a.dilation.at[i] = o.dilation[i] ? o.dilation[i] : 1;
    }
    return tb_call(&tb_op_conv2d_u8s8, &a, TB_IN(x, w, offset, scale));
}
