/* mean_u8: the average over the places of an image in integers (quantized.c has the scheme): the sum is
 * exact, the division and the change of scale are one product. */
#include "tb_op.h"
#include "tb_ops.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
/* x u8 [N, H, W, C] -> u8 [N, C]: clamp(rne((sum over H, W - H W x_zero) * scale / (H W)) + zero, 0, 255).
 * scale is the step of x over the result's. */
typedef struct tb_mean_u8_opts {
    double scale;
    int64_t x_zero, zero;
} tb_mean_u8_opts;
tb_tensor *tb_mean_u8(tb_tensor *x, const tb_mean_u8_opts *opts);
//<<<
#endif

enum { MAX_PIXELS = 1 << 23 /* 255 of them stay below 2^31 */ };

static const tb_attr mean_u8_attr_table[] = {
    TB_ATTR_REAL(tb_mean_u8_opts, scale, 1, "step of x over the result's"),
    TB_ATTR_INT(tb_mean_u8_opts, x_zero, 0, "zero point of x"),
    TB_ATTR_INT(tb_mean_u8_opts, zero, 0, "zero point of the result"),
};

static tb_status shape(tb_op_call *c)
{
    const tb_mean_u8_opts *o = c->attrs;
    const tb_tensor *x = c->in[0];
    if (x->dtype != TB_U8)
        return TB_FAIL(TB_ERR_DTYPE, "mean_u8: takes u8, not %s", tb_dtype_name((tb_dtype)x->dtype));
    if (x->rank != 4 || x->dims[1] * x->dims[2] < 1 || x->dims[1] * x->dims[2] > MAX_PIXELS)
        return TB_FAIL(TB_ERR_SHAPE, "mean_u8: takes images [N, H, W, C] of 1 to %d places, not %s",
                       MAX_PIXELS, tb_shape_text(x));
    if (o->x_zero < 0 || o->x_zero > 255 || o->zero < 0 || o->zero > 255 || !(o->scale > 0 && o->scale < 1e6))
        return TB_FAIL(TB_ERR_INVALID,
                       "mean_u8: zero points %lld and %lld must be 0 to 255, scale %g positive and below 1e6",
                       (long long)o->x_zero, (long long)o->zero, o->scale);
    tb_out_set(c, 0, TB_U8, 2, (int64_t[]){x->dims[0], x->dims[3]});
    return TB_OK;
}

static tb_mean_u8_args args_of(const tb_op_call *c)
{
    const tb_mean_u8_opts *o = c->attrs;
    const tb_tensor *x = c->in[0];
    int64_t pixels = x->dims[1] * x->dims[2];
    return (tb_mean_u8_args){.pixels = pixels,
                             .c = x->dims[3],
                             .x = tb_op_data(x),
                             .out = tb_op_data(c->out[0]),
                             .shift = (int32_t)(pixels * o->x_zero),
                             .scale = (float)(o->scale / (double)pixels),
                             .zero = (int32_t)o->zero};
}

static tb_status ref(tb_op_call *c)
{
    const tb_mean_u8_args a = args_of(c);
    const tb_tensor *x = c->in[0];
    for (int64_t at = 0; at < c->out[0]->numel; at++) {
        const uint8_t *plane = a.x + at / a.c * x->strides[0] + at % a.c * x->strides[3];
        int32_t sum = 0;
        for (int64_t i = 0; i < x->dims[1]; i++)
            for (int64_t j = 0; j < x->dims[2]; j++) sum += plane[i * x->strides[1] + j * x->strides[2]];
        float q = rintf((float)(sum - a.shift) * a.scale) + (float)a.zero;
        a.out[at] = (uint8_t)(q < 0 ? 0 : q > 255 ? 255 : q);
    }
    return TB_OK;
}

typedef struct job {
    const tb_kernel *kernel;
    const tb_mean_u8_args *args;
} job;

static void run_images(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *j = arg;
    tb_mean_u8_args a = *j->args;
    (void)thread;
    a.from = begin;
    a.to = end;
    j->kernel->run(&a);
}

static tb_status fast(tb_op_call *c)
{
    const tb_mean_u8_args a = args_of(c);
    if (!c->in[0]->is_contiguous) return TB_ERR_UNSUPPORTED;
    job j = {tb_call_kernel(c, 0, TB_U8, &a), &a};
    if (!j.kernel) return TB_ERR_UNSUPPORTED;
    if (c->out[0]->numel > 0)
        tb_pool_run(c->in[0]->numel > 1 << 17 ? c->ctx->pool : NULL, c->in[0]->dims[0], run_images, &j);
    return TB_OK;
}

static void samples(tb_samples *to)
{
    static const tb_mean_u8_opts opts[] = {{1.7, 20, 5}, {0.4, 0, 200}};
    static const int64_t x[][4] = {{2, 7, 7, 64}, {3, 2, 5, 19}, {0, 4, 4, 4}, {1, 1, 1, 130}};
    for (size_t i = 0; i < 8; i++) {
        const int64_t *d = x[i / 2];
        tb_sample(to, &opts[i % 2], 1,
                  &(tb_sample_in){TB_SHAPE(d[0], d[1], d[2], d[3]), .has_dtype = true, .dtype = TB_U8,
                                  .lo = 0, .hi = 255, .fill = TB_FILL_INTEGER});
    }
}

TB_OP(mean_u8, .doc = "average over the places of u8 images (NHWC)", .n_in_min = 1, .n_in = 1, .n_out = 1,
      .dtypes = TB_DTYPE_BIT(TB_U8), .dtypes_reason = "activations are u8",
      TB_ATTRS(tb_mean_u8_opts, mean_u8_attr_table), .shape = shape, .ref = ref, .fast = fast, .by_rows = 1,
      .primitives = {"mean_u8"}, .no_grad = "integers have none", .samples = samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_mean_u8(tb_tensor *x, const tb_mean_u8_opts *opts)
{
    return tb_call(&tb_op_mean_u8, opts, TB_IN(x));
}
