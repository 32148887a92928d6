/* mse_loss: the mean of (x - y)^2. A sum over the batch: each of the context's blocks of axis 0 is summed in f64 in
 * LANES strided lanes and divided, then the pairwise tree in f32. */
#include "rows.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* The mean over all elements of (x - y)^2, 0-d. x, y: floats of one shape and dtype. NaN over no elements. The mean is
 * of what this rank has: where gradients are summed over ranks, multiply it by the rank's share of the batch. */
tb_tensor *tb_mse_loss(tb_tensor *x, tb_tensor *y);
//<<<

enum { LANES = 8, CHUNK = 16384 /* elements worth a thread */ };

/* ---- what forward and backward share: x and y are the inputs from `at` on ---- */
static tb_status check_pair(const tb_op_call *c, int at)
{
    const tb_tensor *x = c->in[at], *y = c->in[at + 1];
    if (x->dtype == y->dtype && tbi_has_dims(y, x->rank, x->dims)) return TB_OK;
    return TB_FAIL(TB_ERR_SHAPE, "%s: x %s of %s and y %s of %s must be alike", c->op->name, tb_shape_text(x),
                   tb_dtype_name((tb_dtype)x->dtype), tb_shape_text(y), tb_dtype_name((tb_dtype)y->dtype));
}

typedef struct pair {
    const float *x, *y;
    int64_t n;
    int64_t block; /* forward: elements */
    double *sums;  /* forward: of the blocks */
    float *out;    /* backward */
    float scale;
} pair;

static tb_status dense_pair(tb_op_call *c, int at, pair *p)
{
    const void *x, *y;
    if (c->in[at]->dtype != TB_F32) return TB_ERR_UNSUPPORTED;
    TB_TRY(tbi_dense(c, c->in[at], &x));
    TB_TRY(tbi_dense(c, c->in[at + 1], &y));
    *p = (pair){.x = x, .y = y, .n = c->in[at]->numel};
    c->kernel = "mse_loss";
    return TB_OK;
}

/* ---- forward ---- */
static tb_status mse_shape(tb_op_call *c)
{
    TB_TRY(check_pair(c, 0));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, 0, NULL);
    return TB_OK;
}

static tb_status mse_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *y = c->in[1];
    double sum = 0;
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    tb_walk_add(&w, y);
    TB_WALK(&w)
    {
        double off = tbi_get(x, w.at[0]) - tbi_get(y, w.at[1]);
        sum += off * off;
    }
    tbi_put(c->out[0], 0, sum / (double)x->numel);
    return TB_OK;
}

static double square_sum(const float *x, const float *y, int64_t n)
{
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            double off = (double)x[i + l] - (double)y[i + l];
            lane[l] += off * off;
        }
    for (int l = 0; i + l < n; l++) {
        double off = (double)x[i + l] - (double)y[i + l];
        lane[l] += off * off;
    }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

static void sum_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const pair *p = arg;
    for (int64_t b = begin; b < end; b++) {
        int64_t from = b * p->block, left = p->n - from;
        p->sums[b] = left <= 0 ? 0 : square_sum(p->x + from, p->y + from, left < p->block ? left : p->block);
    }
}

static tb_status mse_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    int blocks = c->ctx->batch_blocks;
    double sums[8];
    float mean[8];
    pair p;
    if (x->numel == 0) return TB_ERR_UNSUPPORTED;
    TB_TRY(dense_pair(c, 0, &p));
    int64_t rows = x->rank ? x->dims[0] : 1;
    p.block = tbi_block_rows(rows, blocks) * (p.n / rows);
    p.sums = sums;
    if (p.n <= CHUNK)
        sum_blocks(&p, 0, blocks, 0);
    else
        tb_pool_run(c->ctx->pool, blocks, sum_blocks, &p);
    for (int b = 0; b < blocks; b++) mean[b] = (float)(sums[b] / (double)p.n);
    tbi_tree_f32(mean, blocks, 1);
    tbi_put(c->out[0], 0, (double)mean[0]);
    return TB_OK;
}

static void mse_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[c->op == &tb_op_mse_loss ? 0 : 1];
    double n = (double)x->numel, size = (double)tb_dtype_size((tb_dtype)x->dtype);
    *out = c->op == &tb_op_mse_loss ? (tb_cost){.flops = 3 * n, .bytes = 2 * n * size, .k = x->numel}
                                    : (tb_cost){.flops = 2 * n, .bytes = 3 * n * size, .k = 1};
}

/* ---- backward: dx = g 2/n (x - y), dy = -dx ---- */
static void mse_grad(tb_grad_call *c)
{
    tb_tensor *dx = tb_call(&tb_op_mse_loss_grad, NULL, TB_IN(c->grad[0], c->in[0], c->in[1]));
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, dx);
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_neg(dx));
}

static tb_status mse_grad_shape(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1];
    TB_TRY(check_pair(c, 1));
    if (g->rank != 0 || g->dtype != x->dtype)
        return TB_FAIL(TB_ERR_SHAPE, "mse_loss_grad: the gradient of a loss of %s is one number of it, not %s of %s",
                       tb_dtype_name((tb_dtype)x->dtype), tb_shape_text(g), tb_dtype_name((tb_dtype)g->dtype));
    tb_out_like(c, 0, x);
    return TB_OK;
}

static tb_status mse_grad_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[1], *y = c->in[2];
    double scale = 2 * tbi_get(c->in[0], 0) / (double)x->numel;
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    tb_walk_add(&w, y);
    TB_WALK(&w) tbi_put(c->out[0], w.flat, scale * (tbi_get(x, w.at[0]) - tbi_get(y, w.at[1])));
    return TB_OK;
}

static void scale_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const pair *p = arg;
    int64_t stop = end * CHUNK < p->n ? end * CHUNK : p->n;
    for (int64_t i = begin * CHUNK; i < stop; i++) p->out[i] = p->scale * (p->x[i] - p->y[i]);
}

static tb_status mse_grad_fast(tb_op_call *c)
{
    pair p;
    TB_TRY(dense_pair(c, 1, &p));
    p.out = tb_op_data(c->out[0]);
    p.scale = (float)(2 * tbi_get(c->in[0], 0) / (double)p.n);
    tb_pool_run(c->ctx->pool, (p.n + CHUNK - 1) / CHUNK, scale_chunks, &p);
    return TB_OK;
}

/* Linear in g and in x - y. */
static void mse_grad_grad(tb_grad_call *c)
{
    tb_tensor *h = c->grad[0], *g = c->in[0], *x = c->in[1], *y = c->in[2];
    double over = x->numel ? 2.0 / (double)x->numel : 0;
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_mul_number(tb_sum(tb_mul(h, tb_sub(x, y)), 0, NULL, false), over));
    tb_tensor *dx = tb_mul_number(tb_mul(h, g), over);
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, dx);
    if (tb_grad_wants(c, 2)) tb_grad_set(c, 2, tb_neg(dx));
}

/* ---- samples ---- */
static const tb_sample_in shapes[] = {{TB_SHAPE(3, 5)},     {.rank = 0},      {TB_SHAPE(1)},
                                      {TB_SHAPE(19, 3, 7)}, {TB_SHAPE(2, 0)}, {TB_SHAPE(67, 301)}};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void mse_samples(tb_samples *to)
{
    for (int i = 0; i < SHAPES; i++) tb_sample(to, NULL, 2, (tb_sample_in[]){shapes[i], shapes[i]});
}

static void mse_grad_samples(tb_samples *to)
{
    for (int i = 0; i < SHAPES; i++) tb_sample(to, NULL, 3, (tb_sample_in[]){{.rank = 0}, shapes[i], shapes[i]});
}

TB_OP(mse_loss, .doc = "mean of (x - y)^2", .n_in_min = 2, .n_in = 2, .n_out = 1, .dtypes = TB_FLOATS,
      .dtypes_reason = "a loss is a float", .shape = mse_shape, .ref = mse_ref, .fast = mse_fast, .grad = mse_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .cost = mse_cost, .samples = mse_samples, .tol = TB_TOL(4));
TB_OP(mse_loss_grad, .doc = "gradient of mse_loss", .n_in_min = 3, .n_in = 3, .n_out = 1, .dtypes = TB_FLOATS,
      .dtypes_reason = "gradients are floats", .shape = mse_grad_shape, .ref = mse_grad_ref, .fast = mse_grad_fast,
      .grad = mse_grad_grad, .saves = TB_SAVE_ALL_IN, .cost = mse_cost, .samples = mse_grad_samples, .tol = TB_TOL(4));

tb_tensor *tb_mse_loss(tb_tensor *x, tb_tensor *y) { return tb_call(&tb_op_mse_loss, NULL, TB_IN(x, y)); }
