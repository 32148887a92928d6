/* softmax: y_i = exp(x_i - max x) / sum_j exp(x_j - max x) along one axis; log_softmax: its logarithm,
 * without the detour over it. Their backward ops take the output: softmax dx = y (g - sum g y), log_softmax
 * dx = g - e^y sum g. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
/* x: floats, at least one dimension; the result has its shape. */
tb_tensor *tb_softmax(tb_tensor *x, int64_t axis);
tb_tensor *tb_log_softmax(tb_tensor *x, int64_t axis);
//<<<

typedef struct softmax_attrs {
    int64_t axis;
} softmax_attrs;
static const tb_attr softmax_attr_table[] = {TB_ATTR_INT(softmax_attrs, axis, -1, "axis summed over")};

/* Of the checked operand: the axis, as 0..rank-1. */
static int axis_of(const tb_op_call *c)
{
    const softmax_attrs *a = c->attrs;
    return (int)(a->axis < 0 ? a->axis + c->in[0]->rank : a->axis);
}

/* ---- forward ---- */
static tb_status softmax_shape(tb_op_call *c)
{
    const softmax_attrs *a = c->attrs;
    int axis;
    TB_TRY(tb_axis_check(c->op->name, a->axis, c->in[0]->rank, &axis));
    tb_out_like(c, 0, c->in[0]);
    return TB_OK;
}

static tb_status forward_ref(tb_op_call *c, bool is_log)
{
    tb_tensor x = tbi_axis_last(c->in[0], axis_of(c)), y = tbi_axis_last(c->out[0], axis_of(c));
    int64_t n = tbi_last_dim(&x), x_step = tbi_last_stride(&x), y_step = tbi_last_stride(&y);
    for (int64_t row = 0; n && row < tbi_rows(&x); row++) {
        int64_t from = tbi_row_at(&x, row), to = tbi_row_at(&y, row);
        double max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < n; i++) max = fmax(max, tbi_get(&x, from + i * x_step));
        for (int64_t i = 0; i < n; i++) sum += exp(tbi_get(&x, from + i * x_step) - max);
        for (int64_t i = 0; i < n; i++) {
            double shifted = tbi_get(&x, from + i * x_step) - max;
            tbi_put(&y, to + i * y_step, is_log ? shifted - log(sum) : exp(shifted) / sum);
        }
    }
    return TB_OK;
}

static tb_status forward_fast(tb_op_call *c) /* the axis is the last, its elements adjacent */
{
    tb_tensor x = tbi_axis_last(c->in[0], axis_of(c)), y = tbi_axis_last(c->out[0], axis_of(c));
    tb_row_args a = {
        .rows = tbi_rows(&x), .n = tbi_last_dim(&x), .in = tb_op_data(&x), .out = tb_op_data(&y)};
    if (!tbi_rows_are_dense(&x, &a.in_stride) || !tbi_rows_are_dense(&y, &a.out_stride))
        return TB_ERR_UNSUPPORTED;
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)x.dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    if (x.numel) tbi_run_rows(c, k, &a, (tbi_row_extras){0});
    return TB_OK;
}

static tb_status softmax_ref(tb_op_call *c) { return forward_ref(c, false); }
static tb_status log_softmax_ref(tb_op_call *c) { return forward_ref(c, true); }

static void softmax_grad(tb_grad_call *c)
{
    tb_grad_set(c, 0, tb_call(&tb_op_softmax_grad, c->attrs, TB_IN(c->grad[0], c->out[0])));
}

static void log_softmax_grad(tb_grad_call *c)
{
    tb_grad_set(c, 0, tb_call(&tb_op_log_softmax_grad, c->attrs, TB_IN(c->grad[0], c->out[0])));
}

static void softmax_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[0];
    double n = (double)x->numel;
    *out = (tb_cost){.flops = 5 * n, .k = x->dims[axis_of(c)],
                     .bytes = (1 + c->n_in) * n * (double)tb_dtype_size((tb_dtype)x->dtype)};
}

/* ---- backward: inputs g, y ---- */
static tb_status backward_shape(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *y = c->in[1];
    if (g->dtype != y->dtype)
        return TB_FAIL(TB_ERR_DTYPE, "%s: gradient is %s, output %s", c->op->name,
                       tb_dtype_name((tb_dtype)g->dtype), tb_dtype_name((tb_dtype)y->dtype));
    if (!tbi_has_dims(g, y->rank, y->dims))
        return TB_FAIL(TB_ERR_SHAPE, "%s: gradient %s and output %s differ", c->op->name, tb_shape_text(g),
                       tb_shape_text(y));
    return softmax_shape(c);
}

static tb_status backward_ref(tb_op_call *c, bool is_log)
{
    int axis = axis_of(c);
    tb_tensor g = tbi_axis_last(c->in[0], axis), y = tbi_axis_last(c->in[1], axis),
              dx = tbi_axis_last(c->out[0], axis);
    for (int64_t row = 0; g.numel && row < tbi_rows(&g); row++) {
        int64_t at_g = tbi_row_at(&g, row), at_y = tbi_row_at(&y, row), at = tbi_row_at(&dx, row);
        double sum = 0;
        for (int64_t i = 0; i < tbi_last_dim(&g); i++) {
            double gi = tbi_get(&g, at_g + i * tbi_last_stride(&g));
            sum += is_log ? gi : gi * tbi_get(&y, at_y + i * tbi_last_stride(&y));
        }
        for (int64_t i = 0; i < tbi_last_dim(&g); i++) {
            double gi = tbi_get(&g, at_g + i * tbi_last_stride(&g)),
                   yi = tbi_get(&y, at_y + i * tbi_last_stride(&y));
            tbi_put(&dx, at + i * tbi_last_stride(&dx), is_log ? gi - exp(yi) * sum : yi * (gi - sum));
        }
    }
    return TB_OK;
}

static tb_status backward_fast(tb_op_call *c)
{
    int axis = axis_of(c);
    tb_tensor g = tbi_axis_last(c->in[0], axis), y = tbi_axis_last(c->in[1], axis),
              dx = tbi_axis_last(c->out[0], axis);
    tb_row_args a = {.rows = tbi_rows(&g), .n = tbi_last_dim(&g), .in = tb_op_data(&g), .in2 = tb_op_data(&y),
                     .out = tb_op_data(&dx)};
    if (!tbi_rows_are_dense(&g, &a.in_stride) || !tbi_rows_are_dense(&y, &a.in2_stride) ||
        !tbi_rows_are_dense(&dx, &a.out_stride))
        return TB_ERR_UNSUPPORTED;
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)g.dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    if (g.numel) tbi_run_rows(c, k, &a, (tbi_row_extras){0});
    return TB_OK;
}

static tb_status softmax_grad_ref(tb_op_call *c) { return backward_ref(c, false); }
static tb_status log_softmax_grad_ref(tb_op_call *c) { return backward_ref(c, true); }

/* dx = y (g - s), s = sum g y. With h the gradient of dx and t = sum h y:
 * dg = y (h - t), which is the op itself; dy = h (g - s) - t g. */
static void softmax_grad_grad(tb_grad_call *c)
{
    int64_t axis = ((const softmax_attrs *)c->attrs)->axis;
    tb_tensor *h = c->grad[0], *g = c->in[0], *y = c->in[1];
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_call(c->op, c->attrs, TB_IN(h, y)));
    if (!tb_grad_wants(c, 1)) return;
    tb_tensor *s = tb_sum_axis(tb_mul(g, y), axis, true), *t = tb_sum_axis(tb_mul(h, y), axis, true);
    tb_grad_set(c, 1, tb_sub(tb_mul(h, tb_sub(g, s)), tb_mul(t, g)));
}

/* dx = g - p s, p = e^y, s = sum g. dg = h - sum h p; dy = -h p s. */
static void log_softmax_grad_grad(tb_grad_call *c)
{
    int64_t axis = ((const softmax_attrs *)c->attrs)->axis;
    tb_tensor *h = c->grad[0], *hp = tb_mul(h, tb_exp(c->in[1]));
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_sub(h, tb_sum_axis(hp, axis, true)));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_neg(tb_mul(hp, tb_sum_axis(c->in[0], axis, true))));
}

/* ---- samples ---- */

static void samples_of(tb_samples *to, int n_in)
{
    static const struct {
        softmax_attrs attrs;
        tb_sample_in x;
    } cases[] = {
        {{-1}, {TB_SHAPE(3, 5)}}, {{0}, {TB_SHAPE(3, 5)}},  {{1}, {TB_SHAPE(2, 3, 4)}}, {{-1}, {TB_SHAPE(6)}},
        {{-1}, {TB_SHAPE(4, 1)}}, {{-1}, {TB_SHAPE(0, 3)}}, {{1}, {TB_SHAPE(3, 0)}},
        {{-1}, {TB_SHAPE(9, 131)}},
        {{-1}, {TB_SHAPE(2, 1, 3, 7)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        tb_sample(to, &cases[i].attrs, n_in, (tb_sample_in[]){cases[i].x, cases[i].x});
}

static void forward_samples(tb_samples *to) { samples_of(to, 1); }
static void backward_samples(tb_samples *to) { samples_of(to, 2); }

#define SOFTMAX                                                                                              \
    .n_out = 1, .dtypes = TB_FLOATS, .dtypes_reason = "exp of an integer is not one; cast first",            \
    TB_ATTRS(softmax_attrs, softmax_attr_table), .fusion = TB_FUSE_ROW, .cost = softmax_cost, .tol = TB_TOL(4)
#define FORWARD                                                                                              \
    SOFTMAX, .n_in_min = 1, .n_in = 1, .shape = softmax_shape, .fast = forward_fast,                         \
    .saves = TB_SAVE_OUT(0), .samples = forward_samples
#define BACKWARD                                                                                             \
    SOFTMAX, .n_in_min = 2, .n_in = 2, .shape = backward_shape, .fast = backward_fast,                       \
    .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .samples = backward_samples

TB_OP(softmax, .doc = "exp(x) / sum exp(x) along an axis", FORWARD, .ref = softmax_ref, .primitives = {"row_softmax"},
      .grad = softmax_grad, .by_rows = 1);
TB_OP(log_softmax, .doc = "log of softmax", FORWARD, .ref = log_softmax_ref, .primitives = {"row_log_softmax"},
      .grad = log_softmax_grad, .by_rows = 1);
TB_OP(softmax_grad, .doc = "gradient of softmax from its output", BACKWARD, .ref = softmax_grad_ref,
      .primitives = {"softmax_grad"}, .grad = softmax_grad_grad);
TB_OP(log_softmax_grad, .doc = "gradient of log_softmax from its output", BACKWARD,
      .ref = log_softmax_grad_ref, .primitives = {"log_softmax_grad"}, .grad = log_softmax_grad_grad);

tb_tensor *tb_softmax(tb_tensor *x, int64_t axis) { return tb_call(&tb_op_softmax, &axis, TB_IN(x)); }
tb_tensor *tb_log_softmax(tb_tensor *x, int64_t axis) { return tb_call(&tb_op_log_softmax, &axis, TB_IN(x)); }
