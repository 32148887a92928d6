/* toy_cube: x^3, an op added by one file. */
#include "pointwise.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_toy_cube(tb_tensor *x); /* floats */
//<<<

TB_F(toy_cube_f, a *a *a)

static void toy_cube_grad(tb_grad_call *c)
{
    tb_tensor *three_x2 = tb_mul(tb_mul(c->in[0], c->in[0]), tb_scalar(c->in_spec[0].dtype, 3));
    tb_grad_set(c, 0, tb_mul(c->grad[0], three_x2));
}

TB_OP(toy_cube, .doc = "x^3", .dtypes = TB_FLOATS, .dtypes_reason = "a toy", TB_POINTWISE(1, .f = toy_cube_f),
      .primitives = {"toy_cube"}, .grad = toy_cube_grad, .saves = TB_SAVE_IN(0), .samples = tbi_pointwise_samples1,
      .tol = TB_TOL(4));

tb_tensor *tb_toy_cube(tb_tensor *x) { return tb_call(&tb_op_toy_cube, NULL, TB_IN(x)); }
