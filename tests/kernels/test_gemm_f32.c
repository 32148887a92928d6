/* gemm f32: every kernel gives exactly the bits of the canonical order, whatever the shape, layout and threads. */
#include "gemm_test.h"

/* The contract of tb_kernel.h, word for word: chains of fmaf over blocks of k, then the pairwise tree. */
static float canonical(const tb_gemm_args *g, int64_t i, int64_t j)
{
    float part[8];
    int64_t block = (g->k + g->tree - 1) / g->tree;
    for (int s = 0; s < g->tree; s++) {
        part[s] = 0.0f;
        for (int64_t p = s * block; p < (s + 1) * block && p < g->k; p++)
            part[s] = fmaf(((const float *)g->a)[i * g->a_row + p * g->a_col],
                           ((const float *)g->b)[p * g->b_row + j * g->b_col], part[s]);
    }
    for (int step = 1; step < g->tree; step *= 2)
        for (int s = 0; s + step < g->tree; s += 2 * step) part[s] += part[s + step];
    return part[0];
}

static void check(const tb_kernel *k, int64_t m, int64_t n, int64_t kk, const gemm_layout *l, tb_pool *pool)
{
    tb_gemm_args g = gemm_layout_args(l, m, n, kk, pool);
    int64_t c_row = g.c_row, c_floats = m > 0 ? (m - 1) * c_row + n : 0;
    g.a = guarded_random(m * kk, 1);
    g.b = guarded_random(kk * n, 2);
    if (l->bias) g.bias = guarded_random(n, 3);
    float *c = guarded_random(c_floats, 4), *before = guarded((size_t)c_floats * sizeof(float));
    if (!l->accumulate)
        for (int64_t i = 0; i < c_floats; i++) c[i] = NAN; /* reading C would show */
    memcpy(before, c, (size_t)c_floats * sizeof(float));
    g.c = c;
    const float *residual = guarded_random(c_floats, 5);
    if (l->residual) {
        g.residual = residual;
        g.residual_row = c_row;
        if (l->in_place && !l->accumulate) {
            memcpy(c, residual, (size_t)c_floats * sizeof(float));
            memcpy(before, residual, (size_t)c_floats * sizeof(float));
            g.residual = c;
        }
    }
    gemm_run_kernel(k, g, l->packed);

    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < c_row && i * c_row + j < c_floats; j++) {
            int64_t at = i * c_row + j;
            if (j >= n) { /* the gap belongs to someone else */
                assert_memory_equal(&c[at], &before[at], sizeof(float));
                continue;
            }
            float want = canonical(&g, i, j);
            if (l->accumulate) want = before[at] + want;
            if (l->bias) want += ((const float *)g.bias)[j];
            if (l->residual) want += residual[at];
            if (l->act == TB_ACT_NONE || l->act == TB_ACT_RELU) {
                want = (float)gemm_activated((double)want, l->act);
                if (memcmp(&want, &c[at], sizeof want) != 0 && !(want == 0 && c[at] == 0))
                    fail_msg("%s %lldx%lldx%lld at%d bt%d packed%d acc%d tree%d threads%d: C[%lld,%lld] is %.9g, "
                             "canonical %.9g", k->name, (long long)m, (long long)kk, (long long)n, l->a_transposed,
                             l->b_transposed, l->packed, l->accumulate, l->tree, l->threads, (long long)i,
                             (long long)j, (double)c[at], (double)want);
            } else {
                assert_near(k, "C", at, (double)c[at], gemm_activated((double)want, l->act), 1e-6, 1e-6);
            }
        }
    guarded_free_all();
}

static void every_shape_and_layout_gives_the_canonical_bits(void **state)
{
    tb_pool *pool = *state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("gemm", TB_F32, kernels, 8);
    static const int64_t ms[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 19, 28, 29, 43};
    static const int64_t ns[] = {0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 61, 64, 65, 97, 128, 131, 263};
    static const int64_t ks[] = {0, 1, 2, 3, 7, 8, 9, 16, 17, 31, 64, 67, 150};
    uint64_t draw = 0;
    for (int q = 0; q < n_kernels; q++)
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
            for (size_t j = 0; j < sizeof ns / sizeof *ns; j++)
                for (size_t p = 0; p < sizeof ks / sizeof *ks; p++) {
                    gemm_layout l = gemm_layout_draw(draw++);
                    check(kernels[q], ms[i], ns[j], ks[p], &l, pool);
                }
}

/* Several passes over K, with the running chains and the tree's slots kept between them. */
static void long_sums_keep_the_order(void **state)
{
    tb_pool *pool = *state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("gemm", TB_F32, kernels, 8);
    static const int64_t ks[] = {511, 512, 513, 1023, 1024, 1031, 2048, 2051};
    for (int q = 0; q < n_kernels; q++)
        for (size_t p = 0; p < sizeof ks / sizeof *ks; p++)
            for (int tree = 1; tree <= 8; tree *= 2)
                for (int v = 0; v < 4; v++) {
                    gemm_layout l = {.a_transposed = v & 1,
                                     .b_transposed = v >> 1 & 1,
                                     .accumulate = v == 3,
                                     .tree = tree,
                                     .packed = v == 2,
                                     .threads = 2};
                    check(kernels[q], 9, 37, ks[p], &l, pool);
                    check(kernels[q], 31, 140, ks[p], &l, pool);
                }
}

/* More than one block in each direction, with one and three threads. */
static void blocks_and_threads_change_nothing(void **state)
{
    tb_pool *pool = *state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("gemm", TB_F32, kernels, 8);
    for (int q = 0; q < n_kernels; q++)
        for (int v = 0; v < 4; v++) {
            gemm_layout l = {
                .a_transposed = v & 1, .b_transposed = v >> 1, .tree = v == 3 ? 4 : 1, .threads = 1 + (v & 1)};
            check(kernels[q], 1100, 530, 20, &l, pool);
            check(kernels[q], 1, 1300, 70, &l, pool);
            check(kernels[q], 2, 1030, 550, &l, pool);
        }
}

/* The canonical sum itself is right: against f64. */
static void the_canonical_sum_is_near_the_exact_one(void **state)
{
    (void)state;
    tb_gemm_args g = {.m = 3, .n = 5, .k = 1000, .a = guarded_random(3000, 1), .a_row = 1000, .a_col = 1,
                      .b = guarded_random(5000, 2), .b_row = 5, .b_col = 1};
    for (g.tree = 1; g.tree <= 8; g.tree *= 2)
        for (int64_t i = 0; i < g.m; i++)
            for (int64_t j = 0; j < g.n; j++) {
                double sum = 0;
                for (int64_t p = 0; p < g.k; p++)
                    sum += (double)((const float *)g.a)[i * g.a_row + p] * (double)((const float *)g.b)[p * 5 + j];
                assert_true(fabs((double)canonical(&g, i, j) - sum) < 1e-4);
            }
    guarded_free_all();
}

static void nan_and_infinity_reach_their_elements_only(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("gemm", TB_F32, kernels, 8);
    for (int q = 0; q < n_kernels; q++) {
        enum { M = 9, N = 21, K = 12 };
        float *a = guarded_random(M * K, 1), *b = guarded_random(K * N, 2), *c = guarded(M * N * sizeof(float));
        a[4 * K + 3] = NAN;
        b[7 * N + 20] = INFINITY;
        tb_gemm_args g = {.m = M, .n = N, .k = K, .a = a, .a_row = K, .a_col = 1, .b = b, .b_row = N, .b_col = 1,
                          .c = c, .c_row = N, .tree = 1};
        gemm_run_kernel(kernels[q], g, false);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) {
                if (i == 4) assert_true(isnan(c[i * N + j]));
                else assert_true(j == 20 ? isinf(c[i * N + j]) : isfinite(c[i * N + j]));
            }
        guarded_free_all();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_and_layout_gives_the_canonical_bits),
        cmocka_unit_test(long_sums_keep_the_order),
        cmocka_unit_test(blocks_and_threads_change_nothing),
        cmocka_unit_test(the_canonical_sum_is_near_the_exact_one),
        cmocka_unit_test(nan_and_infinity_reach_their_elements_only),
    };
    return cmocka_run_group_tests(tests, three_threads, no_threads);
}
