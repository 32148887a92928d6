/* Ranges by observation, and the rewrite of linear layers. */
#include "tb_quant.h"
#include "tb_ops.h"
#include <math.h>

/* ---- ranges: kept by node (of its first result), so n_nodes entries are used ---- */
tb_status tb_ranges_create(const tb_graph *g, tb_ranges *out)
{
    size_t n = (size_t)g->n_nodes + 1;
    *out = (tb_ranges){.n_nodes = g->n_nodes};
    out->lo = tb_calloc(n, sizeof *out->lo);
    out->hi = tb_calloc(n, sizeof *out->hi);
    out->seen = tb_calloc(n, sizeof *out->seen);
    if (out->lo && out->hi && out->seen) return TB_OK;
    tb_ranges_free(out);
    return TB_ERR_OOM;
}

void tb_ranges_free(tb_ranges *r)
{
    tb_free(r->lo);
    tb_free(r->hi);
    tb_free(r->seen);
    *r = (tb_ranges){0};
}

static void note(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    tb_ranges *r = arg;
    const tb_tensor *t = call->out[0];
    (void)ns;
    if (t->dtype != TB_F32 || !t->is_contiguous || t->numel == 0) return;
    const float *x = tb_op_data(t);
    float lo = r->seen[node] ? r->lo[node] : x[0], hi = r->seen[node] ? r->hi[node] : x[0];
    for (int64_t i = 0; i < t->numel; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    r->lo[node] = lo;
    r->hi[node] = hi;
    r->seen[node] = true;
}

void tb_ranges_observe(tb_ranges *r, tb_session *s) { tb_session_observe(s, note, r); }

/* ---- scales ---- */
typedef struct scale {
    double step;
    int64_t zero;
} scale;

/* [lo, hi] widened to hold 0, cut into 255 steps; the zero point is the integer that means exactly 0. */
static scale scale_of(float lo, float hi)
{
    double from = lo < 0 ? (double)lo : 0, to = hi > 0 ? (double)hi : 0, step = (to - from) / 255;
    if (!(step > 0)) step = 1; /* a value that is always 0 */
    return (scale){step, (int64_t)rint(-from / step)};
}

typedef struct rewriter {
    tb_graph *g;
    const tb_ranges *ranges;
    tb_quant_report *report;
    int n_nodes;     /* of the graph before the rewrite */
    int *as_u8;      /* [values before]: the value in u8, or TB_NO_VALUE */
    scale *u8_scale; /* [values before] */
    int n_values;
} rewriter;

/* A view keeps the range of what it shows. */
static bool range_of(const rewriter *w, int value, float *lo, float *hi)
{
    for (;;) {
        int node = w->g->values[value].producer;
        if (node < 0) return false;
        if (w->ranges->seen[node]) {
            *lo = w->ranges->lo[node];
            *hi = w->ranges->hi[node];
            return isfinite(*lo) && isfinite(*hi);
        }
        if (w->g->nodes[node].op->fusion != TB_FUSE_VIEW) return false;
        value = w->g->nodes[node].in[0];
    }
}

static tb_status add_constant(rewriter *w, const char *layer, const char *what, tb_dtype dtype, int rank,
                              const int64_t *dims, const void *data, int *id)
{
    char name[64];
    snprintf(name, sizeof name, "%.48s.%s", layer, what);
    tb_scope *s = tb_scope_open();
    tb_tensor *t = tb_tensor_from(dtype, rank, dims, data);
    tb_status st =
        tb_is_poison(t) ? tb_ctx_take_error(tb_ctx_current()) : tb_graph_constant(w->g, name, t, id);
    tb_scope_close(s);
    return st;
}

/* Per-channel weights, and everything else of the layer folded into an offset and a factor per channel. */
static tb_status layer_constants(rewriter *w, const tb_node *n, scale x, double y_step, int *ids)
{
    const tb_value *values = w->g->values; /* until the first constant is added: it may move them */
    tb_tensor *weight = values[n->in[1]].constant;
    tb_tensor *bias = n->n_in > 2 && n->in[2] != TB_NO_VALUE ? values[n->in[2]].constant : NULL;
    char layer[64];
    snprintf(layer, sizeof layer, "%s", values[n->in[1]].name);
    int64_t rows = weight->dims[0], depth = weight->dims[1];
    const float *f = tb_tensor_host(weight), *b = bias ? tb_tensor_host(bias) : NULL;
    int8_t *q = tb_calloc((size_t)(rows * depth) + 1, 1);
    int32_t *offset = tb_calloc((size_t)rows + 1, sizeof *offset);
    float *factor = tb_calloc((size_t)rows + 1, sizeof *factor);
    tb_status st = q && offset && factor && f && (b || !bias) ? TB_OK : TB_ERR_OOM;
    for (int64_t j = 0; j < rows && st == TB_OK; j++) {
        float most = 0;
        int64_t sum = 0;
        for (int64_t k = 0; k < depth; k++) most = fmaxf(most, fabsf(f[j * depth + k]));
        double step = most > 0 ? (double)most / 127 : 1;
        for (int64_t k = 0; k < depth; k++) {
            q[j * depth + k] = (int8_t)rint((double)f[j * depth + k] / step);
            sum += q[j * depth + k];
        }
        double shift = -(double)(x.zero * sum) + (b ? rint((double)b[j] / (x.step * step)) : 0);
        offset[j] = (int32_t)fmin(fmax(shift, -2147483647.0), 2147483647.0);
        factor[j] = (float)(x.step * step / y_step);
    }
    if (st == TB_OK) st = add_constant(w, layer, "s8", TB_I8, 2, (int64_t[]){rows, depth}, q, &ids[0]);
    if (st == TB_OK) st = add_constant(w, layer, "offset", TB_I32, 1, &rows, offset, &ids[1]);
    if (st == TB_OK) st = add_constant(w, layer, "factor", TB_F32, 1, &rows, factor, &ids[2]);
    tb_free(q);
    tb_free(offset);
    tb_free(factor);
    return st;
}

static bool is_quantizable(const rewriter *w, int node)
{
    const tb_node *n = &w->g->nodes[node];
    const tb_value *values = w->g->values;
    float lo, hi;
    if (n->op != &tb_op_linear || !values[n->in[1]].constant) return false;
    if (n->n_in > 2 && n->in[2] != TB_NO_VALUE && !values[n->in[2]].constant) return false;
    return range_of(w, n->in[0], &lo, &hi) && values[n->in[1]].dims[1].base <= 66311;
}

/* The only user of a value, or -1. */
static int only_user(const rewriter *w, int value)
{
    int user = -1;
    if (tb_graph_uses(w->g, value) != 1) return -1;
    for (int i = 0; i < w->n_nodes; i++)
        for (int k = 0; w->g->nodes[i].op && k < w->g->nodes[i].n_in; k++)
            if (w->g->nodes[i].in[k] == value) user = i;
    return user;
}

static void keep(rewriter *w, int node, const char *reason)
{
    tb_quant_report *r = w->report;
    int weight = w->g->nodes[node].n_in > 1 ? w->g->nodes[node].in[1] : TB_NO_VALUE;
    if (r->n_kept == (int)(sizeof r->kept / sizeof r->kept[0])) return;
    snprintf(r->kept[r->n_kept].layer, sizeof r->kept[0].layer, "%s",
             weight == TB_NO_VALUE ? w->g->nodes[node].op->name : w->g->values[weight].name);
    r->kept[r->n_kept++].reason = reason;
}

typedef struct quantize_attrs {
    double scale;
    int64_t zero;
} quantize_attrs;
typedef struct linear_u8s8_attrs {
    bool to_u8;
    int64_t zero, low;
} linear_u8s8_attrs;

static tb_status u8_input(rewriter *w, int value, int *out, scale *s)
{
    float lo, hi;
    int ids[TB_MAX_OUT];
    if (value < w->n_values && w->as_u8[value] != TB_NO_VALUE) {
        *out = w->as_u8[value];
        *s = w->u8_scale[value];
        return TB_OK;
    }
    if (!range_of(w, value, &lo, &hi)) return TB_FAIL(TB_ERR_INTERNAL, "quantize: %%%d has no range", value);
    *s = scale_of(lo, hi);
    const quantize_attrs attrs = {s->step, s->zero};
    TB_TRY(tb_graph_node(w->g, &tb_op_quantize, &attrs, 0, NULL, 1, &value, ids));
    *out = ids[0];
    if (value < w->n_values) {
        w->as_u8[value] = ids[0];
        w->u8_scale[value] = *s;
    }
    return TB_OK;
}

/* linear -> [relu ->] the next integer layer: the result stays u8, the relu is the clamp at the zero
 * point. */
static tb_status rewrite_linear(rewriter *w, int node)
{
    int result = w->g->nodes[node].out[0], relu = only_user(w, result);
    int x = TB_NO_VALUE, ids[3] = {0}, out[TB_MAX_OUT];
    scale xs, ys = {1, 0};
    float lo, hi;
    if (relu >= 0 && w->g->nodes[relu].op != &tb_op_relu) relu = -1;
    int end = relu >= 0 ? w->g->nodes[relu].out[0] : result, next = only_user(w, end);
    bool to_u8 = next >= 0 && is_quantizable(w, next) && w->g->nodes[next].in[0] == end &&
                 range_of(w, end, &lo, &hi);
    TB_TRY(u8_input(w, w->g->nodes[node].in[0], &x, &xs));
    if (to_u8) ys = scale_of(lo, hi);
    TB_TRY(layer_constants(w, &w->g->nodes[node], xs, ys.step, ids));
    linear_u8s8_attrs a = {to_u8, to_u8 ? ys.zero : 0, to_u8 && relu >= 0 ? ys.zero : 0};
    TB_TRY(tb_graph_node(w->g, &tb_op_linear_u8s8, &a, 0, NULL, 4, (int[]){x, ids[0], ids[1], ids[2]}, out));
    if (!to_u8) {
        tb_graph_replace(w->g, result, out[0]);
        return TB_OK;
    }
    w->as_u8[end] = out[0]; /* the next layer takes it from here; `end` itself loses its last use */
    w->u8_scale[end] = ys;
    return TB_OK;
}

static double macs_of(const tb_graph *g, const tb_node *n)
{
    double macs = 1;
    const tb_value *w = n->n_in > 1 && n->in[1] != TB_NO_VALUE ? &g->values[n->in[1]] : NULL;
    const tb_value *y = &g->values[n->out[0]];
    bool is_conv = strcmp(n->op->name, "conv2d") == 0;
    if (!w || (n->op != &tb_op_linear && n->op != &tb_op_matmul && !is_conv)) return 0;
    int64_t sizes[TB_MAX_SYMBOLS] = {1, 1};
    for (int i = 0; i < y->rank; i++) macs *= (double)tb_dim_at(y->dims[i], sizes);
    if (n->op == &tb_op_matmul) return macs * (double)tb_dim_at(w->dims[w->rank - 2], sizes);
    for (int i = 1; i < w->rank; i++) macs *= (double)w->dims[i].base;
    return macs;
}

tb_status tb_quantize_graph(tb_graph *g, const tb_ranges *r, tb_quant_report *report)
{
    rewriter w = {.g = g, .ranges = r, .report = report, .n_nodes = g->n_nodes, .n_values = g->n_values};
    *report = (tb_quant_report){0};
    if (r->n_nodes != g->n_nodes)
        return TB_FAIL(TB_ERR_INVALID, "quantize: ranges of %d nodes, the graph has %d: calibrate the same graph",
                       r->n_nodes, g->n_nodes);
    w.as_u8 = tb_calloc((size_t)g->n_values + 1, sizeof *w.as_u8);
    w.u8_scale = tb_calloc((size_t)g->n_values + 1, sizeof *w.u8_scale);
    tb_status st = w.as_u8 && w.u8_scale ? TB_OK : TB_ERR_OOM;
    for (int i = 0; st == TB_OK && i < g->n_values; i++) w.as_u8[i] = TB_NO_VALUE;
    for (int i = 0; st == TB_OK && i < w.n_nodes; i++) {
        double macs = macs_of(g, &g->nodes[i]);
        report->macs += macs;
        report->n_linear += g->nodes[i].op == &tb_op_linear;
        if (macs == 0) continue;
        if (!is_quantizable(&w, i)) {
            bool is_linear = g->nodes[i].op == &tb_op_linear;
            keep(&w, i, is_linear ? "its input has no range, or its weights are not constant"
                                  : "no integer kernel for this op");
            continue;
        }
        report->int8_macs += macs;
        report->n_quantized++;
        st = rewrite_linear(&w, i);
    }
    tb_free(w.as_u8);
    tb_free(w.u8_scale);
    if (st == TB_OK) st = tb_graph_compact(g);
    return st == TB_OK ? tb_graph_verify(g) : st;
}
