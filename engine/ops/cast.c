/* cast: changes the dtype. Floats round to nearest even; float to integer truncates towards zero; anything to bool is
 * x != 0. Also makes a contiguous copy when the dtype stays (tb_copy). */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_cast(tb_tensor *x, tb_dtype dtype); /* x itself when it has that dtype */
tb_tensor *tb_copy(tb_tensor *x);                 /* always a new contiguous tensor */
tb_tensor *tb_contiguous(tb_tensor *x);           /* x itself when it is contiguous */
//<<<

typedef struct cast_attrs {
    tb_dtype dtype;
} cast_attrs;
static const tb_attr cast_attr_table[] = {TB_ATTR_DTYPE(cast_attrs, dtype, TB_F32, "dtype of the result")};

static tb_status cast_shape(tb_op_call *c)
{
    const cast_attrs *a = c->attrs;
    tb_out_set(c, 0, a->dtype, c->in[0]->rank, c->in[0]->dims);
    return TB_OK;
}

static tb_status cast_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tb_dtype from = (tb_dtype)x->dtype, to = c->spec[0].dtype;
    size_t from_size = tb_dtype_size(from), to_size = tb_dtype_size(to);
    const char *in = tb_op_data(x);
    char *out = tb_op_data(c->out[0]);
    bool is_exact = !tb_dtype_is_float(from);
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    TB_WALK(&w) {
        const void *p = in + w.at[0] * (int64_t)from_size;
        void *q = out + w.flat * (int64_t)to_size;
        if (is_exact) tb_store_i64(to, q, tb_load_i64(from, p));
        else tb_store_f64(to, q, tb_load_f64(from, p));
    }
    return TB_OK;
}

/* Kernels "cast_bf16", "cast_f16" start from f32, "cast_f32" ends there; everything else goes to ref. */
static tb_status cast_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tb_dtype to = c->spec[0].dtype;
    if (to == (tb_dtype)x->dtype) {
        tbi_copy_elements(tb_op_data(c->out[0]), NULL, x);
        c->kernel = "copy";
        return TB_OK;
    }
    if (!x->is_contiguous) return TB_ERR_UNSUPPORTED;
    int primitive = to == TB_F32 ? 0 : to == TB_BF16 ? 1 : to == TB_F16 ? 2 : -1;
    tb_pointwise_args args = {.n = x->numel, .out = tb_op_data(c->out[0]), .in = {tb_op_data(x)}, .step = {1}};
    const tb_kernel *k = primitive < 0 ? NULL : tb_call_kernel(c, primitive, (tb_dtype)x->dtype, &args);
    if (!k) return TB_ERR_UNSUPPORTED;
    if (args.n) k->run(&args);
    return TB_OK;
}

static void cast_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_cast(c->grad[0], c->in_spec[0].dtype)); }

static void cast_samples(tb_samples *to)
{
    static const tb_sample_in x = {.rank = 2, .dims = {3, 7}};
    for (int t = 0; t < TB_DTYPES; t++) tb_sample(to, &(cast_attrs){(tb_dtype)t}, 1, &x);
    tb_sample(to, &(cast_attrs){TB_BF16}, 1, &(tb_sample_in){TB_SHAPE(1, 0)});
}

TB_OP(cast, .doc = "change of dtype", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(cast_attrs, cast_attr_table), .shape = cast_shape, .ref = cast_ref, .fast = cast_fast,
      .primitives = {"cast_f32", "cast_bf16", "cast_f16"}, .grad = cast_grad, .fusion = TB_FUSE_POINTWISE,
      .samples = cast_samples, .tol = TB_TOL(1));

tb_tensor *tb_copy(tb_tensor *x)
{
    cast_attrs a = {(tb_dtype)x->dtype};
    return tb_call(&tb_op_cast, &a, TB_IN(x));
}

tb_tensor *tb_cast(tb_tensor *x, tb_dtype dtype)
{
    return tb_is_poison(x) || (tb_dtype)x->dtype != dtype ? tb_call(&tb_op_cast, &(cast_attrs){dtype}, TB_IN(x)) : x;
}

tb_tensor *tb_contiguous(tb_tensor *x) { return x->is_contiguous ? x : tb_copy(x); }
