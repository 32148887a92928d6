/* slice, a view of part of one axis, and its gradient unslice: the slice's values put back into zeros, or added to what
 * is there. */
#include "rows.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* Elements start, start + step, ... below stop along an axis. start and stop: negative counts from the end, clamped
 * to the dimension as Python does; step >= 1. */
tb_tensor *tb_slice(tb_tensor *x, int64_t axis, int64_t start, int64_t stop, int64_t step);
//<<<

typedef struct slice_attrs {
    int64_t axis, start, stop, step;
} slice_attrs;
#define SLICE_ATTRS                                                                                                    \
    TB_ATTR_INT(slice_attrs, axis, 0, "axis cut along"), TB_ATTR_INT(slice_attrs, start, 0, "first index"),            \
        TB_ATTR_INT(slice_attrs, stop, 0, "index after the last"), TB_ATTR_INT(slice_attrs, step, 1, "distance, >= 1")
static const tb_attr slice_attr_table[] = {SLICE_ATTRS};

enum { GRAIN = 16384 /* elements worth a second thread */ };

static int64_t clamp_index(int64_t i, int64_t n)
{
    if (i < 0) i += n;
    return i < 0 ? 0 : i > n ? n : i;
}

static tb_status slice_bounds(const char *op, const slice_attrs *a, int rank, const int64_t *dims, int *axis,
                              int64_t *start, int64_t *count)
{
    TB_TRY(tb_axis_check(op, a->axis, rank, axis));
    if (a->step < 1) return TB_FAIL(TB_ERR_INVALID, "%s: step must be at least 1, not %lld", op, (long long)a->step);
    if (dims[*axis] < 0) return TB_FAIL(TB_ERR_SHAPE, "%s: impossible shape %s", op, tb_dims_text(rank, dims));
    *start = clamp_index(a->start, dims[*axis]);
    int64_t stop = clamp_index(a->stop, dims[*axis]);
    *count = stop > *start ? 1 + (stop - *start - 1) / a->step : 0;
    return TB_OK;
}

static tb_status slice_shape(tb_op_call *c)
{
    const slice_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    int64_t dims[TB_MAX_RANK], strides[TB_MAX_RANK], start, count;
    int axis;
    TB_TRY(slice_bounds("slice", a, x->rank, x->dims, &axis, &start, &count));
    memcpy(dims, x->dims, sizeof dims);
    memcpy(strides, x->strides, sizeof strides);
    dims[axis] = count;
    if (count > 1) strides[axis] *= a->step;
    tb_out_view(c, 0, x->rank, dims, strides, x->offset + (count ? start * x->strides[axis] : 0));
    return TB_OK;
}

typedef struct unslice_attrs {
    slice_attrs slice; /* first: SLICE_ATTRS has the offsets of both */
    tb_ints dims;
    bool overwrite;
} unslice_attrs;
static const tb_attr unslice_attr_table[] = {
    SLICE_ATTRS,
    TB_ATTR_LIST(unslice_attrs, dims, "shape of the result"),
    TB_ATTR_BOOL(unslice_attrs, overwrite, 0, "what `into` holds does not count"),
};

_Static_assert(offsetof(unslice_attrs, slice) == 0, "SLICE_ATTRS");

static tb_status unslice_shape(tb_op_call *c)
{
    const unslice_attrs *a = c->attrs;
    int64_t start, count;
    int axis;
    TB_TRY(slice_bounds("unslice", &a->slice, a->dims.n, a->dims.at, &axis, &start, &count));
    bool fits = c->in[0]->rank == a->dims.n;
    for (int i = 0; fits && i < a->dims.n; i++) fits = c->in[0]->dims[i] == (i == axis ? count : a->dims.at[i]);
    if (!fits)
        return TB_FAIL(TB_ERR_SHAPE, "unslice: %s is not that slice of %s", tb_shape_text(c->in[0]),
                       tb_dims_text(a->dims.n, a->dims.at));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, a->dims.n, a->dims.at);
    const tb_tensor *into = c->n_in > 1 ? c->in[1] : NULL;
    if (!into) return TB_OK;
    if (!tbi_has_dims(into, a->dims.n, a->dims.at) || into->dtype != c->in[0]->dtype || !into->is_contiguous)
        return TB_FAIL(TB_ERR_SHAPE, "unslice: adds into a contiguous %s of %s, not %s of %s",
                       tb_dims_text(a->dims.n, a->dims.at), tb_dtype_name((tb_dtype)c->in[0]->dtype),
                       tb_shape_text(into), tb_dtype_name((tb_dtype)into->dtype));
    c->spec[0].is_donated = true;
    c->spec[0].view_of = 1;
    return TB_OK;
}

static bool unslice_adds(const tb_op_call *c)
{
    return c->n_in > 1 && c->in[1] && !((const unslice_attrs *)c->attrs)->overwrite;
}

/* The place of the slice in the result, as a tensor that is nobody's. */
static tb_status unsliced_part(const tb_op_call *c, tb_tensor *part)
{
    const unslice_attrs *a = c->attrs;
    int64_t start, count;
    int axis;
    TB_TRY(slice_bounds("unslice", &a->slice, a->dims.n, a->dims.at, &axis, &start, &count));
    *part = *c->out[0];
    part->dims[axis] = count;
    part->is_contiguous = false;
    part->numel = c->in[0]->numel;
    part->offset += count ? start * part->strides[axis] : 0;
    if (count > 1) part->strides[axis] *= a->slice.step;
    return TB_OK;
}

static tb_status unslice_ref(tb_op_call *c)
{
    const tb_tensor *y = c->out[0], *x = c->in[0];
    tb_tensor part;
    TB_TRY(unsliced_part(c, &part));
    if (!unslice_adds(c)) {
        memset(tb_op_data(y), 0, tb_tensor_bytes(y));
        tbi_copy_elements(tb_op_data(&part), part.strides, x);
        return TB_OK;
    }
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    char *to = tb_op_data(&part);
    const char *from = tb_op_data(x);
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    tb_walk_add(&w, &part);
    TB_WALK(&w)
    {
        char *p = to + w.at[1] * size;
        const char *q = from + w.at[0] * size;
        if (tb_dtype_is_float(t))
            tb_store_f64(t, p, tb_load_f64(t, p) + tb_load_f64(t, q));
        else
            tb_store_i64(t, p, tb_load_i64(t, p) + tb_load_i64(t, q));
    }
    return TB_OK;
}

/* Rows of the slice, when it is added: to[r][0..n) += from[r][0..n). */
typedef struct add_rows_job {
    const tb_kernel *kernel;
    int64_t n, to_row, from_row;
    float *to;
    const float *from;
} add_rows_job;

static void add_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const add_rows_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        float *to = j->to + r * j->to_row;
        j->kernel->run(
            &(tb_pointwise_args){.n = j->n, .out = to, .in = {to, j->from + r * j->from_row}, .step = {1, 1}});
    }
}

/* Of the last axis, as the parts of a product are cut. */
static tb_status unslice_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tb_tensor part;
    add_rows_job j = {.n = tbi_last_dim(x)};
    if (!unslice_adds(c)) {
        c->kernel = "copy";
        return unslice_ref(c);
    }
    if (x->rank == 0 || x->numel == 0) return TB_ERR_UNSUPPORTED;
    TB_TRY(unsliced_part(c, &part));
    if (tbi_last_stride(x) != 1 || tbi_last_stride(&part) != 1 || !tbi_rows_are_even(x, &j.from_row) ||
        !tbi_rows_are_even(&part, &j.to_row))
        return TB_ERR_UNSUPPORTED;
    j.to = tb_op_data(&part);
    j.from = tb_op_data(x);
    j.kernel = tb_call_kernel(c, 0, (tb_dtype)x->dtype, &(tb_pointwise_args){.n = j.n, .step = {1, 1}});
    if (!j.kernel || x->dtype != TB_F32) return TB_ERR_UNSUPPORTED;
    if (x->numel < GRAIN)
        add_rows(&j, 0, tbi_rows(x), 0);
    else
        tb_pool_run(c->ctx->pool, tbi_rows(x), add_rows, &j);
    return TB_OK;
}

static void unslice_grad(tb_grad_call *c)
{
    const unslice_attrs *a = c->attrs;
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_call(&tb_op_slice, &a->slice, TB_IN(c->grad[0])));
    if (c->n_in > 1 && tb_grad_wants(c, 1) && !a->overwrite) tb_grad_set(c, 1, c->grad[0]);
}

static void slice_grad(tb_grad_call *c)
{
    const tb_out_spec *x = &c->in_spec[0];
    unslice_attrs a = {.slice = *(const slice_attrs *)c->attrs, .dims = {.n = x->rank}};
    memcpy(a.dims.at, x->dims, sizeof *x->dims * (size_t)x->rank);
    tb_tensor *into = tb_grad_given(c, 0, &a.overwrite);
    tb_grad_set(c, 0, tb_call(&tb_op_unslice, &a, TB_IN(c->grad[0], into)));
}

static void slice_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 2, .dims = {5, 7}}, empty = {TB_SHAPE(0, 4)}, unit = {TB_SHAPE(1, 4)};
    tb_sample(to, &(slice_attrs){0, 1, 4, 1}, 1, &x);
    tb_sample(to, &(slice_attrs){1, 1, 3, 1}, 1, &empty);
    tb_sample(to, &(slice_attrs){0, 0, 1, 1}, 1, &unit);
    tb_sample(to, &(slice_attrs){-1, -5, 100, 2}, 1, &x);
    tb_sample(to, &(slice_attrs){1, 3, 3, 1}, 1, &x);
}

static void unslice_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 2, .dims = {5, 3}}, empty = {TB_SHAPE(5, 0)}, unit = {TB_SHAPE(1, 1)};
    tb_sample(to, &(unslice_attrs){.slice = {1, 1, 7, 2}, .dims = {2, {5, 7}}}, 1, &x);
    tb_sample(to, &(unslice_attrs){.slice = {1, 2, 2, 1}, .dims = {2, {5, 7}}}, 1, &empty);
    tb_sample(to, &(unslice_attrs){.slice = {1, 2, 3, 1}, .dims = {2, {1, 4}}}, 1, &unit);
}

TB_OP(slice, .doc = "part of one axis", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(slice_attrs, slice_attr_table), .shape = slice_shape, .grad = slice_grad, .fusion = TB_FUSE_VIEW,
      .by_rows = 1, .samples = slice_samples, .tol = TB_TOL_EXACT);
TB_OP(unslice, .doc = "a slice put back into zeros, or added to `into` (gradient of slice)", .n_in_min = 1, .n_in = 2,
      .n_out = 1, .dtypes = TB_ALL_DTYPES, TB_ATTRS(unslice_attrs, unslice_attr_table), .shape = unslice_shape,
      .ref = unslice_ref, .fast = unslice_fast, .primitives = {"add"}, .grad = unslice_grad, .samples = unslice_samples,
      .tol = TB_TOL_EXACT);

tb_tensor *tb_slice(tb_tensor *x, int64_t axis, int64_t start, int64_t stop, int64_t step)
{
    return tb_call(&tb_op_slice, &(slice_attrs){axis, start, stop, step}, TB_IN(x));
}
