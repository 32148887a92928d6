/* eq, ne, lt, le, gt, ge: comparisons to bool with broadcasting and promotion; a NaN is unequal to everything.
 * logical_and, logical_not: on truth values (x != 0). */
#include "pointwise.h"
#include "tb_ops.h"

//>>> tb_ops.h
tb_tensor *tb_eq(tb_tensor *a, tb_tensor *b); /* a, b: shapes that broadcast, any dtypes; the result is bool */
tb_tensor *tb_ne(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_lt(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_le(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_gt(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_ge(tb_tensor *a, tb_tensor *b);
tb_tensor *tb_logical_and(tb_tensor *a, tb_tensor *b); /* any dtypes; NaN is true */
tb_tensor *tb_logical_not(tb_tensor *x);
//<<<

TB_F(eq_f, a == b)
TB_I(eq_i, a == b)
TB_F(ne_f, a != b)
TB_I(ne_i, a != b)
TB_F(lt_f, a < b)
TB_I(lt_i, a < b)
TB_F(le_f, a <= b)
TB_I(le_i, a <= b)
TB_F(gt_f, a > b)
TB_I(gt_i, a > b)
TB_F(ge_f, a >= b)
TB_I(ge_i, a >= b)
TB_F(and_f, a != 0 && b != 0)
TB_I(and_i, a != 0 && b != 0)
TB_F(not_f, a == 0)
TB_I(not_i, a == 0)

static void compare_samples(tb_samples *to) /* few values, so that some are equal */
{
    static const tb_sample_in few = {TB_SHAPE(6, 7), .lo = -1, .hi = 1, .fill = TB_FILL_INTEGER};
    tbi_pointwise_samples2(to);
    tb_sample(to, NULL, 2, (tb_sample_in[]){few, few});
}

static void not_samples(tb_samples *to)
{
    tbi_pointwise_samples1(to);
    tb_sample(to, NULL, 1, &(tb_sample_in){TB_SHAPE(6, 7), .lo = -1, .hi = 1, .fill = TB_FILL_INTEGER});
}

#define COMPARISON                                                                                                    \
    .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_COMMON, .no_grad = "the result is a truth value",                  \
    .samples = compare_samples, .tol = TB_TOL_EXACT

TB_OP(eq, .doc = "a == b", TB_POINTWISE(2, .f = eq_f, .i = eq_i, .to_bool = true), COMPARISON);
TB_OP(ne, .doc = "a != b", TB_POINTWISE(2, .f = ne_f, .i = ne_i, .to_bool = true), COMPARISON);
TB_OP(lt, .doc = "a < b", TB_POINTWISE(2, .f = lt_f, .i = lt_i, .to_bool = true), COMPARISON);
TB_OP(le, .doc = "a <= b", TB_POINTWISE(2, .f = le_f, .i = le_i, .to_bool = true), COMPARISON);
TB_OP(gt, .doc = "a > b", TB_POINTWISE(2, .f = gt_f, .i = gt_i, .to_bool = true), COMPARISON);
TB_OP(ge, .doc = "a >= b", TB_POINTWISE(2, .f = ge_f, .i = ge_i, .to_bool = true), COMPARISON);
TB_OP(logical_and, .doc = "a and b", TB_POINTWISE(2, .f = and_f, .i = and_i, .to_bool = true), COMPARISON);
TB_OP(logical_not, .doc = "not x", TB_POINTWISE(1, .f = not_f, .i = not_i, .to_bool = true), .dtypes = TB_ALL_DTYPES,
      .no_grad = "the result is a truth value", .samples = not_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_eq(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_eq, NULL, TB_IN(a, b)); }
tb_tensor *tb_ne(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_ne, NULL, TB_IN(a, b)); }
tb_tensor *tb_lt(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_lt, NULL, TB_IN(a, b)); }
tb_tensor *tb_le(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_le, NULL, TB_IN(a, b)); }
tb_tensor *tb_gt(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_gt, NULL, TB_IN(a, b)); }
tb_tensor *tb_ge(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_ge, NULL, TB_IN(a, b)); }
tb_tensor *tb_logical_and(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_logical_and, NULL, TB_IN(a, b)); }
tb_tensor *tb_logical_not(tb_tensor *x) { return tb_call(&tb_op_logical_not, NULL, TB_IN(x)); }
