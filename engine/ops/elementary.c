/* exp, log, sqrt, rsqrt, abs, sign, pow: elementary functions. Integers become f32 where the result is not one. */
#include "pointwise.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
tb_tensor *tb_exp(tb_tensor *x); /* integers and bool become f32 */
tb_tensor *tb_log(tb_tensor *x);
tb_tensor *tb_sqrt(tb_tensor *x);
tb_tensor *tb_rsqrt(tb_tensor *x); /* 1 / sqrt(x) */
tb_tensor *tb_abs(tb_tensor *x);   /* not for bool */
tb_tensor *tb_sign(tb_tensor *x);  /* -1, 0, 1; 0 for NaN */
/* a^b, not for bool. Integer powers wrap; a negative exponent gives 0 except for bases 1 and -1, as in torch. */
tb_tensor *tb_pow(tb_tensor *a, tb_tensor *b);
//<<<

TB_F(exp_f, exp(a))
TB_F(log_f, log(a))
TB_F(sqrt_f, sqrt(a))
TB_F(rsqrt_f, 1 / sqrt(a))
TB_F(abs_f, fabs(a))
TB_I(abs_i, a < 0 ? (int64_t)(0 - (uint64_t)a) : a)
TB_F(sign_f, (a > 0) - (a < 0))
TB_I(sign_i, (a > 0) - (a < 0))

static void exp_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_mul(c->grad[0], c->out[0])); }
static void log_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_div(c->grad[0], c->in[0])); }
static void abs_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_mul(c->grad[0], tb_sign(c->in[0]))); }

static void flat_grad(tb_grad_call *c) { (void)c; } /* constant on both sides of 0: no gradient arrives */

static void sqrt_grad(tb_grad_call *c)
{
    tb_grad_set(c, 0, tb_div(tb_mul_number(c->grad[0], 0.5), c->out[0]));
}

static void rsqrt_grad(tb_grad_call *c) /* -y^3 / 2 */
{
    tb_tensor *y = c->out[0];
    tb_grad_set(c, 0, tb_mul(tb_mul_number(c->grad[0], -0.5), tb_mul(y, tb_mul(y, y))));
}

static void positive_samples(tb_samples *to) { tbi_pointwise_samples_in(to, NULL, 1, 0.25, 4); }

#define TO_FLOAT(f_, name_)                                                                                           \
    TB_POINTWISE(1, .f = (f_)), .primitives = {name_}, .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_FLOAT

TB_OP(exp, .doc = "e^x", TO_FLOAT(exp_f, "exp"), .grad = exp_grad, .saves = TB_SAVE_OUT(0),
      .samples = tbi_pointwise_samples1, .tol = TB_TOL(2));
TB_OP(log, .doc = "natural logarithm", TO_FLOAT(log_f, "log"), .grad = log_grad, .saves = TB_SAVE_IN(0),
      .samples = positive_samples, .tol = TB_TOL(2));
TB_OP(sqrt, .doc = "square root", TO_FLOAT(sqrt_f, "sqrt"), .grad = sqrt_grad, .saves = TB_SAVE_OUT(0),
      .samples = positive_samples, .tol = TB_TOL(1));
TB_OP(rsqrt, .doc = "1 / sqrt(x)", TO_FLOAT(rsqrt_f, "rsqrt"), .grad = rsqrt_grad, .saves = TB_SAVE_OUT(0),
      .samples = positive_samples, .tol = TB_TOL(2));
TB_OP(abs, .doc = "|x|", TB_POINTWISE(1, .f = abs_f, .i = abs_i), .primitives = {"abs"}, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no sign", .grad = abs_grad, .saves = TB_SAVE_IN(0),
      .samples = tbi_pointwise_samples1, .tol = TB_TOL_EXACT);
TB_OP(sign, .doc = "-1, 0 or 1", TB_POINTWISE(1, .f = sign_f, .i = sign_i), .dtypes = TB_ALL_DTYPES, .grad = flat_grad,
      .samples = tbi_pointwise_samples1, .tol = TB_TOL_EXACT);

tb_tensor *tb_exp(tb_tensor *x) { return tb_call(&tb_op_exp, NULL, TB_IN(x)); }
tb_tensor *tb_log(tb_tensor *x) { return tb_call(&tb_op_log, NULL, TB_IN(x)); }
tb_tensor *tb_sqrt(tb_tensor *x) { return tb_call(&tb_op_sqrt, NULL, TB_IN(x)); }
tb_tensor *tb_rsqrt(tb_tensor *x) { return tb_call(&tb_op_rsqrt, NULL, TB_IN(x)); }
tb_tensor *tb_abs(tb_tensor *x) { return tb_call(&tb_op_abs, NULL, TB_IN(x)); }
tb_tensor *tb_sign(tb_tensor *x) { return tb_call(&tb_op_sign, NULL, TB_IN(x)); }

/* ---- pow ---- */
static int64_t integer_power(int64_t base, int64_t exponent)
{
    if (exponent < 0) return base == 1 ? 1 : base != -1 ? 0 : exponent % 2 ? -1 : 1;
    uint64_t y = 1, x = (uint64_t)base; /* unsigned: wraps */
    for (; exponent; exponent >>= 1, x *= x)
        if (exponent & 1) y *= x;
    return (int64_t)y;
}

TB_F(pow_f, pow(a, b))
TB_I(pow_i, integer_power(a, b))

/* da = b a^(b-1), and 0 where b = 0 (the power is 1 there whatever a is); db = a^b ln a, and 0 where a = 0 < b. */
static void pow_grad(tb_grad_call *c)
{
    tb_tensor *a = c->in[0], *b = c->in[1], *g = c->grad[0];
    tb_tensor *zero = tb_scalar((tb_dtype)g->dtype, 0);
    if (tb_grad_wants(c, 0)) {
        tb_tensor *slope = tb_mul(b, tb_pow(a, tb_add_number(b, -1)));
        tb_grad_set(c, 0, tb_where(tb_eq(b, zero), zero, tb_mul(g, slope)));
    }
    if (tb_grad_wants(c, 1)) {
        tb_tensor *is_flat = tb_logical_and(tb_eq(a, zero), tb_ge(b, zero));
        tb_grad_set(c, 1, tb_where(is_flat, zero, tb_mul(g, tb_mul(c->out[0], tb_log(a)))));
    }
}

static void pow_samples(tb_samples *to)
{
    static const tb_sample_in base = {TB_SHAPE(4, 3), .lo = -2, .hi = 2}, squares = {TB_SHAPE(4, 3), .lo = 2, .hi = 2,
                                                                                   .no_grad = true};
    tbi_pointwise_samples_in(to, NULL, 2, 0.5, 3);
    tb_sample(to, NULL, 2, (tb_sample_in[]){base, squares});
}

TB_OP(pow, .doc = "a^b", TB_POINTWISE(2, .f = pow_f, .i = pow_i), .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no powers", .promote = TB_PROMOTE_COMMON, .grad = pow_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1) | TB_SAVE_OUT(0), .samples = pow_samples, .tol = TB_TOL(2));

tb_tensor *tb_pow(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_pow, NULL, TB_IN(a, b)); }
