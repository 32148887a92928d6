/* accumulate: buffer = x or buffer += x, in place. The buffer is donated: the result is the same storage, one version
 * on. This is how gradients reach the memory that was given for them. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* buffer (+)= x; same shape and dtype, buffer contiguous; x may be a view of it. Returns the buffer's new value (the
 * same storage). */
tb_tensor *tb_accumulate(tb_tensor *buffer, tb_tensor *x, bool overwrite);
//<<<

typedef struct accumulate_attrs {
    bool overwrite;
} accumulate_attrs;
static const tb_attr accumulate_attr_table[] = {
    TB_ATTR_BOOL(accumulate_attrs, overwrite, 0, "the old contents do not count"),
};

static tb_status accumulate_shape(tb_op_call *c)
{
    const tb_tensor *to = c->in[0], *x = c->in[1];
    bool same = to->rank == x->rank && to->dtype == x->dtype && to->is_contiguous;
    for (int i = 0; same && i < x->rank; i++) same = to->dims[i] == x->dims[i];
    if (!same)
        return TB_FAIL(TB_ERR_SHAPE, "accumulate: buffer %s of %s does not take %s of %s (it must be contiguous)",
                       tb_shape_text(to), tb_dtype_name((tb_dtype)to->dtype), tb_shape_text(x),
                       tb_dtype_name((tb_dtype)x->dtype));
    tb_out_like(c, 0, to);
    c->spec[0].is_donated = true;
    c->spec[0].view_of = 0;
    return TB_OK;
}

static tb_status accumulate_ref(tb_op_call *c)
{
    const accumulate_attrs *a = c->attrs;
    const tb_tensor *x = c->in[1];
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    char *to = tb_op_data(c->in[0]);
    const char *from = tb_op_data(x);
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    TB_WALK(&w) {
        char *p = to + w.flat * size;
        const char *q = from + w.at[0] * size;
        if (a->overwrite) memcpy(p, q, (size_t)size);
        else if (tb_dtype_is_float(t)) tb_store_f64(t, p, tb_load_f64(t, p) + tb_load_f64(t, q));
        else tb_store_i64(t, p, tb_load_i64(t, p) + tb_load_i64(t, q));
    }
    return TB_OK;
}

enum { CHUNK = 16384 /* elements: as pointwise ops are cut */ };

typedef struct add_job {
    const tb_kernel *kernel;
    int64_t n;
    float *to;
    const float *from;
} add_job;

static void add_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const add_job *j = arg;
    int64_t at = begin * CHUNK, stop = end * CHUNK < j->n ? end * CHUNK : j->n;
    float *to = j->to + at;
    j->kernel->run(&(tb_pointwise_args){.n = stop - at, .out = to, .in = {to, j->from + at}, .step = {1, 1}});
}

static tb_status accumulate_fast(tb_op_call *c)
{
    const accumulate_attrs *a = c->attrs;
    const tb_tensor *x = c->in[1];
    if (!x->is_contiguous) return TB_ERR_UNSUPPORTED;
    void *to = tb_op_data(c->in[0]), *from = tb_op_data(x);
    if (a->overwrite) {
        memmove(to, from, tb_tensor_bytes(x));
        c->kernel = "memmove";
        return TB_OK;
    }
    if (x->dtype != TB_F32) return TB_ERR_UNSUPPORTED;
    tb_pointwise_args args = {.n = x->numel, .out = to, .in = {to, from}, .step = {1, 1}};
    const tb_kernel *k = tb_call_kernel(c, 0, TB_F32, &args);
    if (!k) return TB_ERR_UNSUPPORTED;
    tb_pool_run(c->ctx->pool, (args.n + CHUNK - 1) / CHUNK, add_chunks, &(add_job){k, args.n, to, from});
    return TB_OK;
}

static void accumulate_samples(tb_samples *to)
{
    static const tb_sample_in x[2] = {{.rank = 2, .dims = {3, 5}}, {.rank = 2, .dims = {3, 5}}};
    static const tb_sample_in empty = {TB_SHAPE(0)}, unit = {TB_SHAPE(1, 1)};
    tb_sample(to, &(accumulate_attrs){false}, 2, x);
    tb_sample(to, &(accumulate_attrs){true}, 2, x);
    tb_sample(to, &(accumulate_attrs){false}, 2, (tb_sample_in[]){empty, empty});
    tb_sample(to, &(accumulate_attrs){false}, 2, (tb_sample_in[]){unit, unit});
}

TB_OP(accumulate, .doc = "a buffer takes or adds a tensor, in place", .n_in_min = 2, .n_in = 2, .n_out = 1,
      .dtypes = TB_NUMBERS, .dtypes_reason = "bool has no sum", TB_ATTRS(accumulate_attrs, accumulate_attr_table),
      .shape = accumulate_shape, .ref = accumulate_ref, .fast = accumulate_fast, .primitives = {"add"},
      .fast_without_kernel = true, .no_grad = "writes in place", .samples = accumulate_samples, .tol = TB_TOL(1));

/* Whether an element of x may lie where another one of the buffer's does. */
static bool is_crossed(const tb_tensor *buffer, const tb_tensor *x)
{
    if (!x || !buffer || !x->storage || x->storage != buffer->storage) return false;
    if (!x->is_contiguous) return true;
    int64_t apart = x->offset - buffer->offset;
    return apart != 0 && apart < buffer->numel && -apart < x->numel;
}

tb_tensor *tb_accumulate(tb_tensor *buffer, tb_tensor *x, bool overwrite)
{
    if (is_crossed(buffer, x)) x = tb_copy(x);
    return tb_call(&tb_op_accumulate, &(accumulate_attrs){overwrite}, TB_IN(buffer, x));
}
