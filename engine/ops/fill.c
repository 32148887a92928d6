/* zeros, full, arange: tensors from attributes alone. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_full(tb_dtype dtype, int rank, const int64_t *dims, double value);
tb_tensor *tb_zeros(tb_dtype dtype, int rank, const int64_t *dims);
tb_tensor *tb_ones_like(tb_tensor *x);
tb_tensor *tb_zeros_like(tb_tensor *x);
tb_tensor *tb_arange(tb_dtype dtype, double start, double stop, double step); /* 1-d: start, start + step, ... < stop */
//<<<

typedef struct full_attrs {
    tb_dtype dtype;
    tb_ints dims;
    double value;
} full_attrs;
static const tb_attr full_attr_table[] = {
    TB_ATTR_DTYPE(full_attrs, dtype, TB_F32, "dtype of the result"),
    TB_ATTR_LIST(full_attrs, dims, "shape of the result"),
    TB_ATTR_REAL(full_attrs, value, 0, "value of every element"),
};

static tb_status full_shape(tb_op_call *c)
{
    const full_attrs *a = c->attrs;
    tb_out_set(c, 0, a->dtype, a->dims.n, a->dims.at);
    return TB_OK;
}

static tb_status full_ref(tb_op_call *c)
{
    const full_attrs *a = c->attrs;
    char *out = tb_op_data(c->out[0]);
    size_t size = tb_dtype_size(a->dtype), bytes = tb_tensor_bytes(c->out[0]);
    if (a->value == 0) {
        memset(out, 0, bytes);
        return TB_OK;
    }
    for (size_t at = 0; at < bytes; at += size) tb_store_f64(a->dtype, out + at, a->value);
    return TB_OK;
}

static void full_samples(tb_samples *to)
{
    tb_sample(to, &(full_attrs){TB_F32, {2, {3, 5}}, 1.5}, 0, NULL);
    tb_sample(to, &(full_attrs){TB_I64, {2, {0, 5}}, 3}, 0, NULL);
    tb_sample(to, &(full_attrs){TB_BOOL, {0, {0}}, 1}, 0, NULL);
}

TB_OP(full, .doc = "one value everywhere", .n_out = 1, .dtypes = TB_ALL_DTYPES, TB_ATTRS(full_attrs, full_attr_table),
      .shape = full_shape, .ref = full_ref, .no_grad = "has no inputs", .fusion = TB_FUSE_POINTWISE,
      .samples = full_samples, .tol = TB_TOL_EXACT);

typedef struct arange_attrs {
    tb_dtype dtype;
    double start, stop, step;
} arange_attrs;
static const tb_attr arange_attr_table[] = {
    TB_ATTR_DTYPE(arange_attrs, dtype, TB_I64, "dtype of the result"),
    TB_ATTR_REAL(arange_attrs, start, 0, "first value"),
    TB_ATTR_REAL(arange_attrs, stop, 0, "values stay below (above, for a negative step)"),
    TB_ATTR_REAL(arange_attrs, step, 1, "distance, not 0"),
};

static tb_status arange_shape(tb_op_call *c)
{
    const arange_attrs *a = c->attrs;
    double span = (a->stop - a->start) / a->step;
    if (a->step == 0 || !(span < 0x1p62))
        return TB_FAIL(TB_ERR_INVALID, "arange: no range from %g to %g by %g", a->start, a->stop, a->step);
    int64_t n = span > 0 ? (int64_t)span : 0;
    if (span > 0 && (double)n < span) n++;
    tb_out_set(c, 0, a->dtype, 1, &n);
    return TB_OK;
}

static tb_status arange_ref(tb_op_call *c)
{
    const arange_attrs *a = c->attrs;
    char *out = tb_op_data(c->out[0]);
    for (int64_t i = 0; i < c->out[0]->numel; i++)
        tb_store_f64(a->dtype, out + i * (int64_t)tb_dtype_size(a->dtype), a->start + (double)i * a->step);
    return TB_OK;
}

static void arange_samples(tb_samples *to)
{
    tb_sample(to, &(arange_attrs){TB_F32, 0, 7, 2}, 0, NULL);
    tb_sample(to, &(arange_attrs){TB_I64, 5, 0, -1}, 0, NULL);
    tb_sample(to, &(arange_attrs){TB_F64, 0, 0, 1}, 0, NULL);
}

TB_OP(arange, .doc = "evenly spaced values", .n_out = 1, .dtypes = TB_NUMBERS, .dtypes_reason = "bool has no order",
      TB_ATTRS(arange_attrs, arange_attr_table), .shape = arange_shape, .ref = arange_ref, .no_grad = "has no inputs",
      .samples = arange_samples, .tol = TB_TOL(1));

tb_tensor *tb_full(tb_dtype dtype, int rank, const int64_t *dims, double value)
{
    full_attrs a = {.dtype = dtype, .value = value, .dims.n = rank};
    for (int i = 0; i < rank && i < TB_MAX_RANK; i++) a.dims.at[i] = dims[i];
    return tb_call(&tb_op_full, &a, 0, NULL);
}

tb_tensor *tb_zeros(tb_dtype dtype, int rank, const int64_t *dims) { return tb_full(dtype, rank, dims, 0); }
tb_tensor *tb_zeros_like(tb_tensor *x) { return tb_full((tb_dtype)x->dtype, x->rank, x->dims, 0); }
tb_tensor *tb_ones_like(tb_tensor *x) { return tb_full((tb_dtype)x->dtype, x->rank, x->dims, 1); }

tb_tensor *tb_arange(tb_dtype dtype, double start, double stop, double step)
{
    return tb_call(&tb_op_arange, &(arange_attrs){dtype, start, stop, step}, 0, NULL);
}
