/* conv: a convolution K x K with bias and a border of zeros K / 2 wide; forward, and forward with the
 * gradients of image, weight and bias. */
#include "bench_op.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include <math.h>

typedef struct image_case {
    tb_tensor *in[3], *g; /* image, weight, bias; gradient of the result */
    int64_t pad;
} image_case;

static tb_status forward(void *arg, tb_tensor **out)
{
    const image_case *s = arg;
    *out =
        tb_conv2d(s->in[0], s->in[1], s->in[2], &(tb_conv2d_opts){.stride = {1, 1}, .pad = {s->pad, s->pad}});
    return TB_OK;
}

static tb_status train(void *arg, tb_tensor **out)
{
    image_case *s = arg;
    tb_tensor *y;
    TB_TRY(forward(s, &y));
    return tb_gradients(y, &(tb_backward_opts){.grad = s->g}, 3, s->in, out);
}

static tb_status run_conv(tb_bench_run *run)
{
    const int64_t *d = run->shape.at, o = d[4], k = d[5];
    int64_t oh = d[2] + k / 2 * 2 - k + 1, ow = d[3] + k / 2 * 2 - k + 1;
    image_case s = {{tb_bench_tensor(1, 4, d), tb_bench_tensor(2, 4, (int64_t[]){o, d[1], k, k}),
                     tb_bench_tensor(3, 1, &o)},
                    tb_bench_tensor(4, 4, (int64_t[]){d[0], o, oh, ow}),
                    k / 2};
    double depth = (double)(d[1] * k * k), flops = 2 * (double)(d[0] * o * oh * ow) * depth;
    for (int trains = 0; trains < 2; trains++) {
        const char *name = trains ? "conv2d_train" : "conv2d";
        char torch[96];
        if (!tb_bench_wants(run, name)) continue;
        for (int l = 0; trains && l < 3; l++) TB_TRY(tb_require_grad(s.in[l]));
        tb_bench_case c = {.op = name, .flops = trains ? 3 * flops : flops};
        snprintf(c.shape, sizeof c.shape, "%lldx%lldx%lldx%lldx%lldx%lld", (long long)d[0], (long long)d[1],
                 (long long)d[2], (long long)d[3], (long long)o, (long long)k);
        snprintf(torch, sizeof torch, "%s %lld %lld %lld %lld %lld %lld", trains ? "conv_train" : "conv",
                 (long long)d[0], (long long)d[1], (long long)d[2], (long long)d[3], (long long)o,
                 (long long)k);
        double terms = trains ? (double)(d[0] * oh * ow) + depth * (double)o : depth; /* of the longest sum */
        tb_bench_op op = {.call = trains ? train : forward,
                          .n_out = trains ? 3 : 1,
                          .arg = &s,
                          .tolerance = 16 * sqrt(terms),
                          .torch = torch};
        TB_TRY(tb_bench_measure_op(run, &op, &c));
    }
    return TB_OK;
}

static const char *const shapes[] = {"16x1x28x28x32x5", "8x32x14x14x64x5", "8x64x14x14x64x3", NULL};
static const char *const peers[] = {"torch", NULL};

TB_BENCH(conv, .doc = "convolution of images", .shape_form = "BxCxHxWxOxK", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_conv);
