/* attention: softmax(q k^T / sqrt(D)) v, forward, over all keys and causal (half of the products). */
#include "bench_op.h"
#include "tb_ops.h"
#include <math.h>

typedef struct heads {
    tb_tensor *q, *k, *v;
    bool causal;
} heads;

static tb_tensor *call(void *arg)
{
    const heads *h = arg;
    return tb_scaled_dot_product_attention(h->q, h->k, h->v, &(tb_attention_opts){.causal = h->causal});
}

static tb_status run_attention(tb_bench_run *run)
{
    const int64_t *d = run->shape.at;
    heads h = {tb_bench_tensor(1, 4, d), tb_bench_tensor(2, 4, d), tb_bench_tensor(3, 4, d), false};
    double pairs = (double)d[0] * (double)d[1] * (double)d[2] * (double)d[2];
    for (int causal = 0; causal < 2; causal++) {
        char torch[64];
        const char *op = causal ? "attention_causal" : "attention";
        if (!tb_bench_wants(run, op)) continue;
        h.causal = causal;
        snprintf(torch, sizeof torch, "attention %d %lld %lld %lld %lld", causal, (long long)d[0],
                 (long long)d[1], (long long)d[2], (long long)d[3]);
        tb_bench_case c = {.op = op, .flops = 4 * pairs * (double)d[3] * (causal ? 0.5 : 1)};
        snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lldx%lld", (long long)d[0], (long long)d[1],
                 (long long)d[2], (long long)d[3]);
        TB_TRY(tb_bench_measure_op(
            run,
            &(tb_bench_op){.call = call, .arg = &h, .tolerance = 16 * sqrt((double)d[2]), .torch = torch},
            &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"8x8x128x32", "1x8x512x64", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(attention, .doc = "scaled dot product attention, forward", .shape_form = "BxHxTxD", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_attention);
