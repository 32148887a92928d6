/* batch_norm, batch_norm_eval, batch_norm_grad, running_average. */
#include "op_test.h"

static void channels_get_mean_zero_and_variance_one(void **state)
{
    (void)state;
    tb_tensor *mean, *var,
        *y = tb_batch_norm(randoms(TB_F64, 1, DIMS(4, 3, 5, 2)), NULL, NULL, 0, &mean, &var);
    const double *v = values_of(y);
    for (int c = 0; c < 3; c++) {
        double sum = 0, squares = 0;
        for (int i = 0; i < 40; i++) {
            double x = v[i / 10 * 30 + c * 10 + i % 10];
            sum += x, squares += x * x;
        }
        assert_true(fabs(sum) < 1e-12 && fabs(squares - 40) < 1e-11);
    }
}

static void values_are_those_of_the_definition(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 2, 2), 1, 3, 10, 10, 1, 3, 10, 14), *gamma = F32(DIMS(2), 2, 1),
              *beta = F32(DIMS(2), 0, 5);
    tb_tensor *mean, *var, *y = tb_batch_norm(x, gamma, beta, 0, &mean, &var);
    assert_close(mean, 1e-6, 2, 11);
    assert_close(var, 1e-6, 1, 3);
    assert_close(y, 1e-6, -2, 2, 4.42264973, 4.42264973, -2, 2, 4.42264973, 6.73205081);
    assert_same(tb_batch_norm_eval(x, mean, var, gamma, beta, 0), y, 0);
    assert_close(tb_batch_norm_eval(x, F32(DIMS(2), 1, 0), F32(DIMS(2), 3, 0), NULL, NULL, 1), 1e-6, 0, 1, 10,
                 10, 0, 1, 10, 14);
}

static void averages_run_towards_what_is_seen(void **state)
{
    (void)state;
    tb_tensor *average = F32(DIMS(2), 0, 8);
    assert_close(tb_running_average(average, F32(DIMS(2), 4, 4), 0.25, 2), 1e-6, 2, 8);
    assert_close(average, 1e-6, 2, 8); /* in place */
}

static void a_linear_layers_batch_has_planes_of_one(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F32, 1, DIMS(6, 5));
    tb_tensor *planes = tb_batch_norm(tb_reshape(x, DIMS(6, 5, 1, 1)), NULL, NULL, 1e-5, NULL, NULL);
    assert_same(tb_reshape(planes, DIMS(6, 5)), tb_batch_norm(x, NULL, NULL, 1e-5, NULL, NULL), 0);
}

/* What a normalised channel cannot feel, its gradient does not have: a shift, and a stretch. */
static void the_gradient_is_orthogonal_to_shift_and_stretch(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(randoms(TB_F64, 1, DIMS(4, 2, 5)));
    assert_ok(tb_backward(weighted_sum(tb_batch_norm(x, NULL, NULL, 0, NULL, NULL))));
    const double *g = values_of(tb_grad(x)), *v = values_of(x);
    for (int c = 0; c < 2; c++) {
        double shift = 0, stretch = 0, size = 0;
        for (int i = 0; i < 20; i++) {
            int at = i / 5 * 10 + c * 5 + i % 5;
            shift += g[at], stretch += g[at] * v[at], size += fabs(g[at]);
        }
        assert_true(size > 0.1 && fabs(shift) < 1e-12 && fabs(stretch) < 1e-12);
    }
}

static tb_tensor *trained(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(tb_batch_norm(in[0], in[1], in[2], 1e-2, NULL, NULL));
}

static tb_tensor *evaluated(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(tb_batch_norm_eval(in[0], in[1], tb_add(tb_mul(in[2], in[2]), tb_scalar(TB_F64, 1)),
                                           in[3], in[4], 1e-5));
}

static void first_and_second_gradients_are_those_of_differences(void **state)
{
    (void)state;
    tb_tensor *in[5] = {leaf_of(randoms(TB_F64, 1, DIMS(3, 2, 4)))};
    for (int i = 1; i < 5; i++) in[i] = leaf_of(randoms(TB_F64, (uint64_t)i + 1, DIMS(2)));
    assert_gradients(trained, 3, in);
    assert_gradients(evaluated, 5, in);
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 3, 4)), *c = randoms(TB_F32, 1, DIMS(3));
    assert_fails(
        (tb_batch_norm(x, randoms(TB_F32, 1, DIMS(2)), NULL, 0, NULL, NULL), tb_ctx_take_error(*state)),
        TB_ERR_SHAPE, "gamma must be [3] for input [2, 3, 4], not [2]");
    assert_fails(
        (tb_batch_norm(randoms(TB_F32, 1, DIMS(1, 3)), NULL, NULL, 0, NULL, NULL), tb_ctx_take_error(*state)),
        TB_ERR_SHAPE, "at least two values a channel");
    assert_fails(
        (tb_batch_norm_eval(x, c, randoms(TB_F64, 1, DIMS(3)), NULL, NULL, 0), tb_ctx_take_error(*state)),
        TB_ERR_DTYPE, "var is f64, and must be f32");
    assert_fails((tb_running_average(c, x, 0.1, 1), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "must be alike");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(channels_get_mean_zero_and_variance_one),
        ctx_test(values_are_those_of_the_definition),
        ctx_test(averages_run_towards_what_is_seen),
        ctx_test(a_linear_layers_batch_has_planes_of_one),
        ctx_test(the_gradient_is_orthogonal_to_shift_and_stretch),
        ctx_test(first_and_second_gradients_are_those_of_differences),
        ctx_test(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
