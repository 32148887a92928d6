/* Row kernels, f32: every kernel against the definition in f64, at every tail, with gaps between rows; the same bits
 * on every ISA. */
#include "kernel_test.h"

enum { ROWS = 3, GAP = 5, MAX_OUT = 3, MAX_KERNELS = 8 };
static const int64_t lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 128, 131, 517};
static const int64_t labels[ROWS] = {0, -100, 0};

/* The operands of a case and what the kernel must write, all in f64 and dense. */
typedef struct row_case {
    tb_row_args args;
    const float *x, *x2, *gamma, *beta;
    int64_t n;
} row_case;

static double at(const float *x, int64_t r, int64_t i, int64_t n) { return (double)x[r * (n + GAP) + i]; }

typedef double (*expected)(const row_case *c, int64_t r, int64_t i);

static double max_of(const row_case *c, int64_t r)
{
    double m = -INFINITY;
    for (int64_t i = 0; i < c->n; i++) m = fmax(m, at(c->x, r, i, c->n));
    return m;
}
static double lse_of(const row_case *c, int64_t r)
{
    double m = max_of(c, r), s = 0;
    for (int64_t i = 0; i < c->n; i++) s += exp(at(c->x, r, i, c->n) - m);
    return m + log(s);
}
static double mean_of(const row_case *c, const float *x, int64_t r)
{
    double s = 0;
    for (int64_t i = 0; i < c->n; i++) s += at(x, r, i, c->n);
    return s / (double)c->n;
}
static double rstd_of(const row_case *c, const float *x, int64_t r)
{
    double m = mean_of(c, x, r), s = 0;
    for (int64_t i = 0; i < c->n; i++) s += (at(x, r, i, c->n) - m) * (at(x, r, i, c->n) - m);
    return 1 / sqrt(s / (double)c->n + c->args.eps);
}
static double gamma_of(const row_case *c, int64_t i) { return c->gamma ? (double)c->gamma[i] : 1; }
static double normed(const row_case *c, const float *x, int64_t r, int64_t i)
{
    return (at(x, r, i, c->n) - mean_of(c, x, r)) * rstd_of(c, x, r);
}

static double sum(const row_case *c, int64_t r, int64_t i) { return (void)i, mean_of(c, c->x, r) * (double)c->n; }
static double maximum(const row_case *c, int64_t r, int64_t i) { return (void)i, max_of(c, r); }
static double column(const row_case *c, int64_t r, int64_t i)
{
    double s = 0;
    for (int64_t q = 0; q < c->args.rows; q++) s += at(c->x, q, i, c->n);
    return (void)r, s;
}
static double softmax(const row_case *c, int64_t r, int64_t i) { return exp(at(c->x, r, i, c->n) - lse_of(c, r)); }
static double log_softmax(const row_case *c, int64_t r, int64_t i) { return at(c->x, r, i, c->n) - lse_of(c, r); }
static double softmax_grad(const row_case *c, int64_t r, int64_t i)
{
    double s = 0;
    for (int64_t j = 0; j < c->n; j++) s += at(c->x, r, j, c->n) * at(c->x2, r, j, c->n);
    return at(c->x2, r, i, c->n) * (at(c->x, r, i, c->n) - s);
}
static double log_softmax_grad(const row_case *c, int64_t r, int64_t i)
{
    return at(c->x, r, i, c->n) - exp(at(c->x2, r, i, c->n)) * mean_of(c, c->x, r) * (double)c->n;
}
static double loss(const row_case *c, int64_t r, int64_t i)
{
    return (void)i, labels[r] < 0 ? 0 : lse_of(c, r) - at(c->x, r, labels[r], c->n);
}
static double lse(const row_case *c, int64_t r, int64_t i) { return (void)i, lse_of(c, r); }
static double loss_grad(const row_case *c, int64_t r, int64_t i)
{
    if (labels[r] < 0) return 0;
    return (double)((const float *)c->args.in2)[r * c->args.in2_stride] * (softmax(c, r, i) - (i == labels[r]));
}
static double norm(const row_case *c, int64_t r, int64_t i)
{
    return normed(c, c->x, r, i) * gamma_of(c, i) + (c->beta ? (double)c->beta[i] : 0);
}
static double norm_mean(const row_case *c, int64_t r, int64_t i) { return (void)i, mean_of(c, c->x, r); }
static double norm_rstd(const row_case *c, int64_t r, int64_t i) { return (void)i, rstd_of(c, c->x, r); }
static double norm_grad(const row_case *c, int64_t r, int64_t i)
{
    double mean_h = 0, mean_hx = 0;
    for (int64_t j = 0; j < c->n; j++) {
        double h = at(c->x, r, j, c->n) * gamma_of(c, j);
        mean_h += h / (double)c->n;
        mean_hx += h * normed(c, c->x2, r, j) / (double)c->n;
    }
    return rstd_of(c, c->x2, r) * (at(c->x, r, i, c->n) * gamma_of(c, i) - mean_h - normed(c, c->x2, r, i) * mean_hx);
}
static double norm_dgamma(const row_case *c, int64_t r, int64_t i)
{
    double s = 0;
    for (int64_t q = 0; q < c->args.rows; q++) s += at(c->x, q, i, c->n) * normed(c, c->x2, q, i);
    return (void)r, s;
}

typedef enum place { NOWHERE, PER_ELEMENT, PER_ROW, PER_COLUMN } place;
static const struct {
    const char *primitive;
    place out;
    expected out_is;
    place extra;
    expected extra_is[2];
    double tolerance; /* absolute and relative */
    bool any_gamma;
} cases[] = {
    {"row_sum", PER_ROW, sum, NOWHERE, {NULL}, 2e-6, false},
    {"row_max", PER_ROW, maximum, NOWHERE, {NULL}, 0, false},
    {"column_sum", PER_COLUMN, column, NOWHERE, {NULL}, 3e-7, false},
    {"row_softmax", PER_ELEMENT, softmax, NOWHERE, {NULL}, 1e-6, false},
    {"row_log_softmax", PER_ELEMENT, log_softmax, NOWHERE, {NULL}, 1e-6, false},
    {"softmax_grad", PER_ELEMENT, softmax_grad, NOWHERE, {NULL}, 2e-6, false},
    {"log_softmax_grad", PER_ELEMENT, log_softmax_grad, NOWHERE, {NULL}, 8e-6, false},
    {"cross_entropy", NOWHERE, NULL, PER_ROW, {loss, lse}, 1e-6, false},
    {"cross_entropy_grad", PER_ELEMENT, loss_grad, NOWHERE, {NULL}, 1e-6, false},
    {"layer_norm", PER_ELEMENT, norm, PER_ROW, {norm_mean, norm_rstd}, 4e-6, true},
    {"layer_norm_grad", PER_ELEMENT, norm_grad, NOWHERE, {NULL}, 1e-5, true},
    {"layer_norm_param_grad", NOWHERE, NULL, PER_COLUMN, {norm_dgamma, column}, 4e-6, false},
};
enum { CASES = sizeof cases / sizeof *cases };

static int64_t place_size(place p, int64_t n) { return p == PER_ELEMENT ? (ROWS - 1) * (n + GAP) + n : p == PER_ROW
                                                ? ROWS : n; }

/* Makes the operands; outputs are fresh each time. */
static row_case make_case(int which, int64_t n, bool with_gamma)
{
    int64_t floats = (ROWS - 1) * (n + GAP) + n;
    row_case c = {.n = n, .x = guarded_uniform(floats, 1, -3, 3), .x2 = guarded_uniform(floats, 2, -1, 1)};
    if (strcmp(cases[which].primitive, "log_softmax_grad") == 0) c.x2 = guarded_uniform(floats, 2, -9, -1);
    if (with_gamma) c.gamma = guarded_random(n, 3), c.beta = guarded_random(n, 4);
    float *mean = guarded(ROWS * sizeof(float)), *rstd = guarded(ROWS * sizeof(float));
    c.args = (tb_row_args){.rows = ROWS, .n = n, .in = c.x, .in_stride = n + GAP, .in2 = c.x2, .in2_stride = n + GAP,
                           .gamma = c.gamma, .beta = c.beta, .eps = 1e-3, .ignore_index = -100};
    if (strncmp(cases[which].primitive, "cross", 5) == 0) {
        c.args.in2 = guarded_random(ROWS, 5);
        c.args.in2_stride = n & 1;
        c.args.extra_in[0] = labels;
        for (int r = 0; r < ROWS; r++) mean[r] = (float)lse_of(&c, r);
        c.args.extra_in[1] = mean;
    } else {
        for (int r = 0; r < ROWS; r++) {
            mean[r] = (float)mean_of(&c, c.x2, r);
            rstd[r] = (float)rstd_of(&c, c.x2, r);
        }
        c.args.extra_in[0] = mean;
        c.args.extra_in[1] = rstd;
    }
    return c;
}

static void new_outputs(row_case *c, int which)
{
    if (cases[which].out != NOWHERE) {
        c->args.out = guarded((size_t)place_size(cases[which].out, c->n) * sizeof(float));
        c->args.out_stride = cases[which].out == PER_ELEMENT ? c->n + GAP : 1;
    }
    for (int e = 0; e < 2; e++)
        if (cases[which].extra != NOWHERE)
            c->args.extra[e] = guarded((size_t)place_size(cases[which].extra, c->n) * sizeof(float));
}

static void check_place(const tb_kernel *k, const row_case *c, place p, expected is, const float *got, double tol)
{
    int64_t rows = p == PER_COLUMN ? 1 : ROWS, n = p == PER_ROW ? 1 : c->n;
    int64_t stride = p == PER_ELEMENT ? c->n + GAP : 1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++)
            assert_near(k, "out", r * stride + i, (double)got[r * stride + i], is(c, r, i), tol, tol);
    uint32_t untouched = UINT32_C(0xA5A5A5A5);
    for (int64_t r = 0; p == PER_ELEMENT && r < ROWS - 1; r++)
        for (int64_t i = 0; i < GAP; i++) assert_memory_equal(&got[r * stride + n + i], &untouched, 4);
}

static void every_kernel_is_its_definition(void **state)
{
    (void)state;
    for (int which = 0; which < CASES; which++) {
        const tb_kernel *kernels[MAX_KERNELS];
        int n_kernels = kernel_test_find(cases[which].primitive, TB_F32, kernels, MAX_KERNELS);
        for (int q = 0; q < n_kernels; q++)
            for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
                for (int with_gamma = 0; with_gamma <= cases[which].any_gamma; with_gamma++) {
                    if (q > 0 && lengths[l] > 500) continue; /* the definitions are slow: one kernel does */
                    row_case c = make_case(which, lengths[l], with_gamma);
                    new_outputs(&c, which);
                    kernels[q]->run(&c.args);
                    double tol = cases[which].tolerance;
                    if (cases[which].out != NOWHERE)
                        check_place(kernels[q], &c, cases[which].out, cases[which].out_is, c.args.out, tol);
                    for (int e = 0; e < 2; e++)
                        if (cases[which].extra != NOWHERE)
                            check_place(kernels[q], &c, cases[which].extra, cases[which].extra_is[e], c.args.extra[e],
                                        tol);
                    guarded_free_all();
                }
    }
}

static void all_isas_give_the_same_bits(void **state)
{
    (void)state;
    for (int which = 0; which < CASES; which++) {
        const tb_kernel *kernels[MAX_KERNELS];
        int n_kernels = kernel_test_find(cases[which].primitive, TB_F32, kernels, MAX_KERNELS);
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            row_case first = make_case(which, lengths[l], cases[which].any_gamma);
            new_outputs(&first, which);
            kernels[0]->run(&first.args);
            for (int q = 1; q < n_kernels; q++) {
                row_case c = first;
                new_outputs(&c, which);
                kernels[q]->run(&c.args);
                bool same = cases[which].out == NOWHERE ||
                            same_bits(c.args.out, first.args.out, place_size(cases[which].out, c.n));
                for (int e = 0; e < 2 && cases[which].extra != NOWHERE; e++)
                    same &= same_bits(c.args.extra[e], first.args.extra[e], place_size(cases[which].extra, c.n));
                if (!same)
                    fail_msg("%s and %s differ at n = %lld", kernels[0]->name, kernels[q]->name, (long long)c.n);
            }
            guarded_free_all();
        }
    }
}

static void softmax_survives_any_shift_and_shows_nan(void **state)
{
    (void)state;
    const tb_kernel *kernels[MAX_KERNELS];
    int n_kernels = kernel_test_find("row_softmax", TB_F32, kernels, MAX_KERNELS);
    for (int q = 0; q < n_kernels; q++) {
        float x[3][40], y[3][40];
        for (int i = 0; i < 40; i++) x[0][i] = 1e30f, x[1][i] = i == 39 ? 0 : -INFINITY, x[2][i] = (float)i;
        x[2][38] = NAN;
        kernels[q]->run(&(tb_row_args){.rows = 3, .n = 40, .in = x, .in_stride = 40, .out = y, .out_stride = 40});
        for (int i = 0; i < 40; i++) {
            assert_near(kernels[q], "equal", i, (double)y[0][i], 1.0 / 40, 1e-8, 0);
            assert_true(y[1][i] == (i == 39 ? 1.0f : 0.0f));
            assert_true(isnan(y[2][i]));
        }
    }
    n_kernels = kernel_test_find("row_max", TB_F32, kernels, MAX_KERNELS);
    for (int q = 0; q < n_kernels; q++) {
        float x[2][70], out[2];
        for (int i = 0; i < 70; i++) x[0][i] = -INFINITY, x[1][i] = (float)i;
        x[1][3] = NAN;
        kernels[q]->run(&(tb_row_args){.rows = 2, .n = 70, .in = x, .in_stride = 70, .out = out, .out_stride = 1});
        assert_true(out[0] == -INFINITY && isnan(out[1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_is_its_definition),
        cmocka_unit_test(all_isas_give_the_same_bits),
        cmocka_unit_test(softmax_survives_any_shift_and_shows_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
