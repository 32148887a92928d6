/* dispatch: what a call costs where there is next to nothing to compute. The sum of two vectors of 8, with
 * nothing to record and recorded for backward (every result is freed at once, as a temporary is), and a whole
 * training step of a 4-16-1 tanh network on 4 rows: forward, mean square error, backward, SGD. */
#include "bench_torch.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_kernel.h"
#include "tb_model.h"
#include "tb_ops.h"
#include "tb_optim.h"
#include "tb_tensor.h"
#include <math.h>
#include <string.h>

/* ---- the sum ---- */
enum { WIDTH = 8 };

typedef struct sum_case {
    tb_tensor *a, *b;
    bool recorded;
    float last[WIDTH];
} sum_case;

static tb_status run_sum(void *self, int64_t times, double *ns)
{
    sum_case *s = self;
    (void)ns;
    tb_tensor *y = NULL;
    for (int64_t t = 0; t < times; t++) {
        tb_scope *scope = tb_scope_open();
        y = tb_add(s->a, s->b);
        if (t + 1 == times) TB_TRY(tb_tensor_read(y, s->last, sizeof s->last));
        tb_scope_close(scope);
    }
    return TB_OK;
}

static tb_status check_sum(void *self)
{
    const sum_case *s = self;
    double worst = 0;
    for (int i = 0; i < WIDTH; i++)
        if (s->last[i] != (float)tb_bench_value(1, i) + (float)tb_bench_value(2, i)) worst = INFINITY;
    return tb_bench_judge("add", worst);
}

static tb_tensor *vector(uint64_t stream)
{
    float host[WIDTH];
    for (int i = 0; i < WIDTH; i++) host[i] = (float)tb_bench_value(stream, i);
    return tb_tensor_from(TB_F32, 1, (int64_t[]){WIDTH}, host);
}

static const tb_kernel *kernel_of(const tb_bench_run *run, const char *primitive)
{
    const tb_kernel *best[1];
    return tb_kernel_find(primitive, TB_F32, tb_ctx_isa(run->ctx), best, 1) ? best[0] : NULL;
}

static tb_status measure_sum(tb_bench_run *run, bool recorded)
{
    sum_case s = {.a = vector(1), .b = vector(2), .recorded = recorded};
    const tb_kernel *kernel = kernel_of(run, "add");
    tb_bench_case c = {.op = recorded ? "add_recorded" : "add",
                       .shape = "8",
                       .kernel = kernel ? kernel->name : "ref",
                       .isa = kernel ? kernel->isa : TB_ISA_SCALAR,
                       .ours = {run_sum, &s},
                       .check = check_sum};
    if (recorded) TB_TRY(tb_require_grad(s.a));
    return tb_bench_measure_beside_torch(run, c.op, &c);
}

/* ---- the step ---- */
enum { ROWS = 4, IN = 4, HIDDEN = 16, N_WEIGHTS = HIDDEN * IN + HIDDEN + HIDDEN + 1 };
static const double rate = 0.1;

typedef struct step_case {
    tb_model *model;
    tb_optim *optim;
    tb_tensor *x, *y;
    float first_loss, last_loss;
    int64_t steps;
    double weights[N_WEIGHTS]; /* at the start: w1 [16, 4], b1, w2 [1, 16], b2 */
} step_case;

static tb_status one_step(step_case *s)
{
    tb_scope *scope = tb_scope_open();
    tb_tensor *loss = tb_mse_loss(tb_model_forward(s->model, s->x), s->y);
    tb_status st = tb_backward(loss);
    if (st == TB_OK) st = tb_optim_step(s->optim);
    if (st == TB_OK) st = tb_item_f32(loss, &s->last_loss);
    if (s->steps++ == 0) s->first_loss = s->last_loss;
    tb_scope_close(scope);
    return st;
}

static tb_status run_steps(void *self, int64_t times, double *ns)
{
    (void)ns;
    for (int64_t t = 0; t < times; t++) TB_TRY(one_step(self));
    return TB_OK;
}

/* One step in plain C: w becomes w - rate * gradient; returns the loss before it. */
static double plain_step(double *w)
{
    double *w1 = w, *b1 = w1 + HIDDEN * IN, *w2 = b1 + HIDDEN, *b2 = w2 + HIDDEN, grad[N_WEIGHTS] = {0},
           loss = 0;
    double *g1 = grad, *gb1 = g1 + HIDDEN * IN, *g2 = gb1 + HIDDEN, *gb2 = g2 + HIDDEN;
    for (int r = 0; r < ROWS; r++) {
        double h[HIDDEN], out = *b2, x[IN];
        for (int i = 0; i < IN; i++) x[i] = (double)(float)tb_bench_value(3, r * IN + i);
        for (int j = 0; j < HIDDEN; j++) {
            double sum = b1[j];
            for (int i = 0; i < IN; i++) sum += w1[j * IN + i] * x[i];
            h[j] = tanh(sum);
            out += w2[j] * h[j];
        }
        double off = out - (double)(float)tb_bench_value(4, r), g = 2 * off / ROWS;
        loss += off * off / ROWS;
        *gb2 += g;
        for (int j = 0; j < HIDDEN; j++) {
            double gh = g * w2[j] * (1 - h[j] * h[j]);
            g2[j] += g * h[j];
            gb1[j] += gh;
            for (int i = 0; i < IN; i++) g1[j * IN + i] += gh * x[i];
        }
    }
    for (int i = 0; i < N_WEIGHTS; i++) w[i] -= rate * grad[i];
    return loss;
}

static tb_status read_weights(const step_case *s, double *to)
{
    static const char *const names[] = {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"};
    for (size_t p = 0; p < sizeof names / sizeof *names; p++) {
        float host[HIDDEN * IN];
        const tb_param *param = tb_params_find(tb_model_params(s->model), names[p]);
        if (!param) return tb_error_code();
        TB_TRY(tb_tensor_read(param->tensor, host, tb_tensor_bytes(param->tensor)));
        for (int64_t i = 0; i < tb_tensor_numel(param->tensor); i++) *to++ = (double)host[i];
    }
    return TB_OK;
}

/* After one step: the loss and every weight, within 1e-5 of their size and at least 1e-6. */
static tb_status check_step(void *self)
{
    step_case *s = self;
    double now[N_WEIGHTS], expected[N_WEIGHTS], worst;
    memcpy(expected, s->weights, sizeof expected);
    double loss = plain_step(expected);
    TB_TRY(read_weights(s, now));
    worst = fabs((double)s->first_loss - loss) / (1e-5 * loss + 1e-6);
    for (int i = 0; i < N_WEIGHTS; i++) {
        double error = fabs(now[i] - expected[i]) / (1e-5 * fabs(expected[i]) + 1e-6);
        if (!(error <= worst)) worst = error;
    }
    return tb_bench_judge("train_step", worst);
}

static tb_status make_step(step_case *s)
{
    float x[ROWS * IN], y[ROWS];
    for (int i = 0; i < ROWS * IN; i++) x[i] = (float)tb_bench_value(3, i);
    for (int i = 0; i < ROWS; i++) y[i] = (float)tb_bench_value(4, i);
    s->x = tb_tensor_from(TB_F32, 2, (int64_t[]){ROWS, IN}, x);
    s->y = tb_tensor_from(TB_F32, 2, (int64_t[]){ROWS, 1}, y);
    TB_TRY(tb_model_create("mlp:widths=4-16-1,act=tanh", TB_F32, &s->model));
    TB_TRY(tb_params_make_arena(tb_model_params(s->model), false));
    TB_TRY(tb_optim_create(tb_model_params(s->model), &(tb_optim_config){.kind = TB_OPTIM_SGD, .rate = rate},
                           &s->optim));
    return read_weights(s, s->weights);
}

static tb_status measure_step(tb_bench_run *run)
{
    step_case s = {0};
    const tb_kernel *kernel = kernel_of(run, "gemm");
    tb_bench_case c = {.op = "tiny_train_step",
                       .shape = "4-16-1 b4",
                       .kernel = kernel ? kernel->name : "ref",
                       .isa = kernel ? kernel->isa : TB_ISA_SCALAR,
                       .ours = {run_steps, &s},
                       .check = check_step};
    tb_status st = make_step(&s);
    if (st == TB_OK) st = tb_bench_measure_beside_torch(run, c.op, &c);
    tb_optim_destroy(s.optim);
    tb_model_destroy(s.model);
    return st;
}

static tb_status run_dispatch(tb_bench_run *run)
{
    if (tb_bench_wants(run, "add")) TB_TRY(measure_sum(run, false));
    if (tb_bench_wants(run, "add_recorded")) TB_TRY(measure_sum(run, true));
    return tb_bench_wants(run, "tiny_train_step") ? measure_step(run) : TB_OK;
}

static const char *const peers[] = {"torch", NULL};

TB_BENCH(dispatch, .doc = "the cost of a call: small ops, with and without recording", .dtypes = 1u << TB_F32,
         .peers = peers, .run = run_dispatch);
