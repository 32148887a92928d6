/* chain: six pointwise ops in a row, max(relu(x a + b) a - b, x), as the compiler runs them, in one program whose
 * values in between stay in L1. The peer "eager" is the same ops one by one. Both must have the bits of the formula in
 * plain C. */
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_exec.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include <math.h>

enum { X, A, B, STREAMS };

typedef struct chain {
    int64_t n;
    tb_tensor *in[STREAMS];
    tb_exec *exec;
    tb_session *session;
    float *fused, *eager; /* the last results */
} chain;

static tb_tensor *formula(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    tb_tensor *y = tb_relu(tb_add(tb_mul(in[X], in[A]), in[B]));
    return tb_maximum(tb_sub(tb_mul(y, in[A]), in[B]), in[X]);
}

static tb_status run_fused(void *self, int64_t times, double *ns)
{
    chain *s = self;
    const void *in[STREAMS];
    (void)ns;
    for (int i = 0; i < STREAMS; i++) in[i] = tb_tensor_host(s->in[i]);
    for (int64_t t = 0; t < times; t++) TB_TRY(tb_session_run(s->session, NULL, in, (void *[]){s->fused}));
    return TB_OK;
}

static tb_status run_eager(void *self, int64_t times, double *ns)
{
    chain *s = self;
    (void)ns;
    for (int64_t t = 0; t < times; t++) {
        tb_scope *scope = tb_scope_open();
        tb_tensor *y = formula(NULL, STREAMS, s->in);
        tb_status st = t + 1 == times ? tb_tensor_read(y, s->eager, (size_t)s->n * sizeof *s->eager) : TB_OK;
        tb_scope_close(scope);
        TB_TRY(st);
    }
    return tb_ctx_take_error(tb_ctx_current());
}

static tb_status check(const chain *s, const float *got)
{
    const float *x = tb_tensor_host(s->in[X]), *a = tb_tensor_host(s->in[A]), *b = tb_tensor_host(s->in[B]);
    double worst = 0;
    for (int64_t i = 0; i < s->n; i++) {
        float y = x[i] * a[i] + b[i];
        y = (y > 0 ? y : 0) * a[i] - b[i];
        if (got[i] != (y > x[i] ? y : x[i])) worst = INFINITY;
    }
    return tb_bench_judge("chain", worst);
}

static tb_status check_fused(void *self) { return check(self, ((const chain *)self)->fused); }
static tb_status check_eager(void *self) { return check(self, ((const chain *)self)->eager); }

static tb_status prepare(chain *s, tb_ctx *ctx)
{
    static const char *const names[STREAMS] = {"x", "a", "b"};
    tb_capture_input in[STREAMS];
    tb_graph *g;
    for (int i = 0; i < STREAMS; i++) {
        float *host = tb_tensor_host(s->in[i] = tb_tensor_empty(TB_F32, 1, &s->n));
        in[i] = (tb_capture_input){names[i], TB_F32, 1, {s->n}};
        for (int64_t k = 0; host && k < s->n; k++) host[k] = (float)tb_bench_value((uint64_t)i + 1, k);
        tb_tensor_touch(s->in[i]);
    }
    s->fused = tb_calloc((size_t)s->n + 1, sizeof *s->fused);
    s->eager = tb_calloc((size_t)s->n + 1, sizeof *s->eager);
    if (!s->fused || !s->eager) return TB_ERR_OOM;
    TB_TRY(tb_capture("chain", 0, NULL, STREAMS, in, formula, NULL, &g));
    tb_status st = tb_compile(g, NULL, NULL);
    if (st != TB_OK) {
        tb_graph_free(g);
        return st;
    }
    TB_TRY(tb_exec_create(g, &s->exec));
    return tb_session_create(s->exec, ctx, &s->session);
}

static tb_status run_chain(tb_bench_run *run)
{
    chain s = {.n = run->shape.at[0]};
    tb_bench_case c = {.op = "chain",
                       .kernel = "tile_interpreter",
                       .isa = tb_ctx_isa(run->ctx),
                       .ours = {run_fused, &s},
                       .check = check_fused,
                       .flops = 6.0 * (double)s.n,
                       .bytes = 4.0 * (STREAMS + 1) * (double)s.n};
    snprintf(c.shape, sizeof c.shape, "%lld", (long long)s.n);
    if (run->peer) {
        c.peer = (tb_bench_side){run_eager, &s};
        c.peer_check = check_eager;
        c.peer_detail = "the same ops one by one";
    }
    tb_status st = prepare(&s, run->ctx);
    if (st == TB_OK) st = tb_bench_measure(run, &c);
    tb_session_free(s.session);
    tb_exec_free(s.exec);
    tb_free(s.fused);
    tb_free(s.eager);
    return st;
}

static const char *const shapes[] = {"65536", NULL};
static const char *const peers[] = {"eager", NULL};

TB_BENCH(chain, .doc = "six pointwise ops as one program", .shape_form = "N", .shapes = shapes, .dtypes = 1u << TB_F32,
         .peers = peers, .is_whole = true, .run = run_chain);
