/* layer_norm and its gradients. */
#include "op_test.h"

static void rows_get_mean_zero_and_variance_one(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F64, 1, DIMS(3, 4, 50)), *y = tb_layer_norm(x, NULL, NULL, 0);
    const double *v = values_of(y);
    for (int row = 0; row < 12; row++) {
        double mean = 0, var = 0;
        for (int i = 0; i < 50; i++) mean += v[row * 50 + i] / 50;
        for (int i = 0; i < 50; i++) var += (v[row * 50 + i] - mean) * (v[row * 50 + i] - mean) / 50;
        assert_true(fabs(mean) < 1e-14 && fabs(var - 1) < 1e-13);
    }
}

static void values_are_those_of_the_definition(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 4), 1, 2, 3, 4, 5, 5, 5, 5);
    tb_tensor *gamma = F32(DIMS(4), 1, 2, 1, 1), *beta = F32(DIMS(4), 0, 0, 0, 10);
    assert_close(tb_layer_norm(x, NULL, NULL, 1e-5), 1e-6, -1.34163542, -0.447211807, 0.447211807, 1.34163542,
                 0, 0, 0, 0);
    assert_close(tb_layer_norm(x, gamma, beta, 1e-5), 1e-6, -1.34163542, -0.894423614, 0.447211807,
                 11.3416354, 0, 0, 0, 10);
    assert_close(tb_layer_norm(x, NULL, beta, 1e-5), 1e-6, -1.34163542, -0.447211807, 0.447211807, 11.3416354,
                 0, 0, 0, 10);
}

static void shift_and_scale_of_a_row_change_nothing(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F64, 1, DIMS(3, 20));
    tb_tensor *moved = tb_add(tb_mul(x, tb_scalar(TB_F64, 3)), tb_scalar(TB_F64, -7));
    assert_same(tb_layer_norm(moved, NULL, NULL, 0), tb_layer_norm(x, NULL, NULL, 0), 1e-12);
}

static void parameters_get_their_gradients(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 2), 1, 3, 6, 2), *gamma = leaf_of(F32(DIMS(2), 1, 1)),
              *beta = leaf_of(F32(DIMS(2), 0, 0));
    assert_ok(tb_backward_with(tb_layer_norm(x, gamma, beta, 0),
                               &(tb_backward_opts){.grad = F32(DIMS(2, 2), 1, 2, 3, 4)}));
    assert_close(tb_grad(gamma), 1e-6, 2, -2); /* rows normalise to (-1, 1) and (1, -1) */
    assert_close(tb_grad(beta), 1e-6, 4, 6);
}

static tb_tensor *gamma_gradient(tb_tensor *x, tb_tensor *g, int64_t from, int64_t to)
{
    tb_tensor *gamma = leaf_of(tb_full(TB_F32, DIMS(19), 1)),
              *y = tb_layer_norm(tb_slice(x, 0, from, to, 1), gamma, NULL, 0);
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = tb_slice(g, 0, from, to, 1)}));
    return tb_grad(gamma);
}

/* Ranks that hold whole blocks of the batch add up to the bits of one rank. */
static void parameter_gradients_are_the_tree_of_their_shards(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(32, 3, 19)), *g = randoms(TB_F32, 2, DIMS(32, 3, 19));
    tb_tensor *whole = gamma_gradient(x, g, 0, 32), *half[2];
    assert_ok(tb_ctx_set_batch_blocks(*state, 4));
    for (int i = 0; i < 2; i++) half[i] = gamma_gradient(x, g, 16 * i, 16 * i + 16);
    assert_same(tb_add(half[0], half[1]), whole, 0);
}

/* What a normalised row cannot feel, its gradient does not have: a shift, and a stretch. */
static void the_gradient_is_orthogonal_to_shift_and_stretch(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(randoms(TB_F64, 1, DIMS(3, 20)));
    assert_ok(tb_backward(weighted_sum(tb_layer_norm(x, NULL, NULL, 0))));
    const double *g = values_of(tb_grad(x)), *v = values_of(x);
    for (int row = 0; row < 3; row++) {
        double shift = 0, stretch = 0, size = 0;
        for (int i = row * 20; i < row * 20 + 20; i++)
            shift += g[i], stretch += g[i] * v[i], size += fabs(g[i]);
        assert_true(size > 0.1 && fabs(shift) < 1e-12 && fabs(stretch) < 1e-12);
    }
}

static tb_tensor *norm_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(tb_layer_norm(in[0], in[1], in[2], 1e-5));
}

static void first_and_second_gradients_are_those_of_differences(void **state)
{
    (void)state;
    tb_tensor *in[3] = {leaf_of(randoms(TB_F64, 1, DIMS(2, 3, 5))), leaf_of(randoms(TB_F64, 2, DIMS(5))),
                        leaf_of(randoms(TB_F64, 3, DIMS(5)))};
    assert_gradients(norm_of, 3, in);
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 3));
    assert_fails((tb_layer_norm(x, randoms(TB_F32, 1, DIMS(2)), NULL, 0), tb_ctx_take_error(*state)),
                 TB_ERR_SHAPE, "gamma must be [3] for input [2, 3], not [2]");
    assert_fails((tb_layer_norm(x, NULL, randoms(TB_F64, 1, DIMS(3)), 0), tb_ctx_take_error(*state)),
                 TB_ERR_DTYPE, "beta is f64");
    assert_fails((tb_layer_norm(tb_scalar(TB_F32, 1), NULL, NULL, 0), tb_ctx_take_error(*state)),
                 TB_ERR_SHAPE, "feature");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(rows_get_mean_zero_and_variance_one),
        ctx_test(values_are_those_of_the_definition),
        ctx_test(shift_and_scale_of_a_row_change_nothing),
        ctx_test(parameters_get_their_gradients),
        ctx_test(parameter_gradients_are_the_tree_of_their_shards),
        ctx_test(the_gradient_is_orthogonal_to_shift_and_stretch),
        ctx_test(first_and_second_gradients_are_those_of_differences),
        ctx_test(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
