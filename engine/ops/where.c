/* where, maximum, minimum, clamp: pointwise choices. A NaN operand of maximum, minimum and clamp is the result. */
#include "pointwise.h"
#include "tb_ops.h"
#include <math.h>

//>>> tb_ops.h
tb_tensor *tb_where(tb_tensor *condition, tb_tensor *a, tb_tensor *b); /* bool condition ? a : b; shapes broadcast */
tb_tensor *tb_maximum(tb_tensor *a, tb_tensor *b); /* where a == b each gets half of the gradient */
tb_tensor *tb_minimum(tb_tensor *a, tb_tensor *b);
/* lo, hi: -INFINITY or INFINITY for no bound; lo > hi gives hi. Not for bool; an integer x and a bound with a fraction
 * give f32. The gradient is 0 outside [lo, hi]. */
tb_tensor *tb_clamp(tb_tensor *x, double lo, double hi);
//<<<

/* ---- where ---- */
TB_F(where_f, a != 0 ? b : c)
TB_I(where_i, a != 0 ? b : c)

static tb_status where_shape(tb_op_call *c)
{
    if (c->in[0]->dtype != TB_BOOL || c->in[1]->dtype != c->in[2]->dtype)
        return TB_FAIL(TB_ERR_DTYPE, "where: takes a bool condition and two tensors of one dtype, not %s, %s, %s",
                       tb_dtype_name((tb_dtype)c->in[0]->dtype), tb_dtype_name((tb_dtype)c->in[1]->dtype),
                       tb_dtype_name((tb_dtype)c->in[2]->dtype));
    return tbi_pointwise_shape(c);
}

static void where_grad(tb_grad_call *c)
{
    tb_tensor *g = c->grad[0], *zero = tb_scalar((tb_dtype)g->dtype, 0);
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, tb_where(c->in[0], g, zero));
    if (tb_grad_wants(c, 2)) tb_grad_set(c, 2, tb_where(c->in[0], zero, g));
}

static void where_samples(tb_samples *to)
{
    static const tb_sample_in cases[][3] = {
        {{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5)}},
        {{TB_SHAPE(3, 1)}, {TB_SHAPE(3, 5)}, {.rank = 0}},
        {{TB_SHAPE(5)}, {.rank = 0}, {TB_SHAPE(2, 1, 5)}},
        {{TB_SHAPE(2, 0)}, {TB_SHAPE(1, 1)}, {TB_SHAPE(2, 0)}},
        {{TB_SHAPE(131)}, {TB_SHAPE(131)}, {TB_SHAPE(1)}},
        {{TB_SHAPE(5, 7001)}, {TB_SHAPE(5, 7001)}, {TB_SHAPE(7001)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tb_sample_in in[3] = {cases[i][0], cases[i][1], cases[i][2]};
        in[0].has_dtype = true;
        in[0].dtype = TB_BOOL;
        tb_sample(to, NULL, 3, in);
    }
}

TB_OP(where, .doc = "condition ? a : b", TB_POINTWISE_SHAPED(3, where_shape, .f = where_f, .i = where_i),
      .primitives = {"where"}, .dtypes = TB_ALL_DTYPES, .typed_by = 1, .grad = where_grad, .saves = TB_SAVE_IN(0),
      .samples = where_samples, .tol = TB_TOL_EXACT);

tb_tensor *tb_where(tb_tensor *condition, tb_tensor *a, tb_tensor *b)
{
    if (a && b && !tb_is_poison(a) && !tb_is_poison(b) && a->dtype != b->dtype) {
        tb_dtype common = tb_common_dtype((tb_tensor *[]){a, b}, 2);
        a = tb_cast(a, common);
        b = tb_cast(b, common);
    }
    return tb_call(&tb_op_where, NULL, TB_IN(condition, a, b));
}

/* ---- maximum, minimum ---- */
TB_F(max_f, a > b || a != a ? a : b)
TB_I(max_i, a > b ? a : b)
TB_F(min_f, a < b || a != a ? a : b)
TB_I(min_i, a < b ? a : b)

/* The gradient goes to the operand that won; among equals it is halved, as in torch. */
static void extremum_grad(tb_grad_call *c, tb_tensor *(*loses)(tb_tensor *, tb_tensor *))
{
    tb_tensor *g = c->grad[0], *zero = tb_scalar((tb_dtype)g->dtype, 0);
    tb_tensor *shared = tb_where(tb_eq(c->in[0], c->in[1]), tb_mul_number(g, 0.5), g);
    for (int i = 0; i < 2; i++)
        if (tb_grad_wants(c, i)) tb_grad_set(c, i, tb_where(loses(c->in[i], c->in[1 - i]), zero, shared));
}

static void maximum_grad(tb_grad_call *c) { extremum_grad(c, tb_lt); }
static void minimum_grad(tb_grad_call *c) { extremum_grad(c, tb_gt); }

TB_OP(maximum, .doc = "the larger of a and b", TB_POINTWISE(2, .f = max_f, .i = max_i), .primitives = {"maximum"},
      .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_COMMON, .grad = maximum_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .samples = tbi_pointwise_samples2, .tol = TB_TOL_EXACT);
TB_OP(minimum, .doc = "the smaller of a and b", TB_POINTWISE(2, .f = min_f, .i = min_i), .primitives = {"minimum"},
      .dtypes = TB_ALL_DTYPES, .promote = TB_PROMOTE_COMMON, .grad = minimum_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1), .samples = tbi_pointwise_samples2, .tol = TB_TOL_EXACT);

tb_tensor *tb_maximum(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_maximum, NULL, TB_IN(a, b)); }
tb_tensor *tb_minimum(tb_tensor *a, tb_tensor *b) { return tb_call(&tb_op_minimum, NULL, TB_IN(a, b)); }

/* ---- clamp ---- */
static const tb_attr clamp_attr_table[] = {
    TB_ATTR_REAL(tb_clamp_attrs, lo, -INFINITY, "smallest result"),
    TB_ATTR_REAL(tb_clamp_attrs, hi, INFINITY, "largest result"),
};

static double clamped(double x, const tb_clamp_attrs *k)
{
    if (x < k->lo) x = k->lo;
    return x > k->hi ? k->hi : x;
}

/* Bounds outside the range of i64 are its ends; NaN bounds nothing. */
static int64_t clamped_integer(int64_t x, const tb_clamp_attrs *k)
{
    int64_t lo = k->lo >= 0x1p63 ? INT64_MAX : k->lo >= -0x1p63 ? (int64_t)k->lo : INT64_MIN;
    int64_t hi = k->hi < -0x1p63 ? INT64_MIN : k->hi < 0x1p63 ? (int64_t)k->hi : INT64_MAX;
    if (x < lo) x = lo;
    return x > hi ? hi : x;
}

TB_F(clamp_f, clamped(a, attrs))
TB_I(clamp_i, clamped_integer(a, attrs))

static void clamp_grad(tb_grad_call *c)
{
    const tb_clamp_attrs *k = c->attrs;
    tb_tensor *x = c->in[0], *g = c->grad[0];
    tb_dtype t = (tb_dtype)x->dtype;
    tb_tensor *inside = tb_logical_and(tb_ge(x, tb_scalar(t, k->lo)), tb_le(x, tb_scalar(t, k->hi)));
    tb_grad_set(c, 0, tb_where(inside, g, tb_scalar(t, 0)));
}

static void clamp_samples(tb_samples *to)
{
    tbi_pointwise_samples_in(to, &(tb_clamp_attrs){-1, 1}, 1, 0, 0);
    tb_sample(to, &(tb_clamp_attrs){-INFINITY, 0}, 1, &(tb_sample_in){TB_SHAPE(9)});
    tb_sample(to, &(tb_clamp_attrs){1, INFINITY}, 1, &(tb_sample_in){TB_SHAPE(9)});
}

TB_OP(clamp, .doc = "x held within [lo, hi]", TB_POINTWISE(1, .f = clamp_f, .i = clamp_i), .primitives = {"clamp"},
      TB_ATTRS(tb_clamp_attrs, clamp_attr_table), .dtypes = TB_NUMBERS, .dtypes_reason = "bool has no range",
      .grad = clamp_grad, .saves = TB_SAVE_IN(0), .samples = clamp_samples, .tol = TB_TOL_EXACT);

static bool has_fraction(double x) { return isfinite(x) && x != trunc(x); }

tb_tensor *tb_clamp(tb_tensor *x, double lo, double hi)
{
    if (!tb_dtype_is_float((tb_dtype)x->dtype) && (has_fraction(lo) || has_fraction(hi))) x = tb_cast(x, TB_F32);
    return tb_call(&tb_op_clamp, &(tb_clamp_attrs){lo, hi}, TB_IN(x));
}
