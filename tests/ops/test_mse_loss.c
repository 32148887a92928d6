/* mse_loss and its gradient. */
#include "op_test.h"

static void the_loss_is_the_mean_of_squared_differences(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 2), 1, 2, 3, 4), *y = F32(DIMS(2, 2), 1, 0, 3, -1);
    assert_close(tb_mse_loss(x, y), 0, (0 + 4 + 0 + 25) / 4.0);
    assert_close(tb_mse_loss(x, x), 0, 0);
    assert_close(tb_mse_loss(tb_zeros(TB_F32, DIMS(0, 3)), tb_zeros(TB_F32, DIMS(0, 3))), 0, NAN);
}

static void the_gradient_is_twice_the_difference_over_n(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(F32(DIMS(2, 2), 1, 2, 3, 4)), *y = leaf_of(F32(DIMS(2, 2), 1, 0, 3, -1));
    assert_ok(tb_backward(tb_mse_loss(x, y)));
    assert_close(tb_grad(x), 0, 0, 1, 0, 2.5);
    assert_close(tb_grad(y), 0, 0, -1, 0, -2.5);
}

static void strides_do_not_change_the_bits(void **state)
{
    (void)state;
    float loss[2], dx[2][33 * 70];
    tb_tensor *x = tb_transpose(randoms(TB_F32, 1, DIMS(70, 33)), 0, 1), *y = randoms(TB_F32, 2, DIMS(33, 70));
    for (int dense = 0; dense < 2; dense++) {
        tb_tensor *leaf = leaf_of(dense ? tb_contiguous(x) : tb_detach(x)), *l = tb_mse_loss(leaf, y);
        assert_ok(tb_backward(l));
        assert_ok(tb_item_f32(l, &loss[dense]));
        assert_ok(tb_tensor_read(tb_contiguous(tb_grad(leaf)), dx[dense], sizeof dx[0]));
    }
    assert_true(loss[0] == loss[1]);
    assert_memory_equal(dx[0], dx[1], sizeof dx[0]);
}

static void threads_do_not_change_the_bits(void **state)
{
    (void)state;
    float loss[2];
    for (int threads = 1; threads <= 2; threads++) {
        tb_ctx *ctx = NULL, *before = tb_ctx_current();
        assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = threads, .seed = 1}, &ctx));
        tb_ctx_enter(ctx);
        assert_ok(tb_item_f32(tb_mse_loss(randoms(TB_F32, 1, DIMS(123, 457)), randoms(TB_F32, 2, DIMS(123, 457))),
                              &loss[threads - 1]));
        tb_ctx_destroy(ctx);
        tb_ctx_enter(before);
    }
    assert_true(loss[0] == loss[1]);
}

static tb_tensor *loss_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_mse_loss(in[0], in[1]);
}

static void first_and_second_gradients_are_those_of_differences(void **state)
{
    (void)state;
    tb_tensor *in[2] = {leaf_of(randoms(TB_F64, 1, DIMS(4, 3))), leaf_of(randoms(TB_F64, 2, DIMS(4, 3)))};
    assert_gradients(loss_of, 2, in);
}

static void operands_that_differ_are_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 3));
    assert_fails((tb_mse_loss(x, randoms(TB_F32, 1, DIMS(3))), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "mse_loss: x [2, 3] of f32 and y [3] of f32 must be alike");
    assert_fails((tb_mse_loss(x, randoms(TB_F64, 1, DIMS(2, 3))), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "f64");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(the_loss_is_the_mean_of_squared_differences),
        ctx_test(the_gradient_is_twice_the_difference_over_n),
        ctx_test(strides_do_not_change_the_bits),
        ctx_test(threads_do_not_change_the_bits),
        ctx_test(first_and_second_gradients_are_those_of_differences),
        ctx_test(operands_that_differ_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
