/* What is one factor and one shift a channel moves into the weights and the bias of the convolution or linear layer
 * before it: batch norm with fixed statistics (Jacob and others: "Quantization and Training of Neural Networks", 2018,
 * section 3.2), products with and sums of constants:
 *     y[o] = f[o] (w[o] x + b[o]) + s[o]:   w'[o] = w[o] f[o],   b'[o] = b[o] f[o] + s[o].
 * Computed in f64 and rounded once; the product's own rounding changes. A sum behind a layer without a bias has the
 * same bits: kernels add the bias to the finished product. */
#include "pass_internal.h"
#include "tb_ops.h"
#include <math.h>

typedef struct norm_attrs { /* of batch_norm_eval */
    double eps;
} norm_attrs;

/* The data of an f32 constant; NULL: the operand is absent. */
static const float *data_of(const tb_graph *g, const tb_node *n, int operand)
{
    int value = operand < n->n_in ? n->in[operand] : TB_NO_VALUE;
    return value == TB_NO_VALUE ? NULL : tb_tensor_host(g->values[value].constant);
}

static bool is_f32_constant(const tb_graph *g, const tb_node *n, int operand)
{
    if (operand >= n->n_in || n->in[operand] == TB_NO_VALUE) return true;
    const tb_tensor *t = g->values[n->in[operand]].constant;
    return t && t->dtype == TB_F32 && t->is_contiguous;
}

static int channel_axis(const tb_op *layer, int rank) { return layer == &tb_op_linear ? rank - 1 : 1; }

/* Whether `n` adds to its operand `k` and does no more. */
static bool only_shifts(const tb_node *n, int k) { return n->op == &tb_op_add || (n->op == &tb_op_sub && k == 0); }

/* Whether operand `k` of a pointwise node is a constant that is the same all over a channel of the other one. */
static bool is_of_channels(const tb_graph *g, const tb_node *n, int k, int axis)
{
    const tb_value *x = &g->values[n->in[1 - k]];
    const tb_tensor *t = g->values[n->in[k]].constant;
    if (!t || t->rank > x->rank || !is_f32_constant(g, n, k)) return false;
    for (int i = 0; i < t->rank; i++) {
        int at = i + x->rank - t->rank;
        if (t->dims[i] != 1 && (at != axis || !tb_dim_equal(tb_dim_of(t->dims[i]), x->dims[at]))) return false;
    }
    return t->numel > 0;
}

const char *tbi_channels_refusal(const tb_graph *g, int user, int k)
{
    const tb_node *n = &g->nodes[user];
    bool is_norm = n->op == &tb_op_batch_norm_eval && k == 0,
         is_pointwise =
             n->op == &tb_op_add || n->op == &tb_op_sub || n->op == &tb_op_mul || (n->op == &tb_op_div && k == 0);
    int at = is_norm || is_pointwise ? tbi_producer(g, n->in[k], NULL, false) : -1;
    const tb_node *layer = at < 0 ? NULL : &g->nodes[at];
    if (!layer || (layer->op != &tb_op_conv2d && layer->op != &tb_op_linear)) return NULL;
    int axis = channel_axis(layer->op, g->values[n->in[k]].rank);
    if (is_pointwise ? !is_of_channels(g, n, 1 - k, axis) : axis != 1) return NULL;
    for (int i = 1; is_norm && i < n->n_in; i++)
        if (!is_f32_constant(g, n, i)) return "its statistics are not constant";
    for (int i = 1; i < layer->n_in; i++)
        if (!is_f32_constant(g, layer, i)) return "the weights are not constant";
    return tb_graph_uses(g, n->in[k]) == 1 ? "" : "its result has other uses";
}

/* The operand of `user` that a layer makes which can take the rest of it over; -1: none. */
static int layer_operand(const tb_graph *g, int user)
{
    const tb_node *n = &g->nodes[user];
    for (int k = 0; n->op && k < n->n_in && k < 2; k++) {
        const char *refusal = n->in[k] == TB_NO_VALUE ? NULL : tbi_channels_refusal(g, user, k);
        if (refusal && !*refusal) return k;
    }
    return -1;
}

/* What node `n` makes of channel `o` of its operand `k`. */
typedef struct affine {
    double factor, shift;
} affine;

static affine affine_of(const tb_graph *g, const tb_node *n, int k, int64_t o)
{
    if (n->op == &tb_op_batch_norm_eval) {
        const float *mean = data_of(g, n, 1), *var = data_of(g, n, 2), *gamma = data_of(g, n, 3),
                    *beta = data_of(g, n, 4);
        double f = (gamma ? (double)gamma[o] : 1) / sqrt((double)var[o] + ((const norm_attrs *)n->attrs)->eps);
        return (affine){f, (beta ? (double)beta[o] : 0) - (double)mean[o] * f};
    }
    double c = (double)data_of(g, n, 1 - k)[g->values[n->in[1 - k]].constant->numel == 1 ? 0 : o];
    if (n->op == &tb_op_mul) return (affine){c, 0};
    if (n->op == &tb_op_div) return (affine){1 / c, 0};
    if (n->op == &tb_op_add) return (affine){1, c};
    return k == 0 ? (affine){1, -c} : (affine){-1, c};
}

static tb_status constant(tb_graph *g, const char *layer, const char *what, int rank, const int64_t *dims,
                          const float *data, int *id)
{
    char stem[64], name[64];
    snprintf(stem, sizeof stem, "%.48s.%s", layer, what);
    tbi_unique_name(g, stem, name, sizeof name);
    tb_scope *s = tb_scope_open();
    tb_tensor *t = tb_tensor_from(TB_F32, rank, dims, data);
    tb_status st = tb_is_poison(t) ? tb_ctx_take_error(tb_ctx_current()) : tb_graph_constant(g, name, t, id);
    tb_scope_close(s);
    return st;
}

/* Node `user`, whose operand `k` the layer makes, goes into the layer. */
static tb_status take_over(tb_graph *g, int user, int k)
{
    const tb_node n = g->nodes[user], l = g->nodes[g->values[n.in[k]].producer];
    char layer[64];
    snprintf(layer, sizeof layer, "%s", g->values[l.in[1]].name);
    const tb_tensor *weight = g->values[l.in[1]].constant;
    const float *w = data_of(g, &l, 1), *b = data_of(g, &l, 2);
    int64_t rows = weight->dims[0], depth = rows ? weight->numel / rows : 0;
    int in[3] = {l.in[0], l.in[1]}, out[TB_MAX_OUT];
    float *scaled = tb_calloc((size_t)weight->numel + 1, sizeof *scaled),
          *shift = tb_calloc((size_t)rows + 1, sizeof *shift);
    tb_status st = scaled && shift ? TB_OK : TB_ERR_OOM;
    for (int64_t o = 0; o < rows && st == TB_OK; o++) {
        affine a = affine_of(g, &n, k, o);
        for (int64_t i = 0; i < depth; i++) scaled[o * depth + i] = (float)((double)w[o * depth + i] * a.factor);
        shift[o] = (float)((b ? (double)b[o] : 0) * a.factor + a.shift);
    }
    bool is_scaled = !only_shifts(&n, k), is_shifted = b || (n.op != &tb_op_mul && n.op != &tb_op_div);
    if (st == TB_OK && is_scaled) st = constant(g, layer, "normed", weight->rank, weight->dims, scaled, &in[1]);
    if (st == TB_OK && is_shifted) st = constant(g, layer, "shift", 1, &rows, shift, &in[2]);
    tb_free(scaled);
    tb_free(shift);
    if (st == TB_OK) st = tb_graph_node(g, l.op, l.attrs, l.n_symbolic, l.symbolic, is_shifted ? 3 : 2, in, out);
    if (st == TB_OK) tb_graph_replace(g, n.out[0], out[0]);
    return st;
}

/* Whether the layer's sums stay as they are and the shift is added where `user` would. */
static bool keeps_bits(const tb_graph *g, int user, int k)
{
    const tb_node *n = &g->nodes[user], *layer = &g->nodes[g->values[n->in[k]].producer];
    return only_shifts(n, k) && !data_of(g, layer, 2);
}

static tb_status absorb(tb_graph *g, tb_pass_run *r, bool is_exact)
{
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        int k = layer_operand(g, i);
        if (k < 0 || (is_exact && !keeps_bits(g, i, k))) continue;
        const tb_node *user = &g->nodes[i];
        const char *name = user->op == &tb_op_batch_norm_eval ? "norm into weights"
                           : is_exact                         ? "sum into absent bias"
                           : only_shifts(user, k)             ? "sum into bias"
                                                              : "factor into weights";
        if (!tb_pass_may_rewrite(r, name)) return TB_OK;
        TB_TRY(take_over(g, i, k));
    }
    return TB_OK;
}

static tb_status bias(tb_graph *g, tb_pass_run *r) { return absorb(g, r, true); }
static tb_status channels(tb_graph *g, tb_pass_run *r) { return absorb(g, r, false); }

const tb_pass tbi_pass_bias = {
    .name = "bias",
    .doc = "makes a sum with constants the bias of the layer before it",
    .run = bias,
};
const tb_pass tbi_pass_channels = {
    .name = "channels",
    .doc = "moves batch norm, factors and sums into the layer before them",
    .is_inexact = true,
    .run = channels,
};
