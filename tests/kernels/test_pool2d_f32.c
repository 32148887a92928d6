/* Pooling, f32: every kernel against the definition; gradients against what they are gradients of. */
#include "kernel_test.h"

typedef struct pool_case {
    int64_t planes, h, w, kh, kw, stride[2], pad[2];
} pool_case;
static const pool_case cases[] = {
    {1, 1, 1, 1, 1, {1, 1}, {0, 0}},  {3, 8, 8, 2, 2, {2, 2}, {0, 0}},     {2, 7, 9, 3, 3, {2, 2}, {1, 1}},
    {2, 5, 5, 5, 5, {5, 5}, {0, 0}},  {1, 6, 40, 2, 3, {1, 1}, {1, 1}},    {2, 9, 17, 3, 2, {3, 1}, {0, 1}},
    {1, 3, 2500, 2, 2, {2, 2}, {0, 0}}, {1, 2, 1500, 2, 3, {1, 1}, {0, 1}}, {0, 4, 4, 2, 2, {2, 2}, {0, 0}},
    {1, 11, 11, 2, 2, {4, 4}, {1, 1}},
};
enum { CASES = sizeof cases / sizeof *cases };

static tb_pool2d_args args_of(const pool_case *c, bool count_pad)
{
    tb_pool2d_args a = {.planes = c->planes, .h = c->h, .w = c->w, .kh = c->kh, .kw = c->kw, .count_pad = count_pad};
    for (int d = 0; d < 2; d++) a.stride[d] = c->stride[d], a.pad[d] = c->pad[d];
    a.oh = (c->h + 2 * c->pad[0] - c->kh) / c->stride[0] + 1;
    a.ow = (c->w + 2 * c->pad[1] - c->kw) / c->stride[1] + 1;
    return a;
}

/* The window of an output: its maximum and where it is, its sum and what that is divided by. */
typedef struct window {
    float max;
    int64_t at;
    double sum, count;
} window;
static window look(const tb_pool2d_args *a, const float *x, int64_t plane, int64_t i, int64_t j)
{
    window q = {-INFINITY, -1, 0, 0};
    for (int64_t y = i * a->stride[0] - a->pad[0]; y < i * a->stride[0] - a->pad[0] + a->kh; y++)
        for (int64_t z = j * a->stride[1] - a->pad[1]; z < j * a->stride[1] - a->pad[1] + a->kw; z++) {
            if (y < 0 || y >= a->h || z < 0 || z >= a->w) continue;
            float v = x[plane * a->h * a->w + y * a->w + z];
            if (q.at < 0 || v > q.max || (isnan(v) && !isnan(q.max))) q.max = v, q.at = y * a->w + z;
            q.sum += (double)v;
            q.count++;
        }
    if (a->count_pad) q.count = (double)(a->kh * a->kw);
    return q;
}

/* Few values, so that there are ties; some NaN and infinities. */
static float *ragged(int64_t n)
{
    float *x = guarded_uniform(n, 3, 0, 6);
    for (int64_t i = 0; i < n; i++) x[i] = x[i] < 0.1f ? -INFINITY : x[i] > 5.9f ? NAN : floorf(x[i]);
    return x;
}

static void maxima_and_their_places(void **state)
{
    (void)state;
    const tb_kernel *kernels[8], *grads[8];
    int n_kernels = kernel_test_find("max_pool2d", TB_F32, kernels, 8);
    assert_int_equal(kernel_test_find("max_pool2d_grad", TB_F32, grads, 8), n_kernels);
    for (int q = 0; q < n_kernels; q++)
        for (int which = 0; which < CASES; which++) {
            tb_pool2d_args a = args_of(&cases[which], false);
            int64_t outputs = a.planes * a.oh * a.ow, size = a.planes * a.h * a.w;
            float *x = ragged(size), *y = guarded((size_t)outputs * sizeof(float));
            int32_t *index = guarded((size_t)outputs * sizeof(int32_t));
            a.in = x, a.out = y, a.index = index;
            kernels[q]->run(&a);
            double *dx = calloc((size_t)size + 1, sizeof(double));
            float *g = guarded_random(outputs, 5), *got = guarded((size_t)size * sizeof(float));
            for (int64_t at = 0; at < outputs; at++) {
                window want = look(&a, x, at / (a.oh * a.ow), at / a.ow % a.oh, at % a.ow);
                assert_near(kernels[q], "y", at, (double)y[at], (double)want.max, 0, 0);
                assert_int_equal(index[at], want.at);
                if (want.at >= 0) dx[at / (a.oh * a.ow) * a.h * a.w + want.at] += (double)g[at];
            }
            a.in = g, a.out = got;
            grads[q]->run(&a);
            for (int64_t at = 0; at < size; at++) assert_near(grads[q], "dx", at, (double)got[at], dx[at], 1e-6, 0);
            a.in = x, a.out = y, a.index = NULL;
            kernels[q]->run(&a);
            free(dx);
            guarded_free_all();
        }
}

static void averages_and_their_gradients(void **state)
{
    (void)state;
    const tb_kernel *kernels[8], *grads[8];
    int n_kernels = kernel_test_find("avg_pool2d", TB_F32, kernels, 8);
    assert_int_equal(kernel_test_find("avg_pool2d_grad", TB_F32, grads, 8), n_kernels);
    for (int q = 0; q < n_kernels; q++)
        for (int which = 0; which < 2 * CASES; which++) {
            tb_pool2d_args a = args_of(&cases[which / 2], which & 1);
            int64_t outputs = a.planes * a.oh * a.ow, size = a.planes * a.h * a.w;
            float *x = guarded_random(size, 3), *y = guarded((size_t)outputs * sizeof(float));
            a.in = x, a.out = y;
            kernels[q]->run(&a);
            float *g = guarded_random(outputs, 5), *got = guarded((size_t)size * sizeof(float));
            double forward = 0, backward = 0; /* <g, pool(x)> = <pool'(g), x> */
            for (int64_t at = 0; at < outputs; at++) {
                window want = look(&a, x, at / (a.oh * a.ow), at / a.ow % a.oh, at % a.ow);
                assert_near(kernels[q], "y", at, (double)y[at], want.sum / want.count, 1e-6, 0);
                forward += (double)g[at] * (double)y[at];
            }
            a.in = g, a.out = got;
            grads[q]->run(&a);
            for (int64_t at = 0; at < size; at++) backward += (double)got[at] * (double)x[at];
            assert_near(grads[q], "inner product", 0, backward, forward, 1e-4, 0);
            guarded_free_all();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maxima_and_their_places),
        cmocka_unit_test(averages_and_their_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
