/* linear: y = x W^T + b over the last dimension of x, W as PyTorch keeps it: one gemm with the bias in its
 * epilogue. linear_act is act(x W^T + b + residual), which the compiler makes of up to three ops.
 * linear_weight_grad contracts over the rows: a sum over the batch (pairwise tree over the context's blocks),
 * apart from dx so that it can wait, and able to add into a given gradient. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
/* y[.., out] = x[.., in] W^T + b. w: [out, in], b: [out] or NULL; numbers of one dtype; integers wrap. */
tb_tensor *tb_linear(tb_tensor *x, tb_tensor *w, tb_tensor *b);
/* dW[out, in] = sum over rows of g[.., out] x[.., in]. into: NULL, or a tensor [out, in] that is added to, or
 * overwritten, in place and returned. */
tb_tensor *tb_linear_weight_grad(tb_tensor *g, tb_tensor *x, tb_tensor *into, bool overwrite);
//<<<

typedef struct linear_act_attrs {
    int64_t act; /* tb_epilogue_act */
} linear_act_attrs;
static const tb_attr linear_act_attr_table[] = {
    TB_ATTR_INT(linear_act_attrs, act, TB_ACT_NONE, "0 none, 1 relu, 2 gelu (tanh), 3 gelu (erf), 4 silu"),
};

static tb_epilogue_act act_of(const tb_op_call *c)
{
    const linear_act_attrs *a = c->attrs;
    return a ? (tb_epilogue_act)a->act : TB_ACT_NONE;
}

/* ---- forward ---- */
static tb_status same_dtype(const tb_op_call *c)
{
    for (int i = 1; i < c->n_in; i++)
        if (c->in[i] && c->in[i]->dtype != c->in[0]->dtype)
            return TB_FAIL(TB_ERR_DTYPE, "%s: inputs are %s and %s; cast one of them", c->op->name,
                           tb_dtype_name((tb_dtype)c->in[0]->dtype),
                           tb_dtype_name((tb_dtype)c->in[i]->dtype));
    return TB_OK;
}

static tb_status linear_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *w = c->in[1], *b = c->n_in > 2 ? c->in[2] : NULL;
    int64_t dims[TB_MAX_RANK];
    TB_TRY(same_dtype(c));
    if (w->rank != 2)
        return TB_FAIL(TB_ERR_SHAPE, "linear: weight must be [out, in], not %s", tb_shape_text(w));
    if (x->rank < 1 || x->dims[x->rank - 1] != w->dims[1])
        return TB_FAIL(TB_ERR_SHAPE,
                       "linear: input %s does not end in the %lld features that weight %s takes%s",
                       tb_shape_text(x), (long long)w->dims[1], tb_shape_text(w),
                       x->rank && x->dims[x->rank - 1] == w->dims[0] ? "; the weight is [out, in]" : "");
    if (b && (b->rank != 1 || b->dims[0] != w->dims[0]))
        return TB_FAIL(TB_ERR_SHAPE, "linear: bias must be [%lld] for weight %s, not %s",
                       (long long)w->dims[0], tb_shape_text(w), tb_shape_text(b));
    memcpy(dims, x->dims, sizeof dims);
    dims[x->rank - 1] = w->dims[0];
    if (c->n_in > 3 && c->in[3] && !tbi_has_dims(c->in[3], x->rank, dims))
        return TB_FAIL(TB_ERR_SHAPE, "linear_act: residual %s is not the shape of the result %s",
                       tb_shape_text(c->in[3]), tb_dims_text(x->rank, dims));
    if (act_of(c) < TB_ACT_NONE || act_of(c) > TB_ACT_SILU)
        return TB_FAIL(TB_ERR_INVALID, "linear_act: no activation has the number %d", (int)act_of(c));
    tb_out_set(c, 0, (tb_dtype)x->dtype, x->rank, dims);
    return TB_OK;
}

double tbi_act_f64(tb_epilogue_act act, double x)
{
    switch (act) {
    case TB_ACT_RELU: return x > 0 || isnan(x) ? x : 0;
    case TB_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case TB_ACT_GELU_ERF: return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
    case TB_ACT_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

/* The sums of integers are exact, modulo the dtype's range. */
static tb_status linear_whole_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *w = c->in[1], *b = c->n_in > 2 ? c->in[2] : NULL;
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t), x_step = tbi_last_stride(x);
    const char *px = tb_op_data(x), *pw = tb_op_data(w), *pb = b ? tb_op_data(b) : NULL;
    char *out = tb_op_data(c->out[0]);
    for (int64_t row = 0; row < tbi_rows(x); row++) {
        int64_t at = tbi_row_at(x, row);
        for (int64_t j = 0; j < w->dims[0]; j++, out += size) {
            uint64_t sum = b ? (uint64_t)tb_load_i64(t, pb + j * b->strides[0] * size) : 0;
            for (int64_t p = 0; p < w->dims[1]; p++)
                sum += (uint64_t)tb_load_i64(t, px + (at + p * x_step) * size) *
                       (uint64_t)tb_load_i64(t, pw + (j * w->strides[0] + p * w->strides[1]) * size);
            tb_store_i64(t, out, (int64_t)sum);
        }
    }
    return TB_OK;
}

static tb_status linear_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *w = c->in[1], *b = c->n_in > 2 ? c->in[2] : NULL;
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t), features = w->dims[1], x_step = tbi_last_stride(x);
    const char *px = tb_op_data(x), *pw = tb_op_data(w), *pb = b ? tb_op_data(b) : NULL;
    const tb_tensor *residual = c->n_in > 3 ? c->in[3] : NULL;
    char *out = tb_op_data(c->out[0]);
    if (!tb_dtype_is_float(t)) return linear_whole_ref(c);
    for (int64_t row = 0; row < tbi_rows(x); row++) {
        int64_t at = tbi_row_at(x, row);
        for (int64_t j = 0; j < w->dims[0]; j++, out += size) {
            double sum = 0;
            for (int64_t p = 0; p < features; p++)
                sum += tb_load_f64(t, px + (at + p * x_step) * size) *
                       tb_load_f64(t, pw + (j * w->strides[0] + p * w->strides[1]) * size);
            if (b) sum += tb_load_f64(t, pb + j * b->strides[0] * size);
            if (residual) sum += tbi_get(residual, tbi_row_at(residual, row) + j * tbi_last_stride(residual));
            tb_store_f64(t, out, tbi_act_f64(act_of(c), sum));
        }
    }
    return TB_OK;
}

/* A weight is packed where it pays to keep that: packing it takes longer than a product with few rows. */
static tb_status run_gemm(tb_op_call *c, tb_gemm_args *g, const tb_tensor *weight)
{
    if ((g->a_row != 1 && g->a_col != 1) || (g->b_row != 1 && g->b_col != 1)) return TB_ERR_UNSUPPORTED;
    const tb_kernel *k = tbi_gemm_kernel(c, g);
    if (!k) return TB_ERR_UNSUPPORTED;
    tbi_layout layout = {.of = k, .bytes = weight && k->pack_bytes ? k->pack_bytes(g) : 0};
    TB_TRY(tbi_use_packed(c, weight, layout, k->pack, g, false, &g->packed_b));
    size_t scratch = k->scratch_bytes ? k->scratch_bytes(g) : 0;
    if (scratch && !(g->scratch = tb_op_scratch(c, scratch))) return TB_ERR_OOM;
    k->run(g);
    return TB_OK;
}

static tb_status linear_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *w = c->in[1], *b = c->n_in > 2 ? c->in[2] : NULL;
    tb_gemm_args g = {
        .m = tbi_rows(x), .n = w->dims[0], .k = w->dims[1], .a = tb_op_data(x), .a_col = tbi_last_stride(x),
        .b = tb_op_data(w), .b_row = w->strides[1], .b_col = w->strides[0], .c = tb_op_data(c->out[0]),
        .c_row = w->dims[0], .tree = 1, .bias = b ? tb_op_data(b) : NULL, .act = act_of(c),
        .pool = c->ctx->pool,
    };
    if (!tbi_rows_are_even(x, &g.a_row) || (b && !b->is_contiguous)) return TB_ERR_UNSUPPORTED;
    if (c->n_in > 3 && c->in[3]) {
        TB_TRY(tbi_dense(c, c->in[3], &g.residual));
        g.residual_row = g.n;
    }
    return run_gemm(c, &g, w);
}

/* dx = g W, dW = g^T x (over the batch), db = sum of g over the batch. */
static void linear_grad(tb_grad_call *c)
{
    tb_tensor *g = c->grad[0];
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_matmul(g, c->in[1]));
    if (tb_grad_wants(c, 1)) {
        bool overwrite = false;
        tb_tensor *into = tb_grad_given(c, 1, &overwrite);
        tb_grad_set(c, 1, tb_linear_weight_grad(g, c->in[0], into, overwrite));
    }
    if (c->n_in > 2 && tb_grad_wants(c, 2)) {
        int64_t dims[2] = {1, c->in_spec[2].dims[0]};
        for (int i = 0; i < c->in_spec[0].rank - 1; i++) dims[0] *= c->in_spec[0].dims[i];
        bool overwrite = false;
        tb_tensor *into = tb_grad_given(c, 2, &overwrite);
        tb_grad_set(c, 2, tb_sum_batch(g->rank == 2 ? g : tb_reshape(g, 2, dims), overwrite ? into : NULL));
    }
}

static void linear_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[0], *w = c->in[1];
    double size = (double)tb_dtype_size((tb_dtype)x->dtype), rows = (double)tbi_rows(x),
           n = (double)w->dims[0];
    *out = (tb_cost){.flops = 2 * rows * (double)w->numel, .k = w->dims[1],
                     .bytes = size * ((double)x->numel + (double)w->numel + rows * n)};
}

/* ---- gradient of the weight ---- */
typedef struct weight_grad_attrs {
    bool overwrite;
} weight_grad_attrs;
static const tb_attr weight_grad_attr_table[] = {
    TB_ATTR_BOOL(weight_grad_attrs, overwrite, 0, "what `into` holds does not count"),
};

static bool adds_to_given(const tb_op_call *c)
{
    const weight_grad_attrs *a = c->attrs;
    return c->n_in > 2 && c->in[2] && !(a && a->overwrite);
}

static tb_status weight_grad_shape(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1], *into = c->n_in > 2 ? c->in[2] : NULL;
    TB_TRY(same_dtype(c));
    if (g->rank < 1 || g->rank != x->rank ||
        memcmp(g->dims, x->dims, (size_t)(x->rank - 1) * sizeof(int64_t)) != 0)
        return TB_FAIL(TB_ERR_SHAPE,
                       "linear_weight_grad: gradient %s and input %s differ before the last dimension",
                       tb_shape_text(g), tb_shape_text(x));
    int64_t dims[2] = {tbi_last_dim(g), tbi_last_dim(x)};
    tb_out_set(c, 0, (tb_dtype)g->dtype, 2, dims);
    if (!into) return TB_OK;
    if (into->rank != 2 || into->dims[0] != dims[0] || into->dims[1] != dims[1] || !into->is_contiguous)
        return TB_FAIL(TB_ERR_SHAPE, "linear_weight_grad: adds into a contiguous %s, not %s",
                       tb_dims_text(2, dims), tb_shape_text(into));
    c->spec[0].is_donated = true;
    c->spec[0].view_of = 2;
    return TB_OK;
}

static tb_status weight_grad_ref(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1];
    bool adds = adds_to_given(c);
    tb_dtype t = (tb_dtype)g->dtype;
    int64_t size = (int64_t)tb_dtype_size(t), rows = tbi_rows(x);
    const char *pg = tb_op_data(g), *px = tb_op_data(x);
    char *out = tb_op_data(c->out[0]);
    for (int64_t i = 0; i < tbi_last_dim(g); i++)
        for (int64_t j = 0; j < tbi_last_dim(x); j++, out += size) {
            double sum = adds ? tb_load_f64(t, out) : 0;
            for (int64_t row = 0; row < rows; row++)
                sum += tb_load_f64(t, pg + (tbi_row_at(g, row) + i * tbi_last_stride(g)) * size) *
                       tb_load_f64(t, px + (tbi_row_at(x, row) + j * tbi_last_stride(x)) * size);
            tb_store_f64(t, out, sum);
        }
    return TB_OK;
}

static tb_status weight_grad_fast(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1];
    tb_gemm_args m = {
        .m = tbi_last_dim(g), .n = tbi_last_dim(x), .k = tbi_rows(x), .a = tb_op_data(g),
        .a_row = tbi_last_stride(g), .b = tb_op_data(x), .b_col = tbi_last_stride(x),
        .c = tb_op_data(c->out[0]), .c_row = tbi_last_dim(x), .tree = c->ctx->batch_blocks,
        .accumulate = adds_to_given(c), .pool = c->ctx->pool,
    };
    if (!tbi_rows_are_even(g, &m.a_col) || !tbi_rows_are_even(x, &m.b_row)) return TB_ERR_UNSUPPORTED;
    return run_gemm(c, &m, NULL);
}

static void weight_grad_grad(tb_grad_call *c)
{
    tb_tensor *gg = c->grad[0]; /* [out, in] */
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_linear(c->in[1], gg, NULL));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_matmul(c->in[0], gg));
    const weight_grad_attrs *a = c->attrs;
    if (c->n_in > 2 && tb_grad_wants(c, 2) && !(a && a->overwrite)) tb_grad_set(c, 2, gg);
}

static void weight_grad_cost(const tb_op_call *c, tb_cost *out)
{
    double m = (double)tbi_last_dim(c->in[0]), n = (double)tbi_last_dim(c->in[1]);
    double size = (double)tb_dtype_size((tb_dtype)c->in[0]->dtype), k = (double)tbi_rows(c->in[0]);
    *out = (tb_cost){.flops = 2 * m * n * k, .k = (int64_t)k + 1, .bytes = size * (m * k + n * k + m * n)};
}

/* ---- samples ---- */

static const tb_sample_in linear_cases[][3] = {
    {{TB_SHAPE(3, 5)}, {TB_SHAPE(4, 5)}, {TB_SHAPE(4)}},
    {{TB_SHAPE(2, 3, 7)}, {TB_SHAPE(5, 7)}, {.absent = true}},
    {{TB_SHAPE(6)}, {TB_SHAPE(1, 6)}, {TB_SHAPE(1)}},
    {{TB_SHAPE(0, 3)}, {TB_SHAPE(2, 3)}, {TB_SHAPE(2)}},
    {{TB_SHAPE(2, 0)}, {TB_SHAPE(3, 0)}, {TB_SHAPE(3)}},
    {{TB_SHAPE(17, 33)}, {TB_SHAPE(19, 33)}, {TB_SHAPE(19)}},
    {{TB_SHAPE(2, 1, 2, 1)}, {TB_SHAPE(3, 1)}, {TB_SHAPE(3)}},
};

static void linear_samples(tb_samples *to)
{
    for (size_t i = 0; i < sizeof linear_cases / sizeof linear_cases[0]; i++)
        tb_sample(to, NULL, 3, linear_cases[i]);
}

static void linear_act_samples(tb_samples *to)
{
    for (int64_t act = TB_ACT_NONE; act <= TB_ACT_SILU; act++) {
        const tb_sample_in *small = linear_cases[1], *large = linear_cases[5];
        tb_sample(to, &(linear_act_attrs){act}, 3, linear_cases[2]);
        tb_sample(to, &(linear_act_attrs){act}, 3, linear_cases[3]);
        tb_sample(to, &(linear_act_attrs){act}, 3, small);
        tb_sample(to, &(linear_act_attrs){act}, 3, large);
        tb_sample(to, &(linear_act_attrs){act}, 4, (tb_sample_in[]){small[0], small[1], small[2], {TB_SHAPE(2, 3, 5)}});
        tb_sample(to, &(linear_act_attrs){act}, 4, (tb_sample_in[]){large[0], large[1], large[2], {TB_SHAPE(17, 19)}});
    }
}

static void weight_grad_samples(tb_samples *to)
{
    static const tb_sample_in cases[][3] = {
        {{TB_SHAPE(6, 3)}, {TB_SHAPE(6, 5)}, {.absent = true}},
        {{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(2, 3, 2)}, {.absent = true}},
        {{TB_SHAPE(0, 3)}, {TB_SHAPE(0, 5)}, {.absent = true}},
        {{TB_SHAPE(1, 3)}, {TB_SHAPE(1, 1)}, {.absent = true}},
        {{TB_SHAPE(37, 17)}, {TB_SHAPE(37, 19)}, {.absent = true}},
        {{TB_SHAPE(4)}, {TB_SHAPE(3)}, {.absent = true}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) tb_sample(to, NULL, 3, cases[i]);
}

#define LINEAR .n_in_min = 2, .n_out = 1, .primitives = TBI_GEMM_PRIMITIVES, .fusion = TB_FUSE_ANCHOR, .tol = TB_TOL(4)

TB_OP(linear, .doc = "x W^T + b", LINEAR, .n_in = 3, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no sum of products", .shape = linear_shape, .ref = linear_ref, .fast = linear_fast,
      .grad = linear_grad, .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .by_rows = 1, .cost = linear_cost,
      .samples = linear_samples);
TB_OP(linear_act, .doc = "act(x W^T + b + residual), made by the compiler", LINEAR, .n_in = 4, .overwrites = 1u << 3,
      .by_rows = 1 | 1u << 3, .dtypes = TB_FLOATS, .dtypes_reason = "activations are functions of floats",
      TB_ATTRS(linear_act_attrs, linear_act_attr_table), .shape = linear_shape, .ref = linear_ref, .fast = linear_fast,
      .no_grad = "made by fusion, after gradients are traced", .cost = linear_cost, .samples = linear_act_samples);
TB_OP(linear_weight_grad, .doc = "sum over rows of g x (gradient of linear's weight)", LINEAR, .n_in = 3,
      TB_ATTRS(weight_grad_attrs, weight_grad_attr_table),
      .dtypes = TB_FLOATS, .dtypes_reason = "gradients are floats", .shape = weight_grad_shape, .ref = weight_grad_ref,
      .fast = weight_grad_fast, .grad = weight_grad_grad, .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1),
      .cost = weight_grad_cost, .samples = weight_grad_samples);

/* Rows that gemm can walk: even, and adjacent along one of the two dimensions. */
static tb_tensor *as_matrix(tb_tensor *x)
{
    int64_t stride;
    bool fits =
        tb_is_poison(x) || (tbi_rows_are_even(x, &stride) && (tbi_last_stride(x) == 1 || stride == 1));
    return fits ? x : tb_copy(x);
}

tb_tensor *tb_linear(tb_tensor *x, tb_tensor *w, tb_tensor *b)
{
    if (tbi_multiplies_f16(x, w)) {
        tb_tensor *y = tb_call(&tb_op_linear, NULL, TB_IN(as_matrix(tb_cast(x, TB_F16)), tb_cast(w, TB_F16), NULL));
        y = tb_cast(y, TB_F32);
        return b ? tb_add(y, b) : y;
    }
    return tb_call(&tb_op_linear, NULL, TB_IN(as_matrix(x), w, b));
}

tb_tensor *tb_linear_weight_grad(tb_tensor *g, tb_tensor *x, tb_tensor *into, bool overwrite)
{
    return tb_call(&tb_op_linear_weight_grad, &(weight_grad_attrs){overwrite}, TB_IN(as_matrix(g), as_matrix(x), into));
}
