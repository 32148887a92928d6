/* dropout. */
#include "op_test.h"

static tb_tensor *key_at(int64_t first_sample) { return I64(DIMS(3), 11, 5, first_sample); }

static void the_share_of_kept_elements_is_one_minus_p(void **state)
{
    (void)state;
    tb_tensor *x = tb_full(TB_F32, DIMS(100, 600), 1);
    for (int k = 0; k <= 4; k++) {
        double p = 0.25 * k, kept = 0, total = 0;
        const double *y = values_of(tb_dropout(x, p, key_at(0)));
        for (int i = 0; i < 60000; i++) {
            assert_true(y[i] == 0 || fabs(y[i] * (1 - p) - 1) < 1e-6);
            kept += y[i] != 0;
            total += y[i];
        }
        double sigma = sqrt(60000 * p * (1 - p));
        assert_true(fabs(kept - 60000 * (1 - p)) <= 4 * sigma);
        if (p < 1) assert_true(fabs(total - 60000) <= 4 * sigma / (1 - p) + 0.1);
    }
}

static void any_sharding_of_the_batch_drops_the_same_elements(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F32, 1, DIMS(12, 7)), *whole = tb_dropout(x, 0.4, key_at(100));
    for (int64_t at = 0, rows = 1; at < 12; at += rows, rows++) { /* shards of 1, 2, 3, ... rows */
        tb_tensor *part = tb_dropout(tb_slice(x, 0, at, at + rows, 1), 0.4, key_at(100 + at));
        assert_same(part, tb_slice(whole, 0, at, at + rows, 1), 0);
    }
}

static void backward_drops_what_forward_dropped(void **state)
{
    (void)state;
    tb_tensor *x = leaf_of(randoms(TB_F32, 1, DIMS(20, 5))), *y = tb_dropout(x, 0.5, key_at(0));
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = tb_ones_like(y)}));
    const double *g = values_of(tb_grad(x)), *v = values_of(y);
    int kept = 0;
    for (int i = 0; i < 100; i++) {
        assert_true(g[i] == (v[i] != 0 ? 2 : 0));
        kept += g[i] != 0;
    }
    assert_true(kept > 20 && kept < 80);
}

static void keys_differ_from_use_to_use(void **state)
{
    (void)state;
    tb_tensor *x = tb_full(TB_F32, DIMS(100), 1);
    const double *a = values_of(tb_dropout(x, 0.5, tb_next_key())),
                 *b = values_of(tb_dropout(x, 0.5, tb_next_key()));
    int differ = 0;
    for (int i = 0; i < 100; i++) differ += a[i] != b[i];
    assert_true(differ > 20);
}

/* As in ref, the number of a draw wraps. */
static void samples_before_the_first_are_drawn_too(void **state)
{
    tb_tensor *x = tb_full(TB_F32, DIMS(9, 3), 1), *fast = tb_dropout(x, 0.5, key_at(-5));
    tb_ctx_limit_kernels(*state, tb_ctx_isa(*state), true);
    assert_same(tb_dropout(x, 0.5, key_at(-5)), fast, 0);
}

static void wrong_arguments_are_named(void **state)
{
    tb_tensor *x = tb_full(TB_F32, DIMS(4), 1);
    assert_fails((tb_dropout(x, 1.5, key_at(0)), tb_ctx_take_error(*state)), TB_ERR_INVALID,
                 "between 0 and 1, not 1.5");
    assert_fails((tb_dropout(x, 0.5, x), tb_ctx_take_error(*state)), TB_ERR_SHAPE, "a key is i64 [3]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(the_share_of_kept_elements_is_one_minus_p),
        ctx_test(any_sharding_of_the_batch_drops_the_same_elements),
        ctx_test(backward_drops_what_forward_dropped),
        ctx_test(keys_differ_from_use_to_use),
        ctx_test(samples_before_the_first_are_drawn_too),
        ctx_test(wrong_arguments_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
