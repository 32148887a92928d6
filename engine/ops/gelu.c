/* gelu (tanh and erf forms; Hendrycks, Gimpel, "Gaussian Error Linear Units", 2016) and silu, with backward ops that
 * take the input: <name>_grad(g, x) = g f'(x). Their gradients are composed from f''. */
#include "pointwise.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
tb_tensor *tb_gelu_tanh(tb_tensor *x); /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), floats */
tb_tensor *tb_gelu_erf(tb_tensor *x);  /* x Phi(x), Phi the normal distribution function, floats */
tb_tensor *tb_silu(tb_tensor *x);      /* x sigmoid(x), floats */
/* Backward: g is the gradient of y = f(x); the gradient of x. */
tb_tensor *tb_gelu_tanh_grad(tb_tensor *g, tb_tensor *x);
tb_tensor *tb_gelu_erf_grad(tb_tensor *g, tb_tensor *x);
tb_tensor *tb_silu_grad(tb_tensor *g, tb_tensor *x);
//<<<

static const double slope = 0.79788456080286535588 /* sqrt(2/pi) */, cubic = 0.044715,
                    density = 0.39894228040143267794 /* 1/sqrt(2 pi) */;

static double phi(double x) { return density * exp(-0.5 * x * x); }
static double cdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double gelu_tanh_slope(double x)
{
    double t = tanh(slope * (x + cubic * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope * (1 + 3 * cubic * x * x);
}

TB_F(gelu_tanh_f, 0.5 * a * (1 + tanh(slope * (a + cubic * a * a * a))))
TB_F(gelu_erf_f, a * cdf(a))
TB_F(silu_f, a * sigmoid(a))
TB_F(gelu_tanh_grad_f, a * gelu_tanh_slope(b))
TB_F(gelu_erf_grad_f, a * (cdf(b) + b * phi(b)))
TB_F(silu_grad_f, a * sigmoid(b) * (1 + b * (1 - sigmoid(b))))

static void gelu_tanh_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_gelu_tanh_grad(c->grad[0], c->in[0])); }
static void gelu_erf_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_gelu_erf_grad(c->grad[0], c->in[0])); }
static void silu_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_silu_grad(c->grad[0], c->in[0])); }

/* ---- second derivatives ---- */
static tb_tensor *affine(tb_tensor *x, double a, double b) { return tb_add_number(tb_mul_number(x, a), b); }

/* u = s (x + k x^3), t = tanh u: f'' = (1 - t^2) (u' + x/2 (u'' - 2 t u'^2)). With p = sigmoid(2u), q = sigmoid(-2u):
 * t = p - q and 1 - t^2 = 4 p q, which keeps its digits where t is near 1. */
static tb_tensor *gelu_tanh_curve(tb_tensor *x)
{
    tb_tensor *xx = tb_mul(x, x), *u1 = affine(xx, 3 * slope * cubic, slope);
    tb_tensor *v = tb_mul(x, affine(xx, 2 * slope * cubic, 2 * slope));
    tb_tensor *p = tb_sigmoid(v), *q = tb_sigmoid(tb_neg(v)), *t = tb_sub(p, q);
    tb_tensor *inner = tb_sub(tb_mul_number(x, 6 * slope * cubic), tb_mul(tb_mul_number(t, 2), tb_mul(u1, u1)));
    return tb_mul(tb_mul_number(tb_mul(p, q), 4), tb_add(u1, tb_mul(tb_mul_number(x, 0.5), inner)));
}

/* f'' = phi(x) (2 - x^2) */
static tb_tensor *gelu_erf_curve(tb_tensor *x)
{
    tb_tensor *xx = tb_mul(x, x);
    return tb_mul(tb_exp(tb_mul_number(xx, -0.5)), affine(xx, -density, 2 * density));
}

/* f'' = s (1 - s) (2 + x (1 - 2 s)) */
static tb_tensor *silu_curve(tb_tensor *x)
{
    tb_tensor *s = tb_sigmoid(x);
    return tb_mul(tb_sub(s, tb_mul(s, s)), tb_add_number(tb_mul(x, affine(s, -2, 1)), 2));
}

static void curve_grad(tb_grad_call *c, const tb_op *op, tb_tensor *(*curve)(tb_tensor *))
{
    tb_tensor *g = c->in[0], *x = c->in[1];
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_call(op, NULL, TB_IN(c->grad[0], x)));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_mul(c->grad[0], tb_mul(g, curve(x))));
}

static void gelu_tanh_grad_grad(tb_grad_call *c) { curve_grad(c, c->op, gelu_tanh_curve); }
static void gelu_erf_grad_grad(tb_grad_call *c) { curve_grad(c, c->op, gelu_erf_curve); }
static void silu_grad_grad(tb_grad_call *c) { curve_grad(c, c->op, silu_curve); }

static void forward_samples(tb_samples *to) { tbi_pointwise_samples_in(to, NULL, 1, -6, 6); }

#define FORWARD(f_, name_)                                                                                            \
    TB_POINTWISE(1, .f = (f_)), .primitives = {name_}, .dtypes = TB_FLOATS,                                           \
    .dtypes_reason = "an activation of floats, as in torch", .saves = TB_SAVE_IN(0), .samples = forward_samples,      \
    .tol = TB_TOL(4)
#define BACKWARD(f_, name_)                                                                                           \
    TB_POINTWISE(2, .f = (f_)), .primitives = {name_}, .dtypes = TB_FLOATS, .dtypes_reason = "gradients are floats",  \
    .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .samples = tbi_pointwise_samples2, .tol = TB_TOL(8)

TB_OP(gelu_tanh, .doc = "gelu, tanh form", FORWARD(gelu_tanh_f, "gelu_tanh"), .grad = gelu_tanh_grad);
TB_OP(gelu_erf, .doc = "gelu, exact", FORWARD(gelu_erf_f, "gelu_erf"), .grad = gelu_erf_grad);
TB_OP(silu, .doc = "x sigmoid(x)", FORWARD(silu_f, "silu"), .grad = silu_grad);
TB_OP(gelu_tanh_grad, .doc = "backward of gelu_tanh", BACKWARD(gelu_tanh_grad_f, "gelu_tanh_grad"),
      .grad = gelu_tanh_grad_grad);
TB_OP(gelu_erf_grad, .doc = "backward of gelu_erf", BACKWARD(gelu_erf_grad_f, "gelu_erf_grad"),
      .grad = gelu_erf_grad_grad);
TB_OP(silu_grad, .doc = "backward of silu", BACKWARD(silu_grad_f, "silu_grad"), .grad = silu_grad_grad);

tb_tensor *tb_gelu_tanh(tb_tensor *x) { return tb_call(&tb_op_gelu_tanh, NULL, TB_IN(x)); }
tb_tensor *tb_gelu_erf(tb_tensor *x) { return tb_call(&tb_op_gelu_erf, NULL, TB_IN(x)); }
tb_tensor *tb_silu(tb_tensor *x) { return tb_call(&tb_op_silu, NULL, TB_IN(x)); }
tb_tensor *tb_gelu_tanh_grad(tb_tensor *g, tb_tensor *x) { return tb_call(&tb_op_gelu_tanh_grad, NULL, TB_IN(g, x)); }
tb_tensor *tb_gelu_erf_grad(tb_tensor *g, tb_tensor *x) { return tb_call(&tb_op_gelu_erf_grad, NULL, TB_IN(g, x)); }
tb_tensor *tb_silu_grad(tb_tensor *g, tb_tensor *x) { return tb_call(&tb_op_silu_grad, NULL, TB_IN(g, x)); }
