/* Capture: an interceptor writes down what a function calls; the records of several runs at different sizes are
 * unified into one graph whose shapes are affine in the symbols. */
#include "graph_internal.h"
#include "tb_text.h"

typedef struct recorded {
    const tb_op *op;
    void *attrs;
    int n_in, n_out;
    int in[MAX_OPERANDS], out[TB_MAX_OUT]; /* into record.tensors */
} recorded;

typedef struct record {
    tb_interceptor interceptor;
    tb_tensor **tensors; /* retained: inputs first, then in order of appearance */
    bool *is_made;       /* by a recorded call */
    int n_inputs, n_tensors, tensors_capacity;
    recorded *calls;
    int n_calls, calls_capacity;
    tb_tensor *results[TB_MAX_GRAPH_OUTPUTS];
    int n_results;
} record;

typedef struct captured { /* what is captured and between which tensors */
    int n_inputs, n_outputs;
    const tb_capture_input *inputs;
    const char *const *outputs;
    tb_captured_several f;
    void *arg;
} captured;

static int find_tensor(const record *r, const tb_tensor *t)
{
    for (int i = r->n_tensors - 1; i >= 0; i--)
        if (r->tensors[i] == t) return i;
    return -1;
}

static bool shows_the_same(const tb_tensor *a, const tb_tensor *b)
{
    size_t bytes = sizeof *a->dims * a->rank;
    return a->dtype == b->dtype && a->rank == b->rank && a->offset == b->offset &&
           memcmp(a->dims, b->dims, bytes) == 0 && memcmp(a->strides, b->strides, bytes) == 0;
}

/* As find_tensor; an alias that no op made (tb_detach) is the input or result whose elements it shows. */
static tb_status find_shown(const record *r, const tb_tensor *t, int *out)
{
    bool is_shared = false;
    *out = find_tensor(r, t);
    for (int i = r->n_tensors - 1; *out < 0 && i >= 0; i--) {
        const tb_tensor *x = r->tensors[i];
        if (x->storage != t->storage || (i >= r->n_inputs && !r->is_made[i])) continue;
        is_shared = true;
        if (shows_the_same(x, t)) *out = i;
    }
    if (*out < 0 && is_shared)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "capture: %s shows elements of a result in a way that no op made",
                       tb_shape_text(t));
    return TB_OK;
}

static tb_status add_tensor(record *r, tb_tensor *t, bool is_made, int *out)
{
    if (r->n_tensors == r->tensors_capacity) {
        int capacity = r->tensors_capacity ? 2 * r->tensors_capacity : 64;
        tb_tensor **tensors = tb_realloc(r->tensors, (size_t)capacity * sizeof *tensors);
        if (!tensors) return TB_ERR_OOM;
        r->tensors = tensors;
        bool *made = tb_realloc(r->is_made, (size_t)capacity * sizeof *made);
        if (!made) return TB_ERR_OOM;
        r->is_made = made;
        r->tensors_capacity = capacity;
    }
    r->tensors[r->n_tensors] = tb_retain(t);
    r->is_made[r->n_tensors] = is_made;
    *out = r->n_tensors++;
    return TB_OK;
}

static tb_status note(record *r, const tb_op_call *c)
{
    if (c->n_in > MAX_OPERANDS)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "%s: at most %d operands in a graph", c->op->name, MAX_OPERANDS);
    if (r->n_calls == r->calls_capacity) {
        int capacity = r->calls_capacity ? 2 * r->calls_capacity : 64;
        recorded *calls = tb_realloc(r->calls, (size_t)capacity * sizeof *calls);
        if (!calls) return TB_ERR_OOM;
        r->calls = calls;
        r->calls_capacity = capacity;
    }
    recorded *to = &r->calls[r->n_calls];
    *to = (recorded){.op = c->op, .n_in = c->n_in, .n_out = c->op->n_out};
    if (c->attrs && c->op->attrs_bytes) {
        to->attrs = tb_calloc(1, c->op->attrs_bytes);
        if (!to->attrs) return TB_ERR_OOM;
        memcpy(to->attrs, c->attrs, c->op->attrs_bytes);
    }
    r->n_calls++;
    for (int i = 0; i < c->n_in; i++) {
        to->in[i] = TB_NO_VALUE;
        if (c->in[i]) TB_TRY(find_shown(r, c->in[i], &to->in[i]));
        if (c->in[i] && to->in[i] < 0) TB_TRY(add_tensor(r, c->in[i], false, &to->in[i]));
    }
    for (int o = 0; o < to->n_out; o++) TB_TRY(add_tensor(r, c->out[o], true, &to->out[o]));
    return TB_OK;
}

static tb_status capture_around(tb_interceptor *self, tb_op_call *c)
{
    for (int o = 0; o < c->op->n_out; o++)
        if (c->spec[o].is_donated)
            return TB_FAIL(TB_ERR_UNSUPPORTED, "capture: %s writes in place; a graph has no place", c->op->name);
    TB_TRY(tb_dispatch_next(self, c));
    return note((record *)self, c);
}

/* A host read of something the captured function computed would freeze this run's value into the graph. */
static tb_status refuse_read(tb_ctx *ctx, const tb_tensor *t)
{
    const record *r = ctx->slot[TB_SLOT_CAPTURE].state;
    int id = find_tensor(r, t);
    if (id < 0 || !r->is_made[id]) return TB_OK;
    for (int i = 0; i < r->n_calls; i++)
        for (int o = 0; o < r->calls[i].n_out; o++)
            if (r->calls[i].out[o] == id) {
                (void)TB_FAIL(TB_ERR_UNSUPPORTED, "capture: the value of the result of %s %s was read; a graph cannot "
                                                  "depend on values", r->calls[i].op->name, tb_shape_text(t));
                tbi_poisoned(ctx); /* stays the cause, whatever the function makes of the refusal */
                return TB_ERR_UNSUPPORTED;
            }
    return TB_OK;
}

static void record_free(record *r)
{
    for (int i = 0; i < r->n_tensors; i++) tb_release(r->tensors[i]);
    for (int i = 0; i < r->n_calls; i++) tb_free(r->calls[i].attrs);
    tb_free(r->tensors);
    tb_free(r->is_made);
    tb_free(r->calls);
    for (int i = 0; i < r->n_results; i++) tb_release(r->results[i]);
}

static tb_status run_once(record *r, const int64_t *sizes, const captured *what)
{
    int n_inputs = what->n_inputs;
    const tb_capture_input *inputs = what->inputs;
    tb_ctx *ctx = tb_ctx_current();
    tb_tensor *in[MAX_OPERANDS];
    tb_status st = TB_OK;
    int id;
    *r = (record){.interceptor = {.name = "capture", .order = TB_ORDER_CAPTURE, .around = capture_around}};
    tb_scope *scope = tb_scope_open();
    for (int i = 0; i < n_inputs && st == TB_OK; i++) {
        int64_t dims[TB_MAX_RANK];
        for (int k = 0; k < inputs[i].rank; k++)
            dims[k] = inputs[i].dims[k] < 0 ? sizes[-1 - inputs[i].dims[k]] : inputs[i].dims[k];
        in[i] = tb_tensor_empty(inputs[i].dtype, inputs[i].rank, dims);
        if (tb_is_poison(in[i])) st = tb_ctx_take_error(ctx);
        else if (tb_tensor_host(in[i])) memset(tb_tensor_host(in[i]), 0, tb_tensor_bytes(in[i]));
        if (st == TB_OK) st = add_tensor(r, in[i], false, &id);
    }
    r->n_inputs = r->n_tensors;
    if (st == TB_OK) {
        ctx->slot[TB_SLOT_CAPTURE].state = r;
        ctx->on_read = refuse_read;
        tb_interceptor_add(ctx, &r->interceptor);
        what->f(what->arg, n_inputs, in, r->results);
        r->n_results = what->n_outputs;
        for (int i = 0; i < r->n_results; i++) tb_retain(r->results[i]);
        tb_interceptor_remove(ctx, &r->interceptor);
        ctx->on_read = NULL;
        ctx->slot[TB_SLOT_CAPTURE].state = NULL;
        st = tb_ctx_take_error(ctx);
    }
    tb_scope_close(scope);
    return st;
}

/* ---- unification ---- */
static bool same_constant(tb_tensor *a, tb_tensor *b)
{
    if (a == b) return true;
    if (a->dtype != b->dtype || a->rank != b->rank || a->numel != b->numel) return false;
    size_t bytes = tb_tensor_bytes(a);
    char *x = tb_calloc(1, bytes + 1), *y = tb_calloc(1, bytes + 1);
    bool same = x && y && tb_tensor_read(a, x, bytes) == TB_OK && tb_tensor_read(b, y, bytes) == TB_OK &&
                memcmp(x, y, bytes) == 0;
    tb_free(x);
    tb_free(y);
    return same;
}

static tb_status check_alike(const record *records, int n_records, int n_inputs)
{
    const record *a = &records[0];
    for (int k = 1; k < n_records; k++) {
        const record *b = &records[k];
        bool same = a->n_calls == b->n_calls && a->n_tensors == b->n_tensors;
        int at = 0;
        for (; same && at < a->n_calls; at++) {
            const recorded *x = &a->calls[at], *y = &b->calls[at];
            same = x->op == y->op && x->n_in == y->n_in && memcmp(x->in, y->in, sizeof x->in[0] * (size_t)x->n_in) == 0;
        }
        if (!same)
            return TB_FAIL(TB_ERR_UNSUPPORTED,
                           "capture: the function calls other ops at another size (call %d: %s); a graph "
                           "has one flow",
                           at, at > 0 && at <= a->n_calls ? a->calls[at - 1].op->name : "-");
        for (int i = n_inputs; i < a->n_tensors; i++)
            if (!a->is_made[i] && !same_constant(a->tensors[i], b->tensors[i]))
                return TB_FAIL(TB_ERR_UNSUPPORTED, "capture: a constant %s changes with the size",
                               tb_shape_text(a->tensors[i]));
    }
    return TB_OK;
}

/* The integers of an attribute structure that may depend on symbols: I64 attributes and the entries of lists. */
static int attr_integers(const tb_op *op, const void *attrs, size_t *offsets)
{
    int n = 0;
    for (int i = 0; i < op->n_attrs; i++) {
        const tb_attr *a = &op->attrs[i];
        if (a->type == TB_ATTR_I64) offsets[n++] = a->offset;
        if (a->type != TB_ATTR_INTS) continue;
        const tb_ints *list = (const tb_ints *)((const char *)attrs + a->offset);
        for (int k = 0; k < list->n; k++)
            offsets[n++] = a->offset + offsetof(tb_ints, at) + (size_t)k * sizeof list->at[0];
    }
    return n;
}

static int64_t integer_at(const void *attrs, size_t offset)
{
    int64_t x;
    memcpy(&x, (const char *)attrs + offset, sizeof x);
    return x;
}

/* What cannot follow the sizes: all but integers, and how many of them a list has. */
static size_t fixed_bytes(const tb_attr *a)
{
    static const size_t bytes[] = {[TB_ATTR_F64] = sizeof(double),
                                   [TB_ATTR_BOOLEAN] = sizeof(bool),
                                   [TB_ATTR_DTYPE_] = sizeof(tb_dtype),
                                   [TB_ATTR_INTS] = sizeof(int),
                                   [TB_ATTR_CUSTOM] = 0};
    return bytes[a->type];
}

static tb_status check_fixed(const record *records, int call, int n_symbols)
{
    const recorded *c = &records[0].calls[call];
    for (int i = 0; i < c->op->n_attrs; i++) {
        const tb_attr *a = &c->op->attrs[i];
        for (int s = 1; s <= n_symbols; s++)
            if (memcmp((char *)c->attrs + a->offset, (char *)records[s].calls[call].attrs + a->offset, fixed_bytes(a)))
                return TB_FAIL(TB_ERR_UNSUPPORTED, "capture: %s of %s changes with the size; only integers may",
                               a->name, c->op->name);
    }
    return TB_OK;
}

static tb_status unify_attrs(const record *records, int call, int n_symbols, tb_symbolic *out, int *n_out)
{
    const recorded *c = &records[0].calls[call];
    size_t offsets[MAX_ATTR_WORDS];
    *n_out = 0;
    if (!c->attrs) return TB_OK;
    TB_TRY(check_fixed(records, call, n_symbols));
    int n = attr_integers(c->op, c->attrs, offsets);
    for (int i = 0; i < n; i++) {
        int64_t base = integer_at(c->attrs, offsets[i]), moved[TB_MAX_SYMBOLS];
        bool differs = false;
        for (int s = 0; s < n_symbols; s++) {
            moved[s] = integer_at(records[s + 1].calls[call].attrs, offsets[i]);
            differs |= moved[s] != base;
        }
        if (!differs) continue;
        if (!tbi_unify(base, moved, n_symbols, &out[*n_out].dim))
            return TB_FAIL(TB_ERR_UNSUPPORTED, "capture: an attribute of %s is not affine in the sizes", c->op->name);
        out[(*n_out)++].offset = offsets[i];
    }
    return TB_OK;
}

static void name_constant(const tb_graph *g, const tb_tensor *t, int n, char *name, size_t size)
{
    snprintf(name, size, "%s", t->name);
    bool taken = !name[0];
    for (int i = 0; i < g->n_values && !taken; i++)
        taken = g->values[i].constant && strcmp(g->values[i].name, name) == 0;
    if (taken) snprintf(name, size, "c%d", n);
}

static tb_status build(tb_graph *g, const record *records, const captured *what)
{
    const record *r = &records[0];
    int n_inputs = what->n_inputs;
    const tb_capture_input *inputs = what->inputs;
    int *ids = tb_calloc((size_t)r->n_tensors + 1, sizeof *ids), n_constants = 0;
    tb_status st = ids ? TB_OK : TB_ERR_OOM;
    for (int i = 0; i < n_inputs && st == TB_OK; i++) {
        tb_dim dims[TB_MAX_RANK];
        for (int k = 0; k < inputs[i].rank; k++) {
            dims[k] = tb_dim_of(inputs[i].dims[k]);
            if (inputs[i].dims[k] < 0) dims[k] = (tb_dim){0}, dims[k].per[-1 - inputs[i].dims[k]] = 1;
        }
        st = tb_graph_input(g, inputs[i].name, inputs[i].dtype, inputs[i].rank, dims, &ids[i]);
    }
    for (int i = n_inputs; i < r->n_tensors && st == TB_OK; i++) {
        char name[64];
        if (r->is_made[i]) continue;
        name_constant(g, r->tensors[i], n_constants++, name, sizeof name);
        st = tb_graph_constant(g, name, r->tensors[i], &ids[i]);
    }
    for (int i = 0; i < r->n_calls && st == TB_OK; i++) {
        const recorded *c = &r->calls[i];
        tb_symbolic symbolic[MAX_ATTR_WORDS];
        int n_symbolic, in[MAX_OPERANDS], out[TB_MAX_OUT];
        st = unify_attrs(records, i, g->n_symbols, symbolic, &n_symbolic);
        for (int k = 0; k < c->n_in; k++) in[k] = c->in[k] == TB_NO_VALUE ? TB_NO_VALUE : ids[c->in[k]];
        if (st == TB_OK) st = tb_graph_node(g, c->op, c->attrs, n_symbolic, symbolic, c->n_in, in, out);
        for (int o = 0; o < c->n_out && st == TB_OK; o++) ids[c->out[o]] = out[o];
    }
    for (int i = 0; i < r->n_results && st == TB_OK; i++) {
        int result;
        st = find_shown(r, r->results[i], &result);
        if (st != TB_OK) break;
        st = result < 0 ? TB_FAIL(TB_ERR_INVALID, "capture: the function returned a tensor that it did not compute")
                        : tb_graph_output(g, ids[result], what->outputs[i]);
    }
    tb_free(ids);
    return st;
}

tb_status tb_capture_several(const char *name, int n_symbols, const char *const *symbols, int n_inputs,
                             const tb_capture_input *inputs, int n_outputs, const char *const *outputs,
                             tb_captured_several f, void *arg, tb_graph **out)
{
    captured what = {n_inputs, n_outputs, inputs, outputs, f, arg};
    record records[TB_MAX_SYMBOLS + 1] = {0};
    tb_graph *g = NULL;
    tb_status st = TB_OK;
    int n_records = 0;
    *out = NULL;
    if (n_symbols > TB_MAX_SYMBOLS || n_inputs > MAX_OPERANDS || n_outputs > TB_MAX_GRAPH_OUTPUTS)
        return TB_FAIL(TB_ERR_INVALID, "capture: at most %d symbols, %d inputs and %d outputs", TB_MAX_SYMBOLS,
                       MAX_OPERANDS, TB_MAX_GRAPH_OUTPUTS);
    for (; n_records <= n_symbols && st == TB_OK; n_records++) {
        int64_t sizes[TB_MAX_SYMBOLS];
        tbi_symbol_sizes(n_records - 1, sizes);
        st = run_once(&records[n_records], sizes, &what);
    }
    if (st == TB_OK) st = check_alike(records, n_records, n_inputs);
    if (st == TB_OK) st = tb_graph_create(name, &g);
    if (st == TB_OK) {
        g->n_symbols = n_symbols;
        for (int s = 0; s < n_symbols; s++) snprintf(g->symbols[s], sizeof g->symbols[s], "%s", symbols[s]);
        st = build(g, records, &what);
    }
    if (st == TB_OK) st = tb_graph_compact(g);
    if (st == TB_OK) st = tb_graph_verify(g);
    for (int i = 0; i < n_records; i++) record_free(&records[i]);
    if (st != TB_OK) tb_graph_free(g);
    else *out = g;
    return st;
}

typedef struct single {
    tb_captured f;
    void *arg;
} single;

static void capture_single(void *arg, int n, tb_tensor *const *inputs, tb_tensor **out)
{
    const single *s = arg;
    out[0] = s->f(s->arg, n, inputs);
}

tb_status tb_capture(const char *name, int n_symbols, const char *const *symbols, int n_inputs,
                     const tb_capture_input *inputs, tb_captured f, void *arg, tb_graph **out)
{
    single s = {f, arg};
    return tb_capture_several(name, n_symbols, symbols, n_inputs, inputs, 1, (const char *[]){"y"}, capture_single, &s,
                              out);
}
