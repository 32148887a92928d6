/* Batch norm with fixed statistics is one factor and one shift a channel: both move into the weights and the
 * bias of the convolution before it (Jacob and others: "Quantization and Training of Neural Networks", 2018,
 * section 3.2): w'[o] = w[o] f[o],   b'[o] = (b[o] - mean[o]) f[o] + beta[o],   f[o] = gamma[o] / sqrt(var[o]
 * + eps). Computed in f64 and rounded once; the product's own rounding changes. */
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

const char *tbi_norm_refusal(const tb_graph *g, int norm, int k)
{
    const tb_node *n = &g->nodes[norm];
    int conv = n->op == &tb_op_batch_norm_eval && k == 0 ? tbi_producer(g, n->in[0], &tb_op_conv2d, false) : -1;
    if (conv < 0) return NULL;
    for (int i = 1; i < n->n_in; i++)
        if (!is_f32_constant(g, n, i)) return "its statistics are not constant";
    for (int i = 1; i < g->nodes[conv].n_in; i++)
        if (!is_f32_constant(g, &g->nodes[conv], i)) return "the weights are not constant";
    return tb_graph_uses(g, n->in[0]) == 1 ? "" : "its result has other uses";
}

/* The convolution that `norm` can move into, or -1. */
static int convolution_of(const tb_graph *g, int norm)
{
    const char *refusal = g->nodes[norm].op ? tbi_norm_refusal(g, norm, 0) : NULL;
    return refusal && !*refusal ? g->values[g->nodes[norm].in[0]].producer : -1;
}

static tb_status constant(tb_graph *g, const char *layer, const char *what, const tb_tensor *like,
                          const float *data, int *id)
{
    char name[64];
    snprintf(name, sizeof name, "%.48s.%s", layer, what);
    tb_scope *s = tb_scope_open();
    tb_tensor *t = tb_tensor_from(TB_F32, like->rank, like->dims, data);
    tb_status st = tb_is_poison(t) ? tb_ctx_take_error(tb_ctx_current()) : tb_graph_constant(g, name, t, id);
    tb_scope_close(s);
    return st;
}

static tb_status fold_into(tb_graph *g, int conv, int norm)
{
    tb_node c = g->nodes[conv], n = g->nodes[norm];
    char layer[64];
    snprintf(layer, sizeof layer, "%s", g->values[c.in[1]].name);
    const tb_tensor *weight = g->values[c.in[1]].constant, *channels = g->values[n.in[1]].constant;
    const float *w = data_of(g, &c, 1), *b = data_of(g, &c, 2), *mean = data_of(g, &n, 1),
                *var = data_of(g, &n, 2);
    const float *gamma = data_of(g, &n, 3), *beta = data_of(g, &n, 4);
    int64_t rows = weight->dims[0], depth = rows ? weight->numel / rows : 0;
    int in[3] = {c.in[0]}, out[TB_MAX_OUT];
    float *scaled = tb_calloc((size_t)weight->numel + 1, sizeof *scaled),
          *shift = tb_calloc((size_t)rows + 1, sizeof *shift);
    tb_status st = scaled && shift ? TB_OK : TB_ERR_OOM;
    for (int64_t o = 0; o < rows && st == TB_OK; o++) {
        double f = (gamma ? (double)gamma[o] : 1) / sqrt((double)var[o] + ((const norm_attrs *)n.attrs)->eps);
        for (int64_t k = 0; k < depth; k++) scaled[o * depth + k] = (float)((double)w[o * depth + k] * f);
        shift[o] = (float)(((b ? (double)b[o] : 0) - (double)mean[o]) * f + (beta ? (double)beta[o] : 0));
    }
    if (st == TB_OK) st = constant(g, layer, "normed", weight, scaled, &in[1]);
    if (st == TB_OK) st = constant(g, layer, "shift", channels, shift, &in[2]);
    tb_free(scaled);
    tb_free(shift);
    if (st == TB_OK) st = tb_graph_node(g, c.op, c.attrs, c.n_symbolic, c.symbolic, 3, in, out);
    if (st == TB_OK) tb_graph_replace(g, n.out[0], out[0]);
    return st;
}

static tb_status norm(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        int conv = convolution_of(g, i);
        if (conv < 0) continue;
        if (!tb_pass_may_rewrite(r, "norm into weights")) return TB_OK;
        TB_TRY(fold_into(g, conv, i));
    }
    return TB_OK;
}

const tb_pass tbi_pass_norm = {"norm", "moves batch norm into the weights of the convolution before it", true, false,
                               norm};
