/* Ops that move elements: concat, split, gather, scatter, scatter_add, copies of strided tensors. */
#include "op_test.h"

static void concat_joins_and_promotes(void **state)
{
    (void)state;
    tb_tensor *a = F32(DIMS(2, 1), 1, 4), *b = I64(DIMS(2, 2), 2, 3, 5, 6);
    tb_tensor *y = tb_concat(2, (tb_tensor *[]){a, b}, 1);
    assert_int_equal(tb_tensor_dtype(y), TB_F32);
    assert_close(y, 0, 1, 2, 3, 4, 5, 6);
    assert_close(tb_concat(2, (tb_tensor *[]){b, tb_transpose(b, 0, 1)}, 0), 0, 2, 3, 5, 6, 2, 5, 3, 6);
}

static void concat_takes_any_number_and_hands_each_its_gradient(void **state)
{
    (void)state;
    enum { N = 150 };
    tb_tensor *parts[N], *grads[N];
    for (int i = 0; i < N; i++) parts[i] = leaf_of(tb_full(TB_F32, 1, (int64_t[]){1 + i % 2}, i));
    tb_tensor *y = tb_concat(N, parts, 0), *w = tb_arange(TB_F32, 0, 225, 1);
    assert_int_equal(tb_tensor_numel(y), 225);
    assert_ok(tb_gradients(tb_sum(tb_mul(y, w), 0, NULL, false), NULL, N, parts, grads));
    for (int i = 0; i < N; i++) {
        double at = 3 * (i / 2) + i % 2;
        if (i % 2) assert_close(grads[i], 0, at, at + 1);
        else assert_close(grads[i], 0, at);
    }
}

static void parts_that_do_not_join_are_named(void **state)
{
    tb_tensor *a = tb_zeros(TB_F32, 2, (int64_t[]){2, 3}), *b = tb_zeros(TB_F32, 2, (int64_t[]){3, 3});
    assert_fails((tb_concat(2, (tb_tensor *[]){a, b}, 1), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "part 1 is f32 [3, 3]");
    tb_tensor *parts[2];
    tb_tensor_split(a, 1, 2, (int64_t[]){2, 2}, parts);
    assert_true(tb_is_poison(parts[0]) && tb_is_poison(parts[1]));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "sizes [2, 2] do not add up");
    tb_tensor_split(a, 1, 2, (int64_t[]){4, -1}, parts);
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "sizes [4, -1] do not add up");
}

static void split_gives_views_that_concat_joins_again(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F32, 1, DIMS(3, 7)), *parts[3];
    tb_tensor_split(x, -1, 3, (int64_t[]){2, 0, 5}, parts);
    assert_int_equal(tb_tensor_dim(parts[2], 1), 5);
    assert_same(tb_concat(3, parts, -1), x, 0);
}

/* The parts' gradients come together in one tensor, in place, by kernel or by reference; what overlaps adds up. */
static void parts_give_their_gradients_to_one_tensor(void **state)
{
    enum { ROWS = 300, WIDTH = 200, PART = 67 };
    for (int ref_only = 0; ref_only < 2; ref_only++) {
        tb_ctx_limit_kernels(*state, tb_ctx_isa(*state), ref_only);
        tb_tensor *x = leaf_of(randoms(TB_F32, 1, DIMS(ROWS, WIDTH))), *parts[4], *w[4], *loss = NULL;
        tb_tensor_split(x, 1, 3, (int64_t[]){PART, PART, WIDTH - 2 * PART}, parts);
        parts[3] = tb_slice(x, 1, PART, 2 * PART, 1);
        for (int i = 0; i < 4; i++) {
            w[i] = randoms(TB_F32, (uint64_t)i + 2, DIMS(ROWS, i == 2 ? WIDTH - 2 * PART : PART));
            tb_tensor *part = tb_sum(tb_mul(parts[i], w[i]), 0, NULL, false);
            loss = loss ? tb_add(loss, part) : part;
        }
        assert_ok(tb_backward(loss));
        w[1] = tb_add(w[1], w[3]);
        assert_same(tb_grad(x), tb_concat(3, w, 1), 0);
    }
    tb_ctx_limit_kernels(*state, tb_ctx_isa(*state), false);
}

static void a_gradient_put_into_a_tensor_must_fit_it(void **state)
{
    const tb_named_attr attrs[] = {
        {"axis", 1, {0}}, {"start", 1, {1}}, {"stop", 1, {3}}, {"step", 1, {1}}, {"dims", 1, {4}}};
    tb_tensor *into = F32(DIMS(4), 1, 2, 3, 4), *out[1];
    assert_ok(tb_call_named("unslice", 5, attrs, 2, (tb_tensor *[]){F32(DIMS(2), 10, 20), into}, out));
    assert_close(into, 0, 1, 12, 23, 4);
    tb_tensor *wrong[] = {F32(DIMS(2), 10, 20), F32(DIMS(5), 1, 2, 3, 4, 5)};
    assert_fails(tb_call_named("unslice", 5, attrs, 2, wrong, out), TB_ERR_SHAPE, "into a contiguous [4] of f32");
    (void)state;
}

/* Where strides can show the other shape, nothing is copied. */
static void reshape_of_strided_tensors_is_a_view_where_it_can_be(void **state)
{
    (void)state;
    static const struct {
        int64_t from, to; /* columns of [4, 6, 6] that are kept */
        int rank;
        int64_t dims[5];
        bool is_view;
    } cases[] = {{0, 6, 2, {24, 6}, true},    {1, 5, 4, {2, 2, 6, 4}, true}, {1, 5, 5, {4, 6, 2, 1, 2}, true},
                 {1, 5, 2, {24, 4}, true},    {1, 5, 1, {96}, false},        {1, 5, 3, {4, 4, 6}, false},
                 {2, 3, 3, {1, 24, 1}, true}, {2, 3, 2, {8, 3}, true}};
    tb_tensor *x = randoms(TB_F32, 1, DIMS(4, 6, 6));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tb_tensor *part = tb_slice(x, 2, cases[i].from, cases[i].to, 1), *whole = tb_contiguous(part);
        tb_tensor *y = tb_reshape(part, cases[i].rank, cases[i].dims);
        assert_same(y, tb_reshape(whole, cases[i].rank, cases[i].dims), 0);
        assert_int_equal(tb_tensor_is_contiguous(y), !cases[i].is_view || cases[i].to - cases[i].from == 6);
    }
}

static void an_empty_cut_of_a_strided_tensor_takes_any_empty_shape(void **state)
{
    (void)state;
    tb_tensor *x = tb_slice(tb_slice(tb_zeros(TB_F32, 2, (int64_t[]){4, 3}), 1, 0, 3, 2), 0, 0, 0, 1);
    assert_true(tb_tensor_is_contiguous(x));
    tb_tensor *y = tb_reshape(x, 3, (int64_t[]){2, 0, 5});
    assert_false(tb_is_poison(y));
    assert_int_equal(tb_tensor_dim(y, 2), 5);
}

static void gather_and_scatter_follow_the_index(void **state)
{
    tb_tensor *x = F32(DIMS(2, 3), 1, 2, 3, 4, 5, 6), *index = I64(DIMS(2, 2), 2, 0, 1, 1);
    assert_close(tb_gather(x, 1, index), 0, 3, 1, 5, 5);
    tb_tensor *to = tb_zeros(TB_F32, 2, (int64_t[]){2, 3});
    assert_close(tb_scatter_add(to, 1, index, F32(DIMS(2, 2), 10, 20, 30, 40)), 0, 20, 0, 10, 0, 70, 0);
    assert_close(tb_scatter(x, 1, index, F32(DIMS(2, 2), 10, 20, 30, 40)), 0, 20, 2, 10, 4, 40, 6); /* the last stays */
    tb_tensor *bad = I64(DIMS(1, 1), 3);
    assert_fails((tb_gather(x, 1, bad), tb_ctx_take_error(*state)), TB_ERR_INVALID, "index 3 is outside of 0..2");
}

static void copies_of_strided_tensors_are_row_major(void **state)
{
    (void)state;
    static const tb_dtype types[] = {TB_F64, TB_F32, TB_BF16, TB_I8};
    for (int t = 0; t < 4; t++) {
        tb_tensor *x = tb_cast(tb_reshape(tb_arange(TB_I64, 0, 24, 1), 3, (int64_t[]){2, 3, 4}), types[t]);
        tb_tensor *p = tb_slice(tb_permute(x, 3, (int64_t[]){2, 0, 1}), 2, 0, 3, 2); /* [4, 2, 2] */
        assert_close(tb_copy(p), 0, 0, 8, 12, 20, 1, 9, 13, 21, 2, 10, 14, 22, 3, 11, 15, 23);
        assert_close(tb_reshape(p, 1, (int64_t[]){16}), 0, 0, 8, 12, 20, 1, 9, 13, 21, 2, 10, 14, 22, 3, 11, 15, 23);
    }
}

/* Kernels see strided operands packed: the same arithmetic on the same values. */
static void strides_do_not_change_the_bits_of_a_pointwise_op(void **state)
{
    (void)state;
    float a[35], b[35];
    tb_tensor *x = randoms(TB_F32, 2, DIMS(5, 7)), *t = tb_transpose(x, 0, 1);
    assert_ok(tb_tensor_read(tb_gelu_erf(t), a, sizeof a));
    assert_ok(tb_tensor_read(tb_gelu_erf(tb_contiguous(t)), b, sizeof b));
    assert_memory_equal(a, b, sizeof a);
}

/* What is added is what the views showed before. */
static void a_buffer_takes_views_of_itself(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        const tb_dtype dtype = t ? TB_F64 : TB_F32;
        tb_tensor *square = tb_cast(F32(DIMS(2, 2), 1, 2, 3, 4), dtype);
        assert_close(tb_accumulate(square, tb_transpose(square, 0, 1), false), 0, 2, 5, 5, 8);
        tb_tensor *row = tb_arange(dtype, 0, 70, 1), *was = tb_copy(row);
        tb_tensor *to = tb_slice(row, 0, 1, 70, 1), *from = tb_slice(row, 0, 0, 69, 1);
        assert_same(tb_accumulate(to, from, false), tb_add(tb_slice(was, 0, 1, 70, 1), tb_slice(was, 0, 0, 69, 1)), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(concat_joins_and_promotes),
        ctx_test(concat_takes_any_number_and_hands_each_its_gradient),
        ctx_test(parts_that_do_not_join_are_named),
        ctx_test(split_gives_views_that_concat_joins_again),
        ctx_test(parts_give_their_gradients_to_one_tensor),
        ctx_test(a_gradient_put_into_a_tensor_must_fit_it),
        ctx_test(reshape_of_strided_tensors_is_a_view_where_it_can_be),
        ctx_test(an_empty_cut_of_a_strided_tensor_takes_any_empty_shape),
        ctx_test(gather_and_scatter_follow_the_index),
        ctx_test(copies_of_strided_tensors_are_row_major),
        ctx_test(strides_do_not_change_the_bits_of_a_pointwise_op),
        ctx_test(a_buffer_takes_views_of_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
