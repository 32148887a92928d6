/* add, sub, mul, div, neg: pointwise arithmetic with broadcasting and promotion as in PyTorch (div of integers gives
 * f32; integer overflow wraps: it is computed unsigned). */
#include "pointwise.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_add(tb_tensor *a, tb_tensor *b); /* a, b: shapes that broadcast, any dtypes (bool: or) */
tb_tensor *tb_sub(tb_tensor *a, tb_tensor *b); /* not for bool */
tb_tensor *tb_mul(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_div(tb_tensor *a, tb_tensor *b); /* true division: integers become f32 */
tb_tensor *tb_neg(tb_tensor *x);               /* not for bool */
/* With a number in x's dtype; an integer x and a number with a fraction give f32. */
tb_tensor *tb_add_number(tb_tensor *x, double number);
tb_tensor *tb_mul_number(tb_tensor *x, double number);
//<<<

TB_F(add_f, a + b)
TB_F(sub_f, a - b)
TB_F(mul_f, a * b)
TB_F(div_f, a / b)
TB_F(neg_f, -a)
TB_I(add_i, (int64_t)((uint64_t)a + (uint64_t)b))
TB_I(sub_i, (int64_t)((uint64_t)a - (uint64_t)b))
TB_I(mul_i, (int64_t)((uint64_t)a * (uint64_t)b))
TB_I(neg_i, (int64_t)(0 - (uint64_t)a))

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
    tbi_pointwise_samples_in(to, NULL, 2, 0.5, 3);
    tb_sample(to, NULL, 2, (tb_sample_in[]){{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5), .lo = -3, .hi = -1}});
}

TB_OP(add, .doc = "a + b", TB_POINTWISE(2, .f = add_f, .i = add_i), .primitives = {"add"}, .dtypes = TB_ALL_DTYPES,
      .promote = TB_PROMOTE_COMMON, .grad = add_grad, .samples = tbi_pointwise_samples2, .tol = TB_TOL(1));
TB_OP(sub, .doc = "a - b", TB_POINTWISE(2, .f = sub_f, .i = sub_i), .primitives = {"sub"}, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no negation", .promote = TB_PROMOTE_COMMON, .grad = sub_grad,
      .samples = tbi_pointwise_samples2, .tol = TB_TOL(1));
TB_OP(mul, .doc = "a * b", TB_POINTWISE(2, .f = mul_f, .i = mul_i), .primitives = {"mul"}, .dtypes = TB_ALL_DTYPES,
      .promote = TB_PROMOTE_COMMON, .grad = mul_grad, .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1),
      .samples = tbi_pointwise_samples2, .tol = TB_TOL(1));
TB_OP(div, .doc = "a / b", TB_POINTWISE(2, .f = div_f), .primitives = {"div"}, .dtypes = TB_ALL_DTYPES,
      .promote = TB_PROMOTE_FLOAT, .grad = div_grad, .saves = TB_SAVE_IN(1) | TB_SAVE_OUT(0), .samples = div_samples,
      .tol = TB_TOL(1));
TB_OP(neg, .doc = "-x", TB_POINTWISE(1, .f = neg_f, .i = neg_i), .primitives = {"neg"}, .dtypes = TB_NUMBERS,
      .dtypes_reason = "bool has no negation", .grad = neg_grad, .samples = tbi_pointwise_samples1,
      .tol = TB_TOL_EXACT);

tb_tensor *tb_add(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_add, NULL, TB_IN(a, b)); }
tb_tensor *tb_sub(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_sub, NULL, TB_IN(a, b)); }
tb_tensor *tb_mul(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_mul, NULL, TB_IN(a, b)); }
tb_tensor *tb_div(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_div, NULL, TB_IN(a, b)); }
tb_tensor *tb_neg(tb_tensor *x) { return tb_call(&tb_op_neg, NULL, TB_IN(x)); }

static tb_tensor *number_for(const tb_tensor *x, double number)
{
    tb_dtype t = (tb_dtype)x->dtype;
    bool fits = tb_dtype_is_float(t) || (double)(int64_t)number == number;
    return tb_scalar(fits ? t : TB_F32, number);
}

tb_tensor *tb_add_number(tb_tensor *x, double number) { return tb_add(x, number_for(x, number)); }
tb_tensor *tb_mul_number(tb_tensor *x, double number) { return tb_mul(x, number_for(x, number)); }
