/* Runs one sample of an op under a variant: element type, memory layout of the inputs, aliasing. Values depend on op,
 * input and element alone, so every variant of a sample computes the same thing. */
#pragma once
#include "tb_alloc.h"
#include "tb_op.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include <math.h>

/* STRAY: contiguous, with strides that mean nothing where a dimension is 1 (a slice of one row, transposed). */
typedef enum layout { CONTIGUOUS, STRAY, PERMUTED, SLICED, LAYOUTS } layout;
static const char *const layout_names[LAYOUTS] = {"contiguous", "stray strides", "permuted", "sliced"};

typedef struct variant {
    tb_dtype dtype;    /* of the inputs under test: their values fit it */
    bool in_f64;       /* float inputs under test hold these values as f64 */
    layout layout;
    bool is_aliased;   /* inputs of one shape and dtype are one tensor */
    bool is_magnitude; /* absolute values of float inputs: sums become sums of magnitudes */
} variant;

typedef struct result {
    int n;
    tb_dtype dtype[TB_MAX_OUT];
    int rank[TB_MAX_OUT];
    int64_t dims[TB_MAX_OUT][TB_MAX_RANK], numel[TB_MAX_OUT];
    char *data[TB_MAX_OUT]; /* row-major */
    const char *kernel;     /* that ran */
} result;

static void result_free(result *r)
{
    for (int o = 0; o < r->n; o++) tb_free(r->data[o]);
    *r = (result){0};
}

static double result_at(const result *r, int o, int64_t element)
{
    return tb_load_f64(r->dtype[o], r->data[o] + element * (int64_t)tb_dtype_size(r->dtype[o]));
}

static int64_t sample_numel(const tb_sample_in *in)
{
    int64_t n = 1;
    for (int i = 0; i < in->rank; i++) n *= in->dims[i];
    return n;
}

/* Large samples are there for threads; layouts and dtypes are covered by the others. */
static bool is_large(const tb_sample_case *s)
{
    int64_t most = 0;
    for (int i = 0; i < s->n_in; i++)
        if (!s->in[i].absent && sample_numel(&s->in[i]) > most) most = sample_numel(&s->in[i]);
    return most > 4096;
}

static bool is_under_test(const tb_sample_in *in) { return !in->absent && !in->has_dtype; }

/* ---- values ---- */
/* Position of element e in a shuffled 0..n-1: a step coprime to n near the golden section. */
static int64_t shuffled(int64_t e, int64_t n)
{
    int64_t step = (int64_t)(0.618 * (double)n) | 1;
    for (int64_t a = step, b = n;;) {
        while (b) {
            int64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) return (int64_t)((__int128)e * step % n);
        a = step += 2;
        b = n;
    }
}

static double sample_value(const tb_op *op, const tb_sample_case *s, int i, int64_t e, tb_dtype dtype)
{
    const tb_sample_in *in = &s->in[i];
    uint64_t stream = tb_stream_index(tb_stream_name(1, op->name), (uint64_t)i);
    double u = tb_random_uniform(1, stream, (uint64_t)e), lo = in->lo, hi = in->hi;
    if (dtype == TB_BOOL) return u < 0.5;
    bool is_integer = !tb_dtype_is_float(dtype), is_default = lo == 0 && hi == 0;
    if (is_default) lo = is_integer ? -4 : -2, hi = is_integer ? 4 : 2;
    if (dtype == TB_U8 && lo < 0) lo = 0, hi = is_default ? 8 : hi;
    if (in->fill == TB_FILL_DISTINCT) {
        int64_t n = sample_numel(in), at = shuffled(e, n);
        return is_integer ? (double)(dtype == TB_U8 ? at : at - n / 2)
                          : lo + (hi - lo) * ((double)at + 0.5) / (double)n;
    }
    if (is_integer || in->fill == TB_FILL_INTEGER) {
        lo = ceil(lo);
        return lo + floor(u * fmax(1, floor(hi) - lo + 1));
    }
    return lo + (hi - lo) * u;
}

/* ---- tensors ---- */
/* Where element `e` (row-major in dims) lies in the layout's own memory, and that memory's shape. */
static int64_t place(const tb_sample_in *in, layout how, int64_t e, int64_t *dims)
{
    int64_t at = 0, index[TB_MAX_RANK], last = in->rank ? in->dims[in->rank - 1] : 1;
    for (int i = 0; i < in->rank; i++) dims[i] = how == PERMUTED ? in->dims[in->rank - 1 - i] : in->dims[i];
    if (how == SLICED) dims[in->rank ? in->rank - 1 : 0] = 2 * last + 1;
    for (int i = in->rank - 1; i >= 0; i--) {
        index[i] = in->dims[i] ? e % in->dims[i] : 0;
        e /= in->dims[i] ? in->dims[i] : 1;
    }
    if (how == SLICED && in->rank == 0) return 1;
    if (how == SLICED) index[in->rank - 1] = 2 * index[in->rank - 1] + 1;
    for (int i = 0; i < in->rank; i++) at = at * dims[i] + index[how == PERMUTED ? in->rank - 1 - i : i];
    return at;
}

static tb_tensor *laid_out(tb_tensor *t, const tb_sample_in *in, layout how)
{
    static const int64_t reversed[TB_MAX_RANK + 1][TB_MAX_RANK] = {
        {0}, {0}, {1, 0}, {2, 1, 0}, {3, 2, 1, 0}, {4, 3, 2, 1, 0}, {5, 4, 3, 2, 1, 0}};
    if (how == STRAY) {
        int64_t strides[TB_MAX_RANK];
        for (int i = 0; i < in->rank; i++) strides[i] = in->dims[i] == 1 ? 1000003 : t->strides[i];
        t = tbi_tensor_view(t, (tb_dtype)t->dtype, in->rank, in->dims, strides, 0);
        return t ? t : tb_poison();
    }
    if (how == PERMUTED) return tb_permute(t, in->rank, reversed[in->rank]);
    if (how == CONTIGUOUS) return t;
    t = tb_slice(t, -1, 1, INT64_MAX, 2);
    return in->rank ? t : tb_reshape(t, 0, NULL);
}

static tb_dtype input_dtype(const tb_sample_in *in, const variant *v)
{
    if (in->has_dtype) return in->dtype;
    if (in->is_stat) return v->in_f64 || v->dtype == TB_F64 ? TB_F64 : TB_F32;
    return v->in_f64 && tb_dtype_is_float(v->dtype) ? TB_F64 : v->dtype;
}

static tb_dtype values_dtype(const tb_sample_in *in, const variant *v)
{
    variant own = *v;
    own.in_f64 = false;
    return input_dtype(in, &own);
}

/* Memory between the elements of a sliced input holds 0xff: NaN, -1, 255. */
static tb_tensor *make_input(const tb_op *op, const tb_sample_case *s, int i, const variant *v)
{
    const tb_sample_in *in = &s->in[i];
    tb_dtype as = input_dtype(in, v), from = values_dtype(in, v);
    int64_t n = sample_numel(in), dims[TB_MAX_RANK], size = (int64_t)tb_dtype_size(as), bytes = size;
    int rank = v->layout == SLICED && in->rank == 0 ? 1 : in->rank;
    place(in, v->layout, 0, dims);
    for (int k = 0; k < rank; k++) bytes *= dims[k];
    char *host = tb_calloc(1, (size_t)bytes + 1);
    if (!host) return tb_poison();
    memset(host, as == TB_BOOL ? 1 : 0xff, (size_t)bytes);
    for (int64_t e = 0; e < n; e++) {
        double x = sample_value(op, s, i, e, from), rounded;
        if (v->is_magnitude && tb_dtype_is_float(from)) x = fabs(x);
        uint64_t cell = 0;
        tb_store_f64(from, &cell, x);
        rounded = tb_load_f64(from, &cell);
        tb_store_f64(as, host + place(in, v->layout, e, dims) * size, rounded);
    }
    tb_tensor *t = tb_tensor_from(as, rank, dims, host);
    tb_free(host);
    return tb_is_poison(t) ? t : laid_out(t, in, v->layout);
}

/* An index, a mask or a saved statistic is not data, whatever the dtype under test. */
static bool is_same_kind(const tb_sample_in *a, const tb_sample_in *b, const variant *v)
{
    bool same = !a->absent && !b->absent && a->has_dtype == b->has_dtype && !a->is_stat && !b->is_stat &&
                a->rank == b->rank && input_dtype(a, v) == input_dtype(b, v);
    for (int i = 0; same && i < a->rank; i++) same = a->dims[i] == b->dims[i];
    return same;
}

/* What the shape rule says of these inputs. */
static tb_status shape_of(const tb_op *op, const tb_sample_case *s, tb_tensor *const *in, tb_op_call *c)
{
    *c = (tb_op_call){.op = op, .ctx = tb_ctx_current(), .attrs = s->attrs, .n_in = s->n_in, .in = in};
    return op->shape(c);
}

/* An input that is written in place stays contiguous and nobody else's. */
static tb_status make_inputs(const tb_op *op, const tb_sample_case *s, const variant *v, tb_tensor **in)
{
    variant plain = *v;
    plain.layout = CONTIGUOUS;
    tb_op_call c;
    for (int i = 0; i < s->n_in; i++) in[i] = s->in[i].absent ? NULL : make_input(op, s, i, &plain);
    TB_TRY(tb_ctx_take_error(tb_ctx_current()));
    TB_TRY(shape_of(op, s, in, &c));
    unsigned donated = 0;
    for (int o = 0; o < op->n_out; o++) donated |= c.spec[o].is_donated ? 1u << c.spec[o].view_of : 0;
    for (int i = s->n_in - 1; i >= 0; i--) {
        if (!in[i] || donated >> i & 1) continue;
        if (v->layout != CONTIGUOUS) in[i] = make_input(op, s, i, v);
        for (int j = s->n_in - 1; v->is_aliased && j > i; j--)
            if (!(donated >> j & 1) && is_same_kind(&s->in[i], &s->in[j], v)) in[i] = in[j];
    }
    return tb_ctx_take_error(tb_ctx_current());
}

static bool can_alias(const tb_sample_case *s, const variant *v)
{
    bool any = false;
    for (int i = 0; i < s->n_in; i++)
        for (int j = i + 1; j < s->n_in; j++) any |= is_same_kind(&s->in[i], &s->in[j], v);
    return any;
}

static tb_status read_results(const tb_op *op, tb_tensor **out, result *r)
{
    for (int o = 0; o < op->n_out; o++) {
        const tb_tensor *t = out[o];
        r->dtype[o] = tb_tensor_dtype(t);
        r->rank[o] = tb_tensor_rank(t);
        r->numel[o] = tb_tensor_numel(t);
        memcpy(r->dims[o], tb_tensor_dims(t), sizeof r->dims[o]);
        r->data[o] = tb_calloc(1, tb_tensor_bytes(t) + 1);
        r->n = o + 1;
        if (!r->data[o]) return TB_ERR_OOM;
        TB_TRY(tb_tensor_read(out[o], r->data[o], tb_tensor_bytes(t)));
    }
    return TB_OK;
}

typedef struct watch {
    tb_interceptor interceptor;
    const tb_op *op;
    const char *kernel;
} watch;

static tb_status note_kernel(tb_interceptor *self, tb_op_call *c)
{
    watch *w = (watch *)self;
    TB_TRY(tb_dispatch_next(self, c));
    if (c->op == w->op) w->kernel = c->kernel;
    return TB_OK;
}

/* Fails with the op's sentence; nothing stays alive in the context. */
static tb_status run_sample(tb_ctx *ctx, const tb_op *op, const tb_sample_case *s, const variant *v, result *r)
{
    tb_ctx *before = tb_ctx_enter(ctx);
    int64_t live = tb_ctx_live_tensors(ctx);
    tb_scope *scope = tb_scope_open();
    tb_tensor *in[8], *out[TB_MAX_OUT];
    *r = (result){0};
    tb_status st = make_inputs(op, s, v, in);
    if (st == TB_OK) {
        watch w = {.interceptor = {.name = "watch", .order = TB_ORDER_FAULT, .around = note_kernel}, .op = op};
        tb_interceptor_add(ctx, &w.interceptor);
        tb_dispatch(op, s->attrs, in, s->n_in, out);
        tb_interceptor_remove(ctx, &w.interceptor);
        r->kernel = w.kernel;
        st = tb_ctx_take_error(ctx);
    }
    if (st == TB_OK) st = read_results(op, out, r);
    tb_scope_close(scope);
    if (st == TB_OK && tb_ctx_live_tensors(ctx) != live) st = TB_FAIL(TB_ERR_INTERNAL, "tensors outlive their scope");
    if (st != TB_OK) result_free(r);
    tb_ctx_enter(before);
    return st;
}
