/* Fusion. Epilogue: the addition of a residual, and an activation, move into the linear or convolution that feeds them.
 * Pointwise: a chain or tree of pointwise nodes becomes one program. A producer joins only when nothing else uses it:
 * its value then lives in registers or L1 and is never written. */
#include "pass_internal.h"
#include "fused_pointwise.h"
#include "tb_ops.h"

/* ---- epilogues ---- */
static int act_number(const tb_op *op)
{
    return op == &tb_op_relu ? TB_ACT_RELU : op == &tb_op_gelu_tanh ? TB_ACT_GELU_TANH
           : op == &tb_op_gelu_erf ? TB_ACT_GELU_ERF : op == &tb_op_silu ? TB_ACT_SILU : TB_ACT_NONE;
}

/* An anchor with an epilogue is another op: operands x, w, bias, residual, and the activation's number among its
 * attributes. What both ops have lies at the same places. */
static const tb_op *with_epilogue(const tb_op *anchor)
{
    return anchor == &tb_op_linear || anchor == &tb_op_linear_act   ? &tb_op_linear_act
           : anchor == &tb_op_conv2d || anchor == &tb_op_conv2d_act ? &tb_op_conv2d_act
           : anchor == &tb_op_linear_dynamic_s8                     ? anchor
                                                                    : NULL;
}

/* The residual is the last operand. */
static int residual_place(const tb_op *anchor) { return with_epilogue(anchor)->n_in - 1; }

static size_t act_offset(const tb_op *op)
{
    for (int i = 0; i < op->n_attrs; i++)
        if (strcmp(op->attrs[i].name, "act") == 0) return op->attrs[i].offset;
    return SIZE_MAX;
}

int64_t tbi_act_of(const tb_node *n)
{
    size_t at = act_offset(n->op);
    int64_t act = TB_ACT_NONE;
    if (n->attrs && at != SIZE_MAX) memcpy(&act, (const char *)n->attrs + at, sizeof act);
    return act;
}

static bool same_dims(const tb_value *a, const tb_value *b)
{
    bool same = a->rank == b->rank && a->dtype == b->dtype;
    for (int i = 0; same && i < a->rank; i++) same = tb_dim_equal(a->dims[i], b->dims[i]);
    return same;
}

const char *tbi_epilogue_refusal(const tb_graph *g, int user, int k)
{
    const tb_node *u = &g->nodes[user];
    int anchor = tbi_producer(g, u->in[k], NULL, false);
    bool adds = u->op == &tb_op_add;
    if (anchor < 0 || !with_epilogue(g->nodes[anchor].op) || (!adds && act_number(u->op) == TB_ACT_NONE)) return NULL;
    const tb_node *a = &g->nodes[anchor];
    if (tb_graph_uses(g, u->in[k]) != 1) return "its result has other uses";
    if (tbi_act_of(a) != TB_ACT_NONE) return "it has an activation already";
    if (!adds) return "";
    if (a->n_in > residual_place(a->op)) return "it has a residual already";
    if (!same_dims(&g->values[u->in[1 - k]], &g->values[u->out[0]])) return "the sum broadcasts its other operand";
    return same_dims(&g->values[u->in[k]], &g->values[u->out[0]]) ? "" : "its shape is broadcast by the user";
}

/* The anchor that makes operand `k` of the activation or addition `user`, where it can take that over; -1: none. */
static int anchor_for(const tb_graph *g, int user, int k)
{
    const char *refusal = tbi_epilogue_refusal(g, user, k);
    return refusal && !*refusal ? g->values[g->nodes[user].in[k]].producer : -1;
}

/* The anchor again with what `user` does; `residual` may be TB_NO_VALUE. */
static tb_status attach(tb_graph *g, int anchor, int user, int residual)
{
    const tb_node *n = &g->nodes[anchor];
    const tb_op *op = with_epilogue(n->op);
    int out[TB_MAX_OUT], in[8], last = residual_place(op);
    uint64_t attrs[MAX_ATTR_WORDS] = {0};
    int64_t act = act_number(g->nodes[user].op);
    for (int k = 0; k <= last; k++) in[k] = k < n->n_in ? n->in[k] : TB_NO_VALUE;
    if (residual != TB_NO_VALUE) in[last] = residual;
    if (n->attrs) memcpy(attrs, n->attrs, n->op->attrs_bytes);
    memcpy((char *)attrs + act_offset(op), &act, sizeof act);
    TB_TRY(tb_graph_node(g, op, attrs, n->n_symbolic, n->symbolic, in[last] == TB_NO_VALUE ? last : last + 1, in, out));
    tb_graph_replace(g, g->nodes[user].out[0], out[0]);
    return TB_OK;
}

static tb_status epilogue(tb_graph *g, tb_pass_run *r)
{
    int n = g->n_nodes;
    for (int i = 0; i < n; i++) {
        const tb_node *u = &g->nodes[i];
        int k = 0, anchor = -1;
        if (!u->op) continue;
        if (u->op == &tb_op_add) { /* of two anchors the later one: its operands are ready last */
            int first = anchor_for(g, i, 0), second = anchor_for(g, i, 1);
            k = second > first;
            anchor = k ? second : first;
        } else if (act_number(u->op) != TB_ACT_NONE) {
            anchor = anchor_for(g, i, 0);
        }
        if (anchor < 0) continue;
        if (!tb_pass_may_rewrite(r, u->op == &tb_op_add ? "add residual" : "activate")) return TB_OK;
        TB_TRY(attach(g, anchor, i, u->op == &tb_op_add ? u->in[1 - k] : TB_NO_VALUE));
    }
    return TB_OK;
}

const tb_pass tbi_pass_epilogue = {
    .name = "epilogue",
    .doc = "moves residual sums and activations into the linear or convolution before them",
    .is_fusion = true,
    .run = epilogue,
};

/* ---- pointwise groups ---- */
typedef struct group {
    int member[TB_PROGRAM_STEPS], n;   /* nodes, operands before users; the last is the root */
    int input[TB_PROGRAM_INPUTS], n_inputs;
    int open, owed; /* nodes that join once their operands are settled; operands that may still become inputs */
} group;

static bool fits(const tb_graph *g, int node)
{
    const tb_node *n = &g->nodes[node];
    if (!n->op || !tbi_can_fuse(n->op) || g->values[n->out[0]].dtype != TB_F32) return false;
    for (int k = 0; k < n->n_in; k++)
        if (g->values[n->in[k]].dtype != TB_F32) return false;
    return true;
}

static int index_of(const int *list, int n, int x)
{
    for (int i = 0; i < n; i++)
        if (list[i] == x) return i;
    return -1;
}

/* Whether it is in a program already or could be in one. */
static bool is_pointwise(const tb_graph *g, int node)
{
    return fits(g, node) || g->nodes[node].op == &tb_op_fused_pointwise;
}

const char *tbi_pointwise_refusal(const tb_graph *g, int user, int k)
{
    const tb_node *u = &g->nodes[user];
    int value = u->in[k], producer = tbi_producer(g, value, NULL, false), own_uses = 0;
    if (producer < 0 || !is_pointwise(g, user) || !is_pointwise(g, producer)) return NULL;
    for (int i = 0; i < u->n_in; i++) own_uses += u->in[i] == value;
    if (!same_dims(&g->values[value], &g->values[u->out[0]])) return "its shape is broadcast by the user";
    if (tb_graph_uses(g, value) != own_uses) return "its result has other uses";
    return fits(g, user) && fits(g, producer) ? "" : "the program is full";
}

/* Grows the group upwards from `node`; operands first, so that members come out in order. */
static void collect(const tb_graph *g, int node, const bool *taken, group *out)
{
    const tb_node *n = &g->nodes[node];
    out->open++;
    out->owed += n->n_in;
    for (int k = 0; k < n->n_in; k++) {
        int value = n->in[k], producer = g->values[value].producer;
        const char *refusal = tbi_pointwise_refusal(g, node, k);
        int more = producer < 0 ? 0 : g->nodes[producer].n_in;
        out->owed--;
        bool has_room =
            out->n + out->open < TB_PROGRAM_STEPS && out->n_inputs + out->owed + more <= TB_PROGRAM_INPUTS;
        if (producer >= 0 && index_of(out->member, out->n, producer) >= 0) continue;
        if (refusal && !*refusal && !taken[producer] && has_room)
            collect(g, producer, taken, out);
        else if (index_of(out->input, out->n_inputs, value) < 0)
            out->input[out->n_inputs++] = value;
    }
    out->open--;
    out->member[out->n++] = node;
}

static tb_status replace_group(tb_graph *g, const group *grp)
{
    tb_program p = {.n = grp->n};
    int out[TB_MAX_OUT];
    for (int i = 0; i < grp->n; i++) {
        const tb_node *n = &g->nodes[grp->member[i]];
        p.step[i].op = (int16_t)n->op->id;
        for (int k = 0; k < n->n_in; k++) {
            int member = index_of(grp->member, grp->n, g->values[n->in[k]].producer);
            p.step[i].operand[k] = (uint8_t)(member >= 0 ? TB_PROGRAM_INPUTS + member
                                                         : index_of(grp->input, grp->n_inputs, n->in[k]));
        }
    }
    TB_TRY(tb_graph_node(g, &tb_op_fused_pointwise, &p, 0, NULL, grp->n_inputs, grp->input, out));
    tb_graph_replace(g, g->nodes[grp->member[grp->n - 1]].out[0], out[0]);
    return TB_OK;
}

static tb_status fuse(tb_graph *g, tb_pass_run *r)
{
    int n = g->n_nodes;
    bool *taken = tb_calloc((size_t)n + 1, sizeof *taken);
    tb_status st = taken ? TB_OK : TB_ERR_OOM;
    for (int i = n - 1; i >= 0 && st == TB_OK; i--) { /* roots: what no user, later in the order, has taken */
        group grp = {0};
        if (taken[i] || !fits(g, i)) continue;
        collect(g, i, taken, &grp);
        if (grp.n < 2 || grp.n_inputs < 1) continue;
        if (!tb_pass_may_rewrite(r, "pointwise program")) break;
        for (int k = 0; k < grp.n; k++) taken[grp.member[k]] = true;
        st = replace_group(g, &grp);
    }
    tb_free(taken);
    return st;
}

const tb_pass tbi_pass_fuse = {
    .name = "fuse",
    .doc = "makes one program of pointwise chains",
    .is_fusion = true,
    .run = fuse,
};
