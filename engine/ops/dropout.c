/* dropout: y_i = x_i / (1 - p) where the key's i-th draw is not below p, else 0 (Srivastava et al., 2014, in
 * the inverted form). The mask is a function of the key alone, so the gradient is the same op with the same
 * key: nothing but the key is kept for backward, and any sharding of the batch drops the same elements. */
#include "key.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* x: floats, axis 0 counts samples; 0 <= p <= 1; key: i64 [3] (tb_next_key). */
tb_tensor *tb_dropout(tb_tensor *x, double p, tb_tensor *key);
//<<<

typedef struct dropout_attrs {
    double p;
} dropout_attrs;
static const tb_attr dropout_attr_table[] = {
    TB_ATTR_REAL(dropout_attrs, p, 0.5, "share of elements that become 0")};

/* Draws are 32 bits; those below this drop the element (p = 1 drops all). */
static uint64_t threshold(const dropout_attrs *a) { return (uint64_t)(a->p * 0x1p32); }
static double kept_scale(const dropout_attrs *a) { return a->p < 1 ? 1 / (1 - a->p) : 0; }

static tb_status dropout_shape(tb_op_call *c)
{
    const dropout_attrs *a = c->attrs;
    if (!(a->p >= 0 && a->p <= 1))
        return TB_FAIL(TB_ERR_INVALID, "dropout: p must be between 0 and 1, not %g", a->p);
    TB_TRY(tbi_key_check(c, c->in[1]));
    tb_out_like(c, 0, c->in[0]);
    return TB_OK;
}

static tb_status dropout_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tbi_key k = tbi_key_read(c->in[1]);
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    uint64_t from = tbi_key_first(k, x), below = threshold(c->attrs);
    double scale = kept_scale(c->attrs);
    const char *in = tb_op_data(x);
    char *out = tb_op_data(c->out[0]);
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    TB_WALK(&w) {
        bool is_kept = tb_random_u32(k.seed, k.stream, from + (uint64_t)w.flat) >= below;
        tb_store_f64(t, out + w.flat * size, is_kept ? scale * tb_load_f64(t, in + w.at[0] * size) : 0);
    }
    return TB_OK;
}

/* ---- f32: a Philox block gives the draws of four elements ---- */
typedef struct job {
    const float *x;
    float *y;
    int64_t n;
    tbi_key key;
    uint64_t from, below;
    float scale;
} job;

static void drop_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = arg;
    const uint32_t key[2] = {(uint32_t)j->key.seed, (uint32_t)(j->key.seed >> 32)};
    for (int64_t b = begin; b < end; b++) {
        uint64_t block = ((j->from >> 2) + (uint64_t)b) & UINT64_MAX >> 2; /* numbers of draws wrap, as in ref */
        uint32_t draw[4];
        tb_philox4x32((uint32_t[4]){(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)j->key.stream,
                                    (uint32_t)(j->key.stream >> 32)}, key, draw);
        for (int lane = 0; lane < 4; lane++) {
            int64_t i = (int64_t)(4 * block + (uint64_t)lane - j->from);
            if (i >= 0 && i < j->n) j->y[i] = draw[lane] >= j->below ? j->x[i] * j->scale : 0.0f;
        }
    }
}

static tb_status dropout_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    job j = {.x = tb_op_data(x), .y = tb_op_data(c->out[0]), .n = x->numel, .key = tbi_key_read(c->in[1]),
             .below = threshold(c->attrs), .scale = (float)kept_scale(c->attrs)};
    if (x->dtype != TB_F32 || !x->is_contiguous) return TB_ERR_UNSUPPORTED;
    c->kernel = "philox_blocks_f32";
    j.from = tbi_key_first(j.key, x);
    if (j.n) tb_pool_run(c->ctx->pool, ((int64_t)(j.from & 3) + j.n + 3) >> 2, drop_blocks, &j);
    return TB_OK;
}

static void dropout_grad(tb_grad_call *c)
{
    if (tb_grad_wants(c, 0))
        tb_grad_set(c, 0, tb_call(&tb_op_dropout, c->attrs, TB_IN(c->grad[0], c->in[1])));
}

static void dropout_samples(tb_samples *to)
{
    static const tb_sample_in key = {TB_SHAPE(3), .hi = 9, .has_dtype = true, .dtype = TB_I64,
                                     .no_grad = true};
    static const struct {
        dropout_attrs attrs;
        tb_sample_in x;
    } cases[] = {
        {{0.5}, {TB_SHAPE(3, 5)}}, {{0.1}, {TB_SHAPE(2, 3, 1)}}, {{0}, {TB_SHAPE(4)}}, {{1}, {TB_SHAPE(4)}},
        {{0.5}, {.rank = 0}},      {{0.5}, {TB_SHAPE(0, 3)}},    {{0.3}, {TB_SHAPE(7, 131)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        tb_sample(to, &cases[i].attrs, 2, (tb_sample_in[]){cases[i].x, key});
}

TB_OP(dropout, .doc = "zeroes a random share of the elements", .n_in_min = 2, .n_in = 2, .n_out = 1,
      .dtypes = TB_FLOATS, .dtypes_reason = "kept elements are scaled by a fraction",
      TB_ATTRS(dropout_attrs, dropout_attr_table), .shape = dropout_shape, .ref = dropout_ref,
      .fast = dropout_fast, .grad = dropout_grad, .saves = TB_SAVE_IN(1), .samples = dropout_samples,
      .tol = TB_TOL(2), .is_random = true);

tb_tensor *tb_dropout(tb_tensor *x, double p, tb_tensor *key)
{
    return tb_call(&tb_op_dropout, &(dropout_attrs){p}, TB_IN(x, key));
}
