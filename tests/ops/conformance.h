/* What must be true of every op, checked on its own samples. A check returns the first violation as a failed status
 * whose sentence names op, sample and variant, and counts the cases it ran: a planted bug can be shown to be caught. */
#pragma once
#include "ops/sample_run.h"
#include "tb_autograd.h"
#include <stdio.h>

typedef struct board {
    tb_ctx *truth;                 /* cpu, reference implementations only */
    tb_ctx *on[TB_ISAS + 3];       /* where the samples run: cpu by ISA, guard */
    char label[TB_ISAS + 3][32];
    int n;
    tb_ctx *threads, *meta, *best; /* cpu with two threads; shapes only; cpu with one thread */
    int64_t cases;
    int every, seen;               /* of an op's samples and dtypes, each `every`-th is looked at; 0: all */
} board;

static tb_status board_add(board *b, const char *device, tb_isa isa, bool ref_only)
{
    tb_ctx **ctx = &b->on[b->n];
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.seed = 1, .device = device}, ctx));
    tb_ctx_limit_kernels(*ctx, isa, ref_only);
    snprintf(b->label[b->n++], sizeof b->label[0], "%s, %s", device, ref_only ? "ref" : tb_isa_name(tb_ctx_isa(*ctx)));
    return TB_OK;
}

static tb_status board_open(board *b)
{
    *b = (board){0};
    tb_isa top = tb_isa_detect();
    TB_TRY(board_add(b, "cpu", top, true));
    b->truth = b->on[0];
    for (tb_isa isa = TB_ISA_SCALAR; isa <= top; isa++) TB_TRY(board_add(b, "cpu", isa, false));
    b->best = b->on[b->n - 1];
    TB_TRY(board_add(b, "guard", top, true));
    TB_TRY(board_add(b, "guard", top, false));
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.seed = 1, .threads = 2}, &b->threads));
    return tb_ctx_create(&(tb_ctx_config){.seed = 1, .device = "meta"}, &b->meta);
}

/* How many tensors and blocks were still alive. */
static int64_t board_close(board *b)
{
    int64_t alive = tb_ctx_destroy(b->threads) + tb_ctx_destroy(b->meta);
    for (int i = 0; i < b->n; i++) alive += tb_ctx_destroy(b->on[i]);
    return alive;
}

/* Calls `check` for every sample and dtype under test; adds where it failed to the sentence. */
typedef tb_status (*sample_check)(board *b, const tb_op *op, const tb_sample_case *s, const variant *v);

static tb_status for_samples(board *b, const tb_op *op, sample_check check)
{
    tb_samples all;
    TB_TRY(tb_samples_of(op, &all));
    tb_status st = TB_OK;
    for (int k = 0; k < all.n && st == TB_OK; k++) {
        const tb_sample_case *s = &all.cases[k];
        bool is_typed = false, is_done = false;
        for (int i = 0; i < s->n_in; i++) is_typed |= is_under_test(&s->in[i]);
        for (int t = 0; t < TB_DTYPES && st == TB_OK; t++) {
            if (is_done || !(op->dtypes >> t & 1u)) continue;
            if (b->every && b->seen++ % b->every) continue;
            is_done = !is_typed || is_large(s);
            st = check(b, op, s, &(variant){.dtype = (tb_dtype)t});
            if (st != TB_OK) tb_error_add("%s, sample %d, %s", op->name, k, tb_dtype_name((tb_dtype)t));
        }
    }
    tb_samples_free(&all);
    return st;
}

/* ---- the descriptor is complete ---- */
static tb_status check_descriptor(const tb_op *op)
{
    tb_samples all;
    bool has_empty = false, has_unit = false, is_typed = false;
    TB_TRY(tb_samples_of(op, &all));
    for (int k = 0; k < all.n; k++)
        for (int i = 0; i < all.cases[k].n_in; i++) {
            is_typed |= is_under_test(&all.cases[k].in[i]);
            for (int d = 0; d < all.cases[k].in[i].rank; d++) {
                has_empty |= all.cases[k].in[i].dims[d] == 0;
                has_unit |= all.cases[k].in[i].dims[d] == 1;
            }
        }
    int n = all.n;
    tb_samples_free(&all);
    if (n == 0) return TB_FAIL(TB_ERR_INVALID, "%s has no samples", op->name);
    if (is_typed && !has_empty) return TB_FAIL(TB_ERR_INVALID, "%s has no sample with an empty dimension", op->name);
    if (is_typed && !has_unit) return TB_FAIL(TB_ERR_INVALID, "%s has no sample with a dimension of size 1", op->name);
    if (!op->grad == !op->no_grad)
        return TB_FAIL(TB_ERR_INVALID, "%s needs a gradient or the reason why not", op->name);
    if (!op->doc || !op->shape || !op->dtypes) return TB_FAIL(TB_ERR_INVALID, "%s lacks doc, shape or dtypes",
                                                              op->name);
    if (op->dtypes != TB_ALL_DTYPES && !op->dtypes_reason)
        return TB_FAIL(TB_ERR_INVALID, "%s does not say why it lacks dtypes", op->name);
    if ((op->dtypes & TB_FLOATS) && (op->dtypes & TB_FLOATS) != TB_FLOATS)
        return TB_FAIL(TB_ERR_INVALID, "%s has some float dtypes but not all four", op->name);
    if (!op->tol.exact && !(op->tol.c > 0 && op->tol.c <= 8))
        return TB_FAIL(TB_ERR_INVALID, "%s: tolerance %g is not in (0, 8]", op->name, op->tol.c);
    return TB_OK;
}

/* ---- values ---- */
static double smallest(tb_dtype t) { return t == TB_F16 ? 0x1p-24 : t == TB_F64 ? 0x1p-1022 : 0x1p-126; }

static bool is_equal(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

typedef struct truth {
    result value, magnitude; /* exact arithmetic (f64), and the same on absolute values */
    int64_t k;
} truth;

/* Scale of the rounding errors of an element: its own magnitude and that of what was summed. A sum's terms reach
 * other elements too (normalisation), so for k > 1 it is the largest of the tensor. */
static double scale_of(const truth *t, int o, int64_t e)
{
    double scale = 0;
    bool has_magnitude = t->magnitude.n > o && t->magnitude.numel[o] == t->value.numel[o];
    int64_t from = t->k > 1 ? 0 : e, to = t->k > 1 ? t->value.numel[o] : e + 1;
    for (int64_t i = from; i < to; i++) {
        double a = fabs(result_at(&t->value, o, i)), m = has_magnitude ? fabs(result_at(&t->magnitude, o, i)) : 0;
        scale = fmax(scale, fmax(isfinite(a) ? a : 0, isfinite(m) ? m : 0));
    }
    return scale;
}

static tb_status compare(const tb_op *op, const truth *want, const result *got)
{
    for (int o = 0; o < op->n_out; o++) {
        tb_dtype t = got->dtype[o];
        bool is_exact = op->tol.exact || !tb_dtype_is_float(t);
        double scale = want->k > 1 && !is_exact && got->numel[o] > 0 ? scale_of(want, o, 0) : 0;
        double unit = op->tol.c * tb_dtype_eps(t) * sqrt((double)want->k);
        if (got->numel[o] != want->value.numel[o])
            return TB_FAIL(TB_ERR_PARITY, "output %d has shape %s, not %s", o, tb_dims_text(got->rank[o], got->dims[o]),
                           tb_dims_text(want->value.rank[o], want->value.dims[o]));
        for (int64_t e = 0; e < got->numel[o]; e++) {
            double x = result_at(got, o, e), w = result_at(&want->value, o, e), rounded;
            uint64_t cell = 0;
            tb_store_f64(t, &cell, w);
            rounded = tb_load_f64(t, &cell);
            if (is_equal(x, rounded)) continue;
            double allowed = is_exact ? 0 : unit * (want->k > 1 ? scale : scale_of(want, o, e)) + smallest(t);
            if (!(fabs(x - w) <= allowed))
                return TB_FAIL(TB_ERR_PARITY, "output %d, element %lld is %.9g, exactly %.17g, tolerance %.3g", o,
                               (long long)e, x, w, allowed);
        }
    }
    return TB_OK;
}

static int64_t terms_of(tb_ctx *ctx, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    tb_ctx *before = tb_ctx_enter(ctx);
    tb_scope *scope = tb_scope_open();
    tb_tensor *in[8];
    tb_op_call c;
    tb_cost cost = {.k = 1};
    if (make_inputs(op, s, v, in) == TB_OK && shape_of(op, s, in, &c) == TB_OK && op->cost) op->cost(&c, &cost);
    tb_scope_close(scope);
    tb_ctx_enter(before);
    return cost.k > 1 ? cost.k : 1;
}

/* Integers have no wider truth than the reference itself. */
static tb_status find_truth(board *b, const tb_op *op, const tb_sample_case *s, const variant *v, truth *t)
{
    variant exact = *v;
    exact.in_f64 = op->dtypes >> TB_F64 & 1u;
    *t = (truth){.k = terms_of(b->truth, op, s, v)};
    TB_TRY(run_sample(b->truth, op, s, &exact, &t->value));
    exact.is_magnitude = true;
    if (run_sample(b->truth, op, s, &exact, &t->magnitude) != TB_OK) tb_error_clear();
    return TB_OK;
}

static tb_status check_layouts(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    truth want;
    TB_TRY(find_truth(b, op, s, v, &want));
    tb_status st = TB_OK;
    for (int i = 0; i < b->n && st == TB_OK; i++)
        for (int how = 0; how < (is_large(s) ? 1 : LAYOUTS) && st == TB_OK; how++) {
            variant w = *v;
            w.layout = (layout)how;
            result got;
            st = run_sample(b->on[i], op, s, &w, &got);
            if (st == TB_OK) st = compare(op, &want, &got);
            result_free(&got);
            if (st != TB_OK) tb_error_add("%s, %s%s", b->label[i], layout_names[how], v->is_aliased ? ", aliased" : "");
            b->cases++;
        }
    result_free(&want.value);
    result_free(&want.magnitude);
    return st;
}

static tb_status check_values(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    TB_TRY(check_layouts(b, op, s, v));
    variant aliased = *v;
    aliased.is_aliased = true;
    return can_alias(s, v) ? check_layouts(b, op, s, &aliased) : TB_OK;
}

/* ---- shapes without data, bits with strides and threads ---- */
/* What has a kernel has it for strided inputs too, and its bits. */
static tb_status check_strides(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    result dense;
    bool is_empty = false;
    for (int i = 0; i < s->n_in; i++) is_empty |= !s->in[i].absent && sample_numel(&s->in[i]) == 0;
    if (!op->fast || is_empty || is_large(s)) return TB_OK;
    TB_TRY(run_sample(b->best, op, s, v, &dense));
    tb_status st = TB_OK;
    bool has_kernel = dense.kernel && strcmp(dense.kernel, "ref") != 0;
    for (int how = CONTIGUOUS + 1; has_kernel && how < LAYOUTS && st == TB_OK; how++) {
        variant w = *v;
        w.layout = (layout)how;
        result got;
        st = run_sample(b->best, op, s, &w, &got);
        if (st == TB_OK && strcmp(got.kernel, "ref") == 0)
            st = TB_FAIL(TB_ERR_PARITY, "ref ran where %s runs on dense inputs", dense.kernel);
        for (int o = 0; o < op->n_out && st == TB_OK; o++)
            if (memcmp(dense.data[o], got.data[o], (size_t)got.numel[o] * tb_dtype_size(got.dtype[o])) != 0)
                st = TB_FAIL(TB_ERR_PARITY, "output %d has other bits with strided inputs", o);
        if (st != TB_OK) tb_error_add("%s", layout_names[how]);
        result_free(&got);
        b->cases++;
    }
    result_free(&dense);
    return st;
}

static tb_status check_meta(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    result real, meta;
    TB_TRY(run_sample(b->truth, op, s, v, &real));
    tb_status st = run_sample(b->meta, op, s, v, &meta);
    for (int o = 0; o < op->n_out && st == TB_OK; o++)
        if (real.dtype[o] != meta.dtype[o] || real.rank[o] != meta.rank[o] ||
            memcmp(real.dims[o], meta.dims[o], sizeof(int64_t) * (size_t)real.rank[o]) != 0)
            st = TB_FAIL(TB_ERR_PARITY, "output %d has another shape or dtype on meta", o);
    b->cases++;
    result_free(&real);
    result_free(&meta);
    return st;
}

static tb_status check_threads(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    result one, two;
    TB_TRY(run_sample(b->best, op, s, v, &one));
    tb_status st = run_sample(b->threads, op, s, v, &two);
    for (int o = 0; o < op->n_out && st == TB_OK; o++)
        if (memcmp(one.data[o], two.data[o], (size_t)one.numel[o] * tb_dtype_size(one.dtype[o])) != 0)
            st = TB_FAIL(TB_ERR_PARITY, "output %d has other bits with two threads", o);
    b->cases++;
    result_free(&one);
    result_free(&two);
    return st;
}

/* ---- every allocation of a call may fail ---- */
/* Allocations between two places, the n-th of which fails (0: none), and what stays behind. */
typedef struct failing {
    tb_ctx *ctx;
    tb_scope *scope;
    tb_mem_stats before;
} failing;

static failing failing_open(tb_ctx *ctx, int64_t n)
{
    failing f = {.ctx = ctx, .scope = tb_scope_open()};
    tb_heap_stats(tb_ctx_heap(ctx), &f.before);
    tb_heap_fail_at(tb_ctx_heap(ctx), n);
    return f;
}

static int64_t failing_end(const failing *f) /* returns how many there were; from here on none fails */
{
    tb_mem_stats after;
    tb_heap_fail_at(tb_ctx_heap(f->ctx), 0);
    tb_heap_stats(tb_ctx_heap(f->ctx), &after);
    return after.requests - f->before.requests;
}

static tb_status failing_close(const failing *f, tb_status st)
{
    tb_mem_stats after;
    tb_scope_close(f->scope);
    tb_heap_stats(tb_ctx_heap(f->ctx), &after);
    int64_t leaked = after.live_blocks - f->before.live_blocks + 1; /* the scope itself was there before */
    return leaked ? TB_FAIL(TB_ERR_INTERNAL, "%lld blocks leak", (long long)leaked) : st;
}

/* Runs the op; success where an allocation failed and its outputs are there all the same. */
typedef tb_status (*failing_fn)(tb_ctx *ctx, const tb_op *op, const tb_sample_case *s, tb_tensor **in, int64_t n,
                                int64_t *requests);

static tb_status forward_failing(tb_ctx *ctx, const tb_op *op, const tb_sample_case *s, tb_tensor **in, int64_t n,
                                 int64_t *requests)
{
    tb_tensor *out[TB_MAX_OUT];
    failing f = failing_open(ctx, n);
    tb_dispatch(op, s->attrs, in, s->n_in, out);
    *requests = failing_end(&f);
    tb_status st = tb_ctx_take_error(ctx);
    for (int o = 0; o < op->n_out && n; o++)
        if (!tb_is_poison(out[o])) st = TB_OK;
    return failing_close(&f, st);
}

/* A recorded call and its backward pass: the cause or, where the call did not need the allocation, success; what was
 * made dies with the scope. */
static tb_status backward_failing(tb_ctx *ctx, const tb_op *op, const tb_sample_case *s, tb_tensor **in, int64_t n,
                                  int64_t *requests)
{
    tb_tensor *out[TB_MAX_OUT];
    failing f = failing_open(ctx, n);
    tb_dispatch(op, s->attrs, in, s->n_in, out);
    tb_tensor *total = tb_scalar(TB_F32, 0);
    for (int o = 0; o < op->n_out - op->n_hidden; o++)
        if (tb_requires_grad(out[o])) total = tb_add(total, tb_sum(out[o], 0, NULL, false));
    tb_status st = tb_requires_grad(total) ? tb_backward(total) : tb_ctx_take_error(ctx);
    *requests = failing_end(&f);
    for (int i = 0; i < s->n_in; i++)
        if (in[i]) tb_grad_clear(in[i]);
    return failing_close(&f, st);
}

/* Each allocation of a warm run fails in turn. */
static tb_status fail_each(board *b, const tb_op *op, const tb_sample_case *s, tb_tensor **in, failing_fn run,
                           const char *what)
{
    int64_t n = 0, ignored;
    for (int warm = 0; warm < 2; warm++) TB_TRY(run(b->best, op, s, in, 0, &n));
    for (int64_t at = 1; at <= n; at++) {
        tb_status failed = run(b->best, op, s, in, at, &ignored);
        b->cases++;
        if (failed == TB_ERR_OOM) continue;
        tb_status st =
            failed == TB_ERR_INTERNAL ? failed : TB_FAIL(TB_ERR_INTERNAL, "goes on as '%s'", tb_status_name(failed));
        tb_error_add("allocation %lld of %lld failed%s", (long long)at, (long long)n, what);
        return st;
    }
    return TB_OK;
}

static tb_status check_out_of_memory(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    tb_ctx *before = tb_ctx_enter(b->best);
    tb_scope *scope = tb_scope_open();
    tb_tensor *in[8];
    tb_status st = make_inputs(op, s, v, in);
    if (st == TB_OK) st = fail_each(b, op, s, in, forward_failing, "");
    tb_scope_close(scope);
    tb_ctx_enter(before);
    return st;
}

static tb_status check_backward_out_of_memory(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    if (!op->grad || v->dtype != TB_F32 || is_large(s)) return TB_OK;
    tb_ctx *before = tb_ctx_enter(b->best);
    tb_scope *scope = tb_scope_open();
    tb_tensor *in[8];
    bool has_leaf = false;
    tb_status st = make_inputs(op, s, v, in);
    for (int i = 0; i < s->n_in && st == TB_OK; i++) {
        if (!is_under_test(&s->in[i]) || s->in[i].no_grad) continue;
        st = tb_require_grad(in[i]);
        has_leaf = true;
    }
    if (st == TB_OK && has_leaf) st = fail_each(b, op, s, in, backward_failing, ", backward included");
    tb_scope_close(scope);
    tb_ctx_enter(before);
    return st;
}

/* ---- gradients against central differences, in f64 ---- */
typedef struct gradient_case {
    const tb_op *op;
    const tb_sample_case *s;
    tb_tensor *const *fixed; /* inputs that are not differentiated; NULL where one of the n arguments goes */
} gradient_case;

/* sum over i of w[i] t[i] with fixed weights in [0.5, 1.5). */
static tb_tensor *weighted_sum(tb_tensor *t, int64_t stream)
{
    tb_tensor *key = tb_tensor_from(TB_I64, 1, (int64_t[]){3}, (int64_t[]){1, stream, 0});
    tb_tensor *w = tb_add_number(tb_rand(key, TB_F64, tb_tensor_rank(t), tb_tensor_dims(t)), 0.5);
    return tb_sum(tb_mul(t, w), 0, NULL, false);
}

/* 0, with a place in the graph of every input: what is summed onto it may have none (constants, linear ops). */
static tb_tensor *zero_from(int n, tb_tensor *const *x)
{
    tb_tensor *total = tb_scalar(TB_F64, 0);
    for (int i = 0; i < n; i++) total = tb_add(total, tb_sum(tb_mul_number(x[i], 0), 0, NULL, false));
    return total;
}

/* Outputs of fewer digits than the differences need (a cast) are left out. */
static tb_tensor *scalar_of_op(void *arg, int n, tb_tensor *const *x)
{
    const gradient_case *g = arg;
    tb_tensor *in[8], *out[TB_MAX_OUT], *total = zero_from(n, x);
    for (int i = 0, next = 0; i < g->s->n_in; i++)
        in[i] = g->fixed[i] || g->s->in[i].absent ? g->fixed[i] : next < n ? x[next++] : NULL;
    tb_dispatch(g->op, g->s->attrs, in, g->s->n_in, out);
    for (int o = 0; o < g->op->n_out - g->op->n_hidden; o++)
        if (tb_tensor_dtype(out[o]) == TB_F64) total = tb_add(total, weighted_sum(out[o], o));
    return total;
}

/* A weighted sum of the gradients: its own gradients are second derivatives. */
static tb_tensor *scalar_of_gradients(void *arg, int n, tb_tensor *const *x)
{
    tb_ctx *ctx = tb_ctx_current();
    bool mode = tb_grad_mode(ctx, true);
    tb_tensor *grads[8];
    tb_status st = TB_OK;
    for (int i = 0; i < n && st == TB_OK; i++)
        if (!tb_requires_grad(x[i])) st = tb_require_grad(x[i]);
    tb_tensor *total = zero_from(n, x);
    tb_backward_opts opts = {.create_graph = true};
    if (st == TB_OK) st = tb_gradients(scalar_of_op(arg, n, x), &opts, n, x, grads);
    for (int i = 0; i < n && st == TB_OK; i++)
        if (grads[i]) total = tb_add(total, weighted_sum(grads[i], 8 + i));
    tb_grad_mode(ctx, mode);
    return st == TB_OK ? total : tbi_poisoned(ctx);
}

static tb_status check_gradients(board *b, const tb_op *op, const tb_sample_case *s, const variant *v)
{
    if (!op->grad || v->dtype != TB_F64 || is_large(s)) return TB_OK;
    tb_ctx *before = tb_ctx_enter(b->truth);
    tb_scope *scope = tb_scope_open();
    tb_tensor *in[8], *x[8];
    int n = 0;
    int64_t elements = 0;
    tb_status st = make_inputs(op, s, v, in);
    for (int i = 0; i < s->n_in && st == TB_OK; i++) {
        if (!is_under_test(&s->in[i]) || s->in[i].no_grad) continue;
        x[n++] = in[i];
        elements += tb_tensor_numel(in[i]);
        st = tb_require_grad(in[i]);
        in[i] = NULL;
    }
    gradient_case g = {op, s, in};
    if (st == TB_OK && n > 0) st = tb_gradcheck(scalar_of_op, &g, n, x, 1e-5, 1e-6);
    if (st == TB_OK && n > 0 && elements <= 256) {
        st = tb_gradcheck(scalar_of_gradients, &g, n, x, 1e-5, 1e-6);
        if (st != TB_OK) tb_error_add("second derivative");
    }
    b->cases += n > 0;
    tb_scope_close(scope);
    if (st == TB_OK) st = tb_ctx_take_error(b->truth);
    tb_ctx_enter(before);
    return st;
}
