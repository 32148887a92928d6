/* The rewrite of linear layers to linear_dynamic_s8: weights become integers now, inputs when the graph runs. */
#include "quant_internal.h"
#include "tb_ops.h"
#include <math.h>

static tb_status rewrite(tb_graph *g, int node)
{
    const tb_node *n = &g->nodes[node];
    tb_tensor *weight = g->values[n->in[1]].constant;
    int bias = n->n_in > 2 ? n->in[2] : TB_NO_VALUE, in[5] = {n->in[0], 0, 0, 0, bias}, out[TB_MAX_OUT];
    int64_t rows = weight->dims[0], depth = weight->dims[1], act = 0;
    char layer[64];
    snprintf(layer, sizeof layer, "%s", g->values[n->in[1]].name);
    int8_t *q = tb_calloc((size_t)(rows * depth) + 1, 1);
    int32_t *offset = tb_calloc((size_t)rows + 1, sizeof *offset);
    float *scale = tb_calloc((size_t)rows + 1, sizeof *scale);
    tb_status st = q && offset && scale ? TB_OK : TB_ERR_OOM;
    for (int64_t j = 0; j < rows && st == TB_OK; j++) {
        const float *w = (const float *)tb_tensor_host(weight) + j * depth;
        float most = 0;
        int64_t sum = 0;
        for (int64_t k = 0; k < depth; k++) most = fmaxf(most, fabsf(w[k]));
        double step = most > 0 ? (double)most / 127 : 1;
        for (int64_t k = 0; k < depth; k++) {
            q[j * depth + k] = (int8_t)rint((double)w[k] / step);
            sum += q[j * depth + k];
        }
        offset[j] = (int32_t)(-128 * sum);
        scale[j] = (float)step;
    }
    if (st == TB_OK) st = tbi_layer_constant(g, layer, "s8", TB_I8, 2, (int64_t[]){rows, depth}, q, &in[1]);
    if (st == TB_OK) st = tbi_layer_constant(g, layer, "offset", TB_I32, 1, &rows, offset, &in[2]);
    if (st == TB_OK) st = tbi_layer_constant(g, layer, "scale", TB_F32, 1, &rows, scale, &in[3]);
    if (st == TB_OK)
        st = tb_graph_node(g, &tb_op_linear_dynamic_s8, &act, 0, NULL, bias == TB_NO_VALUE ? 4 : 5, in, out);
    if (st == TB_OK) tb_graph_replace(g, g->nodes[node].out[0], out[0]);
    tb_free(q);
    tb_free(offset);
    tb_free(scale);
    return st;
}

tb_status tb_quantize_graph_dynamic(tb_graph *g, const bool *keep, tb_quant_report *report)
{
    int n = g->n_nodes;
    tb_status st = TB_OK;
    *report = (tb_quant_report){0};
    for (int i = 0; i < n && st == TB_OK; i++) {
        double macs = tb_quant_macs(g, i);
        const char *reason = NULL;
        report->macs += macs;
        if (macs == 0) continue;
        report->n_layers += g->nodes[i].op == &tb_op_linear || g->nodes[i].op == &tb_op_conv2d;
        if (g->nodes[i].op != &tb_op_linear) reason = "no integer kernel for this op";
        else if (!g->values[g->nodes[i].in[1]].constant || !g->values[g->nodes[i].in[1]].constant->is_contiguous)
            reason = "its weights are not constant";
        else if (g->values[g->nodes[i].in[1]].dims[1].base > TB_QUANT_MAX_DEPTH)
            reason = "its sums could overflow 32 bits";
        else if (keep && keep[i]) reason = "it costs too much accuracy";
        if (reason) {
            tbi_keep(report, g, i, reason);
            continue;
        }
        report->int8_macs += macs;
        report->n_quantized++;
        st = rewrite(g, i);
    }
    if (st == TB_OK) st = tb_graph_compact(g);
    return st == TB_OK ? tb_graph_verify(g) : st;
}
