/* softmax, log_softmax and their gradients. */
#include "op_test.h"

static void values_are_those_of_the_definition(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 3), 0, logf(2), logf(5), 1, 1, 1);
    assert_close(tb_softmax(x, -1), 1e-6, 0.125, 0.25, 0.625, 1 / 3.0, 1 / 3.0, 1 / 3.0);
    assert_close(tb_log_softmax(x, 1), 1e-6, -2.07944154, -1.38629436, -0.470003629, -1.09861229, -1.09861229,
                 -1.09861229);
}

static void the_axis_sums_to_one(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F64, 1, DIMS(3, 4, 5));
    for (int axis = -3; axis < 3; axis++) {
        tb_tensor *y = tb_softmax(x, axis), *sum = tb_sum_axis(y, axis, false);
        assert_same(sum, tb_ones_like(sum), 1e-14);
        assert_same(tb_exp(tb_log_softmax(x, axis)), y, 1e-14);
    }
}

static void a_shift_changes_nothing(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F64, 1, DIMS(3, 7)), *moved = tb_add(x, tb_scalar(TB_F64, 1000));
    assert_same(tb_softmax(moved, -1), tb_softmax(x, -1), 1e-12);
    assert_same(tb_log_softmax(moved, -1), tb_log_softmax(x, -1), 1e-12);
}

static void minus_infinity_gets_no_probability(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(1, 3), 0, -INFINITY, 0);
    assert_close(tb_softmax(x, -1), 1e-6, 0.5, 0, 0.5);
    assert_close(tb_log_softmax(x, -1), 1e-6, -0.693147181, -INFINITY, -0.693147181);
}

static tb_tensor *softmax_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(tb_softmax(in[0], 1));
}
static tb_tensor *log_softmax_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(tb_log_softmax(in[0], -1));
}

static void first_and_second_gradients_are_those_of_differences(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(randoms(TB_F64, 1, DIMS(2, 3, 4)));
    assert_gradients(softmax_of, 1, &x);
    assert_gradients(log_softmax_of, 1, &x);
}

static void an_axis_out_of_range_is_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 3));
    assert_fails((tb_softmax(x, 2), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "softmax: axis 2 of a tensor with 2");
    assert_fails((tb_log_softmax(I64(DIMS(1), 1), 0), tb_ctx_take_error(*state)), TB_ERR_DTYPE, "cast first");
    assert_int_equal(tb_tensor_numel(tb_softmax(tb_zeros(TB_F32, DIMS(3, 0)), -1)), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(values_are_those_of_the_definition),
        ctx_test(the_axis_sums_to_one),
        ctx_test(a_shift_changes_nothing),
        ctx_test(minus_infinity_gets_no_probability),
        ctx_test(first_and_second_gradients_are_those_of_differences),
        ctx_test(an_axis_out_of_range_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
