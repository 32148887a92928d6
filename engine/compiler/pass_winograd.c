/* Convolutions of 3x3 and 5x5 with constant weights become conv2d_winograd, where that takes at most half the products;
 * then the pooling of 2x2 behind one moves into it. Rounds differently. */
#include "conv2d.h"
#include "pass_internal.h"
#include "tb_ops.h"

typedef struct pool_window { /* what max_pool2d's attributes begin with */
    tb_ints kernel, stride, pad;
} pool_window;

/* Fewer channels leave the transforms too little to save. */
enum { FEWEST_CHANNELS = 8 };

static bool is_pair(const tb_ints *a, int64_t x) { return a->n == 2 && a->at[0] == x && a->at[1] == x; }

static bool is_number(tb_dim d) { return tb_dim_equal(d, tb_dim_of(d.base)); }

static bool pays(const tb_graph *g, const tb_node *n)
{
    tbi_conv_window window;
    const tb_value *y = &g->values[n->out[0]];
    if (!tbi_is_constant(g, n->in[1]) || y->dtype != TB_F32 || !is_number(y->dims[2]) || !is_number(y->dims[3]))
        return false;
    memcpy(&window, n->attrs, sizeof window);
    const int64_t *w = g->values[n->in[1]].constant->dims, r = w[2], m = 7 - r;
    if ((r != 3 && r != 5) || w[3] != r || !is_pair(&window.stride, 1) || !is_pair(&window.dilation, 1) ||
        window.groups != 1 || w[0] < FEWEST_CHANNELS || w[1] < FEWEST_CHANNELS)
        return false;
    int64_t h = y->dims[2].base, width = y->dims[3].base, tiles = ((h + m - 1) / m) * ((width + m - 1) / m);
    return 2 * 36 * tiles <= h * width * r * r;
}

static tb_status replace_convolution(tb_graph *g, int at)
{
    const tb_node *n = &g->nodes[at];
    tbi_conv_window window;
    int in[4], out[TB_MAX_OUT], n_in = n->n_in;
    memcpy(&window, n->attrs, sizeof window);
    tbi_conv2d_winograd_attrs a = {.pad = window.pad, .act = tbi_act_of(n)};
    for (int k = 0; k < n_in; k++) in[k] = n->in[k];
    TB_TRY(tb_graph_node(g, &tb_op_conv2d_winograd, &a, 0, NULL, n_in, in, out));
    tb_graph_replace(g, g->nodes[at].out[0], out[0]);
    return TB_OK;
}

const char *tbi_pooling_refusal(const tb_graph *g, int pool, int k)
{
    const tb_node *n = &g->nodes[pool];
    int conv = n->op == &tb_op_max_pool2d && k == 0 ? tbi_producer(g, n->in[0], &tb_op_conv2d_winograd, false) : -1;
    if (conv < 0) return NULL;
    const pool_window *p = n->attrs;
    const tb_node *c = &g->nodes[conv];
    const tbi_conv2d_winograd_attrs *a = c->attrs;
    if (!is_pair(&p->kernel, 2) || !is_pair(&p->stride, 2) || !is_pair(&p->pad, 0))
        return "its windows are not 2x2 side by side";
    if (tb_graph_uses(g, n->in[0]) != 1) return "its result has other uses";
    if (tb_graph_uses(g, n->out[1]) != 0) return "the places of the maxima are used";
    bool is_full = a->is_pooled || a->act > TB_ACT_RELU || c->n_in > 3;
    return is_full ? "it has a pooling, a residual or a gelu" : "";
}

/* The convolution that the pooling can move into, or -1. */
static int pooled_by(const tb_graph *g, int pool)
{
    const char *refusal = tbi_pooling_refusal(g, pool, 0);
    return refusal && !*refusal ? g->values[g->nodes[pool].in[0]].producer : -1;
}

static tb_status take_pooling(tb_graph *g, int conv, int pool)
{
    const tb_node *c = &g->nodes[conv];
    tbi_conv2d_winograd_attrs a = *(const tbi_conv2d_winograd_attrs *)c->attrs;
    int in[3], out[TB_MAX_OUT], n_in = c->n_in;
    a.is_pooled = true;
    for (int k = 0; k < n_in; k++) in[k] = c->in[k];
    TB_TRY(tb_graph_node(g, &tb_op_conv2d_winograd, &a, 0, NULL, n_in, in, out));
    tb_graph_replace(g, g->nodes[pool].out[0], out[0]);
    return TB_OK;
}

static tb_status winograd(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        const tb_op *op = g->nodes[i].op;
        if ((op != &tb_op_conv2d && op != &tb_op_conv2d_act) || !pays(g, &g->nodes[i])) continue;
        if (!tb_pass_may_rewrite(r, "filter minimally")) return TB_OK;
        TB_TRY(replace_convolution(g, i));
    }
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        int conv = g->nodes[i].op ? pooled_by(g, i) : -1;
        if (conv < 0) continue;
        if (!tb_pass_may_rewrite(r, "pool in tiles")) return TB_OK;
        TB_TRY(take_pooling(g, conv, i));
    }
    return TB_OK;
}

const tb_pass tbi_pass_winograd = {
    .name = "winograd",
    .doc = "convolves by minimal filtering, with the pooling behind it",
    .is_inexact = true,
    .is_fast = true,
    .is_fusion = true,
    .run = winograd,
};
