/* embedding: row weight[i] for every index i. Its gradient sums, for every row of the weight, the gradients
 * of the tokens that used it: a sum over the batch. The tokens are sorted by row (counting sort, stable), so
 * that rows are independent work and each is summed in token order within the context's blocks of tokens,
 * then as their tree; blocks without such a token add nothing. */
#include "rows.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* weight: [V, C], any dtype; indices: [..] i64 or i32, 0..V-1. Returns [.., C] of the weight's dtype. */
tb_tensor *tb_embedding(tb_tensor *weight, tb_tensor *indices);
//<<<

typedef struct embedding_grad_attrs {
    int64_t rows;
} embedding_grad_attrs;
static const tb_attr embedding_grad_attr_table[] = {
    TB_ATTR_INT(embedding_grad_attrs, rows, 1, "rows of the weight"),
};

static tb_status check_indices(const tb_op_call *c)
{
    tb_dtype t = (tb_dtype)c->in[1]->dtype;
    if (t == TB_I64 || t == TB_I32) return TB_OK;
    return TB_FAIL(TB_ERR_DTYPE, "%s: indices must be i64 or i32, not %s", c->op->name, tb_dtype_name(t));
}

/* The index at position i of the flattened indices. */
static tb_status index_at(const tb_op_call *c, int64_t i, int64_t rows, int64_t *out)
{
    const tb_tensor *t = c->in[1];
    int64_t at = t->is_contiguous ? i : tbi_element_at(t, i);
    tb_dtype dtype = (tb_dtype)t->dtype;
    *out = tb_load_i64(dtype, (const char *)tb_op_data(t) + at * (int64_t)tb_dtype_size(dtype));
    if (*out >= 0 && *out < rows) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "%s: index %lld at position %lld is not one of %lld rows", c->op->name,
                   (long long)*out, (long long)i, (long long)rows);
}

/* ---- forward ---- */
static tb_status embedding_shape(tb_op_call *c)
{
    const tb_tensor *w = c->in[0], *t = c->in[1];
    int64_t dims[TB_MAX_RANK];
    TB_TRY(check_indices(c));
    if (w->rank != 2)
        return TB_FAIL(TB_ERR_SHAPE, "embedding: weight must be [V, C], not %s", tb_shape_text(w));
    if (t->rank == TB_MAX_RANK)
        return TB_FAIL(TB_ERR_SHAPE, "embedding: indices %s leave no dimension for the features",
                       tb_shape_text(t));
    memcpy(dims, t->dims, sizeof dims);
    dims[t->rank] = w->dims[1];
    tb_out_set(c, 0, (tb_dtype)w->dtype, t->rank + 1, dims);
    return TB_OK;
}

static tb_status embedding_ref(tb_op_call *c)
{
    const tb_tensor *w = c->in[0];
    int64_t size = (int64_t)tb_dtype_size((tb_dtype)w->dtype), row;
    const char *from = tb_op_data(w);
    char *to = tb_op_data(c->out[0]);
    for (int64_t i = 0; i < c->in[1]->numel; i++) {
        TB_TRY(index_at(c, i, w->dims[0], &row));
        for (int64_t j = 0; j < w->dims[1]; j++, to += size)
            memcpy(to, from + (row * w->strides[0] + j * w->strides[1]) * size, (size_t)size);
    }
    return TB_OK;
}

static tb_status embedding_fast(tb_op_call *c) /* rows are copied whole, in any dtype */
{
    const tb_tensor *w = c->in[0];
    size_t size = tb_dtype_size((tb_dtype)w->dtype), bytes = (size_t)w->dims[1] * size;
    char *out = tb_op_data(c->out[0]);
    if (w->strides[1] != 1 && w->dims[1] > 1) return TB_ERR_UNSUPPORTED;
    c->kernel = "memcpy";
    for (int64_t i = 0; i < c->in[1]->numel; i++, out += bytes) {
        int64_t row;
        TB_TRY(index_at(c, i, w->dims[0], &row));
        memcpy(out, (const char *)tb_op_data(w) + (size_t)(row * w->strides[0]) * size, bytes);
    }
    return TB_OK;
}

static void embedding_grad(tb_grad_call *c)
{
    if (!tb_grad_wants(c, 0)) return;
    embedding_grad_attrs a = {.rows = c->in_spec[0].dims[0]};
    tb_grad_set(c, 0, tb_call(&tb_op_embedding_grad, &a, TB_IN(c->grad[0], c->in[1])));
}

static void embedding_cost(const tb_op_call *c, tb_cost *out)
{
    double moved = (double)c->in[1]->numel * (double)tbi_last_dim(c->in[0]);
    *out = (tb_cost){.bytes = 2 * moved * (double)tb_dtype_size((tb_dtype)c->in[0]->dtype), .k = 1};
}

/* ---- backward: g [.., C], indices [..] -> [rows, C] ---- */
static tb_status grad_shape(tb_op_call *c)
{
    const embedding_grad_attrs *a = c->attrs;
    const tb_tensor *g = c->in[0], *t = c->in[1];
    TB_TRY(check_indices(c));
    if (g->rank < 1 || !tbi_has_dims(t, g->rank - 1, g->dims) || a->rows < 0)
        return TB_FAIL(TB_ERR_SHAPE,
                       "embedding_grad: indices %s do not fit gradient %s: one index for each row",
                       tb_shape_text(t), tb_shape_text(g));
    tb_out_set(c, 0, (tb_dtype)g->dtype, 2, (int64_t[]){a->rows, tbi_last_dim(g)});
    return TB_OK;
}

static tb_status grad_ref(tb_op_call *c)
{
    const embedding_grad_attrs *a = c->attrs;
    const tb_tensor *g = c->in[0];
    int64_t n = tbi_last_dim(g), total = a->rows * n, row;
    double *sum = tb_op_scratch(c, (size_t)(total ? total : 1) * sizeof *sum);
    if (!sum) return TB_ERR_OOM;
    memset(sum, 0, (size_t)total * sizeof *sum);
    for (int64_t i = 0; i < c->in[1]->numel; i++) {
        TB_TRY(index_at(c, i, a->rows, &row));
        for (int64_t j = 0; j < n; j++)
            sum[row * n + j] += tbi_get(g, tbi_row_at(g, i) + j * tbi_last_stride(g));
    }
    for (int64_t i = 0; i < total; i++) tbi_put(c->out[0], i, sum[i]);
    return TB_OK;
}

typedef struct grad_job {
    const float *g;
    int64_t g_stride, n, block;   /* features; tokens of a block */
    const int64_t *start, *order; /* tokens of row r: order[start[r]] .. order[start[r + 1] - 1], ascending */
    float *sums, *out;            /* sums: [threads][8][n] */
} grad_job;

static void add_rows(float *to, const float *from, int64_t n)
{
    for (int64_t j = 0; j < n; j++) to[j] += from[j];
}

static void sum_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const grad_job *job = arg;
    int64_t n = job->n;
    float *sums = job->sums + thread * 8 * n;
    for (int64_t row = begin; row < end; row++) {
        float *part[8] = {0};
        for (int64_t i = job->start[row]; i < job->start[row + 1]; i++) {
            int64_t token = job->order[i], b = token / job->block;
            if (!part[b]) part[b] = memset(sums + b * n, 0, (size_t)n * sizeof *sums);
            add_rows(part[b], job->g + token * job->g_stride, n);
        }
        for (int left = 8; left > 1; left /= 2)
            for (int i = 0; i < left / 2; i++) {
                float *a = part[2 * i], *b = part[2 * i + 1];
                if (a && b) add_rows(a, b, n);
                part[i] = a ? a : b;
            }
        if (part[0]) memcpy(job->out + row * n, part[0], (size_t)n * sizeof *sums);
        else memset(job->out + row * n, 0, (size_t)n * sizeof *sums);
    }
}

/* start and order as grad_job says; start has rows + 2 entries. */
static tb_status sort_tokens(const tb_op_call *c, int64_t rows, int64_t *start, int64_t *order)
{
    int64_t tokens = c->in[1]->numel, row;
    memset(start, 0, (size_t)(rows + 2) * sizeof *start);
    for (int64_t i = 0; i < tokens; i++) {
        TB_TRY(index_at(c, i, rows, &row));
        start[row + 2]++;
    }
    for (int64_t r = 2; r < rows + 2; r++) start[r] += start[r - 1]; /* start[r + 1]: where row r begins */
    for (int64_t i = 0; i < tokens; i++) {
        TB_TRY(index_at(c, i, rows, &row));
        order[start[row + 1]++] = i; /* ends as where row r + 1 begins */
    }
    return TB_OK;
}

static tb_status grad_fast(tb_op_call *c)
{
    const embedding_grad_attrs *a = c->attrs;
    const tb_tensor *g = c->in[0];
    int64_t tokens = c->in[1]->numel, threads = tb_pool_threads(c->ctx->pool);
    grad_job job = {.g = tb_op_data(g), .n = tbi_last_dim(g), .out = tb_op_data(c->out[0])};
    if (g->dtype != TB_F32 || job.n == 0 || !tbi_rows_are_dense(g, &job.g_stride)) return TB_ERR_UNSUPPORTED;
    int64_t *start = tb_op_scratch(c, (size_t)(a->rows + 2 + tokens) * sizeof *start);
    job.sums = tb_op_scratch(c, (size_t)(threads * 8 * job.n + 1) * sizeof *job.sums);
    if (!start || !job.sums) return TB_ERR_OOM;
    c->kernel = "sorted_rows_f32";
    job.start = start;
    job.order = start + a->rows + 2;
    job.block = tbi_block_rows(tokens, c->ctx->batch_blocks);
    TB_TRY(sort_tokens(c, a->rows, start, start + a->rows + 2));
    tb_pool_run_dynamic(c->ctx->pool, a->rows, 16, sum_rows, &job);
    return TB_OK;
}

static void embedding_grad_grad(tb_grad_call *c)
{
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_embedding(c->grad[0], c->in[1]));
}

static void grad_cost(const tb_op_call *c, tb_cost *out)
{
    const embedding_grad_attrs *a = c->attrs;
    double n = (double)c->in[0]->numel, all = (double)a->rows * (double)tbi_last_dim(c->in[0]);
    *out = (tb_cost){.flops = n, .bytes = (n + all) * (double)tb_dtype_size((tb_dtype)c->in[0]->dtype),
                     .k = c->in[1]->numel};
}

/* ---- samples ---- */
#define INDICES .has_dtype = true, .dtype = TB_I64, .no_grad = true

static void embedding_samples(tb_samples *to)
{
    static const tb_sample_in cases[][2] = {
        {{TB_SHAPE(5, 3)}, {TB_SHAPE(4), INDICES, .hi = 4}},
        {{TB_SHAPE(7, 2)}, {TB_SHAPE(2, 3), .has_dtype = true, .dtype = TB_I32, .no_grad = true, .hi = 6}},
        {{TB_SHAPE(4, 5)}, {.rank = 0, INDICES, .hi = 3}},
        {{TB_SHAPE(3, 4)}, {TB_SHAPE(0), INDICES, .hi = 2}},
        {{TB_SHAPE(3, 1)}, {TB_SHAPE(1), INDICES, .hi = 2}},
        {{TB_SHAPE(3, 0)}, {TB_SHAPE(2), INDICES, .hi = 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) tb_sample(to, NULL, 2, cases[i]);
}

static void grad_samples(tb_samples *to)
{
    static const struct {
        embedding_grad_attrs attrs;
        tb_sample_in in[2];
    } cases[] = {
        {{5}, {{TB_SHAPE(4, 3)}, {TB_SHAPE(4), INDICES, .hi = 4}}},
        {{3}, {{TB_SHAPE(2, 6, 5)}, {TB_SHAPE(2, 6), INDICES, .hi = 2}}},
        {{4}, {{TB_SHAPE(5)}, {.rank = 0, INDICES, .hi = 3}}},
        {{3}, {{TB_SHAPE(0, 4)}, {TB_SHAPE(0), INDICES, .hi = 2}}},
        {{3}, {{TB_SHAPE(1, 1)}, {TB_SHAPE(1), INDICES, .hi = 2}}},
        {{11}, {{TB_SHAPE(37, 19)}, {TB_SHAPE(37), INDICES, .hi = 8}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        tb_sample(to, &cases[i].attrs, 2, cases[i].in);
}

TB_OP(embedding, .doc = "rows of a weight by index", .n_in_min = 2, .n_in = 2, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      .shape = embedding_shape, .ref = embedding_ref, .fast = embedding_fast, .grad = embedding_grad, .by_rows = 2,
      .saves = TB_SAVE_IN(1), .cost = embedding_cost, .samples = embedding_samples, .tol = TB_TOL_EXACT);
TB_OP(embedding_grad, .doc = "gradient of embedding's weight", .n_in_min = 2, .n_in = 2, .n_out = 1,
      .dtypes = TB_FLOATS, .dtypes_reason = "gradients are floats",
      TB_ATTRS(embedding_grad_attrs, embedding_grad_attr_table), .shape = grad_shape, .ref = grad_ref,
      .fast = grad_fast, .grad = embedding_grad_grad, .saves = TB_SAVE_IN(1), .cost = grad_cost,
      .samples = grad_samples, .tol = TB_TOL(4));

tb_tensor *tb_embedding(tb_tensor *weight, tb_tensor *indices)
{
    return tb_call(&tb_op_embedding, NULL, TB_IN(weight, indices));
}
