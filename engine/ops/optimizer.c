/* sgd, sgd_momentum, adamw: one optimizer step of one parameter, in place: parameter and state are donated, every
 * element by itself. What changes from step to step (learning rate, bias corrections, the factor of gradient clipping)
 * are plain attributes, so a step makes no tensor. Fast rows: kernels "sgd" and "adamw". */
#include "tb_op.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
#include "tb_kernel.h" /* tb_sgd_step, tb_adamw_step */
/* As torch.optim.SGD: d = scale * g + decay * p; b = momentum * b + d; p -= rate * (nesterov ? d + momentum * b : b).
 * `buffer` (like param, zeros before the first step) is NULL for no momentum. Returns the parameter's new value
 * (the same storage). */
tb_tensor *tb_sgd(tb_tensor *param, tb_tensor *grad, tb_tensor *buffer, const tb_sgd_step *step);
/* Kingma, Ba: "Adam" (2015); Loshchilov, Hutter: "Decoupled Weight Decay Regularization" (2019); as torch.optim.AdamW,
 * and torch.optim.Adam where `decoupled` is false. g' = scale * g; m = b1 m + (1 - b1) g'; v = b2 v + (1 - b2) g'^2;
 * p -= rate * (m / bias1 / (sqrt(v / bias2) + eps) + decay * p), bias1 = 1 - b1^t, bias2 = 1 - b2^t in step t. */
tb_tensor *tb_adamw(tb_tensor *param, tb_tensor *grad, tb_tensor *m, tb_tensor *v, const tb_adamw_step *step);
//<<<

static const tb_attr sgd_attr_table[] = {
    TB_ATTR_REAL(tb_sgd_step, rate, 0.01, "learning rate"),
    TB_ATTR_REAL(tb_sgd_step, scale, 1, "of the gradient"),
    TB_ATTR_REAL(tb_sgd_step, decay, 0, "weight decay, added to the gradient"),
    TB_ATTR_REAL(tb_sgd_step, momentum, 0, "how much of the last direction stays"),
    TB_ATTR_BOOL(tb_sgd_step, nesterov, 0, "look-ahead momentum"),
};
static const tb_attr adamw_attr_table[] = {
    TB_ATTR_REAL(tb_adamw_step, rate, 0.001, "learning rate"),
    TB_ATTR_REAL(tb_adamw_step, scale, 1, "of the gradient"),
    TB_ATTR_REAL(tb_adamw_step, decay, 0, "weight decay"),
    TB_ATTR_REAL(tb_adamw_step, beta1, 0.9, "decay of the first moment"),
    TB_ATTR_REAL(tb_adamw_step, beta2, 0.999, "decay of the second moment"),
    TB_ATTR_REAL(tb_adamw_step, eps, 1e-8, "added to the root of the second moment"),
    TB_ATTR_REAL(tb_adamw_step, bias1, 1, "1 - beta1^step"),
    TB_ATTR_REAL(tb_adamw_step, bias2, 1, "1 - beta2^step"),
    TB_ATTR_BOOL(tb_adamw_step, decoupled, 1, "decay apart from the moments (AdamW)"),
};

enum { PARAM, GRAD, STATE };

/* Inputs: parameter, gradient, states. Output 0 is the parameter, output i the i-th state. */
static tb_status update_shape(tb_op_call *c)
{
    const tb_tensor *p = c->in[0];
    for (int i = 0; i < c->n_in; i++) {
        const tb_tensor *t = c->in[i];
        bool is_dense = t->is_contiguous || i == GRAD;
        if (t->dtype != p->dtype || t->rank != p->rank || !is_dense ||
            memcmp(t->dims, p->dims, (size_t)p->rank * sizeof *p->dims) != 0)
            return TB_FAIL(TB_ERR_SHAPE,
                           "%s: parameter %s and input %d, %s %s, must be alike; parameter and state contiguous",
                           c->op->name, tb_shape_text(p), i, tb_dtype_name((tb_dtype)t->dtype), tb_shape_text(t));
    }
    for (int o = 0; o < c->op->n_out; o++) {
        tb_out_like(c, o, p);
        c->spec[o].is_donated = true;
        c->spec[o].view_of = o ? STATE + o - 1 : PARAM;
    }
    return TB_OK;
}

static void update_cost(const tb_op_call *c, tb_cost *out)
{
    double n = (double)c->in[0]->numel, size = (double)tb_dtype_size((tb_dtype)c->in[0]->dtype);
    int states = c->op->n_in - STATE;
    *out = (tb_cost){.flops = n * (2 + 6 * states), .bytes = n * size * (3 + 2 * states), .k = 1};
}

/* ---- fast: a kernel over ranges, split over the pool ---- */
enum { CHUNK = 1 << 14 };

typedef struct job {
    const tb_kernel *kernel;
    const tb_update_args *args;
    size_t size;
} job;

static void run_range(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *j = arg;
    tb_update_args a = *j->args;
    int64_t at = begin * CHUNK, stop = end * CHUNK;
    (void)thread;
    a.n = (stop < a.n ? stop : a.n) - at;
    a.param = (char *)a.param + (size_t)at * j->size;
    a.grad = (const char *)a.grad + (size_t)at * j->size;
    for (int i = 0; i < 2; i++)
        if (a.state[i]) a.state[i] = (char *)a.state[i] + (size_t)at * j->size;
    j->kernel->run(&a);
}

static tb_status update_fast(tb_op_call *c)
{
    tb_dtype t = (tb_dtype)c->in[0]->dtype;
    tb_update_args a = {.n = c->in[0]->numel, .param = tb_op_data(c->in[PARAM]), .grad = tb_op_data(c->in[GRAD]),
                        .attrs = c->attrs};
    if (!c->in[GRAD]->is_contiguous) return TB_ERR_UNSUPPORTED;
    for (int i = STATE; i < c->n_in; i++) a.state[i - STATE] = tb_op_data(c->in[i]);
    const tb_kernel *k = tb_call_kernel(c, 0, t, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    tb_pool_run(c->ctx->pool, (a.n + CHUNK - 1) / CHUNK, run_range, &(job){k, &a, tb_dtype_size(t)});
    return TB_OK;
}

/* ---- references ---- */
static tb_status sgd_ref(tb_op_call *c)
{
    const tb_sgd_step *s = c->attrs;
    tb_dtype t = (tb_dtype)c->in[0]->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    char *p = tb_op_data(c->in[PARAM]), *b = c->n_in > STATE ? tb_op_data(c->in[STATE]) : NULL;
    const char *g = tb_op_data(c->in[GRAD]);
    tb_walk w;
    tb_walk_init(&w, c->in[GRAD]->rank, c->in[GRAD]->dims);
    tb_walk_add(&w, c->in[GRAD]);
    TB_WALK(&w) {
        int64_t at = w.flat * size;
        double x = tb_load_f64(t, p + at), d = s->scale * tb_load_f64(t, g + w.at[0] * size) + s->decay * x;
        if (b) {
            double moved = s->momentum * tb_load_f64(t, b + at) + d;
            tb_store_f64(t, b + at, moved);
            d = s->nesterov ? d + s->momentum * moved : moved;
        }
        tb_store_f64(t, p + at, x - s->rate * d);
    }
    return TB_OK;
}

static tb_status adamw_ref(tb_op_call *c)
{
    const tb_adamw_step *s = c->attrs;
    tb_dtype t = (tb_dtype)c->in[0]->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    char *p = tb_op_data(c->in[PARAM]), *m = tb_op_data(c->in[2]), *v = tb_op_data(c->in[3]);
    const char *g = tb_op_data(c->in[GRAD]);
    tb_walk w;
    tb_walk_init(&w, c->in[GRAD]->rank, c->in[GRAD]->dims);
    tb_walk_add(&w, c->in[GRAD]);
    TB_WALK(&w) {
        int64_t at = w.flat * size;
        double x = tb_load_f64(t, p + at), d = s->scale * tb_load_f64(t, g + w.at[0] * size);
        if (!s->decoupled) d += s->decay * x;
        double first = s->beta1 * tb_load_f64(t, m + at) + (1 - s->beta1) * d;
        double second = s->beta2 * tb_load_f64(t, v + at) + (1 - s->beta2) * d * d;
        tb_store_f64(t, m + at, first);
        tb_store_f64(t, v + at, second);
        if (s->decoupled) x -= s->rate * s->decay * x;
        tb_store_f64(t, p + at, x - s->rate * (first / s->bias1) / (sqrt(second / s->bias2) + s->eps));
    }
    return TB_OK;
}

static void sgd_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(5, 7)}, empty = {TB_SHAPE(0)}, unit = {TB_SHAPE(1)};
    tb_sample(to, &(tb_sgd_step){.rate = 0.1, .scale = 0.5, .decay = 0.1}, 2, (tb_sample_in[]){x, x});
    tb_sample(to, &(tb_sgd_step){.rate = 0.1, .scale = 1}, 2, (tb_sample_in[]){unit, unit});
    tb_sample(to, &(tb_sgd_step){.rate = 0.1, .scale = 1}, 2, (tb_sample_in[]){empty, empty});
}

static void sgd_momentum_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(5, 7)}, empty = {TB_SHAPE(0)}, unit = {TB_SHAPE(1)};
    tb_sample(to, &(tb_sgd_step){0.1, 0.5, 0.01, 0.9, false}, 3, (tb_sample_in[]){x, x, x});
    tb_sample(to, &(tb_sgd_step){0.1, 0.5, 0.01, 0.9, false}, 3, (tb_sample_in[]){unit, unit, unit});
    tb_sample(to, &(tb_sgd_step){0.1, 1, 0, 0.9, true}, 3, (tb_sample_in[]){x, x, x});
    tb_sample(to, &(tb_sgd_step){0.1, 1, 0, 0.9, true}, 3, (tb_sample_in[]){empty, empty, empty});
}

static void adamw_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(5, 7)}, v = {TB_SHAPE(5, 7), .lo = 0.1, .hi = 2}, empty = {TB_SHAPE(0)},
                              unit = {TB_SHAPE(1)}, unit_v = {TB_SHAPE(1), .lo = 0.1, .hi = 2};
    static const tb_adamw_step step = {0.01, 1, 0.1, 0.9, 0.999, 1e-8, 0.1, 0.001, true};
    tb_sample(to, &step, 4, (tb_sample_in[]){empty, empty, empty, empty});
    tb_sample(to, &step, 4, (tb_sample_in[]){unit, unit, unit, unit_v});
    tb_sample(to, &step, 4, (tb_sample_in[]){x, x, x, v});
    tb_sample(to, &(tb_adamw_step){0.01, 0.5, 0.1, 0.9, 0.99, 1e-6, 0.5, 0.2, false}, 4, (tb_sample_in[]){x, x, x, v});
}

#define UPDATE                                                                                                        \
    .dtypes = TB_FLOATS, .dtypes_reason = "parameters are floats", .shape = update_shape, .fast = update_fast,        \
    .no_grad = "writes in place", .cost = update_cost, .tol = TB_TOL(8)
TB_OP(sgd, .doc = "a step of SGD, in place", .n_in_min = 2, .n_in = 2, .n_out = 1, UPDATE,
      TB_ATTRS(tb_sgd_step, sgd_attr_table), .ref = sgd_ref, .primitives = {"sgd"}, .samples = sgd_samples);
TB_OP(sgd_momentum, .doc = "a step of SGD with momentum, in place", .n_in_min = 3, .n_in = 3, .n_out = 2, UPDATE,
      TB_ATTRS(tb_sgd_step, sgd_attr_table), .ref = sgd_ref, .primitives = {"sgd"}, .samples = sgd_momentum_samples);
TB_OP(adamw, .doc = "a step of Adam or AdamW, in place", .n_in_min = 4, .n_in = 4, .n_out = 3, UPDATE,
      TB_ATTRS(tb_adamw_step, adamw_attr_table), .ref = adamw_ref, .primitives = {"adamw"}, .samples = adamw_samples);

tb_tensor *tb_sgd(tb_tensor *param, tb_tensor *grad, tb_tensor *buffer, const tb_sgd_step *step)
{
    return buffer ? tb_call(&tb_op_sgd_momentum, step, TB_IN(param, grad, buffer))
                  : tb_call(&tb_op_sgd, step, TB_IN(param, grad));
}

tb_tensor *tb_adamw(tb_tensor *param, tb_tensor *grad, tb_tensor *m, tb_tensor *v, const tb_adamw_step *step)
{
    return tb_call(&tb_op_adamw, step, TB_IN(param, grad, m, v));
}
