/* Why the nodes of a compiled graph are not one: the reason that keeps each edge. */
#include "pass_internal.h"
#include "tb_ops.h"

static bool is_view(const tb_graph *g, int node) { return g->nodes[node].op->fusion == TB_FUSE_VIEW; }

/* The node that computes what `value` shows; -1: an input or a constant. */
static int source_of(const tb_graph *g, int value)
{
    int node = tbi_producer(g, value, NULL, false);
    while (node >= 0 && is_view(g, node)) node = tbi_producer(g, g->nodes[node].in[0], NULL, false);
    return node;
}

/* Where no pass looks at such a pair. */
static const char *by_kind(const tb_op *from, const tb_op *to, bool is_seen_through_view)
{
    bool is_tail = to->fusion == TB_FUSE_POINTWISE;
    if (to->fusion == TB_FUSE_ANCHOR) return "a product reads its operands by itself: nothing moves in before it";
    if (to->fusion == TB_FUSE_ROW) return "a reduction reads its operands by itself: nothing moves in before it";
    if (is_tail && from->fusion == TB_FUSE_ANCHOR) return "this product takes no such tail";
    if (is_tail && from->fusion != TB_FUSE_POINTWISE) return "only products and pointwise ops take a tail";
    if (is_tail && is_seen_through_view) return "a view lies between them";
    return is_tail ? "programs hold pointwise ops of f32 without attributes" : "only pointwise ops move";
}

static const char *reason_of(const tb_graph *g, int from, int user, int k)
{
    const char *(*const passes[])(const tb_graph *, int, int) = {
        tbi_channels_refusal, tbi_attention_refusal, tbi_epilogue_refusal, tbi_pooling_refusal, tbi_pointwise_refusal};
    bool is_direct = g->values[g->nodes[user].in[k]].producer == from;
    for (int i = 0; is_direct && i < (int)(sizeof passes / sizeof passes[0]); i++) {
        const char *reason = passes[i](g, user, k);
        if (reason && *reason) return reason;
        if (reason) return "nothing stands against it, but the pass was left out or stopped";
    }
    return by_kind(g->nodes[from].op, g->nodes[user].op, !is_direct);
}

void tbi_explain(const tb_graph *g, tb_text *to)
{
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; !is_view(g, i) && k < g->nodes[i].n_in; k++) {
            int from = source_of(g, g->nodes[i].in[k]);
            if (from < 0) continue;
            tb_text_add(to, "%%%d %s -> %%%d %s: not fused: %s\n", g->nodes[from].out[0], g->nodes[from].op->name,
                        g->nodes[i].out[0], g->nodes[i].op->name, reason_of(g, from, i, k));
        }
}
