/* Products of bf16 and f16: within what rounding allows of sums in f64, for every shape, layout and thread count; the
 * same bits of a row in every batch. */
#include "gemm_test.h"

static bool is_f32(const tb_kernel *k) { return k->dtype == TB_F32; }
static size_t size_of(const tb_kernel *k) { return is_f32(k) ? 4 : 2; }

static uint16_t narrowed(const tb_kernel *k, float x)
{
    return k->dtype == TB_F16 ? tb_f32_to_f16(x) : tb_f32_to_bf16(x);
}

/* Random numbers of the kernel's dtype in guarded memory. */
static void *numbers(const tb_kernel *k, int64_t n, uint64_t seed)
{
    float *x = guarded_random(n, seed);
    if (is_f32(k)) return x;
    uint16_t *half = guarded((size_t)n * 2);
    for (int64_t i = 0; i < n; i++) half[i] = narrowed(k, x[i]);
    return half;
}

static double number(const tb_kernel *k, const void *x, int64_t i)
{
    if (is_f32(k)) return (double)((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return (double)(k->dtype == TB_F16 ? tb_f16_to_f32(half) : tb_bf16_to_f32(half));
}

/* As a factor: rounded. */
static double factor(const tb_kernel *k, const void *x, int64_t i)
{
    return is_f32(k) ? (double)tb_bf16_to_f32(tb_f32_to_bf16(((const float *)x)[i])) : number(k, x, i);
}

static void check_element(const tb_kernel *k, const tb_gemm_args *g, const void *before, int64_t i, int64_t j)
{
    double sum = 0, size = 0, rounding = is_f32(k) ? 0 : k->dtype == TB_F16 ? 0x1p-11 : 0x1p-8;
    int64_t at = i * g->c_row + j;
    for (int64_t p = 0; p < g->k; p++) {
        double x = factor(k, g->a, i * g->a_row + p * g->a_col) * factor(k, g->b, p * g->b_row + j * g->b_col);
        sum += x;
        size += fabs(x);
    }
    if (g->accumulate) sum += number(k, before, at);
    if (g->bias) sum += number(k, g->bias, j);
    if (g->residual) sum += number(k, g->residual, at);
    double allowed = ((double)g->k + 4) * 0x1p-24 * (size + 4) + (g->act > TB_ACT_RELU ? 1e-6 : 0);
    assert_near(k, "C", at, number(k, g->c, at), gemm_activated(sum, g->act), allowed, rounding);
}

static void check(const tb_kernel *k, int64_t m, int64_t n, int64_t kk, const gemm_layout *l, tb_pool *pool)
{
    tb_gemm_args g = gemm_layout_args(l, m, n, kk, pool);
    g.a = numbers(k, m * kk, 1);
    g.b = numbers(k, kk * n, 2);
    if (!k->supports(&g)) return guarded_free_all();
    int64_t c_row = g.residual_row = g.c_row, c_elements = m > 0 ? (m - 1) * c_row + n : 0;
    if (l->bias) g.bias = numbers(k, n, 3);
    if (l->residual) g.residual = numbers(k, c_elements, 5);
    void *c = g.c = numbers(k, c_elements, 4), *before = numbers(k, c_elements, 4);
    gemm_run_kernel(k, g, l->packed);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < c_row && i * c_row + j < c_elements; j++) {
            int64_t at = i * c_row + j;
            if (j < n)
                check_element(k, &g, before, i, j);
            else /* the gap belongs to someone else */
                assert_true(number(k, c, at) == number(k, before, at));
        }
    if (m > 1 && !l->accumulate && !l->a_transposed) { /* the last row alone */
        tb_gemm_args one = g;
        void *row = numbers(k, n, 4);
        int64_t last = (m - 1) * c_row;
        one.m = 1;
        one.a = (const char *)g.a + (size_t)((m - 1) * kk) * size_of(k);
        if (g.residual) one.residual = (const char *)g.residual + (size_t)last * size_of(k);
        one.c = row;
        gemm_run_kernel(k, one, !l->packed);
        assert_memory_equal(row, (const char *)c + (size_t)last * size_of(k), (size_t)n * size_of(k));
    }
    guarded_free_all();
}

static int find_all(const tb_kernel **to)
{
    int n = kernel_test_find("gemm", TB_BF16, to, 8);
    n += kernel_test_find("gemm", TB_F16, to + n, 8);
    return n + kernel_test_find("gemm_bf16", TB_F32, to + n, 8);
}

static void every_shape_and_layout_is_within_rounding(void **state)
{
    const tb_kernel *kernels[24];
    int n_kernels = find_all(kernels);
    static const int64_t ms[] = {0, 1, 2, 3, 5, 8, 13, 14, 15, 29, 43}, ns[] = {0, 1, 7, 16, 17, 31, 33, 64, 97, 131},
                         ks[] = {0, 1, 2, 3, 8, 17, 31, 64, 67, 150};
    uint64_t draw = 0;
    for (int q = 0; q < n_kernels; q++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
            for (size_t j = 0; j < sizeof ns / sizeof *ns; j++)
                for (size_t p = 0; p < sizeof ks / sizeof *ks; p++) {
                    gemm_layout l = gemm_layout_draw(draw++);
                    check(kernels[q], ms[i], ns[j], ks[p], &l, *state);
                }
}

static void several_passes_over_k(void **state)
{
    const tb_kernel *kernels[24];
    int n_kernels = find_all(kernels);
    for (int q = 0; q < n_kernels; q++)
        for (int tree = 1; tree <= 8; tree *= 8)
            for (int transposed = 0; transposed < 2; transposed++)
                check(
                    kernels[q], 30, 70, 1301,
                    &(gemm_layout){.a_transposed = transposed, .b_transposed = transposed, .tree = tree, .threads = 1},
                    *state);
}

static void what_is_not_a_number_stays_in_its_row(void **state)
{
    const tb_kernel *kernels[24];
    int n_kernels = find_all(kernels);
    (void)state;
    for (int q = 0; q < n_kernels; q++) {
        const tb_kernel *k = kernels[q];
        tb_gemm_args g = {.m = 3,
                          .n = 20,
                          .k = 6,
                          .a_row = 6,
                          .a_col = 1,
                          .b_row = 20,
                          .b_col = 1,
                          .c_row = 20,
                          .tree = 1,
                          .a = numbers(k, 18, 1),
                          .b = numbers(k, 120, 2),
                          .c = numbers(k, 60, 4)};
        float *wide = (float *)(uintptr_t)g.a;
        uint16_t *half = (uint16_t *)(uintptr_t)g.a;
        if (is_f32(k))
            wide[1] = NAN, wide[14] = INFINITY;
        else
            half[1] = narrowed(k, NAN), half[14] = narrowed(k, INFINITY);
        if (!k->supports(&g)) continue;
        gemm_run_kernel(k, g, false);
        for (int64_t j = 0; j < 20; j++) {
            assert_true(isnan(number(k, g.c, j)));
            assert_true(isfinite(number(k, g.c, 20 + j)));
            assert_false(isfinite(number(k, g.c, 40 + j)));
        }
        guarded_free_all();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_shape_and_layout_is_within_rounding),
                                       cmocka_unit_test(several_passes_over_k),
                                       cmocka_unit_test(what_is_not_a_number_stays_in_its_row)};
    return cmocka_run_group_tests(tests, three_threads, no_threads);
}
