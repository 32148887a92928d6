/* rand, randn, multinomial: draws that are pure functions of a key tensor i64[3] = {seed, stream, first sample}. Row r
 * of a result holds the draws of global sample `first sample + r`, so neither sharding nor order changes them; a step
 * can be recomputed, captured and replayed by handing it the same key (Philox: tb_rng.h). */
#include "key.h"
#include "tb_ops.h"
#include "tb_rng.h"

//>>> tb_ops.h
/* A fresh key from the current context: its seed, its stream and count of uses (tb_ctx_set_stream), its first
 * sample. */
tb_tensor *tb_next_key(void);
tb_tensor *tb_rand(tb_tensor *key, tb_dtype dtype, int rank, const int64_t *dims);  /* uniform in [0, 1), floats */
tb_tensor *tb_randn(tb_tensor *key, tb_dtype dtype, int rank, const int64_t *dims); /* normal, mean 0, variance 1 */
/* probs: [R, C] or [C], floats >= 0, rows need not sum to 1. n draws a row with replacement: i64 [R, n] or [n]. */
tb_tensor *tb_multinomial(tb_tensor *key, tb_tensor *probs, int64_t n);
//<<<

tb_tensor *tb_next_key(void)
{
    tb_ctx *ctx = tbi_ctx();
    if (!ctx) return tb_tensor_empty(TB_I64, 1, (int64_t[]){3}); /* says that there is no context */
    uint64_t stream = tb_stream_index(ctx->stream, ctx->stream_uses++);
    const int64_t key[3] = {(int64_t)ctx->seed, (int64_t)stream, ctx->first_sample};
    return tb_tensor_from(TB_I64, 1, (int64_t[]){3}, key);
}

/* ---- rand, randn ---- */
typedef struct rand_attrs {
    tb_dtype dtype;
    tb_ints dims;
} rand_attrs;
static const tb_attr rand_attr_table[] = {
    TB_ATTR_DTYPE(rand_attrs, dtype, TB_F32, "dtype of the result"),
    TB_ATTR_LIST(rand_attrs, dims, "shape of the result; axis 0 counts samples"),
};

static tb_status rand_shape(tb_op_call *c)
{
    const rand_attrs *a = c->attrs;
    TB_TRY(tbi_key_check(c, c->in[0]));
    tb_out_set(c, 0, a->dtype, a->dims.n, a->dims.at);
    return TB_OK;
}

static tb_status rand_ref(tb_op_call *c)
{
    tbi_key k = tbi_key_read(c->in[0]);
    tb_tensor *y = c->out[0];
    tb_dtype t = (tb_dtype)y->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    uint64_t from = tbi_key_first(k, y);
    char *out = tb_op_data(y);
    /* As many random bits as the significand holds: rounding up to 1 cannot happen. */
    int dropped = t == TB_F64 ? 0 : t == TB_F32 ? 8 : t == TB_F16 ? 21 : 24;
    double unit = (double)(UINT64_C(1) << dropped) * 0x1p-32;
    for (int64_t i = 0; i < y->numel; i++)
        tb_store_f64(t, out + i * size, (tb_random_u32(k.seed, k.stream, from + (uint64_t)i) >> dropped) * unit);
    return TB_OK;
}

static tb_status randn_ref(tb_op_call *c)
{
    tbi_key k = tbi_key_read(c->in[0]);
    tb_tensor *y = c->out[0];
    int64_t size = (int64_t)tb_dtype_size((tb_dtype)y->dtype);
    uint64_t from = tbi_key_first(k, y);
    char *out = tb_op_data(y);
    for (int64_t i = 0; i < y->numel; i++)
        tb_store_f64((tb_dtype)y->dtype, out + i * size, tb_random_normal(k.seed, k.stream, from + (uint64_t)i));
    return TB_OK;
}

static const tb_sample_in key_sample = {TB_SHAPE(3), .lo = 0, .hi = 9, .has_dtype = true, .dtype = TB_I64};

static void rand_samples(tb_samples *to)
{
    static const tb_dtype floats[] = {TB_F32, TB_F64, TB_BF16, TB_F16};
    for (int i = 0; i < 4; i++) tb_sample(to, &(rand_attrs){floats[i], {2, {3, 7}}}, 1, &key_sample);
    tb_sample(to, &(rand_attrs){TB_F32, {0, {0}}}, 1, &key_sample);
    tb_sample(to, &(rand_attrs){TB_F32, {2, {0, 5}}}, 1, &key_sample);
}

TB_OP(rand, .doc = "uniform in [0, 1) from a key", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_FLOATS,
      .typed_by = -1, .dtypes_reason = "uniform on [0, 1) is continuous", TB_ATTRS(rand_attrs, rand_attr_table),
      .shape = rand_shape, .ref = rand_ref, .no_grad = "depends on a key alone", .samples = rand_samples,
      .tol = TB_TOL_EXACT, .is_random = true);
TB_OP(randn, .doc = "normal (0, 1) from a key", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_FLOATS,
      .typed_by = -1, .dtypes_reason = "the normal distribution is continuous", TB_ATTRS(rand_attrs, rand_attr_table),
      .shape = rand_shape, .ref = randn_ref, .no_grad = "depends on a key alone", .samples = rand_samples,
      .tol = TB_TOL_EXACT, .is_random = true);

static tb_tensor *draw(const tb_op *op, tb_tensor *k, tb_dtype dtype, int rank, const int64_t *dims)
{
    rand_attrs a = {.dtype = dtype, .dims.n = rank};
    for (int i = 0; i < rank && i < TB_MAX_RANK; i++) a.dims.at[i] = dims[i];
    return tb_call(op, &a, TB_IN(k));
}

tb_tensor *tb_rand(tb_tensor *k, tb_dtype dtype, int rank, const int64_t *dims)
{
    return draw(&tb_op_rand, k, dtype, rank, dims);
}

tb_tensor *tb_randn(tb_tensor *k, tb_dtype dtype, int rank, const int64_t *dims)
{
    return draw(&tb_op_randn, k, dtype, rank, dims);
}

/* ---- multinomial: the first class whose running sum exceeds u * total ---- */
typedef struct multinomial_attrs {
    int64_t n;
} multinomial_attrs;
static const tb_attr multinomial_attr_table[] = {TB_ATTR_INT(multinomial_attrs, n, 1, "draws a row")};

static tb_status multinomial_shape(tb_op_call *c)
{
    const multinomial_attrs *a = c->attrs;
    const tb_tensor *p = c->in[1];
    TB_TRY(tbi_key_check(c, c->in[0]));
    if (p->rank < 1 || p->rank > 2 || p->dims[p->rank - 1] < 1 || a->n < 0)
        return TB_FAIL(TB_ERR_SHAPE, "multinomial: probabilities are [R, C] or [C] with C >= 1, not %s",
                       tb_shape_text(p));
    tb_out_set(c, 0, TB_I64, p->rank, p->rank == 2 ? (int64_t[]){p->dims[0], a->n} : (int64_t[]){a->n});
    return TB_OK;
}

static double row_total(const tb_tensor *p, const char *row)
{
    double total = 0;
    int64_t step = p->strides[p->rank - 1] * (int64_t)tb_dtype_size((tb_dtype)p->dtype);
    for (int64_t j = 0; j < p->dims[p->rank - 1]; j++) {
        double x = tb_load_f64((tb_dtype)p->dtype, row + j * step);
        if (!(x >= 0) || x > 1e300) return -1;
        total += x;
    }
    return total;
}

/* Classes of probability 0 are never drawn, rounding or not: `last` is the last one above 0. */
static int64_t pick(const tb_tensor *p, const char *row, double until)
{
    double sum = 0;
    int64_t last = 0, step = p->strides[p->rank - 1] * (int64_t)tb_dtype_size((tb_dtype)p->dtype);
    for (int64_t j = 0; j < p->dims[p->rank - 1]; j++) {
        double x = tb_load_f64((tb_dtype)p->dtype, row + j * step);
        if (x == 0) continue;
        last = j;
        sum += x;
        if (sum > until) break;
    }
    return last;
}

static tb_status multinomial_ref(tb_op_call *c)
{
    const multinomial_attrs *a = c->attrs;
    const tb_tensor *p = c->in[1];
    tbi_key k = tbi_key_read(c->in[0]);
    int64_t *out = tb_op_data(c->out[0]);
    int64_t rows = p->rank == 2 ? p->dims[0] : 1;
    int64_t stride = p->rank == 2 ? p->strides[0] * (int64_t)tb_dtype_size((tb_dtype)p->dtype) : 0;
    for (int64_t r = 0; r < rows; r++) {
        const char *row = (const char *)tb_op_data(p) + r * stride;
        double total = row_total(p, row);
        if (!(total > 0))
            return TB_FAIL(TB_ERR_INVALID, "multinomial: row %lld is negative, infinite, NaN or sums to 0",
                           (long long)r);
        uint64_t at = ((p->rank == 2 ? k.first_sample : 0) + (uint64_t)r) * (uint64_t)a->n;
        for (int64_t j = 0; j < a->n; j++)
            *out++ = pick(p, row, total * tb_random_uniform(k.seed, k.stream, at + (uint64_t)j));
    }
    return TB_OK;
}

static void multinomial_samples(tb_samples *to)
{
    tb_sample(to, &(multinomial_attrs){4}, 2, (tb_sample_in[]){key_sample, {TB_SHAPE(3, 7), .lo = 0.1, .hi = 1}});
    tb_sample(to, &(multinomial_attrs){3}, 2, (tb_sample_in[]){key_sample, {TB_SHAPE(5), .lo = 0.1, .hi = 1}});
    tb_sample(to, &(multinomial_attrs){2}, 2, (tb_sample_in[]){key_sample, {TB_SHAPE(0, 4), .lo = 0.1, .hi = 1}});
    tb_sample(to, &(multinomial_attrs){2}, 2, (tb_sample_in[]){key_sample, {TB_SHAPE(2, 1), .lo = 0.1, .hi = 1}});
}

TB_OP(multinomial, .doc = "class indices drawn by probability, from a key", .n_in_min = 2, .n_in = 2, .n_out = 1,
      .dtypes = TB_FLOATS, .typed_by = 1, .dtypes_reason = "probabilities are floats",
      TB_ATTRS(multinomial_attrs, multinomial_attr_table), .shape = multinomial_shape, .ref = multinomial_ref,
      .no_grad = "the result is an index", .samples = multinomial_samples, .tol = TB_TOL_EXACT, .is_random = true);

tb_tensor *tb_multinomial(tb_tensor *k, tb_tensor *probs, int64_t n)
{
    return tb_call(&tb_op_multinomial, &(multinomial_attrs){n}, TB_IN(k, probs));
}
