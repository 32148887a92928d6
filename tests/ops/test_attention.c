/* scaled_dot_product_attention and its gradient. */
#include "op_test.h"

/* The definition in ops that have their own tests. */
static tb_tensor *composed(tb_tensor *q, tb_tensor *k, tb_tensor *v, bool causal)
{
    tb_tensor *s = tb_mul(tb_matmul(q, tb_transpose(k, -1, -2)),
                          tb_scalar(TB_F64, 1 / sqrt((double)tb_tensor_dim(q, -1))));
    if (causal) {
        double mask[64];
        int64_t n = tb_tensor_dim(s, -2), m = tb_tensor_dim(s, -1);
        for (int64_t i = 0; i < n * m; i++) mask[i] = i % m > i / m + m - n ? -INFINITY : 0;
        s = tb_add(s, tb_tensor_from(TB_F64, DIMS(n, m), mask));
    }
    return tb_matmul(tb_softmax(s, -1), v);
}

typedef struct operands {
    tb_tensor *q, *k, *v;
} operands;

static operands random_operands(int64_t t, int64_t s)
{
    return (operands){leaf_of(randoms(TB_F64, 1, DIMS(2, 3, t, 4))),
                      leaf_of(randoms(TB_F64, 2, DIMS(2, 3, s, 4))),
                      leaf_of(randoms(TB_F64, 3, DIMS(2, 3, s, 5)))};
}

static void attention_is_its_definition(void **state)
{
    (void)state;
    for (int causal = 0; causal < 2; causal++)
        for (int64_t t = 1; t <= 6; t += 5) {
            operands o = random_operands(t, 6);
            tb_tensor *y =
                tb_scaled_dot_product_attention(o.q, o.k, o.v, &(tb_attention_opts){.causal = causal});
            assert_same(y, composed(o.q, o.k, o.v, causal), 1e-14);
        }
}

static void gradients_are_those_of_the_definition(void **state)
{
    (void)state;
    for (int causal = 0; causal < 2; causal++) {
        operands o = random_operands(4, 6);
        tb_tensor *in[] = {o.q, o.k, o.v}, *got[3], *want[3];
        tb_tensor *y = tb_scaled_dot_product_attention(o.q, o.k, o.v, &(tb_attention_opts){.causal = causal});
        assert_ok(tb_gradients(weighted_sum(y), NULL, 3, in, got));
        assert_ok(tb_gradients(weighted_sum(composed(o.q, o.k, o.v, causal)), NULL, 3, in, want));
        for (int i = 0; i < 3; i++) assert_same(got[i], want[i], 1e-13);
    }
}

static tb_tensor *attention_of(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return weighted_sum(
        tb_scaled_dot_product_attention(in[0], in[1], in[2], &(tb_attention_opts){.causal = true}));
}

static void first_and_second_gradients_are_those_of_differences(void **state)
{
    (void)state;
    tb_tensor *in[] = {randoms(TB_F64, 1, DIMS(1, 2, 4, 2)), randoms(TB_F64, 2, DIMS(1, 2, 3, 2)),
                       randoms(TB_F64, 3, DIMS(1, 2, 3, 2))};
    for (int i = 0; i < 3; i++) leaf_of(in[i]);
    assert_gradients(attention_of, 3, in);
}

static void later_tokens_do_not_reach_earlier_ones(void **state)
{
    (void)state;
    operands o = random_operands(6, 6);
    tb_attention_opts causal = {.causal = true};
    tb_tensor *y = tb_scaled_dot_product_attention(o.q, o.k, o.v, &causal);
    tb_tensor *head = tb_scaled_dot_product_attention(tb_slice(o.q, 2, 0, 3, 1), tb_slice(o.k, 2, 0, 3, 1),
                                                      tb_slice(o.v, 2, 0, 3, 1), &causal);
    assert_same(tb_slice(y, 2, 0, 3, 1), head, 0);
    assert_ok(tb_backward(weighted_sum(tb_slice(y, 2, 0, 3, 1))));
    tb_tensor *late = tb_slice(tb_grad(o.v), 2, 3, 6, 1);
    assert_same(late, tb_zeros_like(late), 0);
}

/* A token at a time over a cache of keys gives what the whole sequence gives at once. */
static void a_cache_with_kv_len_gives_the_rows_of_the_whole(void **state)
{
    (void)state;
    operands o = random_operands(6, 6);
    tb_tensor *whole = tb_scaled_dot_product_attention(o.q, o.k, o.v, &(tb_attention_opts){.causal = true});
    for (int64_t i = 0; i < 6; i++) {
        tb_attention_opts opts = {.causal = true, .kv_len = tb_scalar(TB_I64, (double)i + 1)};
        tb_tensor *row = tb_scaled_dot_product_attention(tb_slice(o.q, 2, i, i + 1, 1), o.k, o.v, &opts);
        assert_same(row, tb_slice(whole, 2, i, i + 1, 1), 0);
    }
}

static void each_batch_entry_has_its_own_kv_len(void **state)
{
    (void)state;
    operands o = random_operands(3, 6);
    tb_tensor *y =
        tb_scaled_dot_product_attention(o.q, o.k, o.v, &(tb_attention_opts){.kv_len = I64(DIMS(2), 4, 0)});
    tb_tensor *first = tb_slice(y, 0, 0, 1, 1), *none = tb_slice(y, 0, 1, 2, 1);
    tb_tensor *four = tb_scaled_dot_product_attention(tb_slice(o.q, 0, 0, 1, 1),
                                                      tb_slice(tb_slice(o.k, 0, 0, 1, 1), 2, 0, 4, 1),
                                                      tb_slice(tb_slice(o.v, 0, 0, 1, 1), 2, 0, 4, 1), NULL);
    assert_same(first, four, 0);
    assert_same(none, tb_zeros_like(none), 0);
    assert_ok(tb_backward(weighted_sum(y)));
    tb_tensor *unseen = tb_slice(tb_grad(o.k), 2, 4, 6, 1);
    assert_same(unseen, tb_zeros_like(unseen), 0);
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    tb_tensor *a = randoms(TB_F32, 1, DIMS(1, 2, 3, 4)), *b = randoms(TB_F32, 1, DIMS(1, 2, 3, 5)),
              *c = randoms(TB_F32, 1, DIMS(1, 2, 2, 4));
    assert_fails((tb_scaled_dot_product_attention(a, b, b, NULL), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "differ in width");
    assert_fails((tb_scaled_dot_product_attention(a, a, c, NULL), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "differ in length");
    assert_fails(
        (tb_scaled_dot_product_attention(a, a, a, &(tb_attention_opts){.kv_len = tb_scalar(TB_I64, 4)}),
         tb_ctx_take_error(*state)),
        TB_ERR_INVALID, "kv_len 4 of batch entry 0 is not in 0..3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(attention_is_its_definition),
        ctx_test(gradients_are_those_of_the_definition),
        ctx_test(first_and_second_gradients_are_those_of_differences),
        ctx_test(later_tokens_do_not_reach_earlier_ones),
        ctx_test(a_cache_with_kv_len_gives_the_rows_of_the_whole),
        ctx_test(each_batch_entry_has_its_own_kv_len),
        ctx_test(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
