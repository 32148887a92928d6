/* conv2d_winograd: conv2d with stride 1 in fewer products (kernels/cpu/conv_winograd_f32.h), the residual and the
 * activation of conv2d_act, and the pooling behind it. The compiler makes it of convolutions with constant weights: it
 * rounds differently from conv2d. */
#include "conv2d.h"
#include "rows.h"
#include <math.h>

enum { X, W, BIAS, RESIDUAL, OPERANDS };

static const tb_attr winograd_attr_table[] = {
    TB_ATTR_LIST(tbi_conv2d_winograd_attrs, pad, "zeros on both sides: height, width"),
    TB_ATTR_INT(tbi_conv2d_winograd_attrs, act, TB_ACT_NONE, "0 none, 1 relu, 2 gelu (tanh), 3 gelu (erf), 4 silu"),
    TB_ATTR_BOOL(tbi_conv2d_winograd_attrs, is_pooled, 0, "the greatest of every 2 x 2; with act 0 or 1, no residual"),
};

static const tb_tensor *operand(const tb_op_call *c, int i) { return i < c->n_in ? c->in[i] : NULL; }

static tb_status geometry_of(const tb_op_call *c, tbi_conv_geometry *g)
{
    const tbi_conv2d_winograd_attrs *a = c->attrs;
    const tb_ints one = {2, {1, 1}};
    return tbi_conv_geometry_of("conv2d_winograd", (tbi_conv_window){one, a->pad, one, 1}, c->in[X]->dims,
                                c->in[W]->dims, g);
}

static tb_status shape(tb_op_call *c)
{
    const tbi_conv2d_winograd_attrs *a = c->attrs;
    const tb_tensor *x = c->in[X], *w = c->in[W], *b = operand(c, BIAS), *r = operand(c, RESIDUAL);
    tbi_conv_geometry g;
    if (x->rank != 4 || w->rank != 4 || (w->dims[2] != 3 && w->dims[2] != 5) || w->dims[2] != w->dims[3])
        return TB_FAIL(TB_ERR_SHAPE, "conv2d_winograd: takes [N, C, H, W] and weights of 3x3 or 5x5, not %s and %s",
                       tb_shape_text(x), tb_shape_text(w));
    TB_TRY(geometry_of(c, &g));
    const int64_t dims[4] = {g.n, g.o, a->is_pooled ? g.out[0] / 2 : g.out[0], a->is_pooled ? g.out[1] / 2 : g.out[1]};
    if (w->dtype != x->dtype || (b && (b->dtype != x->dtype || !tbi_has_dims(b, 1, w->dims))) ||
        (r && (r->dtype != x->dtype || !tbi_has_dims(r, 4, dims))))
        return TB_FAIL(TB_ERR_SHAPE, "conv2d_winograd: weight, bias [%lld] and residual %s must be %s", (long long)g.o,
                       tb_dims_text(4, dims), tb_dtype_name((tb_dtype)x->dtype));
    if (a->act < TB_ACT_NONE || a->act > TB_ACT_SILU || (a->is_pooled && (r || a->act > TB_ACT_RELU)))
        return TB_FAIL(TB_ERR_INVALID, "conv2d_winograd: act is 0 to 4; pooled, 0 or 1 and without a residual");
    tb_out_set(c, 0, (tb_dtype)x->dtype, 4, dims);
    return TB_OK;
}

/* ---- the definition ---- */
static double output(const tb_op_call *c, const tbi_conv_geometry *g, int64_t n, int64_t o, int64_t i, int64_t j)
{
    const tb_tensor *x = c->in[X], *w = c->in[W], *b = operand(c, BIAS), *r = operand(c, RESIDUAL);
    double sum = b ? tbi_get(b, o * b->strides[0]) : 0;
    for (int64_t ch = 0; ch < g->c; ch++)
        for (int64_t p = 0; p < g->kernel[0]; p++)
            for (int64_t q = 0; q < g->kernel[1]; q++) {
                int64_t y = tbi_conv_input_place(g, 0, i, p), z = tbi_conv_input_place(g, 1, j, q);
                if (y >= 0 && z >= 0)
                    sum += tbi_get(x, n * x->strides[0] + ch * x->strides[1] + y * x->strides[2] + z * x->strides[3]) *
                           tbi_get(w, o * w->strides[0] + ch * w->strides[1] + p * w->strides[2] + q * w->strides[3]);
            }
    if (r) sum += tbi_get(r, n * r->strides[0] + o * r->strides[1] + i * r->strides[2] + j * r->strides[3]);
    return tbi_act_f64((tb_epilogue_act)((const tbi_conv2d_winograd_attrs *)c->attrs)->act, sum);
}

static tb_status ref(tb_op_call *c)
{
    bool is_pooled = ((const tbi_conv2d_winograd_attrs *)c->attrs)->is_pooled;
    const int64_t *dims = c->out[0]->dims;
    tbi_conv_geometry g;
    TB_TRY(geometry_of(c, &g));
    for (int64_t n = 0, to = 0; n < dims[0]; n++)
        for (int64_t o = 0; o < dims[1]; o++)
            for (int64_t at = 0; at < dims[2] * dims[3]; at++) {
                int64_t i = at / dims[3], j = at % dims[3];
                double most = is_pooled ? (double)-INFINITY : output(c, &g, n, o, i, j);
                for (int k = 0; k < 4 && is_pooled; k++) {
                    double y = output(c, &g, n, o, 2 * i + k / 2, 2 * j + k % 2);
                    most = y > most || isnan(y) ? y : most;
                }
                tbi_put(c->out[0], to++, most);
            }
    return TB_OK;
}

static tb_status fast(tb_op_call *c)
{
    const tbi_conv2d_winograd_attrs *attrs = c->attrs;
    tbi_conv_geometry g;
    TB_TRY(geometry_of(c, &g));
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i] && !c->in[i]->is_contiguous) return TB_ERR_UNSUPPORTED;
    tb_conv_args a = {.n = g.n,
                      .c = g.c,
                      .h = g.in[0],
                      .w = g.in[1],
                      .o = g.o,
                      .kh = g.kernel[0],
                      .kw = g.kernel[1],
                      .oh = g.out[0],
                      .ow = g.out[1],
                      .stride = {1, 1},
                      .pad = {g.pad[0], g.pad[1]},
                      .dilation = {1, 1},
                      .groups = 1,
                      .x = tb_op_data(c->in[X]),
                      .weight = tb_op_data(c->in[W]),
                      .out = tb_op_data(c->out[0]),
                      .bias = operand(c, BIAS) ? tb_op_data(c->in[BIAS]) : NULL,
                      .residual = operand(c, RESIDUAL) ? tb_op_data(c->in[RESIDUAL]) : NULL,
                      .act = (tb_epilogue_act)attrs->act,
                      .is_pooled = attrs->is_pooled,
                      .pool = c->ctx->pool};
    const tb_kernel *k = tb_call_kernel(c, 0, (tb_dtype)c->in[X]->dtype, &a);
    if (!k) return TB_ERR_UNSUPPORTED;
    tbi_layout layout = {.of = k, .bytes = k->pack_bytes(&a)};
    TB_TRY(tbi_use_packed(c, c->in[W], layout, k->pack, &a, true, &a.packed_weight));
    if (!(a.scratch = tb_op_scratch(c, k->scratch_bytes(&a)))) return TB_ERR_OOM;
    k->run(&a);
    return TB_OK;
}

/* Operations of the convolution that it stands for. An element's error grows with the 36 points that it is made of. */
static void cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[X], *w = c->in[W];
    const tb_out_spec *y = &c->spec[0];
    double all = (double)(y->dims[0] * y->dims[1] * y->dims[2] * y->dims[3]);
    int64_t k = w->dims[1] * w->dims[2] * w->dims[3];
    int pooled = ((const tbi_conv2d_winograd_attrs *)c->attrs)->is_pooled ? 4 : 1;
    *out = (tb_cost){.flops = 2 * all * pooled * (double)k,
                     .k = 36 * k,
                     .bytes = (double)tb_dtype_size((tb_dtype)x->dtype) * ((double)x->numel + (double)w->numel + all)};
}

static void samples(tb_samples *to)
{
    static const struct {
        int64_t x[4], w[4], pad, out;
    } cases[] = {
        {{2, 3, 7, 7}, {5, 3, 3, 3}, 1, 7},    {{1, 17, 4, 4}, {33, 17, 3, 3}, 0, 2},
        {{3, 2, 12, 12}, {18, 2, 5, 5}, 0, 8}, {{1, 1, 6, 6}, {1, 1, 5, 5}, 2, 6},
        {{0, 2, 5, 5}, {3, 2, 3, 3}, 1, 5},    {{1, 20, 30, 30}, {40, 20, 3, 3}, 1, 30},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t *x = cases[i].x, *w = cases[i].w, pad = cases[i].pad;
        tbi_conv2d_winograd_attrs a = {{2, {pad, pad}}, (int64_t)i % 5, false}, pooled = {{2, {pad, pad}}, i % 2, true};
        tb_sample_in in[] = {{TB_SHAPE(x[0], x[1], x[2], x[3])},
                             {TB_SHAPE(w[0], w[1], w[2], w[3])},
                             {TB_SHAPE(w[0]), .absent = i % 3 == 1},
                             {TB_SHAPE(x[0], w[0], cases[i].out, cases[i].out), .absent = i % 3 == 2}};
        tb_sample(to, &a, 4, in);
        tb_sample(to, &pooled, 3, in);
    }
}

TB_OP(conv2d_winograd, .doc = "conv2d in fewer products, with what follows it; made by the compiler", .n_in_min = 2,
      .n_in = OPERANDS, .n_out = 1, .dtypes = TB_FLOATS, .dtypes_reason = "minimal filtering divides",
      TB_ATTRS(tbi_conv2d_winograd_attrs, winograd_attr_table), .shape = shape, .ref = ref, .fast = fast,
      .primitives = {"conv2d_winograd"}, .no_grad = "made by the compiler for inference", .fusion = TB_FUSE_ANCHOR,
      .by_rows = 1 | 1u << RESIDUAL, .cost = cost, .samples = samples, .tol = TB_TOL(4));
