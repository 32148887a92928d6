/* Compiled against captured graphs, groups against references, and the search for a wrong rewrite. */
#include "tb_verify.h"
#include "tb_exec.h"
#include "graph_internal.h"
#include "tb_ops.h"
#include <math.h>

/* ---- copies: with constants of their own, since what kernels pack is kept with a constant's storage ---- */
static tb_tensor *copied_constant(void *arg, const char *name)
{
    const tb_graph *g = arg;
    for (int i = 0; i < g->n_values; i++) {
        const tb_tensor *t = g->values[i].constant;
        if (!t || strcmp(g->values[i].name, name) != 0) continue;
        tb_tensor *copy = tb_tensor_empty((tb_dtype)t->dtype, t->rank, t->dims);
        void *to = tb_tensor_host(copy);
        if (to) tbi_copy_elements(to, NULL, t);
        tb_tensor_touch(copy);
        return copy;
    }
    return tb_poison();
}

static tb_status clone(const tb_graph *g, tb_graph **out)
{
    tb_text text = {0};
    tb_graph_dump(g, &text);
    tb_scope *s = tb_scope_open();
    tb_status st = text.failed ? TB_ERR_OOM
                               : tb_graph_parse(tb_text_str(&text), text.size, g->name, copied_constant,
                                                (void *)(uintptr_t)g, out);
    tb_scope_close(s);
    tb_text_free(&text);
    return st;
}

/* ---- running: buffers[o] for every output ---- */
typedef struct results {
    int n;
    void **at;
    int64_t *numel;
    tb_dtype *dtype;
} results;

static void results_free(results *r)
{
    for (int i = 0; i < r->n; i++) tb_free(r->at[i]);
    tb_free(r->at);
    tb_free(r->numel);
    tb_free(r->dtype);
    *r = (results){0};
}

/* Takes the graph over. */
static tb_status run(tb_graph *g, tb_ctx *ctx, const int64_t *sizes, const void *const *in, tb_node_observer f,
                     void *arg, results *out)
{
    tb_exec *e;
    tb_session *s = NULL;
    TB_TRY(tb_exec_create(g, &e));
    size_t n = (size_t)g->n_outputs + 1;
    out->at = tb_calloc(n, sizeof *out->at);
    out->numel = tb_calloc(n, sizeof *out->numel);
    out->dtype = tb_calloc(n, sizeof *out->dtype);
    tb_status st = out->at && out->numel && out->dtype ? TB_OK : TB_ERR_OOM;
    for (out->n = 0; st == TB_OK && out->n < g->n_outputs; out->n++) {
        tb_tensor t = {0};
        tbi_describe(&g->values[g->outputs[out->n]], sizes, &t);
        out->numel[out->n] = t.numel;
        out->dtype[out->n] = (tb_dtype)t.dtype;
        if (!(out->at[out->n] = tb_calloc((size_t)t.numel + 1, tb_dtype_size((tb_dtype)t.dtype)))) st = TB_ERR_OOM;
    }
    if (st == TB_OK) st = tb_session_create(e, ctx, &s);
    if (st == TB_OK && f) tb_session_observe(s, f, arg);
    if (st == TB_OK) st = tb_session_run(s, sizes, in, out->at);
    tb_session_free(s);
    tb_exec_free(e);
    return st;
}

/* Largest difference; equal infinities and NaN beside NaN are none. */
static double largest_difference(tb_dtype dtype, const void *a, const void *b, int64_t n, double *largest)
{
    double most = 0;
    size_t size = tb_dtype_size(dtype);
    for (int64_t i = 0; i < n; i++) {
        double x = tb_load_f64(dtype, (const char *)a + (size_t)i * size),
               y = tb_load_f64(dtype, (const char *)b + (size_t)i * size);
        if (isfinite(x)) *largest = fmax(*largest, fabs(x));
        if (x == y || (isnan(x) && isnan(y))) continue;
        double d = fabs(x - y);
        most = isnan(d) ? (double)INFINITY : fmax(most, d);
    }
    return most;
}

/* ---- the whole ---- */
/* With at most `rewrites` of them (0: all). */
static tb_status difference_of(const tb_graph *g, const results *expected, const tb_compile_opts *opts,
                               int64_t rewrites, tb_ctx *ctx, const int64_t *sizes, const void *const *in,
                               tb_compile_report *passes, double *out)
{
    tb_graph *compiled;
    tb_compile_opts limited = *opts;
    results got = {0};
    double most = 0, largest = 0;
    limited.max_rewrites = rewrites;
    TB_TRY(clone(g, &compiled));
    tb_status st = tb_compile(compiled, &limited, passes);
    if (st != TB_OK) {
        tb_graph_free(compiled);
        return st;
    }
    st = run(compiled, ctx, sizes, in, NULL, NULL, &got);
    for (int o = 0; st == TB_OK && o < got.n; o++)
        most = fmax(most, largest_difference(got.dtype[o], expected->at[o], got.at[o], got.numel[o], &largest));
    results_free(&got);
    *out = most > 0 ? most / fmax(largest, 1e-30) : 0;
    return st;
}

/* Ops that one graph has more of than the other, as "-relu +neg". */
static tb_status describe_change(const tb_graph *g, const tb_compile_opts *opts, int64_t rewrite, tb_text *out)
{
    int count[TB_OP_COUNT] = {0};
    for (int after = 0; after < 2; after++) {
        tb_graph *at;
        tb_compile_opts limited = *opts;
        limited.max_rewrites = rewrite - !after;
        TB_TRY(clone(g, &at));
        tb_status st = limited.max_rewrites > 0 ? tb_compile(at, &limited, NULL) : TB_OK;
        for (int i = 0; st == TB_OK && i < at->n_nodes; i++) count[at->nodes[i].op->id] += after ? 1 : -1;
        tb_graph_free(at);
        TB_TRY(st);
    }
    for (int sign = -1; sign <= 1; sign += 2)
        for (int i = 0; i < TB_OP_COUNT; i++)
            for (int k = 0; k < sign * count[i]; k++)
                tb_text_add(out, "%s%c%s", out->size ? " " : "", sign < 0 ? '-' : '+', tb_op_at(i)->name);
    return out->failed ? TB_ERR_OOM : TB_OK;
}

/* The least number of rewrites with which the whole is wrong; its last one is to blame. */
static tb_status find_culprit(const tb_graph *g, const results *expected, const tb_compile_opts *opts, int64_t all,
                              tb_ctx *ctx, const int64_t *sizes, const void *const *in, tb_verify_report *out)
{
    int64_t right = 0, wrong = all;
    tb_compile_report passes;
    double difference;
    while (wrong - right > 1) {
        int64_t middle = (right + wrong) / 2;
        TB_TRY(difference_of(g, expected, opts, middle, ctx, sizes, in, &passes, &difference));
        if (difference <= out->limit)
            right = middle;
        else
            wrong = middle;
    }
    TB_TRY(difference_of(g, expected, opts, wrong, ctx, sizes, in, &passes, &difference));
    for (int p = 0; p < passes.n_passes; p++)
        if (passes.pass[p].rewrites > 0) out->culprit_pass = passes.pass[p].pass;
    out->culprit = wrong;
    return describe_change(g, opts, wrong, &out->culprit_change);
}

/* ---- groups ---- */
typedef struct watched {
    const char **kernel; /* [n_nodes] */
} watched;

static void note_kernel(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    (void)ns;
    ((watched *)arg)->kernel[node] = call->kernel;
}

static tb_tensor *operand_of(const tb_graph *g, int value, const int64_t *sizes, const void *const *in,
                             void *const *made)
{
    tb_tensor t = {0};
    if (value == TB_NO_VALUE) return NULL;
    if (g->values[value].constant) return g->values[value].constant;
    tbi_describe(&g->values[value], sizes, &t);
    const void *data = made[value];
    for (int i = 0; i < g->n_inputs; i++)
        if (g->inputs[i] == value) data = in[i];
    return tb_tensor_from((tb_dtype)t.dtype, t.rank, t.dims, data);
}

/* Of a result of this dtype: rounding errors are half the distance to the next number. */
static double allowed(const tb_op *op, const void *attrs, tb_ctx *ctx, tb_tensor *const *operands, int n,
                      tb_dtype dtype, double largest)
{
    tb_op_call c = {.op = op, .ctx = ctx, .attrs = attrs, .n_in = n, .in = operands};
    tb_cost cost = {.k = 1};
    if (op->tol.exact) return 0;
    if (op->cost && op->shape(&c) == TB_OK) op->cost(&c, &cost);
    return 64 * tb_dtype_eps(dtype) / 2 * sqrt((double)(cost.k > 1 ? cost.k : 1)) * largest;
}

/* Second outputs of nodes are not kept, so a node that reads one cannot be held against its reference. */
static bool has_operands(const tb_graph *g, const tb_node *n, void *const *made)
{
    for (int k = 0; k < n->n_in; k++) {
        const tb_value *v = n->in[k] == TB_NO_VALUE ? NULL : &g->values[n->in[k]];
        if (v && v->producer >= 0 && !made[n->in[k]]) return false;
    }
    return true;
}

/* Node `at` from its real operands, by its reference. */
static tb_status check_group(const tb_graph *g, int at, tb_ctx *ctx, const int64_t *sizes, const void *const *in,
                             void *const *made, tb_verify_group *out)
{
    const tb_node *n = &g->nodes[at];
    uint64_t attrs[MAX_ATTR_WORDS];
    tb_tensor *operands[MAX_OPERANDS], *result[TB_MAX_OUT];
    const char *got = made[n->out[0]];
    tb_dtype dtype = g->values[n->out[0]].dtype;
    size_t size = tb_dtype_size(dtype);
    double largest = 0, signal = 0, noise = 0;
    tb_scope *s = tb_scope_open();
    tbi_attrs_at(n, sizes, attrs);
    for (int k = 0; k < n->n_in; k++) operands[k] = operand_of(g, n->in[k], sizes, in, made);
    tb_status st = tb_dispatch(n->op, n->attrs ? attrs : NULL, operands, n->n_in, result);
    const char *want = NULL;
    if (st == TB_OK) {
        result[0] = tb_contiguous(result[0]);
        want = tb_tensor_host(result[0]);
    }
    if (want) {
        int64_t numel = tb_tensor_numel(result[0]);
        out->max_abs = largest_difference(dtype, want, got, numel, &largest);
        for (int64_t i = 0; i < numel; i++) {
            double x = tb_load_f64(dtype, want + (size_t)i * size), e = x - tb_load_f64(dtype, got + (size_t)i * size);
            if (isfinite(x) && isfinite(e)) signal += x * x, noise += e * e;
        }
        double most = allowed(n->op, n->attrs ? attrs : NULL, ctx, operands, n->n_in, dtype, largest);
        out->worst = out->max_abs == 0 ? 0 : most > 0 ? out->max_abs / most : (double)INFINITY;
        out->sqnr_db = noise > 0 ? 10 * log10(signal / noise) : (double)INFINITY;
    }
    tb_scope_close(s);
    return st == TB_OK ? tb_ctx_take_error(ctx) : st;
}

/* The compiled graph with every first result as an output: real intermediates, none written over. */
static tb_status check_groups(const tb_graph *g, const tb_compile_opts *opts, tb_ctx *ctx, tb_isa isa,
                              const int64_t *sizes, const void *const *in, tb_verify_report *out)
{
    tb_graph *compiled, *open = NULL;
    results got = {0};
    TB_TRY(clone(g, &compiled));
    tb_status st = tb_compile(compiled, opts, NULL);
    if (st == TB_OK) st = clone(compiled, &open);
    void **made = tb_calloc((size_t)compiled->n_values + 1, sizeof *made);
    watched w = {tb_calloc((size_t)compiled->n_nodes + 1, sizeof *w.kernel)};
    out->groups = tb_calloc((size_t)compiled->n_nodes + 1, sizeof *out->groups);
    if (st == TB_OK && (!made || !w.kernel || !out->groups)) st = TB_ERR_OOM;
    if (st == TB_OK) open->n_outputs = 0;
    for (int i = 0; st == TB_OK && i < open->n_nodes; i++) {
        char name[32];
        snprintf(name, sizeof name, "node.%d", i);
        st = tb_graph_output(open, open->nodes[i].out[0], name);
    }
    if (st == TB_OK) {
        st = run(open, ctx, sizes, in, note_kernel, &w, &got);
        open = NULL;
    }
    for (int i = 0; st == TB_OK && i < compiled->n_nodes; i++) made[compiled->nodes[i].out[0]] = got.at[i];
    tb_ctx_limit_kernels(ctx, isa, true);
    for (int i = 0; st == TB_OK && i < compiled->n_nodes; i++) {
        const tb_node *n = &compiled->nodes[i];
        if (!w.kernel[i] || !has_operands(compiled, n, made)) continue;
        tb_verify_group *group = &out->groups[out->n_groups++];
        *group = (tb_verify_group){.node = i, .op = n->op->name};
        snprintf(group->kernel, sizeof group->kernel, "%s", w.kernel[i]);
        st = check_group(compiled, i, ctx, sizes, in, made, group);
        out->n_wrong += !(group->worst <= 1);
    }
    tb_ctx_limit_kernels(ctx, isa, false);
    results_free(&got);
    tb_graph_free(open);
    tb_graph_free(compiled);
    tb_free(made);
    tb_free(w.kernel);
    return st;
}

tb_status tb_verify_graph(const tb_graph *g, const tb_compile_opts *opts, tb_ctx *ctx, tb_isa isa, const int64_t *sizes,
                          const void *const *in, tb_verify_report *out)
{
    static const tb_compile_opts defaults = {0};
    tb_graph *captured;
    results expected = {0};
    tb_compile_report passes;
    if (!opts) opts = &defaults;
    *out = (tb_verify_report){.limit = opts->strict ? 0 : 1e-4};
    tb_ctx_limit_kernels(ctx, isa, false);
    TB_TRY(clone(g, &captured));
    tb_status st = run(captured, ctx, sizes, in, NULL, NULL, &expected);
    if (st == TB_OK) st = difference_of(g, &expected, opts, 0, ctx, sizes, in, &passes, &out->difference);
    bool is_right = out->difference <= out->limit;
    if (st == TB_OK && !is_right) {
        int64_t all = 0;
        for (int p = 0; p < passes.n_passes; p++) all += passes.pass[p].rewrites;
        if (all > 0) st = find_culprit(g, &expected, opts, all, ctx, sizes, in, out);
    }
    results_free(&expected);
    if (st == TB_OK) st = check_groups(g, opts, ctx, isa, sizes, in, out);
    if (st != TB_OK) return st;
    if (out->culprit)
        return TB_FAIL(TB_ERR_PARITY,
                       "graph %s: outputs differ by %.3g after the passes (limit %.3g): rewrite %lld, of pass %s (%s)",
                       g->name, out->difference, out->limit, (long long)out->culprit, out->culprit_pass,
                       tb_text_str(&out->culprit_change));
    if (!is_right)
        return TB_FAIL(TB_ERR_PARITY,
                       "graph %s: outputs differ by %.3g after the passes (limit %.3g); no counted rewrite is to blame",
                       g->name, out->difference, out->limit);
    for (int i = 0; i < out->n_groups; i++)
        if (!(out->groups[i].worst <= 1))
            return TB_FAIL(TB_ERR_PARITY,
                           "graph %s: node %d, %s, differs from its reference by %.3g, %.3g times what is allowed (%s)",
                           g->name, out->groups[i].node, out->groups[i].op, out->groups[i].max_abs,
                           out->groups[i].worst, out->groups[i].kernel);
    return TB_OK;
}

void tb_verify_report_free(tb_verify_report *r)
{
    tb_free(r->groups);
    tb_text_free(&r->culprit_change);
    *r = (tb_verify_report){0};
}
