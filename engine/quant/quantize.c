/* The rewrite of linear layers and convolutions whose inputs were calibrated. */
#include "conv2d.h"
#include "quant_internal.h"
#include "tb_ops.h"
#include <float.h>
#include <math.h>

/* ---- scales ---- */
/* x = (q - zero) * step. The zero point of a value that was not quantized here (bytes of an image) need not be an
 * integer: padding takes the nearest one, sums the exact one. */
typedef struct scale {
    double step, zero;
} scale;

/* [lo, hi] widened to hold 0, cut into 255 steps; the zero point is the integer that means exactly 0. */
static scale scale_of(float lo, float hi)
{
    double from = lo < 0 ? (double)lo : 0, to = hi > 0 ? (double)hi : 0, step = (to - from) / 255;
    if (!(step >= (double)FLT_MIN)) step = 1; /* a value that is always 0, or too small to divide by its step in f32 */
    return (scale){step, rint(-from / step)};
}

/* A value of the f32 graph in integers. Images have their channels last, [N, H, W, C] for an f32 [N, C, H, W]; what is
 * flattened from such an image runs over places before channels. */
typedef struct u8_form {
    int value; /* u8, or TB_NO_VALUE */
    scale s;
    bool is_image;
    int64_t channels; /* flattened from an image: its channels, else 0 */
} u8_form;

typedef struct rewriter {
    tb_graph *g;
    const tb_ranges *ranges;
    const bool *kept; /* nodes that stay f32, or NULL */
    int n_nodes;   /* of the graph before the rewrite */
    u8_form *form; /* [values before] */
    bool *wants;   /* [values before]: every use takes integers */
    int *becomes;  /* [values before]: the f32 result of an integer layer; put in when all is rewritten */
    int n_values;
} rewriter;

typedef struct sum_attrs {
    tb_ints axes;
    bool keep, mean, batch;
} sum_attrs;

/* A view keeps the range of what it shows. */
static bool range_of(const rewriter *w, int value, float *lo, float *hi)
{
    for (;;) {
        int node = w->g->values[value].producer;
        if (node < 0) return false;
        if (w->ranges->runs[node]) {
            *lo = w->ranges->lo[node];
            *hi = w->ranges->hi[node];
            return isfinite(*lo) && isfinite(*hi);
        }
        if (w->g->nodes[node].op->fusion != TB_FUSE_VIEW) return false;
        value = w->g->nodes[node].in[0];
    }
}

/* The step of a channel's weights: the largest is 127, unless the bias or the sums in such steps leave 32 bits: then as
 * much more as they need, which only a channel of nearly no weights does. */
static double weight_step(const float *w, int64_t depth, double bias, double x_step)
{
    double most = 0, sum = 0;
    for (int64_t k = 0; k < depth; k++) {
        most = fmax(most, fabs((double)w[k]));
        sum += fabs((double)w[k]);
    }
    double rounding = 128 * (double)depth; /* half a weight's step for each input of 255 */
    double step = fmax(most / 127, (fabs(bias) / x_step + 255 * sum) / (INT32_MAX - 1 - rounding));
    return step > 0 ? step : 1;
}

/* Per-channel weights, and everything else of the layer folded into an offset and a factor per channel. A channel's
 * weights [channels, places] become [places, channels], as the integers lie. */
static tb_status layer_constants(rewriter *w, const tb_node *n, int64_t channels, scale x, double y_step, int *ids)
{
    const tb_value *values = w->g->values; /* until the first constant is added: it may move them */
    tb_tensor *weight = values[n->in[1]].constant;
    tb_tensor *bias = n->n_in > 2 && n->in[2] != TB_NO_VALUE ? values[n->in[2]].constant : NULL;
    char layer[64];
    snprintf(layer, sizeof layer, "%s", values[n->in[1]].name);
    int64_t rows = weight->dims[0], depth = rows ? weight->numel / rows : 0, places = depth / channels;
    bool is_conv = weight->rank == 4;
    int64_t dims[4] = {rows, is_conv ? weight->dims[2] : depth, is_conv ? weight->dims[3] : 1, channels};
    const float *f = tb_tensor_host(weight), *b = bias ? tb_tensor_host(bias) : NULL;
    int8_t *q = tb_calloc((size_t)(rows * depth) + 1, 1);
    int32_t *offset = tb_calloc((size_t)rows + 1, sizeof *offset);
    float *factor = tb_calloc((size_t)rows + 1, sizeof *factor);
    tb_status st = q && offset && factor && f && (b || !bias) ? TB_OK : TB_ERR_OOM;
    for (int64_t j = 0; j < rows && st == TB_OK; j++) {
        int64_t sum = 0;
        double step = weight_step(f + j * depth, depth, b ? (double)b[j] : 0, x.step);
        for (int64_t k = 0; k < depth; k++) {
            int8_t integer = (int8_t)rint((double)f[j * depth + k] / step);
            q[j * depth + k % places * channels + k / places] = integer;
            sum += integer;
        }
        double shift = rint((b ? (double)b[j] / (x.step * step) : 0) - x.zero * (double)sum);
        offset[j] = (int32_t)fmin(fmax(shift, -2147483647.0), 2147483647.0);
        factor[j] = (float)(x.step * step / y_step);
    }
    if (st == TB_OK) st = tbi_layer_constant(w->g, layer, "s8", TB_I8, weight->rank, dims, q, &ids[0]);
    if (st == TB_OK) st = tbi_layer_constant(w->g, layer, "offset", TB_I32, 1, &rows, offset, &ids[1]);
    if (st == TB_OK) st = tbi_layer_constant(w->g, layer, "factor", TB_F32, 1, &rows, factor, &ids[2]);
    tb_free(q);
    tb_free(offset);
    tb_free(factor);
    return st;
}

/* ---- bytes of an image: a chain of scalings, shifts and views of a u8 input is integers already ---- */
static bool scalar_of(const rewriter *w, int value, double *x)
{
    tb_tensor *t = value == TB_NO_VALUE ? NULL : w->g->values[value].constant;
    const float *f = t && t->dtype == TB_F32 && t->numel == 1 ? tb_tensor_host(t) : NULL;
    if (f) *x = (double)*f;
    return f != NULL;
}

static tb_status view_of(rewriter *w, int node, int value, int *out)
{
    const tb_node *n = &w->g->nodes[node];
    int ids[TB_MAX_OUT];
    TB_TRY(tb_graph_node(w->g, n->op, n->attrs, n->n_symbolic, n->symbolic, 1, &value, ids));
    *out = ids[0];
    return TB_OK;
}

/* The integers of `value`, if it is a * q + b for bytes q of an input; *out is TB_NO_VALUE where it is not. With
 * `makes` false nothing is added to the graph. */
static tb_status bytes_of(rewriter *w, int value, bool makes, int *out, double *a, double *b)
{
    const tb_value *v = &w->g->values[value];
    *out = TB_NO_VALUE;
    if (v->producer < 0) return TB_OK;
    const tb_node *n = &w->g->nodes[v->producer];
    int producer = v->producer, from = n->in[0];
    double c = 0;
    if (n->op == &tb_op_cast && w->g->values[from].dtype == TB_U8 && w->g->values[from].is_input) {
        *out = from;
        *a = 1;
        *b = 0;
        return TB_OK;
    }
    bool is_view = n->op == &tb_op_reshape, is_scaled = n->op == &tb_op_mul;
    bool is_shifted = n->op == &tb_op_add || n->op == &tb_op_sub;
    bool has_scalar = (is_scaled || is_shifted) && scalar_of(w, n->in[1], &c) && (!is_scaled || c > 0);
    if (n->op == &tb_op_sub) c = -c;
    if (!is_view && !has_scalar) return TB_OK;
    TB_TRY(bytes_of(w, from, makes, out, a, b));
    if (*out == TB_NO_VALUE) return TB_OK;
    if (is_scaled) *a *= c, *b *= c;
    if (is_shifted) *b += c;
    return is_view && makes ? view_of(w, producer, *out, out) : TB_OK;
}

static bool is_bytes(rewriter *w, int value)
{
    int out;
    double a, b;
    return bytes_of(w, value, false, &out, &a, &b) == TB_OK && out != TB_NO_VALUE && -b / a >= 0 && -b / a <= 255;
}

/* ---- what can be integers ---- */
static bool is_layer(const tb_node *n) { return n->op == &tb_op_linear || n->op == &tb_op_conv2d; }

/* NULL, or why the layer stays f32. */
static const char *refusal(rewriter *w, int node)
{
    const tb_node *n = &w->g->nodes[node];
    const tb_value *values = w->g->values;
    bool is_conv = n->op == &tb_op_conv2d;
    float lo, hi;
    if (!is_layer(n)) return "no integer kernel for this op";
    if (w->kept && w->kept[node]) return "it costs too much accuracy";
    const tb_tensor *weight = values[n->in[1]].constant;
    bool has_bias = n->n_in > 2 && n->in[2] != TB_NO_VALUE;
    if (!weight || (has_bias && !values[n->in[2]].constant)) return "its weights are not constant";
    if (!is_conv && values[n->in[0]].rank == 4) return "its input is an image";
    int64_t channels = is_conv ? values[n->in[0]].dims[1].base : 0;
    bool is_depthwise = is_conv && weight->dims[1] == 1 && weight->dims[0] == channels;
    if (is_conv && weight->dims[1] != channels && !is_depthwise)
        return "groups of few channels are faster in f32";
    if (weight->numel > TB_QUANT_MAX_DEPTH * weight->dims[0]) return "its sums could overflow 32 bits";
    return range_of(w, n->in[0], &lo, &hi) || is_bytes(w, n->in[0]) ? NULL : "its input has no range";
}

/* A reshape that flattens what belongs to one element of the batch. */
static bool is_row_of_each(const rewriter *w, const tb_node *reshape)
{
    const tb_value *x = &w->g->values[reshape->in[0]], *y = &w->g->values[reshape->out[0]];
    return y->rank == 2 && tb_dim_equal(x->dims[0], y->dims[0]);
}

/* The average of every channel of an image. */
static bool is_image_mean(const rewriter *w, const tb_node *n)
{
    const sum_attrs *a = n->attrs;
    if (n->op != &tb_op_sum || !a->mean || a->keep || a->axes.n != 2 || w->g->values[n->in[0]].rank != 4)
        return false;
    int64_t first = (a->axes.at[0] + 4) % 4, second = (a->axes.at[1] + 4) % 4;
    return first + second == 5 && first * second == 6;
}

/* The sum of two different images of one shape, as a residual block makes it. */
static bool is_image_sum(rewriter *w, const tb_node *n)
{
    float lo, hi;
    if (n->op != &tb_op_add || n->in[0] == n->in[1]) return false;
    const tb_value *y = &w->g->values[n->out[0]];
    for (int k = 0; k < 2; k++) {
        const tb_value *x = &w->g->values[n->in[k]];
        if (x->rank != 4 || x->dtype != TB_F32 || x->constant || !range_of(w, n->in[k], &lo, &hi) ||
            is_bytes(w, n->in[k]))
            return false;
        for (int i = 0; i < 4; i++)
            if (!tb_dim_equal(x->dims[i], y->dims[i])) return false;
    }
    return true;
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

/* Where the result of a layer or a sum ends: behind the relu that is its only user. */
static int end_of(const rewriter *w, int node)
{
    int result = w->g->nodes[node].out[0], user = only_user(w, result);
    return user >= 0 && w->g->nodes[user].op == &tb_op_relu ? w->g->nodes[user].out[0] : result;
}

/* Whether a node takes its operand `k` in integers. */
static bool takes_u8(rewriter *w, int node, int k)
{
    const tb_node *n = &w->g->nodes[node];
    float lo, hi;
    if (is_image_sum(w, n)) return w->wants[end_of(w, node)] && range_of(w, end_of(w, node), &lo, &hi);
    if (k > 0) return false;
    if (n->op == &tb_op_max_pool2d) return tb_graph_uses(w->g, n->out[1]) == 0 && w->wants[n->out[0]];
    if (n->op == &tb_op_reshape) return is_row_of_each(w, n) && w->wants[n->out[0]];
    if (is_image_mean(w, n)) return w->wants[n->out[0]] && range_of(w, n->out[0], &lo, &hi);
    return !refusal(w, node);
}

/* wants[value]: every use of it takes integers. Users are known before what they use. */
static void find_wants(rewriter *w)
{
    for (int value = 0; value < w->n_values; value++) w->wants[value] = false;
    for (int at = w->n_nodes - 1; at >= 0; at--)
        for (int o = 0; o < w->g->nodes[at].n_out; o++) {
            int value = w->g->nodes[at].out[o], uses = 0;
            bool all = true;
            for (int i = at + 1; i < w->n_nodes; i++)
                for (int k = 0; w->g->nodes[i].op && k < w->g->nodes[i].n_in; k++)
                    if (w->g->nodes[i].in[k] == value) all = all && takes_u8(w, i, k), uses++;
            w->wants[value] = all && uses > 0 && uses == tb_graph_uses(w->g, value);
        }
}

/* A convolution whose image comes in f32 and goes in f32 would pay for two changes of layout. */
static bool is_island(rewriter *w, int node)
{
    const tb_node *n = &w->g->nodes[node];
    int input = n->in[0];
    bool comes = w->form[input].value != TB_NO_VALUE || is_bytes(w, input);
    return n->op == &tb_op_conv2d && !comes && !w->wants[end_of(w, node)];
}

/* ---- the rewrite ---- */
typedef struct quantize_attrs {
    double scale;
    int64_t zero;
} quantize_attrs;
typedef struct linear_u8s8_attrs {
    bool to_u8;
    int64_t zero, low;
} linear_u8s8_attrs;
typedef struct cast_attrs {
    tb_dtype dtype;
} cast_attrs;
typedef struct permute_attrs {
    tb_ints order;
} permute_attrs;

static tb_status permuted(rewriter *w, int value, permute_attrs order, int *out)
{
    int ids[TB_MAX_OUT];
    TB_TRY(tb_graph_node(w->g, &tb_op_permute, &order, 0, NULL, 1, &value, ids));
    *out = ids[0];
    return TB_OK;
}

/* A layer's input in integers, made once for all its users. */
static tb_status u8_input(rewriter *w, int value, u8_form *out)
{
    float lo = 0, hi = 0;
    int ids[TB_MAX_OUT];
    double a, b;
    *out = w->form[value];
    if (out->value != TB_NO_VALUE) return TB_OK;
    out->is_image = w->g->values[value].rank == 4;
    if (is_bytes(w, value)) {
        TB_TRY(bytes_of(w, value, true, &out->value, &a, &b));
        out->s = (scale){a, -b / a};
    } else {
        if (!range_of(w, value, &lo, &hi)) return TB_FAIL(TB_ERR_INTERNAL, "quantize: %%%d has no range", value);
        out->s = scale_of(lo, hi);
        const quantize_attrs attrs = {out->s.step, (int64_t)out->s.zero};
        TB_TRY(tb_graph_node(w->g, &tb_op_quantize, &attrs, 0, NULL, 1, &value, ids));
        out->value = ids[0];
    }
    if (out->is_image) TB_TRY(permuted(w, out->value, (permute_attrs){{4, {0, 2, 3, 1}}}, &out->value));
    w->form[value] = *out;
    return TB_OK;
}

static tb_status integer_node(rewriter *w, const tb_node *n, const u8_form *x, const int *constants, bool to_u8,
                              int64_t zero, int64_t low, int *out)
{
    const int in[4] = {x->value, constants[0], constants[1], constants[2]};
    if (n->op == &tb_op_linear)
        return tb_graph_node(w->g, &tb_op_linear_u8s8, &(linear_u8s8_attrs){to_u8, zero, low}, 0, NULL, 4, in, out);
    tbi_conv_window window;
    memcpy(&window, n->attrs, sizeof window);
    const tbi_conv2d_u8s8_attrs a = {.stride = window.stride, .pad = window.pad, .dilation = window.dilation,
                                     .groups = window.groups, .x_zero = (int64_t)rint(x->s.zero), .to_u8 = to_u8,
                                     .zero = zero, .low = low};
    return tb_graph_node(w->g, &tb_op_conv2d_u8s8, &a, 0, NULL, 4, in, out);
}

/* layer -> [relu ->] where integers are wanted: the result stays u8, the relu is the clamp at the zero point. */
static tb_status rewrite_layer(rewriter *w, int node)
{
    tb_node n = w->g->nodes[node];
    int result = n.out[0], end = end_of(w, node), ids[3] = {0}, out[TB_MAX_OUT], f32;
    bool is_conv = n.op == &tb_op_conv2d;
    u8_form x;
    scale ys = {1, 0};
    float lo, hi;
    bool to_u8 = range_of(w, end, &lo, &hi) && w->wants[end];
    TB_TRY(u8_input(w, n.in[0], &x));
    if (to_u8) ys = scale_of(lo, hi);
    int64_t depth = w->g->values[n.in[1]].dims[1].base, channels = is_conv || !x.channels ? depth : x.channels;
    TB_TRY(layer_constants(w, &w->g->nodes[node], channels, x.s, ys.step, ids));
    int64_t zero = to_u8 ? (int64_t)ys.zero : 0;
    TB_TRY(integer_node(w, &n, &x, ids, to_u8, zero, end != result ? zero : 0, out));
    if (to_u8) { /* the users take it from here; `end` itself loses its last use */
        w->form[end] = (u8_form){out[0], ys, is_conv, 0};
        return TB_OK;
    }
    f32 = out[0];
    if (is_conv) {
        TB_TRY(permuted(w, f32, (permute_attrs){{4, {0, 3, 1, 2}}}, &f32));
        TB_TRY(tb_graph_node(w->g, &tb_op_cast, &(cast_attrs){TB_F32}, 0, NULL, 1, &f32, out)); /* a copy */
        f32 = out[0];
    }
    w->becomes[result] = f32;
    return TB_OK;
}

/* add -> [relu ->] of two images: what is f32 is quantized for it. */
static tb_status rewrite_sum(rewriter *w, int node)
{
    tb_node n = w->g->nodes[node];
    int end = end_of(w, node), out[TB_MAX_OUT];
    u8_form a, b;
    float lo, hi;
    if (!range_of(w, end, &lo, &hi)) return TB_FAIL(TB_ERR_INTERNAL, "quantize: %%%d has no range", end);
    scale ys = scale_of(lo, hi);
    TB_TRY(u8_input(w, n.in[0], &a));
    TB_TRY(u8_input(w, n.in[1], &b));
    const tb_add_u8_opts opts = {.a_scale = a.s.step / ys.step,
                                 .b_scale = b.s.step / ys.step,
                                 .a_zero = (int64_t)a.s.zero,
                                 .b_zero = (int64_t)b.s.zero,
                                 .zero = (int64_t)ys.zero,
                                 .low = end != n.out[0] ? (int64_t)ys.zero : 0};
    TB_TRY(tb_graph_node(w->g, &tb_op_add_u8, &opts, 0, NULL, 2, (int[]){a.value, b.value}, out));
    w->form[end] = (u8_form){out[0], ys, true, 0};
    return TB_OK;
}

/* Max pooling, flattening and averages of what is u8 already. */
static tb_status pass_on(rewriter *w, int node)
{
    tb_node n = w->g->nodes[node];
    const tb_value *x = &w->g->values[n.in[0]];
    u8_form form = w->form[n.in[0]];
    int out[TB_MAX_OUT];
    float lo, hi;
    if (n.op == &tb_op_max_pool2d) {
        TB_TRY(tb_graph_node(w->g, &tb_op_max_pool2d_u8, n.attrs, 0, NULL, 1, &form.value, out));
        form.value = out[0];
    } else if (n.op == &tb_op_sum) {
        if (!range_of(w, n.out[0], &lo, &hi))
            return TB_FAIL(TB_ERR_INTERNAL, "quantize: %%%d has no range", n.out[0]);
        scale ys = scale_of(lo, hi);
        const tb_mean_u8_opts opts = {form.s.step / ys.step, (int64_t)form.s.zero, (int64_t)ys.zero};
        TB_TRY(tb_graph_node(w->g, &tb_op_mean_u8, &opts, 0, NULL, 1, &form.value, out));
        form = (u8_form){out[0], ys, false, 0};
    } else {
        if (form.is_image) form.channels = x->dims[1].base;
        form.is_image = false;
        TB_TRY(view_of(w, node, form.value, &form.value));
    }
    w->form[n.out[0]] = form;
    return TB_OK;
}

static tb_status rewrite_other(rewriter *w, int node)
{
    const tb_node *n = &w->g->nodes[node];
    if (n->n_in < 1 || n->in[0] == TB_NO_VALUE || !takes_u8(w, node, 0)) return TB_OK;
    if (is_image_sum(w, n)) return rewrite_sum(w, node);
    return w->form[n->in[0]].value != TB_NO_VALUE ? pass_on(w, node) : TB_OK;
}

tb_status tb_quantize_graph(tb_graph *g, const tb_ranges *r, const tb_quant_opts *opts, tb_quant_report *report)
{
    static const tb_quant_opts defaults = {0};
    if (!opts) opts = &defaults;
    rewriter w = {.g = g, .ranges = r, .kept = opts->keep, .n_nodes = g->n_nodes, .n_values = g->n_values};
    *report = (tb_quant_report){0};
    if (r->n_nodes != g->n_nodes)
        return TB_FAIL(TB_ERR_INVALID, "quantize: ranges of %d nodes, the graph has %d: calibrate the same graph",
                       r->n_nodes, g->n_nodes);
    w.form = tb_calloc((size_t)g->n_values + 1, sizeof *w.form);
    w.wants = tb_calloc((size_t)g->n_values + 1, sizeof *w.wants);
    w.becomes = tb_calloc((size_t)g->n_values + 1, sizeof *w.becomes);
    tb_status st = w.form && w.wants && w.becomes ? TB_OK : TB_ERR_OOM;
    for (int i = 0; st == TB_OK && i < g->n_values; i++) w.form[i].value = w.becomes[i] = TB_NO_VALUE;
    if (st == TB_OK) find_wants(&w);
    for (int i = 0; st == TB_OK && i < w.n_nodes; i++) {
        double macs = tb_quant_macs(g, i);
        report->macs += macs;
        report->n_layers += is_layer(&g->nodes[i]);
        if (macs == 0) {
            st = rewrite_other(&w, i);
            continue;
        }
        const char *reason = refusal(&w, i);
        if (!reason && !opts->islands && is_island(&w, i)) reason = "its image comes and goes in f32";
        if (reason) {
            tbi_keep(report, g, i, reason);
            continue;
        }
        report->int8_macs += macs;
        report->n_quantized++;
        st = rewrite_layer(&w, i);
    }
    for (int i = 0; st == TB_OK && i < w.n_values; i++)
        if (w.becomes[i] != TB_NO_VALUE) tb_graph_replace(g, i, w.becomes[i]);
    tb_free(w.form);
    tb_free(w.wants);
    tb_free(w.becomes);
    if (st == TB_OK) st = tb_graph_compact(g);
    return st == TB_OK ? tb_graph_verify(g) : st;
}
