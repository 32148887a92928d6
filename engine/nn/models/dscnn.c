/* dscnn: depthwise separable convolutions, as the DS-CNN of Zhang, Suda, Lai, Chandra: "Hello Edge" (2017),
 * after Howard and others: "MobileNets" (2017): a 3x3 convolution of stride 2, then blocks of a depthwise 3x3
 * and a 1x1 convolution, each with norm and relu. [B, 1, H, W] -> [B, classes] */
#include "conv_norm.h"
#include "dense.h"
#include "tb_ops.h"

/* ---- separable ---- */
typedef struct separable {
    tbi_conv_norm depthwise, pointwise;
} separable;

static void separable_make(tb_params *ps, void *block, const void *config, const tb_boundary *in,
                           tb_boundary *out)
{
    (void)config;
    separable *p = block;
    int64_t channels = in->dims[1];
    p->depthwise = tbi_conv_norm_make(ps, "depthwise", channels, channels, 3, 1, channels);
    p->pointwise = tbi_conv_norm_make(ps, "pointwise", channels, channels, 1, 1, 1);
    *out = *in;
}

static tb_tensor *separable_forward(const void *block, tb_tensor *x)
{
    const separable *p = block;
    tb_scope *s = tb_scope_open();
    tb_tensor *y = tb_relu(tbi_conv_norm_forward(&p->depthwise, x));
    return tb_scope_escape(s, tb_relu(tbi_conv_norm_forward(&p->pointwise, y)));
}

static const tb_block_type separable_type = {
    .name = "separable", .bytes = sizeof(separable), .make = separable_make, .forward = separable_forward};

/* ---- the model ---- */
static tb_status dscnn_build(tb_model_builder *b)
{
    int64_t size = tb_model_int(b, "size"), width = tb_model_int(b, "width");
    tb_model_input(b, tb_model_dtype(b), 4, (int64_t[]){TB_DIM_BATCH, 1, size, size});
    tb_model_block(b, "stem", &tbi_conv_norm_relu_block, &(tbi_conv_norm_config){width, 3, 2});
    for (int i = 0; i < tb_model_int(b, "layers"); i++)
        tb_model_block(b, "block.%d", &separable_type, NULL, i);
    tb_model_block(b, "average", &tbi_average_block, NULL);
    return tb_model_block(b, "fc", &tbi_dense_block,
                          &(tbi_dense_config){tb_model_int(b, "classes"), TBI_ACT_NONE});
}

static const tb_key dscnn_keys[] = {
    {"layers", TB_KEY_INT, "", 1, 200, NULL, "4", "separable blocks"},
    {"width", TB_KEY_INT, "", 1, 1 << 12, NULL, "64", "channels"},
    {"size", TB_KEY_INT, "pixels", 8, 1 << 12, NULL, "28", "height and width of the images"},
    {"classes", TB_KEY_INT, "", 2, 1 << 16, NULL, "10", "of images"},
};

TB_MODEL(dscnn) = {"dscnn", "depthwise separable convolutions", dscnn_keys,
                   sizeof dscnn_keys / sizeof dscnn_keys[0], dscnn_build};
