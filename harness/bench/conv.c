/* conv: a convolution K x K with bias and a border of zeros K / 2 wide, forward. */
#include "bench_op.h"
#include "tb_ops.h"
#include <math.h>

typedef struct image_case {
    tb_tensor *x, *w, *b;
    int64_t pad;
} image_case;

static tb_tensor *call(void *arg)
{
    const image_case *s = arg;
    return tb_conv2d(s->x, s->w, s->b, &(tb_conv2d_opts){.stride = {1, 1}, .pad = {s->pad, s->pad}});
}

static tb_status run_conv(tb_bench_run *run)
{
    const int64_t *d = run->shape.at, o = d[4], k = d[5];
    int64_t oh = d[2] + k / 2 * 2 - k + 1, ow = d[3] + k / 2 * 2 - k + 1;
    image_case s = {tb_bench_tensor(1, 4, d), tb_bench_tensor(2, 4, (int64_t[]){o, d[1], k, k}),
                    tb_bench_tensor(3, 1, &o), k / 2};
    char torch[96];
    double depth = (double)(d[1] * k * k);
    tb_bench_case c = {.op = "conv2d", .flops = 2 * (double)(d[0] * o * oh * ow) * depth};
    snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lldx%lldx%lldx%lld", (long long)d[0], (long long)d[1],
             (long long)d[2], (long long)d[3], (long long)o, (long long)k);
    snprintf(torch, sizeof torch, "conv %lld %lld %lld %lld %lld %lld", (long long)d[0], (long long)d[1],
             (long long)d[2], (long long)d[3], (long long)o, (long long)k);
    return tb_bench_measure_op(
        run, &(tb_bench_op){.call = call, .arg = &s, .tolerance = 16 * sqrt(depth), .torch = torch}, &c);
}

static const char *const shapes[] = {"16x1x28x28x32x5", "8x32x14x14x64x5", "8x64x14x14x64x3", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(conv, .doc = "convolution of images", .shape_form = "BxCxHxWxOxK", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_conv);
