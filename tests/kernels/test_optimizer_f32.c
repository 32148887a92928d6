/* Optimizer kernels, f32: several steps against the formulas in f64, at every tail; the same bits on every ISA. */
#include "kernel_test.h"

enum { LONGEST = 67, STEPS = 3, VARIANTS = 4 };

static const tb_sgd_step sgd_variants[VARIANTS] = {
    {.rate = 0.1, .scale = 1},
    {.rate = 0.1, .scale = 0.5, .decay = 0.01},
    {.rate = 0.05, .scale = 1, .momentum = 0.9},
    {.rate = 0.05, .scale = 2, .momentum = 0.9, .decay = 0.1, .nesterov = true},
};

static void sgd_is_its_formula(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("sgd", TB_F32, kernels, 8);
    for (int q = 0; q < n_kernels; q++)
        for (int v = 0; v < VARIANTS; v++)
            for (int64_t n = 0; n <= LONGEST; n++) {
                const tb_sgd_step *s = &sgd_variants[v];
                double p[LONGEST], b[LONGEST] = {0};
                tb_update_args a = {.n = n, .param = guarded_random(n, 1), .attrs = s};
                if (s->momentum != 0) a.state[0] = guarded_uniform(n, 9, 0, 0);
                for (int64_t i = 0; i < n; i++) p[i] = (double)((float *)a.param)[i];
                for (uint64_t step = 0; step < STEPS; step++) {
                    float *g = guarded_random(n, 2 + step);
                    a.grad = g;
                    kernels[q]->run(&a);
                    for (int64_t i = 0; i < n; i++) {
                        double d = s->scale * (double)g[i] + s->decay * p[i];
                        b[i] = s->momentum * b[i] + d;
                        p[i] -= s->rate * (s->momentum == 0 ? d : s->nesterov ? d + s->momentum * b[i] : b[i]);
                        assert_near(kernels[q], "param", i, (double)((float *)a.param)[i], p[i], 4e-7, 4e-7);
                    }
                }
                guarded_free_all();
            }
}

static void adamw_is_its_formula(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("adamw", TB_F32, kernels, 8);
    for (int q = 0; q < n_kernels; q++)
        for (int decoupled = 0; decoupled < 2; decoupled++)
            for (int64_t n = 0; n <= LONGEST; n++) {
                double p[LONGEST], m[LONGEST] = {0}, v[LONGEST] = {0};
                tb_adamw_step s = {.rate = 0.01, .scale = 0.5, .decay = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6,
                                   .decoupled = decoupled};
                tb_update_args a = {.n = n, .param = guarded_random(n, 1), .attrs = &s};
                a.state[0] = guarded_uniform(n, 9, 0, 0);
                a.state[1] = guarded_uniform(n, 9, 0, 0);
                for (int64_t i = 0; i < n; i++) p[i] = (double)((float *)a.param)[i];
                for (int step = 1; step <= STEPS; step++) {
                    float *g = guarded_random(n, 2 + (uint64_t)step);
                    a.grad = g;
                    s.bias1 = 1 - pow(s.beta1, step);
                    s.bias2 = 1 - pow(s.beta2, step);
                    kernels[q]->run(&a);
                    for (int64_t i = 0; i < n; i++) {
                        double d = s.scale * (double)g[i] + (decoupled ? 0 : s.decay * p[i]);
                        m[i] = s.beta1 * m[i] + (1 - s.beta1) * d;
                        v[i] = s.beta2 * v[i] + (1 - s.beta2) * d * d;
                        p[i] -= s.rate *
                                (m[i] / s.bias1 / (sqrt(v[i] / s.bias2) + s.eps) + (decoupled ? s.decay * p[i] : 0));
                        assert_near(kernels[q], "param", i, (double)((float *)a.param)[i], p[i], 1e-6, 1e-6);
                        assert_near(kernels[q], "m", i, (double)((float *)a.state[0])[i], m[i], 1e-7, 1e-6);
                        assert_near(kernels[q], "v", i, (double)((float *)a.state[1])[i], v[i], 1e-8, 1e-6);
                    }
                }
                guarded_free_all();
            }
}

static void all_isas_give_the_same_bits(void **state)
{
    (void)state;
    enum { N = 1003 };
    static const tb_adamw_step adamw = {.rate = 0.01, .scale = 0.7, .decay = 0.1, .beta1 = 0.9, .beta2 = 0.99,
                                        .eps = 1e-6, .bias1 = 0.1, .bias2 = 0.01, .decoupled = true};
    for (int which = 0; which < 2; which++) {
        const tb_kernel *kernels[8];
        int n_kernels = kernel_test_find(which ? "adamw" : "sgd", TB_F32, kernels, 8);
        float *result[8];
        for (int q = 0; q < n_kernels; q++) {
            tb_update_args a = {.n = N, .param = guarded_random(N, 1), .grad = guarded_random(N, 2),
                                .state = {guarded_random(N, 3), guarded_uniform(N, 4, 0, 1)},
                                .attrs = which ? (const void *)&adamw : &sgd_variants[3]};
            kernels[q]->run(&a);
            result[q] = a.param;
            assert_true(same_bits(result[0], result[q], N));

            float *sums = guarded_random(N, 2); /* old values elsewhere, new ones in the gradient's place */
            a = (tb_update_args){.n = N,
                                 .param = sums,
                                 .from = guarded_random(N, 1),
                                 .grad = sums,
                                 .state = {guarded_random(N, 3), guarded_uniform(N, 4, 0, 1)},
                                 .attrs = a.attrs};
            kernels[q]->run(&a);
            assert_true(same_bits(result[q], sums, N));
        }
        guarded_free_all();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_is_its_formula),
        cmocka_unit_test(adamw_is_its_formula),
        cmocka_unit_test(all_isas_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
