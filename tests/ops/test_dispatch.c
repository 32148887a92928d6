/* The one way in: checks, promotion, broadcasting, poison, scopes, views. */
#include "tb_test.h"
#include "tb_op.h"
#include "tb_ops.h"

static tb_tensor *vec(int n, const float *x) { return tb_tensor_from(TB_F32, 1, (int64_t[]){n}, x); }

static void broadcasting_adds_rows_and_columns(void **state)
{
    (void)state;
    tb_tensor *a = tb_reshape(vec(2, (float[]){10, 20}), 2, (int64_t[]){2, 1}), *b = vec(3, (float[]){1, 2, 3});
    float y[6];
    assert_ok(tb_tensor_read(tb_add(a, b), y, sizeof y));
    assert_memory_equal(y, ((float[]){11, 12, 13, 21, 22, 23}), sizeof y);
}

static void promotion_follows_torch(void **state)
{
    (void)state;
    tb_tensor *i = tb_arange(TB_I64, 0, 3, 1), *f = tb_full(TB_F32, 1, (int64_t[]){3}, 0.5);
    assert_int_equal(tb_tensor_dtype(tb_add(i, f)), TB_F32);
    assert_int_equal(tb_tensor_dtype(tb_div(i, i)), TB_F32);
    assert_int_equal(tb_tensor_dtype(tb_add(f, tb_scalar(TB_F64, 1))), TB_F32);
    assert_int_equal(tb_tensor_dtype(tb_add(i, tb_scalar(TB_F64, 1))), TB_F64);
}

static void a_failed_op_poisons_what_follows_and_keeps_the_first_cause(void **state)
{
    tb_tensor *x = tb_zeros(TB_F32, 2, (int64_t[]){32, 784}), *w = tb_zeros(TB_F32, 2, (int64_t[]){512, 784});
    tb_tensor *y = tb_neg(tb_matmul(x, w));
    float out[1];
    assert_true(tb_is_poison(y));
    assert_int_equal(tb_tensor_rank(y), 0);
    assert_fails(tb_item_f32(y, out), TB_ERR_SHAPE, "inner dimensions differ: [32, 784] @ [512, 784]; did you mean");
    assert_ok(tb_ctx_take_error(*state));
}

static void matmul_of_transposed_views_needs_no_copy(void **state)
{
    (void)state;
    tb_tensor *a = tb_reshape(tb_arange(TB_F32, 0, 6, 1), 2, (int64_t[]){2, 3});
    float y[4];
    assert_ok(tb_tensor_read(tb_matmul(a, tb_transpose(a, 0, 1)), y, sizeof y));
    assert_memory_equal(y, ((float[]){5, 14, 14, 50}), sizeof y);
}

/* There is a kernel for f32, which wants rows: strided inputs are copied for it; f64 has none to copy for. */
static void inputs_are_copied_for_kernels_alone(void **state)
{
    static const tb_dtype dtypes[] = {TB_F32, TB_F64};
    int64_t wanted[2];
    for (int i = 0; i < 2; i++) {
        tb_mem_stats s;
        tb_tensor *x = tb_transpose(tb_zeros(dtypes[i], 2, (int64_t[]){64, 48}), 0, 1);
        tb_heap_reset_peak(tb_ctx_heap(*state));
        assert_false(tb_is_poison(tb_softmax(x, 1)));
        tb_heap_stats(tb_ctx_heap(*state), &s);
        wanted[i] = s.peak_by_tag[TB_MEM_WORKSPACE];
    }
    assert_true(wanted[0] >= 64 * 48 * 4);
    assert_int_equal(wanted[1], 0);
}

static void slices_are_views_and_negative_indices_count_from_the_end(void **state)
{
    (void)state;
    tb_tensor *a = tb_arange(TB_I32, 0, 10, 1), *s = tb_slice(a, 0, -7, 100, 3);
    int32_t y[3];
    assert_ok(tb_tensor_read(s, y, sizeof y));
    assert_memory_equal(y, ((int32_t[]){3, 6, 9}), sizeof y);
}

/* What a call by name finds in the record and returns. */
static tb_status named(const char *op, int n_attrs, const tb_named_attr *attrs, tb_tensor **out)
{
    tb_tensor *x = vec(3, (float[]){1, 2, 4});
    return tb_call_named(op, n_attrs, attrs, 1, &x, out);
}

static void ops_are_called_by_name_with_attributes_from_their_table(void **state)
{
    (void)state;
    tb_tensor *y[TB_MAX_OUT];
    float sum;
    assert_ok(named("sum", 0, NULL, y)); /* defaults: all axes, no mean */
    assert_ok(tb_item_f32(y[0], &sum));
    assert_near(sum, 7, 0);
    assert_ok(named("sum", 3, (tb_named_attr[]){{"axes", 1, {-1}}, {"keep", 1, {1}}, {"mean", 1, {1}}}, y));
    assert_int_equal(tb_tensor_rank(y[0]), 1);
    assert_ok(tb_item_f32(y[0], &sum));
    assert_near(sum, 7.0f / 3, 1e-6);
    assert_ok(named("cast", 1, &(tb_named_attr){"dtype", 1, {TB_I8}}, y));
    assert_int_equal(tb_tensor_dtype(y[0]), TB_I8);
}

static void a_call_by_name_says_what_does_not_fit(void **state)
{
    tb_tensor *y[TB_MAX_OUT];
    assert_fails(named("summ", 0, NULL, y), TB_ERR_NOT_FOUND, "nearest: 'sum'");
    assert_fails(named("sum", 1, &(tb_named_attr){"axis", 1, {0}}, y), TB_ERR_NOT_FOUND, "no attribute 'axis'");
    assert_fails(named("sum", 1, &(tb_named_attr){"keep", 2, {0}}, y), TB_ERR_INVALID, "one value, not 2");
    assert_fails(named("sum", 1, &(tb_named_attr){"axes", 1, {0.5}}, y), TB_ERR_INVALID, "an integer, not 0.5");
    assert_fails(named("cast", 1, &(tb_named_attr){"dtype", 1, {TB_DTYPES}}, y), TB_ERR_INVALID, "no dtype");
    assert_fails(named("fused_pointwise", 0, NULL, y), TB_ERR_UNSUPPORTED, "text form");
    assert_fails(named("sum", 1, &(tb_named_attr){"axes", 1, {1}}, y), TB_ERR_SHAPE, "axis 1");
    assert_true(tb_is_poison(y[0]));
    assert_ok(tb_ctx_take_error(*state)); /* the call took it */
}

static void scopes_close_in_any_order(void **state)
{
    tb_scope *first = tb_scope_open(), *second = tb_scope_open();
    tb_tensor *kept = tb_zeros(TB_F32, 1, (int64_t[]){4});
    tb_scope_close(first);
    tb_tensor *escaped = tb_scope_escape(second, kept);
    assert_int_equal(tb_ctx_live_tensors(*state), 1);
    assert_int_equal(tb_tensor_numel(escaped), 4);
}

static void sums_over_any_axes(void **state)
{
    (void)state;
    tb_tensor *x = tb_reshape(tb_arange(TB_F32, 0, 24, 1), 3, (int64_t[]){2, 3, 4});
    float y[3];
    assert_ok(tb_tensor_read(tb_sum(x, 2, (int64_t[]){0, -1}, false), y, sizeof y));
    assert_memory_equal(y, ((float[]){60, 92, 124}), sizeof y);
    assert_fails((tb_sum_axis(x, 3, false), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "axis 3");
}

static void the_list_of_ops_knows_its_names(void **state)
{
    (void)state;
    for (int i = 0; i < TB_OP_COUNT; i++) assert_ptr_equal(tb_op_find(tb_op_at(i)->name), tb_op_at(i));
    assert_null(tb_op_find("matmull"));
    assert_non_null(strstr(tb_error_message(), "'matmul'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(broadcasting_adds_rows_and_columns),
        ctx_test(promotion_follows_torch),
        ctx_test(a_failed_op_poisons_what_follows_and_keeps_the_first_cause),
        ctx_test(matmul_of_transposed_views_needs_no_copy),
        ctx_test(inputs_are_copied_for_kernels_alone),
        ctx_test(slices_are_views_and_negative_indices_count_from_the_end),
        ctx_test(scopes_close_in_any_order),
        ctx_test(sums_over_any_axes),
        ctx_test(the_list_of_ops_knows_its_names),
        ctx_test(ops_are_called_by_name_with_attributes_from_their_table),
        ctx_test(a_call_by_name_says_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
