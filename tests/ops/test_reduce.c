/* Sums keep their order of arithmetic; maxima their ties and NaN. */
#include "op_test.h"

static tb_tensor *noise(int64_t stream, int rank, const int64_t *dims)
{
    tb_tensor *key = tb_tensor_from(TB_I64, 1, (int64_t[]){3}, (int64_t[]){1, stream, 0});
    return tb_randn(key, TB_F32, rank, dims);
}

static void assert_same_bits(tb_tensor *a, tb_tensor *b)
{
    float x[512], y[512];
    size_t bytes = tb_tensor_bytes(a);
    assert_true(bytes <= sizeof x && bytes > 0);
    assert_ok(tb_tensor_read(a, x, bytes));
    assert_ok(tb_tensor_read(b, y, bytes));
    assert_memory_equal(x, y, bytes);
}

static void a_row_has_the_same_sum_in_any_batch(void **state)
{
    (void)state;
    tb_tensor *x = noise(1, 2, (int64_t[]){7, 1001});
    assert_same_bits(tb_slice(tb_sum_axis(x, 1, false), 0, 3, 4, 1), tb_sum_axis(tb_slice(x, 0, 3, 4, 1), 1, false));
}

static void strides_do_not_change_the_order(void **state)
{
    (void)state;
    tb_tensor *x = noise(2, 2, (int64_t[]){301, 97}), *t = tb_transpose(x, 0, 1);
    assert_same_bits(tb_sum_axis(t, 1, false), tb_sum_axis(tb_contiguous(t), 1, false));
    assert_same_bits(tb_sum_axis(t, 0, false), tb_sum_axis(tb_contiguous(t), 0, false));
}

/* Two ranks, four blocks each; one addition finishes the tree. Over axis 0, and over axes 0 and 2. */
static void halves_of_a_batch_add_up_to_the_bits_of_the_whole(void **state)
{
    static const int64_t shapes[][3] = {{48, 33, 1}, {16, 5, 7}, {8, 300, 1}};
    for (int i = 0; i < 6; i++) {
        const int64_t *dims = shapes[i / 2];
        tb_tensor *x = noise(3 + i, 3, dims), *part[3];
        for (int p = 0; p < 3; p++) {
            tb_tensor *rows = tb_slice(x, 0, p == 1 ? dims[0] / 2 : 0, p == 0 ? dims[0] / 2 : dims[0], 1);
            assert_ok(tb_ctx_set_batch_blocks(*state, p == 2 ? 8 : 4));
            part[p] =
                i % 2 ? tb_sum_to(tb_permute(rows, 3, (int64_t[]){0, 2, 1}), 1, dims + 1) : tb_sum_batch(rows, NULL);
        }
        assert_same_bits(tb_add(part[0], part[1]), part[2]);
        assert_same(part[2], tb_sum(x, 1 + i % 2, (int64_t[]){0, 2}, false), 1e-5);
    }
}

static void a_given_tensor_takes_the_sum_and_its_bits(void **state)
{
    tb_tensor *x = noise(9, 2, (int64_t[]){37, 65}), *into = noise(15, 1, (int64_t[]){65});
    uint32_t version = tb_tensor_version(into);
    tb_tensor *y = tb_sum_batch(x, into);
    assert_same_bits(y, tb_sum_batch(x, NULL));
    assert_same_bits(into, y);
    assert_int_equal(tb_tensor_version(into), version + 1);
    assert_fails((tb_sum_batch(x, noise(14, 1, (int64_t[]){64})), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "sum: the result is a contiguous [65] of f32, not [64] of f32");
}

static void the_mean_of_nothing_is_nan_and_its_sum_zero(void **state)
{
    (void)state;
    tb_tensor *x = tb_zeros(TB_F32, 2, (int64_t[]){2, 0});
    double sum[2];
    assert_close(tb_sum_axis(x, 1, false), 0, 0, 0);
    assert_ok(tb_tensor_read(tb_cast(tb_mean(x, 1, (int64_t[]){1}, false), TB_F64), sum, sizeof sum));
    assert_true(isnan(sum[0]) && isnan(sum[1]));
}

static void nan_is_the_maximum_and_the_first_one_its_index(void **state)
{
    (void)state;
    const float nan = NAN;
    tb_tensor *x = F32(DIMS(2, 4), 3, nan, 9, nan, 1, 5, 5, 2);
    assert_close(tb_max(x, 1, (int64_t[]){1}, false), 0, NAN, 5);
    assert_close(tb_argmax(x, 1, false), 0, 1, 1);
    assert_close(tb_max(tb_transpose(x, 0, 1), 1, (int64_t[]){0}, false), 0, NAN, 5);
}

static void ties_share_the_gradient(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(2, 3), 1, 4, 4, 0, -1, -2), *g;
    assert_ok(tb_require_grad(x));
    tb_tensor *y = tb_sum(tb_max(x, 1, (int64_t[]){1}, false), 0, NULL, false);
    assert_ok(tb_gradients(y, NULL, 1, &x, &g));
    assert_close(g, 0, 0, 0.5, 0.5, 1, 0, 0);
}

static void an_empty_axis_has_no_maximum(void **state)
{
    tb_tensor *x = tb_zeros(TB_F32, 2, (int64_t[]){2, 0});
    assert_fails((tb_max(x, 0, NULL, false), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "axis 1 of [2, 0] is empty");
    assert_fails((tb_sum(x, 2, (int64_t[]){1, -1}, false), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "named twice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(a_row_has_the_same_sum_in_any_batch),
        ctx_test(strides_do_not_change_the_order),
        ctx_test(halves_of_a_batch_add_up_to_the_bits_of_the_whole),
        ctx_test(a_given_tensor_takes_the_sum_and_its_bits),
        ctx_test(the_mean_of_nothing_is_nan_and_its_sum_zero),
        ctx_test(nan_is_the_maximum_and_the_first_one_its_index),
        ctx_test(ties_share_the_gradient),
        ctx_test(an_empty_axis_has_no_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
