/* linear, linear_act, linear_weight_grad. */
#include "op_test.h"

static void a_layer_multiplies_by_the_transposed_weight_and_adds_the_bias(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 3), 1, 2, 3, -1, 0, 1), *w = F32(DIMS(2, 3), 1, 0, -1, 2, 1, 0);
    assert_close(tb_linear(x, w, F32(DIMS(2), 10, 20)), 0, 8, 24, 8, 18);
    assert_close(tb_linear(x, w, NULL), 0, -2, 4, -2, -2);
}

static void leading_dimensions_are_rows(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 3, 5)), *w = randoms(TB_F32, 2, DIMS(4, 5)),
              *b = randoms(TB_F32, 3, DIMS(4));
    tb_tensor *flat = tb_linear(tb_reshape(x, DIMS(6, 5)), w, b);
    assert_int_equal(tb_tensor_rank(tb_linear(x, w, b)), 3);
    assert_same(tb_reshape(tb_linear(x, w, b), DIMS(6, 4)), flat, 0);
    assert_same(tb_linear(tb_transpose(tb_copy(tb_transpose(x, 0, 2)), 0, 2), w, b), tb_linear(x, w, b), 0);
}

static void gradients_are_products_with_the_other_operand(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(F32(DIMS(2, 2), 1, 2, 3, 4)), *w = leaf_of(F32(DIMS(1, 2), 5, 6)),
              *b = leaf_of(F32(DIMS(1), 7));
    assert_ok(tb_backward_with(tb_linear(x, w, b), &(tb_backward_opts){.grad = F32(DIMS(2, 1), 10, 100)}));
    assert_close(tb_grad(x), 0, 50, 60, 500, 600);
    assert_close(tb_grad(w), 0, 310, 420);
    assert_close(tb_grad(b), 0, 110);
}

static void a_weight_gradient_adds_into_a_given_tensor(void **state)
{
    (void)state;
    tb_tensor *g = F32(DIMS(2, 1), 10, 100), *x = F32(DIMS(2, 2), 1, 2, 3, 4),
              *into = F32(DIMS(1, 2), 1000, 2000);
    tb_tensor *sum = tb_linear_weight_grad(g, x, into, false);
    assert_close(sum, 0, 1310, 2420);
    assert_close(into, 0, 1310, 2420);
    assert_int_equal(tb_tensor_version(into), 1);
    assert_close(tb_linear_weight_grad(g, x, into, true), 0, 310, 420);
    assert_close(into, 0, 310, 420);
}

/* A buffer that was given holds the first gradient, whatever was there, and the sum with the second; each use of a
 * shared weight has its row. */
static void a_weight_gradient_goes_straight_into_its_buffer(void **state)
{
    (void)state;
    tb_tensor *w = F32(DIMS(1, 2), 1, 1), *x = F32(DIMS(2, 2), 1, 2, 3, 4);
    tb_tensor *buffer = F32(DIMS(1, 2), 77, 77), *rows = F32(DIMS(2, 1, 2), 77, 77, 77, 77);
    assert_ok(tb_require_grad(w));
    assert_ok(tb_grad_set_buffer(w, buffer));
    for (int pass = 1; pass <= 2; pass++) {
        assert_ok(tb_backward(tb_sum(tb_linear(x, w, NULL), 0, NULL, false)));
        assert_close(buffer, 0, 4.0 * pass, 6.0 * pass);
    }
    assert_ok(tb_grad_set_buffer(w, rows));
    tb_tensor *y = tb_add(tb_linear(x, w, NULL), tb_linear(tb_mul(x, x), w, NULL));
    assert_ok(tb_backward(tb_sum(y, 0, NULL, false)));
    assert_ok(tb_grad_join(w));
    assert_close(tb_grad(w), 0, 14, 26);
}

/* Ranks that hold whole blocks of the batch add up to the bits of one rank. */
static void a_weight_gradient_is_the_tree_of_its_halves(void **state)
{
    tb_tensor *g = randoms(TB_F32, 1, DIMS(64, 5)), *x = randoms(TB_F32, 2, DIMS(64, 9));
    tb_tensor *whole = tb_linear_weight_grad(g, x, NULL, false), *half[2];
    assert_ok(tb_ctx_set_batch_blocks(*state, 4));
    for (int i = 0; i < 2; i++)
        half[i] = tb_linear_weight_grad(tb_slice(g, 0, 32 * i, 32 * i + 32, 1),
                                        tb_slice(x, 0, 32 * i, 32 * i + 32, 1), NULL, false);
    assert_same(tb_add(half[0], half[1]), whole, 0);
}

/* The factors are rounded to 8 bits, nothing else is; ref and the mode of before are as they were. */
static void products_of_bf16_are_near_and_can_be_turned_off(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(33, 70)), *w = randoms(TB_F32, 2, DIMS(19, 70)),
              *g = randoms(TB_F32, 3, DIMS(33, 19));
    tb_tensor *y = tb_linear(x, w, NULL), *dw = tb_linear_weight_grad(g, x, NULL, false), *dx = tb_matmul(g, w);
    tb_ctx_set_bf16_products(*state, true);
    assert_true(tb_ctx_bf16_products(*state));
    tb_tensor *rounded = tb_linear(tb_cast(tb_cast(x, TB_BF16), TB_F32), tb_cast(tb_cast(w, TB_BF16), TB_F32), NULL);
    assert_same(tb_linear(x, w, NULL), rounded, 0);
    assert_same(tb_linear(x, w, NULL), y, 0.1);
    assert_same(tb_linear_weight_grad(g, x, NULL, false), dw, 0.1);
    assert_same(tb_matmul(g, w), dx, 0.1);
    assert_true(memcmp(tb_tensor_host(tb_linear(x, w, NULL)), tb_tensor_host(y), 33 * 19 * sizeof(float)) != 0);
    tb_ctx_set_bf16_products(*state, false);
    assert_same(tb_linear(x, w, NULL), y, 0);
}

/* Operands, results and their gradients are those of f16 tensors; the bias and what the caller sees are f32. */
static void products_of_f16_are_those_of_f16_tensors(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(33, 70)), *w = randoms(TB_F32, 2, DIMS(19, 70)),
              *b = randoms(TB_F32, 3, DIMS(19)), *g = randoms(TB_F32, 4, DIMS(33, 19)), *grads[3];
    tb_tensor *x16 = tb_cast(x, TB_F16), *w16 = tb_cast(w, TB_F16), *g16 = tb_cast(g, TB_F16);
    tb_tensor *y = tb_add(tb_cast(tb_linear(x16, w16, NULL), TB_F32), b);
    tb_tensor *leaves[] = {x, w, b};
    for (int i = 0; i < 3; i++) assert_ok(tb_require_grad(leaves[i]));
    tb_ctx_set_f16_products(*state, true);
    assert_true(tb_ctx_f16_products(*state));
    tb_tensor *z = tb_linear(x, w, b);
    assert_int_equal(tb_tensor_dtype(z), TB_F32);
    assert_same(z, y, 0);
    assert_ok(tb_gradients(z, &(tb_backward_opts){.grad = g}, 3, leaves, grads));
    tb_ctx_set_f16_products(*state, false);
    assert_same(grads[0], tb_cast(tb_matmul(g16, w16), TB_F32), 0);
    assert_same(grads[1], tb_cast(tb_linear_weight_grad(g16, x16, NULL, false), TB_F32), 0);
    assert_same(grads[2], tb_sum_batch(g, NULL), 1e-5);
    tb_tensor *large = tb_mul(g, tb_scalar(TB_F32, 1e5)); /* overflows */
    float first;
    tb_ctx_set_f16_products(*state, true);
    assert_ok(tb_item_f32(tb_sum(tb_matmul(large, w), 0, NULL, false), &first));
    tb_ctx_set_f16_products(*state, false);
    assert_false(isfinite(first));
}

static void activations_apply_to_the_finished_sum(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(3, 1), -1, 0.5, 2), *w = F32(DIMS(1, 1), 1), *b = F32(DIMS(1), 1);
    static const double want[][3] = {{0, 1.5, 3},
                                     {0, 1.5, 3},
                                     {0, 1.39957158, 2.99636264},
                                     {0, 1.39978918, 2.99595031},
                                     {0, 1.22636171, 2.85772238}};
    for (int64_t act = 0; act <= 4; act++) {
        tb_tensor *y = tb_call(&tb_op_linear_act, &act, TB_IN(x, w, b));
        check_close(y, 3, want[act], 1e-6, __FILE__, __LINE__);
    }
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 4)), *w = randoms(TB_F32, 2, DIMS(4, 5));
    assert_fails((tb_linear(x, w, NULL), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "the weight is [out, in]");
    assert_fails((tb_linear(x, tb_transpose(w, 0, 1), w), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "bias must be [5]");
    assert_fails((tb_linear(x, tb_cast(w, TB_F64), NULL), tb_ctx_take_error(*state)), TB_ERR_DTYPE,
                 "f32 and f64");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(a_layer_multiplies_by_the_transposed_weight_and_adds_the_bias),
        ctx_test(leading_dimensions_are_rows),
        ctx_test(gradients_are_products_with_the_other_operand),
        ctx_test(a_weight_gradient_adds_into_a_given_tensor),
        ctx_test(a_weight_gradient_goes_straight_into_its_buffer),
        ctx_test(a_weight_gradient_is_the_tree_of_its_halves),
        ctx_test(products_of_bf16_are_near_and_can_be_turned_off),
        ctx_test(products_of_f16_are_those_of_f16_tensors),
        ctx_test(activations_apply_to_the_finished_sum),
        ctx_test(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
