/* What models of normalised convolutions share: convolution and batch norm, and the average over an image. */
#pragma once
#include "tb_model.h"
#include "tb_nn.h"

typedef struct tbi_conv_norm {
    tb_nn_conv2d conv; /* "<name>.conv", no bias: the norm has one */
    tb_nn_batch_norm norm;
} tbi_conv_norm;
tbi_conv_norm tbi_conv_norm_make(tb_params *ps, const char *name, int64_t in, int64_t out, int64_t kernel,
                                 int64_t stride, int64_t groups); /* padded by kernel / 2 */
tb_tensor *tbi_conv_norm_forward(const tbi_conv_norm *l, tb_tensor *x);

/* Height or width of what it makes of `size`. */
static inline int64_t tbi_conv_norm_size(int64_t size, int64_t stride) { return (size - 1) / stride + 1; }

typedef struct tbi_conv_norm_config {
    int64_t channels, kernel, stride;
} tbi_conv_norm_config;
extern const tb_block_type
    tbi_conv_norm_relu_block;                 /* [B, C, H, W] -> [B, channels, H / stride, W / stride] */
extern const tb_block_type tbi_average_block; /* [B, C, H, W] -> [B, C] */
