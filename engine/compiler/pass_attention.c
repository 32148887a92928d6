/* Attention written out: softmax(factor q k^T + mask) v becomes the op that never keeps the scores (Dao et al.,
 * "FlashAttention", 2022). Factors are constant numbers, the mask is a causal one of constants, added or chosen by
 * `where`. The op sums in another order, so results round differently. */
#include "pass_internal.h"
#include "tb_ops.h"
#include <math.h>

enum {
    RANK = 4,    /* of the op's operands: batch, heads, length, width */
    FEWEST = 128 /* queries and keys: with fewer the op's packing costs more than the scores do (measured) */
};
static const double HIDDEN = -1e9; /* a score from here on counts as never seen: exp of it is 0 beside any other's */

typedef struct attention_attrs { /* of scaled_dot_product_attention */
    bool causal;
    double scale;
} attention_attrs;

typedef struct pattern {
    int q, keys, v;  /* k^T is `keys` permuted */
    tb_ints k_order; /* k is `keys` in this order of axes */
    attention_attrs attrs;
} pattern;

/* ---- constants ---- */
/* One element of a constant that broadcasts over matrices. */
static double element(tb_tensor *t, int64_t row, int64_t column)
{
    int64_t at = 0;
    if (t->rank > 1 && t->dims[t->rank - 2] > 1) at += row * t->strides[t->rank - 2];
    if (t->rank > 0 && t->dims[t->rank - 1] > 1) at += column * t->strides[t->rank - 1];
    tb_dtype dtype = (tb_dtype)t->dtype;
    return tb_load_f64(dtype, (const char *)tb_tensor_host(t) + at * (int64_t)tb_dtype_size(dtype));
}

/* A constant operand that is the same for every batch entry and head; NULL: it is none. */
static tb_tensor *matrix_of(const tb_graph *g, const tb_node *n, int operand)
{
    tb_tensor *t = g->values[n->in[operand]].constant;
    for (int i = 0; t && i < t->rank - 2; i++)
        if (t->dims[i] != 1) return NULL;
    return t && t->is_contiguous ? t : NULL;
}

/* Whether `n` hides score j of row i, after which scores are multiplied by `factor`: 1 or 0; -1: it does otherwise. */
static int hides(tb_tensor *condition, bool hides_where, tb_tensor *mask, double factor, int64_t i, int64_t j)
{
    bool is_hidden = condition && (element(condition, i, j) != 0) == hides_where;
    double m = element(mask, i, j);
    if (condition && !is_hidden) return 0;
    if (!condition && m == 0) return 0;
    return m * factor <= HIDDEN ? 1 : -1;
}

/* Whether add or where at `n` masks as `causal` does: with T queries and S keys query i sees i + 1 + S - T of them. */
static bool is_causal(const tb_graph *g, const tb_node *n, int scores, double factor)
{
    const tb_value *y = &g->values[n->out[0]];
    bool chooses = n->op == &tb_op_where;
    tb_tensor *condition = chooses ? matrix_of(g, n, 0) : NULL,
              *mask = matrix_of(g, n, chooses ? 3 - scores : 1 - scores);
    tb_dim rows = y->dims[y->rank - 2], columns = y->dims[y->rank - 1];
    if (!mask || (chooses && !condition) || !tb_dim_equal(rows, tb_dim_of(rows.base)) ||
        !tb_dim_equal(columns, tb_dim_of(columns.base)) || columns.base < rows.base)
        return false;
    for (int64_t i = 0; i < rows.base; i++)
        for (int64_t j = 0; j < columns.base; j++)
            if (hides(condition, scores == 2, mask, factor, i, j) != (j > i + columns.base - rows.base)) return false;
    return true;
}

/* The number that `n` multiplies its operand `scores` by; 0: it is none. */
static double factor_of(const tb_graph *g, const tb_node *n, int scores)
{
    tb_tensor *t = matrix_of(g, n, 1 - scores);
    if (!t || t->numel != 1) return 0;
    double x = element(t, 0, 0);
    return n->op == &tb_op_div ? 1 / x : x;
}

/* ---- the pattern ---- */
static bool same_dims(const tb_value *a, const tb_value *b, int n)
{
    for (int i = 0; i < n; i++)
        if (!tb_dim_equal(a->dims[i], b->dims[i])) return false;
    return true;
}

static int axis_at(const tb_ints *order, int i)
{
    return (int)(order->at[i] < 0 ? order->at[i] + order->n : order->at[i]);
}

/* Whether `axis` of the value lies element beside element, seen through permutations: so kernels want the last one. */
static bool is_dense(const tb_graph *g, int value, int axis)
{
    for (int p; (p = tbi_producer(g, value, &tb_op_permute, false)) >= 0; value = g->nodes[p].in[0])
        axis = axis_at(g->nodes[p].attrs, axis);
    return axis == g->values[value].rank - 1;
}

/* The operand of a pointwise node that scores come by: the one that is not constant; -1: no such node. */
static int scores_operand(const tb_graph *g, const tb_node *n)
{
    bool may = n->op == &tb_op_mul || n->op == &tb_op_div || n->op == &tb_op_add || n->op == &tb_op_where ||
               n->op == &tb_op_fused_pointwise;
    int found = -1;
    for (int k = 0; may && k < n->n_in; k++) {
        if (tbi_is_constant(g, n->in[k])) continue;
        if (found >= 0 || (n->op == &tb_op_div && k == 1) || (n->op == &tb_op_where && k == 0)) return -1;
        found = k;
    }
    return found;
}

static bool is_few(tb_dim n) { return tb_dim_equal(n, tb_dim_of(n.base)) && n.base < FEWEST; }

static bool is_product(const tb_node *n)
{
    return n->op == &tb_op_matmul && !(n->attrs && *(const bool *)n->attrs /* sums over the batch */);
}

static void refuse(const char **reason, bool is_so, const char *text)
{
    if (is_so && !**reason) *reason = text;
}

/* From the operand of softmax back to the product of q and k^T, whose number is returned; -1: there is none. */
static int walk_scores(const tb_graph *g, int value, attention_attrs *attrs, const char **reason)
{
    *attrs = (attention_attrs){.scale = 1};
    for (;;) {
        int at = tbi_producer(g, value, NULL, false), k;
        if (at < 0) return -1;
        const tb_node *n = &g->nodes[at];
        refuse(reason, tb_graph_uses(g, value) != 1, "its scores have other uses");
        if (is_product(n)) return at;
        if ((k = scores_operand(g, n)) < 0) return -1;
        const tb_value *in = &g->values[n->in[k]], *out = &g->values[n->out[0]];
        refuse(reason, in->rank != out->rank || !same_dims(in, out, in->rank), "its scores are broadcast");
        if (n->op == &tb_op_fused_pointwise) { /* where fusion has been */
            refuse(reason, true, "its scores go through a pointwise program");
        } else if (n->op == &tb_op_mul || n->op == &tb_op_div) {
            double factor = factor_of(g, n, k);
            refuse(reason, factor == 0 || !isfinite(factor), "its scores are not multiplied by one number");
            attrs->scale *= factor;
        } else {
            refuse(reason, attrs->causal || !is_causal(g, n, k, attrs->scale), "its mask is not causal");
            attrs->causal = true;
        }
        value = n->in[k];
    }
}

/* As the other refusals, of softmax and the product of its result and v. */
static const char *match(const tb_graph *g, int product, pattern *to)
{
    const tb_node *n = &g->nodes[product];
    int softmax = is_product(n) ? tbi_producer(g, n->in[0], &tb_op_softmax, false) : -1;
    if (softmax < 0) return NULL;
    const char *reason = "";
    int rank = g->values[n->in[0]].rank;
    int64_t axis = *(const int64_t *)g->nodes[softmax].attrs;
    refuse(&reason, tb_graph_uses(g, n->in[0]) != 1, "its result has other uses");
    refuse(&reason, axis != -1 && axis != rank - 1, "it runs over another axis than the last");
    int scores = walk_scores(g, g->nodes[softmax].in[0], &to->attrs, &reason);
    if (scores < 0) return NULL;
    int turned = tbi_producer(g, g->nodes[scores].in[1], &tb_op_permute, false);
    to->q = g->nodes[scores].in[0];
    to->v = n->in[1];
    refuse(&reason, turned < 0, "its keys are not transposed");
    if (*reason) return reason;
    to->keys = g->nodes[turned].in[0];
    to->k_order = *(const tb_ints *)g->nodes[turned].attrs;
    const tb_value *q = &g->values[to->q], *k = &g->values[g->nodes[scores].in[1]], *v = &g->values[to->v];
    if (q->dtype != TB_F32) return "attention has kernels of f32 only";
    if (q->rank > RANK) return "attention has at most four dimensions";
    if (k->rank != q->rank || v->rank != q->rank || !same_dims(q, k, rank - 2) || !same_dims(q, v, rank - 2))
        return "q, k and v differ in batch or heads";
    if (is_few(q->dims[rank - 2]) || is_few(v->dims[rank - 2])) return "so few queries or keys cost less written out";
    int64_t last = to->k_order.at[rank - 1];
    to->k_order.at[rank - 1] = to->k_order.at[rank - 2];
    to->k_order.at[rank - 2] = last;
    bool dense = is_dense(g, to->q, rank - 1) && is_dense(g, to->v, rank - 1) &&
                 is_dense(g, to->keys, axis_at(&to->k_order, rank - 1));
    return dense ? "" : "rows of q, k or v do not lie element beside element";
}

const char *tbi_attention_refusal(const tb_graph *g, int user, int k)
{
    pattern p;
    return k == 0 ? match(g, user, &p) : NULL;
}

/* ---- the rewrite ---- */
static tb_status reshaped(tb_graph *g, int rank, const tb_dim *dims, int *value)
{
    tb_ints to = {.n = rank};
    tb_symbolic symbolic[TB_MAX_RANK];
    int n_symbolic = 0, out[TB_MAX_OUT], in = *value;
    if (g->values[in].rank == rank) return TB_OK;
    for (int i = 0; i < rank; i++) {
        to.at[i] = dims[i].base;
        if (!tb_dim_equal(dims[i], tb_dim_of(dims[i].base)))
            symbolic[n_symbolic++] = (tb_symbolic){offsetof(tb_ints, at) + sizeof to.at[0] * (size_t)i, dims[i]};
    }
    TB_TRY(tb_graph_node(g, &tb_op_reshape, &to, n_symbolic, symbolic, 1, &in, out));
    *value = out[0];
    return TB_OK;
}

/* A batch of matrices as [batch, 1 head, length, width]. */
static tb_status as_heads(tb_graph *g, int *value)
{
    const tb_value *v = &g->values[*value];
    tb_dim dims[RANK];
    for (int i = 0; i < RANK; i++) dims[i] = tb_dim_of(1);
    for (int i = 0; i < v->rank; i++) dims[i < v->rank - 2 ? i : RANK - v->rank + i] = v->dims[i];
    return reshaped(g, RANK, dims, value);
}

static tb_status attend(tb_graph *g, int product, const pattern *p)
{
    int in[3] = {p->q, p->keys, p->v}, out[TB_MAX_OUT], old = g->nodes[product].out[0];
    tb_dim dims[TB_MAX_RANK];
    bool moves = false;
    for (int i = 0; i < p->k_order.n; i++) moves |= axis_at(&p->k_order, i) != i;
    if (moves) {
        TB_TRY(tb_graph_node(g, &tb_op_permute, &p->k_order, 0, NULL, 1, &p->keys, out));
        in[1] = out[0];
    }
    for (int k = 0; k < 3; k++) TB_TRY(as_heads(g, &in[k]));
    TB_TRY(tb_graph_node(g, &tb_op_scaled_dot_product_attention, &p->attrs, 0, NULL, 3, in, out));
    memcpy(dims, g->values[old].dims, sizeof dims);
    TB_TRY(reshaped(g, g->values[old].rank, dims, &out[0]));
    tb_graph_replace(g, old, out[0]);
    return TB_OK;
}

static tb_status attention(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        pattern p;
        const char *refusal = g->nodes[i].op ? match(g, i, &p) : NULL;
        if (!refusal || *refusal) continue;
        if (!tb_pass_may_rewrite(r, "attend")) return TB_OK;
        TB_TRY(attend(g, i, &p));
    }
    return TB_OK;
}

const tb_pass tbi_pass_attention = {
    .name = "attention",
    .doc = "makes one op of attention that is written out",
    .is_inexact = true,
    .is_fusion = true,
    .run = attention,
};
