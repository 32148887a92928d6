/* concat: tensors joined along an axis. tb_tensor_split is the other way round and needs no op: slices are views. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* n >= 1 tensors, equal in all dimensions but `axis`; mixed dtypes are promoted as in torch.cat. */
tb_tensor *tb_concat(int n, tb_tensor *const *parts, int64_t axis);
/* n views with sizes[i] elements along the axis, into parts; all poison unless the sizes add up to the dimension. */
void tb_tensor_split(tb_tensor *x, int64_t axis, int n, const int64_t *sizes, tb_tensor **parts);
//<<<

typedef struct concat_attrs {
    int64_t axis;
} concat_attrs;
static const tb_attr concat_attr_table[] = {TB_ATTR_INT(concat_attrs, axis, 0, "axis joined along")};

static tb_status concat_shape(tb_op_call *c)
{
    const concat_attrs *a = c->attrs;
    const tb_tensor *first = c->in[0];
    int64_t dims[TB_MAX_RANK];
    int axis;
    TB_TRY(tb_axis_check("concat", a->axis, first->rank, &axis));
    memcpy(dims, first->dims, sizeof dims);
    for (int k = 1; k < c->n_in; k++) {
        const tb_tensor *x = c->in[k];
        bool fits = x->rank == first->rank && x->dtype == first->dtype;
        for (int i = 0; fits && i < x->rank; i++) fits = i == axis || x->dims[i] == first->dims[i];
        if (!fits)
            return TB_FAIL(TB_ERR_SHAPE, "concat: part %d is %s %s and does not join %s %s along axis %d", k,
                           tb_dtype_name((tb_dtype)x->dtype), tb_shape_text(x), tb_dtype_name((tb_dtype)first->dtype),
                           tb_shape_text(first), axis);
        dims[axis] += x->dims[axis];
    }
    tb_out_set(c, 0, (tb_dtype)first->dtype, first->rank, dims);
    return TB_OK;
}

static tb_status concat_ref(tb_op_call *c)
{
    const concat_attrs *a = c->attrs;
    const tb_tensor *y = c->out[0];
    int axis = (int)(a->axis < 0 ? a->axis + y->rank : a->axis);
    char *out = tb_op_data(y);
    for (int k = 0; k < c->n_in; k++) {
        tbi_copy_elements(out, y->strides, c->in[k]);
        out += c->in[k]->dims[axis] * y->strides[axis] * (int64_t)tb_dtype_size((tb_dtype)y->dtype);
    }
    return TB_OK;
}

static void concat_grad(tb_grad_call *c)
{
    const concat_attrs *a = c->attrs;
    int axis = (int)(a->axis < 0 ? a->axis + c->out_spec[0].rank : a->axis);
    int64_t from = 0;
    for (int k = 0; k < c->n_in; k++) {
        int64_t to = from + c->in_spec[k].dims[axis];
        if (tb_grad_wants(c, k)) tb_grad_set(c, k, tb_slice(c->grad[0], axis, from, to, 1));
        from = to;
    }
}

static void concat_samples(tb_samples *to)
{
    static const tb_sample_in parts[] = {{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(2, 1, 4)}, {TB_SHAPE(2, 0, 4)}},
                              same[] = {{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5)}};
    tb_sample(to, &(concat_attrs){1}, 3, parts);
    tb_sample(to, &(concat_attrs){-2}, 1, parts);
    tb_sample(to, &(concat_attrs){0}, 2, same);
    tb_sample(to, &(concat_attrs){-1}, 2, same);
}

TB_OP(concat, .doc = "tensors joined along an axis", .n_in_min = 1, .n_in = -1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(concat_attrs, concat_attr_table), .shape = concat_shape, .ref = concat_ref, .grad = concat_grad,
      .samples = concat_samples, .tol = TB_TOL_EXACT);

enum { MOST = 64 /* inputs of one call: a gradient's mask has 64 bits */ };

static tb_tensor *joined(int n, tb_tensor *const *parts, int64_t axis, tb_dtype dtype)
{
    tb_tensor *in[MOST];
    int per = (n + MOST - 1) / MOST, groups = (n + per - 1) / per;
    for (int g = 0; g < groups; g++) {
        int of = n - g * per < per ? n - g * per : per;
        in[g] = per == 1 ? tb_cast(parts[g], dtype) : joined(of, parts + g * per, axis, dtype);
    }
    return tb_call(&tb_op_concat, &(concat_attrs){axis}, groups, in);
}

tb_tensor *tb_concat(int n, tb_tensor *const *parts, int64_t axis)
{
    for (int k = 0; k < n; k++)
        if (tb_is_poison(parts[k])) return tb_poison();
    if (n < 1) return tb_call(&tb_op_concat, &(concat_attrs){axis}, n, parts); /* says that one is needed */
    return joined(n, parts, axis, tb_common_dtype(parts, n));
}

void tb_tensor_split(tb_tensor *x, int64_t axis, int n, const int64_t *sizes, tb_tensor **parts)
{
    int64_t total = 0, from = 0, wanted = tb_tensor_dim(x, (int)axis);
    bool fits = true;
    for (int i = 0; i < n; i++) {
        fits &= sizes[i] >= 0 && sizes[i] <= wanted;
        total += fits ? sizes[i] : 0;
    }
    fits &= total == wanted;
    if (!fits && !tb_is_poison(x)) {
        (void)TB_FAIL(TB_ERR_SHAPE, "split: sizes %s do not add up to axis %lld of %s",
                      tb_dims_text(n < TB_MAX_RANK ? n : TB_MAX_RANK, sizes), (long long)axis, tb_shape_text(x));
        tbi_poisoned(x->ctx);
    }
    for (int i = 0; i < n; i++) {
        parts[i] = fits ? tb_slice(x, axis, from, from + sizes[i], 1) : tb_poison();
        from += sizes[i];
    }
}
