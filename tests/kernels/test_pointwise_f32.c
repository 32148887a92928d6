/* Pointwise f32 and casts: every kernel against the formula in f64, with every tail and every constant operand. */
#include "kernel_test.h"

typedef double (*formula)(double, double, double);

static double f_add(double a, double b, double c) { return (void)c, a + b; }
static double f_sub(double a, double b, double c) { return (void)c, a - b; }
static double f_mul(double a, double b, double c) { return (void)c, a * b; }
static double f_div(double a, double b, double c) { return (void)c, a / b; }
static double f_max(double a, double b, double c) { return (void)c, isnan(a) ||
                                                    isnan(b) ? (double)NAN : a > b ? a : b; }
static double f_min(double a, double b, double c) { return (void)c, isnan(a) ||
                                                    isnan(b) ? (double)NAN : a < b ? a : b; }
static double f_neg(double a, double b, double c) { return (void)b, (void)c, -a; }
static double f_abs(double a, double b, double c) { return (void)b, (void)c, fabs(a); }
static double f_exp(double a, double b, double c) { return (void)b, (void)c, exp(a); }
static double f_log(double a, double b, double c) { return (void)b, (void)c, log(a); }
static double f_sqrt(double a, double b, double c) { return (void)b, (void)c, sqrt(a); }
static double f_rsqrt(double a, double b, double c) { return (void)b, (void)c, 1 / sqrt(a); }
static double f_tanh(double a, double b, double c) { return (void)b, (void)c, tanh(a); }
static double f_erf(double a, double b, double c) { return (void)b, (void)c, erf(a); }
static double f_sigmoid(double a, double b, double c) { return (void)b, (void)c, 1 / (1 + exp(-a)); }
static double f_relu(double a, double b, double c) { return (void)b, (void)c, a < 0 ? 0 : a; }
static double f_silu(double a, double b, double c) { return (void)b, (void)c, a / (1 + exp(-a)); }
static double f_gelu_erf(double a, double b, double c) { return (void)b, (void)c, a / 2 * erfc(-a / sqrt(2)); }
static double f_gelu_tanh(double a, double b, double c)
{
    (void)b, (void)c;
    return a / 2 * (1 + tanh(sqrt(2 / M_PI) * (a + 0.044715 * a * a * a)));
}
static double f_where(double a, double b, double c) { return a != 0 ? b : c; }
static double f_clamp(double a, double b, double c)
{
    (void)b, (void)c;
    return a < -0.5 ? -0.5 : a > 0.75 ? 0.75 : a;
}
static double f_relu_grad(double g, double x, double c) { return (void)c, x > 0 ? g : 0; }
static double f_tanh_grad(double g, double y, double c) { return (void)c, g * (1 - y * y); }
static double f_sigmoid_grad(double g, double y, double c) { return (void)c, g * y * (1 - y); }
/* Slopes of the definitions above, by central differences: another way to the same number. */
static double slope(formula f, double x) { return (f(x + 1e-5, 0, 0) - f(x - 1e-5, 0, 0)) / 2e-5; }
static double f_silu_grad(double g, double x, double c) { return (void)c, g * slope(f_silu, x); }
static double f_gelu_tanh_grad(double g, double x, double c) { return (void)c, g * slope(f_gelu_tanh, x); }
static double f_gelu_erf_grad(double g, double x, double c) { return (void)c, g * slope(f_gelu_erf, x); }

static const struct {
    const char *primitive;
    int n_in;
    formula f;
    float lo, hi;
    double abs_tol, rel_tol;
} cases[] = {
    {"add", 2, f_add, -2, 2, 0, 6e-8},        {"sub", 2, f_sub, -2, 2, 0, 6e-8},
    {"mul", 2, f_mul, -2, 2, 0, 6e-8},        {"div", 2, f_div, -2, 2, 0, 6e-8},
    {"maximum", 2, f_max, -2, 2, 0, 0},       {"minimum", 2, f_min, -2, 2, 0, 0},
    {"neg", 1, f_neg, -2, 2, 0, 0},           {"abs", 1, f_abs, -2, 2, 0, 0},
    {"exp", 1, f_exp, -20, 20, 0, 2e-7},      {"log", 1, f_log, 0, 50, 0, 2e-7},
    {"sqrt", 1, f_sqrt, 0, 50, 0, 6e-8},      {"rsqrt", 1, f_rsqrt, 0, 50, 0, 2e-7},
    {"tanh", 1, f_tanh, -5, 5, 0, 2e-7},      {"erf", 1, f_erf, -4, 4, 0, 2e-7},
    {"sigmoid", 1, f_sigmoid, -20, 20, 0, 4e-7}, {"relu", 1, f_relu, -2, 2, 0, 0},
    {"silu", 1, f_silu, -20, 20, 0, 4e-7},    {"gelu_tanh", 1, f_gelu_tanh, -6, 6, 1e-7, 4e-7},
    {"gelu_erf", 1, f_gelu_erf, -12, 12, 0, 4e-7}, {"where", 3, f_where, -2, 2, 0, 0},
    {"clamp", 1, f_clamp, -2, 2, 0, 0},       {"relu_grad", 2, f_relu_grad, -2, 2, 0, 0},
    {"tanh_grad", 2, f_tanh_grad, -1, 1, 2e-7, 0},      {"sigmoid_grad", 2, f_sigmoid_grad, -1, 1, 2e-7, 0},
    {"silu_grad", 2, f_silu_grad, -8, 8, 8e-6, 0},      {"gelu_tanh_grad", 2, f_gelu_tanh_grad, -6, 6, 8e-6, 0},
    {"gelu_erf_grad", 2, f_gelu_erf_grad, -6, 6, 8e-6, 0},
};
enum { CASES = sizeof cases / sizeof *cases, LONGEST = 67 };
static const tb_clamp_attrs clamp_range = {-0.5, 0.75};

/* Runs one kernel on n elements; the operand k moves when bit k of `moving` is set. */
static float *run_case(int at, const tb_kernel *k, int64_t n, int moving, double *operands[3])
{
    tb_pointwise_args p = {.n = n, .out = guarded((size_t)n * sizeof(float)), .attrs = &clamp_range};
    for (int q = 0; q < cases[at].n_in; q++) {
        p.step[q] = (int8_t)(moving >> q & 1);
        int64_t have = p.step[q] ? n : 1;
        float *x = guarded_uniform(have, (uint64_t)q + 1, cases[at].lo, cases[at].hi);
        p.in[q] = x;
        if (strcmp(cases[at].primitive, "where") == 0 && q == 0) {
            uint8_t *c = guarded((size_t)have);
            for (int64_t i = 0; i < have; i++) c[i] = x[i] > 0;
            p.in[0] = c;
            for (int64_t i = 0; i < n; i++) operands[q][i] = c[p.step[q] * i];
        } else {
            for (int64_t i = 0; i < n; i++) operands[q][i] = (double)x[p.step[q] * i];
        }
    }
    k->run(&p);
    return p.out;
}

static void every_kernel_is_its_formula(void **state)
{
    (void)state;
    double x[LONGEST] = {0}, y[LONGEST] = {0}, z[LONGEST] = {0}, *operands[3] = {x, y, z};
    for (int at = 0; at < CASES; at++) {
        const tb_kernel *kernels[8];
        int n_kernels = kernel_test_find(cases[at].primitive, TB_F32, kernels, 8);
        for (int q = 0; q < n_kernels; q++)
            for (int moving = 0; moving < 1 << cases[at].n_in; moving++)
                for (int64_t n = 0; n <= LONGEST; n++) {
                    float *out = run_case(at, kernels[q], n, moving, operands);
                    for (int64_t i = 0; i < n; i++)
                        assert_near(kernels[q], "out", i, (double)out[i], cases[at].f(x[i], y[i], z[i]),
                                    cases[at].abs_tol, cases[at].rel_tol);
                    guarded_free_all();
                }
    }
}

static void all_isas_give_the_same_bits(void **state)
{
    (void)state;
    enum { N = 10007 };
    double *operands[3];
    for (int i = 0; i < 3; i++) operands[i] = malloc(N * sizeof(double));
    for (int at = 0; at < CASES; at++) {
        const tb_kernel *kernels[8];
        int n_kernels = kernel_test_find(cases[at].primitive, TB_F32, kernels, 8);
        float *first = run_case(at, kernels[0], N, 7, operands);
        for (int q = 1; q < n_kernels; q++)
            if (!same_bits(first, run_case(at, kernels[q], N, 7, operands), N))
                fail_msg("%s and %s differ", kernels[0]->name, kernels[q]->name);
        guarded_free_all();
    }
    for (int i = 0; i < 3; i++) free(operands[i]);
}

static void nan_and_infinity_follow_the_formula(void **state)
{
    (void)state;
    static const float special[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1.0f, -1.0f, 1e-40f, 3e38f, -3e38f, 1e20f,
                                    -1e20f};
    enum { S = sizeof special / sizeof *special };
    for (int at = 0; at < CASES; at++) {
        const tb_kernel *kernels[8];
        if (cases[at].n_in == 3 || strstr(cases[at].primitive, "_grad")) continue;
        int n_kernels = kernel_test_find(cases[at].primitive, TB_F32, kernels, 8);
        for (int q = 0; q < n_kernels; q++)
            for (int b = 0; b < S; b++) {
                float *x = guarded(sizeof special), *out = guarded(sizeof special);
                memcpy(x, special, sizeof special);
                tb_pointwise_args p = {
                    .n = S, .out = out, .in = {x, &special[b]}, .step = {1, 0}, .attrs = &clamp_range};
                kernels[q]->run(&p);
                for (int i = 0; i < S; i++) {
                    float want = (float)cases[at].f((double)x[i], (double)special[b], 0);
                    assert_near(kernels[q], "special", i, (double)out[i], (double)want, 1e-38,
                                cases[at].rel_tol + cases[at].abs_tol + 1e-7);
                }
                guarded_free_all();
            }
    }
}

/* The slopes stay finite and reach their limits: 0 to the left, g to the right. */
static void slopes_reach_their_limits(void **state)
{
    (void)state;
    static const char *const names[] = {"relu_grad", "silu_grad", "gelu_tanh_grad", "gelu_erf_grad"};
    float g = 3.0f, x[4] = {-1e30f, -40.0f, 40.0f, 1e30f}, out[4];
    for (int at = 0; at < 4; at++) {
        const tb_kernel *kernels[8];
        int n_kernels = kernel_test_find(names[at], TB_F32, kernels, 8);
        for (int q = 0; q < n_kernels; q++) {
            tb_pointwise_args p = {.n = 4, .out = out, .in = {&g, x}, .step = {0, 1}};
            kernels[q]->run(&p);
            for (int i = 0; i < 4; i++) assert_near(kernels[q], "slope", i, (double)out[i], i < 2 ? 0 : 3, 1e-12, 0);
        }
    }
}

static void output_may_be_an_input(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("add", TB_F32, kernels, 8);
    for (int q = 0; q < n_kernels; q++) {
        float x[37];
        for (int i = 0; i < 37; i++) x[i] = (float)i;
        tb_pointwise_args p = {.n = 37, .out = x, .in = {x, x}, .step = {1, 1}};
        kernels[q]->run(&p);
        for (int i = 0; i < 37; i++) assert_true(x[i] == (float)(2 * i));
    }
}

static void casts_round_as_the_engine_does(void **state)
{
    (void)state;
    enum { N = 70001 };
    static const struct {
        const char *primitive;
        uint16_t (*narrow)(float);
        float (*widen)(uint16_t);
        tb_dtype type;
    } kinds[] = {{"cast_bf16", tb_f32_to_bf16, tb_bf16_to_f32, TB_BF16},
                 {"cast_f16", tb_f32_to_f16, tb_f16_to_f32, TB_F16}};
    for (int at = 0; at < 2; at++) {
        const tb_kernel *kernels[8];
        int n_kernels = kernel_test_find(kinds[at].primitive, TB_F32, kernels, 8);
        for (int q = 0; q < n_kernels; q++) {
            float *x = guarded(N * sizeof(float));
            uint16_t *out = guarded(N * sizeof(uint16_t));
            for (uint32_t i = 0; i < N; i++) {
                uint32_t bits = i * UINT32_C(61357) + (i << 13);
                memcpy(&x[i], &bits, sizeof bits);
            }
            tb_pointwise_args p = {.n = N, .out = out, .in = {x}, .step = {1}};
            kernels[q]->run(&p);
            for (int i = 0; i < N; i++)
                if (isnan(x[i])) assert_true(isnan(kinds[at].widen(out[i])));
                else assert_int_equal(out[i], kinds[at].narrow(x[i]));
            for (int64_t n = 0; n < 40; n++) {
                uint16_t *some = guarded((size_t)n * sizeof *some);
                p = (tb_pointwise_args){.n = n, .out = some, .in = {x + 7}, .step = {(int8_t)(n & 1)}};
                kernels[q]->run(&p);
                for (int64_t i = 0; i < n; i++) assert_int_equal(some[i], kinds[at].narrow(x[7 + (n & 1) * i]));
            }
            guarded_free_all();
        }
        n_kernels = kernel_test_find("cast_f32", kinds[at].type, kernels, 8);
        for (int q = 0; q < n_kernels; q++) {
            uint16_t *x = guarded(65536 * sizeof *x);
            float *out = guarded(65536 * sizeof(float));
            for (int i = 0; i < 65536; i++) x[i] = (uint16_t)i;
            tb_pointwise_args p = {.n = 65536, .out = out, .in = {x}, .step = {1}};
            kernels[q]->run(&p);
            for (int i = 0; i < 65536; i++) {
                float want = kinds[at].widen((uint16_t)i);
                if (isnan(want)) assert_true(isnan(out[i]));
                else assert_memory_equal(&out[i], &want, sizeof want);
            }
            for (int64_t n = 0; n < 40; n++) {
                p = (tb_pointwise_args){
                    .n = n, .out = guarded((size_t)n * sizeof(float)), .in = {x + 65536 - n}, .step = {1}};
                kernels[q]->run(&p);
                for (int64_t i = 0; i < n; i++) assert_true(isnan(((float *)p.out)[i])); /* the last ones are NaN */
            }
            guarded_free_all();
        }
    }
}

static void bytes_become_their_floats(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("cast_f32", TB_U8, kernels, 8);
    assert_true(n_kernels >= 1);
    for (int q = 0; q < n_kernels; q++)
        for (int64_t n = 0; n < 300; n++)
            for (int8_t step = 0; step < 2; step++) {
                uint8_t *x = guarded((size_t)n);
                float *out = guarded((size_t)n * sizeof *out);
                for (int64_t i = 0; i < n; i++) x[i] = (uint8_t)(255 - i);
                kernels[q]->run(&(tb_pointwise_args){.n = n, .out = out, .in = {x}, .step = {step}});
                for (int64_t i = 0; i < n; i++) assert_true(out[i] == (float)x[step * i]);
                guarded_free_all();
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_is_its_formula), cmocka_unit_test(all_isas_give_the_same_bits),
        cmocka_unit_test(nan_and_infinity_follow_the_formula), cmocka_unit_test(slopes_reach_their_limits),
        cmocka_unit_test(output_may_be_an_input), cmocka_unit_test(casts_round_as_the_engine_does),
        cmocka_unit_test(bytes_become_their_floats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
