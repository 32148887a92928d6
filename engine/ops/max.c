/* max over any axes, argmax along one. A NaN is the maximum, and the first one is the argmax, as in torch. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* axes: as in tb_sum; none of them empty. Elements that share the maximum share its gradient equally. */
tb_tensor *tb_max(tb_tensor *x, int n_axes, const int64_t *axes, bool keep);
tb_tensor *tb_argmax(tb_tensor *x, int64_t axis, bool keep); /* i64: the first index of the maximum; not for bool */
//<<<

typedef struct max_attrs {
    tb_ints axes;
    bool keep;
} max_attrs;
static const tb_attr max_attr_table[] = {
    TB_ATTR_LIST(max_attrs, axes, "axes reduced; none means all"),
    TB_ATTR_BOOL(max_attrs, keep, 0, "reduced dimensions stay as 1"),
};

typedef struct argmax_attrs {
    int64_t axis;
    bool keep;
} argmax_attrs;
static const tb_attr argmax_attr_table[] = {
    TB_ATTR_INT(argmax_attrs, axis, -1, "axis reduced"),
    TB_ATTR_BOOL(argmax_attrs, keep, 0, "the reduced dimension stays as 1"),
};

static tb_status reduced_of(const tb_op_call *c, bool *is_reduced, bool *keep)
{
    if (c->op == &tb_op_max) {
        const max_attrs *a = c->attrs;
        *keep = a->keep;
        return tbi_reduced_axes("max", &a->axes, c->in[0]->rank, is_reduced);
    }
    const argmax_attrs *a = c->attrs;
    *keep = a->keep;
    return tbi_reduced_axes("argmax", &(tb_ints){1, {a->axis}}, c->in[0]->rank, is_reduced);
}

static tb_status max_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK], keep;
    int64_t dims[TB_MAX_RANK];
    int rank = 0;
    TB_TRY(reduced_of(c, is_reduced, &keep));
    for (int i = 0; i < x->rank; i++) {
        if (is_reduced[i] && x->dims[i] == 0)
            return TB_FAIL(TB_ERR_SHAPE, "%s: axis %d of %s is empty: it has no maximum", c->op->name, i,
                           tb_shape_text(x));
        if (!is_reduced[i] || keep) dims[rank++] = is_reduced[i] ? 1 : x->dims[i];
    }
    tb_out_set(c, 0, c->op == &tb_op_max ? (tb_dtype)x->dtype : TB_I64, rank, dims);
    return TB_OK;
}

static bool is_larger(tb_dtype t, const void *a, const void *b) /* a beats b: NaN beats numbers, not NaN */
{
    if (!tb_dtype_is_float(t)) return tb_load_i64(t, a) > tb_load_i64(t, b);
    double x = tb_load_f64(t, a), y = tb_load_f64(t, b);
    return x > y || (x != x && y == y);
}

static tb_status max_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK], keep;
    TB_TRY(reduced_of(c, is_reduced, &keep));
    tb_walk w;
    int64_t terms = tbi_walk_reduced(x, is_reduced, &w), at = 0;
    tb_dtype t = (tb_dtype)x->dtype;
    size_t size = tb_dtype_size(t);
    const char *in = tb_op_data(x), *best = NULL;
    char *out = tb_op_data(c->out[0]);
    TB_WALK(&w) {
        const char *p = in + w.at[0] * (int64_t)size;
        int64_t term = w.flat % terms;
        if (term == 0 || is_larger(t, p, best)) {
            best = p;
            at = term;
        }
        if (term + 1 < terms) continue;
        if (c->op == &tb_op_max) memcpy(out + w.flat / terms * (int64_t)size, best, size);
        else ((int64_t *)(void *)out)[w.flat / terms] = at;
    }
    return TB_OK;
}

/* f32 over trailing axes of a contiguous tensor: rows. */
typedef struct max_rows {
    const tb_kernel *kernel;
    tb_row_args args;
    int64_t rows_at_once;
} max_rows;

static void run_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const max_rows *m = arg;
    tb_row_args a = m->args;
    int64_t from = begin * m->rows_at_once, to = end * m->rows_at_once < a.rows ? end * m->rows_at_once : a.rows;
    a.in = (const float *)a.in + from * a.n;
    a.out = (float *)a.out + from;
    a.rows = to - from;
    m->kernel->run(&a);
}

static tb_status max_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK], keep, is_trailing = x->is_contiguous && x->numel > 0;
    int64_t n = 1;
    TB_TRY(reduced_of(c, is_reduced, &keep));
    for (int i = 0; i < x->rank; i++) {
        if (is_reduced[i]) n *= x->dims[i];
        else is_trailing &= n == 1;
    }
    if (!is_trailing) return TB_ERR_UNSUPPORTED;
    max_rows m = {.args = {.rows = x->numel / n, .n = n, .in = tb_op_data(x), .in_stride = n,
                           .out = tb_op_data(c->out[0]), .out_stride = 1}};
    m.kernel = tb_call_kernel(c, 0, (tb_dtype)x->dtype, &m.args);
    if (!m.kernel) return TB_ERR_UNSUPPORTED;
    m.rows_at_once = n < 16384 ? 16384 / n : 1;
    tb_pool_run(c->ctx->pool, (m.args.rows + m.rows_at_once - 1) / m.rows_at_once, run_rows, &m);
    return TB_OK;
}

/* g / (number of maxima) where x is one of them */
static void max_grad(tb_grad_call *c)
{
    const max_attrs *a = c->attrs;
    const tb_out_spec *x = &c->in_spec[0];
    bool is_reduced[TB_MAX_RANK];
    int64_t dims[TB_MAX_RANK];
    if (tbi_reduced_axes("max", &a->axes, x->rank, is_reduced) != TB_OK) return;
    for (int i = 0; i < x->rank; i++) dims[i] = is_reduced[i] ? 1 : x->dims[i];
    tb_tensor *y = tb_reshape(c->out[0], x->rank, dims), *g = tb_reshape(c->grad[0], x->rank, dims);
    tb_tensor *is_max = tb_cast(tb_eq(c->in[0], y), x->dtype);
    tb_grad_set(c, 0, tb_mul(is_max, tb_div(g, tb_sum(is_max, a->axes.n, a->axes.at, x->rank > 0))));
}

/* ---- samples ---- */
#define DISTINCT .fill = TB_FILL_DISTINCT

static void max_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(3, 4, 5), DISTINCT}, point = {.rank = 0}, none = {TB_SHAPE(0, 3)},
                              rows = {TB_SHAPE(1, 3, 33), DISTINCT}, large = {TB_SHAPE(131, 301)},
                              ties = {TB_SHAPE(4, 9), .fill = TB_FILL_INTEGER, .lo = -1, .hi = 1, .no_grad = true};
    tb_sample(to, &(max_attrs){0}, 1, &x);
    tb_sample(to, &(max_attrs){.axes = {1, {-1}}}, 1, &x);
    tb_sample(to, &(max_attrs){.axes = {2, {0, 2}}, .keep = true}, 1, &x);
    tb_sample(to, &(max_attrs){.axes = {1, {1}}}, 1, &none);
    tb_sample(to, &(max_attrs){.axes = {1, {2}}}, 1, &rows);
    tb_sample(to, &(max_attrs){.axes = {1, {1}}}, 1, &ties);
    tb_sample(to, &(max_attrs){.axes = {1, {1}}}, 1, &large);
    tb_sample(to, &(max_attrs){0}, 1, &point);
}

static void argmax_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(3, 4, 5)}, none = {TB_SHAPE(0, 3)}, row = {TB_SHAPE(1, 33)},
                              ties = {TB_SHAPE(4, 9), .fill = TB_FILL_INTEGER, .lo = -1, .hi = 1};
    tb_sample(to, &(argmax_attrs){-1, false}, 1, &x);
    tb_sample(to, &(argmax_attrs){1, true}, 1, &x);
    tb_sample(to, &(argmax_attrs){1, false}, 1, &none);
    tb_sample(to, &(argmax_attrs){1, false}, 1, &row);
    tb_sample(to, &(argmax_attrs){1, false}, 1, &ties);
}

TB_OP(max, .doc = "largest element over axes", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(max_attrs, max_attr_table), .shape = max_shape, .ref = max_ref, .fast = max_fast,
      .primitives = {"row_max"}, .grad = max_grad, .saves = TB_SAVE_IN(0) | TB_SAVE_OUT(0), .fusion = TB_FUSE_ROW,
      .by_rows = 1, .samples = max_samples, .tol = TB_TOL_EXACT);
TB_OP(argmax, .doc = "first index of the largest element", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool: as in torch", TB_ATTRS(argmax_attrs, argmax_attr_table), .shape = max_shape,
      .ref = max_ref, .no_grad = "the result is an index", .fusion = TB_FUSE_ROW, .samples = argmax_samples,
      .tol = TB_TOL_EXACT);

tb_tensor *tb_max(tb_tensor *x, int n_axes, const int64_t *axes, bool keep)
{
    max_attrs a = {.axes.n = n_axes < TB_MAX_RANK ? n_axes : TB_MAX_RANK, .keep = keep};
    for (int i = 0; i < a.axes.n; i++) a.axes.at[i] = axes[i];
    return tb_call(&tb_op_max, &a, TB_IN(x));
}

tb_tensor *tb_argmax(tb_tensor *x, int64_t axis, bool keep)
{
    return tb_call(&tb_op_argmax, &(argmax_attrs){axis, keep}, TB_IN(x));
}
