/* matmul: C = A B over the last two dimensions, batched with broadcasting; transposed operands are strides, not
 * copies. One chain over ascending k per element; with `batch_tree`, k runs over the batch and is summed as the
 * pairwise tree over the context's batch blocks (weight gradients). Vectors follow torch: 1-d operands gain a
 * dimension that the result loses again. */
#include "rows.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_matmul(tb_tensor *a, tb_tensor *b); /* [.., M, K] x [.., K, N] -> [.., M, N]; 1-d operands as in torch */
/* The same for a contraction over samples (k is the batch): a weight gradient. */
tb_tensor *tb_matmul_batch(tb_tensor *a, tb_tensor *b);
//<<<

typedef struct matmul_attrs {
    bool batch_tree;
} matmul_attrs;
static const tb_attr matmul_attr_table[] = {
    TB_ATTR_BOOL(matmul_attrs, batch_tree, 0, "k is the batch: pairwise tree over fixed blocks"),
};

static tb_status matmul_shape(tb_op_call *c)
{
    const tb_tensor *a = c->in[0], *b = c->in[1];
    int64_t dims[TB_MAX_RANK];
    int rank;
    if (a->dtype != b->dtype)
        return TB_FAIL(TB_ERR_DTYPE, "matmul: operands are %s and %s; cast one of them",
                       tb_dtype_name((tb_dtype)a->dtype), tb_dtype_name((tb_dtype)b->dtype));
    if (a->rank < 2 || b->rank < 2)
        return TB_FAIL(TB_ERR_SHAPE, "matmul: needs at least two dimensions: %s @ %s", tb_shape_text(a),
                       tb_shape_text(b));
    int64_t m = a->dims[a->rank - 2], k = a->dims[a->rank - 1], n = b->dims[b->rank - 1];
    if (b->dims[b->rank - 2] != k)
        return TB_FAIL(TB_ERR_SHAPE, "matmul: inner dimensions differ: %s @ %s%s", tb_shape_text(a), tb_shape_text(b),
                       n == k ? "; did you mean the second operand transposed?" : "");
    tb_tensor outer_a = *a, outer_b = *b;
    outer_a.rank -= 2;
    outer_b.rank -= 2;
    TB_TRY(tb_broadcast_dims("matmul", &outer_a, &outer_b, &rank, dims));
    dims[rank] = m;
    dims[rank + 1] = n;
    tb_out_set(c, 0, (tb_dtype)a->dtype, rank + 2, dims);
    return TB_OK;
}

/* Offsets of the batch-th matrices of a and b. */
static void batch_offsets(const tb_op_call *c, int64_t batch, int64_t *at_a, int64_t *at_b)
{
    const tb_tensor *t[2] = {c->in[0], c->in[1]};
    int64_t *at[2] = {at_a, at_b};
    int outer = c->spec[0].rank - 2;
    *at_a = *at_b = 0;
    for (int i = outer - 1; i >= 0; i--) {
        int64_t index = batch % c->spec[0].dims[i];
        batch /= c->spec[0].dims[i];
        for (int k = 0; k < 2; k++) {
            int own = i - (outer - (t[k]->rank - 2));
            if (own >= 0 && t[k]->dims[own] != 1) *at[k] += index * t[k]->strides[own];
        }
    }
}

static int64_t batches(const tb_op_call *c)
{
    int64_t n = 1;
    for (int i = 0; i < c->spec[0].rank - 2; i++) n *= c->spec[0].dims[i];
    return n;
}

static tb_status matmul_ref(tb_op_call *c)
{
    const tb_tensor *a = c->in[0], *b = c->in[1];
    int ra = a->rank, rb = b->rank;
    int64_t m = a->dims[ra - 2], k = a->dims[ra - 1], n = b->dims[rb - 1];
    tb_dtype t = (tb_dtype)a->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    bool is_float = tb_dtype_is_float(t);
    char *out = tb_op_data(c->out[0]);
    for (int64_t batch = 0; batch < batches(c); batch++) {
        int64_t at_a, at_b;
        batch_offsets(c, batch, &at_a, &at_b);
        const char *pa = (const char *)tb_op_data(a) + at_a * size, *pb = (const char *)tb_op_data(b) + at_b * size;
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++, out += size) {
                double sum = 0;
                int64_t count = 0;
                for (int64_t p = 0; p < k; p++) {
                    const void *x = pa + (i * a->strides[ra - 2] + p * a->strides[ra - 1]) * size;
                    const void *y = pb + (p * b->strides[rb - 2] + j * b->strides[rb - 1]) * size;
                    if (is_float) sum += tb_load_f64(t, x) * tb_load_f64(t, y);
                    else count += tb_load_i64(t, x) * tb_load_i64(t, y);
                }
                if (is_float) tb_store_f64(t, out, sum);
                else tb_store_i64(t, out, count);
            }
    }
    return TB_OK;
}

const tb_kernel *tbi_gemm_kernel(tb_op_call *c, const tb_gemm_args *g)
{
    tb_dtype dtype = (tb_dtype)c->in[0]->dtype;
    const tb_kernel *k = c->ctx->bf16_products && dtype == TB_F32 ? tb_call_kernel(c, 1, TB_F32, g) : NULL;
    return k ? k : tb_call_kernel(c, 0, dtype, g);
}

static tb_status matmul_fast(tb_op_call *c)
{
    const matmul_attrs *attrs = c->attrs;
    const tb_tensor *a = c->in[0], *b = c->in[1];
    tb_dtype t = (tb_dtype)a->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    tb_gemm_args g = {
        .m = a->dims[a->rank - 2], .k = a->dims[a->rank - 1], .n = b->dims[b->rank - 1],
        .a_row = a->strides[a->rank - 2], .a_col = a->strides[a->rank - 1],
        .b_row = b->strides[b->rank - 2], .b_col = b->strides[b->rank - 1],
        .tree = attrs && attrs->batch_tree ? c->ctx->batch_blocks : 1, .pool = c->ctx->pool,
    };
    g.c_row = g.n;
    int64_t n_batches = batches(c);
    if (b->rank == 2 && a->is_contiguous) { /* one matrix for all: their rows are one tall operand */
        g.m *= n_batches;
        g.a_row = g.k; /* its stride may be anything where each matrix has one row */
        n_batches = n_batches > 0;
    }
    const tb_kernel *k = tbi_gemm_kernel(c, &g);
    if (!k) return TB_ERR_UNSUPPORTED;
    size_t scratch = k->scratch_bytes ? k->scratch_bytes(&g) : 0;
    if (scratch && !(g.scratch = tb_op_scratch(c, scratch))) return TB_ERR_OOM;
    for (int64_t batch = 0; batch < n_batches; batch++) {
        int64_t at_a, at_b;
        batch_offsets(c, batch, &at_a, &at_b);
        g.a = (const char *)tb_op_data(a) + at_a * size;
        g.b = (const char *)tb_op_data(b) + at_b * size;
        g.c = (char *)tb_op_data(c->out[0]) + batch * g.m * g.n * size;
        k->run(&g);
    }
    return TB_OK;
}

/* dA = G B^T, dB = A^T G; summed over broadcast batch dimensions by tb_grad_set's caller. A weight (2-d second
 * operand under a batch of rows) contracts over the batch: all leading dimensions become rows. */
static void matmul_grad(tb_grad_call *c)
{
    const tb_out_spec *a = &c->in_spec[0], *b = &c->in_spec[1];
    tb_tensor *g = c->grad[0];
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_matmul(g, tb_transpose(c->in[1], -1, -2)));
    if (!tb_grad_wants(c, 1)) return;
    if (b->rank == 2) {
        int64_t rows = 1;
        for (int i = 0; i < a->rank - 1; i++) rows *= a->dims[i];
        tb_tensor *x = tb_reshape(c->in[0], 2, (int64_t[]){rows, b->dims[0]});
        tb_tensor *gy = tb_reshape(g, 2, (int64_t[]){rows, b->dims[1]});
        tb_grad_set(c, 1, tb_matmul_batch(tb_transpose(x, 0, 1), gy));
    } else {
        tb_grad_set(c, 1, tb_matmul(tb_transpose(c->in[0], -1, -2), g));
    }
}

static void matmul_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *a = c->in[0], *b = c->in[1];
    double m = (double)a->dims[a->rank - 2], n = (double)b->dims[b->rank - 1],
           size = (double)tb_dtype_size((tb_dtype)a->dtype);
    int64_t k = a->dims[a->rank - 1];
    *out = (tb_cost){.flops = 2 * m * n * (double)k * (double)batches(c), .k = k,
                     .bytes = size * ((double)a->numel + (double)b->numel + m * n * (double)batches(c))};
}

static void matmul_samples(tb_samples *to)
{
    static const tb_sample_in cases[][2] = {
        {{TB_SHAPE(3, 5)}, {TB_SHAPE(5, 4)}},    {{TB_SHAPE(1, 7)}, {TB_SHAPE(7, 1)}},
        {{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(4, 5)}}, {{TB_SHAPE(2, 1, 3, 4)}, {TB_SHAPE(3, 4, 2)}},
        {{TB_SHAPE(3, 1, 2)}, {TB_SHAPE(2, 2)}}, {{TB_SHAPE(0, 3)}, {TB_SHAPE(3, 2)}},
        {{TB_SHAPE(2, 0)}, {TB_SHAPE(0, 3)}},    {{TB_SHAPE(17, 33)}, {TB_SHAPE(33, 19)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) tb_sample(to, &(matmul_attrs){0}, 2, cases[i]);
    tb_sample(to, &(matmul_attrs){.batch_tree = true}, 2, cases[7]);
}

TB_OP(matmul, .doc = "matrix product, batched", .n_in_min = 2, .n_in = 2, .n_out = 1, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no sum of products", .promote = TB_PROMOTE_NONE,
      TB_ATTRS(matmul_attrs, matmul_attr_table), .shape = matmul_shape, .ref = matmul_ref, .fast = matmul_fast,
      .primitives = TBI_GEMM_PRIMITIVES, .grad = matmul_grad, .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1),
      .fusion = TB_FUSE_ANCHOR, .cost = matmul_cost, .samples = matmul_samples, .tol = TB_TOL(4));

bool tbi_multiplies_f16(const tb_tensor *a, const tb_tensor *b)
{
    tb_ctx *ctx = tb_ctx_current(); /* without one, dispatch refuses */
    return ctx && tb_ctx_f16_products(ctx) && tb_tensor_dtype(a) == TB_F32 && tb_tensor_dtype(b) == TB_F32;
}

static tb_tensor *product(tb_tensor *a, tb_tensor *b, bool batch_tree)
{
    matmul_attrs attrs = {.batch_tree = batch_tree};
    if (tbi_multiplies_f16(a, b))
        return tb_cast(tb_call(&tb_op_matmul, &attrs, TB_IN(tb_cast(a, TB_F16), tb_cast(b, TB_F16))), TB_F32);
    return tb_call(&tb_op_matmul, &attrs, TB_IN(a, b));
}

tb_tensor *tb_matmul(tb_tensor *a, tb_tensor *b)
{
    if (tb_is_poison(a) || tb_is_poison(b) || (a->rank != 1 && b->rank != 1)) return product(a, b, false);
    bool is_row = a->rank == 1, is_column = b->rank == 1;
    tb_tensor *x = is_row ? tb_reshape(a, 2, (int64_t[]){1, a->dims[0]}) : a;
    tb_tensor *y = is_column ? tb_reshape(b, 2, (int64_t[]){b->dims[0], 1}) : b;
    tb_tensor *z = product(x, y, false);
    if (tb_is_poison(z)) return z;
    int64_t dims[TB_MAX_RANK];
    int rank = 0;
    for (int i = 0; i < z->rank; i++)
        if (!(is_row && i == z->rank - 2) && !(is_column && i == z->rank - 1)) dims[rank++] = z->dims[i];
    return tb_reshape(z, rank, dims);
}

tb_tensor *tb_matmul_batch(tb_tensor *a, tb_tensor *b) { return product(a, b, true); }
