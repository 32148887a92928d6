/* What both rewrites need: multiply-adds, constants, the list of what stays f32. */
#include "graph_internal.h"
#include "quant_internal.h"
#include "tb_ops.h"
#include <string.h>

double tb_quant_macs(const tb_graph *g, int node)
{
    const tb_node *n = &g->nodes[node];
    tb_tensor operands[MAX_OPERANDS], *in[MAX_OPERANDS];
    const int64_t sizes[TB_MAX_SYMBOLS] = {1, 1};
    uint64_t attrs[MAX_ATTR_WORDS];
    tb_cost cost = {0};
    if (!n->op || n->op->fusion != TB_FUSE_ANCHOR || !n->op->cost) return 0;
    tb_op_call c = {.op = n->op, .ctx = tb_ctx_current(), .attrs = n->attrs ? attrs : NULL, .n_in = n->n_in, .in = in};
    tbi_attrs_at(n, sizes, attrs);
    for (int k = 0; k < n->n_in; k++) {
        in[k] = n->in[k] == TB_NO_VALUE ? NULL : &operands[k];
        if (in[k]) tbi_describe(&g->values[n->in[k]], sizes, in[k]);
    }
    if (n->op->shape(&c) == TB_OK) n->op->cost(&c, &cost);
    return cost.flops / 2;
}

void tbi_keep(tb_quant_report *r, const tb_graph *g, int node, const char *reason)
{
    const tb_node *n = &g->nodes[node];
    int weight = n->n_in > 1 ? n->in[1] : TB_NO_VALUE;
    if (r->n_kept == (int)(sizeof r->kept / sizeof r->kept[0])) return;
    bool is_named = weight != TB_NO_VALUE && g->values[weight].constant;
    snprintf(r->kept[r->n_kept].layer, sizeof r->kept[0].layer, "%s", is_named ? g->values[weight].name : n->op->name);
    r->kept[r->n_kept++].reason = reason;
}

/* The constant of that name, or TB_NO_VALUE. */
static int constant_named(const tb_graph *g, const char *name)
{
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].constant && strcmp(g->values[i].name, name) == 0) return i;
    return TB_NO_VALUE;
}

static bool holds(tb_tensor *t, tb_dtype dtype, int rank, const int64_t *dims, const void *data)
{
    bool same = t->dtype == dtype && t->rank == rank && t->is_contiguous;
    for (int i = 0; same && i < rank; i++) same = t->dims[i] == dims[i];
    return same && memcmp(tb_tensor_host(t), data, tb_tensor_bytes(t)) == 0;
}

tb_status tbi_layer_constant(tb_graph *g, const char *layer, const char *what, tb_dtype dtype, int rank,
                             const int64_t *dims, const void *data, int *id)
{
    char name[64];
    snprintf(name, sizeof name, "%.44s.%s", layer, what);
    for (int use = 2; (*id = constant_named(g, name)) != TB_NO_VALUE; use++) {
        if (holds(g->values[*id].constant, dtype, rank, dims, data)) return TB_OK;
        snprintf(name, sizeof name, "%.44s.%s.%d", layer, what, use);
    }
    tb_scope *s = tb_scope_open();
    tb_tensor *t = tb_tensor_from(dtype, rank, dims, data);
    tb_status st = tb_is_poison(t) ? tb_ctx_take_error(tb_ctx_current()) : tb_graph_constant(g, name, t, id);
    tb_scope_close(s);
    return st;
}
