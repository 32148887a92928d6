/* max_pool2d, avg_pool2d and their gradients. */
#include "op_test.h"

static tb_tensor *image(void)
{
    return F32(DIMS(1, 1, 3, 4), 1, 2, 9, 4, 5, 3, 7, 8, 0, -1, -2, -3);
}

static void maxima_and_means_are_those_of_the_windows(void **state)
{
    (void)state;
    tb_pool2d_opts two = {.kernel = {2, 2}}, dense = {.kernel = {2, 3}, .stride = {1, 1}},
                   padded = {.kernel = {3, 3}, .stride = {2, 2}, .pad = {1, 1}};
    assert_close(tb_max_pool2d(image(), &two), 0, 5, 9);
    assert_close(tb_avg_pool2d(image(), &two), 0, 2.75, 7);
    assert_close(tb_max_pool2d(image(), &dense), 0, 9, 9, 7, 8);
    assert_close(tb_max_pool2d(image(), &padded), 0, 5, 9, 5, 8);
    assert_close(tb_avg_pool2d(image(), &padded), 1e-6, 11 / 9.0, 33 / 9.0, 7 / 9.0, 12 / 9.0);
    padded.exclude_pad = true;
    assert_close(tb_avg_pool2d(image(), &padded), 1e-6, 11 / 4.0, 33 / 6.0, 7 / 4.0, 12 / 6.0);
}

static void gradients_go_where_the_values_came_from(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(image());
    tb_pool2d_opts dense = {.kernel = {2, 3}, .stride = {1, 1}};
    assert_ok(tb_backward_with(tb_max_pool2d(x, &dense),
                               &(tb_backward_opts){.grad = F32(DIMS(1, 1, 2, 2), 1, 10, 100, 1000)}));
    assert_close(tb_grad(x), 0, 0, 0, 11, 0, 0, 0, 100, 1000, 0, 0, 0, 0);
    tb_grad_clear(x);
    tb_pool2d_opts two = {.kernel = {2, 2}};
    assert_ok(
        tb_backward_with(tb_avg_pool2d(x, &two), &(tb_backward_opts){.grad = F32(DIMS(1, 1, 1, 2), 4, 8)}));
    assert_close(tb_grad(x), 0, 1, 1, 2, 2, 1, 1, 2, 2, 0, 0, 0, 0);
}

static void the_first_of_equal_maxima_gets_the_gradient(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(F32(DIMS(1, 1, 2, 2), 0, 3, 3, 3));
    assert_ok(tb_backward_with(tb_max_pool2d(x, &(tb_pool2d_opts){.kernel = {2, 2}}),
                               &(tb_backward_opts){.grad = F32(DIMS(1, 1, 1, 1), 1)}));
    assert_close(tb_grad(x), 0, 0, 1, 0, 0);
}

static void nan_and_minus_infinity_pass_through(void **state)
{
    (void)state;
    tb_pool2d_opts two = {.kernel = {2, 2}};
    assert_close(tb_max_pool2d(F32(DIMS(1, 1, 2, 2), 1, NAN, 3, 4), &two), 0, NAN);
    assert_close(tb_max_pool2d(F32(DIMS(1, 1, 2, 2), -INFINITY, -INFINITY, -INFINITY, -INFINITY), &two), 0,
                 -INFINITY);
}

static void windows_that_do_not_fit_are_named(void **state)
{
    assert_fails((tb_max_pool2d(image(), &(tb_pool2d_opts){.kernel = {4, 4}}), tb_ctx_take_error(*state)),
                 TB_ERR_SHAPE, "a window of [4, 4] does not fit into input [1, 1, 3, 4] with pad [0, 0]");
    assert_fails((tb_avg_pool2d(image(), &(tb_pool2d_opts){.kernel = {2, 2}, .pad = {2, 0}}),
                  tb_ctx_take_error(*state)),
                 TB_ERR_INVALID, "pad between 0 and half the kernel");
    assert_fails(
        (tb_avg_pool2d(F32(DIMS(2), 1, 2), &(tb_pool2d_opts){.kernel = {1, 1}}), tb_ctx_take_error(*state)),
        TB_ERR_SHAPE, "[N, C, H, W], not [2]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(maxima_and_means_are_those_of_the_windows),
        ctx_test(gradients_go_where_the_values_came_from),
        ctx_test(the_first_of_equal_maxima_gets_the_gradient),
        ctx_test(nan_and_minus_infinity_pass_through),
        ctx_test(windows_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
