/* Ops as cases. */
#include "bench_op.h"
#include "bench_torch.h"
#include "tb_alloc.h"
#include "tb_op.h"
#include <math.h>

tb_tensor *tb_bench_tensor(uint64_t stream, int rank, const int64_t *dims)
{
    tb_tensor *t = tb_tensor_empty(TB_F32, rank, dims);
    float *host = tb_tensor_host(t);
    for (int64_t i = 0; host && i < tb_tensor_numel(t); i++) host[i] = (float)tb_bench_value(stream, i);
    tb_tensor_touch(t);
    return t;
}

/* ---- which kernel runs: the first that is more than a view ---- */
typedef struct watcher {
    tb_interceptor interceptor;
    const char *kernel;
} watcher;

static tb_status watch(tb_interceptor *self, tb_op_call *call)
{
    tb_status st = tb_dispatch_next(self, call);
    watcher *w = (watcher *)self;
    if (!w->kernel && call->kernel && strcmp(call->kernel, "view") != 0) w->kernel = call->kernel;
    return st;
}

static tb_isa isa_of(const char *kernel)
{
    for (int i = 0; i < tb_kernel_count(); i++)
        if (strcmp(tb_kernel_at(i)->name, kernel) == 0) return tb_kernel_at(i)->isa;
    return TB_ISA_SCALAR; /* ref */
}

/* ---- the results ---- */
typedef struct op_case {
    const tb_bench_op *op;
    int64_t n[TB_BENCH_RESULTS];
    float *expected[TB_BENCH_RESULTS];
} op_case;

static int results_of(const tb_bench_op *op) { return op->n_out > 0 ? op->n_out : 1; }

static tb_status read_result(tb_tensor *y, float **values, int64_t *n)
{
    *n = tb_tensor_numel(y);
    *values = tb_calloc((size_t)*n, sizeof **values);
    return *values ? tb_tensor_read(y, *values, (size_t)*n * sizeof **values) : TB_ERR_OOM;
}

/* One call; values[], to be freed, are its results. */
static tb_status take_results(const tb_bench_op *op, float **values, int64_t *n)
{
    tb_tensor *out[TB_BENCH_RESULTS];
    for (int i = 0; i < results_of(op); i++) values[i] = NULL;
    if (op->reset) TB_TRY(op->reset(op->arg));
    tb_scope *scope = tb_scope_open();
    tb_status st = op->call(op->arg, out);
    for (int i = 0; st == TB_OK && i < results_of(op); i++) st = read_result(out[i], &values[i], &n[i]);
    tb_scope_close(scope);
    return st;
}

static tb_status expect(tb_ctx *ctx, op_case *s)
{
    tb_isa isa = tb_ctx_isa(ctx);
    tb_ctx_limit_kernels(ctx, isa, true);
    tb_status st = take_results(s->op, s->expected, s->n);
    tb_ctx_limit_kernels(ctx, isa, false);
    return st;
}

static double worst_of(const float *got, const float *expected, int64_t n, double tolerance)
{
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)expected[i]));
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - (double)expected[i]) / (tolerance * 0x1p-24 * largest + 1e-30);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

static tb_status check(void *self)
{
    const op_case *s = self;
    float *got[TB_BENCH_RESULTS];
    int64_t n[TB_BENCH_RESULTS];
    double worst = 0;
    tb_status st = take_results(s->op, got, n);
    if (st == TB_OK && s->op->check) {
        st = s->op->check(s->op->arg, got[0]);
        tb_free(got[0]);
        return st;
    }
    for (int i = 0; i < results_of(s->op); i++) {
        double error = st == TB_OK ? worst_of(got[i], s->expected[i], n[i], s->op->tolerance) : 0;
        if (!(error <= worst)) worst = error;
        tb_free(got[i]);
    }
    return st == TB_OK ? tb_bench_judge("op", worst) : st;
}

static tb_status run_op(void *self, int64_t times, double *ns)
{
    const op_case *s = self;
    (void)ns;
    for (int64_t t = 0; t < times; t++) {
        tb_tensor *out[TB_BENCH_RESULTS];
        tb_scope *scope = tb_scope_open();
        tb_status st = s->op->call(s->op->arg, out);
        tb_scope_close(scope);
        TB_TRY(st);
    }
    return tb_ctx_take_error(tb_ctx_current());
}

tb_status tb_bench_measure_op(tb_bench_run *run, const tb_bench_op *op, tb_bench_case *c)
{
    tb_bench_op other = *op;
    op_case s = {.op = op}, beside = {.op = &other};
    watcher w = {.interceptor = {.name = "bench", .order = TB_ORDER_TRACE, .around = watch}};
    tb_status st = op->check ? TB_OK : expect(run->ctx, &s);
    tb_interceptor_add(run->ctx, &w.interceptor);
    if (st == TB_OK) st = run_op(&s, 1, NULL);
    tb_interceptor_remove(run->ctx, &w.interceptor);
    if (st == TB_OK) {
        c->kernel = w.kernel ? w.kernel : "view";
        c->isa = isa_of(c->kernel);
        c->ours = (tb_bench_side){run_op, &s};
        c->check = check;
        if (op->peer_call) {
            other.call = op->peer_call;
            for (int i = 0; i < results_of(op); i++) beside.expected[i] = s.expected[i];
            c->peer = (tb_bench_side){run_op, &beside};
            c->peer_check = check;
        }
        st = c->peer.run ? tb_bench_measure(run, c) : tb_bench_measure_beside_torch(run, op->torch, c);
    }
    for (int i = 0; i < results_of(op); i++) tb_free(s.expected[i]);
    return st;
}
