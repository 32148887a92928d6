/* cross_entropy and its gradient. */
#include "op_test.h"

static void the_loss_is_the_negative_log_probability_of_the_label(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 3), 1, 2, 3, 0, 0, 0), *y = I64(DIMS(2), 2, 0);
    const double row[2] = {0.407605964, 1.098612289};
    assert_close(tb_cross_entropy(x, y, &(tb_ce_opts){.reduction = TB_LOSS_NONE}), 1e-6, row[0], row[1]);
    assert_close(tb_cross_entropy(x, y, &(tb_ce_opts){.reduction = TB_LOSS_SUM}), 1e-6, row[0] + row[1]);
    assert_close(tb_cross_entropy(x, y, NULL), 1e-6, (row[0] + row[1]) / 2);
    assert_close(tb_cross_entropy(x, tb_cast(y, TB_I32), NULL), 1e-6, (row[0] + row[1]) / 2);
}

static void ignored_rows_count_for_nothing(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(randoms(TB_F32, 1, DIMS(4, 5))), *y = I64(DIMS(4), 3, 1, -100, 1);
    tb_tensor *kept = tb_slice(x, 0, 0, 2, 1), *labels = I64(DIMS(2), 3, 1);
    tb_tensor *padded = I64(DIMS(4), 3, 0, 0, 0);
    assert_same(tb_cross_entropy(tb_slice(x, 0, 0, 3, 1), tb_slice(y, 0, 0, 3, 1), NULL),
                tb_cross_entropy(kept, labels, NULL), 1e-6);
    assert_same(tb_cross_entropy(x, padded, &(tb_ce_opts){.has_ignore_index = true, .ignore_index = 0}),
                tb_cross_entropy(tb_slice(x, 0, 0, 1, 1), I64(DIMS(1), 3), NULL), 1e-6);
    assert_ok(tb_backward(tb_cross_entropy(x, y, NULL)));
    const double *g = values_of(tb_grad(x));
    for (int i = 0; i < 5; i++) assert_true(g[10 + i] == 0 && g[5 + i] != 0);
    assert_close(tb_cross_entropy(kept, I64(DIMS(2), -100, -100), NULL), 0, NAN);
}

static void the_gradient_is_probability_minus_one_hot(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(F32(DIMS(2, 2), 0, 0, logf(3), 0)), *y = I64(DIMS(2), 1, 0);
    assert_ok(tb_backward(tb_cross_entropy(x, y, NULL)));
    assert_close(tb_grad(x), 1e-6, 0.25, -0.25, -0.125, 0.125);
}

static void large_logits_do_not_overflow(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(F32(DIMS(1, 3), 1000, -1000, 999)), *y = I64(DIMS(1), 2);
    tb_tensor *loss = tb_cross_entropy(x, y, NULL);
    assert_close(loss, 1e-6, 1.31326169);
    assert_ok(tb_backward(loss));
    assert_close(tb_grad(x), 1e-4, 0.731058579, 0, -0.731058579);
}

/* What a rank of two computes from its half of the batch and the global count. */
static void losses_of_shards_divided_by_the_global_count_add_up(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(16, 5)), *count = tb_scalar(TB_I64, 16), *half[2];
    int64_t labels[16];
    for (int i = 0; i < 16; i++) labels[i] = i % 5;
    tb_tensor *y = tb_tensor_from(TB_I64, DIMS(16), labels), *whole = tb_cross_entropy(x, y, NULL);
    assert_ok(tb_ctx_set_batch_blocks(*state, 4));
    for (int i = 0; i < 2; i++)
        half[i] = tb_cross_entropy(tb_slice(x, 0, 8 * i, 8 * i + 8, 1), tb_slice(y, 0, 8 * i, 8 * i + 8, 1),
                                   &(tb_ce_opts){.count = count});
    assert_same(tb_add(half[0], half[1]), whole, 0);
}

static tb_tensor *loss_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_cross_entropy(in[0], I64(DIMS(4), 2, 0, -100, 1), NULL);
}
static tb_tensor *losses_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(
        tb_cross_entropy(in[0], I64(DIMS(4), 2, 0, -100, 1), &(tb_ce_opts){.reduction = TB_LOSS_NONE}));
}

static void first_and_second_gradients_are_those_of_differences(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(randoms(TB_F64, 1, DIMS(4, 3)));
    assert_gradients(loss_of, 1, &x);
    assert_gradients(losses_of, 1, &x);
}

static void wrong_labels_are_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 3));
    assert_fails((tb_cross_entropy(x, I64(DIMS(2), 0, 3), NULL), tb_ctx_take_error(*state)), TB_ERR_INVALID,
                 "label 3 of row 1 is not one of 3 classes");
    assert_fails((tb_cross_entropy(x, I64(DIMS(3), 0, 1, 2), NULL), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "labels [3] do not fit logits [2, 3]");
    assert_fails((tb_cross_entropy(x, tb_slice(x, 1, 0, 1, 1), NULL), tb_ctx_take_error(*state)),
                 TB_ERR_SHAPE, "labels");
    assert_fails((tb_cross_entropy(x, randoms(TB_F32, 1, DIMS(2)), NULL), tb_ctx_take_error(*state)),
                 TB_ERR_DTYPE, "labels must be i64 or i32");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(the_loss_is_the_negative_log_probability_of_the_label),
        ctx_test(ignored_rows_count_for_nothing),
        ctx_test(the_gradient_is_probability_minus_one_hot),
        ctx_test(large_logits_do_not_overflow),
        ctx_test(losses_of_shards_divided_by_the_global_count_add_up),
        ctx_test(first_and_second_gradients_are_those_of_differences),
        ctx_test(wrong_labels_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
