/* conv: a convolution K x K with bias and a border of zeros K / 2 wide; forward, and forward with the
 * gradients of image, weight and bias. The weights of a layer stay as they are from call to call, so packing
 * them is not counted; putting images into another layout is, where a call does that.
 *
 * The reference of the forward is a plain sum in f64 at some of the elements, judged as bench/gemm.c does. */
#include "bench_library.h"
#include "bench_op.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include <math.h>
#include <string.h>

enum { CHECKED_ELEMENTS = 2048 };

typedef struct image_case {
    int64_t n, c, h, w, o, k, stride, groups, pad, oh, ow;
    tb_tensor *in[3], *g; /* image, weight, bias; gradient of the result */
} image_case;

static tb_status forward(void *arg, tb_tensor **out)
{
    const image_case *s = arg;
    *out = tb_conv2d(s->in[0], s->in[1], s->in[2],
                     &(tb_conv2d_opts){.stride = {s->stride, s->stride}, .pad = {s->pad, s->pad}, .groups = s->groups});
    return TB_OK;
}

static tb_status train(void *arg, tb_tensor **out)
{
    image_case *s = arg;
    tb_tensor *y;
    TB_TRY(forward(s, &y));
    return tb_gradients(y, &(tb_backward_opts){.grad = s->g}, 3, s->in, out);
}

/* ---- check ---- */
/* How far element (n, o, i, j) is off, as part of what rounding allows. */
static double element_error(const image_case *s, double got, int64_t n, int64_t o, int64_t i, int64_t j)
{
    const float *x = tb_tensor_host(s->in[0]), *w = tb_tensor_host(s->in[1]), *b = tb_tensor_host(s->in[2]);
    int64_t cg = s->c / s->groups, first = o / (s->o / s->groups) * cg;
    double sum = (double)b[o], size = fabs(sum);
    for (int64_t c = 0; c < cg; c++)
        for (int64_t p = 0; p < s->k; p++)
            for (int64_t q = 0; q < s->k; q++) {
                int64_t y = i * s->stride + p - s->pad, z = j * s->stride + q - s->pad;
                if (y < 0 || y >= s->h || z < 0 || z >= s->w) continue;
                double term = (double)x[((n * s->c + first + c) * s->h + y) * s->w + z] *
                              (double)w[((o * cg + c) * s->k + p) * s->k + q];
                sum += term;
                size += fabs(term);
            }
    return got == sum ? 0 : fabs(got - sum) / ((double)(cg * s->k * s->k + 1) * 0x1p-24 * size);
}

static tb_status check_elements(void *arg, const float *y)
{
    const image_case *s = arg;
    int64_t all = s->n * s->o * s->oh * s->ow, step = all / CHECKED_ELEMENTS + 1;
    double worst = 0;
    for (int64_t e = all - 1; e >= 0; e -= step) { /* from the corner that tails end in */
        int64_t plane = e / s->ow / s->oh;
        double error = element_error(s, (double)y[e], plane / s->o, plane % s->o, e / s->ow % s->oh, e % s->ow);
        if (!(error <= worst)) worst = error;
    }
    return tb_bench_judge("conv", worst);
}

/* ---- oneDNN ---- */
typedef struct peer_side {
    tb_bench_library library; /* first: tb_bench_library_run */
    image_case *ours;
    float *y;
} peer_side;

static tb_status check_peer(void *self)
{
    const peer_side *p = self;
    if (!p->library.library->conv_read(p->library.state))
        return TB_FAIL(TB_ERR_INTERNAL, "conv: the peer's result cannot be read");
    return check_elements(p->ours, p->y);
}

static tb_status join_library(const tb_bench_run *run, image_case *s, peer_side *p, tb_bench_case *c)
{
    p->ours = s;
    if (!(p->y = tb_calloc((size_t)(s->n * s->o * s->oh * s->ow), sizeof *p->y))) return TB_ERR_OOM;
    tb_peer_conv conv = {.n = s->n, .c = s->c, .h = s->h, .w = s->w, .o = s->o, .k = s->k, .stride = s->stride,
                         .pad = s->pad, .groups = s->groups, .oh = s->oh, .ow = s->ow, .x = tb_tensor_host(s->in[0]),
                         .weight = tb_tensor_host(s->in[1]), .bias = tb_tensor_host(s->in[2]), .y = p->y,
                         .threads = run->threads};
    TB_TRY(tb_bench_library_conv(&p->library, run->peer, tb_ctx_isa(run->ctx), &conv));
    c->peer = (tb_bench_side){tb_bench_library_run, p};
    c->peer_check = check_peer;
    c->peer_detail = p->library.conv.detail;
    return TB_OK;
}

static tb_status measure(tb_bench_run *run, image_case *s, bool trains)
{
    char torch[128], sizes[96];
    double depth = (double)(s->c / s->groups * s->k * s->k), outputs = (double)(s->n * s->oh * s->ow);
    tb_bench_case c = {.op = trains ? "conv2d_train" : "conv2d",
                       .flops = (trains ? 6 : 2) * outputs * (double)s->o * depth,
                       .operand_bytes = (trains ? 8 : 4) * ((double)(s->n * s->c * s->h * s->w) + depth * (double)s->o +
                                                            outputs * (double)s->o)};
    snprintf(sizes, sizeof sizes, "%lld %lld %lld %lld %lld %lld %lld %lld", (long long)s->n, (long long)s->c,
             (long long)s->h, (long long)s->w, (long long)s->o, (long long)s->k, (long long)s->stride,
             (long long)s->groups);
    snprintf(torch, sizeof torch, "%s %s", trains ? "conv_train" : "conv", sizes);
    snprintf(c.shape, sizeof c.shape, "%.63s", sizes);
    for (char *at = c.shape; *at; at++)
        if (*at == ' ') *at = 'x';
    for (int l = 0; trains && l < 3; l++) TB_TRY(tb_require_grad(s->in[l]));
    tb_bench_op op = {.call = trains ? train : forward, .n_out = trains ? 3 : 1, .arg = s, .torch = torch,
                      .check = trains ? NULL : check_elements,
                      .tolerance = 16 * sqrt(outputs + depth * (double)s->o)}; /* of the longest sum */
    peer_side peer = {0};
    bool has_library = run->peer && strcmp(run->peer, "torch") != 0;
    if (has_library && trains) return TB_OK; /* libraries join the forward alone */
    tb_status st = has_library ? join_library(run, s, &peer, &c) : TB_OK;
    if (st == TB_OK) st = tb_bench_measure_op(run, &op, &c);
    tb_bench_library_close(&peer.library);
    tb_free(peer.y);
    return st;
}

static tb_status run_conv(tb_bench_run *run)
{
    const int64_t *d = run->shape.at;
    image_case s = {.n = d[0], .c = d[1],      .h = d[2],      .w = d[3],         .o = d[4],
                    .k = d[5], .stride = d[6], .groups = d[7], .pad = d[5] / 2};
    s.oh = (s.h + 2 * s.pad - s.k) / s.stride + 1;
    s.ow = (s.w + 2 * s.pad - s.k) / s.stride + 1;
    if (s.c % s.groups || s.o % s.groups)
        return TB_FAIL(TB_ERR_CONFIG, "conv: %lld and %lld channels cannot be split into %lld groups", (long long)s.c,
                       (long long)s.o, (long long)s.groups);
    s.in[0] = tb_bench_tensor(1, 4, d);
    s.in[1] = tb_bench_tensor(2, 4, (int64_t[]){s.o, s.c / s.groups, s.k, s.k});
    s.in[2] = tb_bench_tensor(3, 1, &s.o);
    s.g = tb_bench_tensor(4, 4, (int64_t[]){s.n, s.o, s.oh, s.ow});
    if (tb_bench_wants(run, "conv2d")) TB_TRY(measure(run, &s, false));
    return tb_bench_wants(run, "conv2d_train") ? measure(run, &s, true) : TB_OK;
}

static const char *const shapes[] = {"16x1x28x28x32x5x1x1", "8x32x14x14x64x5x1x1", "8x64x14x14x64x3x1x1", NULL};
static const char *const peers[] = {"onednn", "torch", NULL};

TB_BENCH(conv, .doc = "convolution of images (S: stride, G: groups)", .shape_form = "BxCxHxWxOxKxSxG", .shapes = shapes,
         .dtypes = 1u << TB_F32, .peers = peers, .run = run_conv);
