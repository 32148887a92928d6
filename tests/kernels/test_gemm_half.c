/* Products of bf16 and f16: within what rounding allows of sums in f64, for every shape, layout and thread count; the
 * same bits of a row in every batch. */
#include "kernel_test.h"
#include "tb_pool.h"
#include "tb_rng.h"

typedef struct layout {
    bool a_transposed, b_transposed, packed, accumulate, bias, residual;
    int tree, threads;
    tb_epilogue_act act;
} layout;

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

static void run(const tb_kernel *k, tb_gemm_args g, bool packed)
{
    if (packed && k->pack) {
        void *to = guarded(k->pack_bytes(&g));
        k->pack(&g, to);
        g.packed_b = to;
        g.b = NULL;
    }
    g.scratch = guarded((k->scratch_bytes(&g) + 63) / 64 * 64);
    k->run(&g);
}

static void check(const tb_kernel *k, int64_t m, int64_t n, int64_t kk, const layout *l, tb_pool *pool)
{
    tb_gemm_args g = {.m = m,
                      .n = n,
                      .k = kk,
                      .tree = l->tree,
                      .accumulate = l->accumulate,
                      .act = l->act,
                      .c_row = n,
                      .a = numbers(k, m * kk, 1),
                      .b = numbers(k, kk * n, 2),
                      .residual_row = n,
                      .pool = l->threads > 1 ? pool : NULL};
    g.a_row = l->a_transposed ? 1 : kk, g.a_col = l->a_transposed ? m : 1;
    g.b_row = l->b_transposed ? 1 : n, g.b_col = l->b_transposed ? kk : 1;
    if (!k->supports(&g)) return guarded_free_all();
    if (l->bias) g.bias = numbers(k, n, 3);
    if (l->residual) g.residual = numbers(k, m * n, 5);
    void *c = g.c = numbers(k, m * n, 4), *before = numbers(k, m * n, 4);
    run(k, g, l->packed);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (int64_t p = 0; p < kk; p++) {
                double x = factor(k, g.a, i * g.a_row + p * g.a_col) * factor(k, g.b, p * g.b_row + j * g.b_col);
                sum += x;
                size += fabs(x);
            }
            if (l->accumulate) sum += number(k, before, i * n + j);
            if (l->bias) sum += number(k, g.bias, j);
            if (l->residual) sum += number(k, g.residual, i * n + j);
            if (l->act == TB_ACT_RELU && sum < 0) sum = 0;
            double allowed = ((double)kk + 4) * 0x1p-24 * (size + 4);
            assert_near(k, "C", i * n + j, number(k, c, i * n + j), sum, allowed,
                        is_f32(k)            ? 0
                        : k->dtype == TB_F16 ? 0x1p-11
                                             : 0x1p-8);
        }
    if (m > 1 && !l->accumulate && !l->a_transposed) { /* the last row alone */
        tb_gemm_args one = g;
        void *row = numbers(k, n, 4);
        one.m = 1;
        one.a = (const char *)g.a + (size_t)((m - 1) * kk) * size_of(k);
        if (g.residual) one.residual = (const char *)g.residual + (size_t)((m - 1) * n) * size_of(k);
        one.c = row;
        run(k, one, !l->packed);
        assert_memory_equal(row, (const char *)c + (size_t)((m - 1) * n) * size_of(k), (size_t)n * size_of(k));
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
                    uint32_t r = tb_random_u32(5, 1, draw++);
                    layout l = {.a_transposed = r & 1,
                                .b_transposed = r >> 1 & 1,
                                .packed = (r >> 2 & 3) == 0,
                                .accumulate = (r >> 4 & 3) == 0,
                                .tree = 1 << (r >> 6 & 3),
                                .threads = 1 + (r >> 8 & 1),
                                .act = (r >> 9 & 1) ? TB_ACT_RELU : TB_ACT_NONE,
                                .bias = (r >> 16 & 3) == 0,
                                .residual = (r >> 20 & 3) == 0};
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
                check(kernels[q], 30, 70, 1301,
                      &(layout){.a_transposed = transposed, .b_transposed = transposed, .tree = tree, .threads = 1},
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
        run(k, g, false);
        for (int64_t j = 0; j < 20; j++) {
            assert_true(isnan(number(k, g.c, j)));
            assert_true(isfinite(number(k, g.c, 20 + j)));
            assert_false(isfinite(number(k, g.c, 40 + j)));
        }
        guarded_free_all();
    }
}

static int make_pool(void **state)
{
    tb_pool *pool;
    if (tb_pool_create(2, &pool) != TB_OK) return -1;
    *state = pool;
    return 0;
}

static int drop_pool(void **state)
{
    tb_pool_destroy(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_shape_and_layout_is_within_rounding),
                                       cmocka_unit_test(several_passes_over_k),
                                       cmocka_unit_test(what_is_not_a_number_stays_in_its_row)};
    return cmocka_run_group_tests(tests, make_pool, drop_pool);
}
