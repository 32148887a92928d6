/* conv2d, NCHW with OIHW weights: y[n,o,i,j] = b[o] + sum_{c,p,q} x[n,c,i s - pad + p d, j s - pad + q d]
 * w[o,c,p,q], zero outside x; with groups, output channel o sees the input channels of its group. The
 * gradients of input and weight are ops, and each is the others' gradient: all three are linear in both
 * operands. The weight's is a sum over the batch (pairwise tree over the context's blocks of samples). */
#include "conv2d.h"
#include "rows.h"
#include "tb_ops.h"

#ifndef TB_OPS_H
//>>> tb_ops.h
typedef struct tb_conv2d_opts {
    int64_t stride[2], pad[2], dilation[2]; /* height, width; pad on both sides */
    int64_t groups;                         /* stride, dilation and groups: 0 means 1 */
} tb_conv2d_opts;
/* x: [N, C, H, W], w: [O, C / groups, P, Q], b: [O] or NULL -> [N, O, H', W']; numbers of one dtype,
 * integers wrap; opts NULL: all defaults. H' = (H + 2 pad - dilation (P - 1) - 1) / stride + 1, rounded down. */
tb_tensor *tb_conv2d(tb_tensor *x, tb_tensor *w, tb_tensor *b, const tb_conv2d_opts *opts);
//<<<
#endif

typedef struct conv2d_attrs {
    tb_ints stride, pad, dilation;
    int64_t groups;
    tb_ints size; /* backward ops: height and width of what they compute */
    int64_t act;  /* conv2d_act: tb_epilogue_act */
} conv2d_attrs;
#define CONV2D_ATTRS                                                                                         \
    TB_ATTR_LIST(conv2d_attrs, stride, "step of the window: height, width"),                                 \
    TB_ATTR_LIST(conv2d_attrs, pad, "zeros on both sides: height, width"),                                   \
    TB_ATTR_LIST(conv2d_attrs, dilation, "distance of the window's elements: height, width"),                \
    TB_ATTR_INT(conv2d_attrs, groups, 1, "channels are split into this many independent groups")
static const tb_attr conv2d_attr_table[] = {CONV2D_ATTRS};
static const tb_attr conv2d_grad_attr_table[] = {
    CONV2D_ATTRS, TB_ATTR_LIST(conv2d_attrs, size, "height and width of the result"),
};

static const tb_attr conv2d_act_attr_table[] = {
    CONV2D_ATTRS, TB_ATTR_INT(conv2d_attrs, act, TB_ACT_NONE, "0 none, 1 relu, 2 gelu (tanh), 3 gelu (erf), 4 silu"),
};

/* ---- geometry ---- */
tb_status tbi_conv_geometry_of(const char *op, tbi_conv_window a, const int64_t *x, const int64_t *w,
                               tbi_conv_geometry *to)
{
    tbi_conv_geometry g = {.n = x[0], .c = x[1], .o = w[0], .groups = a.groups, .cg = w[1]};
    if (a.stride.n != 2 || a.pad.n != 2 || a.dilation.n != 2)
        return TB_FAIL(TB_ERR_INVALID, "%s: stride, pad and dilation have two entries: height, width", op);
    if (g.groups < 1 || g.c % g.groups || g.o % g.groups || g.c / g.groups != g.cg)
        return TB_FAIL(TB_ERR_SHAPE,
                       "%s: input %s and weight %s do not fit with %lld groups: the weight is "
                       "[out channels, channels / groups, height, width]",
                       op, tb_dims_text(4, x), tb_dims_text(4, w), (long long)g.groups);
    g.og = g.o / g.groups;
    for (int i = 0; i < 2; i++) {
        g.in[i] = x[2 + i];
        g.kernel[i] = w[2 + i];
        g.stride[i] = a.stride.at[i];
        g.pad[i] = a.pad.at[i];
        g.dilation[i] = a.dilation.at[i];
        if (g.stride[i] < 1 || g.dilation[i] < 1 || g.pad[i] < 0 || g.stride[i] > INT32_MAX ||
            g.dilation[i] > INT32_MAX || g.pad[i] > INT32_MAX || g.kernel[i] > INT32_MAX)
            return TB_FAIL(TB_ERR_INVALID,
                           "%s: stride and dilation must be at least 1 and pad at least 0, all below "
                           "2^31",
                           op);
        bool is_sized = g.kernel[i] >= 1 && g.in[i] >= 0;
        int64_t around = is_sized ? 2 * g.pad[i] - g.dilation[i] * (g.kernel[i] - 1) - 1 : 0, room;
        if (!is_sized || __builtin_add_overflow(g.in[i], around, &room) || room < 0)
            return TB_FAIL(TB_ERR_SHAPE,
                           "%s: a window of %s (dilation %s) does not fit into input %s with pad %s", op,
                           tb_dims_text(2, w + 2), tb_dims_text(2, a.dilation.at), tb_dims_text(4, x),
                           tb_dims_text(2, a.pad.at));
        g.out[i] = room / g.stride[i] + 1;
    }
    *to = g;
    return TB_OK;
}

/* Of an input x, a weight w and the attributes. */
static tb_status geometry_of(const char *op, const conv2d_attrs *a, const int64_t *x, const int64_t *w,
                             tbi_conv_geometry *to)
{
    return tbi_conv_geometry_of(op, (tbi_conv_window){a->stride, a->pad, a->dilation, a->groups}, x, w, to);
}

static tb_status check_images(const tb_op_call *c, const char *first, const char *second)
{
    const tb_tensor *a = c->in[0], *b = c->in[1];
    if (a->rank != 4 || b->rank != 4)
        return TB_FAIL(TB_ERR_SHAPE, "%s: %s %s and %s %s must have four dimensions", c->op->name, first,
                       tb_shape_text(a), second, tb_shape_text(b));
    if (a->dtype != b->dtype)
        return TB_FAIL(TB_ERR_DTYPE, "%s: %s is %s, %s is %s; cast one of them", c->op->name, first,
                       tb_dtype_name((tb_dtype)a->dtype), second, tb_dtype_name((tb_dtype)b->dtype));
    return TB_OK;
}

static int64_t at4(const tb_tensor *t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return a * t->strides[0] + b * t->strides[1] + c * t->strides[2] + d * t->strides[3];
}

/* Place in the output that sees input place `i` through window element `k`; -1: none. */
static int64_t output_place(const tbi_conv_geometry *g, int axis, int64_t i, int64_t k)
{
    int64_t at = i + g->pad[axis] - k * g->dilation[axis];
    if (at < 0 || at % g->stride[axis]) return -1;
    return at / g->stride[axis] < g->out[axis] ? at / g->stride[axis] : -1;
}

static tb_epilogue_act act_of(const tb_op_call *c)
{
    return c->op == &tb_op_conv2d_act ? (tb_epilogue_act)((const conv2d_attrs *)c->attrs)->act : TB_ACT_NONE;
}

/* ---- kernels: all ops take dense operands and split themselves over the pool ---- */
static tb_status run_kernel(tb_op_call *c, const tbi_conv_geometry *g, const tb_conv_args *operands)
{
    tb_conv_args a = *operands;
    a.n = g->n, a.c = g->c, a.h = g->in[0], a.w = g->in[1], a.groups = g->groups;
    a.o = g->o, a.kh = g->kernel[0], a.kw = g->kernel[1], a.oh = g->out[0], a.ow = g->out[1];
    for (int i = 0; i < 2; i++)
        a.stride[i] = g->stride[i], a.pad[i] = g->pad[i], a.dilation[i] = g->dilation[i];
    a.out = tb_op_data(c->out[0]);
    a.act = act_of(c);
    a.tree = c->op == &tb_op_conv2d_weight_grad ? c->ctx->batch_blocks : 1;
    a.pool = c->ctx->pool;
    for (int i = 0; i < c->n_in && i < 3; i++)
        if (c->in[i] && !c->in[i]->is_contiguous) return TB_ERR_UNSUPPORTED;
    if (c->n_in > 3 && c->in[3]) TB_TRY(tbi_dense(c, c->in[3], &a.residual));
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)c->in[0]->dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    if (c->out[0]->numel == 0) return TB_OK;
    if (k->pack_bytes) { /* a forward's weights */
        tbi_layout layout = {.of = k, .variant = a.groups, .bytes = k->pack_bytes(&a)};
        TB_TRY(tbi_use_packed(c, c->in[1], layout, k->pack, &a, false, &a.packed_weight));
    }
    size_t scratch = k->scratch_bytes ? k->scratch_bytes(&a) : 0;
    if (scratch && !(a.scratch = tb_op_scratch(c, scratch))) return TB_ERR_OOM;
    k->run(&a);
    return TB_OK;
}

/* ---- conv2d: x, w, b ---- */
static tb_status conv2d_shape(tb_op_call *c)
{
    const tb_tensor *b = c->n_in > 2 ? c->in[2] : NULL;
    tbi_conv_geometry g;
    TB_TRY(check_images(c, "input", "weight"));
    TB_TRY(geometry_of("conv2d", c->attrs, c->in[0]->dims, c->in[1]->dims, &g));
    if (b && (b->dtype != c->in[0]->dtype || b->rank != 1 || b->dims[0] != g.o))
        return TB_FAIL(TB_ERR_SHAPE, "conv2d: bias must be %s [%lld] for weight %s, not %s %s",
                       tb_dtype_name((tb_dtype)c->in[0]->dtype), (long long)g.o, tb_shape_text(c->in[1]),
                       tb_dtype_name((tb_dtype)b->dtype), tb_shape_text(b));
    if (act_of(c) < TB_ACT_NONE || act_of(c) > TB_ACT_SILU)
        return TB_FAIL(TB_ERR_INVALID, "conv2d_act: no activation has the number %d", (int)act_of(c));
    const int64_t dims[4] = {g.n, g.o, g.out[0], g.out[1]};
    const tb_tensor *residual = c->n_in > 3 ? c->in[3] : NULL;
    if (residual && (residual->dtype != c->in[0]->dtype || !tbi_has_dims(residual, 4, dims)))
        return TB_FAIL(TB_ERR_SHAPE, "conv2d_act: residual %s is not the shape of the result %s",
                       tb_shape_text(residual), tb_dims_text(4, dims));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, 4, dims);
    return TB_OK;
}

static int64_t get_whole(const tb_tensor *t, int64_t at)
{
    tb_dtype dtype = (tb_dtype)t->dtype;
    return tb_load_i64(dtype, (const char *)tb_op_data(t) + at * (int64_t)tb_dtype_size(dtype));
}

/* Sum over the window of one output element: of floats, or (exact, modulo the dtype's range) of integers. */
typedef struct window_sum {
    double real;
    uint64_t whole;
} window_sum;

static window_sum sum_window(const tbi_conv_geometry *g, const tb_tensor *x, const tb_tensor *w, int64_t n, int64_t o,
                             int64_t i, int64_t j)
{
    window_sum sum = {0};
    bool is_float = tb_dtype_is_float((tb_dtype)x->dtype);
    int64_t first = o / g->og * g->cg;
    for (int64_t ch = 0; ch < g->cg; ch++)
        for (int64_t p = 0; p < g->kernel[0]; p++)
            for (int64_t q = 0; q < g->kernel[1]; q++) {
                int64_t y = tbi_conv_input_place(g, 0, i, p), z = tbi_conv_input_place(g, 1, j, q);
                if (y < 0 || z < 0) continue;
                int64_t at_x = at4(x, n, first + ch, y, z), at_w = at4(w, o, ch, p, q);
                if (is_float) sum.real += tbi_get(x, at_x) * tbi_get(w, at_w);
                else sum.whole += (uint64_t)get_whole(x, at_x) * (uint64_t)get_whole(w, at_w);
            }
    return sum;
}

static tb_status conv2d_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *w = c->in[1], *b = c->n_in > 2 ? c->in[2] : NULL,
                    *r = c->n_in > 3 ? c->in[3] : NULL;
    tb_dtype t = (tb_dtype)x->dtype;
    bool is_float = tb_dtype_is_float(t);
    int64_t size = (int64_t)tb_dtype_size(t);
    char *out = tb_op_data(c->out[0]);
    tbi_conv_geometry g;
    TB_TRY(geometry_of("conv2d", c->attrs, x->dims, w->dims, &g));
    for (int64_t n = 0, to = 0; n < g.n; n++)
        for (int64_t o = 0; o < g.o; o++) {
            double bias = b && is_float ? tbi_get(b, o * b->strides[0]) : 0;
            uint64_t whole_bias = b && !is_float ? (uint64_t)get_whole(b, o * b->strides[0]) : 0;
            for (int64_t i = 0; i < g.out[0]; i++)
                for (int64_t j = 0; j < g.out[1]; j++, to++) {
                    window_sum sum = sum_window(&g, x, w, n, o, i, j);
                    double real = bias + sum.real + (r ? tbi_get(r, at4(r, n, o, i, j)) : 0);
                    if (is_float) tbi_put(c->out[0], to, tbi_act_f64(act_of(c), real));
                    else tb_store_i64(t, out + to * size, (int64_t)(whole_bias + sum.whole));
                }
        }
    return TB_OK;
}

static tb_status conv2d_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0], *w = c->in[1], *b = c->n_in > 2 ? c->in[2] : NULL;
    tbi_conv_geometry g;
    TB_TRY(geometry_of("conv2d", c->attrs, x->dims, w->dims, &g));
    const void *bias = b ? tb_op_data(b) : NULL;
    return run_kernel(c, &g, &(tb_conv_args){.x = tb_op_data(x), .weight = tb_op_data(w), .bias = bias});
}

static tb_tensor *call_grad(const tb_op *op, const conv2d_attrs *a, const int64_t *size, tb_tensor *g,
                            tb_tensor *other)
{
    conv2d_attrs sized = *a;
    sized.size = (tb_ints){2, {size[0], size[1]}};
    return tb_call(op, &sized, TB_IN(tb_contiguous(g), tb_contiguous(other)));
}

static tb_tensor *convolve(const conv2d_attrs *a, tb_tensor *x, tb_tensor *w)
{
    conv2d_attrs plain = *a;
    plain.size = (tb_ints){0};
    return tb_call(&tb_op_conv2d, &plain, TB_IN(tb_contiguous(x), tb_contiguous(w), NULL));
}

static void conv2d_grad(tb_grad_call *c)
{
    tb_tensor *g = c->grad[0];
    const tb_out_spec *x = &c->in_spec[0], *w = &c->in_spec[1];
    if (tb_grad_wants(c, 0))
        tb_grad_set(c, 0, call_grad(&tb_op_conv2d_input_grad, c->attrs, x->dims + 2, g, c->in[1]));
    if (tb_grad_wants(c, 1))
        tb_grad_set(c, 1, call_grad(&tb_op_conv2d_weight_grad, c->attrs, w->dims + 2, g, c->in[0]));
    if (c->n_in > 2 && tb_grad_wants(c, 2))
        tb_grad_set(c, 2, tb_reshape(tb_sum_to(g, 4, (int64_t[]){1, w->dims[0], 1, 1}), 1, w->dims));
}

/* ---- conv2d_input_grad: g [N, O, H', W'], w -> [N, C, size] ---- */
static tb_status check_gradient(const tb_op_call *c, const tbi_conv_geometry *g)
{
    if (tbi_has_dims(c->in[0], 4, (int64_t[]){g->n, g->o, g->out[0], g->out[1]})) return TB_OK;
    return TB_FAIL(TB_ERR_SHAPE, "%s: gradient %s does not belong to an output [%lld, %lld, %lld, %lld]",
                   c->op->name, tb_shape_text(c->in[0]), (long long)g->n, (long long)g->o,
                   (long long)g->out[0], (long long)g->out[1]);
}

static tb_status input_geometry(const tb_op_call *c, int64_t *dims, tbi_conv_geometry *g)
{
    const conv2d_attrs *a = c->attrs;
    const tb_tensor *w = c->in[1];
    if (a->size.n != 2)
        return TB_FAIL(TB_ERR_INVALID, "%s: size has two entries: height, width", c->op->name);
    if (a->groups < 1 || a->groups > w->dims[0])
        return TB_FAIL(TB_ERR_SHAPE, "%s: %lld groups of weight %s", c->op->name, (long long)a->groups,
                       tb_shape_text(w));
    memcpy(dims, (int64_t[]){c->in[0]->dims[0], w->dims[1] * a->groups, a->size.at[0], a->size.at[1]},
           4 * sizeof *dims);
    TB_TRY(geometry_of(c->op->name, a, dims, w->dims, g));
    return check_gradient(c, g);
}

static tb_status input_grad_shape(tb_op_call *c)
{
    int64_t dims[4];
    tbi_conv_geometry g;
    TB_TRY(check_images(c, "gradient", "weight"));
    TB_TRY(input_geometry(c, dims, &g));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, 4, dims);
    return TB_OK;
}

static double input_grad_at(const tbi_conv_geometry *g, const tb_tensor *dy, const tb_tensor *w, int64_t n, int64_t ch,
                            int64_t i, int64_t j)
{
    double sum = 0;
    int64_t group = ch / g->cg;
    for (int64_t o = group * g->og; o < (group + 1) * g->og; o++)
        for (int64_t p = 0; p < g->kernel[0]; p++)
            for (int64_t q = 0; q < g->kernel[1]; q++) {
                int64_t y = output_place(g, 0, i, p), z = output_place(g, 1, j, q);
                if (y >= 0 && z >= 0)
                    sum += tbi_get(dy, at4(dy, n, o, y, z)) * tbi_get(w, at4(w, o, ch % g->cg, p, q));
            }
    return sum;
}

static tb_status input_grad_ref(tb_op_call *c)
{
    int64_t dims[4];
    tbi_conv_geometry g;
    TB_TRY(input_geometry(c, dims, &g));
    for (int64_t n = 0, to = 0; n < g.n; n++)
        for (int64_t ch = 0; ch < g.c; ch++)
            for (int64_t i = 0; i < g.in[0]; i++)
                for (int64_t j = 0; j < g.in[1]; j++)
                    tbi_put(c->out[0], to++, input_grad_at(&g, c->in[0], c->in[1], n, ch, i, j));
    return TB_OK;
}

static tb_status input_grad_fast(tb_op_call *c)
{
    int64_t dims[4];
    tbi_conv_geometry g;
    TB_TRY(input_geometry(c, dims, &g));
    return run_kernel(c, &g, &(tb_conv_args){.g = tb_op_data(c->in[0]), .weight = tb_op_data(c->in[1])});
}

static void input_grad_grad(tb_grad_call *c)
{
    tb_tensor *h = c->grad[0]; /* of x's shape */
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, convolve(c->attrs, h, c->in[1]));
    if (tb_grad_wants(c, 1))
        tb_grad_set(c, 1,
                    call_grad(&tb_op_conv2d_weight_grad, c->attrs, c->in_spec[1].dims + 2, c->in[0], h));
}

/* ---- conv2d_weight_grad: g [N, O, H', W'], x -> [O, C / groups, size] ---- */
static tb_status weight_geometry(const tb_op_call *c, int64_t *dims, tbi_conv_geometry *g)
{
    const conv2d_attrs *a = c->attrs;
    const tb_tensor *x = c->in[1];
    if (a->size.n != 2)
        return TB_FAIL(TB_ERR_INVALID, "%s: size has two entries: height, width", c->op->name);
    int64_t cg = a->groups > 0 ? x->dims[1] / a->groups : 0;
    memcpy(dims, (int64_t[]){c->in[0]->dims[1], cg, a->size.at[0], a->size.at[1]}, 4 * sizeof *dims);
    TB_TRY(geometry_of(c->op->name, a, x->dims, dims, g));
    return check_gradient(c, g);
}

static tb_status weight_grad_shape(tb_op_call *c)
{
    int64_t dims[4];
    tbi_conv_geometry g;
    TB_TRY(check_images(c, "gradient", "input"));
    TB_TRY(weight_geometry(c, dims, &g));
    tb_out_set(c, 0, (tb_dtype)c->in[0]->dtype, 4, dims);
    return TB_OK;
}

static double weight_grad_at(const tbi_conv_geometry *g, const tb_tensor *dy, const tb_tensor *x, int64_t o,
                             int64_t ch, int64_t p, int64_t q)
{
    double sum = 0;
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t i = 0; i < g->out[0]; i++)
            for (int64_t j = 0; j < g->out[1]; j++) {
                int64_t y = tbi_conv_input_place(g, 0, i, p), z = tbi_conv_input_place(g, 1, j, q);
                if (y >= 0 && z >= 0)
                    sum += tbi_get(dy, at4(dy, n, o, i, j)) * tbi_get(x, at4(x, n, ch, y, z));
            }
    return sum;
}

static tb_status weight_grad_ref(tb_op_call *c)
{
    int64_t dims[4];
    tbi_conv_geometry g;
    TB_TRY(weight_geometry(c, dims, &g));
    for (int64_t o = 0, to = 0; o < g.o; o++)
        for (int64_t ch = 0; ch < g.cg; ch++)
            for (int64_t p = 0; p < g.kernel[0]; p++)
                for (int64_t q = 0; q < g.kernel[1]; q++)
                    tbi_put(c->out[0], to++,
                            weight_grad_at(&g, c->in[0], c->in[1], o, o / g.og * g.cg + ch, p, q));
    return TB_OK;
}

static tb_status weight_grad_fast(tb_op_call *c)
{
    int64_t dims[4];
    tbi_conv_geometry g;
    TB_TRY(weight_geometry(c, dims, &g));
    return run_kernel(c, &g, &(tb_conv_args){.g = tb_op_data(c->in[0]), .x = tb_op_data(c->in[1])});
}

static void weight_grad_grad(tb_grad_call *c)
{
    tb_tensor *h = c->grad[0]; /* of w's shape */
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, convolve(c->attrs, c->in[1], h));
    if (tb_grad_wants(c, 1))
        tb_grad_set(c, 1, call_grad(&tb_op_conv2d_input_grad, c->attrs, c->in_spec[1].dims + 2, c->in[0], h));
}

/* ---- cost ---- */
static void conv2d_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[0], *w = c->in[1];
    const tb_out_spec *y = &c->spec[0];
    double all = (double)(y->dims[0] * y->dims[1] * y->dims[2] * y->dims[3]),
           size = (double)tb_dtype_size((tb_dtype)x->dtype);
    int64_t k = w->dims[1] * w->dims[2] * w->dims[3];
    *out = (tb_cost){.flops = 2 * all * (double)k, .k = k,
                     .bytes = size * ((double)x->numel + (double)w->numel + all)};
}

static void grad_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *g = c->in[0], *other = c->in[1];
    const tb_out_spec *y = &c->spec[0];
    bool is_weight = c->op == &tb_op_conv2d_weight_grad;
    const int64_t *w = is_weight ? y->dims : other->dims;
    double all = (double)(y->dims[0] * y->dims[1] * y->dims[2] * y->dims[3]);
    *out = (tb_cost){.flops = 2 * (double)g->numel * (double)(w[1] * w[2] * w[3]),
                     .k = is_weight ? g->dims[0] * g->dims[2] * g->dims[3] : w[0] * w[2] * w[3],
                     .bytes = (double)tb_dtype_size((tb_dtype)g->dtype) *
                              ((double)g->numel + (double)other->numel + all)};
}

/* ---- samples ---- */
#define PAIR(a, b) {2, {a, b}}
#define ATTRS(s, s2, p, p2, d, d2, g) {PAIR(s, s2), PAIR(p, p2), PAIR(d, d2), g, {0}, 0}
static const struct {
    conv2d_attrs attrs;
    int64_t x[4], w[4], out[2];
} cases[] = {
    {ATTRS(1, 1, 0, 0, 1, 1, 1), {2, 2, 5, 4}, {3, 2, 3, 2}, {3, 3}},
    {ATTRS(2, 1, 1, 2, 1, 1, 1), {1, 1, 6, 5}, {2, 1, 3, 3}, {3, 7}},
    {ATTRS(1, 2, 2, 1, 2, 3, 1), {1, 2, 5, 7}, {1, 2, 3, 2}, {5, 3}},
    {ATTRS(1, 1, 1, 1, 1, 1, 2), {2, 4, 3, 3}, {2, 2, 3, 3}, {3, 3}},
    {ATTRS(2, 2, 0, 0, 1, 1, 3), {1, 3, 4, 4}, {3, 1, 1, 1}, {2, 2}},
    {ATTRS(1, 1, 0, 0, 1, 1, 1), {0, 1, 4, 4}, {2, 1, 3, 3}, {2, 2}},
    {ATTRS(1, 1, 0, 0, 1, 1, 1), {1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1}},
    {ATTRS(1, 1, 2, 2, 1, 1, 1), {9, 3, 14, 14}, {7, 3, 5, 5}, {14, 14}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static tb_sample_in image(const int64_t *d) { return (tb_sample_in){TB_SHAPE(d[0], d[1], d[2], d[3])}; }

static void conv2d_samples(tb_samples *to)
{
    for (int i = 0; i < CASES; i++) {
        tb_sample_in bias = {TB_SHAPE(cases[i].w[0]), .absent = i % 2 == 1};
        tb_sample(to, &cases[i].attrs, 3, (tb_sample_in[]){image(cases[i].x), image(cases[i].w), bias});
    }
}

static void conv2d_act_samples(tb_samples *to)
{
    for (int i = 0; i < 7; i++) {
        conv2d_attrs a = cases[i].attrs;
        a.act = i % 5;
        tb_sample(to, &a, 3,
                  (tb_sample_in[]){image(cases[i].x), image(cases[i].w), {TB_SHAPE(cases[i].w[0])}});
        tb_sample(to, &a, 4,
                  (tb_sample_in[]){image(cases[i].x),
                                   image(cases[i].w),
                                   {TB_SHAPE(cases[i].w[0]), .absent = i % 2 == 1},
                                   {TB_SHAPE(cases[i].x[0], cases[i].w[0], cases[i].out[0], cases[i].out[1])}});
    }
}

static void grad_samples(tb_samples *to, bool is_weight)
{
    for (int i = 0; i < CASES; i++) {
        const int64_t *x = cases[i].x, *w = cases[i].w, *size = is_weight ? w + 2 : x + 2;
        conv2d_attrs a = cases[i].attrs;
        a.size = (tb_ints){2, {size[0], size[1]}};
        tb_sample_in g = {TB_SHAPE(x[0], w[0], cases[i].out[0], cases[i].out[1])};
        tb_sample(to, &a, 2, (tb_sample_in[]){g, image(is_weight ? x : w)});
    }
}

static void input_grad_samples(tb_samples *to) { grad_samples(to, false); }
static void weight_grad_samples(tb_samples *to) { grad_samples(to, true); }

#define CONV2D_GRAD .dtypes = TB_FLOATS, .dtypes_reason = "gradients are floats"
#define CONV2D                                                                                               \
    .n_in_min = 2, .n_out = 1, .fusion = TB_FUSE_ANCHOR, .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .tol = TB_TOL(4)

TB_OP(conv2d, .doc = "2-d convolution (NCHW, OIHW)", CONV2D, .n_in = 3, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no sum of products", TB_ATTRS(conv2d_attrs, conv2d_attr_table), .shape = conv2d_shape,
      .ref = conv2d_ref, .fast = conv2d_fast, .primitives = {"conv2d"}, .grad = conv2d_grad, .by_rows = 1,
      .cost = conv2d_cost, .samples = conv2d_samples);
TB_OP(conv2d_act, .doc = "act(conv2d + residual), made by the compiler", .n_in_min = 2, .n_in = 4, .n_out = 1,
      .overwrites = 1u << 3, .dtypes = TB_FLOATS, .dtypes_reason = "activations are functions of floats",
      TB_ATTRS(conv2d_attrs, conv2d_act_attr_table), .shape = conv2d_shape, .ref = conv2d_ref, .fast = conv2d_fast,
      .primitives = {"conv2d"}, .no_grad = "made by fusion, after gradients are traced", .fusion = TB_FUSE_ANCHOR,
      .by_rows = 1 | 1u << 3, .cost = conv2d_cost, .samples = conv2d_act_samples, .tol = TB_TOL(4));
TB_OP(conv2d_input_grad, .doc = "gradient of conv2d's input", CONV2D, .n_in = 2, CONV2D_GRAD,
      TB_ATTRS(conv2d_attrs, conv2d_grad_attr_table), .shape = input_grad_shape, .ref = input_grad_ref,
      .fast = input_grad_fast, .primitives = {"conv2d_input_grad"}, .grad = input_grad_grad,
      .cost = grad_cost, .samples = input_grad_samples);
TB_OP(conv2d_weight_grad, .doc = "gradient of conv2d's weight", CONV2D, .n_in = 2, CONV2D_GRAD,
      TB_ATTRS(conv2d_attrs, conv2d_grad_attr_table), .shape = weight_grad_shape, .ref = weight_grad_ref,
      .fast = weight_grad_fast, .primitives = {"conv2d_weight_grad"}, .grad = weight_grad_grad,
      .cost = grad_cost, .samples = weight_grad_samples);

tb_tensor *tb_conv2d(tb_tensor *x, tb_tensor *w, tb_tensor *b, const tb_conv2d_opts *opts)
{
    const tb_conv2d_opts o = opts ? *opts : (tb_conv2d_opts){0};
    conv2d_attrs a = {.stride.n = 2, .pad.n = 2, .dilation.n = 2, .groups = o.groups ? o.groups : 1};
    for (int i = 0; i < 2; i++) {
        a.stride.at[i] = o.stride[i] ? o.stride[i] : 1;
        a.pad.at[i] = o.pad[i];
        a.dilation.at[i] = o.dilation[i] ? o.dilation[i] : 1;
    }
    return tb_call(&tb_op_conv2d, &a, TB_IN(tb_contiguous(x), tb_contiguous(w), b));
}
