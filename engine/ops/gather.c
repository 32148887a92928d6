/* gather, scatter and scatter_add along an axis (torch's semantics); gather and scatter_add are each other's gradient:
 *   gather:       y[i][j][k] = x[i][index[i][j][k]][k]
 *   scatter:      y = x, then y[i][index[i][j][k]][k] = src[i][j][k], elements of src in ascending order
 *   scatter_add:  the same with +=
 * for axis 1. So the last value or the sum that reaches one place has one order, whatever the index holds. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* index: i64 or i32, x's rank, at most x's size in every dimension but `axis`; values 0 <= v < x's size there. */
tb_tensor *tb_gather(tb_tensor *x, int64_t axis, tb_tensor *index);
/* src: index's shape. Where y's memory is x's own (a session whose caller gives one buffer as input and output), only
 * the places that index names are written: how a cache of keys and values grows. The gradient of src is right where no
 * place is named twice. */
tb_tensor *tb_scatter(tb_tensor *x, int64_t axis, tb_tensor *index, tb_tensor *src);
tb_tensor *tb_scatter_add(tb_tensor *x, int64_t axis, tb_tensor *index, tb_tensor *src); /* src: index's shape */
//<<<

typedef struct gather_attrs {
    int64_t axis;
} gather_attrs;
static const tb_attr gather_attr_table[] = {TB_ATTR_INT(gather_attrs, axis, 0, "axis that the index counts along")};

static tb_status check_index(const tb_op_call *c, int *axis)
{
    const gather_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *index = c->in[1];
    TB_TRY(tb_axis_check(c->op->name, a->axis, x->rank, axis));
    bool fits = index->rank == x->rank;
    for (int i = 0; fits && i < x->rank; i++) fits = i == *axis || index->dims[i] <= x->dims[i];
    if (!fits)
        return TB_FAIL(TB_ERR_SHAPE, "%s: index %s does not fit %s outside of axis %d", c->op->name,
                       tb_shape_text(index), tb_shape_text(x), *axis);
    if (index->dtype != TB_I64 && index->dtype != TB_I32)
        return TB_FAIL(TB_ERR_DTYPE, "%s: the index is i64 or i32, not %s", c->op->name,
                       tb_dtype_name((tb_dtype)index->dtype));
    return TB_OK;
}

/* The index at element `at`, checked. */
static tb_status read_index(const tb_op_call *c, int64_t at, int64_t n, int64_t *out)
{
    tb_dtype t = (tb_dtype)c->in[1]->dtype;
    *out = tb_load_i64(t, (const char *)tb_op_data(c->in[1]) + at * (int64_t)tb_dtype_size(t));
    if (*out >= 0 && *out < n) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "%s: index %lld is outside of 0..%lld", c->op->name, (long long)*out,
                   (long long)n - 1);
}

/* Adds t to the walk over the index's shape, standing still along the axis: the index moves there. */
static void walk_around(tb_walk *w, const tb_tensor *t, int axis)
{
    for (int i = 0; i < t->rank; i++) w->strides[w->n][i] = i == axis ? 0 : t->strides[i];
    w->at[w->n++] = 0;
}

/* ---- gather ---- */
static tb_status gather_shape(tb_op_call *c)
{
    int axis;
    TB_TRY(check_index(c, &axis));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, c->in[1]->rank, c->in[1]->dims);
    return TB_OK;
}

static tb_status gather_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *index = c->in[1];
    size_t size = tb_dtype_size((tb_dtype)x->dtype);
    const char *in = tb_op_data(x);
    char *out = tb_op_data(c->out[0]);
    int axis;
    tb_walk w;
    TB_TRY(check_index(c, &axis));
    tb_walk_init(&w, index->rank, index->dims);
    tb_walk_add(&w, index);
    walk_around(&w, x, axis);
    TB_WALK(&w) {
        int64_t i;
        TB_TRY(read_index(c, w.at[0], x->dims[axis], &i));
        memcpy(out + w.flat * (int64_t)size, in + (w.at[1] + i * x->strides[axis]) * (int64_t)size, size);
    }
    return TB_OK;
}

static void gather_grad(tb_grad_call *c)
{
    const gather_attrs *a = c->attrs;
    const tb_out_spec *x = &c->in_spec[0];
    if (tb_grad_wants(c, 0))
        tb_grad_set(c, 0, tb_scatter_add(tb_zeros(x->dtype, x->rank, x->dims), a->axis, c->in[1], c->grad[0]));
}

#define INDEX(most) .has_dtype = true, .dtype = TB_I64, .no_grad = true, .lo = 0, .hi = (most)

static void gather_samples(tb_samples *to)
{
    static const tb_sample_in cases[][2] = {
        {{TB_SHAPE(4, 5)}, {TB_SHAPE(4, 3), INDEX(4)}},
        {{TB_SHAPE(3, 4, 2)}, {TB_SHAPE(2, 7, 1), INDEX(3)}},
        {{TB_SHAPE(1, 2)}, {TB_SHAPE(1, 0), INDEX(1)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) tb_sample(to, &(gather_attrs){1}, 2, cases[i]);
    tb_sample(to, &(gather_attrs){-1}, 2, (tb_sample_in[]){{TB_SHAPE(6)}, {TB_SHAPE(9), INDEX(5)}});
}

TB_OP(gather, .doc = "elements picked along an axis", .n_in_min = 2, .n_in = 2, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(gather_attrs, gather_attr_table), .shape = gather_shape, .ref = gather_ref, .grad = gather_grad,
      .saves = TB_SAVE_IN(1), .samples = gather_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_gather(tb_tensor *x, int64_t axis, tb_tensor *index)
{
    return tb_call(&tb_op_gather, &(gather_attrs){axis}, TB_IN(x, index));
}

/* ---- scatter, scatter_add ---- */
static tb_status scatter_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *index = c->in[1], *src = c->in[2];
    int axis;
    TB_TRY(check_index(c, &axis));
    bool fits = src->rank == index->rank && src->dtype == x->dtype;
    for (int i = 0; fits && i < src->rank; i++) fits = src->dims[i] == index->dims[i];
    if (!fits)
        return TB_FAIL(TB_ERR_SHAPE, "%s: source %s %s does not fit index %s into %s", c->op->name,
                       tb_dtype_name((tb_dtype)src->dtype), tb_shape_text(src), tb_shape_text(index),
                       tb_dtype_name((tb_dtype)x->dtype));
    tb_out_like(c, 0, x);
    return TB_OK;
}

static tb_status scatter_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *index = c->in[1], *src = c->in[2], *y = c->out[0];
    size_t size = tb_dtype_size((tb_dtype)x->dtype);
    const char *from = tb_op_data(src);
    char *out = tb_op_data(y);
    int axis;
    tb_walk w;
    TB_TRY(check_index(c, &axis));
    if (tb_op_data(x) != out) tbi_copy_elements(out, NULL, x);
    tb_walk_init(&w, index->rank, index->dims);
    tb_walk_add(&w, index);
    tb_walk_add(&w, src);
    walk_around(&w, y, axis);
    TB_WALK(&w) {
        int64_t i;
        TB_TRY(read_index(c, w.at[0], y->dims[axis], &i));
        memcpy(out + (w.at[2] + i * y->strides[axis]) * (int64_t)size, from + w.at[1] * (int64_t)size, size);
    }
    return TB_OK;
}

static void scatter_grad(tb_grad_call *c)
{
    const gather_attrs *a = c->attrs;
    const tb_out_spec *src = &c->in_spec[2];
    if (tb_grad_wants(c, 0))
        tb_grad_set(c, 0, tb_scatter(c->grad[0], a->axis, c->in[1], tb_zeros(src->dtype, src->rank, src->dims)));
    if (tb_grad_wants(c, 2)) tb_grad_set(c, 2, tb_gather(c->grad[0], a->axis, c->in[1]));
}

/* One place a row, so that none is named twice; then places named twice, without the gradient of src. */
static void scatter_samples(tb_samples *to)
{
    static const tb_sample_in cases[][3] = {
        {{TB_SHAPE(3, 4, 2)}, {TB_SHAPE(3, 1, 2), INDEX(3)}, {TB_SHAPE(3, 1, 2)}},
        {{TB_SHAPE(4, 5)}, {TB_SHAPE(4, 8), INDEX(4)}, {TB_SHAPE(4, 8), .no_grad = true}},
        {{TB_SHAPE(1, 2)}, {TB_SHAPE(1, 0), INDEX(1)}, {TB_SHAPE(1, 0)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) tb_sample(to, &(gather_attrs){1}, 3, cases[i]);
    tb_sample(to, &(gather_attrs){-1}, 3, (tb_sample_in[]){{TB_SHAPE(6)}, {TB_SHAPE(1), INDEX(5)}, {TB_SHAPE(1)}});
}

TB_OP(scatter, .doc = "elements put at places along an axis", .n_in_min = 3, .n_in = 3, .n_out = 1,
      .dtypes = TB_ALL_DTYPES, TB_ATTRS(gather_attrs, gather_attr_table), .shape = scatter_shape, .ref = scatter_ref,
      .grad = scatter_grad, .saves = TB_SAVE_IN(1), .samples = scatter_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_scatter(tb_tensor *x, int64_t axis, tb_tensor *index, tb_tensor *src)
{
    return tb_call(&tb_op_scatter, &(gather_attrs){axis}, TB_IN(x, index, src));
}

/* Floats are summed in f64 and rounded once. */
static tb_status scatter_add_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *index = c->in[1], *src = c->in[2], *y = c->out[0];
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    bool is_float = tb_dtype_is_float(t);
    double *sum = is_float ? tb_op_scratch(c, (size_t)y->numel * sizeof *sum) : NULL;
    char *out = tb_op_data(y);
    int axis;
    tb_walk w;
    if (is_float && !sum) return TB_ERR_OOM;
    TB_TRY(check_index(c, &axis));
    tbi_copy_elements(out, NULL, x);
    for (int64_t i = 0; is_float && i < y->numel; i++) sum[i] = tb_load_f64(t, out + i * size);
    tb_walk_init(&w, index->rank, index->dims);
    tb_walk_add(&w, index);
    tb_walk_add(&w, src);
    walk_around(&w, y, axis);
    TB_WALK(&w) {
        int64_t i;
        TB_TRY(read_index(c, w.at[0], y->dims[axis], &i));
        const void *p = (const char *)tb_op_data(src) + w.at[1] * size;
        int64_t at = w.at[2] + i * y->strides[axis];
        if (is_float) sum[at] += tb_load_f64(t, p);
        else tb_store_i64(t, out + at * size, tb_load_i64(t, out + at * size) + tb_load_i64(t, p));
    }
    for (int64_t i = 0; is_float && i < y->numel; i++) tb_store_f64(t, out + i * size, sum[i]);
    return TB_OK;
}

static void scatter_add_grad(tb_grad_call *c)
{
    const gather_attrs *a = c->attrs;
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, c->grad[0]);
    if (tb_grad_wants(c, 2)) tb_grad_set(c, 2, tb_gather(c->grad[0], a->axis, c->in[1]));
}

static void scatter_add_cost(const tb_op_call *c, tb_cost *out)
{
    const gather_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0], *src = c->in[2];
    double size = (double)tb_dtype_size((tb_dtype)x->dtype);
    *out = (tb_cost){.flops = (double)src->numel, .bytes = size * (2 * (double)x->numel + (double)src->numel),
                     .k = 1 + src->dims[a->axis < 0 ? a->axis + src->rank : a->axis]};
}

static void scatter_add_samples(tb_samples *to)
{
    static const tb_sample_in cases[][3] = {
        {{TB_SHAPE(4, 5)}, {TB_SHAPE(4, 3), INDEX(4)}, {TB_SHAPE(4, 3)}},
        {{TB_SHAPE(3, 4, 2)}, {TB_SHAPE(2, 7, 1), INDEX(3)}, {TB_SHAPE(2, 7, 1)}},
        {{TB_SHAPE(1, 2)}, {TB_SHAPE(1, 0), INDEX(1)}, {TB_SHAPE(1, 0)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) tb_sample(to, &(gather_attrs){1}, 3, cases[i]);
    tb_sample(to, &(gather_attrs){-1}, 3,
              (tb_sample_in[]){{TB_SHAPE(6)}, {TB_SHAPE(31), INDEX(5)}, {TB_SHAPE(31)}});
}

TB_OP(scatter_add, .doc = "elements added to places along an axis", .n_in_min = 3, .n_in = 3, .n_out = 1,
      .dtypes = TB_ALL_DTYPES, TB_ATTRS(gather_attrs, gather_attr_table), .shape = scatter_shape,
      .ref = scatter_add_ref, .grad = scatter_add_grad, .saves = TB_SAVE_IN(1), .cost = scatter_add_cost,
      .samples = scatter_add_samples, .tol = TB_TOL(2));

tb_tensor *tb_scatter_add(tb_tensor *x, int64_t axis, tb_tensor *index, tb_tensor *src)
{
    return tb_call(&tb_op_scatter_add, &(gather_attrs){axis}, TB_IN(x, index, src));
}
