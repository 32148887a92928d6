/* embedding and its gradient. */
#include "op_test.h"

static void indices_pick_rows(void **state)
{
    (void)state;
    tb_tensor *w = F32(DIMS(3, 2), 1, 2, 3, 4, 5, 6), *y = tb_embedding(w, I64(DIMS(2, 2), 2, 0, 0, 1));
    assert_int_equal(tb_tensor_rank(y), 3);
    assert_close(y, 0, 5, 6, 1, 2, 1, 2, 3, 4);
    assert_close(tb_embedding(tb_transpose(w, 0, 1), tb_cast(I64(DIMS(1), 1), TB_I32)), 0, 2, 4, 6);
}

static void tokens_of_a_row_add_up_in_its_gradient(void **state)
{
    (void)state;
    tb_tensor *w = leaf_of(randoms(TB_F32, 1, DIMS(4, 2)));
    tb_tensor *y = tb_embedding(w, I64(DIMS(3), 2, 0, 2));
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = F32(DIMS(3, 2), 1, 2, 10, 20, 100, 200)}));
    assert_close(tb_grad(w), 0, 10, 20, 0, 0, 101, 202, 0, 0);
}

static tb_tensor *gradient_of(tb_tensor *g, tb_tensor *tokens, int64_t from, int64_t to)
{
    tb_tensor *w = leaf_of(tb_zeros(TB_F32, DIMS(11, 7)));
    tb_tensor *y = tb_embedding(w, tb_slice(tokens, 0, from, to, 1));
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = tb_slice(g, 0, from, to, 1)}));
    return tb_grad(w);
}

/* Ranks that hold whole blocks of the batch add up to the bits of one rank, in any number of threads. */
static void the_gradient_is_the_tree_of_its_shards(void **state)
{
    tb_tensor *g = randoms(TB_F32, 1, DIMS(32, 6, 7)), *quarter[4];
    int64_t id[192];
    for (int i = 0; i < 192; i++) id[i] = (int64_t)tb_random_below(1, 2, (uint64_t)i, 10);
    tb_tensor *tokens = tb_tensor_from(TB_I64, DIMS(32, 6), id), *whole = gradient_of(g, tokens, 0, 32);
    assert_ok(tb_ctx_set_batch_blocks(*state, 2));
    for (int i = 0; i < 4; i++) quarter[i] = gradient_of(g, tokens, 8 * i, 8 * i + 8);
    assert_same(tb_add(tb_add(quarter[0], quarter[1]), tb_add(quarter[2], quarter[3])), whole, 0);
}

static void two_threads_give_the_bits_of_one(void **state)
{
    (void)state;
    tb_tensor *g = randoms(TB_F32, 1, DIMS(32, 6, 7));
    int64_t id[192];
    for (int i = 0; i < 192; i++) id[i] = (int64_t)tb_random_below(1, 2, (uint64_t)i, 10);
    tb_tensor *tokens = tb_tensor_from(TB_I64, DIMS(32, 6), id);
    const double *one = values_of(gradient_of(g, tokens, 0, 32));
    tb_ctx *ctx, *before;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = 2, .seed = 1}, &ctx));
    before = tb_ctx_enter(ctx);
    tb_tensor *same = tb_tensor_from(TB_I64, DIMS(32, 6), id);
    check_close(gradient_of(randoms(TB_F32, 1, DIMS(32, 6, 7)), same, 0, 32), 77, one, 0, __FILE__, __LINE__);
    tb_ctx_enter(before);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
}

static void wrong_indices_are_named(void **state)
{
    tb_tensor *w = randoms(TB_F32, 1, DIMS(4, 2));
    assert_fails((tb_embedding(w, I64(DIMS(3), 0, 3, 4)), tb_ctx_take_error(*state)), TB_ERR_INVALID,
                 "index 4 at position 2 is not one of 4 rows");
    assert_fails((tb_embedding(w, I64(DIMS(1), -1)), tb_ctx_take_error(*state)), TB_ERR_INVALID, "index -1");
    assert_fails((tb_embedding(w, w), tb_ctx_take_error(*state)), TB_ERR_DTYPE, "indices must be i64 or i32");
}

static void a_weight_of_any_length_without_columns_has_a_gradient(void **state)
{
    (void)state;
    const int64_t rows = INT64_MAX / (int64_t)sizeof(float);
    tb_tensor *g = tb_zeros(TB_F32, 2, (int64_t[]){2, 0});
    tb_tensor *y = tb_call(tb_op_find("embedding_grad"), &rows, TB_IN(g, I64(DIMS(2), 0, 1)));
    assert_int_equal(tb_tensor_dim(y, 0), rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(indices_pick_rows), ctx_test(tokens_of_a_row_add_up_in_its_gradient),
        ctx_test(the_gradient_is_the_tree_of_its_shards), ctx_test(two_threads_give_the_bits_of_one),
        ctx_test(wrong_indices_are_named),
        ctx_test(a_weight_of_any_length_without_columns_has_a_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
