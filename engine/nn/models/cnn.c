/* cnn: two convolutions 5x5 with pooling, then two linear layers. [B, 1, H, W] -> [B, classes] */
#include "dense.h"
#include "tb_nn.h"
#include "tb_ops.h"

/* ---- convolution, relu, 2x2 max pooling ---- */
typedef struct stage_config {
    int64_t channels, kernel;
} stage_config;

typedef struct stage {
    tb_nn_conv2d conv;
} stage;

static void stage_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    const stage_config *c = config;
    ((stage *)block)->conv = tb_nn_conv2d_make(ps, "", in->dims[1], c->channels, c->kernel, NULL);
    int64_t h = (in->dims[2] - c->kernel + 1) / 2, w = (in->dims[3] - c->kernel + 1) / 2;
    *out = (tb_boundary){in->dtype, 4, {TB_DIM_BATCH, c->channels, h, w}};
}

static tb_tensor *stage_forward(const void *block, tb_tensor *x)
{
    const stage *p = block;
    tb_scope *s = tb_scope_open();
    tb_tensor *y = tb_relu(tb_nn_conv2d_forward(&p->conv, x));
    return tb_scope_escape(s, tb_max_pool2d(y, &(tb_pool2d_opts){.kernel = {2, 2}}));
}

static const tb_block_type stage_type = {.name = "conv_relu_pool", .bytes = sizeof(stage), .make = stage_make,
                                         .forward = stage_forward};

static tb_status cnn_build(tb_model_builder *b)
{
    int64_t size = tb_model_int(b, "size"), width = tb_model_int(b, "width"), classes = tb_model_int(b, "classes");
    tb_model_input(b, tb_model_dtype(b), 4, (int64_t[]){TB_DIM_BATCH, 1, size, size});
    tb_model_block(b, "conv1", &stage_type, &(stage_config){32, 5});
    tb_model_block(b, "conv2", &stage_type, &(stage_config){64, 5});
    tb_model_block(b, "fc1", &tbi_dense_block, &(tbi_dense_config){width, TBI_ACT_RELU});
    return tb_model_block(b, "fc2", &tbi_dense_block, &(tbi_dense_config){classes, TBI_ACT_NONE});
}

static const tb_key cnn_keys[] = {
    {"size", TB_KEY_INT, "pixels", 16, 1 << 12, NULL, "28", "height and width of the images"},
    {"width", TB_KEY_INT, "", 1, 1 << 16, NULL, "512", "of the hidden linear layer"},
    {"classes", TB_KEY_INT, "", 2, 1 << 16, NULL, "10", "of images"},
};

TB_MODEL(cnn) = {"cnn", "conv 5x5 1-32, pool, conv 5x5 32-64, pool, fc 512, fc 10", cnn_keys,
                 sizeof cnn_keys / sizeof cnn_keys[0], cnn_build};
