/* max_pool2d and avg_pool2d over NCHW images. Max keeps, as a hidden output, where in its plane each maximum
 * lies (the first of equals; the first NaN wins over all), so that backward only puts gradients back; padding
 * never wins. Average counts padding as zeros unless told otherwise. Each backward op is linear, and its
 * gradient is the pooling that it undoes. */
#include "pool2d.h"
#include "rows.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
typedef struct tb_pool2d_opts {
    int64_t kernel[2], stride[2]; /* height, width; stride 0 means the kernel */
    int64_t pad[2];               /* on both sides, at most half the kernel */
    bool exclude_pad;             /* average: divide by the elements inside the image */
} tb_pool2d_opts;
/* x: [N, C, H, W] floats -> [N, C, H', W'], H' = (H + 2 pad - kernel) / stride + 1, rounded down. */
tb_tensor *tb_max_pool2d(tb_tensor *x, const tb_pool2d_opts *opts);
tb_tensor *tb_avg_pool2d(tb_tensor *x, const tb_pool2d_opts *opts);
//<<<
#endif

#define PAD_ATTR  TB_ATTR_BOOL(tbi_pool2d_attrs, exclude_pad, 0, "divide by the elements inside the image")
#define SIZE_ATTR TB_ATTR_LIST(tbi_pool2d_attrs, size, "height and width of the input")
static const tb_attr max_attr_table[] = {POOL_WINDOW_ATTRS};
static const tb_attr avg_attr_table[] = {POOL_WINDOW_ATTRS, PAD_ATTR};
static const tb_attr max_grad_attr_table[] = {POOL_WINDOW_ATTRS, SIZE_ATTR};
static const tb_attr avg_grad_attr_table[] = {POOL_WINDOW_ATTRS, PAD_ATTR, SIZE_ATTR};

/* ---- tbi_pool_geometry ---- */
tb_status tbi_pool_geometry_of(const char *op, const tbi_pool2d_attrs *a, int rank, const int64_t *x,
                               tbi_pool_geometry *to)
{
    if (rank != 4)
        return TB_FAIL(TB_ERR_SHAPE, "%s: needs an input [N, C, H, W], not %s", op, tb_dims_text(rank, x));
    if (a->kernel.n != 2 || a->stride.n != 2 || a->pad.n != 2)
        return TB_FAIL(TB_ERR_INVALID, "%s: kernel, stride and pad have two entries: height, width", op);
    *to = (tbi_pool_geometry){.planes = x[0] * x[1], .in = {x[2], x[3]}, .a = a};
    for (int i = 0; i < 2; i++) {
        int64_t k = a->kernel.at[i], s = a->stride.at[i], p = a->pad.at[i];
        if (k < 1 || k > INT32_MAX || s < 1 || s > INT32_MAX || p < 0 || p > k / 2)
            return TB_FAIL(TB_ERR_INVALID,
                           "%s: kernel and stride must be at least 1 (and below 2^31), pad between 0 and half the "
                           "kernel: kernel %s, stride %s, pad %s",
                           op, tb_dims_text(2, a->kernel.at), tb_dims_text(2, a->stride.at),
                           tb_dims_text(2, a->pad.at));
        int64_t room = x[2 + i] < 1 ? -1 : x[2 + i] + (2 * p - k); /* both terms are in range, and so is the sum */
        if (room < 0)
            return TB_FAIL(TB_ERR_SHAPE, "%s: a window of %s does not fit into input %s with pad %s", op,
                           tb_dims_text(2, a->kernel.at), tb_dims_text(4, x), tb_dims_text(2, a->pad.at));
        to->out[i] = room / s + 1;
    }
    if (x[2] > INT32_MAX / x[3])
        return TB_FAIL(TB_ERR_SHAPE, "%s: planes of %s are too large", op, tb_dims_text(4, x));
    return TB_OK;
}

/* Range of input places under the window of output place `o`, cut at the image's border. */
static void window(const tbi_pool_geometry *g, int axis, int64_t o, int64_t *begin, int64_t *end)
{
    int64_t first = o * g->a->stride.at[axis] - g->a->pad.at[axis], last = first + g->a->kernel.at[axis];
    *begin = first < 0 ? 0 : first;
    *end = last > g->in[axis] ? g->in[axis] : last;
}

tbi_pool_window tbi_pool_window_at(const tbi_pool_geometry *g, int64_t place)
{
    tbi_pool_window r;
    window(g, 0, place / g->out[1], &r.top, &r.bottom);
    window(g, 1, place % g->out[1], &r.left, &r.right);
    return r;
}

static double divisor(const tbi_pool_geometry *g, const tbi_pool_window *r)
{
    if (!g->a->exclude_pad) return (double)(g->a->kernel.at[0] * g->a->kernel.at[1]);
    return (double)((r->bottom - r->top) * (r->right - r->left));
}

static int64_t plane_at(const tb_tensor *t, int64_t plane)
{
    return plane / t->dims[1] * t->strides[0] + plane % t->dims[1] * t->strides[1];
}

/* ---- kernels, on one thread each over whole planes ---- */
typedef struct plane_job {
    const tb_kernel *kernel;
    const tb_pool2d_args *args;
    int64_t in_area, out_area; /* of a plane */
    size_t size;
} plane_job;

static void run_planes(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const plane_job *j = arg;
    tb_pool2d_args a = *j->args;
    int64_t places = a.oh * a.ow; /* indices lie like the pooled planes */
    a.planes = end - begin;
    a.in = (const char *)a.in + (size_t)(begin * j->in_area) * j->size;
    a.out = (char *)a.out + (size_t)(begin * j->out_area) * j->size;
    if (a.index) a.index = (int32_t *)a.index + begin * places;
    j->kernel->run(&a);
}

static tb_status run_kernel(tb_op_call *c, const tbi_pool_geometry *g, void *index)
{
    tb_pool2d_args a = {.planes = g->planes, .h = g->in[0], .w = g->in[1], .oh = g->out[0], .ow = g->out[1],
                        .kh = g->a->kernel.at[0], .kw = g->a->kernel.at[1], .count_pad = !g->a->exclude_pad,
                        .in = tb_op_data(c->in[0]), .out = tb_op_data(c->out[0]), .index = index};
    for (int i = 0; i < 2; i++) a.stride[i] = g->a->stride.at[i], a.pad[i] = g->a->pad.at[i];
    if (!c->in[0]->is_contiguous) return TB_ERR_UNSUPPORTED;
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)c->in[0]->dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    plane_job j = {k, &a, c->in[0]->dims[2] * c->in[0]->dims[3], c->spec[0].dims[2] * c->spec[0].dims[3],
                   tb_dtype_size(k->dtype)};
    if (c->in[0]->numel <= 16384) run_planes(&j, 0, a.planes, 0); /* less work than waking a thread */
    else tb_pool_run(c->ctx->pool, a.planes, run_planes, &j);
    return TB_OK;
}

/* The backward ops' tbi_pool_geometry; their first input is the gradient [N, C, H', W']. */
static tb_status grad_geometry(const tb_op_call *c, int64_t *dims, tbi_pool_geometry *g)
{
    const tbi_pool2d_attrs *a = c->attrs;
    const tb_tensor *dy = c->in[0];
    if (dy->rank != 4 || a->size.n != 2)
        return TB_FAIL(TB_ERR_SHAPE,
                       "%s: needs a gradient [N, C, H', W'] and the input's height and width, not %s",
                       c->op->name, tb_shape_text(dy));
    memcpy(dims, (int64_t[]){dy->dims[0], dy->dims[1], a->size.at[0], a->size.at[1]}, 4 * sizeof *dims);
    TB_TRY(tbi_pool_geometry_of(c->op->name, a, 4, dims, g));
    if (dy->dims[2] == g->out[0] && dy->dims[3] == g->out[1]) return TB_OK;
    return TB_FAIL(TB_ERR_SHAPE, "%s: gradient %s does not belong to planes of %s", c->op->name,
                   tb_shape_text(dy), tb_dims_text(2, g->out));
}

static tb_status grad_shape(tb_op_call *c)
{
    int64_t dims[4];
    tbi_pool_geometry g;
    TB_TRY(grad_geometry(c, dims, &g));
    if (c->n_in > 1 && (c->in[1]->dtype != TB_I32 || !tbi_has_dims(c->in[1], 4, c->in[0]->dims)))
        return TB_FAIL(TB_ERR_SHAPE, "%s: indices must be i32 %s, not %s %s", c->op->name,
                       tb_shape_text(c->in[0]), tb_dtype_name((tb_dtype)c->in[1]->dtype),
                       tb_shape_text(c->in[1]));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, 4, dims);
    return TB_OK;
}

static tb_tensor *call_backward(const tb_op *op, const tb_grad_call *c, tb_tensor *index)
{
    tbi_pool2d_attrs a = *(const tbi_pool2d_attrs *)c->attrs;
    a.size = (tb_ints){2, {c->in_spec[0].dims[2], c->in_spec[0].dims[3]}};
    return tb_call(op, &a, index ? 2 : 1, (tb_tensor *[]){tb_contiguous(c->grad[0]), index});
}

/* ---- max_pool2d: x -> y, index ---- */
static tb_status pool_shape(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tbi_pool_geometry g;
    TB_TRY(tbi_pool_geometry_of(c->op->name, c->attrs, x->rank, x->dims, &g));
    int64_t dims[4] = {x->dims[0], x->dims[1], g.out[0], g.out[1]};
    tb_out_set(c, 0, (tb_dtype)x->dtype, 4, dims);
    if (c->op->n_out > 1) tb_out_set(c, 1, TB_I32, 4, dims);
    return TB_OK;
}

static tb_status max_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tbi_pool_geometry g;
    TB_TRY(tbi_pool_geometry_of("max_pool2d", c->attrs, x->rank, x->dims, &g));
    int32_t *index = c->out[1] ? tb_op_data(c->out[1]) : NULL;
    for (int64_t i = 0, places = g.out[0] * g.out[1]; i < g.planes * places; i++) {
        tbi_pool_window r = tbi_pool_window_at(&g, i % places);
        int64_t plane = plane_at(x, i / places), best_at = r.top * g.in[1] + r.left;
        double best = -INFINITY;
        for (int64_t y = r.top; y < r.bottom; y++)
            for (int64_t z = r.left; z < r.right; z++) {
                double v = tbi_get(x, plane + y * x->strides[2] + z * x->strides[3]);
                if (v > best || (isnan(v) && !isnan(best))) best = v, best_at = y * g.in[1] + z;
            }
        tbi_put(c->out[0], i, best);
        if (index) index[i] = (int32_t)best_at;
    }
    return TB_OK;
}

static tb_status pool_fast(tb_op_call *c)
{
    tbi_pool_geometry g;
    TB_TRY(tbi_pool_geometry_of(c->op->name, c->attrs, 4, c->in[0]->dims, &g));
    return run_kernel(c, &g, c->op->n_out > 1 && c->out[1] ? tb_op_data(c->out[1]) : NULL);
}

static void max_grad(tb_grad_call *c)
{
    tb_grad_set(c, 0, call_backward(&tb_op_max_pool2d_grad, c, c->out[1]));
}

/* ---- max_pool2d_grad: g, index -> dx ---- */
static tb_status max_grad_ref(tb_op_call *c)
{
    const tb_tensor *dy = c->in[0], *index = c->in[1], *dx = c->out[0];
    int64_t dims[4], area, places;
    tbi_pool_geometry g;
    TB_TRY(grad_geometry(c, dims, &g));
    area = g.in[0] * g.in[1];
    places = g.out[0] * g.out[1];
    double *sum = tb_op_scratch(c, (size_t)area * sizeof *sum);
    if (!sum) return TB_ERR_OOM;
    for (int64_t plane = 0; plane < g.planes; plane++) {
        memset(sum, 0, (size_t)area * sizeof *sum);
        for (int64_t i = plane * places; i < (plane + 1) * places; i++) {
            int64_t at = (int64_t)tbi_get(index, tbi_element_at(index, i));
            if (at < 0 || at >= area)
                return TB_FAIL(TB_ERR_INVALID,
                               "max_pool2d_grad: index %lld is not in a plane of %lld elements",
                               (long long)at, (long long)area);
            sum[at] += tbi_get(dy, tbi_element_at(dy, i));
        }
        for (int64_t i = 0; i < area; i++) tbi_put(dx, plane * area + i, sum[i]);
    }
    return TB_OK;
}

static tb_status grad_fast(tb_op_call *c)
{
    int64_t dims[4];
    tbi_pool_geometry g;
    TB_TRY(grad_geometry(c, dims, &g));
    const tb_tensor *index = c->n_in > 1 ? c->in[1] : NULL;
    int64_t area = g.in[0] * g.in[1];
    if (!index) return run_kernel(c, &g, NULL);
    if (!index->is_contiguous) return TB_ERR_UNSUPPORTED;
    const int32_t *at = tb_op_data(index);
    bool fits = true; /* without a way out, so that the loop runs in vectors */
    for (int64_t i = 0; i < index->numel; i++) fits &= at[i] >= 0 && at[i] < area;
    if (!fits) return TB_ERR_UNSUPPORTED; /* the reference says which */
    return run_kernel(c, &g, tb_op_data(index));
}

/* Picks the incoming gradient at the indices: rows of one element, counted through all planes. */
static void max_grad_grad(tb_grad_call *c)
{
    tb_tensor *h = c->grad[0];
    const tb_out_spec *g = &c->in_spec[0], *x = &c->out_spec[0];
    if (!tb_grad_wants(c, 0)) return;
    int64_t planes = g->dims[0] * g->dims[1], area = x->dims[2] * x->dims[3];
    tb_tensor *first = tb_mul_number(tb_arange(TB_I64, 0, (double)planes, 1), (double)area);
    tb_tensor *at =
        tb_add(tb_cast(c->in[1], TB_I64), tb_reshape(first, 4, (int64_t[]){g->dims[0], g->dims[1], 1, 1}));
    tb_tensor *picked = tb_embedding(tb_reshape(h, 2, (int64_t[]){planes * area, 1}), at);
    tb_grad_set(c, 0, tb_reshape(picked, 4, g->dims));
}

/* ---- avg_pool2d: x -> y ---- */
static tb_status avg_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tbi_pool_geometry g;
    TB_TRY(tbi_pool_geometry_of("avg_pool2d", c->attrs, x->rank, x->dims, &g));
    for (int64_t i = 0, places = g.out[0] * g.out[1]; i < g.planes * places; i++) {
        tbi_pool_window r = tbi_pool_window_at(&g, i % places);
        double sum = 0;
        for (int64_t y = r.top; y < r.bottom; y++)
            for (int64_t z = r.left; z < r.right; z++)
                sum += tbi_get(x, plane_at(x, i / places) + y * x->strides[2] + z * x->strides[3]);
        tbi_put(c->out[0], i, sum / divisor(&g, &r));
    }
    return TB_OK;
}

static void avg_grad(tb_grad_call *c) { tb_grad_set(c, 0, call_backward(&tb_op_avg_pool2d_grad, c, NULL)); }

/* ---- avg_pool2d_grad: g -> dx ---- */
static tb_status avg_grad_ref(tb_op_call *c)
{
    const tb_tensor *dy = c->in[0];
    int64_t dims[4], area, places;
    tbi_pool_geometry g;
    TB_TRY(grad_geometry(c, dims, &g));
    area = g.in[0] * g.in[1];
    places = g.out[0] * g.out[1];
    double *sum = tb_op_scratch(c, (size_t)area * sizeof *sum);
    if (!sum) return TB_ERR_OOM;
    for (int64_t plane = 0; plane < g.planes; plane++) {
        memset(sum, 0, (size_t)area * sizeof *sum);
        for (int64_t i = 0; i < places; i++) {
            tbi_pool_window r = tbi_pool_window_at(&g, i);
            double part = tbi_get(dy, tbi_element_at(dy, plane * places + i)) / divisor(&g, &r);
            for (int64_t y = r.top; y < r.bottom; y++)
                for (int64_t z = r.left; z < r.right; z++) sum[y * g.in[1] + z] += part;
        }
        for (int64_t i = 0; i < area; i++) tbi_put(c->out[0], plane * area + i, sum[i]);
    }
    return TB_OK;
}

static void avg_grad_grad(tb_grad_call *c)
{
    tbi_pool2d_attrs a = *(const tbi_pool2d_attrs *)c->attrs;
    a.size = (tb_ints){0};
    tb_grad_set(c, 0, tb_call(&tb_op_avg_pool2d, &a, TB_IN(c->grad[0])));
}

static void pool_cost(const tb_op_call *c, tb_cost *out)
{
    const tbi_pool2d_attrs *a = c->attrs;
    const tb_out_spec *y = &c->spec[0];
    double to = (double)(y->dims[0] * y->dims[1] * y->dims[2] * y->dims[3]), from = (double)c->in[0]->numel;
    int64_t k = a->kernel.at[0] * a->kernel.at[1];
    *out = (tb_cost){.flops = (to < from ? to : from) * (double)k, .k = k,
                     .bytes = (from + to) * (double)tb_dtype_size((tb_dtype)c->in[0]->dtype)};
}

/* ---- samples ---- */
#define PAIR(a, b) {2, {a, b}}
#define ATTRS(k, k2, s, s2, p, p2, e) {PAIR(k, k2), PAIR(s, s2), PAIR(p, p2), e, {0}}
static const struct {
    tbi_pool2d_attrs attrs;
    int64_t x[4], out[2];
} cases[] = {
    {ATTRS(2, 2, 2, 2, 0, 0, false), {2, 3, 4, 6}, {2, 3}},
    {ATTRS(3, 2, 1, 2, 1, 0, true), {1, 2, 5, 5}, {5, 2}},
    {ATTRS(3, 3, 2, 1, 1, 1, false), {1, 1, 4, 3}, {2, 3}},
    {ATTRS(1, 1, 1, 1, 0, 0, false), {1, 1, 1, 1}, {1, 1}},
    {ATTRS(2, 2, 3, 3, 0, 0, true), {0, 2, 5, 5}, {2, 2}},
    {ATTRS(2, 2, 2, 2, 0, 0, false), {3, 5, 29, 31}, {14, 15}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static void pool_samples(tb_samples *to, bool is_max)
{
    for (int i = 0; i < CASES; i++) {
        tbi_pool2d_attrs a = cases[i].attrs;
        const int64_t *d = cases[i].x;
        if (is_max) a.exclude_pad = false;
        tb_sample(to, &a, 1,
                  &(tb_sample_in){TB_SHAPE(d[0], d[1], d[2], d[3]), .fill = is_max ? TB_FILL_DISTINCT : 0});
    }
}

static void grad_samples(tb_samples *to, bool is_max)
{
    for (int i = 0; i < CASES; i++) {
        tbi_pool2d_attrs a = cases[i].attrs;
        const int64_t *d = cases[i].x;
        if (is_max) a.exclude_pad = false;
        a.size = (tb_ints){2, {d[2], d[3]}};
        tb_sample_in g = {TB_SHAPE(d[0], d[1], cases[i].out[0], cases[i].out[1])}, index = g;
        index.has_dtype = index.no_grad = true;
        index.dtype = TB_I32;
        index.lo = -0.5; /* any place of the plane */
        index.hi = (double)(d[2] * d[3] - 1);
        tb_sample(to, &a, is_max ? 2 : 1, (tb_sample_in[]){g, index});
    }
}

static void max_samples(tb_samples *to) { pool_samples(to, true); }
static void avg_samples(tb_samples *to) { pool_samples(to, false); }
static void max_grad_samples(tb_samples *to) { grad_samples(to, true); }
static void avg_grad_samples(tb_samples *to) { grad_samples(to, false); }

#define POOL(table, n)                                                                                                 \
    .n_in_min = n, .n_in = n, .dtypes = TB_FLOATS, .dtypes_reason = "images of features are floats",                   \
    TB_ATTRS(tbi_pool2d_attrs, table), .cost = pool_cost

TB_OP(max_pool2d, .doc = "maximum over windows", POOL(max_attr_table, 1), .n_out = 2, .n_hidden = 1, .hides = true,
      .shape = pool_shape, .ref = max_ref, .fast = pool_fast, .primitives = {"max_pool2d"}, .grad = max_grad,
      .saves = TB_SAVE_OUT(1), .by_rows = 1, .samples = max_samples, .tol = TB_TOL_EXACT);
TB_OP(max_pool2d_grad, .doc = "gradient of max_pool2d", POOL(max_grad_attr_table, 2), .n_out = 1,
      .shape = grad_shape, .ref = max_grad_ref, .fast = grad_fast, .primitives = {"max_pool2d_grad"},
      .grad = max_grad_grad, .saves = TB_SAVE_IN(1), .samples = max_grad_samples, .tol = TB_TOL(2));
TB_OP(avg_pool2d, .doc = "mean over windows", POOL(avg_attr_table, 1), .n_out = 1, .shape = pool_shape, .ref = avg_ref,
      .fast = pool_fast, .primitives = {"avg_pool2d"}, .grad = avg_grad, .by_rows = 1, .samples = avg_samples,
      .tol = TB_TOL(2));
TB_OP(avg_pool2d_grad, .doc = "gradient of avg_pool2d", POOL(avg_grad_attr_table, 1), .n_out = 1,
      .shape = grad_shape, .ref = avg_grad_ref, .fast = grad_fast, .primitives = {"avg_pool2d_grad"},
      .grad = avg_grad_grad, .samples = avg_grad_samples, .tol = TB_TOL(2));

tb_tensor *tbi_pool2d_call(const tb_op *op, tb_tensor *x, const tb_pool2d_opts *o)
{
    tbi_pool2d_attrs a = {.kernel.n = 2, .stride.n = 2, .pad.n = 2, .exclude_pad = o->exclude_pad};
    for (int i = 0; i < 2; i++) {
        a.kernel.at[i] = o->kernel[i];
        a.stride.at[i] = o->stride[i] ? o->stride[i] : o->kernel[i];
        a.pad.at[i] = o->pad[i];
    }
    return tb_call(op, &a, TB_IN(tb_contiguous(x)));
}

tb_tensor *tb_max_pool2d(tb_tensor *x, const tb_pool2d_opts *opts)
{
    return tbi_pool2d_call(&tb_op_max_pool2d, x, opts);
}
tb_tensor *tb_avg_pool2d(tb_tensor *x, const tb_pool2d_opts *opts)
{
    return tbi_pool2d_call(&tb_op_avg_pool2d, x, opts);
}
