/* relu, tanh, sigmoid and their backward ops, which need only the result y:
 *   relu' = y > 0,   tanh' = 1 - y^2,   sigmoid' = y (1 - y).
 * A backward op <name>_grad(g, y) = g f'(y) has its own gradient, so that gradients have gradients. */
#include "pointwise.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
tb_tensor *tb_relu(tb_tensor *x); /* max(x, 0), NaN stays; not for bool */
tb_tensor *tb_tanh(tb_tensor *x); /* integers and bool become f32 */
tb_tensor *tb_sigmoid(tb_tensor *x); /* 1 / (1 + e^-x) */
/* Backward: g is the gradient of y = f(x); the gradient of x. */
tb_tensor *tb_relu_grad(tb_tensor *g, tb_tensor *y);
tb_tensor *tb_tanh_grad(tb_tensor *g, tb_tensor *y);
tb_tensor *tb_sigmoid_grad(tb_tensor *g, tb_tensor *y);
//<<<

TB_F(relu_f, a <= 0 ? 0 : a)
TB_I(relu_i, a <= 0 ? 0 : a)
TB_F(tanh_f, tanh(a))
TB_F(sigmoid_f, 1 / (1 + exp(-a)))
TB_F(relu_grad_f, b <= 0 ? 0 : a)
TB_F(tanh_grad_f, a * (1 - b * b))
TB_F(sigmoid_grad_f, a * b * (1 - b))

static void relu_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_relu_grad(c->grad[0], c->out[0])); }
static void tanh_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_tanh_grad(c->grad[0], c->out[0])); }
static void sigmoid_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_sigmoid_grad(c->grad[0], c->out[0])); }

static void relu_grad_grad(tb_grad_call *c) /* constant in y on both sides of 0 */
{
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_relu_grad(c->grad[0], c->in[1]));
}

static void tanh_grad_grad(tb_grad_call *c) /* d/dy = -2 y g */
{
    tb_tensor *g = c->in[0], *y = c->in[1];
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_tanh_grad(c->grad[0], y));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_mul(c->grad[0], tb_mul_number(tb_mul(g, y), -2)));
}

static void sigmoid_grad_grad(tb_grad_call *c) /* d/dy = g (1 - 2 y) */
{
    tb_tensor *g = c->in[0], *y = c->in[1];
    if (tb_grad_wants(c, 0)) tb_grad_set(c, 0, tb_sigmoid_grad(c->grad[0], y));
    if (tb_grad_wants(c, 1))
        tb_grad_set(c, 1, tb_mul(c->grad[0], tb_mul(g, tb_add_number(tb_mul_number(y, -2), 1))));
}

static void backward_samples(tb_samples *to) /* y as the functions give it; relu's is 0 or above */
{
    static const tb_sample_in g = {TB_SHAPE(3, 5)}, y = {TB_SHAPE(3, 5), .lo = 0.1, .hi = 0.9}, none = {TB_SHAPE(0)},
                              one = {TB_SHAPE(1, 1)}, wide = {TB_SHAPE(131)}, large = {TB_SHAPE(5, 7001)};
    tb_sample(to, NULL, 2, (tb_sample_in[]){g, y});
    tb_sample(to, NULL, 2, (tb_sample_in[]){none, none});
    tb_sample(to, NULL, 2, (tb_sample_in[]){one, one});
    tb_sample(to, NULL, 2, (tb_sample_in[]){wide, wide});
    tb_sample(to, NULL, 2, (tb_sample_in[]){large, large});
}

#define TO_FLOAT(f_, name_)                                                                                           \
    TB_POINTWISE(1, .f = (f_)), .primitives = {name_}, .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_FLOAT,          \
    .saves = TB_SAVE_OUT(0), .samples = tbi_pointwise_samples1
#define BACKWARD(f_, name_)                                                                                           \
    TB_POINTWISE(2, .f = (f_)), .primitives = {name_}, .dtypes = TB_FLOATS, .dtypes_reason = "gradients are floats",  \
    .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .samples = backward_samples

TB_OP(relu, .doc = "max(x, 0)", TB_POINTWISE(1, .f = relu_f, .i = relu_i), .primitives = {"relu"},
      .dtypes = TB_NUMBERS, .dtypes_reason = "bool has no sign", .grad = relu_grad, .saves = TB_SAVE_OUT(0),
      .samples = tbi_pointwise_samples1, .tol = TB_TOL_EXACT);
TB_OP(tanh, .doc = "hyperbolic tangent", TO_FLOAT(tanh_f, "tanh"), .grad = tanh_grad, .tol = TB_TOL(2));
TB_OP(sigmoid, .doc = "1 / (1 + e^-x)", TO_FLOAT(sigmoid_f, "sigmoid"), .grad = sigmoid_grad, .tol = TB_TOL(2));
TB_OP(relu_grad, .doc = "backward of relu", BACKWARD(relu_grad_f, "relu_grad"), .grad = relu_grad_grad,
      .tol = TB_TOL_EXACT);
TB_OP(tanh_grad, .doc = "backward of tanh", BACKWARD(tanh_grad_f, "tanh_grad"), .grad = tanh_grad_grad,
      .tol = TB_TOL(4));
TB_OP(sigmoid_grad, .doc = "backward of sigmoid", BACKWARD(sigmoid_grad_f, "sigmoid_grad"),
      .grad = sigmoid_grad_grad, .tol = TB_TOL(4));

tb_tensor *tb_relu(tb_tensor *x) { return tb_call(&tb_op_relu, NULL, TB_IN(x)); }
tb_tensor *tb_tanh(tb_tensor *x) { return tb_call(&tb_op_tanh, NULL, TB_IN(x)); }
tb_tensor *tb_sigmoid(tb_tensor *x) { return tb_call(&tb_op_sigmoid, NULL, TB_IN(x)); }
tb_tensor *tb_relu_grad(tb_tensor *g, tb_tensor *y) { return tb_call(&tb_op_relu_grad, NULL, TB_IN(g, y)); }
tb_tensor *tb_tanh_grad(tb_tensor *g, tb_tensor *y) { return tb_call(&tb_op_tanh_grad, NULL, TB_IN(g, y)); }
tb_tensor *tb_sigmoid_grad(tb_tensor *g, tb_tensor *y) { return tb_call(&tb_op_sigmoid_grad, NULL, TB_IN(g, y)); }
