/* Rows quantized by their own range: the contract word for word, the same bytes on every ISA, at every tail. */
#include "kernel_test.h"
#include "tb_rng.h"
#include <math.h>

enum { MAX_KERNELS = 8, ROWS = 5 };

static const int64_t widths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 257};
enum { WIDTHS = sizeof widths / sizeof widths[0] };

static uint8_t expected(float x, float most)
{
    float q = rintf(x * (most < 0x1p-100f ? 0.0f : 127.0f / most)) + 128;
    return (uint8_t)(q > 1 ? (q < 255 ? q : 255) : 1);
}

static void bytes_follow_the_contract(void **state)
{
    const tb_kernel *kernels[MAX_KERNELS];
    int count = kernel_test_find("row_quantize_u8", TB_F32, kernels, MAX_KERNELS);
    (void)state;
    assert_true(count >= 2);
    for (int q = 0; q < count; q++)
        for (int w = 0; w < WIDTHS; w++) {
            int64_t n = widths[w];
            float *x = guarded_random(ROWS * n, 1), *step = guarded(ROWS * sizeof *step);
            uint8_t *y = guarded((size_t)(ROWS * n));
            for (int64_t i = 0; i < n; i++) {
                x[n + i] = 0;                                /* a row of zeros */
                x[2 * n + i] *= 0x1p-110f;                   /* one that counts as zeros */
                x[3 * n + i] = (float)(i % 255 - 127) + 0.5f; /* ties */
            }
            if (n > 2) x[4 * n + n / 2] = NAN;
            kernels[q]->run(&(tb_row_args){.rows = ROWS, .n = n, .in = x, .in_stride = n, .out = y, .out_stride = n,
                                           .extra = {step}});
            for (int64_t r = 0; r < ROWS; r++) {
                float most = 0;
                for (int64_t i = 0; i < n; i++) most = fabsf(x[r * n + i]) > most ? fabsf(x[r * n + i]) : most;
                assert_true(step[r] == (most < 0x1p-100f ? 0.0f : most / 127.0f));
                for (int64_t i = 0; i < n; i++)
                    if (y[r * n + i] != expected(x[r * n + i], most))
                        fail_msg("%s: row %lld, width %lld, element %lld is %d", kernels[q]->name, (long long)r,
                                 (long long)n, (long long)i, y[r * n + i]);
            }
            guarded_free_all();
        }
}

static void rescaled_rows_follow_the_contract(void **state)
{
    const tb_kernel *kernels[MAX_KERNELS];
    int count = kernel_test_find("row_rescale", TB_F32, kernels, MAX_KERNELS);
    (void)state;
    assert_true(count >= 2);
    for (int q = 0; q < count; q++)
        for (int w = 0; w < WIDTHS; w++)
            for (int form = 0; form < 4; form++) {
                int64_t n = widths[w];
                float *x = guarded_random(ROWS * n, 1), *step = guarded_random(ROWS, 2), *bias = guarded_random(n, 3);
                float *y = guarded_random(ROWS * n, 4), *before = guarded((size_t)(ROWS * n) * sizeof *before);
                memcpy(before, y, (size_t)(ROWS * n) * sizeof *before);
                tb_row_args a = {
                    .rows = ROWS, .n = n, .in = x, .in_stride = n, .out = y, .out_stride = n, .extra_in = {step}};
                if (form & 1) a.beta = bias, a.act = TB_ACT_RELU;
                if (form & 2) a.in2 = y, a.in2_stride = n; /* the sum replaces the residual */
                kernels[q]->run(&a);
                for (int64_t at = 0; at < ROWS * n; at++) {
                    float want = x[at] * step[at / n];
                    if (form & 1) want += bias[at % n];
                    if (form & 2) want += before[at];
                    if (form & 1 && want < 0) want = 0;
                    if (want != y[at])
                        fail_msg("%s: width %lld, form %d, element %lld", kernels[q]->name, (long long)n, form,
                                 (long long)at);
                }
                guarded_free_all();
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_follow_the_contract),
                                       cmocka_unit_test(rescaled_rows_follow_the_contract)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
