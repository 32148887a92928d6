/* Rewrites that need one node and its operands: what changes nothing is dropped, views of views become one, constants
 * are computed now, equal nodes become one. All keep the bits. */
#include "pass_internal.h"
#include "tb_ops.h"

static bool same_type(const tb_value *a, const tb_value *b)
{
    bool same = a->dtype == b->dtype && a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++) same = tb_dim_equal(a->dims[i], b->dims[i]);
    return same;
}

/* reshape, expand and cast to what the operand is already; a permutation that moves nothing. */
static bool changes_nothing(const tb_graph *g, const tb_node *n)
{
    const tb_value *in = &g->values[n->in[0]], *out = &g->values[n->out[0]];
    if (n->op == &tb_op_permute) {
        const tb_ints *order = (const tb_ints *)((const char *)n->attrs + n->op->attrs[0].offset);
        for (int i = 0; i < order->n; i++)
            if (order->at[i] != i && order->at[i] != i - order->n) return false;
        return true;
    }
    bool may = n->op == &tb_op_reshape || n->op == &tb_op_expand || n->op == &tb_op_cast;
    return may && same_type(in, out);
}

static tb_status simplify(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0; i < g->n_nodes; i++) {
        tb_node *n = &g->nodes[i];
        if (!n->op || n->n_in < 1) continue;
        int before = tbi_producer(g, n->in[0], n->op, false);
        if (before >= 0 && n->op == &tb_op_reshape) { /* what is left may change nothing */
            if (!tb_pass_may_rewrite(r, "merge reshapes")) return TB_OK;
            n->in[0] = g->nodes[before].in[0];
        }
        if (changes_nothing(g, n)) {
            if (!tb_pass_may_rewrite(r, "drop what changes nothing")) return TB_OK;
            tb_graph_replace(g, n->out[0], n->in[0]);
        } else if (before >= 0 && n->op == &tb_op_neg) {
            if (!tb_pass_may_rewrite(r, "drop double negation")) return TB_OK;
            tb_graph_replace(g, n->out[0], g->nodes[before].in[0]);
        }
    }
    return TB_OK;
}

const tb_pass tbi_pass_simplify = {
    .name = "simplify",
    .doc = "drops what changes nothing, merges reshapes",
    .run = simplify,
};

/* ---- constant folding: the kernels themselves compute it ---- */
enum { MAX_GROWTH_BYTES = 1 << 20 }; /* a folded constant may not make the artefact larger than this */

static bool can_fold(const tb_graph *g, const tb_node *n)
{
    if (!n->op || n->n_symbolic || n->op->is_random || n->op->n_out != 1 || n->n_in > 8) return false;
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != TB_NO_VALUE && !tbi_is_constant(g, n->in[k])) return false;
    int64_t bytes = (int64_t)tb_dtype_size(g->values[n->out[0]].dtype), in_bytes = 0;
    for (int i = 0; i < g->values[n->out[0]].rank; i++) {
        for (int s = 0; s < TB_MAX_SYMBOLS; s++)
            if (g->values[n->out[0]].dims[i].per[s]) return false;
        bytes *= g->values[n->out[0]].dims[i].base;
    }
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] != TB_NO_VALUE) in_bytes += (int64_t)tb_tensor_bytes(g->values[n->in[k]].constant);
    return bytes <= in_bytes + MAX_GROWTH_BYTES;
}

static tb_status fold_node(tb_graph *g, int at)
{
    const tb_node *n = &g->nodes[at];
    tb_tensor *in[8], *out[TB_MAX_OUT];
    char name[64];
    int id = TB_NO_VALUE;
    for (int k = 0; k < n->n_in; k++) in[k] = n->in[k] == TB_NO_VALUE ? NULL : g->values[n->in[k]].constant;
    tb_scope *scope = tb_scope_open();
    tb_mem_tag tag = tb_ctx_set_tag(tb_ctx_current(), TB_MEM_PARAM);
    tb_dispatch(n->op, n->attrs, in, n->n_in, out);
    tb_tensor *value = tb_is_poison(out[0]) || out[0]->is_contiguous ? out[0] : tb_copy(out[0]);
    tb_ctx_set_tag(tb_ctx_current(), tag);
    tb_status st = tb_ctx_take_error(tb_ctx_current());
    tbi_unique_name(g, "folded", name, sizeof name);
    if (st == TB_OK) st = tb_graph_constant(g, name, value, &id);
    if (st == TB_OK) tb_graph_replace(g, g->nodes[at].out[0], id);
    tb_scope_close(scope);
    return st;
}

static tb_status fold(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0; i < g->n_nodes; i++) {
        if (!can_fold(g, &g->nodes[i])) continue;
        if (!tb_pass_may_rewrite(r, "fold")) return TB_OK;
        TB_TRY(fold_node(g, i));
    }
    return TB_OK;
}

const tb_pass tbi_pass_fold = {
    .name = "fold",
    .doc = "computes what depends on constants only",
    .run = fold,
};

/* ---- common subexpressions ---- */
static bool same_node(const tb_node *a, const tb_node *b)
{
    if (a->op != b->op || a->n_in != b->n_in || a->n_symbolic != b->n_symbolic || !a->attrs != !b->attrs) return false;
    for (int k = 0; k < a->n_in; k++)
        if (a->in[k] != b->in[k]) return false;
    for (int i = 0; i < a->n_symbolic; i++)
        if (a->symbolic[i].offset != b->symbolic[i].offset ||
            !tb_dim_equal(a->symbolic[i].dim, b->symbolic[i].dim)) return false;
    return !a->attrs || memcmp(a->attrs, b->attrs, a->op->attrs_bytes) == 0;
}

static tb_status cse(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < i; k++) {
            if (!g->nodes[i].op || g->nodes[i].op->is_random || !same_node(&g->nodes[i], &g->nodes[k])) continue;
            if (tb_graph_uses(g, g->nodes[i].out[0]) == 0) break; /* merged already */
            if (!tb_pass_may_rewrite(r, "merge equal nodes")) return TB_OK;
            for (int o = 0; o < g->nodes[i].n_out; o++) tb_graph_replace(g, g->nodes[i].out[o], g->nodes[k].out[o]);
            break;
        }
    return TB_OK;
}

const tb_pass tbi_pass_cse = {
    .name = "cse",
    .doc = "merges equal nodes",
    .run = cse,
};
