/* sum, mean over any axes. Kept in one order of arithmetic: where the reduced axes are the trailing ones, a row sum
 * with a fixed number of lanes; where axis 0 (the batch) is among them and `batch` is set, a pairwise tree over the
 * context's batch blocks. The reference sums in f64 (integers and bool: in i64, as torch does). */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* axes: n_axes of them (negative count from the end), n_axes = 0 means all. keep: reduced dimensions stay as 1.
 * Integers and bool give i64. */
tb_tensor *tb_sum(tb_tensor *x, int n_axes, const int64_t *axes, bool keep);
tb_tensor *tb_mean(tb_tensor *x, int n_axes, const int64_t *axes, bool keep); /* floats only */
tb_tensor *tb_sum_axis(tb_tensor *x, int64_t axis, bool keep);
/* The sum over axis 0 in the order for sums over the batch (engine/README.md): for bias gradients and losses. */
tb_tensor *tb_sum_batch(tb_tensor *x);
/* Sums x over its broadcast dimensions so that the result has `like`'s shape. */
tb_tensor *tb_sum_to(tb_tensor *x, int rank, const int64_t *dims);
//<<<

typedef struct sum_attrs {
    tb_ints axes;
    bool keep, mean, batch;
} sum_attrs;
static const tb_attr sum_attr_table[] = {
    TB_ATTR_LIST(sum_attrs, axes, "axes summed over; none means all"),
    TB_ATTR_BOOL(sum_attrs, keep, 0, "reduced dimensions stay as 1"),
    TB_ATTR_BOOL(sum_attrs, mean, 0, "divide by the number of terms"),
    TB_ATTR_BOOL(sum_attrs, batch, 0, "axis 0 is the batch: pairwise tree over fixed blocks"),
};

static tb_status reduced_axes(const tb_op_call *c, bool *is_reduced)
{
    const sum_attrs *a = c->attrs;
    int rank = c->in[0]->rank;
    for (int i = 0; i < rank; i++) is_reduced[i] = a->axes.n == 0;
    for (int i = 0; i < a->axes.n; i++) {
        int axis;
        TB_TRY(tb_axis_check(c->op->name, a->axes.at[i], rank, &axis));
        if (is_reduced[axis])
            return TB_FAIL(TB_ERR_SHAPE, "%s: axis %d is named twice", c->op->name, axis);
        is_reduced[axis] = true;
    }
    return TB_OK;
}

static tb_status sum_shape(tb_op_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK];
    int64_t dims[TB_MAX_RANK];
    int rank = 0;
    TB_TRY(reduced_axes(c, is_reduced));
    for (int i = 0; i < x->rank; i++)
        if (!is_reduced[i] || a->keep) dims[rank++] = is_reduced[i] ? 1 : x->dims[i];
    tb_dtype dtype = (tb_dtype)x->dtype;
    if (a->mean && !tb_dtype_is_float(dtype))
        return TB_FAIL(TB_ERR_DTYPE, "mean: not defined for %s; cast to a float first", tb_dtype_name(dtype));
    tb_out_set(c, 0, tb_dtype_is_float(dtype) ? dtype : TB_I64, rank, dims);
    return TB_OK;
}

/* Order of the walk: kept axes outside, reduced axes inside, both ascending. */
static int split_axes(const tb_tensor *x, const bool *is_reduced, int *order)
{
    int kept = 0, n = 0;
    for (int i = 0; i < x->rank; i++)
        if (!is_reduced[i]) order[n++] = i;
    kept = n;
    for (int i = 0; i < x->rank; i++)
        if (is_reduced[i]) order[n++] = i;
    return kept;
}

static tb_status sum_ref(tb_op_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK];
    int order[TB_MAX_RANK];
    TB_TRY(reduced_axes(c, is_reduced));
    int kept = split_axes(x, is_reduced, order);
    int64_t dims[TB_MAX_RANK], terms = 1;
    tb_walk w;
    for (int i = 0; i < x->rank; i++) {
        dims[i] = x->dims[order[i]];
        if (i >= kept) terms *= dims[i];
    }
    tb_walk_init(&w, x->rank, dims);
    for (int i = 0; i < x->rank; i++) w.strides[0][i] = x->strides[order[i]];
    w.n = 1;
    w.at[0] = 0;
    tb_dtype from = (tb_dtype)x->dtype, to = c->spec[0].dtype;
    const char *in = tb_op_data(x);
    char *out = tb_op_data(c->out[0]);
    size_t from_size = tb_dtype_size(from), to_size = tb_dtype_size(to);
    double total = 0;
    int64_t count = 0;
    if (terms == 0)
        for (int64_t i = 0; i < c->out[0]->numel; i++)
            tb_store_f64(to, out + i * (int64_t)to_size, a->mean ? 0.0 / 0.0 : 0.0);
    TB_WALK(&w) {
        const void *p = in + w.at[0] * (int64_t)from_size;
        if (to == TB_I64) count += tb_load_i64(from, p);
        else total += tb_load_f64(from, p);
        if ((w.flat + 1) % terms) continue;
        char *q = out + w.flat / terms * (int64_t)to_size;
        if (to == TB_I64) tb_store_i64(to, q, count);
        else tb_store_f64(to, q, a->mean ? total / (double)terms : total);
        total = 0;
        count = 0;
    }
    return TB_OK;
}

static void sum_grad(tb_grad_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_out_spec *x = &c->in_spec[0];
    int64_t dims[TB_MAX_RANK], terms = 1;
    for (int i = 0; i < x->rank; i++) dims[i] = a->axes.n == 0 ? 1 : x->dims[i];
    for (int i = 0; i < a->axes.n; i++) dims[a->axes.at[i] < 0 ? a->axes.at[i] + x->rank : a->axes.at[i]] = 1;
    for (int i = 0; i < x->rank; i++)
        if (dims[i] == 1) terms *= x->dims[i];
    tb_tensor *g = tb_reshape(c->grad[0], x->rank, dims);
    if (a->mean) g = tb_mul(g, tb_scalar(x->dtype, 1.0 / (double)terms));
    tb_grad_set(c, 0, tb_expand(g, x->rank, x->dims));
}

static void sum_cost(const tb_op_call *c, tb_cost *out)
{
    int64_t in = c->in[0]->numel, to = 1;
    for (int i = 0; i < c->spec[0].rank; i++) to *= c->spec[0].dims[i];
    *out = (tb_cost){.flops = (double)in, .k = to ? in / to : 1,
                     .bytes = (double)in * (double)tb_dtype_size((tb_dtype)c->in[0]->dtype)};
}

static void sum_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 3, .dims = {3, 4, 5}}, empty = {.rank = 2, .dims = {0, 3}},
                              point = {.rank = 0};
    tb_sample(to, &(sum_attrs){0}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {1, {-1}}}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {1, {0}}, .keep = true}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {2, {0, 2}}, .keep = true}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {1, {0}}}, 1, &empty);
    tb_sample(to, &(sum_attrs){0}, 1, &point);
}

TB_OP(sum, .doc = "sum or mean over axes", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(sum_attrs, sum_attr_table), .shape = sum_shape, .ref = sum_ref, .grad = sum_grad,
      .fusion = TB_FUSE_ROW, .cost = sum_cost, .samples = sum_samples, .tol = TB_TOL(2));

static tb_tensor *reduce(tb_tensor *x, int n_axes, const int64_t *axes, sum_attrs a)
{
    a.axes.n = n_axes < TB_MAX_RANK ? n_axes : TB_MAX_RANK;
    for (int i = 0; i < a.axes.n; i++) a.axes.at[i] = axes[i];
    return tb_call(&tb_op_sum, &a, TB_IN(x));
}

tb_tensor *tb_sum(tb_tensor *x, int n_axes, const int64_t *axes, bool keep)
{
    return reduce(x, n_axes, axes, (sum_attrs){.keep = keep});
}

tb_tensor *tb_mean(tb_tensor *x, int n_axes, const int64_t *axes, bool keep)
{
    return reduce(x, n_axes, axes, (sum_attrs){.keep = keep, .mean = true});
}

tb_tensor *tb_sum_axis(tb_tensor *x, int64_t axis, bool keep) { return tb_sum(x, 1, &axis, keep); }

tb_tensor *tb_sum_batch(tb_tensor *x) { return reduce(x, 1, &(int64_t){0}, (sum_attrs){.batch = true}); }

tb_tensor *tb_sum_to(tb_tensor *x, int rank, const int64_t *dims)
{
    int64_t axes[TB_MAX_RANK];
    int n = 0, pad = x->rank - rank;
    if (tb_is_poison(x)) return x;
    for (int i = 0; i < x->rank; i++)
        if (i < pad || (dims[i - pad] == 1 && x->dims[i] != 1)) axes[n++] = i;
    if (n == 0) return x;
    /* The batch leads: what is summed over axis 0 is a sum over samples. */
    tb_tensor *y = reduce(x, n, axes, (sum_attrs){.keep = true, .batch = axes[0] == 0});
    return tb_reshape(y, rank, dims);
}
