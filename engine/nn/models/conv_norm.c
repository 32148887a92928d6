/* Convolution, batch norm, relu; the average over an image. */
#include "conv_norm.h"
#include "tb_ops.h"

tbi_conv_norm tbi_conv_norm_make(tb_params *ps, const char *name, int64_t in, int64_t out, int64_t kernel,
                                 int64_t stride, int64_t groups)
{
    tb_nn_conv2d_opts opts = {.stride = stride, .pad = kernel / 2, .groups = groups, .no_bias = true};
    size_t mark = tb_params_enter(ps, name);
    tbi_conv_norm l = {tb_nn_conv2d_make(ps, "conv", in, out, kernel, &opts),
                       tb_nn_batch_norm_make(ps, "norm", out)};
    tb_params_leave(ps, mark);
    return l;
}

tb_tensor *tbi_conv_norm_forward(const tbi_conv_norm *l, tb_tensor *x)
{
    tb_scope *s = tb_scope_open(); /* what the norm has read goes at once: its memory is warm for the next op */
    return tb_scope_escape(s, tb_nn_batch_norm_forward(&l->norm, tb_nn_conv2d_forward(&l->conv, x)));
}

/* ---- conv_norm_relu ---- */
static void conv_norm_relu_make(tb_params *ps, void *block, const void *config, const tb_boundary *in,
                                tb_boundary *out)
{
    const tbi_conv_norm_config *c = config;
    *(tbi_conv_norm *)block = tbi_conv_norm_make(ps, "", in->dims[1], c->channels, c->kernel, c->stride, 1);
    int64_t h = tbi_conv_norm_size(in->dims[2], c->stride), w = tbi_conv_norm_size(in->dims[3], c->stride);
    *out = (tb_boundary){in->dtype, 4, {TB_DIM_BATCH, c->channels, h, w}};
}

static tb_tensor *conv_norm_relu_forward(const void *block, tb_tensor *x)
{
    tb_scope *s = tb_scope_open();
    return tb_scope_escape(s, tb_relu(tbi_conv_norm_forward(block, x)));
}

const tb_block_type tbi_conv_norm_relu_block = {.name = "conv_norm_relu",
                                                .bytes = sizeof(tbi_conv_norm),
                                                .make = conv_norm_relu_make,
                                                .forward = conv_norm_relu_forward};

/* ---- average ---- */
static void average_make(tb_params *ps, void *block, const void *config, const tb_boundary *in,
                         tb_boundary *out)
{
    (void)ps, (void)block, (void)config;
    *out = (tb_boundary){in->dtype, 2, {TB_DIM_BATCH, in->dims[1]}};
}

static tb_tensor *average_forward(const void *block, tb_tensor *x)
{
    (void)block;
    return tb_mean(x, 2, (int64_t[]){2, 3}, false);
}

const tb_block_type tbi_average_block = {
    .name = "average", .bytes = 1, .make = average_make, .forward = average_forward};
