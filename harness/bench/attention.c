/* attention: softmax(q k^T / sqrt(D)) v over all keys; causal, where half of the products are not needed;
 * causal with the gradients of q, k and v. Products that a backward pass does again are not counted. */
#include "bench_op.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include <math.h>

typedef struct heads {
    tb_tensor *in[3], *g; /* q, k, v; gradient of the result */
    bool causal;
} heads;

static tb_status forward(void *arg, tb_tensor **out)
{
    const heads *h = arg;
    *out = tb_scaled_dot_product_attention(h->in[0], h->in[1], h->in[2],
                                           &(tb_attention_opts){.causal = h->causal});
    return TB_OK;
}

static tb_status train(void *arg, tb_tensor **out)
{
    heads *h = arg;
    tb_tensor *y;
    TB_TRY(forward(h, &y));
    return tb_gradients(y, &(tb_backward_opts){.grad = h->g}, 3, h->in, out);
}

static const struct {
    const char *name, *torch;
    bool causal, trains;
    double products; /* of T x T x D a head; each is 2 flops */
} ops[] = {
    {"attention", "attention 0", false, false, 2},
    {"attention_causal", "attention 1", true, false, 1},
    {"attention_train", "attention_train 1", true, true, 3},
};

static tb_status run_attention(tb_bench_run *run)
{
    const int64_t *d = run->shape.at;
    heads h = {{tb_bench_tensor(1, 4, d), tb_bench_tensor(2, 4, d), tb_bench_tensor(3, 4, d)},
               tb_bench_tensor(4, 4, d),
               false};
    double product = 2 * (double)(d[0] * d[1]) * (double)(d[2] * d[2]) * (double)d[3];
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char torch[96];
        if (!tb_bench_wants(run, ops[i].name)) continue;
        for (int l = 0; ops[i].trains && l < 3; l++) TB_TRY(tb_require_grad(h.in[l]));
        h.causal = ops[i].causal;
        tb_bench_case c = {.op = ops[i].name,
                           .flops = ops[i].products * product,
                           .operand_bytes = (ops[i].trains ? 32.0 : 16.0) * (double)(d[0] * d[1] * d[2] * d[3])};
        snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lldx%lld", (long long)d[0], (long long)d[1],
                 (long long)d[2], (long long)d[3]);
        snprintf(torch, sizeof torch, "%s %lld %lld %lld %lld", ops[i].torch, (long long)d[0],
                 (long long)d[1], (long long)d[2], (long long)d[3]);
        tb_bench_op op = {.call = ops[i].trains ? train : forward,
                          .n_out = ops[i].trains ? 3 : 1,
                          .arg = &h,
                          .tolerance = 16 * sqrt((double)d[2]),
                          .torch = torch};
        TB_TRY(tb_bench_measure_op(run, &op, &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"8x8x128x32", "1x8x512x64", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(attention, .doc = "scaled dot product attention", .shape_form = "BxHxTxD", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_attention);
