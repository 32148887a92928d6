/* u8 x s8 products: exact integers, and the same bits of the epilogue, on every ISA, at every tail. */
#include "kernel_test.h"
#include "tb_pool.h"
#include "tb_rng.h"

static int8_t *packed(const int8_t *w, int64_t n, int64_t k)
{
    int64_t quads = (k + 3) / 4;
    int8_t *p = guarded((size_t)((n + 15) / 16 * quads * 64));
    memset(p, 0, (size_t)((n + 15) / 16 * quads * 64));
    for (int64_t j = 0; j < n; j++)
        for (int64_t q = 0; q < k; q++) p[((j / 16 * quads + q / 4) * 16 + j % 16) * 4 + q % 4] = w[j * k + q];
    return p;
}

static void check(const tb_kernel *kernel, int64_t m, int64_t n, int64_t k, bool to_u8, tb_pool *pool)
{
    uint8_t *a = guarded((size_t)(m * k));
    int8_t *w = guarded((size_t)(n * k));
    int32_t *offset = guarded((size_t)n * 4);
    float *scale = guarded((size_t)n * 4);
    void *c = guarded((size_t)(m * n) * (to_u8 ? 1 : 4));
    for (int64_t i = 0; i < m * k; i++) a[i] = (uint8_t)tb_random_below(1, 1, (uint64_t)i, 256) | (i % 3 ? 0 : 255);
    for (int64_t i = 0; i < n * k; i++)
        w[i] = i % 5 ? (int8_t)((int)tb_random_below(1, 2, (uint64_t)i, 255) - 127) : 127;
    for (int64_t j = 0; j < n; j++) {
        offset[j] = (int32_t)tb_random_below(1, 3, (uint64_t)j, 20000) - 10000;
        scale[j] = 1e-4f * (float)(1 + j % 7) * (k > 100 ? 0.01f : 1);
    }
    tb_gemm_u8s8_args g = {.m = m, .n = n, .k = k, .a = a, .a_row = k, .packed_w = packed(w, n, k), .offset = offset,
                           .scale = scale,
                           .c = c, .c_row = n, .to_u8 = to_u8, .zero = 7, .low = to_u8 ? 7 : 0, .pool = pool};
    kernel->run(&g);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int64_t sum = offset[j];
            for (int64_t q = 0; q < k; q++) sum += (int64_t)a[i * k + q] * w[j * k + q];
            float y = (float)sum * scale[j], r = rintf(y) + 7;
            uint8_t u = (uint8_t)(r < 7 ? 7 : r > 255 ? 255 : r);
            bool same = to_u8 ? ((uint8_t *)c)[i * n + j] == u : ((float *)c)[i * n + j] == y;
            if (!same)
                fail_msg("%s: %lldx%lldx%lld differs at (%lld, %lld)", kernel->name, (long long)m, (long long)k,
                         (long long)n, (long long)i, (long long)j);
        }
    guarded_free_all();
}

static void products_are_exact_around_every_tile_edge(void **state)
{
    (void)state;
    static const int64_t ms[] = {1, 2, 3, 4, 6, 7, 8, 12, 13, 14, 15, 17, 29, 53},
                         ns[] = {1, 15, 16, 17, 33, 64, 65, 143}, ks[] = {1, 3, 4, 5, 64, 131, 1024, 1025};
    const tb_kernel *kernels[8];
    int count = kernel_test_find("gemm_u8s8", TB_I8, kernels, 8);
    assert_true(count >= 2);
    for (int q = 0; q < count; q++)
        for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++)
            for (size_t j = 0; j < sizeof ns / sizeof ns[0]; j++)
                for (size_t p = 0; p < sizeof ks / sizeof ks[0]; p++)
                    check(kernels[q], ms[i], ns[j], ks[p], (i + j + p) % 2, NULL);
}

static void threads_share_columns_and_rows(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{64, 300, 65}, {1, 700, 800}, {2000, 17, 33}, {3, 5, 40000}}; /* M, N, K */
    const tb_kernel *kernels[8];
    tb_pool *pool;
    int count = kernel_test_find("gemm_u8s8", TB_I8, kernels, 8);
    assert_int_equal(tb_pool_create(3, &pool), TB_OK);
    for (int q = 0; q < count; q++)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
            check(kernels[q], shapes[i][0], shapes[i][1], shapes[i][2], i % 2, pool);
    tb_pool_destroy(pool);
}

static void the_deepest_sum_does_not_overflow(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int count = kernel_test_find("gemm_u8s8", TB_I8, kernels, 8);
    for (int q = 0; q < count; q++) check(kernels[q], 2, 3, 66311, false, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(products_are_exact_around_every_tile_edge),
                                       cmocka_unit_test(threads_share_columns_and_rows),
                                       cmocka_unit_test(the_deepest_sum_does_not_overflow)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
