/* Keyed draws: what they depend on, and that they follow their distributions. */
#include "tb_test.h"
#include "tb_op.h"
#include "tb_ops.h"
#include <math.h>

enum { N = 40000 };

static tb_tensor *key(int64_t seed, int64_t stream, int64_t first_sample)
{
    return tb_tensor_from(TB_I64, 1, (int64_t[]){3}, (int64_t[]){seed, stream, first_sample});
}

static void a_shard_draws_what_the_whole_batch_drew_there(void **state)
{
    (void)state;
    float whole[8 * 5], part[3 * 5];
    assert_ok(tb_tensor_read(tb_randn(key(1, 2, 0), TB_F32, 2, (int64_t[]){8, 5}), whole, sizeof whole));
    assert_ok(tb_tensor_read(tb_randn(key(1, 2, 4), TB_F32, 2, (int64_t[]){3, 5}), part, sizeof part));
    assert_memory_equal(part, whole + 4 * 5, sizeof part);
}

static void each_use_of_a_stream_gets_its_own_key_and_a_reset_replays_them(void **state)
{
    int64_t a[3], b[3], again[3];
    tb_ctx_set_stream(*state, 7, 16);
    assert_ok(tb_tensor_read(tb_next_key(), a, sizeof a));
    assert_ok(tb_tensor_read(tb_next_key(), b, sizeof b));
    tb_ctx_set_stream(*state, 7, 16);
    assert_ok(tb_tensor_read(tb_next_key(), again, sizeof again));
    assert_memory_equal(a, again, sizeof a);
    assert_int_not_equal(a[1], b[1]);
    assert_int_equal(a[0], 1);
    assert_int_equal(a[2], 16);
}

static void uniform_fills_the_half_open_interval_in_every_dtype(void **state)
{
    (void)state;
    static const tb_dtype floats[] = {TB_F32, TB_F64, TB_BF16, TB_F16};
    static double x[N];
    for (int t = 0; t < 4; t++) {
        tb_tensor *y = tb_cast(tb_rand(key(3, t, 0), floats[t], 1, (int64_t[]){N}), TB_F64);
        double mean = 0;
        assert_ok(tb_tensor_read(y, x, sizeof x));
        for (int i = 0; i < N; i++) {
            assert_true(x[i] >= 0 && x[i] < 1);
            mean += x[i] / N;
        }
        assert_true(fabs(mean - 0.5) < 5 * 0.2887 / sqrt(N) + 1.0 / 512); /* bf16 truncates to 8 bits */
    }
}

static void normal_has_mean_zero_and_variance_one(void **state)
{
    (void)state;
    static double x[N];
    double mean = 0, square = 0;
    assert_ok(tb_tensor_read(tb_randn(key(4, 0, 0), TB_F64, 1, (int64_t[]){N}), x, sizeof x));
    for (int i = 0; i < N; i++) {
        mean += x[i] / N;
        square += x[i] * x[i] / N;
    }
    assert_true(fabs(mean) < 5 / sqrt(N));
    assert_true(fabs(square - 1) < 5 * sqrt(2.0 / N));
}

static void multinomial_draws_in_proportion_and_never_an_impossible_class(void **state)
{
    (void)state;
    const float probs[4] = {1, 0, 5, 2};
    static int64_t drawn[N];
    int count[4] = {0};
    tb_tensor *p = tb_tensor_from(TB_F32, 1, (int64_t[]){4}, probs);
    assert_ok(tb_tensor_read(tb_multinomial(key(5, 0, 0), p, N), drawn, sizeof drawn));
    for (int i = 0; i < N; i++) count[drawn[i]]++;
    for (int c = 0; c < 4; c++) {
        double want = (double)probs[c] / 8;
        assert_true(fabs((double)count[c] / N - want) <= 5 * sqrt(want * (1 - want) / N));
    }
}

static void a_row_without_probability_is_refused(void **state)
{
    tb_tensor *p = tb_zeros(TB_F32, 2, (int64_t[]){2, 3});
    assert_fails((tb_multinomial(key(1, 1, 0), p, 1), tb_ctx_take_error(*state)), TB_ERR_INVALID, "row 0");
    assert_fails((tb_rand(p, TB_F32, 0, NULL), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "a key is i64 [3]");
    assert_fails((tb_rand(key(1, 1, 0), TB_I32, 0, NULL), tb_ctx_take_error(*state)), TB_ERR_DTYPE, "continuous");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(a_shard_draws_what_the_whole_batch_drew_there),
        ctx_test(each_use_of_a_stream_gets_its_own_key_and_a_reset_replays_them),
        ctx_test(uniform_fills_the_half_open_interval_in_every_dtype),
        ctx_test(normal_has_mean_zero_and_variance_one),
        ctx_test(multinomial_draws_in_proportion_and_never_an_impossible_class),
        ctx_test(a_row_without_probability_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
