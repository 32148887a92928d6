/* Building and changing graphs. */
#include "graph_internal.h"

int64_t tb_dim_at(tb_dim d, const int64_t *sizes)
{
    int64_t n = d.base;
    for (int s = 0; s < TB_MAX_SYMBOLS; s++)
        if (d.per[s]) n += d.per[s] * sizes[s];
    return n;
}

bool tb_dim_equal(tb_dim a, tb_dim b)
{
    bool equal = a.base == b.base;
    for (int s = 0; s < TB_MAX_SYMBOLS; s++) equal &= a.per[s] == b.per[s];
    return equal;
}

tb_status tb_graph_create(const char *name, tb_graph **out)
{
    tb_graph *g = *out = tb_calloc(1, sizeof *g);
    if (!g) return TB_ERR_OOM;
    snprintf(g->name, sizeof g->name, "%s", name);
    return TB_OK;
}

static void node_clear(tb_node *n)
{
    tb_free(n->attrs);
    tb_free(n->symbolic);
    tb_free(n->in);
    *n = (tb_node){0};
}

void tb_graph_free(tb_graph *g)
{
    if (!g) return;
    for (int i = 0; i < g->n_nodes; i++) node_clear(&g->nodes[i]);
    for (int i = 0; i < g->n_values; i++) tb_release(g->values[i].constant);
    tb_free(g->nodes);
    tb_free(g->values);
    tb_free(g->inputs);
    tb_free(g->outputs);
    tb_free(g);
}

static tb_status grow(void *array, int n, int *capacity, size_t size)
{
    void **at = array;
    if (n < *capacity) return TB_OK;
    int more = *capacity ? 2 * *capacity : 16;
    void *p = tb_realloc(*at, (size_t)more * size);
    if (!p) return TB_ERR_OOM;
    *at = p;
    *capacity = more;
    return TB_OK;
}

static tb_status value_new(tb_graph *g, const char *name, tb_dtype dtype, int rank, const tb_dim *dims, int *out)
{
    TB_TRY(grow(&g->values, g->n_values, &g->values_capacity, sizeof *g->values));
    tb_value *v = &g->values[g->n_values];
    *v = (tb_value){.dtype = dtype, .rank = rank, .producer = -1};
    for (int i = 0; i < rank; i++) v->dims[i] = dims[i];
    snprintf(v->name, sizeof v->name, "%s", name);
    *out = g->n_values++;
    return TB_OK;
}

static tb_status list_add(int **list, int *n, int value)
{
    int *more = tb_realloc(*list, sizeof *more * (size_t)(*n + 1));
    if (!more) return TB_ERR_OOM;
    *list = more;
    more[(*n)++] = value;
    return TB_OK;
}

tb_status tb_graph_input(tb_graph *g, const char *name, tb_dtype dtype, int rank, const tb_dim *dims, int *out)
{
    TB_TRY(value_new(g, name, dtype, rank, dims, out));
    g->values[*out].is_input = true;
    return list_add(&g->inputs, &g->n_inputs, *out);
}

tb_status tb_graph_constant(tb_graph *g, const char *name, tb_tensor *t, int *out)
{
    tb_dim dims[TB_MAX_RANK];
    for (int i = 0; i < t->rank; i++) dims[i] = tb_dim_of(t->dims[i]);
    TB_TRY(value_new(g, name, (tb_dtype)t->dtype, t->rank, dims, out));
    g->values[*out].constant = tb_retain(t);
    return TB_OK;
}

tb_status tb_graph_output(tb_graph *g, int value, const char *name)
{
    tb_value *v = &g->values[value];
    if (!v->constant && !v->is_input) snprintf(v->name, sizeof v->name, "%s", name);
    return list_add(&g->outputs, &g->n_outputs, value);
}

/* ---- types ---- */
tb_status tbi_infer(const tb_graph *g, const tb_node *n, const int64_t *sizes, tb_out_spec *spec)
{
    tb_tensor operands[MAX_OPERANDS], *in[MAX_OPERANDS];
    uint64_t attrs[MAX_ATTR_WORDS];
    tbi_attrs_at(n, sizes, attrs);
    if (n->n_in > MAX_OPERANDS)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "%s: at most %d operands in a graph", n->op->name, MAX_OPERANDS);
    for (int i = 0; i < n->n_in; i++) {
        in[i] = NULL;
        if (n->in[i] == TB_NO_VALUE) continue;
        const tb_value *v = &g->values[n->in[i]];
        tbi_describe(v, sizes, in[i] = &operands[i]);
    }
    tb_op_call c = {.op = n->op, .ctx = tb_ctx_current(), .attrs = n->attrs ? attrs : NULL, .n_in = n->n_in, .in = in};
    if (!c.ctx) return TB_FAIL(TB_ERR_INVALID, "this thread has entered no context (tb_ctx_enter)");
    TB_TRY(tbi_op_types(&c));
    memcpy(spec, c.spec, sizeof c.spec);
    return TB_OK;
}

void tbi_describe(const tb_value *v, const int64_t *sizes, tb_tensor *t)
{
    memset(t, 0, sizeof *t);
    t->dtype = (uint8_t)v->dtype;
    t->rank = (uint8_t)v->rank;
    t->is_contiguous = true;
    t->numel = 1;
    for (int i = 0; i < v->rank; i++) {
        t->dims[i] = tb_dim_at(v->dims[i], sizes);
        t->numel *= t->dims[i];
    }
    tbi_row_major(v->rank, t->dims, t->strides);
}

void tbi_attrs_at(const tb_node *n, const int64_t *sizes, void *attrs)
{
    if (!n->attrs) return;
    memcpy(attrs, n->attrs, n->op->attrs_bytes);
    for (int i = 0; i < n->n_symbolic; i++) {
        int64_t value = tb_dim_at(n->symbolic[i].dim, sizes);
        memcpy((char *)attrs + n->symbolic[i].offset, &value, sizeof value);
    }
}

/* The two sizes at which types are tried: primes, so that products and sums of symbols stay apart. */
static const int64_t base_sizes[TB_MAX_SYMBOLS] = {7, 11};

bool tbi_unify(int64_t at_base, const int64_t *at_moved, int n_symbols, tb_dim *out)
{
    *out = tb_dim_of(at_base);
    for (int s = 0; s < n_symbols; s++) {
        int64_t slope = at_moved[s] - at_base;
        if (slope % SYMBOL_STEP) return false;
        out->per[s] = slope / SYMBOL_STEP;
        out->base -= out->per[s] * base_sizes[s];
    }
    return true;
}

void tbi_symbol_sizes(int moved, int64_t *sizes)
{
    for (int s = 0; s < TB_MAX_SYMBOLS; s++) sizes[s] = base_sizes[s] + (s == moved ? SYMBOL_STEP : 0);
}

static tb_status result_types(const tb_graph *g, const tb_node *n, tb_value *types)
{
    tb_out_spec at[TB_MAX_SYMBOLS + 1][TB_MAX_OUT];
    int64_t sizes[TB_MAX_SYMBOLS];
    for (int moved = -1; moved < g->n_symbols; moved++) {
        tbi_symbol_sizes(moved, sizes);
        TB_TRY(tbi_infer(g, n, sizes, at[moved + 1]));
    }
    for (int o = 0; o < n->op->n_out; o++) {
        if (at[0][o].is_donated)
            return TB_FAIL(TB_ERR_UNSUPPORTED, "%s writes in place; a graph has no place", n->op->name);
        types[o] = (tb_value){.dtype = at[0][o].dtype, .rank = at[0][o].rank};
        for (int i = 0; i < types[o].rank; i++) {
            int64_t moved[TB_MAX_SYMBOLS] = {0};
            for (int s = 0; s < g->n_symbols; s++) moved[s] = at[s + 1][o].dims[i];
            if (at[0][o].dims[i] < 0)
                return TB_FAIL(TB_ERR_SHAPE, "%s: impossible shape %s", n->op->name,
                               tb_dims_text(at[0][o].rank, at[0][o].dims));
            if (!tbi_unify(at[0][o].dims[i], moved, g->n_symbols, &types[o].dims[i]))
                return TB_FAIL(TB_ERR_SHAPE, "%s: dimension %d of its result is not affine in the graph's symbols",
                               n->op->name, i);
        }
    }
    return TB_OK;
}

static tb_status node_fill(tb_node *n, const void *attrs, int n_symbolic, const tb_symbolic *symbolic, const int *in)
{
    n->in = tb_calloc((size_t)n->n_in + 1, sizeof *n->in);
    if (!n->in) return TB_ERR_OOM;
    if (n->n_in) memcpy(n->in, in, sizeof *in * (size_t)n->n_in);
    if (n->op->attrs_bytes > sizeof(uint64_t) * MAX_ATTR_WORDS)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "%s: attributes too large for a graph", n->op->name);
    if (attrs && n->op->attrs_bytes) {
        n->attrs = tb_calloc(1, n->op->attrs_bytes);
        if (!n->attrs) return TB_ERR_OOM;
        memcpy(n->attrs, attrs, n->op->attrs_bytes);
    }
    if (n_symbolic) {
        n->symbolic = tb_calloc((size_t)n_symbolic, sizeof *symbolic);
        if (!n->symbolic) return TB_ERR_OOM;
        memcpy(n->symbolic, symbolic, sizeof *symbolic * (size_t)n_symbolic);
        n->n_symbolic = n_symbolic;
    }
    return TB_OK;
}

tb_status tb_graph_node(tb_graph *g, const tb_op *op, const void *attrs, int n_symbolic, const tb_symbolic *symbolic,
                        int n_in, const int *in, int *out)
{
    tb_value types[TB_MAX_OUT];
    tb_node n = {.op = op, .n_in = n_in, .n_out = op->n_out};
    tb_status st = node_fill(&n, attrs, n_symbolic, symbolic, in);
    if (st == TB_OK) st = result_types(g, &n, types);
    if (st == TB_OK) st = grow(&g->nodes, g->n_nodes, &g->nodes_capacity, sizeof *g->nodes);
    for (int o = 0; st == TB_OK && o < op->n_out; o++) {
        st = value_new(g, "", types[o].dtype, types[o].rank, types[o].dims, &n.out[o]);
        if (st != TB_OK) break;
        g->values[n.out[o]].producer = g->n_nodes;
        g->values[n.out[o]].output = o;
        out[o] = n.out[o];
    }
    if (st != TB_OK) {
        node_clear(&n);
        return st;
    }
    g->nodes[g->n_nodes++] = n;
    return TB_OK;
}

/* ---- changing ---- */
void tb_graph_replace(tb_graph *g, int value, int by)
{
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; g->nodes[i].op && k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] == value) g->nodes[i].in[k] = by;
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] == value) {
            g->outputs[i] = by;
            if (!g->values[by].constant && !g->values[by].is_input)
                memcpy(g->values[by].name, g->values[value].name, sizeof g->values[by].name);
        }
}

int tb_graph_uses(const tb_graph *g, int value)
{
    int uses = 0;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; g->nodes[i].op && k < g->nodes[i].n_in; k++) uses += g->nodes[i].in[k] == value;
    for (int i = 0; i < g->n_outputs; i++) uses += g->outputs[i] == value;
    return uses;
}

/* Depth-first from the outputs, operands before users: what is not reached is dropped. */
static tb_status visit(const tb_graph *g, int node, int *state, int *order, int *n_order)
{
    struct frame {
        int node, next;
    } *stack = tb_calloc((size_t)g->n_nodes + 1, sizeof *stack);
    int depth = 0;
    if (!stack) return TB_ERR_OOM;
    stack[depth++] = (struct frame){node, 0};
    state[node] = 1;
    while (depth > 0) {
        struct frame *f = &stack[depth - 1];
        const tb_node *n = &g->nodes[f->node];
        if (f->next == n->n_in) {
            state[f->node] = 2;
            order[(*n_order)++] = f->node;
            depth--;
            continue;
        }
        int operand = n->in[f->next++];
        int producer = operand == TB_NO_VALUE ? -1 : g->values[operand].producer;
        if (producer < 0 || state[producer] == 2) continue;
        if (state[producer] == 1) {
            tb_free(stack);
            return TB_FAIL(TB_ERR_INTERNAL, "graph %s has a cycle through %s", g->name, g->nodes[producer].op->name);
        }
        state[producer] = 1;
        stack[depth++] = (struct frame){producer, 0};
    }
    tb_free(stack);
    return TB_OK;
}

static void renumber(tb_graph *g, const int *order, int n_order, int *value_map)
{
    for (int i = 0; i < g->n_values; i++) value_map[i] = TB_NO_VALUE;
    int n = 0;
    for (int i = 0; i < g->n_inputs; i++) value_map[g->inputs[i]] = n++;
    for (int i = 0; i < n_order; i++) {
        const tb_node *node = &g->nodes[order[i]];
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k] != TB_NO_VALUE && value_map[node->in[k]] == TB_NO_VALUE) value_map[node->in[k]] = n++;
        for (int o = 0; o < node->n_out; o++) value_map[node->out[o]] = n++;
    }
    for (int i = 0; i < g->n_outputs; i++)
        if (value_map[g->outputs[i]] == TB_NO_VALUE) value_map[g->outputs[i]] = n++;
}

static tb_status rebuild(tb_graph *g, const int *order, int n_order, const int *value_map)
{
    tb_node *nodes = tb_calloc((size_t)n_order + 1, sizeof *nodes);
    tb_value *values = tb_calloc((size_t)g->n_values + 1, sizeof *values);
    if (!nodes || !values) {
        tb_free(nodes);
        tb_free(values);
        return TB_ERR_OOM;
    }
    int n_values = 0;
    for (int i = 0; i < g->n_values; i++) {
        if (value_map[i] == TB_NO_VALUE) {
            tb_release(g->values[i].constant);
            continue;
        }
        values[value_map[i]] = g->values[i];
        n_values++;
    }
    for (int i = 0; i < n_order; i++) {
        nodes[i] = g->nodes[order[i]];
        g->nodes[order[i]] = (tb_node){0};
        for (int k = 0; k < nodes[i].n_in; k++)
            if (nodes[i].in[k] != TB_NO_VALUE) nodes[i].in[k] = value_map[nodes[i].in[k]];
        for (int o = 0; o < nodes[i].n_out; o++) {
            nodes[i].out[o] = value_map[nodes[i].out[o]];
            values[nodes[i].out[o]].producer = i;
        }
    }
    for (int i = 0; i < g->n_nodes; i++) node_clear(&g->nodes[i]);
    for (int i = 0; i < g->n_inputs; i++) g->inputs[i] = value_map[g->inputs[i]];
    for (int i = 0; i < g->n_outputs; i++) g->outputs[i] = value_map[g->outputs[i]];
    tb_free(g->nodes);
    tb_free(g->values);
    g->nodes = nodes;
    g->n_nodes = n_order;
    g->nodes_capacity = n_order + 1;
    g->values_capacity = g->n_values + 1;
    g->values = values;
    g->n_values = n_values;
    return TB_OK;
}

tb_status tb_graph_compact(tb_graph *g)
{
    int *state = tb_calloc((size_t)g->n_nodes + 1, sizeof *state);
    int *order = tb_calloc((size_t)g->n_nodes + 1, sizeof *order);
    int *value_map = tb_calloc((size_t)g->n_values + 1, sizeof *value_map), n_order = 0;
    tb_status st = state && order && value_map ? TB_OK : TB_ERR_OOM;
    for (int i = 0; i < g->n_outputs && st == TB_OK; i++) {
        int producer = g->values[g->outputs[i]].producer;
        if (producer >= 0 && state[producer] == 0) st = visit(g, producer, state, order, &n_order);
    }
    if (st == TB_OK) {
        renumber(g, order, n_order, value_map);
        st = rebuild(g, order, n_order, value_map);
    }
    tb_free(state);
    tb_free(order);
    tb_free(value_map);
    return st;
}

/* ---- verifier ---- */
static tb_status verify_node(const tb_graph *g, int at)
{
    const tb_node *n = &g->nodes[at];
    tb_value types[TB_MAX_OUT];
    if (!n->op) return TB_FAIL(TB_ERR_INTERNAL, "graph %s: node %d is deleted", g->name, at);
    for (int k = 0; k < n->n_in; k++) {
        if (n->in[k] == TB_NO_VALUE) continue;
        if (n->in[k] < 0 || n->in[k] >= g->n_values || g->values[n->in[k]].producer >= at)
            return TB_FAIL(TB_ERR_INTERNAL, "graph %s: node %d (%s) uses %%%d before it is made", g->name, at,
                           n->op->name, n->in[k]);
    }
    TB_TRY(result_types(g, n, types));
    for (int o = 0; o < n->n_out; o++) {
        const tb_value *v = &g->values[n->out[o]];
        bool same = v->dtype == types[o].dtype && v->rank == types[o].rank && v->producer == at && v->output == o;
        for (int i = 0; same && i < v->rank; i++) same = tb_dim_equal(v->dims[i], types[o].dims[i]);
        if (!same)
            return TB_FAIL(TB_ERR_INTERNAL,
                           "graph %s: node %d (%s): the type of its result %%%d is not what the op makes", g->name, at,
                           n->op->name, n->out[o]);
    }
    return TB_OK;
}

tb_status tb_graph_verify(const tb_graph *g)
{
    for (int i = 0; i < g->n_nodes; i++) TB_TRY(verify_node(g, i));
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] < 0 || g->outputs[i] >= g->n_values)
            return TB_FAIL(TB_ERR_INTERNAL, "graph %s: output %d is no value", g->name, i);
    for (int i = 0; i < g->n_values; i++) {
        const tb_value *v = &g->values[i];
        if ((v->producer >= 0) + (v->constant != NULL) + v->is_input != 1)
            return TB_FAIL(TB_ERR_INTERNAL, "graph %s: %%%d is not exactly one of input, constant, result", g->name, i);
        for (int k = 0; v->constant && k < i; k++)
            if (g->values[k].constant && strcmp(g->values[k].name, v->name) == 0)
                return TB_FAIL(TB_ERR_INTERNAL, "graph %s: two constants are named '%s'", g->name, v->name);
    }
    return TB_OK;
}
