/* Initialisers' moments, names, the gradient arena, the hash. */
#include "tb_test.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_nn.h"
#include "tb_ops.h"
#include <math.h>

typedef struct moments {
    double mean, std, kurtosis, most;
} moments;

enum { N = 1 << 16 };

static moments measure(tb_init init)
{
    static float x[N];
    moments m = {0};
    tb_tensor *t = tb_tensor_empty(TB_F32, 1, &(int64_t){N});
    assert_ok(tb_init_fill(t, init, 5, 77));
    assert_ok(tb_tensor_read(t, x, sizeof x));
    for (int i = 0; i < N; i++) m.mean += (double)x[i] / N;
    for (int i = 0; i < N; i++) {
        double d = (double)x[i] - m.mean;
        m.std += d * d / N;
        m.kurtosis += d * d * d * d / N;
        m.most = fmax(m.most, fabs((double)x[i]));
    }
    m.kurtosis /= m.std * m.std;
    m.std = sqrt(m.std);
    return m;
}

/* Standard errors at N = 65536: 0.4 % of the deviation for the mean, 0.3 % for the deviation; bounds are 5 of them. */
static void expect(tb_init init, double std, double kurtosis, double bound)
{
    moments m = measure(init);
    assert_true(fabs(m.mean) < 0.02 * std);
    assert_true(fabs(m.std - std) < 0.015 * std);
    assert_true(fabs(m.kurtosis - kurtosis) < 0.1);
    if (bound > 0) assert_true(m.most <= bound && m.most > 0.999 * bound);
}

static void initial_values_have_the_moments_of_their_distribution(void **state)
{
    (void)state;
    expect(tb_init_uniform(2), 2 / sqrt(3), 1.8, 2);
    expect(tb_init_normal(0.02), 0.02, 3, 0);
    expect(tb_init_kaiming_uniform(300, sqrt(5)), 1 / sqrt(3 * 300.0), 1.8, 1 / sqrt(300.0)); /* as torch.nn.Linear */
    expect(tb_init_kaiming_uniform(50, 0), sqrt(2 / 50.0), 1.8, sqrt(6 / 50.0));
    expect(tb_init_kaiming_normal(50, 0), sqrt(2 / 50.0), 3, 0);
    expect(tb_init_xavier_uniform(30, 70, 1), sqrt(2 / 100.0), 1.8, sqrt(6 / 100.0));
    expect(tb_init_xavier_normal(30, 70, 2), 2 * sqrt(2 / 100.0), 3, 0);
    moments m = measure(tb_init_constant(0.5));
    assert_true(m.mean == 0.5 && m.std == 0);
}

static tb_params *make(tb_dtype dtype, uint64_t seed)
{
    tb_params *ps;
    assert_ok(tb_params_create(dtype, seed, &ps));
    return ps;
}

static void values_depend_on_seed_and_name_alone(void **state)
{
    (void)state;
    tb_params *a = make(TB_F32, 1), *b = make(TB_F32, 1), *c = make(TB_F32, 2);
    char hash[3][65];
    tb_params_add(b, "other", tb_init_uniform(1), 1, &(int64_t){9});
    tb_params *sets[] = {a, b, c};
    float x[3][12];
    for (int i = 0; i < 3; i++) {
        tb_tensor *t = tb_nn_linear_make(sets[i], "fc", 4, 3, true).weight;
        assert_ok(tb_params_status(sets[i]));
        assert_ok(tb_tensor_read(t, x[i], sizeof x[i]));
        assert_ok(tb_params_hash(sets[i], hash[i]));
    }
    assert_memory_equal(x[0], x[1], sizeof x[0]);
    assert_memory_not_equal(x[0], x[2], sizeof x[0]);
    assert_string_not_equal(hash[0], hash[1]);
    assert_string_not_equal(hash[0], hash[2]);
    for (int i = 0; i < 3; i++) tb_params_destroy(sets[i]);
}

static void names_follow_the_parts(void **state)
{
    (void)state;
    tb_params *ps = make(TB_F32, 1);
    size_t mark = tb_params_enter(ps, "block.0");
    tb_nn_linear_make(ps, "attn.qkv", 4, 12, true);
    tb_params_leave(ps, mark);
    assert_string_equal(tb_params_at(ps, 0)->name, "block.0.attn.qkv.weight");
    assert_true(tb_params_at(ps, 0)->decays);
    assert_false(tb_params_find(ps, "block.0.attn.qkv.bias")->decays);
    assert_int_equal(tb_params_numel(ps), 60);
    assert_null(tb_params_find(ps, "block.0.attn.qkv.wait"));
    assert_non_null(strstr(tb_error_message(), "nearest: 'block.0.attn.qkv.weight'"));
    assert_int_equal(tb_heap_block_tag(tb_tensor_host(tb_params_at(ps, 0)->tensor)), TB_MEM_PARAM);
    tb_params_destroy(ps);
}

static void the_first_failure_stays(void **state)
{
    (void)state;
    tb_params *ps = make(TB_F32, 1);
    tb_nn_linear_make(ps, "fc", 4, 3, true);
    assert_true(tb_is_poison(tb_nn_linear_make(ps, "fc", 4, 3, true).weight));
    assert_true(tb_is_poison(tb_params_share(ps, "nothing")));
    assert_fails(tb_params_status(ps), TB_ERR_INVALID, "two parameters are named 'fc.weight'");
    tb_params_destroy(ps);
}

static void gradients_lie_in_one_arena(void **state)
{
    tb_params *ps = make(TB_F32, 1);
    tb_nn_linear a = tb_nn_linear_make(ps, "a", 5, 3, true), b = tb_nn_linear_make(ps, "b", 3, 2, false);
    assert_ok(tb_params_make_arena(ps, false));
    tb_tensor *arena = tb_params_arena(ps);
    assert_int_equal(tb_tensor_numel(arena), 16 + 16 + 16);
    tb_tensor *x = tb_full(TB_F32, 2, (int64_t[]){4, 5}, 1);
    assert_ok(tb_backward(tb_sum(tb_nn_linear_forward(&b, tb_nn_linear_forward(&a, x)), 0, NULL, false)));
    float flat[48], direct[15];
    assert_ok(tb_tensor_read(arena, flat, sizeof flat));
    assert_ok(tb_tensor_read(tb_grad(a.weight), direct, sizeof direct));
    assert_memory_equal(flat, direct, sizeof direct);
    assert_true(flat[0] != 0 && flat[16] != 0 && flat[32] != 0);
    assert_true(flat[15] == 0 && flat[19] == 0 && flat[38] == 0);
    tb_mem_stats stats;
    tb_heap_stats(tb_ctx_heap(*state), &stats);
    assert_int_equal(stats.live_by_tag[TB_MEM_GRAD], 48 * 4);
    tb_params_clear_grads(ps);
    assert_null(tb_grad(a.weight));
    tb_params_destroy(ps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(initial_values_have_the_moments_of_their_distribution), ctx_test(values_depend_on_seed_and_name_alone),
        ctx_test(names_follow_the_parts), ctx_test(the_first_failure_stays), ctx_test(gradients_lie_in_one_arena),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
