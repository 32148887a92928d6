/* add_u8: the sum of two tensors in integers (quantized.c has the scheme), as residual networks need between
 * their blocks: both operands are brought to the result's scale, added in f32, rounded once. */
#include "tb_op.h"
#include "tb_ops.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
/* a, b u8 of one shape -> u8: clamp(rne((a - a_zero) a_scale + (b - b_zero) b_scale) + zero, low, 255). The
 * scales are the operands' steps over the result's; low is the zero point for a relu, else 0. */
typedef struct tb_add_u8_opts {
    double a_scale, b_scale;
    int64_t a_zero, b_zero, zero, low;
} tb_add_u8_opts;
tb_tensor *tb_add_u8(tb_tensor *a, tb_tensor *b, const tb_add_u8_opts *opts);
//<<<
#endif

static const tb_attr add_u8_attr_table[] = {
    TB_ATTR_REAL(tb_add_u8_opts, a_scale, 1, "step of a over the result's"),
    TB_ATTR_REAL(tb_add_u8_opts, b_scale, 1, "step of b over the result's"),
    TB_ATTR_INT(tb_add_u8_opts, a_zero, 0, "zero point of a"),
    TB_ATTR_INT(tb_add_u8_opts, b_zero, 0, "zero point of b"),
    TB_ATTR_INT(tb_add_u8_opts, zero, 0, "zero point of the result"),
    TB_ATTR_INT(tb_add_u8_opts, low, 0, "lowest value of the result (the zero point: relu)"),
};

static bool is_byte(int64_t x) { return x >= 0 && x <= 255; }

static tb_status shape(tb_op_call *c)
{
    const tb_add_u8_opts *o = c->attrs;
    const tb_tensor *a = c->in[0], *b = c->in[1];
    if (a->dtype != TB_U8 || b->dtype != TB_U8)
        return TB_FAIL(TB_ERR_DTYPE, "add_u8: takes two tensors of u8");
    if (a->rank != b->rank || memcmp(a->dims, b->dims, sizeof *a->dims * (size_t)a->rank) != 0)
        return TB_FAIL(TB_ERR_SHAPE, "add_u8: %s and %s must have one shape", tb_shape_text(a),
                       tb_shape_text(b));
    if (!is_byte(o->a_zero) || !is_byte(o->b_zero) || !is_byte(o->zero) || !is_byte(o->low))
        return TB_FAIL(TB_ERR_INVALID, "add_u8: zero points %lld, %lld, %lld and low %lld must be 0 to 255",
                       (long long)o->a_zero, (long long)o->b_zero, (long long)o->zero, (long long)o->low);
    if (!(o->a_scale > 0 && o->b_scale > 0 && o->a_scale < 1e6 && o->b_scale < 1e6))
        return TB_FAIL(TB_ERR_INVALID, "add_u8: scales %g and %g must be positive and below 1e6", o->a_scale,
                       o->b_scale);
    tb_out_set(c, 0, TB_U8, a->rank, a->dims);
    return TB_OK;
}

static tb_add_u8_args args_of(const tb_add_u8_opts *o)
{
    return (tb_add_u8_args){(float)o->a_scale,  (float)o->b_scale, (int32_t)o->a_zero,
                            (int32_t)o->b_zero, (int32_t)o->zero,  (int32_t)o->low};
}

static tb_status ref(tb_op_call *c)
{
    const tb_add_u8_args s = args_of(c->attrs);
    const uint8_t *a = tb_op_data(c->in[0]), *b = tb_op_data(c->in[1]);
    uint8_t *out = tb_op_data(c->out[0]);
    tb_walk w;
    tb_walk_init(&w, c->in[0]->rank, c->in[0]->dims);
    tb_walk_add(&w, c->in[0]);
    tb_walk_add(&w, c->in[1]);
    TB_WALK(&w)
    {
        float left = (float)(a[w.at[0]] - s.a_zero) * s.a_scale,
              right = (float)(b[w.at[1]] - s.b_zero) * s.b_scale;
        float q = rintf(left + right) + (float)s.zero;
        out[w.flat] = (uint8_t)(q < (float)s.low ? (float)s.low : q > 255 ? 255 : q);
    }
    return TB_OK;
}

/* ---- kernels: ranges of elements are split over the pool ---- */
enum { PART = 1 << 15 }; /* elements worth a hand-over */

typedef struct job {
    const tb_kernel *kernel;
    const tb_pointwise_args *args;
} job;

static void run_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    const job *j = arg;
    tb_pointwise_args a = *j->args;
    (void)thread;
    int64_t first = begin * PART, last = end * PART < a.n ? end * PART : a.n;
    a.n = last - first;
    for (int i = 0; i < 2; i++) a.in[i] = (const uint8_t *)a.in[i] + first;
    a.out = (uint8_t *)a.out + first;
    j->kernel->run(&a);
}

static tb_status fast(tb_op_call *c)
{
    const tb_add_u8_args s = args_of(c->attrs);
    tb_pointwise_args args = {.n = c->in[0]->numel,
                              .out = tb_op_data(c->out[0]),
                              .in = {tb_op_data(c->in[0]), tb_op_data(c->in[1])},
                              .step = {1, 1},
                              .attrs = &s};
    if (!c->in[0]->is_contiguous || !c->in[1]->is_contiguous) return TB_ERR_UNSUPPORTED;
    job j = {tb_call_kernel(c, 0, TB_U8, &args), &args};
    if (!j.kernel) return TB_ERR_UNSUPPORTED;
    if (args.n) tb_pool_run(c->ctx->pool, (args.n + PART - 1) / PART, run_parts, &j);
    return TB_OK;
}

static void samples(tb_samples *to)
{
    static const tb_add_u8_opts opts[] = {{0.7, 0.4, 100, 3, 90, 90}, {1.5, 0.01, 0, 255, 0, 0}};
    static const int64_t shapes[][2] = {{3, 37}, {1, 1}, {0, 5}, {5, 16384}};
    for (size_t i = 0; i < 8; i++) {
        tb_sample_in x = {TB_SHAPE(shapes[i / 2][0], shapes[i / 2][1]),
                          .has_dtype = true,
                          .dtype = TB_U8,
                          .lo = 0,
                          .hi = 255,
                          .fill = TB_FILL_INTEGER};
        tb_sample(to, &opts[i % 2], 2, (tb_sample_in[]){x, x});
    }
}

TB_OP(add_u8, .doc = "sum of two u8 tensors, rescaled", .n_in_min = 2, .n_in = 2, .n_out = 1, .overwrites = 3,
      .by_rows = 3, .dtypes = TB_DTYPE_BIT(TB_U8), .dtypes_reason = "activations are u8",
      TB_ATTRS(tb_add_u8_opts, add_u8_attr_table), .shape = shape, .ref = ref, .fast = fast, .primitives = {"add_u8"},
      .no_grad = "integers have none", .samples = samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_add_u8(tb_tensor *a, tb_tensor *b, const tb_add_u8_opts *opts)
{
    return tb_call(&tb_op_add_u8, opts, TB_IN(a, b));
}
