/* max_pool2d_u8: max pooling between integer convolutions: channels last, no indices, no gradient. Padding never wins.
 */
#include "pool2d.h"

//>>> tb_ops.h
/* x: u8 [N, H, W, C] -> [N, H', W', C]; the zero point stays what it was. */
tb_tensor *tb_max_pool2d_u8(tb_tensor *x, const tb_pool2d_opts *opts);
//<<<

static const tb_attr attr_table[] = {POOL_WINDOW_ATTRS};

static tb_status u8_geometry(const tb_op_call *c, tbi_pool_geometry *g)
{
    const tb_tensor *x = c->in[0];
    if (x->dtype != TB_U8)
        return TB_FAIL(TB_ERR_DTYPE, "max_pool2d_u8: takes u8, not %s", tb_dtype_name((tb_dtype)x->dtype));
    int64_t dims[4] = {x->dims[0], x->dims[3], x->dims[1], x->dims[2]};
    return tbi_pool_geometry_of("max_pool2d_u8", c->attrs, x->rank, dims, g);
}

static tb_status u8_shape(tb_op_call *c)
{
    tbi_pool_geometry g;
    TB_TRY(u8_geometry(c, &g));
    tb_out_set(c, 0, TB_U8, 4, (int64_t[]){c->in[0]->dims[0], g.out[0], g.out[1], c->in[0]->dims[3]});
    return TB_OK;
}

static tb_status u8_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    const uint8_t *in = tb_op_data(x);
    uint8_t *out = tb_op_data(c->out[0]);
    int64_t channels = x->dims[3], places;
    tbi_pool_geometry g;
    TB_TRY(u8_geometry(c, &g));
    places = g.out[0] * g.out[1];
    for (int64_t i = 0; i < c->out[0]->numel; i++) {
        tbi_pool_window r = tbi_pool_window_at(&g, i / channels % places);
        uint8_t best = 0;
        for (int64_t y = r.top; y < r.bottom; y++)
            for (int64_t z = r.left; z < r.right; z++) {
                uint8_t v = in[i / channels / places * x->strides[0] + y * x->strides[1] + z * x->strides[2] +
                               i % channels * x->strides[3]];
                best = v > best ? v : best;
            }
        out[i] = best;
    }
    return TB_OK;
}

typedef struct u8_job {
    const tb_kernel *kernel;
    tb_pool_u8_args args;
} u8_job;

static void run_u8_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const u8_job *j = arg;
    tb_pool_u8_args a = j->args;
    a.from = begin;
    a.to = end;
    j->kernel->run(&a);
}

static tb_status u8_fast(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tbi_pool_geometry g;
    TB_TRY(u8_geometry(c, &g));
    u8_job j = {.args = {.h = g.in[0],
                         .w = g.in[1],
                         .c = x->dims[3],
                         .oh = g.out[0],
                         .ow = g.out[1],
                         .kh = g.a->kernel.at[0],
                         .kw = g.a->kernel.at[1],
                         .x = tb_op_data(x),
                         .out = tb_op_data(c->out[0])}};
    for (int i = 0; i < 2; i++) j.args.stride[i] = g.a->stride.at[i], j.args.pad[i] = g.a->pad.at[i];
    if (!x->is_contiguous || !(j.kernel = tb_call_kernel(c, 0, TB_U8, &j.args))) return TB_ERR_UNSUPPORTED;
    if (c->out[0]->numel > 0)
        tb_pool_run(x->numel > 1 << 17 ? c->ctx->pool : NULL, x->dims[0] * g.out[0], run_u8_rows, &j);
    return TB_OK;
}

static void u8_samples(tb_samples *to)
{
    static const tbi_pool2d_attrs attrs[] = {{{2, {2, 2}}, {2, {2, 2}}, {2, {0, 0}}, false, {0}},
                                             {{2, {3, 2}}, {2, {1, 2}}, {2, {1, 1}}, false, {0}}};
    static const int64_t x[][4] = {{2, 8, 6, 32}, {3, 5, 7, 3}, {0, 4, 4, 4}, {1, 2, 2, 70}};
    for (size_t i = 0; i < 8; i++) {
        const int64_t *d = x[i / 2];
        tb_sample(to, &attrs[i % 2], 1,
                  &(tb_sample_in){TB_SHAPE(d[0], d[1], d[2], d[3]), .has_dtype = true, .dtype = TB_U8, .lo = 0,
                                  .hi = 255, .fill = TB_FILL_INTEGER});
    }
}

TB_OP(max_pool2d_u8, .doc = "max pooling of u8 images (NHWC)", .n_in_min = 1, .n_in = 1, .n_out = 1,
      .dtypes = TB_DTYPE_BIT(TB_U8), .dtypes_reason = "activations are u8", TB_ATTRS(tbi_pool2d_attrs, attr_table),
      .shape = u8_shape, .ref = u8_ref, .fast = u8_fast, .primitives = {"max_pool2d_u8"}, .by_rows = 1,
      .no_grad = "integers have none", .samples = u8_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_max_pool2d_u8(tb_tensor *x, const tb_pool2d_opts *opts)
{
    return tbi_pool2d_call(&tb_op_max_pool2d_u8, x, opts);
}
