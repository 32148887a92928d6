/* linear_dynamic_s8: a linear layer in integers whose input is quantized on the spot, every row by its own range: for
 * transformers, where ranges differ from token to token, and without calibration (Dettmers et al., "LLM.int8()", 2022,
 * section 2.1: row-wise and column-wise scales around one integer product). With q = round(x * 127 / max |x|) + 128,
 * and `offset` = -128 times a channel's sum of weights,
 *     y[r][j] = act((offset[j] + sum_k q[r][k] w[j][k]) * scale[j] * step[r] + bias[j] + residual[r][j])
 * Every product and sum in f32 is rounded; the integers are the same on every ISA, and so is y. */
#include "quantized.h"
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
/* x f32 [.., K], w s8 [N, K], offset i32 [N], scale f32 [N], bias f32 [N] or NULL -> f32 [.., N]. */
tb_tensor *tb_linear_dynamic_s8(tb_tensor *x, tb_tensor *w, tb_tensor *offset, tb_tensor *scale, tb_tensor *bias);
//<<<

enum { X, W, OFFSET, SCALE, BIAS, RESIDUAL, OPERANDS };

typedef struct dynamic_attrs {
    int64_t act; /* tb_epilogue_act */
} dynamic_attrs;
static const tb_attr dynamic_attr_table[] = {
    TB_ATTR_INT(dynamic_attrs, act, TB_ACT_NONE, "0 none, 1 relu, 2 gelu (tanh), 3 gelu (erf), 4 silu"),
};

static const tb_tensor *operand(const tb_op_call *c, int i) { return i < c->n_in ? c->in[i] : NULL; }

static tb_epilogue_act act_of(const tb_op_call *c) { return (tb_epilogue_act)((const dynamic_attrs *)c->attrs)->act; }

static tb_status shape(tb_op_call *c)
{
    static const struct {
        tb_dtype dtype;
        const char *name;
    } vectors[OPERANDS] = {[OFFSET] = {TB_I32, "offset"}, [SCALE] = {TB_F32, "scale"}, [BIAS] = {TB_F32, "bias"}};
    const tb_tensor *x = c->in[X], *w = c->in[W], *residual = operand(c, RESIDUAL);
    int64_t dims[TB_MAX_RANK];
    if (x->dtype != TB_F32 || w->dtype != TB_I8 || (residual && residual->dtype != TB_F32))
        return TB_FAIL(TB_ERR_DTYPE, "linear_dynamic_s8: takes x f32, w i8, offset i32; scale, bias, residual f32");
    if (w->rank != 2 || x->rank < 1 || x->dims[x->rank - 1] != w->dims[1])
        return TB_FAIL(TB_ERR_SHAPE, "linear_dynamic_s8: x %s and w %s do not fit", tb_shape_text(x), tb_shape_text(w));
    for (int i = OFFSET; i <= BIAS; i++) {
        const tb_tensor *v = operand(c, i);
        if (v && (v->dtype != vectors[i].dtype || !tbi_has_dims(v, 1, w->dims)))
            return TB_FAIL(TB_ERR_SHAPE, "linear_dynamic_s8: %s must be %s [%lld], not %s %s", vectors[i].name,
                           tb_dtype_name(vectors[i].dtype), (long long)w->dims[0], tb_dtype_name((tb_dtype)v->dtype),
                           tb_shape_text(v));
    }
    if (w->dims[1] > TB_U8S8_MAX_DEPTH)
        return TB_FAIL(TB_ERR_SHAPE, "linear_dynamic_s8: %lld terms could overflow 32 bits; at most %d",
                       (long long)w->dims[1], TB_U8S8_MAX_DEPTH);
    memcpy(dims, x->dims, sizeof dims);
    dims[x->rank - 1] = w->dims[0];
    if (residual && !tbi_has_dims(residual, x->rank, dims))
        return TB_FAIL(TB_ERR_SHAPE, "linear_dynamic_s8: residual %s is not the shape of the result %s",
                       tb_shape_text(residual), tb_dims_text(x->rank, dims));
    if (act_of(c) < TB_ACT_NONE || act_of(c) > TB_ACT_SILU)
        return TB_FAIL(TB_ERR_INVALID, "linear_dynamic_s8: no activation has the number %d", (int)act_of(c));
    tb_out_set(c, 0, TB_F32, x->rank, dims);
    return TB_OK;
}

/* ---- the definition ---- */
static int32_t quantized(float x, float inverse)
{
    float q = rintf(x * inverse) + 128;
    return q > 1 ? (q < 255 ? (int32_t)q : 255) : 1;
}

static tb_status ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[X], *w = c->in[W], *bias = operand(c, BIAS), *residual = operand(c, RESIDUAL);
    int64_t n = w->dims[0], depth = w->dims[1], x_step = tbi_last_stride(x);
    const float *px = tb_op_data(x);
    const int8_t *pw = tb_op_data(w);
    float *out = tb_op_data(c->out[0]);
    for (int64_t row = 0; row < tbi_rows(x); row++) {
        const float *v = px + tbi_row_at(x, row);
        float most = 0;
        for (int64_t k = 0; k < depth; k++) most = fabsf(v[k * x_step]) > most ? fabsf(v[k * x_step]) : most;
        bool is_zero = most < 0x1p-100f;
        float inverse = is_zero ? 0 : 127 / most, step = is_zero ? 0 : most / 127;
        for (int64_t j = 0; j < n; j++) {
            int32_t sum = ((const int32_t *)tb_op_data(c->in[OFFSET]))[j * c->in[OFFSET]->strides[0]];
            for (int64_t k = 0; k < depth; k++)
                sum += quantized(v[k * x_step], inverse) * pw[j * w->strides[0] + k * w->strides[1]];
            float y = (float)sum * ((const float *)tb_op_data(c->in[SCALE]))[j * c->in[SCALE]->strides[0]] * step;
            if (bias) y += (float)tbi_get(bias, j * bias->strides[0]);
            if (residual) y += (float)tbi_get(residual, tbi_row_at(residual, row) + j * tbi_last_stride(residual));
            out[row * n + j] = (float)tbi_act_f64(act_of(c), (double)y);
        }
    }
    return TB_OK;
}

/* ---- kernels: rows are quantized once, then blocks of rows and columns are multiplied and rescaled while they are in
 * a cache ---- */
enum { BLOCK_ROWS = 56, BLOCK_COLUMNS = 256, INLINE_MACS = 1 << 17 };

typedef struct job {
    const tb_kernel *quantize, *gemm, *rescale;
    tb_row_args rows;       /* of x; its u8 form and steps */
    tb_gemm_u8s8_args gemm_args;
    const float *bias, *residual;
    float *out, *sums;      /* sums: a block for every thread */
    tb_epilogue_act act;
    int64_t column_blocks;
} job;

static void quantize_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *s = arg;
    tb_row_args a = s->rows;
    (void)thread;
    a.rows = end - begin;
    a.in = (const float *)a.in + begin * a.in_stride;
    a.out = (uint8_t *)a.out + begin * a.out_stride;
    a.extra[0] = (float *)a.extra[0] + begin;
    s->quantize->run(&a);
}

static void multiply_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *s = arg;
    int64_t n = s->gemm_args.n, quads = (s->gemm_args.k + 3) / 4;
    for (int64_t at = begin; at < end; at++) {
        int64_t i = at / s->column_blocks * BLOCK_ROWS, j = at % s->column_blocks * BLOCK_COLUMNS;
        tb_gemm_u8s8_args g = s->gemm_args;
        g.m = g.m - i < BLOCK_ROWS ? g.m - i : BLOCK_ROWS;
        g.n = n - j < BLOCK_COLUMNS ? n - j : BLOCK_COLUMNS;
        g.a += i * g.a_row;
        g.packed_w += j * quads * 4;
        g.offset += j;
        g.scale += j;
        g.c = s->sums + thread * BLOCK_ROWS * BLOCK_COLUMNS;
        g.c_row = g.n;
        s->gemm->run(&g);
        s->rescale->run(&(tb_row_args){
            .rows = g.m, .n = g.n, .in = g.c, .in_stride = g.n, .out = s->out + i * n + j, .out_stride = n,
            .in2 = s->residual ? s->residual + i * n + j : NULL, .in2_stride = n, .beta = s->bias ? s->bias + j : NULL,
            .extra_in = {(const float *)s->rows.extra[0] + i}, .act = s->act});
    }
}

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static tb_status fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[X], *w = c->in[W], *bias = operand(c, BIAS), *residual = operand(c, RESIDUAL);
    int64_t m = tbi_rows(x), n = w->dims[0], k = w->dims[1], stride;
    job s = {.act = act_of(c), .out = tb_op_data(c->out[0]), .column_blocks = (n + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS};
    if (!tbi_rows_are_dense(x, &stride) || !w->is_contiguous || !c->in[OFFSET]->is_contiguous ||
        !c->in[SCALE]->is_contiguous || (bias && !bias->is_contiguous) || k == 0) return TB_ERR_UNSUPPORTED;
    s.gemm_args = (tb_gemm_u8s8_args){.m = m, .n = n, .k = k, .a_row = k, .offset = tb_op_data(c->in[OFFSET]),
                                      .scale = tb_op_data(c->in[SCALE])};
    s.rows = (tb_row_args){.rows = m, .n = k, .in = tb_op_data(x), .in_stride = stride, .out_stride = k};
    s.quantize = tb_call_kernel(c, 0, TB_F32, &s.rows);
    s.rescale = tb_call_kernel(c, 1, TB_F32, &s.rows);
    s.gemm = tb_call_kernel(c, 2, TB_I8, &s.gemm_args);
    if (!s.quantize || !s.rescale || !s.gemm) return TB_ERR_UNSUPPORTED;
    if (m == 0 || n == 0) return TB_OK;
    size_t bytes = aligned((size_t)(m * k)), steps = aligned((size_t)m * sizeof(float));
    tb_pool *pool = m * n * k > INLINE_MACS ? c->ctx->pool : NULL;
    char *scratch =
        tb_op_scratch(c, bytes + steps + (size_t)tb_pool_threads(pool) * BLOCK_ROWS * BLOCK_COLUMNS * sizeof(float));
    if (!scratch) return TB_ERR_OOM;
    s.rows.out = scratch;
    s.rows.extra[0] = scratch + bytes;
    s.sums = (float *)(scratch + bytes + steps);
    s.gemm_args.a = (const uint8_t *)scratch;
    s.bias = bias ? tb_op_data(bias) : NULL;
    TB_TRY(tbi_packed_s8(c, w, &s.gemm_args.packed_w));
    const void *dense = NULL;
    if (residual) TB_TRY(tbi_dense(c, residual, &dense));
    s.residual = dense;
    tb_pool_run(pool, m, quantize_rows, &s);
    tb_pool_run(pool, (m + BLOCK_ROWS - 1) / BLOCK_ROWS * s.column_blocks, multiply_blocks, &s);
    return TB_OK;
}

static void cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[X], *w = c->in[W];
    double rows = (double)tbi_rows(x), n = (double)w->dims[0];
    *out = (tb_cost){.flops = 2 * rows * (double)w->numel,
                     .bytes = 4 * (double)x->numel + (double)w->numel + 4 * rows * n,
                     .k = w->dims[1] + 64 /* sums are exact; bias, residual and activation are of their size */};
}

static void samples(tb_samples *to)
{
    static const int64_t sizes[][3] = {{1, 7, 5}, {5, 16, 32}, {13, 33, 70}, {0, 4, 4}, {3, 1, 1}, {101, 300, 129}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int form = 0; form < 4; form++) {
            int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            tb_sample_in in[OPERANDS] = {
                {.rank = 2, .dims = {m, k}, .has_dtype = true, .dtype = TB_F32},
                {.rank = 2, .dims = {n, k}, .has_dtype = true, .dtype = TB_I8, .lo = -127, .hi = 127,
                 .fill = TB_FILL_INTEGER},
                {.rank = 1, .dims = {n}, .has_dtype = true, .dtype = TB_I32, .lo = -5000, .hi = 5000,
                 .fill = TB_FILL_INTEGER},
                {.rank = 1, .dims = {n}, .has_dtype = true, .dtype = TB_F32, .lo = 0.001, .hi = 0.01},
                {.rank = 1, .dims = {n}, .has_dtype = true, .dtype = TB_F32, .absent = !(form & 1)},
                {.rank = 2, .dims = {m, n}, .has_dtype = true, .dtype = TB_F32, .absent = !(form & 2)},
            };
            tb_sample(to, &(dynamic_attrs){(int64_t)(i + (size_t)form) % 5}, OPERANDS, in);
        }
}

TB_OP(linear_dynamic_s8, .doc = "integer linear, rows of x quantized by their own range", .n_in_min = 4,
      .n_in = OPERANDS, .n_out = 1, .typed_by = W, .dtypes = TB_DTYPE_BIT(TB_I8),
      .dtypes_reason = "weights are i8, x f32", TB_ATTRS(dynamic_attrs, dynamic_attr_table), .shape = shape, .ref = ref,
      .fast = fast, .primitives = {"row_quantize_u8", "row_rescale", "gemm_u8s8"}, .no_grad = "integers have none",
      .fusion = TB_FUSE_ANCHOR, .overwrites = 1u << RESIDUAL, .by_rows = 1 | 1u << RESIDUAL, .cost = cost,
      .samples = samples, .tol = TB_TOL(4));

tb_tensor *tb_linear_dynamic_s8(tb_tensor *x, tb_tensor *w, tb_tensor *offset, tb_tensor *scale, tb_tensor *bias)
{
    return tb_call(&tb_op_linear_dynamic_s8, &(dynamic_attrs){TB_ACT_NONE}, TB_IN(x, w, offset, scale, bias));
}
