/* batch_norm: y = (x - mean) rstd gamma + beta for every channel, rstd = 1 / sqrt(var + eps), mean and biased
 * variance over the batch and the channel's plane (Ioffe, Szegedy: "Batch Normalization", 2015). Statistics
 * are sums over the batch: a pairwise tree over the context's blocks of samples. They are hidden outputs,
 * from which a layer keeps its running averages; batch_norm_eval takes those. Backward, with h = (x - mean)
 * rstd and averages over the same elements: dgamma = sum g h,   dbeta = sum g,   dx = gamma rstd (g - avg g -
 * h avg(g h)); one op, for dx needs the sums anyway. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
/* x: [N, C, ..] floats with at least two values a channel; gamma, beta: [C] or NULL; eps is added to the
 * variance. Where not NULL, *mean and *var ([C], never less than f32) are the statistics of this batch. */
tb_tensor *tb_batch_norm(tb_tensor *x, tb_tensor *gamma, tb_tensor *beta, double eps, tb_tensor **mean,
                         tb_tensor **var);
/* The same with a given mean and (biased) var: [C], f32, or f64 for an f64 input. */
tb_tensor *tb_batch_norm_eval(tb_tensor *x, tb_tensor *mean, tb_tensor *var, tb_tensor *gamma,
                              tb_tensor *beta, double eps);
//<<<

typedef struct batch_norm_attrs {
    double eps;
} batch_norm_attrs;
static const tb_attr batch_norm_attr_table[] = {
    TB_ATTR_REAL(batch_norm_attrs, eps, 1e-5, "added to the variance"),
};

static tb_tensor *optional(const tb_op_call *c, int i) { return c->n_in > i ? c->in[i] : NULL; }
static int64_t plane_of(const tb_tensor *x)
{
    int64_t n = 1;
    for (int i = 2; i < x->rank; i++) n *= x->dims[i];
    return n;
}

/* ---- checks ---- */
static tb_status check_image(const tb_op_call *c, const tb_tensor *x)
{
    if (x->rank >= 2) return TB_OK;
    return TB_FAIL(TB_ERR_SHAPE, "%s: needs an input [N, C, ..], not %s", c->op->name, tb_shape_text(x));
}

static tb_status check_channels(const tb_op_call *c, const tb_tensor *x, const tb_tensor *t, tb_dtype dtype,
                                const char *what)
{
    if (!t) return TB_OK;
    if (t->dtype != dtype)
        return TB_FAIL(TB_ERR_DTYPE, "%s: %s is %s, and must be %s for an input of %s", c->op->name, what,
                       tb_dtype_name((tb_dtype)t->dtype), tb_dtype_name(dtype),
                       tb_dtype_name((tb_dtype)x->dtype));
    if (t->rank != 1 || t->dims[0] != x->dims[1])
        return TB_FAIL(TB_ERR_SHAPE, "%s: %s must be [%lld] for input %s, not %s", c->op->name, what,
                       (long long)x->dims[1], tb_shape_text(x), tb_shape_text(t));
    return TB_OK;
}

static tb_status check_statistics(const tb_op_call *c, const tb_tensor *x, int mean)
{
    tb_dtype dtype = tbi_stat_dtype((tb_dtype)x->dtype);
    TB_TRY(check_channels(c, x, c->in[mean], dtype, "mean"));
    return check_channels(c, x, c->in[mean + 1], dtype, "var");
}

/* ---- what all references read: one channel as a row of N * plane values ---- */
typedef struct channel {
    int64_t n, plane, c, at;
} channel;

static channel channel_of(const tb_tensor *x, int64_t at)
{
    return (channel){x->dims[0], plane_of(x), x->dims[1], at};
}
/* The i-th value's place in row-major order. */
static int64_t place(const channel *k, int64_t i)
{
    return (i / k->plane * k->c + k->at) * k->plane + i % k->plane;
}
static double value(const tb_tensor *x, const channel *k, int64_t i)
{
    return tbi_get(x, tbi_element_at(x, place(k, i)));
}
static double of_channel(const tb_tensor *t, int64_t c, double otherwise)
{
    return t ? tbi_get(t, c * t->strides[0]) : otherwise;
}
static double rstd_of(const tb_op_call *c, double var)
{
    return 1 / sqrt(var + ((const batch_norm_attrs *)c->attrs)->eps);
}

/* `first`: where gamma stands among the inputs, before beta */
static void normalise(const tb_op_call *c, const channel *k, double mean, double var, int first)
{
    double gamma = of_channel(optional(c, first), k->at, 1),
           beta = of_channel(optional(c, first + 1), k->at, 0);
    for (int64_t i = 0; i < k->n * k->plane; i++)
        tbi_put(c->out[0], place(k, i), (value(c->in[0], k, i) - mean) * rstd_of(c, var) * gamma + beta);
}

/* ---- kernels: channels are split over the pool ---- */
enum { INLINE_ELEMENTS = 16384 /* less work than waking a thread */ };

typedef struct job {
    const tb_kernel *kernel;
    const tb_batch_norm_args *args;
} job;

static const void *channels_in(const void *p, int64_t n) { return p ? (const float *)p + n : NULL; }
static void *channels(void *p, int64_t n) { return p ? (float *)p + n : NULL; }

static void run_channels(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const job *j = arg;
    tb_batch_norm_args a = *j->args;
    a.c = end - begin;
    a.x = channels_in(a.x, begin * a.plane), a.g = channels_in(a.g, begin * a.plane);
    a.out = channels(a.out, begin * a.plane);
    a.gamma = channels_in(a.gamma, begin), a.beta = channels_in(a.beta, begin);
    a.mean = channels_in(a.mean, begin), a.var = channels_in(a.var, begin);
    a.mean_out = channels(a.mean_out, begin), a.var_out = channels(a.var_out, begin);
    a.dgamma = channels(a.dgamma, begin), a.dbeta = channels(a.dbeta, begin);
    j->kernel->run(&a);
}

static const void *data_or_null(const tb_tensor *t) { return t ? tb_op_data(t) : NULL; }

/* Fills in the shape of x and runs the op's kernel. */
static tb_status run_kernel(tb_op_call *c, const tb_tensor *x, const tb_batch_norm_args *operands)
{
    tb_batch_norm_args a = *operands;
    a.n = x->dims[0], a.c = x->dims[1], a.plane = plane_of(x), a.image = a.c * a.plane;
    a.tree = c->ctx->batch_blocks;
    a.eps = ((const batch_norm_attrs *)c->attrs)->eps;
    a.x = tb_op_data(x);
    a.out = tb_op_data(c->out[0]);
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i] && !c->in[i]->is_contiguous) return TB_ERR_UNSUPPORTED;
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)x->dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    job j = {k, &a};
    if (x->numel <= INLINE_ELEMENTS)
        run_channels(&j, 0, a.c, 0);
    else
        tb_pool_run(c->ctx->pool, a.c, run_channels, &j);
    return TB_OK;
}

/* ---- batch_norm: x, gamma, beta -> y, mean, var ---- */
static tb_status train_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    TB_TRY(check_image(c, x));
    if (x->dims[0] * plane_of(x) < 2)
        return TB_FAIL(TB_ERR_SHAPE,
                       "batch_norm: needs at least two values a channel to have a variance, not %s",
                       tb_shape_text(x));
    TB_TRY(check_channels(c, x, optional(c, 1), (tb_dtype)x->dtype, "gamma"));
    TB_TRY(check_channels(c, x, optional(c, 2), (tb_dtype)x->dtype, "beta"));
    tb_out_like(c, 0, x);
    for (int o = 1; o <= 2; o++) tb_out_set(c, o, tbi_stat_dtype((tb_dtype)x->dtype), 1, &x->dims[1]);
    return TB_OK;
}

static tb_status train_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    for (int64_t at = 0; at < x->dims[1]; at++) {
        channel k = channel_of(x, at);
        double mean = 0, var = 0, count = (double)(k.n * k.plane);
        for (int64_t i = 0; i < k.n * k.plane; i++) mean += value(x, &k, i) / count;
        for (int64_t i = 0; i < k.n * k.plane; i++)
            var += (value(x, &k, i) - mean) * (value(x, &k, i) - mean) / count;
        normalise(c, &k, mean, var, 1);
        tbi_put(c->out[1], at, mean);
        tbi_put(c->out[2], at, var);
    }
    return TB_OK;
}

static tb_status train_fast(tb_op_call *c)
{
    return run_kernel(c, c->in[0],
                      &(tb_batch_norm_args){.gamma = data_or_null(optional(c, 1)),
                                            .beta = data_or_null(optional(c, 2)),
                                            .mean_out = tb_op_data(c->out[1]),
                                            .var_out = tb_op_data(c->out[2])});
}

/* ---- gradients as ops on whole tensors ---- */
/* [C] -> [1, C, 1, ..], in the input's dtype */
static tb_tensor *along(tb_tensor *t, const tb_out_spec *x)
{
    int64_t dims[TB_MAX_RANK];
    for (int i = 0; i < x->rank; i++) dims[i] = i == 1 ? x->dims[1] : 1;
    return tb_cast(tb_reshape(t, x->rank, dims), x->dtype);
}

static tb_tensor *sum_channels(tb_tensor *t, const tb_out_spec *x) /* -> [1, C, 1, ..] */
{
    int64_t dims[TB_MAX_RANK];
    for (int i = 0; i < x->rank; i++) dims[i] = i == 1 ? x->dims[1] : 1;
    return tb_sum_to(t, x->rank, dims);
}

static tb_tensor *as_channels(tb_tensor *t, const tb_out_spec *to)
{
    return tb_cast(tb_reshape(t, 1, to->dims), to->dtype);
}

static tb_tensor *scaled(tb_tensor *t, const tb_out_spec *x, double by)
{
    return tb_mul(t, tb_scalar(x->dtype, by));
}

static double count_of(const tb_out_spec *x)
{
    double n = 1;
    for (int i = 0; i < x->rank; i++) n *= i == 1 ? 1 : (double)x->dims[i];
    return n;
}

static tb_tensor *rstd_along(const tb_grad_call *c, tb_tensor *var, const tb_out_spec *x)
{
    double eps = ((const batch_norm_attrs *)c->attrs)->eps;
    return tb_rsqrt(tb_add(along(var, x), tb_scalar(x->dtype, eps)));
}

/* The statistics are functions of x too: that is how second derivatives find their way through them. */
static tb_tensor *grad_through_statistics(const tb_grad_call *c)
{
    const tb_out_spec *x = &c->in_spec[0];
    tb_tensor *dx = NULL;
    if (c->grad[1]) dx = tb_expand(scaled(along(c->grad[1], x), x, 1 / count_of(x)), x->rank, x->dims);
    if (c->grad[2]) {
        tb_tensor *part =
            scaled(tb_mul(along(c->grad[2], x), tb_sub(c->in[0], along(c->out[1], x))), x, 2 / count_of(x));
        dx = dx ? tb_add(dx, part) : part;
    }
    return dx;
}

static void train_grad(tb_grad_call *c)
{
    tb_tensor *g = c->grad[0], *gamma = c->n_in > 1 ? c->in[1] : NULL, *grads[TB_MAX_OUT];
    tb_tensor *more = tb_grad_wants(c, 0) && (c->grad[1] || c->grad[2]) ? grad_through_statistics(c) : NULL;
    if (more) tb_grad_set(c, 0, more);
    if (!g) return;
    tb_tensor *in[] = {tb_contiguous(g), c->in[0], c->out[1], c->out[2], gamma};
    tb_dispatch(&tb_op_batch_norm_grad, c->attrs, in, 5, grads);
    for (int i = 0; i < 3; i++)
        if (c->n_in > i && tb_grad_wants(c, i)) tb_grad_set(c, i, grads[i]);
}

/* ---- batch_norm_eval: x, mean, var, gamma, beta -> y ---- */
static tb_status eval_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    TB_TRY(check_image(c, x));
    TB_TRY(check_statistics(c, x, 1));
    TB_TRY(check_channels(c, x, optional(c, 3), (tb_dtype)x->dtype, "gamma"));
    TB_TRY(check_channels(c, x, optional(c, 4), (tb_dtype)x->dtype, "beta"));
    tb_out_like(c, 0, x);
    return TB_OK;
}

static tb_status eval_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    for (int64_t at = 0; at < x->dims[1]; at++) {
        channel k = channel_of(x, at);
        normalise(c, &k, of_channel(c->in[1], at, 0), of_channel(c->in[2], at, 1), 3);
    }
    return TB_OK;
}

static tb_status eval_fast(tb_op_call *c)
{
    return run_kernel(c, c->in[0],
                      &(tb_batch_norm_args){.mean = tb_op_data(c->in[1]),
                                            .var = tb_op_data(c->in[2]),
                                            .gamma = data_or_null(optional(c, 3)),
                                            .beta = data_or_null(optional(c, 4))});
}

static void eval_grad(tb_grad_call *c)
{
    const tb_out_spec *x = &c->in_spec[0];
    tb_tensor *g = c->grad[0], *rstd = rstd_along(c, c->in[2], x),
              *centred = tb_sub(c->in[0], along(c->in[1], x));
    tb_tensor *gamma = c->n_in > 3 ? c->in[3] : NULL,
              *dx = tb_mul(g, gamma ? tb_mul(rstd, along(gamma, x)) : rstd);
    bool wants_gamma = c->n_in > 3 && tb_grad_wants(c, 3), wants_beta = c->n_in > 4 && tb_grad_wants(c, 4);
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, dx);
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, as_channels(tb_neg(sum_channels(dx, x)), &c->in_spec[1]));
    if (tb_grad_wants(c, 2)) { /* d rstd / d var = -rstd^3 / 2 */
        tb_tensor *part = sum_channels(tb_mul(dx, centred), x);
        tb_grad_set(c, 2, as_channels(scaled(tb_mul(part, tb_mul(rstd, rstd)), x, -0.5), &c->in_spec[2]));
    }
    if (wants_gamma)
        tb_grad_set(c, 3, as_channels(sum_channels(tb_mul(g, tb_mul(centred, rstd)), x), &c->in_spec[3]));
    if (wants_beta) tb_grad_set(c, 4, as_channels(sum_channels(g, x), &c->in_spec[4]));
}

/* ---- batch_norm_grad: g, x, mean, var, gamma -> dx, dgamma, dbeta ---- */
static tb_status grad_shape(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1];
    TB_TRY(check_image(c, x));
    if (g->dtype != x->dtype || !tbi_has_dims(g, x->rank, x->dims))
        return TB_FAIL(TB_ERR_SHAPE, "batch_norm_grad: gradient %s %s and input %s %s differ",
                       tb_dtype_name((tb_dtype)g->dtype), tb_shape_text(g), tb_dtype_name((tb_dtype)x->dtype),
                       tb_shape_text(x));
    TB_TRY(check_statistics(c, x, 2));
    TB_TRY(check_channels(c, x, optional(c, 4), (tb_dtype)x->dtype, "gamma"));
    tb_out_like(c, 0, x);
    for (int o = 1; o <= 2; o++) tb_out_set(c, o, (tb_dtype)x->dtype, 1, &x->dims[1]);
    return TB_OK;
}

static tb_status grad_ref(tb_op_call *c)
{
    const tb_tensor *g = c->in[0], *x = c->in[1];
    for (int64_t at = 0; at < x->dims[1]; at++) {
        channel k = channel_of(x, at);
        double mean = of_channel(c->in[2], at, 0), rstd = rstd_of(c, of_channel(c->in[3], at, 1)), sum_gh = 0,
               sum_g = 0;
        int64_t n = k.n * k.plane;
        for (int64_t i = 0; i < n; i++) {
            sum_gh += value(g, &k, i) * (value(x, &k, i) - mean) * rstd;
            sum_g += value(g, &k, i);
        }
        for (int64_t i = 0; i < n; i++) {
            double h = (value(x, &k, i) - mean) * rstd,
                   centred = value(g, &k, i) - sum_g / (double)n - h * sum_gh / (double)n;
            tbi_put(c->out[0], place(&k, i), of_channel(optional(c, 4), at, 1) * rstd * centred);
        }
        tbi_put(c->out[1], at, sum_gh);
        tbi_put(c->out[2], at, sum_g);
    }
    return TB_OK;
}

static tb_status grad_fast(tb_op_call *c)
{
    return run_kernel(c, c->in[1],
                      &(tb_batch_norm_args){.g = tb_op_data(c->in[0]),
                                            .mean = tb_op_data(c->in[2]),
                                            .var = tb_op_data(c->in[3]),
                                            .gamma = data_or_null(optional(c, 4)),
                                            .dgamma = tb_op_data(c->out[1]),
                                            .dbeta = tb_op_data(c->out[2])});
}

/* With w, p, q the gradients of dx, dgamma, dbeta and a = gamma rstd; dx is linear in g, with a symmetric
 * matrix: dg = a (w - avg w - h avg(w h)) + p h + q,   e = p g - a (w avg(g h) + g avg(w h)) is the gradient
 * of h. Through h: dx = e rstd, dmean = -sum(e) rstd, drstd = (sum(e h) + sum(w dx)) / rstd, dvar = -rstd^3 /
 * 2 drstd. */
static void grad_grad(tb_grad_call *c)
{
    const tb_out_spec *x = &c->in_spec[1];
    tb_tensor *gamma = c->n_in > 4 && c->in[4] ? along(c->in[4], x) : NULL,
              *rstd = rstd_along(c, c->in[3], x), *g = c->in[0];
    tb_tensor *h = tb_mul(tb_sub(c->in[1], along(c->in[2], x)), rstd),
              *a = gamma ? tb_mul(gamma, rstd) : rstd;
    tb_tensor *w = c->grad[0], *p = c->grad[1] ? along(c->grad[1], x) : NULL, *e = p ? tb_mul(p, g) : NULL,
              *sum_wdx = NULL;
    if (p && tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_mul(p, h));
    if (c->grad[2] && tb_grad_wants(c, 0))
        tb_grad_set(c, 0, tb_expand(along(c->grad[2], x), x->rank, x->dims));
    if (w) {
        double by = 1 / count_of(x);
        tb_tensor *avg_wh = scaled(sum_channels(tb_mul(w, h), x), x, by),
                  *avg_gh = scaled(sum_channels(tb_mul(g, h), x), x, by);
        tb_tensor *avg_w = scaled(sum_channels(w, x), x, by), *avg_g = scaled(sum_channels(g, x), x, by);
        tb_tensor *back = tb_sub(tb_sub(w, avg_w), tb_mul(h, avg_wh)),
                  *inner = tb_sub(tb_sub(g, avg_g), tb_mul(h, avg_gh));
        tb_tensor *through = tb_neg(tb_mul(a, tb_add(tb_mul(w, avg_gh), tb_mul(g, avg_wh))));
        if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_mul(a, back));
        if (gamma && tb_grad_wants(c, 4))
            tb_grad_set(c, 4, as_channels(tb_mul(rstd, sum_channels(tb_mul(w, inner), x)), &c->in_spec[4]));
        sum_wdx = tb_mul(a, sum_channels(tb_mul(w, inner), x));
        e = e ? tb_add(e, through) : through;
    }
    if (!e) return;
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_mul(e, rstd));
    if (tb_grad_wants(c, 2))
        tb_grad_set(c, 2, as_channels(tb_neg(tb_mul(sum_channels(e, x), rstd)), &c->in_spec[2]));
    if (!tb_grad_wants(c, 3)) return;
    tb_tensor *sum = sum_channels(tb_mul(e, h), x);
    if (sum_wdx) sum = tb_add(sum, sum_wdx);
    tb_grad_set(c, 3, as_channels(scaled(tb_mul(sum, tb_mul(rstd, rstd)), x, -0.5), &c->in_spec[3]));
}

/* ---- costs and samples ---- */
static void cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->op == &tb_op_batch_norm_grad ? c->in[1] : c->in[0];
    double n = (double)x->numel;
    bool sums = c->op != &tb_op_batch_norm_eval;
    *out = (tb_cost){.flops = (sums ? 8 : 3) * n,
                     .k = sums && x->dims[1] > 0 ? x->numel / x->dims[1] : 1,
                     .bytes = (c->op == &tb_op_batch_norm_grad ? 3 : 2) * n *
                              (double)tb_dtype_size((tb_dtype)x->dtype)};
}

/* Small means: tolerances are relative to what is summed, which |x| - |mean| says only where one of them is
 * small. */
#define MEAN .is_stat = true, .lo = -0.01, .hi = 0.01
#define VAR  .is_stat = true, .lo = 0.5, .hi = 2

static const tb_sample_in images[] = {
    {TB_SHAPE(3, 2, 3, 4)},  {TB_SHAPE(5, 4)},        {TB_SHAPE(1, 3, 7)},
    {TB_SHAPE(11, 3, 5, 7)}, {TB_SHAPE(2, 5, 1, 67)}, {TB_SHAPE(3, 0, 4)},
};
enum { IMAGES = sizeof images / sizeof images[0] };

static void train_samples(tb_samples *to)
{
    for (int i = 0; i < IMAGES; i++) {
        tb_sample_in of = {TB_SHAPE(images[i].dims[1])}, gamma = of, beta = of;
        gamma.absent = i == 2, beta.absent = i == 1;
        tb_sample(to, &(batch_norm_attrs){1e-2}, 3, (tb_sample_in[]){images[i], gamma, beta});
    }
}

static void eval_samples(tb_samples *to)
{
    static const tb_sample_in empty = {TB_SHAPE(0, 3, 2, 2)};
    for (int i = 0; i <= IMAGES; i++) {
        tb_sample_in x = i < IMAGES ? images[i] : empty, gamma = {TB_SHAPE(x.dims[1])}, beta = gamma,
                     mean = {TB_SHAPE(x.dims[1]), MEAN}, var = {TB_SHAPE(x.dims[1]), VAR};
        gamma.absent = i == 2, beta.absent = i == 1;
        tb_sample(to, &(batch_norm_attrs){1e-5}, 5, (tb_sample_in[]){x, mean, var, gamma, beta});
    }
}

static void grad_samples(tb_samples *to)
{
    for (int i = 0; i < IMAGES; i++) {
        tb_sample_in gamma = {TB_SHAPE(images[i].dims[1]), .absent = i == 2},
                     mean = {TB_SHAPE(images[i].dims[1]), MEAN}, var = {TB_SHAPE(images[i].dims[1]), VAR};
        tb_sample(to, &(batch_norm_attrs){1e-5}, 5, (tb_sample_in[]){images[i], images[i], mean, var, gamma});
    }
}

#define NORM                                                                                                 \
    .dtypes = TB_FLOATS, .dtypes_reason = "normalised values are floats; cast first", .cost = cost,          \
    .tol = TB_TOL(8), TB_ATTRS(batch_norm_attrs, batch_norm_attr_table)
#define SAVES(n) ((UINT32_C(1) << (n)) - 1)

TB_OP(batch_norm, .doc = "normalisation of each channel over the batch", NORM, .n_in_min = 1, .n_in = 3,
      .n_out = 3, .n_hidden = 2, .shape = train_shape, .ref = train_ref, .fast = train_fast,
      .primitives = {"batch_norm"}, .grad = train_grad, .saves = SAVES(2) | TB_SAVE_OUT(1) | TB_SAVE_OUT(2),
      .samples = train_samples);
TB_OP(batch_norm_eval, .doc = "normalisation of each channel by given statistics", NORM, .n_in_min = 3, .n_in = 5,
      .n_out = 1, .shape = eval_shape, .ref = eval_ref, .fast = eval_fast, .by_rows = 1,
      .primitives = {"batch_norm_eval"}, .grad = eval_grad, .saves = SAVES(4), .samples = eval_samples);
TB_OP(batch_norm_grad, .doc = "gradients of batch_norm's input, gamma and beta", NORM, .n_in_min = 4,
      .n_in = 5, .n_out = 3, .shape = grad_shape, .ref = grad_ref, .fast = grad_fast,
      .primitives = {"batch_norm_grad"}, .grad = grad_grad, .saves = SAVES(5), .samples = grad_samples);

tb_tensor *tb_batch_norm(tb_tensor *x, tb_tensor *gamma, tb_tensor *beta, double eps, tb_tensor **mean,
                         tb_tensor **var)
{
    tb_tensor *out[TB_MAX_OUT], *in[] = {tb_contiguous(x), gamma, beta};
    tb_dispatch(&tb_op_batch_norm, &(batch_norm_attrs){eps}, in, 3, out);
    if (mean) *mean = out[1];
    if (var) *var = out[2];
    return out[0];
}

tb_tensor *tb_batch_norm_eval(tb_tensor *x, tb_tensor *mean, tb_tensor *var, tb_tensor *gamma,
                              tb_tensor *beta, double eps)
{
    return tb_call(&tb_op_batch_norm_eval, &(batch_norm_attrs){eps},
                   TB_IN(tb_contiguous(x), mean, var, gamma, beta));
}
