/* norm: ops along rows. Bound: reading what they read and write, once. */
#include "bench_op.h"
#include "tb_ops.h"

typedef struct rows {
    tb_tensor *x, *gamma, *beta;
} rows;

static tb_tensor *softmax(void *arg) { return tb_softmax(((rows *)arg)->x, -1); }
static tb_tensor *log_softmax(void *arg) { return tb_log_softmax(((rows *)arg)->x, -1); }
static tb_tensor *row_sum(void *arg) { return tb_sum_axis(((rows *)arg)->x, -1, false); }

static tb_tensor *layer_norm(void *arg)
{
    const rows *r = arg;
    return tb_layer_norm(r->x, r->gamma, r->beta, 1e-5);
}

static tb_status run_norm(tb_bench_run *run)
{
    static const struct {
        const char *name;
        tb_tensor *(*call)(void *arg);
        double passes; /* over the data */
    } ops[] = {{"softmax", softmax, 2},
               {"log_softmax", log_softmax, 2},
               {"layer_norm", layer_norm, 2},
               {"sum", row_sum, 1}};
    const int64_t *d = run->shape.at;
    rows r = {tb_bench_tensor(1, 2, d), tb_bench_tensor(2, 1, d + 1), tb_bench_tensor(3, 1, d + 1)};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char torch[64];
        if (!tb_bench_wants(run, ops[i].name)) continue;
        snprintf(torch, sizeof torch, "norm %s %lld %lld", ops[i].name, (long long)d[0], (long long)d[1]);
        tb_bench_case c = {.op = ops[i].name, .bytes = ops[i].passes * 4 * (double)d[0] * (double)d[1]};
        snprintf(c.shape, sizeof c.shape, "%lldx%lld", (long long)d[0], (long long)d[1]);
        TB_TRY(tb_bench_measure_op(
            run, &(tb_bench_op){.call = ops[i].call, .arg = &r, .tolerance = 64, .torch = torch}, &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"64x256", "4096x1024", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(norm, .doc = "softmax, layer norm and sums along rows", .shape_form = "RxC", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_norm);
