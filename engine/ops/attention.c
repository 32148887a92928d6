/* scaled_dot_product_attention: out = softmax(scale q k^T + mask) v for every batch and head, without keeping
 * the T x S matrix: a hidden output lse (log of each row's sum of exponentials) is all that backward needs to
 * make the probabilities again (Dao et al., "FlashAttention", 2022). With P = exp(scale q k^T - lse) and
 * D = rowsum(g out):
 *     dv = P^T g,   dS = P (g v^T - D),   dq = scale dS k,   dk = scale dS^T q.
 * Mask: kv_len keys are valid, and with `causal` the last query sees all of them, the one before it one less,
 * and so on: for T = S this is the lower triangle, for a single new query over a cache it is every key. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
typedef struct tb_attention_opts {
    bool causal;
    double scale;      /* 0 means 1 / sqrt(D) */
    tb_tensor *kv_len; /* i64, 0-d or [B]: valid keys of each batch entry, 0..S; NULL: all S */
} tb_attention_opts;
/* q: [B, H, T, D], k: [B, H, S, D], v: [B, H, S, E] -> [B, H, T, E]; floats of one dtype, any strides; opts
 * NULL: all defaults. A query that sees no key gives zeros. */
tb_tensor *tb_scaled_dot_product_attention(tb_tensor *q, tb_tensor *k, tb_tensor *v,
                                           const tb_attention_opts *opts);
//<<<
#endif

typedef struct attention_attrs {
    bool causal;
    double scale;
} attention_attrs;
static const tb_attr attention_attr_table[] = {
    TB_ATTR_BOOL(attention_attrs, causal, 0, "a query sees the keys up to its own place"),
    TB_ATTR_REAL(attention_attrs, scale, 0, "factor of q k^T; 0 means 1 / sqrt(D)"),
};

/* ---- what forward and backward share ---- */
enum { Q, K, V };

static tb_status check_operands(const tb_op_call *c, tb_tensor *const *t, const tb_tensor *kv_len)
{
    static const char *const name[] = {"q", "k", "v"};
    const tb_tensor *q = t[Q];
    for (int i = Q; i <= V; i++) {
        if (t[i]->rank != 4)
            return TB_FAIL(TB_ERR_SHAPE, "%s: %s must be [batch, heads, length, width], not %s", c->op->name,
                           name[i], tb_shape_text(t[i]));
        if (t[i]->dtype != q->dtype)
            return TB_FAIL(TB_ERR_DTYPE, "%s: q is %s, %s is %s", c->op->name,
                           tb_dtype_name((tb_dtype)q->dtype), name[i], tb_dtype_name((tb_dtype)t[i]->dtype));
        if (t[i]->dims[0] != q->dims[0] || t[i]->dims[1] != q->dims[1])
            return TB_FAIL(TB_ERR_SHAPE, "%s: q %s and %s %s differ in batch or heads", c->op->name,
                           tb_shape_text(q), name[i], tb_shape_text(t[i]));
    }
    if (t[K]->dims[3] != q->dims[3])
        return TB_FAIL(TB_ERR_SHAPE, "%s: q %s and k %s differ in width", c->op->name, tb_shape_text(q),
                       tb_shape_text(t[K]));
    if (t[K]->dims[2] != t[V]->dims[2])
        return TB_FAIL(TB_ERR_SHAPE, "%s: k %s and v %s differ in length", c->op->name, tb_shape_text(t[K]),
                       tb_shape_text(t[V]));
    if (kv_len &&
        (kv_len->dtype != TB_I64 || kv_len->rank > 1 || (kv_len->rank == 1 && kv_len->dims[0] != q->dims[0])))
        return TB_FAIL(TB_ERR_SHAPE, "%s: kv_len must be i64, one number or [%lld], not %s %s", c->op->name,
                       (long long)q->dims[0], tb_dtype_name((tb_dtype)kv_len->dtype), tb_shape_text(kv_len));
    return TB_OK;
}

static double scale_of(const attention_attrs *a, const tb_tensor *q)
{
    return a->scale != 0 ? a->scale : 1 / sqrt((double)q->dims[3]);
}

/* Valid keys of batch entry b. */
static tb_status keys_of(const tb_op_call *c, const tb_tensor *kv_len, int64_t b, int64_t keys, int64_t *out)
{
    *out = keys;
    if (!kv_len) return TB_OK;
    *out = ((const int64_t *)tb_op_data(kv_len))[kv_len->rank ? b * kv_len->strides[0] : 0];
    if (*out >= 0 && *out <= keys) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "%s: kv_len %lld of batch entry %lld is not in 0..%lld", c->op->name,
                   (long long)*out, (long long)b, (long long)keys);
}

/* Keys that query i of `queries` sees. */
static int64_t seen(bool causal, int64_t i, int64_t queries, int64_t valid)
{
    if (!causal) return valid;
    int64_t n = i + 1 + valid - queries;
    return n < 0 ? 0 : n;
}

static int64_t at4(const tb_tensor *t, int64_t b, int64_t h, int64_t i, int64_t j)
{
    return b * t->strides[0] + h * t->strides[1] + i * t->strides[2] + j * t->strides[3];
}

/* sum over the last dimension of x[b, h, i] y[b, h, j] */
static double dot(const tb_tensor *x, const tb_tensor *y, int64_t b, int64_t h, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t d = 0; d < x->dims[3]; d++)
        sum += tbi_get(x, at4(x, b, h, i, d)) * tbi_get(y, at4(y, b, h, j, d));
    return sum;
}

/* ---- forward: q, k, v, kv_len -> out, lse ---- */
static tb_status attention_shape(tb_op_call *c)
{
    const tb_tensor *q = c->in[Q], *v = c->in[V];
    TB_TRY(check_operands(c, c->in, c->n_in > 3 ? c->in[3] : NULL));
    tb_out_set(c, 0, (tb_dtype)q->dtype, 4, (int64_t[]){q->dims[0], q->dims[1], q->dims[2], v->dims[3]});
    if (tbi_last_stride(q) == 1)
        tb_out_order(c, 0, q); /* heads that came out of one product go into the next as they lie */
    tb_out_set(c, 1, tbi_stat_dtype((tb_dtype)q->dtype), 3, q->dims);
    return TB_OK;
}

/* One query: its probabilities into p, its row of the output and lse. */
static void attend(const tb_op_call *c, int64_t b, int64_t h, int64_t i, int64_t n, double *p)
{
    const tb_tensor *q = c->in[Q], *k = c->in[K], *v = c->in[V], *out = c->out[0], *lse = c->out[1];
    double scale = scale_of(c->attrs, q), max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) max = fmax(max, p[j] = scale * dot(q, k, b, h, i, j));
    for (int64_t j = 0; j < n; j++) sum += p[j] = exp(p[j] - max);
    for (int64_t e = 0; e < v->dims[3]; e++) {
        double y = 0;
        for (int64_t j = 0; j < n; j++) y += p[j] * tbi_get(v, at4(v, b, h, j, e));
        tbi_put(out, at4(out, b, h, i, e), n ? y / sum : 0);
    }
    tbi_put(lse, (b * q->dims[1] + h) * q->dims[2] + i, n ? max + log(sum) : -HUGE_VAL);
}

static tb_status attention_ref(tb_op_call *c)
{
    const attention_attrs *a = c->attrs;
    const tb_tensor *q = c->in[Q], *kv_len = c->n_in > 3 ? c->in[3] : NULL;
    int64_t keys = c->in[K]->dims[2], valid;
    double *p = tb_op_scratch(c, (size_t)(keys + 1) * sizeof *p);
    if (!p) return TB_ERR_OOM;
    for (int64_t b = 0; b < q->dims[0]; b++) {
        TB_TRY(keys_of(c, kv_len, b, keys, &valid));
        for (int64_t h = 0; h < q->dims[1]; h++)
            for (int64_t i = 0; i < q->dims[2]; i++)
                attend(c, b, h, i, seen(a->causal, i, q->dims[2], valid), p);
    }
    return TB_OK;
}

/* ---- kernels ---- */
static bool strides_of(const tb_tensor *t, int64_t *stride)
{
    for (int i = 0; i < 3; i++) stride[i] = t->strides[i];
    return t->strides[3] == 1 || t->dims[3] <= 1;
}

/* What forward and backward give the kernel alike; false where an operand's last dimension is not dense. */
static bool kernel_args(const tb_op_call *c, tb_tensor *const *t, const tb_tensor *out, const tb_tensor *lse,
                        tb_attention_args *a)
{
    const attention_attrs *attrs = c->attrs;
    const tb_tensor *q = t[Q];
    *a = (tb_attention_args){.b = q->dims[0], .h = q->dims[1], .t = q->dims[2], .s = t[K]->dims[2],
                             .d = q->dims[3], .e = t[V]->dims[3], .scale = scale_of(attrs, q),
                             .causal = attrs->causal, .q = tb_op_data(q), .k = tb_op_data(t[K]),
                             .v = tb_op_data(t[V]), .out = tb_op_data(out), .lse = tb_op_data(lse),
                             .pool = c->ctx->pool};
    return strides_of(q, a->q_stride) && strides_of(t[K], a->k_stride) && strides_of(t[V], a->v_stride) &&
           strides_of(out, a->out_stride) && lse->is_contiguous;
}

/* kv_len as the kernels take it: one number for each batch entry, checked. */
static tb_status fill_lengths(const tb_op_call *c, const tb_tensor *kv_len, int64_t batch, int64_t keys,
                              int64_t *to)
{
    for (int64_t b = 0; b < batch; b++) TB_TRY(keys_of(c, kv_len, b, keys, &to[b]));
    return TB_OK;
}

static tb_status run_kernel(tb_op_call *c, const tb_tensor *kv_len, tb_attention_args *a)
{
    if (kv_len) {
        int64_t *lengths = tb_op_scratch(c, (size_t)(a->b + 1) * sizeof *lengths);
        if (!lengths) return TB_ERR_OOM;
        TB_TRY(fill_lengths(c, kv_len, a->b, a->s, lengths));
        a->kv_len = lengths;
    }
    const tb_kernel *kernel = tb_call_kernel(c, 0, TB_F32, a);
    if (!kernel) return TB_ERR_UNSUPPORTED;
    size_t bytes = kernel->scratch_bytes ? kernel->scratch_bytes(a) : 0;
    if (bytes && !(a->scratch = tb_op_scratch(c, bytes))) return TB_ERR_OOM;
    kernel->run(a);
    return TB_OK;
}

static tb_status attention_fast(tb_op_call *c)
{
    tb_attention_args a;
    if (c->in[Q]->dtype != TB_F32 || c->in[Q]->numel == 0 || c->in[K]->numel == 0 || c->in[V]->numel == 0)
        return TB_ERR_UNSUPPORTED;
    if (!kernel_args(c, c->in, c->out[0], c->out[1], &a)) return TB_ERR_UNSUPPORTED;
    return run_kernel(c, c->n_in > 3 ? c->in[3] : NULL, &a);
}

static void attention_cost(const tb_op_call *c, tb_cost *out)
{
    bool is_backward = c->op != &tb_op_scaled_dot_product_attention;
    tb_tensor *const *t = c->in + is_backward;
    const attention_attrs *a = c->attrs;
    double pairs = (double)(t[Q]->dims[0] * t[Q]->dims[1] * t[Q]->dims[2]) * (double)t[K]->dims[2] *
                   (a->causal ? 0.5 : 1);
    double once = (double)t[Q]->numel + (double)t[K]->numel + 2 * (double)t[V]->numel;
    *out = (tb_cost){.flops = (is_backward ? 5 : 2) * pairs * (double)(t[Q]->dims[3] + t[V]->dims[3]),
                     .bytes = (is_backward ? 2 : 1) * once * (double)tb_dtype_size((tb_dtype)t[Q]->dtype),
                     .k = t[K]->dims[2] + t[Q]->dims[3]};
}

/* ---- backward: g, q, k, v, out, lse, kv_len -> dq, dk, dv ---- */
static tb_status backward_shape(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *out = c->in[4], *lse = c->in[5];
    tb_tensor *const *t = c->in + 1;
    TB_TRY(check_operands(c, t, c->n_in > 6 ? c->in[6] : NULL));
    int64_t dims[4] = {t[Q]->dims[0], t[Q]->dims[1], t[Q]->dims[2], t[V]->dims[3]};
    if (!tbi_has_dims(g, 4, dims) || !tbi_has_dims(out, 4, dims) || !tbi_has_dims(lse, 3, dims))
        return TB_FAIL(TB_ERR_SHAPE, "%s: gradient %s, output %s and lse %s do not belong to an output %s",
                       c->op->name, tb_shape_text(g), tb_shape_text(out), tb_shape_text(lse),
                       tb_dims_text(4, dims));
    if (g->dtype != t[Q]->dtype || out->dtype != g->dtype || lse->dtype != tbi_stat_dtype((tb_dtype)g->dtype))
        return TB_FAIL(TB_ERR_DTYPE, "%s: gradient %s, output %s and lse %s do not belong to %s", c->op->name,
                       tb_dtype_name((tb_dtype)g->dtype), tb_dtype_name((tb_dtype)out->dtype),
                       tb_dtype_name((tb_dtype)lse->dtype), tb_dtype_name((tb_dtype)t[Q]->dtype));
    for (int i = Q; i <= V; i++) {
        tb_out_like(c, i, t[i]);
        if (tbi_last_stride(t[i]) == 1) tb_out_order(c, i, t[i]); /* kernels write dense rows */
    }
    return TB_OK;
}

/* Adds factor * x[b, h, i] to a row of sums. */
static void add_row(double *sum, double factor, const tb_tensor *x, int64_t b, int64_t h, int64_t i)
{
    for (int64_t d = 0; d < x->dims[3]; d++) sum[d] += factor * tbi_get(x, at4(x, b, h, i, d));
}

/* One head. sums: [T + S, D] for dq and dk, then [S, E] for dv. */
static void backward_head(const tb_op_call *c, int64_t b, int64_t h, int64_t valid, double *sums)
{
    const attention_attrs *a = c->attrs;
    const tb_tensor *g = c->in[0], *q = c->in[1], *k = c->in[2], *v = c->in[3], *out = c->in[4],
                    *lse = c->in[5];
    int64_t queries = q->dims[2], keys = k->dims[2], width[] = {q->dims[3], q->dims[3], v->dims[3]};
    double *d[] = {sums, sums + queries * width[Q], sums + (queries + keys) * width[Q]},
           scale = scale_of(c->attrs, q);
    memset(sums, 0, (size_t)((queries + keys) * width[Q] + keys * width[V]) * sizeof *sums);
    for (int64_t i = 0; i < queries; i++) {
        double row = dot(g, out, b, h, i, i);
        double log_sum = tbi_get(lse, b * lse->strides[0] + h * lse->strides[1] + i * lse->strides[2]);
        for (int64_t j = 0; j < seen(a->causal, i, queries, valid); j++) {
            double p = exp(scale * dot(q, k, b, h, i, j) - log_sum);
            double ds = scale * p * (dot(g, v, b, h, i, j) - row);
            add_row(d[Q] + i * width[Q], ds, k, b, h, j);
            add_row(d[K] + j * width[K], ds, q, b, h, i);
            add_row(d[V] + j * width[V], p, g, b, h, i);
        }
    }
    for (int t = Q; t <= V; t++)
        for (int64_t i = 0; i < c->out[t]->dims[2] * width[t]; i++)
            tbi_put(c->out[t], at4(c->out[t], b, h, i / width[t], i % width[t]), d[t][i]);
}

static tb_status backward_ref(tb_op_call *c)
{
    const tb_tensor *q = c->in[1], *k = c->in[2], *v = c->in[3], *kv_len = c->n_in > 6 ? c->in[6] : NULL;
    int64_t all = (q->dims[2] + k->dims[2]) * q->dims[3] + v->dims[2] * v->dims[3], valid;
    double *sums = tb_op_scratch(c, (size_t)(all + 1) * sizeof *sums);
    if (!sums) return TB_ERR_OOM;
    for (int64_t b = 0; b < q->dims[0]; b++) {
        TB_TRY(keys_of(c, kv_len, b, k->dims[2], &valid));
        for (int64_t h = 0; h < q->dims[1]; h++) backward_head(c, b, h, valid, sums);
    }
    return TB_OK;
}

static tb_status backward_fast(tb_op_call *c)
{
    tb_attention_args a;
    const tb_tensor *g = c->in[0];
    if (g->dtype != TB_F32 || g->numel == 0 || c->in[1]->numel == 0 || c->in[2]->numel == 0)
        return TB_ERR_UNSUPPORTED;
    if (!kernel_args(c, c->in + 1, c->in[4], c->in[5], &a) || !strides_of(g, a.g_stride))
        return TB_ERR_UNSUPPORTED;
    a.g = tb_op_data(g);
    a.dq = tb_op_data(c->out[Q]);
    a.dk = tb_op_data(c->out[K]);
    a.dv = tb_op_data(c->out[V]);
    strides_of(c->out[Q], a.dq_stride);
    strides_of(c->out[K], a.dk_stride);
    strides_of(c->out[V], a.dv_stride);
    return run_kernel(c, c->n_in > 6 ? c->in[6] : NULL, &a);
}

/* ---- gradients of the two: second derivatives are composed, and do keep the T x S matrices ---- */
static tb_tensor *flipped(tb_tensor *x) { return tb_transpose(x, -1, -2); }
static tb_tensor *row_sum(tb_tensor *x) { return tb_sum_axis(x, -1, true); }
static tb_tensor *as_column(tb_tensor *lse) /* [B, H, T] -> [B, H, T, 1] */
{
    return tb_reshape(lse, 4, (int64_t[]){lse->dims[0], lse->dims[1], lse->dims[2], 1});
}

/* P = exp(scale q k^T - lse) where the mask lets through, else 0, in q's dtype (lse may be wider). Attention over
 * the identity shows the mask. */
static tb_tensor *probabilities(const tb_grad_call *c, tb_tensor *q, tb_tensor *k, tb_tensor *lse,
                                tb_tensor *kv_len)
{
    int64_t keys = k->dims[2];
    tb_tensor *at = tb_arange(TB_I64, 0, (double)keys, 1);
    tb_tensor *one = tb_cast(tb_eq(tb_reshape(at, 2, (int64_t[]){keys, 1}), at), (tb_dtype)q->dtype);
    tb_tensor *identity = tb_expand(one, 4, (int64_t[]){q->dims[0], q->dims[1], keys, keys});
    tb_tensor *p = tb_call(&tb_op_scaled_dot_product_attention, c->attrs, TB_IN(q, k, identity, kv_len));
    tb_tensor *s = tb_mul_number(tb_matmul(q, flipped(k)), scale_of(c->attrs, q));
    tb_tensor *is_seen = tb_gt(p, tb_scalar(TB_F32, 0)), *never = tb_scalar(TB_F32, -1e30);
    return tb_cast(tb_exp(tb_where(is_seen, tb_sub(s, as_column(lse)), never)), (tb_dtype)q->dtype);
}

static void give(tb_grad_call *c, int i, tb_tensor *g)
{
    if (tb_grad_wants(c, i)) tb_grad_set(c, i, g);
}

static void attention_grad(tb_grad_call *c)
{
    tb_tensor *out[TB_MAX_OUT], *q = c->in[Q], *k = c->in[K], *kv_len = c->n_in > 3 ? c->in[3] : NULL;
    if (c->grad[0]) {
        tb_tensor *in[] = {c->grad[0], q, k, c->in[V], c->out[0], c->out[1], kv_len};
        tb_dispatch(&tb_op_scaled_dot_product_attention_grad, c->attrs, in, 7, out);
        for (int i = Q; i <= V; i++) give(c, i, out[i]);
    }
    if (!c->grad[1]) return;
    tb_tensor *p = probabilities(c, q, k, c->out[1], kv_len); /* dlse / d(scale q k^T) */
    tb_tensor *ds = tb_mul_number(tb_mul(p, as_column(c->grad[1])), scale_of(c->attrs, q));
    give(c, Q, tb_matmul(ds, k));
    give(c, K, tb_matmul(flipped(ds), q));
}

/* With x, y, z the gradients of dq, dk, dv, A = g v^T - D, M = scale (x k^T + q y^T), N = g z^T and dS = P A:
 *     Z = P M,   R = P (N + M A),   dg = Z v - rowsum(Z) out + P z,   dv = Z^T g,   dout = -rowsum(Z) g,
 *     dq = scale (R k + dS y),   dk = scale (R^T q + dS^T x),   dlse = -rowsum(R). */
static void backward_grad(tb_grad_call *c)
{
    tb_tensor *g = c->in[0], *q = c->in[1], *k = c->in[2], *v = c->in[3], *out = c->in[4], *lse = c->in[5];
    tb_tensor *x = c->grad[Q] ? c->grad[Q] : tb_zeros_like(q),
              *y = c->grad[K] ? c->grad[K] : tb_zeros_like(k);
    tb_tensor *z = c->grad[V] ? c->grad[V] : tb_zeros_like(v),
              *p = probabilities(c, q, k, lse, c->n_in > 6 ? c->in[6] : NULL);
    double scale = scale_of(c->attrs, q);
    tb_tensor *a = tb_sub(tb_matmul(g, flipped(v)), row_sum(tb_mul(g, out))), *ds = tb_mul(p, a);
    tb_tensor *m = tb_mul_number(tb_add(tb_matmul(x, flipped(k)), tb_matmul(q, flipped(y))), scale);
    tb_tensor *zz = tb_mul(p, m), *zs = row_sum(zz);
    tb_tensor *r = tb_mul(p, tb_add(tb_matmul(g, flipped(z)), tb_mul(m, a)));
    give(c, 0, tb_add(tb_sub(tb_matmul(zz, v), tb_mul(zs, out)), tb_matmul(p, z)));
    give(c, 1, tb_mul_number(tb_add(tb_matmul(r, k), tb_matmul(ds, y)), scale));
    give(c, 2, tb_mul_number(tb_add(tb_matmul(flipped(r), q), tb_matmul(flipped(ds), x)), scale));
    give(c, 3, tb_matmul(flipped(zz), g));
    give(c, 4, tb_neg(tb_mul(zs, g)));
    give(c, 5, tb_neg(tb_sum_axis(r, -1, false)));
}

/* ---- samples ---- */
#define LENGTHS .has_dtype = true, .dtype = TB_I64, .no_grad = true
static const struct {
    attention_attrs attrs;
    int64_t b, h, t, s, d, e; /* e: width of v */
    tb_sample_in kv_len;
} cases[] = {
    {{false, 0}, 2, 2, 3, 3, 4, 4, {.absent = true}},
    {{true, 0}, 1, 2, 4, 4, 3, 3, {.absent = true}},
    {{true, 0.3}, 1, 1, 2, 5, 3, 2, {.absent = true}},
    {{false, 0}, 2, 1, 1, 6, 4, 4, {TB_SHAPE(2), .lo = 1, .hi = 6, LENGTHS}},
    {{true, 0}, 1, 1, 2, 4, 2, 2, {.rank = 0, .lo = 3, .hi = 4, LENGTHS}},
    {{false, 0}, 0, 2, 3, 3, 4, 4, {.absent = true}},
    {{true, 0}, 1, 1, 1, 1, 1, 1, {.absent = true}},
    {{true, 0}, 1, 2, 33, 33, 17, 17, {.absent = true}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static void forward_samples(tb_samples *to)
{
    for (int i = 0; i < CASES; i++) {
        int64_t b = cases[i].b, h = cases[i].h, s = cases[i].s;
        tb_sample(to, &cases[i].attrs, 4, (tb_sample_in[]){{TB_SHAPE(b, h, cases[i].t, cases[i].d)},
                  {TB_SHAPE(b, h, s, cases[i].d)}, {TB_SHAPE(b, h, s, cases[i].e)}, cases[i].kv_len});
    }
}

static void backward_samples(tb_samples *to)
{
    for (int i = 0; i < CASES; i++) {
        int64_t b = cases[i].b, h = cases[i].h, t = cases[i].t, s = cases[i].s, d = cases[i].d,
                e = cases[i].e;
        tb_sample_in out = {TB_SHAPE(b, h, t, e)},
                     lse = {TB_SHAPE(b, h, t), .lo = 2, .hi = 4, .is_stat = true};
        tb_sample(to, &cases[i].attrs, 7, (tb_sample_in[]){out, {TB_SHAPE(b, h, t, d)},
                  {TB_SHAPE(b, h, s, d)}, {TB_SHAPE(b, h, s, e)}, out, lse, cases[i].kv_len});
    }
}

#define ATTENTION                                                                                            \
    .dtypes = TB_FLOATS, .dtypes_reason = "probabilities are floats; cast first",                            \
    TB_ATTRS(attention_attrs, attention_attr_table), .fusion = TB_FUSE_ANCHOR, .cost = attention_cost

TB_OP(scaled_dot_product_attention, .doc = "softmax(q k^T) v per head, causal or over kv_len keys", ATTENTION,
      .n_in_min = 3, .n_in = 4, .n_out = 2, .n_hidden = 1, .shape = attention_shape, .ref = attention_ref,
      .fast = attention_fast, .primitives = {"attention"}, .grad = attention_grad,
      .saves = TB_SAVE_ALL_IN | TB_SAVE_OUT(0) | TB_SAVE_OUT(1), .by_rows = 15, .samples = forward_samples,
      .tol = TB_TOL(4));
TB_OP(scaled_dot_product_attention_grad, .doc = "gradients of attention's q, k and v", ATTENTION,
      .n_in_min = 6, .n_in = 7, .n_out = 3, .shape = backward_shape, .ref = backward_ref,
      .fast = backward_fast, .primitives = {"attention_grad"}, .grad = backward_grad, .saves = TB_SAVE_ALL_IN,
      .samples = backward_samples, .tol = TB_TOL(8));

tb_tensor *tb_scaled_dot_product_attention(tb_tensor *q, tb_tensor *k, tb_tensor *v,
                                           const tb_attention_opts *opts)
{
    const tb_attention_opts o = opts ? *opts : (tb_attention_opts){0};
    attention_attrs a = {.causal = o.causal, .scale = o.scale};
    return tb_call(&tb_op_scaled_dot_product_attention, &a, TB_IN(q, k, v, o.kv_len));
}
