/* Integer inference: quantize, dequantize, linear_u8s8.
 *
 * Activations are u8 with one scale and a zero point per tensor, x = (q - zero) * scale, so that 0 is exact; weights
 * are s8, symmetric, one scale per output channel, in [-127, 127]. With s the accumulated products,
 *     y[j] = (s - zero_x * sum_k w[j][k] + bias_q[j]) * scale_x * scale_w[j]
 * so everything but s is one s32 `offset` and one f32 `scale` per channel, computed when the model is quantized. The
 * integers are the same on every ISA, and so are the bits of y (one f32 product, rounded; see tb_kernel.h). */
#include "quantized.h"
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
tb_tensor *tb_quantize(tb_tensor *x, double scale, int64_t zero); /* f32 -> u8: clamp(rne(x / scale) + zero, 0, 255) */
tb_tensor *tb_dequantize(tb_tensor *q, double scale, int64_t zero); /* u8 -> f32 */
/* x u8 [.., K], w s8 [N, K], offset i32 [N], scale f32 [N] -> f32 [.., N], or u8 with the given zero point where to_u8;
 * values below `low` become it (the zero point: a relu). */
tb_tensor *tb_linear_u8s8(tb_tensor *x, tb_tensor *w, tb_tensor *offset, tb_tensor *scale, bool to_u8, int64_t zero,
                          int64_t low);
//<<<

/* ---- quantize and dequantize ---- */
typedef struct quantize_attrs {
    double scale;
    int64_t zero;
} quantize_attrs;
static const tb_attr quantize_attr_table[] = {
    TB_ATTR_REAL(quantize_attrs, scale, 1, "step between neighbouring values"),
    TB_ATTR_INT(quantize_attrs, zero, 0, "the integer that means 0"),
};

static tb_status check_scale(const tb_op_call *c)
{
    const quantize_attrs *a = c->attrs;
    bool has_inverse = a->scale > 0 && isfinite((float)a->scale) && isfinite((float)(1 / a->scale));
    if (has_inverse && a->zero >= 0 && a->zero <= 255) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID,
                   "%s: scale %g, zero point %lld: the scale must be positive and have an inverse in f32, the zero "
                   "point be 0 to 255",
                   c->op->name, a->scale, (long long)a->zero);
}

static tb_status quantize_shape(tb_op_call *c)
{
    TB_TRY(check_scale(c));
    tb_out_set(c, 0, TB_U8, c->in[0]->rank, c->in[0]->dims);
    return TB_OK;
}

static tb_status dequantize_shape(tb_op_call *c)
{
    TB_TRY(check_scale(c));
    if (c->in[0]->dtype != TB_U8)
        return TB_FAIL(TB_ERR_DTYPE, "dequantize: takes u8, not %s", tb_dtype_name((tb_dtype)c->in[0]->dtype));
    tb_out_set(c, 0, TB_F32, c->in[0]->rank, c->in[0]->dims);
    return TB_OK;
}

/* In f32, as the kernels would: product with the reciprocal, round half to even, sum, clamp (as
 * ONNX and PyTorch, whose ties do not depend on the zero point); NaN becomes 0. */
static uint8_t quantized(float x, float inverse, float zero)
{
    float q = rintf(x * inverse) + zero;
    return q >= 255 ? 255 : q > 0 ? (uint8_t)q : 0;
}

static tb_status quantize_ref(tb_op_call *c)
{
    const quantize_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    tb_dtype t = (tb_dtype)x->dtype;
    const char *in = tb_op_data(x);
    uint8_t *out = tb_op_data(c->out[0]);
    float inverse = (float)(1 / a->scale), zero = (float)a->zero;
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    TB_WALK(&w)
        out[w.flat] = quantized((float)tb_load_f64(t, in + w.at[0] * (int64_t)tb_dtype_size(t)), inverse, zero);
    return TB_OK;
}

static tb_status quantize_fast(tb_op_call *c)
{
    const quantize_attrs *a = c->attrs;
    tb_pointwise_args args = {.n = c->in[0]->numel, .out = tb_op_data(c->out[0]), .in = {tb_op_data(c->in[0])},
                              .step = {1},
                              .attrs = &(tb_quantize_args){(float)(1 / a->scale), (float)a->zero}};
    const tb_kernel *k = c->in[0]->is_contiguous ? tb_call_kernel(c, 0, (tb_dtype)c->in[0]->dtype, &args) : NULL;
    if (!k) return TB_ERR_UNSUPPORTED;
    if (args.n) k->run(&args);
    return TB_OK;
}

static tb_status dequantize_ref(tb_op_call *c)
{
    const quantize_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    const uint8_t *in = tb_op_data(x);
    float *out = tb_op_data(c->out[0]), scale = (float)a->scale;
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    TB_WALK(&w) out[w.flat] = (float)((int64_t)in[w.at[0]] - a->zero) * scale;
    return TB_OK;
}

static void quantize_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 2, .dims = {3, 37}}, empty = {.rank = 1, .dims = {0}},
                              unit = {TB_SHAPE(1, 1)};
    tb_sample(to, &(quantize_attrs){0.02, 100}, 1, &x);
    tb_sample(to, &(quantize_attrs){0.02, 100}, 1, &unit);
    tb_sample(to, &(quantize_attrs){0.01, 0}, 1, &x); /* half of it clips */
    tb_sample(to, &(quantize_attrs){1, 255}, 1, &empty);
}

static void dequantize_samples(tb_samples *to)
{
    static const tb_sample_in q = {.rank = 2, .dims = {3, 37}, .has_dtype = true, .dtype = TB_U8, .lo = 0, .hi = 255};
    tb_sample(to, &(quantize_attrs){0.02, 100}, 1, &q);
}

TB_OP(quantize, .doc = "f32 to u8 with a scale and a zero point", .n_in_min = 1, .n_in = 1, .n_out = 1,
      .dtypes = TB_FLOATS, .dtypes_reason = "integers are quantized already",
      TB_ATTRS(quantize_attrs, quantize_attr_table), .shape = quantize_shape, .ref = quantize_ref,
      .fast = quantize_fast, .primitives = {"quantize_u8"}, .by_rows = 1, .no_grad = "integers have none",
      .samples = quantize_samples, .tol = TB_TOL_EXACT);
TB_OP(dequantize, .doc = "u8 to f32", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_DTYPE_BIT(TB_U8),
      .dtypes_reason = "activations are u8", TB_ATTRS(quantize_attrs, quantize_attr_table), .shape = dequantize_shape,
      .ref = dequantize_ref, .by_rows = 1, .no_grad = "integers have none", .samples = dequantize_samples,
      .tol = TB_TOL_EXACT);

/* ---- linear_u8s8 ---- */
typedef struct linear_u8s8_attrs {
    bool to_u8;
    int64_t zero, low;
} linear_u8s8_attrs;
static const tb_attr linear_u8s8_attr_table[] = {
    TB_ATTR_BOOL(linear_u8s8_attrs, to_u8, 0, "the result is u8"),
    TB_ATTR_INT(linear_u8s8_attrs, zero, 0, "zero point of the result"),
    TB_ATTR_INT(linear_u8s8_attrs, low, 0, "lowest value of the result (the zero point: relu)"),
};

static tb_status linear_u8s8_shape(tb_op_call *c)
{
    const linear_u8s8_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *w = c->in[1];
    int64_t dims[TB_MAX_RANK], n = w->rank == 2 ? w->dims[0] : -1;
    bool types = x->dtype == TB_U8 && w->dtype == TB_I8 && c->in[2]->dtype == TB_I32 && c->in[3]->dtype == TB_F32;
    if (!types) return TB_FAIL(TB_ERR_DTYPE, "linear_u8s8: takes x u8, w i8, offset i32, scale f32");
    if (n < 0 || x->rank < 1 || x->dims[x->rank - 1] != w->dims[1] || c->in[2]->rank != 1 || c->in[2]->dims[0] != n ||
        c->in[3]->rank != 1 || c->in[3]->dims[0] != n)
        return TB_FAIL(TB_ERR_SHAPE, "linear_u8s8: x %s, w %s, offset %s, scale %s do not fit", tb_shape_text(x),
                       tb_shape_text(w), tb_shape_text(c->in[2]), tb_shape_text(c->in[3]));
    if (w->dims[1] > TB_U8S8_MAX_DEPTH)
        return TB_FAIL(TB_ERR_SHAPE, "linear_u8s8: %lld terms could overflow 32 bits; at most %d",
                       (long long)w->dims[1], TB_U8S8_MAX_DEPTH);
    if (a->zero < 0 || a->zero > 255 || a->low < 0 || a->low > 255)
        return TB_FAIL(TB_ERR_INVALID, "linear_u8s8: zero %lld and low %lld must be 0 to 255", (long long)a->zero,
                       (long long)a->low);
    memcpy(dims, x->dims, sizeof dims);
    dims[x->rank - 1] = n;
    tb_out_set(c, 0, a->to_u8 ? TB_U8 : TB_F32, x->rank, dims);
    return TB_OK;
}

static tb_status linear_u8s8_ref(tb_op_call *c)
{
    const linear_u8s8_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *w = c->in[1];
    int64_t n = w->dims[0], k = w->dims[1], total = c->out[0]->numel;
    const int8_t *weights = tb_op_data(w);
    const int32_t *offset = tb_op_data(c->in[2]);
    const float *scale = tb_op_data(c->in[3]);
    const uint8_t *in = tb_op_data(x);
    tb_walk row; /* over the rows of x */
    tb_walk_init(&row, x->rank - 1, x->dims);
    for (int i = 0; i < x->rank - 1; i++) row.strides[0][i] = x->strides[i];
    row.at[0] = 0;
    row.n = 1;
    if (total == 0) return TB_OK;
    TB_WALK(&row) {
        for (int64_t j = 0; j < n; j++) {
            int32_t sum = offset[j * c->in[2]->strides[0]];
            for (int64_t p = 0; p < k; p++)
                sum += (int32_t)in[row.at[0] + p * x->strides[x->rank - 1]] *
                       weights[j * w->strides[0] + p * w->strides[1]];
            float y = (float)sum * scale[j * c->in[3]->strides[0]];
            int64_t at = row.flat * n + j;
            if (!a->to_u8) {
                ((float *)tb_op_data(c->out[0]))[at] = y;
                continue;
            }
            float q = rintf(y) + (float)a->zero;
            ((uint8_t *)tb_op_data(c->out[0]))[at] = (uint8_t)(q < (float)a->low ? (float)a->low : q > 255 ? 255 : q);
        }
    }
    return TB_OK;
}

/* A weight in the layout of all kernels of gemm_u8s8. */
static void pack(const void *weight, void *out)
{
    const tb_tensor *t = weight;
    int64_t n = t->dims[0], k = t->dims[1], quads = (k + 3) / 4, blocks = (n + 15) / 16;
    const int8_t *w = tb_op_data(t);
    int8_t *to = out;
    memset(to, 0, (size_t)(blocks * quads * 64));
    for (int64_t j = 0; j < n; j++)
        for (int64_t p = 0; p < k; p++) to[((j / 16 * quads + p / 4) * 16 + j % 16) * 4 + p % 4] = w[j * k + p];
}

tb_status tbi_packed_s8(tb_op_call *c, const tb_tensor *w, const int8_t **out)
{
    const void *packed;
    int64_t quads = (w->dims[1] + 3) / 4, blocks = (w->dims[0] + 15) / 16;
    tbi_layout layout = {.of = &tb_op_linear_u8s8, .bytes = (size_t)(blocks * quads * 64)};
    TB_TRY(tbi_use_packed(c, w, layout, pack, w, true, &packed));
    *out = packed;
    return TB_OK;
}

static tb_status linear_u8s8_fast(tb_op_call *c)
{
    const linear_u8s8_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *w = c->in[1];
    int64_t n = w->dims[0], k = w->dims[1];
    if (!x->is_contiguous || !w->is_contiguous || !c->in[2]->is_contiguous || !c->in[3]->is_contiguous || k == 0)
        return TB_ERR_UNSUPPORTED;
    tb_gemm_u8s8_args g = {.m = n ? c->out[0]->numel / n : 0, .n = n, .k = k, .a = tb_op_data(x), .a_row = k,
                           .offset = tb_op_data(c->in[2]), .scale = tb_op_data(c->in[3]), .c = tb_op_data(c->out[0]),
                           .c_row = n, .to_u8 = a->to_u8, .zero = (int32_t)a->zero, .low = (int32_t)a->low,
                           .pool = c->ctx->pool};
    const tb_kernel *kernel = tb_call_kernel(c, 0, TB_I8, &g);
    if (!kernel) return TB_ERR_UNSUPPORTED;
    if (g.m == 0 || n == 0) return TB_OK;
    TB_TRY(tbi_packed_s8(c, w, &g.packed_w));
    kernel->run(&g);
    return TB_OK;
}

static void linear_u8s8_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[0], *w = c->in[1];
    double rows = w->dims[1] ? (double)x->numel / (double)w->dims[1] : 0;
    *out = (tb_cost){.flops = 2 * rows * (double)w->numel,
                     .bytes = (double)x->numel + (double)w->numel + rows * (double)w->dims[0] * 4,
                     .k = 1};
}

static void linear_u8s8_samples(tb_samples *to)
{
    static const int64_t sizes[][3] = {{1, 7, 5}, {5, 16, 32}, {13, 33, 70}, {0, 4, 4}, {3, 1, 1}, {64, 17, 129}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int u8 = 0; u8 < 2; u8++) {
            int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            tb_sample_in in[4] = {
                {.rank = 2, .dims = {m, k}, .has_dtype = true, .dtype = TB_U8, .lo = 0, .hi = 255,
                 .fill = TB_FILL_INTEGER},
                {.rank = 2, .dims = {n, k}, .has_dtype = true, .dtype = TB_I8, .lo = -127, .hi = 127,
                 .fill = TB_FILL_INTEGER},
                {.rank = 1, .dims = {n}, .has_dtype = true, .dtype = TB_I32, .lo = -5000, .hi = 5000,
                 .fill = TB_FILL_INTEGER},
                {.rank = 1, .dims = {n}, .has_dtype = true, .dtype = TB_F32, .lo = 0.001, .hi = 0.01},
            };
            tb_sample(to, &(linear_u8s8_attrs){u8, 120, u8 ? 120 : 0}, 4, in);
        }
}

TB_OP(linear_u8s8, .doc = "integer linear with requantization", .n_in_min = 4, .n_in = 4, .n_out = 1,
      .dtypes = TB_DTYPE_BIT(TB_U8), .dtypes_reason = "activations are u8, weights i8",
      TB_ATTRS(linear_u8s8_attrs, linear_u8s8_attr_table), .shape = linear_u8s8_shape, .ref = linear_u8s8_ref,
      .fast = linear_u8s8_fast, .primitives = {"gemm_u8s8"}, .no_grad = "integers have none", .fusion = TB_FUSE_ANCHOR,
      .by_rows = 1, .cost = linear_u8s8_cost, .samples = linear_u8s8_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_quantize(tb_tensor *x, double scale, int64_t zero)
{
    return tb_call(&tb_op_quantize, &(quantize_attrs){scale, zero}, TB_IN(x));
}

tb_tensor *tb_dequantize(tb_tensor *q, double scale, int64_t zero)
{
    return tb_call(&tb_op_dequantize, &(quantize_attrs){scale, zero}, TB_IN(q));
}

tb_tensor *tb_linear_u8s8(tb_tensor *x, tb_tensor *w, tb_tensor *offset, tb_tensor *scale, bool to_u8, int64_t zero,
                          int64_t low)
{
    return tb_call(&tb_op_linear_u8s8, &(linear_u8s8_attrs){to_u8, zero, low}, TB_IN(x, w, offset, scale));
}
