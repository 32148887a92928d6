/* order: what the canonical order costs. Sums over the batch are a pairwise tree over 8 fixed blocks, so that 1, 2, 4
 * or 8 ranks have the same bits; the peer "free_order" is the same op and kernel with one block, a plain chain (what a
 * rank of 8 computes). cost_pct: how much longer the canonical order takes. One thread by default: threads split
 * outputs, never a sum, in either order.
 *
 * The other rules of the order have no row: chains over ascending k and the lanes of row sums are what the kernels
 * would do without them. B is the batch, I and O are features in and out, or channels of 14 x 14 images; images that
 * the reference would take long for are left out unless --only asks for them. */
#include "bench_op.h"
#include "tb_op.h"
#include "tb_ops.h"
#include <math.h>

enum { FREE_BLOCKS = 1, SIDE = 14, WINDOW = 3 };
static const double most_checked_flops = 0x1p31; /* some seconds of the reference */

typedef struct order_case {
    tb_ctx *ctx;
    tb_tensor *in[4];
    tb_status (*sum)(const struct order_case *s, tb_tensor **out);
} order_case;

static tb_status weight_grad(const order_case *s, tb_tensor **out)
{
    out[0] = tb_linear_weight_grad(s->in[0], s->in[1], NULL, false);
    return TB_OK;
}

static tb_status bias_grad(const order_case *s, tb_tensor **out)
{
    out[0] = tb_sum_batch(s->in[0], NULL);
    return TB_OK;
}

static tb_status conv2d_weight_grad(const order_case *s, tb_tensor **out)
{
    static const tb_named_attr attrs[] = {{"stride", 2, {1, 1}},
                                          {"pad", 2, {WINDOW / 2, WINDOW / 2}},
                                          {"dilation", 2, {1, 1}},
                                          {"size", 2, {WINDOW, WINDOW}}};
    return tb_call_named("conv2d_weight_grad", 4, attrs, 2, s->in, out);
}

static tb_status batch_norm(const order_case *s, tb_tensor **out)
{
    out[0] = tb_batch_norm(s->in[0], NULL, NULL, 1e-5, &out[1], &out[2]);
    return TB_OK;
}

static tb_status layer_norm_param_grad(const order_case *s, tb_tensor **out)
{
    return tb_call_named("layer_norm_param_grad", 0, NULL, 4, s->in, out);
}

static tb_status canonical(void *arg, tb_tensor **out)
{
    const order_case *s = arg;
    return s->sum(s, out);
}

static tb_status in_free_order(void *arg, tb_tensor **out)
{
    const order_case *s = arg;
    int blocks = tb_ctx_batch_blocks(s->ctx);
    TB_TRY(tb_ctx_set_batch_blocks(s->ctx, FREE_BLOCKS));
    tb_status st = s->sum(s, out);
    tb_status back = tb_ctx_set_batch_blocks(s->ctx, blocks);
    return st == TB_OK ? back : st;
}

/* ---- cases ---- */
/* Values that bf16 holds, so that one reference serves both precisions. */
static tb_tensor *operand(uint64_t stream, int rank, const int64_t *dims)
{
    return tb_cast(tb_cast(tb_bench_tensor(stream, rank, dims), TB_BF16), TB_F32);
}

typedef struct op_row {
    const char *name;
    tb_status (*sum)(const order_case *s, tb_tensor **out);
    int n_out;
    bool of_images;
    int64_t in_features[2]; /* of the operands: 0 O, 1 I, -1 none */
} op_row;

static const op_row rows[] = {
    {"weight_grad", weight_grad, 1, false, {0, 1}},
    {"bias_grad", bias_grad, 1, false, {0, -1}},
    {"layer_norm_param_grad", layer_norm_param_grad, 2, false, {0, 0}},
    {"conv2d_weight_grad", conv2d_weight_grad, 1, true, {0, 1}},
    {"batch_norm", batch_norm, 3, true, {0, -1}},
};

static double product_of(const op_row *row, const int64_t *d)
{
    double product = 2 * (double)d[0] * (double)d[1] * (double)d[2];
    return row->of_images ? product * SIDE * SIDE * WINDOW * WINDOW : product;
}

static double flops_of(const op_row *row, const int64_t *d)
{
    return row->sum == weight_grad || row->sum == conv2d_weight_grad ? product_of(row, d) : 0;
}

static tb_status measure(tb_bench_run *run, const op_row *row)
{
    const int64_t *d = run->shape.at;
    order_case s = {.ctx = run->ctx, .sum = row->sum};
    for (int i = 0; i < 2; i++)
        if (row->in_features[i] >= 0)
            s.in[i] = operand((uint64_t)i + 1, row->of_images ? 4 : 2,
                              (int64_t[]){d[0], row->in_features[i] ? d[1] : d[2], SIDE, SIDE});
    for (int i = 2; i < 4; i++) s.in[i] = operand((uint64_t)i + 1, 1, d); /* layer_norm: mean, 1 / deviation */
    tb_bench_case c = {.op = row->name, .flops = flops_of(row, d), .peer_detail = "the same kernel, one block"};
    snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lld", (long long)d[0], (long long)d[1], (long long)d[2]);
    double terms = (double)d[0] * (row->of_images ? SIDE * SIDE : 1);
    tb_bench_op op = {
        .call = canonical, .peer_call = in_free_order, .n_out = row->n_out, .arg = &s, .tolerance = 16 * sqrt(terms)};
    TB_TRY(tb_bench_measure_op(run, &op, &c));
    tb_bench_extra_add(run, "cost_pct", 100 / run->rows[run->n_rows - 1].ratio - 100);
    return TB_OK;
}

static bool wants(const tb_bench_run *run, const op_row *row)
{
    if (run->dtype != TB_F32 && row->sum != weight_grad) return false;
    if (row->of_images && !run->only && product_of(row, run->shape.at) > most_checked_flops) return false;
    return tb_bench_wants(run, row->name);
}

static tb_status run_order(tb_bench_run *run)
{
    bool products = tb_ctx_bf16_products(run->ctx);
    tb_status st = TB_OK;
    run->peer = "free_order"; /* what is measured is a comparison */
    tb_ctx_set_bf16_products(run->ctx, run->dtype == TB_BF16);
    for (size_t i = 0; st == TB_OK && i < sizeof rows / sizeof *rows; i++)
        if (wants(run, &rows[i])) st = measure(run, &rows[i]);
    tb_ctx_set_bf16_products(run->ctx, products);
    return st;
}

static const char *const shapes[] = {"64x784x512", "256x784x512", "1024x784x512", "64x32x64", NULL};
static const char *const peers[] = {"free_order", NULL};

TB_BENCH(order, .doc = "sums over the batch in the canonical order beside a plain chain", .shape_form = "BxIxO",
         .shapes = shapes, .dtypes = 1u << TB_F32 | 1u << TB_BF16, .peers = peers, .run = run_order);
