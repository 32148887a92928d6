/* norm: ops along rows, forward, and forward with the gradients of all inputs (.._train). Bound: reading what
 * they must read and write, once. */
#include "bench_op.h"
#include "tb_autograd.h"
#include "tb_ops.h"

typedef struct rows {
    tb_tensor *x, *gamma, *beta, *g; /* g: gradient of the result */
} rows;

static tb_status softmax(void *arg, tb_tensor **out)
{
    *out = tb_softmax(((rows *)arg)->x, -1);
    return TB_OK;
}

static tb_status log_softmax(void *arg, tb_tensor **out)
{
    *out = tb_log_softmax(((rows *)arg)->x, -1);
    return TB_OK;
}

static tb_status row_sum(void *arg, tb_tensor **out)
{
    *out = tb_sum_axis(((rows *)arg)->x, -1, false);
    return TB_OK;
}

static tb_status layer_norm(void *arg, tb_tensor **out)
{
    const rows *r = arg;
    *out = tb_layer_norm(r->x, r->gamma, r->beta, 1e-5);
    return TB_OK;
}

static tb_status softmax_train(void *arg, tb_tensor **out)
{
    rows *r = arg;
    return tb_gradients(tb_softmax(r->x, -1), &(tb_backward_opts){.grad = r->g}, 1, &r->x, out);
}

static tb_status layer_norm_train(void *arg, tb_tensor **out)
{
    const rows *r = arg;
    return tb_gradients(tb_layer_norm(r->x, r->gamma, r->beta, 1e-5), &(tb_backward_opts){.grad = r->g}, 3,
                        (tb_tensor *[]){r->x, r->gamma, r->beta}, out);
}

static const struct {
    const char *name;
    tb_status (*call)(void *arg, tb_tensor **out);
    int n_out;
    double passes; /* over the data */
    bool trains;
} ops[] = {
    {"softmax", softmax, 1, 2, false},
    {"log_softmax", log_softmax, 1, 2, false},
    {"layer_norm", layer_norm, 1, 2, false},
    {"sum", row_sum, 1, 1, false},
    {"softmax_train", softmax_train, 1, 5, true},       /* x, y; g, y, dx */
    {"layer_norm_train", layer_norm_train, 3, 5, true}, /* x, y; g, x, dx */
};

static tb_status run_norm(tb_bench_run *run)
{
    const int64_t *d = run->shape.at;
    rows r = {tb_bench_tensor(1, 2, d), tb_bench_tensor(2, 1, d + 1), tb_bench_tensor(3, 1, d + 1),
              tb_bench_tensor(4, 2, d)};
    tb_tensor *const leaves[] = {r.x, r.gamma, r.beta};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char torch[64];
        if (!tb_bench_wants(run, ops[i].name)) continue;
        for (int l = 0; ops[i].trains && l < 3; l++) TB_TRY(tb_require_grad(leaves[l]));
        snprintf(torch, sizeof torch, "norm %s %lld %lld", ops[i].name, (long long)d[0], (long long)d[1]);
        tb_bench_case c = {.op = ops[i].name, .bytes = ops[i].passes * 4 * (double)d[0] * (double)d[1]};
        snprintf(c.shape, sizeof c.shape, "%lldx%lld", (long long)d[0], (long long)d[1]);
        tb_bench_op op = {
            .call = ops[i].call, .n_out = ops[i].n_out, .arg = &r, .tolerance = 64, .torch = torch};
        TB_TRY(tb_bench_measure_op(run, &op, &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"64x256", "4096x1024", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(norm, .doc = "softmax, layer norm and sums along rows", .shape_form = "RxC", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_norm);
