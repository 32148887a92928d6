/* conv2d and its gradients, f32: every kernel gives exactly the bits of the order in tb_kernel.h, which itself is near
 * the sum in f64. */
#include "kernel_test.h"
#include "tb_pool.h"

typedef struct conv_case {
    int64_t n, c, h, w, o, kh, kw, stride[2], pad[2], dilation[2], groups;
} conv_case;

static const conv_case cases[] = {
    {1, 1, 1, 1, 1, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    {2, 3, 7, 9, 5, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    {2, 3, 8, 6, 7, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {1, 2, 9, 20, 14, 5, 5, {1, 1}, {2, 2}, {1, 1}, 1},
    {3, 4, 11, 10, 6, 3, 3, {2, 2}, {1, 1}, {1, 1}, 2},
    {1, 3, 13, 17, 8, 7, 7, {2, 2}, {3, 3}, {1, 1}, 1},
    {2, 2, 9, 9, 3, 3, 2, {1, 2}, {0, 1}, {2, 1}, 1},
    {1, 4, 5, 5, 4, 3, 3, {1, 1}, {1, 1}, {1, 1}, 4},
    {2, 6, 6, 40, 19, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {1, 70, 6, 5, 33, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {9, 2, 4, 4, 3, 2, 2, {3, 3}, {2, 2}, {1, 1}, 1},
    {2, 16, 12, 12, 10, 1, 1, {2, 2}, {0, 0}, {1, 1}, 1},
    {3, 1, 28, 28, 4, 5, 5, {1, 1}, {0, 0}, {1, 1}, 1},
    {8, 5, 3, 3, 20, 3, 3, {1, 1}, {1, 1}, {2, 2}, 1},
    {2, 2, 6, 39, 4, 3, 3, {2, 1}, {1, 1}, {1, 1}, 2},
    {1, 3, 9, 70, 3, 5, 5, {2, 2}, {2, 2}, {1, 1}, 3},
    {2, 1, 40, 33, 2, 3, 3, {1, 1}, {4, 3}, {1, 1}, 1},
    {0, 2, 4, 4, 3, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    /* tiles of outputs and channels, bands of rows and of columns */
    {2, 16, 12, 15, 48, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {1, 44, 27, 29, 16, 5, 5, {1, 1}, {2, 2}, {1, 1}, 1},
    {3, 16, 17, 13, 14, 3, 3, {2, 2}, {1, 1}, {1, 1}, 1},
    {1, 300, 12, 12, 31, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    {2, 32, 8, 9, 64, 3, 3, {1, 1}, {1, 1}, {1, 1}, 2},
    {1, 16, 6, 8, 16, 3, 3, {1, 1}, {4, 4}, {2, 1}, 1},
    {1, 13, 10, 28, 33, 1, 1, {2, 2}, {1, 1}, {1, 1}, 1},
    /* one vector of channels: runs of three taps, one tile and two; strides: a row that is two vectors, and many */
    {2, 3, 5, 28, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {1, 5, 4, 31, 13, 3, 3, {1, 1}, {1, 0}, {1, 1}, 1},
    {1, 2, 3, 57, 8, 3, 3, {1, 1}, {2, 2}, {1, 1}, 1},
    {1, 3, 9, 70, 16, 7, 7, {2, 2}, {3, 3}, {1, 1}, 1},
    {1, 5, 9, 33, 32, 1, 1, {3, 2}, {0, 0}, {1, 1}, 1},
    {1, 2, 11, 41, 24, 2, 2, {4, 3}, {0, 1}, {1, 1}, 1},
    /* depthwise 3x3: strips of one and two vectors, rows beyond the last four, borders wider than the taps */
    {2, 3, 8, 28, 3, 3, 3, {1, 1}, {1, 1}, {1, 1}, 3},
    {1, 2, 7, 16, 2, 3, 3, {1, 1}, {1, 1}, {1, 1}, 2},
    {1, 2, 5, 33, 4, 3, 3, {1, 1}, {0, 2}, {1, 1}, 2},
    {2, 2, 2, 17, 2, 3, 3, {1, 1}, {2, 0}, {1, 1}, 2},
    {1, 3, 9, 50, 3, 3, 3, {1, 1}, {3, 4}, {1, 1}, 3},
    {1, 2, 1, 1, 2, 3, 3, {1, 1}, {1, 1}, {1, 1}, 2},
    /* 1x1: panels of pixels, whole, half and begun; one tile of channels and several; groups; few channels */
    {2, 20, 7, 7, 64, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    {3, 28, 6, 16, 30, 1, 1, {1, 1}, {0, 0}, {1, 1}, 2},
    {2, 9, 5, 3, 16, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    {1, 1, 9, 9, 15, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    {2, 33, 10, 8, 3, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},
    /* panels of pixels from a frame: rows of one vector and several, an odd number of them, groups, bands */
    {2, 3, 7, 32, 16, 7, 7, {2, 2}, {3, 3}, {1, 1}, 1},
    {1, 5, 5, 48, 30, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {2, 6, 9, 17, 8, 3, 2, {3, 1}, {1, 0}, {2, 1}, 2},
    {1, 4, 40, 32, 70, 1, 1, {2, 2}, {0, 0}, {1, 1}, 1},
    {1, 28, 12, 160, 15, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
};
enum { CASES = sizeof cases / sizeof *cases, MAX_KERNELS = 16 };

static tb_conv_args args_of(const conv_case *c)
{
    tb_conv_args a = {.n = c->n, .c = c->c, .h = c->h, .w = c->w, .o = c->o, .kh = c->kh, .kw = c->kw,
                      .groups = c->groups,
                      .tree = 1};
    for (int d = 0; d < 2; d++) a.stride[d] = c->stride[d], a.pad[d] = c->pad[d], a.dilation[d] = c->dilation[d];
    a.oh = (c->h + 2 * c->pad[0] - c->dilation[0] * (c->kh - 1) - 1) / c->stride[0] + 1;
    a.ow = (c->w + 2 * c->pad[1] - c->dilation[1] * (c->kw - 1) - 1) / c->stride[1] + 1;
    return a;
}

static float x_at(const tb_conv_args *a, int64_t n, int64_t c, int64_t y, int64_t x)
{
    if (y < 0 || y >= a->h || x < 0 || x >= a->w) return 0;
    return ((const float *)a->x)[((n * a->c + c) * a->h + y) * a->w + x];
}
static float w_at(const tb_conv_args *a, int64_t o, int64_t c, int64_t kh, int64_t kw)
{
    return ((const float *)a->weight)[((o * (a->c / a->groups) + c) * a->kh + kh) * a->kw + kw];
}
static float g_at(const tb_conv_args *a, int64_t n, int64_t o, int64_t i, int64_t j)
{
    if (i < 0 || i >= a->oh || j < 0 || j >= a->ow) return 0;
    return ((const float *)a->g)[((n * a->o + o) * a->oh + i) * a->ow + j];
}

/* One element of the result, as a chain in the stated order (f32) and as a sum (f64). */
typedef struct both {
    float chain;
    double sum;
} both;
static void step(both *s, float a, float b)
{
    s->chain = fmaf(a, b, s->chain);
    s->sum += (double)a * (double)b;
}

static both y_of(const tb_conv_args *a, int64_t n, int64_t o, int64_t i, int64_t j)
{
    both s = {0, 0};
    int64_t cg = a->c / a->groups, first = o / (a->o / a->groups) * cg;
    for (int64_t c = 0; c < cg; c++)
        for (int64_t kh = 0; kh < a->kh; kh++)
            for (int64_t kw = 0; kw < a->kw; kw++)
                step(&s, w_at(a, o, c, kh, kw),
                     x_at(a, n, first + c, i * a->stride[0] + kh * a->dilation[0] - a->pad[0],
                          j * a->stride[1] + kw * a->dilation[1] - a->pad[1]));
    return s;
}

static both dx_of(const tb_conv_args *a, int64_t n, int64_t c, int64_t y, int64_t x)
{
    both s = {0, 0};
    int64_t cg = a->c / a->groups, og = a->o / a->groups, group = c / cg;
    for (int64_t o = group * og; o < (group + 1) * og; o++)
        for (int64_t kh = 0; kh < a->kh; kh++)
            for (int64_t kw = 0; kw < a->kw; kw++) {
                int64_t i = y + a->pad[0] - kh * a->dilation[0], j = x + a->pad[1] - kw * a->dilation[1];
                bool meets = i % a->stride[0] == 0 && j % a->stride[1] == 0;
                step(&s, w_at(a, o, c % cg, kh, kw), meets ? g_at(a, n, o, i / a->stride[0], j / a->stride[1]) : 0);
            }
    return s;
}

static both dw_of(const tb_conv_args *a, int64_t o, int64_t c, int64_t kh, int64_t kw)
{
    float part[8] = {0};
    double sum = 0;
    int64_t block = (a->n + a->tree - 1) / a->tree, first = o / (a->o / a->groups) * (a->c / a->groups);
    for (int64_t n = 0; n < a->n; n++) {
        both s = {part[n / block], 0};
        for (int64_t i = 0; i < a->oh; i++)
            for (int64_t j = 0; j < a->ow; j++)
                step(&s, x_at(a, n, first + c, i * a->stride[0] + kh * a->dilation[0] - a->pad[0],
                              j * a->stride[1] + kw * a->dilation[1] - a->pad[1]), g_at(a, n, o, i, j));
        part[n / block] = s.chain;
        sum += s.sum;
    }
    for (int width = 1; width < a->tree; width *= 2)
        for (int q = 0; q + width < a->tree; q += 2 * width) part[q] += part[q + width];
    return (both){part[0], sum};
}

static void compare(const tb_kernel *k, int which, int64_t at, float got, both want, float before,
                    const tb_conv_args *a, double bias, float residual)
{
    float exact = want.chain;
    if (a->accumulate) exact = before + exact;
    if (bias != 0) exact += (float)bias;
    if (a->residual) exact += residual;
    if (a->act == TB_ACT_RELU && exact < 0) exact = 0;
    if (a->act == TB_ACT_SILU)
        assert_near(k, "silu", at, (double)got, (double)exact / (1 + exp((double)-exact)), 1e-6, 1e-5);
    else if (memcmp(&exact, &got, sizeof got) != 0 && !(exact == 0 && got == 0))
        fail_msg("%s, case %d: element %lld is %.9g, must be %.9g", k->name, which, (long long)at, (double)got,
                 (double)exact);
    assert_near(k, "chain", at, (double)want.chain, want.sum, 1e-4, 0);
}

static float *run_case(const tb_kernel *k, tb_conv_args *a, int64_t out_floats, float **before)
{
    a->out = guarded_random(out_floats, 4);
    if (a->residual) a->residual = a->out; /* the sum replaces it */
    *before = guarded((size_t)out_floats * sizeof(float));
    if (!a->accumulate && !a->residual)
        for (int64_t i = 0; i < out_floats; i++) ((float *)a->out)[i] = NAN;
    memcpy(*before, a->out, (size_t)out_floats * sizeof(float));
    a->scratch = guarded(((k->scratch_bytes ? k->scratch_bytes(a) : 0) + 63) / 64 * 64);
    k->run(a);
    return a->out;
}

static void forward_is_its_chain(void **state)
{
    const tb_kernel *kernels[MAX_KERNELS];
    int n_kernels = kernel_test_find("conv2d", TB_F32, kernels, MAX_KERNELS);
    for (int q = 0; q < n_kernels; q++)
        for (int which = 0; which < CASES; which++)
            for (int variant = 0; variant < 4; variant++) {
                tb_conv_args a = args_of(&cases[which]);
                float *before, *bias = guarded_random(a.o, 3);
                if (kernels[q]->supports && !kernels[q]->supports(&a)) continue;
                a.x = guarded_random(a.n * a.c * a.h * a.w, 1);
                a.weight = guarded_random(a.o * (a.c / a.groups) * a.kh * a.kw, 2);
                if (variant) a.bias = bias, a.act = TB_ACT_RELU, a.pool = *state;
                if (variant >= 2) a.residual = bias;
                if (variant == 3) a.act = TB_ACT_SILU;
                float *y = run_case(kernels[q], &a, a.n * a.o * a.oh * a.ow, &before);
                for (int64_t at = 0; at < a.n * a.o * a.oh * a.ow; at++) {
                    int64_t o = at / (a.oh * a.ow) % a.o;
                    compare(kernels[q], which, at, y[at],
                            y_of(&a, at / (a.o * a.oh * a.ow), o, at / a.ow % a.oh, at % a.ow), before[at], &a,
                            variant ? (double)bias[o] : 0, before[at]);
                }
                guarded_free_all();
            }
}

static void input_gradient_is_its_chain(void **state)
{
    const tb_kernel *kernels[MAX_KERNELS];
    int n_kernels = kernel_test_find("conv2d_input_grad", TB_F32, kernels, MAX_KERNELS);
    for (int q = 0; q < n_kernels; q++)
        for (int which = 0; which < CASES; which++)
            for (int variant = 0; variant < 2; variant++) {
                tb_conv_args a = args_of(&cases[which]);
                float *before;
                if (kernels[q]->supports && !kernels[q]->supports(&a)) continue;
                a.g = guarded_random(a.n * a.o * a.oh * a.ow, 1);
                a.weight = guarded_random(a.o * (a.c / a.groups) * a.kh * a.kw, 2);
                if (variant) a.accumulate = true, a.pool = *state;
                float *dx = run_case(kernels[q], &a, a.n * a.c * a.h * a.w, &before);
                for (int64_t at = 0; at < a.n * a.c * a.h * a.w; at++)
                    compare(kernels[q], which, at, dx[at],
                            dx_of(&a, at / (a.c * a.h * a.w), at / (a.h * a.w) % a.c, at / a.w % a.h, at % a.w),
                            before[at], &a, 0, 0);
                guarded_free_all();
            }
}

static void weight_gradient_is_its_tree(void **state)
{
    const tb_kernel *kernels[MAX_KERNELS];
    int n_kernels = kernel_test_find("conv2d_weight_grad", TB_F32, kernels, MAX_KERNELS);
    for (int q = 0; q < n_kernels; q++)
        for (int which = 0; which < CASES; which++)
            for (int variant = 0; variant < 4; variant++) {
                tb_conv_args a = args_of(&cases[which]);
                float *before;
                if (kernels[q]->supports && !kernels[q]->supports(&a)) continue;
                a.x = guarded_random(a.n * a.c * a.h * a.w, 1);
                a.g = guarded_random(a.n * a.o * a.oh * a.ow, 2);
                a.tree = 1 << variant;
                if (variant & 1) a.accumulate = true, a.pool = *state;
                int64_t cg = a.c / a.groups, floats = a.o * cg * a.kh * a.kw;
                float *dw = run_case(kernels[q], &a, floats, &before);
                for (int64_t at = 0; at < floats; at++)
                    compare(kernels[q], which, at, dw[at],
                            dw_of(&a, at / (cg * a.kh * a.kw), at / (a.kh * a.kw) % cg, at / a.kw % a.kh, at % a.kw),
                            before[at], &a, 0, 0);
                guarded_free_all();
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_is_its_chain),
        cmocka_unit_test(input_gradient_is_its_chain),
        cmocka_unit_test(weight_gradient_is_its_tree),
    };
    return cmocka_run_group_tests(tests, three_threads, no_threads);
}
