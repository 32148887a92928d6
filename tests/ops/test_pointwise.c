/* Pointwise ops where values are subtle: NaN, ties, zeros, integers, promotion. The rest is checked by conformance. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_op.h"
#include "tb_ops.h"
#include <math.h>

static tb_tensor *vec(int n, const float *x) { return tb_tensor_from(TB_F32, 1, (int64_t[]){n}, x); }
static tb_tensor *ints(int n, const int64_t *x) { return tb_tensor_from(TB_I64, 1, (int64_t[]){n}, x); }

static void assert_floats(tb_tensor *t, int n, const float *expected)
{
    float got[16];
    assert_ok(tb_tensor_read(tb_cast(t, TB_F32), got, sizeof *got * (size_t)n));
    for (int i = 0; i < n; i++)
        if (!(got[i] == expected[i] || (isnan(got[i]) && isnan(expected[i]))))
            fail_msg("element %d is %.9g, not %.9g", i, (double)got[i], (double)expected[i]);
}

static void assert_ints(tb_tensor *t, int n, const int64_t *expected)
{
    int64_t got[16];
    assert_int_equal(tb_tensor_dtype(t), TB_I64);
    assert_ok(tb_tensor_read(t, got, sizeof *got * (size_t)n));
    assert_memory_equal(got, expected, sizeof *got * (size_t)n);
}

static void check_nan(void)
{
    tb_tensor *x = vec(3, (float[]){NAN, -1, 2}), *y = vec(3, (float[]){1, NAN, 3}), *g = vec(3, (float[]){5, 5, 5});
    assert_floats(tb_maximum(x, y), 3, (float[]){NAN, NAN, 3});
    assert_floats(tb_minimum(x, y), 3, (float[]){NAN, NAN, 2});
    assert_floats(tb_relu(x), 3, (float[]){NAN, 0, 2});
    assert_floats(tb_relu_grad(g, x), 3, (float[]){5, 0, 5});
    assert_floats(tb_clamp(x, 0, 1), 3, (float[]){NAN, 0, 1});
    assert_floats(tb_clamp(vec(2, (float[]){0, 9}), 3, 2), 2, (float[]){2, 2});
    assert_floats(tb_eq(x, x), 3, (float[]){0, 1, 1});
    assert_floats(tb_sign(x), 3, (float[]){0, -1, 1});
    assert_floats(tb_where(tb_lt(x, y), x, y), 3, (float[]){1, NAN, 2});
}

static void nan_goes_where_torch_lets_it_go(void **state)
{
    check_nan();
    tb_ctx_limit_kernels(*state, TB_ISA_SCALAR, true);
    check_nan();
}

static void integers_stay_exact_and_wrap(void **state)
{
    (void)state;
    const int64_t big = INT64_MAX - 1;
    assert_ints(tb_maximum(ints(2, (int64_t[]){big, -5}), ints(2, (int64_t[]){big + 1, -6})), 2,
                (int64_t[]){big + 1, -5});
    assert_ints(tb_clamp(ints(2, (int64_t[]){big, -7}), -INFINITY, INFINITY), 2, (int64_t[]){big, -7});
    assert_ints(tb_clamp(ints(2, (int64_t[]){big, -7}), 0x1p63, INFINITY), 2, (int64_t[]){INT64_MAX, INT64_MAX});
    assert_ints(tb_clamp(ints(2, (int64_t[]){big, -7}), -INFINITY, -0x1p70), 2, (int64_t[]){INT64_MIN, INT64_MIN});
    assert_ints(tb_clamp(ints(2, (int64_t[]){big, -7}), NAN, NAN), 2, (int64_t[]){big, -7});
    assert_ints(tb_pow(ints(4, (int64_t[]){2, 1, -1, -1}), ints(4, (int64_t[]){-1, -3, -2, -3})), 4,
                (int64_t[]){0, 1, 1, -1});
    assert_ints(tb_pow(ints(2, (int64_t[]){3, -2}), ints(2, (int64_t[]){40, 63})), 2,
                (int64_t[]){INT64_C(-6289078614652622815), INT64_MIN});
}

static void integers_become_floats_where_the_result_is_one(void **state)
{
    (void)state;
    tb_tensor *i = ints(2, (int64_t[]){0, 4});
    assert_int_equal(tb_tensor_dtype(tb_sqrt(i)), TB_F32);
    assert_floats(tb_sqrt(i), 2, (float[]){0, 2});
    assert_int_equal(tb_tensor_dtype(tb_clamp(i, 0.5, 3)), TB_F32);
    assert_int_equal(tb_tensor_dtype(tb_mul_number(i, 0.5)), TB_F32);
    assert_int_equal(tb_tensor_dtype(tb_mul_number(i, 2)), TB_I64);
    assert_int_equal(tb_tensor_dtype(tb_where(tb_gt(i, tb_scalar(TB_I64, 1)), i, tb_scalar(TB_F64, 1))), TB_F64);
}

static tb_tensor *gradient(tb_tensor *y, tb_tensor *x)
{
    tb_tensor *g = NULL;
    assert_ok(tb_gradients(tb_sum(y, 0, NULL, false), &(tb_backward_opts){.retain_graph = true}, 1, &x, &g));
    return g;
}

static void ties_and_zeros_have_torch_s_gradients(void **state)
{
    (void)state;
    tb_tensor *x = vec(3, (float[]){1, 2, 0}), *y = vec(3, (float[]){1, 1, 0});
    assert_ok(tb_require_grad(x));
    assert_ok(tb_require_grad(y));
    assert_floats(gradient(tb_maximum(x, y), x), 3, (float[]){0.5f, 1, 0.5f});
    assert_floats(gradient(tb_minimum(x, y), x), 3, (float[]){0.5f, 0, 0.5f});
    assert_floats(gradient(tb_relu(x), x), 3, (float[]){1, 1, 0});
    assert_floats(gradient(tb_abs(x), x), 3, (float[]){1, 1, 0});
    assert_floats(gradient(tb_clamp(x, 0, 1), x), 3, (float[]){1, 0, 1});
    assert_floats(gradient(tb_pow(x, y), x), 3, (float[]){1, 1, 0});
    assert_floats(gradient(tb_pow(x, vec(3, (float[]){2, 2, 2})), x), 3, (float[]){2, 4, 0});
    assert_floats(gradient(tb_pow(x, y), y), 3, (float[]){0, 2 * 0.69314718f, 0});
}

static void undefined_dtypes_are_refused_with_the_reason(void **state)
{
    tb_tensor *b = tb_eq(vec(1, (float[]){1}), vec(1, (float[]){1}));
    assert_fails((tb_abs(b), tb_ctx_take_error(*state)), TB_ERR_DTYPE, "abs: not defined for bool: bool has no sign");
    assert_fails((tb_gelu_erf(ints(1, (int64_t[]){1})), tb_ctx_take_error(*state)), TB_ERR_DTYPE, "as in torch");
    assert_fails((tb_where(ints(1, (int64_t[]){1}), b, b), tb_ctx_take_error(*state)), TB_ERR_DTYPE,
                 "a bool condition");
}

/* Backward ops promote nothing: operands of two dtypes are read as what they are. */
static void operands_of_two_dtypes_are_not_taken_for_one(void **state)
{
    (void)state;
    float x[40], got[40];
    for (int i = 0; i < 40; i++) x[i] = (float)(i - 20) / 4;
    tb_tensor *narrow = tb_cast(vec(40, x), TB_F16), *wide = vec(40, x), *mixed, *plain;
    for (int k = 0; k < 2; k++) {
        const tb_op *op = tb_op_find(k ? "relu_grad" : "silu_grad");
        mixed = tb_call(op, NULL, TB_IN(narrow, wide));
        plain = tb_call(op, NULL, TB_IN(wide, wide));
        assert_ok(tb_tensor_read(mixed, got, sizeof got));
        assert_ok(tb_tensor_read(plain, x, sizeof x));
        for (int i = 0; i < 40; i++) assert_near(got[i], x[i], 1e-5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(nan_goes_where_torch_lets_it_go),
        ctx_test(integers_stay_exact_and_wrap),
        ctx_test(integers_become_floats_where_the_result_is_one),
        ctx_test(ties_and_zeros_have_torch_s_gradients),
        ctx_test(undefined_dtypes_are_refused_with_the_reason),
        ctx_test(operands_of_two_dtypes_are_not_taken_for_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
