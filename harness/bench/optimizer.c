/* optimizer: one step over all parameters, in place. Bytes of the bound: what must be fetched, 3 numbers an
 * element for SGD with momentum and 4 for AdamW; what is written lies in lines that were fetched, and between caches
 * goes the other way meanwhile. */
#include "bench_op.h"
#include "tb_ops.h"

typedef struct update {
    tb_tensor *p, *g, *m, *v;
} update;

static tb_status sgd(void *arg, tb_tensor **out)
{
    const update *u = arg;
    *out = tb_sgd(u->p, u->g, u->m, &(tb_sgd_step){.rate = 1e-3, .scale = 1, .momentum = 0.9});
    return TB_OK;
}

static tb_status adamw(void *arg, tb_tensor **out)
{
    const update *u = arg;
    *out = tb_adamw(u->p, u->g, u->m, u->v,
                    &(tb_adamw_step){.rate = 1e-3,
                                     .scale = 1,
                                     .decay = 0.01,
                                     .beta1 = 0.9,
                                     .beta2 = 0.999,
                                     .eps = 1e-8,
                                     .bias1 = 0.1,
                                     .bias2 = 0.001,
                                     .decoupled = true});
    return TB_OK;
}

static tb_status reset(void *arg)
{
    const update *u = arg;
    tb_tensor *const tensors[] = {u->p, u->m, u->v};
    for (uint64_t t = 0; t < 3; t++) {
        float *host = tb_tensor_host(tensors[t]);
        for (int64_t i = 0; i < tb_tensor_numel(tensors[t]); i++) {
            float x = (float)tb_bench_value(t + 1, i);
            host[i] = t == 2 ? x * x : x;
        }
        tb_tensor_touch(tensors[t]);
    }
    return TB_OK;
}

static tb_status run_optimizer(tb_bench_run *run)
{
    static const struct {
        const char *name;
        tb_status (*call)(void *arg, tb_tensor **out);
        double bytes; /* fetched an element */
    } ops[] = {{"sgd", sgd, 12}, {"adamw", adamw, 16}};
    int64_t n = run->shape.at[0];
    update u = {tb_bench_tensor(1, 1, &n), tb_bench_tensor(4, 1, &n), tb_bench_tensor(2, 1, &n),
                tb_bench_tensor(3, 1, &n)};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char torch[64];
        if (!tb_bench_wants(run, ops[i].name)) continue;
        snprintf(torch, sizeof torch, "optimizer %s %lld", ops[i].name, (long long)n);
        tb_bench_case c = {.op = ops[i].name, .bytes = ops[i].bytes * (double)n};
        snprintf(c.shape, sizeof c.shape, "%lld", (long long)n);
        TB_TRY(tb_bench_measure_op(
            run,
            &(tb_bench_op){.call = ops[i].call, .reset = reset, .arg = &u, .tolerance = 16, .torch = torch},
            &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"535050", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(optimizer, .doc = "one step of SGD with momentum and of AdamW", .shape_form = "N", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_optimizer);
