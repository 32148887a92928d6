/* u8 x s8 convolutions: exact integers, and the same bits of the epilogue, on every ISA, at every edge of tiles, panels
 * and images; maxima of u8 windows. */
#include "kernel_test.h"
#include "tb_rng.h"

typedef struct image_case {
    int64_t n, h, w, c, o, k, stride, pad, dilation, groups;
    bool to_u8, is_planar; /* x lies with its channels first */
} image_case;

static int64_t out_size(int64_t in, const image_case *s)
{
    return (in + 2 * s->pad - s->dilation * (s->k - 1) - 1) / s->stride + 1;
}

static int64_t exact_sum(const tb_conv_u8s8_args *a, int64_t n, int64_t i, int64_t j, int64_t o)
{
    int64_t sum = a->offset[o], cg = a->c / a->groups, first = o / (a->o / a->groups) * cg;
    for (int64_t p = 0; p < a->kh; p++)
        for (int64_t q = 0; q < a->kw; q++) {
            int64_t y = i * a->stride[0] + p * a->dilation[0] - a->pad[0],
                    x = j * a->stride[1] + q * a->dilation[1] - a->pad[1];
            bool inside = y >= 0 && y < a->h && x >= 0 && x < a->w;
            for (int64_t k = 0; k < cg; k++) {
                int64_t at =
                    n * a->x_stride[0] + y * a->x_stride[1] + x * a->x_stride[2] + (first + k) * a->x_stride[3];
                sum += (inside ? a->x[at] : a->x_zero) * a->weight[((o * a->kh + p) * a->kw + q) * cg + k];
            }
        }
    return sum;
}

static void check(const tb_kernel *kernel, const image_case *s)
{
    int64_t oh = out_size(s->h, s), ow = out_size(s->w, s), cg = s->c / s->groups, depth = s->k * s->k * cg;
    uint8_t *x = guarded((size_t)(s->n * s->h * s->w * s->c));
    int8_t *w = guarded((size_t)(s->o * depth));
    int32_t *offset = guarded((size_t)s->o * 4);
    float *scale = guarded((size_t)s->o * 4);
    void *out = guarded((size_t)(s->n * oh * ow * s->o) * (s->to_u8 ? 1 : 4));
    for (int64_t i = 0; i < s->n * s->h * s->w * s->c; i++)
        x[i] = (uint8_t)tb_random_below(1, 1, (uint64_t)i, 256) | (i % 3 ? 0 : 255);
    for (int64_t i = 0; i < s->o * depth; i++)
        w[i] = i % 5 ? (int8_t)((int)tb_random_below(1, 2, (uint64_t)i, 255) - 127) : 127;
    for (int64_t j = 0; j < s->o; j++) {
        offset[j] = (int32_t)tb_random_below(1, 3, (uint64_t)j, 20000) - 10000;
        scale[j] = 1e-3f * (float)(1 + j % 7) / (float)depth;
    }
    tb_conv_u8s8_args a = {
        .n = s->n, .h = s->h, .w = s->w, .c = s->c, .o = s->o, .kh = s->k, .kw = s->k, .oh = oh, .ow = ow,
        .stride = {s->stride, s->stride}, .pad = {s->pad, s->pad}, .dilation = {s->dilation, s->dilation},
        .groups = s->groups, .x = x, .x_stride = {s->h * s->w * s->c, s->w * s->c, s->c, 1}, .weight = w,
        .offset = offset, .scale = scale, .out = out,
        .to_u8 = s->to_u8, .x_zero = 77, .zero = 7, .low = s->to_u8 ? 7 : 0};
    if (s->is_planar) memcpy(a.x_stride, (int64_t[]){s->h * s->w * s->c, s->w, 1, s->h * s->w}, sizeof a.x_stride);
    if (kernel->supports && !kernel->supports(&a)) {
        guarded_free_all();
        return;
    }
    void *pack = guarded((kernel->pack_bytes(&a) + 63) / 64 * 64);
    kernel->pack(&a, pack);
    a.packed_w = pack;
    a.scratch = guarded((kernel->scratch_bytes(&a) + 63) / 64 * 64);
    kernel->run(&a);
    for (int64_t at = 0; at < s->n * oh * ow * s->o; at++) {
        int64_t o = at % s->o, pixel = at / s->o;
        float y = (float)exact_sum(&a, pixel / ow / oh, pixel / ow % oh, pixel % ow, o) * scale[o], r = rintf(y) + 7;
        uint8_t u = (uint8_t)(r < 7 ? 7 : r > 255 ? 255 : r);
        bool same = s->to_u8 ? ((uint8_t *)out)[at] == u : ((float *)out)[at] == y;
        if (!same)
            fail_msg("%s: %lldx%lldx%lldx%lld to %lld, window %lld, stride %lld, pad %lld, dilation %lld, groups %lld "
                     "differs at "
                     "pixel %lld, channel %lld",
                     kernel->name, (long long)s->n, (long long)s->h, (long long)s->w, (long long)s->c, (long long)s->o,
                     (long long)s->k, (long long)s->stride, (long long)s->pad, (long long)s->dilation,
                     (long long)s->groups, (long long)pixel, (long long)o);
    }
    guarded_free_all();
}

static void sums_are_exact(void **state)
{
    (void)state;
    static const image_case cases[] = {
        {1, 28, 28, 1, 32, 5, 1, 0, 1, 1, true, false},   {3, 12, 12, 32, 64, 5, 1, 0, 1, 1, true, false},
        {2, 9, 7, 16, 33, 3, 1, 1, 1, 1, true, false},    {2, 9, 9, 3, 16, 3, 2, 1, 1, 1, false, false},
        {1, 20, 20, 3, 17, 7, 2, 3, 1, 1, true, true},    {2, 7, 5, 8, 47, 1, 1, 0, 1, 1, true, false},
        {2, 7, 5, 8, 48, 1, 2, 0, 1, 1, false, false},    {1, 6, 6, 5, 1, 1, 1, 0, 1, 1, true, false},
        {2, 8, 9, 4, 6, 3, 1, 1, 1, 2, true, false},      {1, 8, 8, 19, 19, 3, 1, 1, 1, 19, true, false},
        {1, 11, 11, 6, 20, 3, 1, 2, 2, 1, true, false},   {1, 3, 3, 2, 4, 3, 1, 0, 1, 1, true, false},
        {1, 1, 1, 130, 20, 1, 1, 0, 1, 1, false, false},  {2, 60, 60, 48, 16, 3, 1, 1, 1, 1, true, false},
        {4, 5, 5, 4, 16, 1, 1, 1, 1, 1, true, false},     {1, 13, 1, 12, 16, 1, 1, 0, 1, 1, true, false},
        {2, 14, 14, 64, 64, 3, 1, 1, 1, 64, true, false}, {1, 9, 11, 100, 100, 3, 2, 1, 1, 100, true, false},
        {1, 12, 7, 17, 17, 5, 1, 4, 2, 17, true, false},  {2, 64, 64, 48, 48, 3, 1, 1, 1, 48, true, false},
        {1, 8, 8, 64, 64, 3, 1, 0, 1, 64, false, false},  {1, 6, 5, 130, 130, 1, 1, 0, 1, 130, true, false},
    };
    const tb_kernel *kernels[16];
    int count = kernel_test_find("conv2d_u8s8", TB_I8, kernels, 16);
    assert_true(count >= 2);
    for (int q = 0; q < count; q++) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check(kernels[q], &cases[i]);
        for (int64_t width = 1; width <= 25; width++)
            check(kernels[q], &(image_case){1, 1, width, 5, 1 + 7 * (width % 9), 1, 1, 0, 1, 1, width % 2, false});
    }
}

static void the_deepest_sum_does_not_overflow(void **state)
{
    (void)state;
    const tb_kernel *kernels[16];
    int count = kernel_test_find("conv2d_u8s8", TB_I8, kernels, 16);
    for (int q = 0; q < count; q++) check(kernels[q], &(image_case){1, 1, 2, 66311, 3, 1, 1, 0, 1, 1, false, false});
}

static void maxima_of_clipped_windows(void **state)
{
    (void)state;
    static const int64_t cases[][6] = {
        {8, 6, 32, 2, 2, 0}, {5, 7, 3, 3, 1, 1}, {4, 4, 70, 2, 1, 1}, {1, 1, 1, 1, 1, 0}, {9, 9, 64, 3, 2, 1}};
    const tb_kernel *kernels[16];
    int count = kernel_test_find("max_pool2d_u8", TB_U8, kernels, 16);
    for (int q = 0; q < count; q++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            int64_t h = cases[i][0], w = cases[i][1], c = cases[i][2], k = cases[i][3], step = cases[i][4],
                    pad = cases[i][5];
            int64_t oh = (h + 2 * pad - k) / step + 1, ow = (w + 2 * pad - k) / step + 1;
            uint8_t *x = guarded((size_t)(2 * h * w * c)), *out = guarded((size_t)(2 * oh * ow * c));
            for (int64_t e = 0; e < 2 * h * w * c; e++) x[e] = (uint8_t)tb_random_below(1, 4, (uint64_t)e, 256);
            kernels[q]->run(&(tb_pool_u8_args){.h = h, .w = w, .c = c, .oh = oh, .ow = ow, .kh = k, .kw = k,
                                               .stride = {step, step},
                                               .pad = {pad, pad}, .from = 0, .to = 2 * oh, .x = x, .out = out});
            for (int64_t e = 0; e < 2 * oh * ow * c; e++) {
                int64_t pixel = e / c, n = pixel / ow / oh, top = pixel / ow % oh * step - pad,
                        left = pixel % ow * step - pad;
                uint8_t most = 0;
                for (int64_t y = top; y < top + k; y++)
                    for (int64_t z = left; z < left + k; z++)
                        if (y >= 0 && y < h && z >= 0 && z < w && x[((n * h + y) * w + z) * c + e % c] > most)
                            most = x[((n * h + y) * w + z) * c + e % c];
                assert_int_equal(out[e], most);
            }
            guarded_free_all();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_are_exact),
                                       cmocka_unit_test(the_deepest_sum_does_not_overflow),
                                       cmocka_unit_test(maxima_of_clipped_windows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
