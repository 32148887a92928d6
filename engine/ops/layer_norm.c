/* layer_norm over the last dimension: y = (x - mean) rstd gamma + beta with rstd = 1 / sqrt(var + eps), the
 * biased variance (Ba, Kiros, Hinton: "Layer Normalization", 2016). Hidden outputs mean and rstd, one per
 * row. Backward, with h = (x - mean) rstd and u = g gamma:
 *     dx = rstd (u - avg u - h avg(u h)),   dgamma = sum g h,   dbeta = sum g;
 * the last two are sums over the batch and an op of their own, so that they can wait. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
/* x: [.., C]; gamma, beta: [C] or NULL; eps is added to the variance. */
tb_tensor *tb_layer_norm(tb_tensor *x, tb_tensor *gamma, tb_tensor *beta, double eps);
//<<<

typedef struct layer_norm_attrs {
    double eps;
} layer_norm_attrs;
static const tb_attr layer_norm_attr_table[] = {
    TB_ATTR_REAL(layer_norm_attrs, eps, 1e-5, "added to the variance"),
};

static tb_status check_columns(const tb_op_call *c, const tb_tensor *x, const tb_tensor *p, const char *what)
{
    if (!p) return TB_OK;
    if (p->dtype != x->dtype)
        return TB_FAIL(TB_ERR_DTYPE, "%s: %s is %s, the input %s", c->op->name, what,
                       tb_dtype_name((tb_dtype)p->dtype), tb_dtype_name((tb_dtype)x->dtype));
    if (p->rank != 1 || p->dims[0] != tbi_last_dim(x))
        return TB_FAIL(TB_ERR_SHAPE, "%s: %s must be [%lld] for input %s, not %s", c->op->name, what,
                       (long long)tbi_last_dim(x), tb_shape_text(x), tb_shape_text(p));
    return TB_OK;
}

/* ---- forward: x, gamma, beta -> y, mean, rstd ---- */
static tb_status layer_norm_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    if (x->rank < 1 || x->dims[x->rank - 1] < 1)
        return TB_FAIL(TB_ERR_SHAPE, "layer_norm: needs at least one feature in the last dimension, not %s",
                       tb_shape_text(x));
    TB_TRY(check_columns(c, x, c->n_in > 1 ? c->in[1] : NULL, "gamma"));
    TB_TRY(check_columns(c, x, c->n_in > 2 ? c->in[2] : NULL, "beta"));
    tb_out_like(c, 0, x);
    for (int o = 1; o <= 2; o++) tb_out_set(c, o, tbi_stat_dtype((tb_dtype)x->dtype), x->rank - 1, x->dims);
    return TB_OK;
}

static tb_status layer_norm_ref(tb_op_call *c)
{
    const layer_norm_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *gamma = c->n_in > 1 ? c->in[1] : NULL,
                    *beta = c->n_in > 2 ? c->in[2] : NULL;
    int64_t n = tbi_last_dim(x), step = tbi_last_stride(x);
    for (int64_t row = 0; row < tbi_rows(x); row++) {
        int64_t at = tbi_row_at(x, row);
        double mean = 0, var = 0;
        for (int64_t i = 0; i < n; i++) mean += tbi_get(x, at + i * step);
        mean /= (double)n;
        for (int64_t i = 0; i < n; i++)
            var += (tbi_get(x, at + i * step) - mean) * (tbi_get(x, at + i * step) - mean);
        double rstd = 1 / sqrt(var / (double)n + a->eps);
        for (int64_t i = 0; i < n; i++) {
            double y = (tbi_get(x, at + i * step) - mean) * rstd;
            if (gamma) y *= tbi_get(gamma, i * gamma->strides[0]);
            if (beta) y += tbi_get(beta, i * beta->strides[0]);
            tbi_put(c->out[0], row * n + i, y);
        }
        tbi_put(c->out[1], row, mean);
        tbi_put(c->out[2], row, rstd);
    }
    return TB_OK;
}

/* Adjacent columns (or absent). */
static bool is_dense(const tb_tensor *column) { return !column || column->is_contiguous; }
static const void *data_or_null(const tb_tensor *t) { return t ? tb_op_data(t) : NULL; }

static tb_status layer_norm_fast(tb_op_call *c)
{
    const layer_norm_attrs *attrs = c->attrs;
    const tb_tensor *x = c->in[0], *gamma = c->n_in > 1 ? c->in[1] : NULL,
                    *beta = c->n_in > 2 ? c->in[2] : NULL;
    tb_row_args a = {.rows = tbi_rows(x), .n = tbi_last_dim(x), .in = tb_op_data(x),
                     .out = tb_op_data(c->out[0]), .out_stride = tbi_last_dim(x), .eps = attrs->eps,
                     .gamma = data_or_null(gamma), .beta = data_or_null(beta),
                     .extra = {tb_op_data(c->out[1]), tb_op_data(c->out[2])}};
    if (!tbi_rows_are_dense(x, &a.in_stride) || !is_dense(gamma) || !is_dense(beta))
        return TB_ERR_UNSUPPORTED;
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)x->dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    tbi_run_rows(c, k, &a, (tbi_row_extras){.extra = {sizeof(float), sizeof(float)}});
    return TB_OK;
}

/* [..] -> [.., 1] */
static tb_tensor *as_column(tb_tensor *t)
{
    int64_t dims[TB_MAX_RANK];
    memcpy(dims, t->dims, sizeof dims);
    dims[t->rank] = 1;
    return tb_reshape(t, t->rank + 1, dims);
}

static tb_tensor *row_sum(tb_tensor *t) { return tb_sum_axis(t, -1, true); }
static tb_tensor *as_stat(tb_tensor *column, const tb_out_spec *s)
{
    return tb_reshape(column, s->rank, s->dims);
}
static tb_tensor *row_mean(tb_tensor *t) { return tb_mean(t, 1, &(int64_t){-1}, true); }

/* The statistics are functions of x too: that is how second derivatives find their way through them. */
static tb_tensor *grad_through_statistics(const tb_grad_call *c)
{
    tb_tensor *x = c->in[0], *mean = as_column(c->out[1]), *rstd = as_column(c->out[2]), *dx = NULL;
    tb_tensor *per_n = tb_scalar(c->in_spec[0].dtype, 1.0 / (double)tbi_last_dim(x));
    if (c->grad[1]) dx = tb_expand(tb_mul(as_column(c->grad[1]), per_n), x->rank, x->dims);
    if (c->grad[2]) { /* d rstd / dx = -rstd^3 (x - mean) / n */
        tb_tensor *cube = tb_mul(rstd, tb_mul(rstd, rstd)), *centred = tb_sub(x, mean);
        tb_tensor *part = tb_neg(tb_mul(tb_mul(tb_mul(as_column(c->grad[2]), per_n), cube), centred));
        dx = dx ? tb_add(dx, part) : part;
    }
    return dx;
}

static void layer_norm_grad(tb_grad_call *c)
{
    bool wants_params = (c->n_in > 1 && tb_grad_wants(c, 1)) || (c->n_in > 2 && tb_grad_wants(c, 2));
    tb_tensor *g = c->grad[0], *x = c->in[0], *gamma = c->n_in > 1 ? c->in[1] : NULL;
    if (tb_grad_wants(c, 0)) {
        tb_tensor *more = c->grad[1] || c->grad[2] ? grad_through_statistics(c) : NULL;
        if (g)
            tb_grad_set(c, 0,
                        tb_call(&tb_op_layer_norm_grad, NULL, TB_IN(g, x, c->out[1], c->out[2], gamma)));
        if (more) tb_grad_set(c, 0, more);
    }
    if (!g || !wants_params) return;
    tb_tensor *sums[TB_MAX_OUT];
    tb_dispatch(&tb_op_layer_norm_param_grad, NULL, (tb_tensor *[]){g, x, c->out[1], c->out[2]}, 4, sums);
    for (int i = 1; i <= 2; i++)
        if (c->n_in > i && tb_grad_wants(c, i)) tb_grad_set(c, i, sums[i - 1]);
}

static void layer_norm_cost(const tb_op_call *c, tb_cost *out)
{
    double n = (double)c->in[0]->numel;
    *out = (tb_cost){.flops = 8 * n, .k = tbi_last_dim(c->in[0]),
                     .bytes = (c->op == &tb_op_layer_norm_grad ? 3 : 2) * n *
                              (double)tb_dtype_size((tb_dtype)c->in[0]->dtype)};
}

/* ---- backward ops: inputs g, x, mean, rstd (, gamma) ---- */
static tb_status check_backward(const tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1];
    if (g->dtype != x->dtype)
        return TB_FAIL(TB_ERR_DTYPE, "%s: gradient is %s, input %s", c->op->name,
                       tb_dtype_name((tb_dtype)g->dtype), tb_dtype_name((tb_dtype)x->dtype));
    if (x->rank < 1 || !tbi_has_dims(g, x->rank, x->dims))
        return TB_FAIL(TB_ERR_SHAPE, "%s: gradient %s and input %s differ", c->op->name, tb_shape_text(g),
                       tb_shape_text(x));
    for (int i = 2; i <= 3; i++) {
        const tb_tensor *s = c->in[i];
        if (s->dtype != tbi_stat_dtype((tb_dtype)x->dtype))
            return TB_FAIL(TB_ERR_DTYPE, "%s: mean and rstd of %s are %s, not %s", c->op->name,
                           tb_dtype_name((tb_dtype)x->dtype),
                           tb_dtype_name(tbi_stat_dtype((tb_dtype)x->dtype)),
                           tb_dtype_name((tb_dtype)s->dtype));
        if (!tbi_has_dims(s, x->rank - 1, x->dims))
            return TB_FAIL(TB_ERR_SHAPE, "%s: mean and rstd have one element for each row of %s, not %s",
                           c->op->name, tb_shape_text(x), tb_shape_text(s));
    }
    return TB_OK;
}

static tb_status dx_shape(tb_op_call *c)
{
    TB_TRY(check_backward(c));
    TB_TRY(check_columns(c, c->in[1], c->n_in > 4 ? c->in[4] : NULL, "gamma"));
    tb_out_like(c, 0, c->in[1]);
    return TB_OK;
}

static tb_status dx_ref(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1], *gamma = c->n_in > 4 ? c->in[4] : NULL;
    int64_t n = tbi_last_dim(x);
    for (int64_t row = 0; row < tbi_rows(x); row++) {
        int64_t at_g = tbi_row_at(g, row), at_x = tbi_row_at(x, row);
        double mean = tbi_get(c->in[2], tbi_element_at(c->in[2], row)),
               rstd = tbi_get(c->in[3], tbi_element_at(c->in[3], row));
        double avg_u = 0, avg_uh = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t i = 0; i < n; i++) {
                double h = (tbi_get(x, at_x + i * tbi_last_stride(x)) - mean) * rstd;
                double u = tbi_get(g, at_g + i * tbi_last_stride(g)) *
                           (gamma ? tbi_get(gamma, i * gamma->strides[0]) : 1);
                if (pass == 0) {
                    avg_u += u / (double)n;
                    avg_uh += u * h / (double)n;
                } else {
                    tbi_put(c->out[0], row * n + i, rstd * (u - avg_u - h * avg_uh));
                }
            }
    }
    return TB_OK;
}

/* What the kernels of both backward ops read; false: not as they need it. */
static bool backward_args(const tb_op_call *c, tb_row_args *a)
{
    const tb_tensor *g = c->in[0], *x = c->in[1], *gamma = c->n_in > 4 ? c->in[4] : NULL;
    *a = (tb_row_args){.rows = tbi_rows(x), .n = tbi_last_dim(x), .in = tb_op_data(g), .in2 = tb_op_data(x),
                       .gamma = data_or_null(gamma),
                       .extra_in = {tb_op_data(c->in[2]), tb_op_data(c->in[3])}};
    return tbi_rows_are_dense(g, &a->in_stride) && tbi_rows_are_dense(x, &a->in2_stride) && is_dense(gamma) &&
           c->in[2]->is_contiguous && c->in[3]->is_contiguous;
}

static tb_status dx_fast(tb_op_call *c)
{
    tb_row_args a;
    const tb_kernel *k = backward_args(c, &a) ? tb_call_kernel(c, 0, (tb_dtype)c->in[1]->dtype, &a) : NULL;
    if (!k) return TB_ERR_UNSUPPORTED;
    a.out = tb_op_data(c->out[0]);
    a.out_stride = a.n;
    tbi_run_rows(c, k, &a, (tbi_row_extras){.extra_in = {sizeof(float), sizeof(float)}});
    return TB_OK;
}

/* dx is linear in u, with a symmetric matrix: dg = gamma q, dgamma = sum g q, q = the op applied to the
 * incoming gradient w without gamma. Through h: e = -rstd (w avg(u h) + u avg(w h)), dx = e rstd,
 * dmean = -sum(e) rstd, drstd = sum e (x - mean) + sum(w dx) / rstd. */
static void dx_grad(tb_grad_call *c)
{
    tb_tensor *w = c->grad[0], *g = c->in[0], *x = c->in[1], *gamma = c->n_in > 4 ? c->in[4] : NULL;
    tb_tensor *rstd = as_column(c->in[3]), *centred = tb_sub(x, as_column(c->in[2])),
              *h = tb_mul(centred, rstd);
    tb_tensor *u = gamma ? tb_mul(g, gamma) : g;
    tb_tensor *q = tb_call(&tb_op_layer_norm_grad, NULL, TB_IN(w, x, c->in[2], c->in[3], NULL));
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, gamma ? tb_mul(gamma, q) : q);
    if (gamma && tb_grad_wants(c, 4)) tb_grad_set(c, 4, tb_mul(g, q));
    if (!tb_grad_wants(c, 1) && !tb_grad_wants(c, 2) && !tb_grad_wants(c, 3)) return;
    tb_tensor *avg_uh = row_mean(tb_mul(u, h)), *avg_wh = row_mean(tb_mul(w, h));
    tb_tensor *e = tb_neg(tb_mul(rstd, tb_add(tb_mul(w, avg_uh), tb_mul(u, avg_wh))));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_mul(e, rstd));
    if (tb_grad_wants(c, 2)) tb_grad_set(c, 2, as_stat(tb_neg(tb_mul(row_sum(e), rstd)), &c->in_spec[2]));
    if (!tb_grad_wants(c, 3)) return;
    tb_tensor *inner = tb_sub(tb_sub(u, row_mean(u)), tb_mul(h, avg_uh));
    tb_tensor *drstd = tb_add(row_sum(tb_mul(e, centred)), row_sum(tb_mul(w, inner)));
    tb_grad_set(c, 3, as_stat(drstd, &c->in_spec[3]));
}

static tb_status param_grad_shape(tb_op_call *c)
{
    TB_TRY(check_backward(c));
    int64_t n = tbi_last_dim(c->in[1]);
    for (int o = 0; o < 2; o++) tb_out_set(c, o, (tb_dtype)c->in[1]->dtype, 1, &n);
    return TB_OK;
}

static tb_status param_grad_ref(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1], *mean = c->in[2], *rstd = c->in[3];
    for (int64_t i = 0; i < tbi_last_dim(x); i++) {
        double gamma = 0, beta = 0;
        for (int64_t row = 0; row < tbi_rows(x); row++) {
            double gi = tbi_get(g, tbi_row_at(g, row) + i * tbi_last_stride(g));
            double centred = tbi_get(x, tbi_row_at(x, row) + i * tbi_last_stride(x)) -
                             tbi_get(mean, tbi_element_at(mean, row));
            gamma += gi * centred * tbi_get(rstd, tbi_element_at(rstd, row));
            beta += gi;
        }
        tbi_put(c->out[0], i, gamma);
        tbi_put(c->out[1], i, beta);
    }
    return TB_OK;
}

typedef struct block_job {
    const tb_kernel *kernel;
    const tb_row_args *args;
    int64_t block;        /* rows of a block */
    float *gamma, *beta;  /* [blocks][n] */
} block_job;

static void sum_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const block_job *j = arg;
    for (int64_t b = begin; b < end; b++) {
        tb_row_args a = *j->args;
        int64_t from = b * j->block < a.rows ? b * j->block : a.rows,
                to = from + j->block < a.rows ? from + j->block : a.rows;
        a.in = (const float *)a.in + from * a.in_stride;
        a.in2 = (const float *)a.in2 + from * a.in2_stride;
        for (int i = 0; i < 2; i++) a.extra_in[i] = (const float *)a.extra_in[i] + from;
        a.extra[0] = j->gamma + b * a.n;
        a.extra[1] = j->beta + b * a.n;
        a.rows = to - from;
        j->kernel->run(&a);
    }
}

static tb_status param_grad_fast(tb_op_call *c)
{
    tb_row_args a;
    int blocks = c->ctx->batch_blocks;
    const tb_kernel *k = backward_args(c, &a) ? tb_call_kernel(c, 0, (tb_dtype)c->in[1]->dtype, &a) : NULL;
    if (!k) return TB_ERR_UNSUPPORTED;
    size_t bytes = (size_t)a.n * sizeof(float);
    float *sums = tb_op_scratch(c, 2 * (size_t)blocks * bytes + 1);
    if (!sums) return TB_ERR_OOM;
    block_job j = {k, &a, tbi_block_rows(a.rows, blocks), sums, sums + blocks * a.n};
    tb_pool_run(c->ctx->pool, blocks, sum_blocks, &j);
    tbi_tree_f32(j.gamma, blocks, a.n);
    tbi_tree_f32(j.beta, blocks, a.n);
    memcpy(tb_op_data(c->out[0]), j.gamma, bytes);
    memcpy(tb_op_data(c->out[1]), j.beta, bytes);
    return TB_OK;
}

/* With p, q the gradients of dgamma, dbeta: dg = p h + q; e = g p is the gradient of h. */
static void param_grad_grad(tb_grad_call *c)
{
    tb_tensor *p = c->grad[0], *q = c->grad[1], *x = c->in[1];
    tb_tensor *rstd = as_column(c->in[3]), *centred = tb_sub(x, as_column(c->in[2]));
    if (q && tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_expand(q, c->in_spec[0].rank, c->in_spec[0].dims));
    if (!p) return;
    tb_tensor *e = tb_mul(c->in[0], p);
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_mul(p, tb_mul(centred, rstd)));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_mul(e, rstd));
    if (tb_grad_wants(c, 2)) tb_grad_set(c, 2, as_stat(tb_neg(row_sum(tb_mul(e, rstd))), &c->in_spec[2]));
    if (tb_grad_wants(c, 3)) tb_grad_set(c, 3, as_stat(row_sum(tb_mul(e, centred)), &c->in_spec[3]));
}

static void param_grad_cost(const tb_op_call *c, tb_cost *out)
{
    double n = (double)c->in[1]->numel;
    *out = (tb_cost){.flops = 5 * n, .bytes = 2 * n * (double)tb_dtype_size((tb_dtype)c->in[1]->dtype),
                     .k = tbi_rows(c->in[1])};
}

/* ---- samples ---- */
#define MEAN .is_stat = true
#define RSTD .is_stat = true, .lo = 0.5, .hi = 2

static void forward_samples(tb_samples *to)
{
    static const tb_sample_in cases[][3] = {
        {{TB_SHAPE(3, 5)}, {TB_SHAPE(5)}, {TB_SHAPE(5)}},
        {{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(4)}, {.absent = true}},
        {{TB_SHAPE(6)}, {.absent = true}, {TB_SHAPE(6)}},
        {{TB_SHAPE(0, 3)}, {TB_SHAPE(3)}, {TB_SHAPE(3)}},
        {{TB_SHAPE(9, 131)}, {TB_SHAPE(131)}, {TB_SHAPE(131)}},
        {{TB_SHAPE(2, 1, 2, 7)}, {.absent = true}, {.absent = true}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        tb_sample(to, &(layer_norm_attrs){1e-5}, 3, cases[i]);
}

static const tb_sample_in backward_cases[][5] = {
    {{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5)}, {TB_SHAPE(3), MEAN}, {TB_SHAPE(3), RSTD}, {TB_SHAPE(5)}},
    {{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(2, 3, 4)}, {TB_SHAPE(2, 3), MEAN}, {TB_SHAPE(2, 3), RSTD},
     {.absent = true}},
    {{TB_SHAPE(6)}, {TB_SHAPE(6)}, {.rank = 0, MEAN}, {.rank = 0, RSTD}, {TB_SHAPE(6)}},
    {{TB_SHAPE(0, 3)}, {TB_SHAPE(0, 3)}, {TB_SHAPE(0), MEAN}, {TB_SHAPE(0), RSTD}, {TB_SHAPE(3)}},
    {{TB_SHAPE(1, 1)}, {TB_SHAPE(1, 1)}, {TB_SHAPE(1), MEAN}, {TB_SHAPE(1), RSTD}, {TB_SHAPE(1)}},
    {{TB_SHAPE(37, 19)}, {TB_SHAPE(37, 19)}, {TB_SHAPE(37), MEAN}, {TB_SHAPE(37), RSTD}, {TB_SHAPE(19)}},
};

static void dx_samples(tb_samples *to)
{
    for (size_t i = 0; i < sizeof backward_cases / sizeof backward_cases[0]; i++)
        tb_sample(to, NULL, 5, backward_cases[i]);
}

static void param_grad_samples(tb_samples *to)
{
    for (size_t i = 0; i < sizeof backward_cases / sizeof backward_cases[0]; i++)
        tb_sample(to, NULL, 4, backward_cases[i]);
}

#define NORM                                                                                                 \
    .dtypes = TB_FLOATS, .dtypes_reason = "normalised values are floats; cast first", .fusion = TB_FUSE_ROW
#define SAVES(n) ((UINT32_C(1) << (n)) - 1)

TB_OP(layer_norm, .doc = "normalisation over the last dimension", NORM, .n_in_min = 1, .n_in = 3, .n_out = 3,
      .n_hidden = 2, TB_ATTRS(layer_norm_attrs, layer_norm_attr_table), .shape = layer_norm_shape,
      .ref = layer_norm_ref, .fast = layer_norm_fast, .primitives = {"layer_norm"}, .grad = layer_norm_grad,
      .saves = SAVES(2) | TB_SAVE_OUT(1) | TB_SAVE_OUT(2), .by_rows = 1, .cost = layer_norm_cost,
      .samples = forward_samples, .tol = TB_TOL(8));
TB_OP(layer_norm_grad, .doc = "gradient of layer_norm's input", NORM, .n_in_min = 4, .n_in = 5, .n_out = 1,
      .shape = dx_shape, .ref = dx_ref, .fast = dx_fast, .primitives = {"layer_norm_grad"}, .grad = dx_grad,
      .saves = SAVES(5), .cost = layer_norm_cost, .samples = dx_samples, .tol = TB_TOL(8));
TB_OP(layer_norm_param_grad, .doc = "gradients of layer_norm's gamma and beta", NORM, .n_in_min = 4,
      .n_in = 4, .n_out = 2, .shape = param_grad_shape, .ref = param_grad_ref, .fast = param_grad_fast,
      .primitives = {"layer_norm_param_grad"}, .grad = param_grad_grad, .saves = SAVES(4),
      .cost = param_grad_cost, .samples = param_grad_samples, .tol = TB_TOL(8));

tb_tensor *tb_layer_norm(tb_tensor *x, tb_tensor *gamma, tb_tensor *beta, double eps)
{
    return tb_call(&tb_op_layer_norm, &eps, TB_IN(x, gamma, beta));
}
