/* elementwise: ops that read and write each element once. Bound: reading that many bytes. */
#include "bench_op.h"
#include "tb_ops.h"

typedef struct pointwise {
    const char *name;
    tb_tensor *(*unary)(tb_tensor *x);
    tb_tensor *(*binary)(tb_tensor *a, tb_tensor *b);
    tb_tensor *a, *b;
} pointwise;

static tb_status call(void *arg, tb_tensor **out)
{
    const pointwise *p = arg;
    *out = p->unary ? p->unary(p->a) : p->binary(p->a, p->b);
    return TB_OK;
}

static tb_status run_elementwise(tb_bench_run *run)
{
    pointwise ops[] = {{.name = "add", .binary = tb_add},           {.name = "mul", .binary = tb_mul},
                       {.name = "relu", .unary = tb_relu},          {.name = "exp", .unary = tb_exp},
                       {.name = "tanh", .unary = tb_tanh},          {.name = "sigmoid", .unary = tb_sigmoid},
                       {.name = "gelu_tanh", .unary = tb_gelu_tanh}};
    int64_t n = run->shape.at[0];
    tb_tensor *a = tb_bench_tensor(1, 1, &n), *b = tb_bench_tensor(2, 1, &n);
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char torch[64];
        if (!tb_bench_wants(run, ops[i].name)) continue;
        snprintf(torch, sizeof torch, "elementwise %s %lld", ops[i].name, (long long)n);
        ops[i].a = a;
        ops[i].b = b;
        tb_bench_case c = {.op = ops[i].name, .bytes = (ops[i].binary ? 12.0 : 8.0) * (double)n};
        snprintf(c.shape, sizeof c.shape, "%lld", (long long)n);
        TB_TRY(tb_bench_measure_op(
            run, &(tb_bench_op){.call = call, .arg = &ops[i], .tolerance = 8, .torch = torch}, &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"16384", "4194304", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(elementwise, .doc = "ops that touch each element once", .shape_form = "N", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_elementwise);
