/* add, sub, mul, div, neg: pointwise arithmetic with broadcasting and promotion as in PyTorch (div of integers gives
 * f32; integer overflow wraps). */
#include "pointwise.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_add(tb_tensor *a, tb_tensor *b); /* a, b: shapes that broadcast, any dtypes (bool: or) */
tb_tensor *tb_sub(tb_tensor *a, tb_tensor *b); /* not for bool */
tb_tensor *tb_mul(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_div(tb_tensor *a, tb_tensor *b); /* true division: integers become f32 */
tb_tensor *tb_neg(tb_tensor *x);               /* not for bool */
//<<<

static double add_f(double a, double b, double c, const void *t) { return (void)c, (void)t, a + b; }
static double sub_f(double a, double b, double c, const void *t) { return (void)c, (void)t, a - b; }
static double mul_f(double a, double b, double c, const void *t) { return (void)c, (void)t, a * b; }
static double div_f(double a, double b, double c, const void *t) { return (void)c, (void)t, a / b; }
static double neg_f(double a, double b, double c, const void *t) { return (void)b, (void)c, (void)t, -a; }

/* Unsigned arithmetic: wraps instead of being undefined. */
static int64_t add_i(int64_t a, int64_t b, int64_t c, const void *t)
{
    return (void)c, (void)t, (int64_t)((uint64_t)a + (uint64_t)b);
}
static int64_t sub_i(int64_t a, int64_t b, int64_t c, const void *t)
{
    return (void)c, (void)t, (int64_t)((uint64_t)a - (uint64_t)b);
}
static int64_t mul_i(int64_t a, int64_t b, int64_t c, const void *t)
{
    return (void)c, (void)t, (int64_t)((uint64_t)a * (uint64_t)b);
}
static int64_t neg_i(int64_t a, int64_t b, int64_t c, const void *t)
{
    return (void)b, (void)c, (void)t, (int64_t)(0 - (uint64_t)a);
}

static void add_grad(tb_grad_call *c)
{
    for (int i = 0; i < 2; i++)
        if (tb_grad_wants(c, i)) tb_grad_set(c, i, c->grad[0]);
}

static void sub_grad(tb_grad_call *c)
{
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, c->grad[0]);
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_neg(c->grad[0]));
}

static void mul_grad(tb_grad_call *c)
{
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_mul(c->grad[0], c->in[1]));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_mul(c->grad[0], c->in[0]));
}

/* d(a/b)/db = -(a/b)/b */
static void div_grad(tb_grad_call *c)
{
    tb_tensor *ga = tb_div(c->grad[0], c->in[1]);
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, ga);
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_neg(tb_mul(ga, c->out[0])));
}

static void neg_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_neg(c->grad[0])); }

static void div_samples(tb_samples *to) /* divisors away from zero */
{
    tb_sample(to, NULL, 2, (tb_sample_in[]){{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5), .lo = 0.5, .hi = 3}});
    tb_sample(to, NULL, 2, (tb_sample_in[]){{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(4), .lo = 0.5, .hi = 3}});
    tb_sample(to, NULL, 2, (tb_sample_in[]){{TB_SHAPE(0)}, {.rank = 0, .lo = 0.5, .hi = 3}});
}

TB_OP(add, .doc = "a + b", .n_in_min = 2, .n_in = 2, .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_COMMON,
      TB_POINTWISE(.f = add_f, .i = add_i), .primitives = {"add"}, .grad = add_grad,
      .samples = tbi_pointwise_samples2, .tol = TB_TOL(1));
TB_OP(sub, .doc = "a - b", .n_in_min = 2, .n_in = 2, .dtypes = TB_NUMBERS, .dtypes_reason = "bool has no negation",
      .promote = TB_PROMOTE_COMMON, TB_POINTWISE(.f = sub_f, .i = sub_i), .primitives = {"sub"}, .grad = sub_grad,
      .samples = tbi_pointwise_samples2, .tol = TB_TOL(1));
TB_OP(mul, .doc = "a * b", .n_in_min = 2, .n_in = 2, .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_COMMON,
      TB_POINTWISE(.f = mul_f, .i = mul_i), .primitives = {"mul"}, .grad = mul_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .samples = tbi_pointwise_samples2, .tol = TB_TOL(1));
TB_OP(div, .doc = "a / b", .n_in_min = 2, .n_in = 2, .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_FLOAT,
      TB_POINTWISE(.f = div_f), .primitives = {"div"}, .grad = div_grad, .saves = TB_SAVE_IN(1) | TB_SAVE_OUT(0),
      .samples = div_samples, .tol = TB_TOL(1));
TB_OP(neg, .doc = "-x", .n_in_min = 1, .n_in = 1, .dtypes = TB_NUMBERS, .dtypes_reason = "bool has no negation",
      TB_POINTWISE(.f = neg_f, .i = neg_i), .primitives = {"neg"}, .grad = neg_grad,
      .samples = tbi_pointwise_samples1, .tol = TB_TOL_EXACT);

tb_tensor *tb_add(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_add, NULL, TB_IN(a, b)); }
tb_tensor *tb_sub(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_sub, NULL, TB_IN(a, b)); }
tb_tensor *tb_mul(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_mul, NULL, TB_IN(a, b)); }
tb_tensor *tb_div(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_div, NULL, TB_IN(a, b)); }
tb_tensor *tb_neg(tb_tensor *x) { return tb_call(&tb_op_neg, NULL, TB_IN(x)); }
