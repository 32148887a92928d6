/* Views: reshape (a copy only where strides force one), permute, expand. They move no data; their gradients are views
 * too, except expand's. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_reshape(tb_tensor *x, int rank, const int64_t *dims); /* one entry may be -1: what is left */
tb_tensor *tb_permute(tb_tensor *x, int rank, const int64_t *order); /* dim i of the result is dim order[i] of x */
tb_tensor *tb_transpose(tb_tensor *x, int64_t a, int64_t b);
tb_tensor *tb_expand(tb_tensor *x, int rank, const int64_t *dims); /* broadcasts; new leading dims allowed */
//<<<

typedef struct dims_attrs {
    tb_ints dims;
} dims_attrs;
static const tb_attr dims_attr_table[] = {TB_ATTR_LIST(dims_attrs, dims, "shape of the result, or order of axes")};

static dims_attrs dims_of(int rank, const int64_t *dims)
{
    dims_attrs a = {.dims = {.n = rank < 0 ? 0 : rank > TB_MAX_RANK ? TB_MAX_RANK : rank}};
    for (int i = 0; i < a.dims.n; i++) a.dims.at[i] = dims[i];
    return a;
}

static tb_tensor *call_dims(const tb_op *op, tb_tensor *x, int rank, const int64_t *dims)
{
    dims_attrs a = dims_of(rank, dims);
    return tb_call(op, &a, TB_IN(x));
}

/* ---- reshape ---- */
static tb_status wanted_dims(const tb_op_call *c, int64_t *dims)
{
    const dims_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    int64_t known = 1;
    int open = -1;
    for (int i = 0; i < a->dims.n; i++) {
        dims[i] = a->dims.at[i];
        if (dims[i] == -1 && open < 0) open = i;
        else if (dims[i] < 0 || __builtin_mul_overflow(known, dims[i], &known))
            return TB_FAIL(TB_ERR_SHAPE, "reshape: %s is not a shape", tb_dims_text(a->dims.n, a->dims.at));
    }
    if (open >= 0 && known > 0 && x->numel % known == 0) {
        dims[open] = x->numel / known;
        known = x->numel;
    }
    if (known != x->numel || (open >= 0 && dims[open] < 0))
        return TB_FAIL(TB_ERR_SHAPE, "reshape: %s has %lld elements, %s does not", tb_shape_text(x),
                       (long long)x->numel, tb_dims_text(a->dims.n, a->dims.at));
    return TB_OK;
}

/* The strides that show x as `dims`, if any do: axes of x that are walked in one stride are one run, and every run is
 * cut into (or is made of) whole axes of the result. */
static bool strides_as(const tb_tensor *x, int rank, const int64_t *dims, int64_t *strides)
{
    tbi_row_major(rank, dims, strides);
    if (x->is_contiguous) return true;
    int at = rank - 1; /* axis of the result, from the innermost */
    for (int i = x->rank - 1; i >= 0;) {
        int64_t run = x->dims[i], step = x->strides[i];
        for (i--; i >= 0 && (x->dims[i] == 1 || x->strides[i] == step * run); i--) run *= x->dims[i];
        for (; at >= 0 && (run > 1 || dims[at] == 1) && run % dims[at] == 0; at--) {
            strides[at] = step;
            step *= dims[at];
            run /= dims[at];
        }
        if (run != 1) return false;
    }
    return at < 0;
}

static tb_status reshape_shape(tb_op_call *c)
{
    const dims_attrs *a = c->attrs;
    int64_t dims[TB_MAX_RANK], strides[TB_MAX_RANK];
    TB_TRY(wanted_dims(c, dims));
    if (strides_as(c->in[0], a->dims.n, dims, strides))
        tb_out_view(c, 0, a->dims.n, dims, strides, c->in[0]->offset);
    else tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, a->dims.n, dims);
    return TB_OK;
}

static tb_status reshape_ref(tb_op_call *c) /* where no strides fit: a copy in row-major order */
{
    tbi_copy_elements(tb_op_data(c->out[0]), NULL, c->in[0]);
    return TB_OK;
}

static void reshape_grad(tb_grad_call *c)
{
    tb_grad_set(c, 0, tb_reshape(c->grad[0], c->in_spec[0].rank, c->in_spec[0].dims));
}

static void reshape_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 3, .dims = {2, 3, 4}}, empty = {.rank = 2, .dims = {0, 3}},
                              unit = {TB_SHAPE(1, 6, 1)};
    tb_sample(to, &(dims_attrs){{2, {6, -1}}}, 1, &x);
    tb_sample(to, &(dims_attrs){{1, {24}}}, 1, &x);
    tb_sample(to, &(dims_attrs){{3, {2, 1, 3}}}, 1, &unit);
    tb_sample(to, &(dims_attrs){{3, {0, 5, 1}}}, 1, &empty);
}

TB_OP(reshape, .doc = "same elements, other shape", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(dims_attrs, dims_attr_table), .shape = reshape_shape, .ref = reshape_ref, .grad = reshape_grad,
      .fusion = TB_FUSE_VIEW, .by_rows = 1, .samples = reshape_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_reshape(tb_tensor *x, int rank, const int64_t *dims)
{
    return call_dims(&tb_op_reshape, x, rank, dims);
}

/* ---- permute ---- */
static tb_status permute_shape(tb_op_call *c)
{
    const dims_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    int64_t dims[TB_MAX_RANK], strides[TB_MAX_RANK];
    unsigned seen = 0;
    for (int i = 0; i < a->dims.n; i++) {
        int axis;
        TB_TRY(tb_axis_check("permute", a->dims.at[i], x->rank, &axis));
        seen |= 1u << axis;
        dims[i] = x->dims[axis];
        strides[i] = x->strides[axis];
    }
    if (a->dims.n != x->rank || seen != (1u << x->rank) - 1)
        return TB_FAIL(TB_ERR_SHAPE, "permute: %s is not an order of the %d axes of %s",
                       tb_dims_text(a->dims.n, a->dims.at), x->rank, tb_shape_text(x));
    tb_out_view(c, 0, x->rank, dims, strides, x->offset);
    return TB_OK;
}

static void permute_grad(tb_grad_call *c)
{
    const dims_attrs *a = c->attrs;
    int64_t inverse[TB_MAX_RANK];
    for (int i = 0; i < a->dims.n; i++) inverse[a->dims.at[i] < 0 ? a->dims.at[i] + a->dims.n : a->dims.at[i]] = i;
    tb_grad_set(c, 0, tb_permute(c->grad[0], a->dims.n, inverse));
}

static void permute_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 3, .dims = {2, 3, 4}}, empty = {TB_SHAPE(1, 0, 2)};
    tb_sample(to, &(dims_attrs){{3, {2, 0, 1}}}, 1, &x);
    tb_sample(to, &(dims_attrs){{3, {2, 0, 1}}}, 1, &empty);
    tb_sample(to, &(dims_attrs){{3, {0, -1, 1}}}, 1, &x);
}

TB_OP(permute, .doc = "axes in another order", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(dims_attrs, dims_attr_table), .shape = permute_shape, .grad = permute_grad, .fusion = TB_FUSE_VIEW,
      .by_rows = 1, .samples = permute_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_permute(tb_tensor *x, int rank, const int64_t *order)
{
    return call_dims(&tb_op_permute, x, rank, order);
}

tb_tensor *tb_transpose(tb_tensor *x, int64_t a, int64_t b)
{
    int64_t order[TB_MAX_RANK];
    int rank = x->rank;
    for (int i = 0; i < rank; i++) order[i] = i;
    if (a < 0) a += rank;
    if (b < 0) b += rank;
    if (a >= 0 && a < rank && b >= 0 && b < rank) {
        order[a] = b;
        order[b] = a;
    } else if (rank > 0) {
        order[0] = a < 0 || a >= rank ? a : b; /* out of range: permute says so */
    }
    return tb_permute(x, rank, order);
}

/* ---- expand ---- */
static tb_status expand_shape(tb_op_call *c)
{
    const dims_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    int64_t strides[TB_MAX_RANK];
    int pad = a->dims.n - x->rank;
    int64_t bytes = (int64_t)tb_dtype_size((tb_dtype)x->dtype);
    bool fits = pad >= 0;
    for (int i = 0; fits && i < a->dims.n; i++) {
        int64_t from = i < pad ? 1 : x->dims[i - pad], to = a->dims.at[i];
        fits = (from == to || from == 1) && to >= 0 && !__builtin_mul_overflow(bytes, to ? to : 1, &bytes);
        strides[i] = from == 1 ? 0 : x->strides[i - pad];
    }
    if (!fits)
        return TB_FAIL(TB_ERR_SHAPE, "expand: %s does not broadcast to %s", tb_shape_text(x),
                       tb_dims_text(a->dims.n, a->dims.at));
    tb_out_view(c, 0, a->dims.n, a->dims.at, strides, x->offset);
    return TB_OK;
}

static void expand_grad(tb_grad_call *c) { tb_grad_set(c, 0, c->grad[0]); } /* summed to the input's shape there */

static void expand_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 2, .dims = {3, 1}}, point = {.rank = 0}, empty = {TB_SHAPE(1, 0)};
    tb_sample(to, &(dims_attrs){{3, {2, 4, 0}}}, 1, &empty);
    tb_sample(to, &(dims_attrs){{3, {2, 3, 4}}}, 1, &x);
    tb_sample(to, &(dims_attrs){{1, {5}}}, 1, &point);
    tb_sample(to, &(dims_attrs){{2, {3, 0}}}, 1, &x);
}

TB_OP(expand, .doc = "broadcast to a shape", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(dims_attrs, dims_attr_table), .shape = expand_shape, .grad = expand_grad, .fusion = TB_FUSE_VIEW,
      .samples = expand_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_expand(tb_tensor *x, int rank, const int64_t *dims) { return call_dims(&tb_op_expand, x, rank, dims); }
