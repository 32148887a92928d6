/* The stated errors of the elementary functions hold over the whole range of f32, sampled at every 1009th number. */
#include "kernel_test.h"

enum { STEP = 1009, BATCH = 4096 };

static double sigmoid_exact(double x) { return 1 / (1 + exp(-x)); }

static const struct {
    const char *primitive;
    double (*exact)(double);
    double max_ulp;
} functions[] = {
    {"exp", exp, 1.0}, {"log", log, 0.8}, {"tanh", tanh, 1.4}, {"erf", erf, 1.2}, {"sigmoid", sigmoid_exact, 2.4},
};

static void errors_are_below_what_the_header_states(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++) {
        const tb_kernel *kernels[8];
        int n_kernels = kernel_test_find(functions[f].primitive, TB_F32, kernels, 8);
        for (int q = 0; q < n_kernels; q++) {
            double worst = 0;
            float worst_at = 0;
            uint32_t next = 0;
            for (bool more = true; more;) {
                float x[BATCH], y[BATCH];
                int n = 0;
                for (; n < BATCH && more; n++) {
                    memcpy(&x[n], &next, sizeof next);
                    more = next <= UINT32_MAX - STEP;
                    next += STEP;
                }
                kernels[q]->run(&(tb_pointwise_args){.n = n, .out = y, .in = {x}, .step = {1}});
                for (int i = 0; i < n; i++) {
                    double error = ulp_error(y[i], functions[f].exact((double)x[i]));
                    if (error > worst) worst = error, worst_at = x[i];
                }
            }
            print_message("%-18s largest error %.3f ulp at %.9g\n", kernels[q]->name, worst, (double)worst_at);
            assert_true(worst <= functions[f].max_ulp);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors_are_below_what_the_header_states)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
