/* resnet: the CIFAR networks of He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition" (2016),
 * section 4.2: a 3x3 convolution, three stages of n residual blocks with 16, 32, 64 channels, depth = 6 n +
 * 2; the first block of the later stages halves height and width. Shortcuts that change shape are 1x1
 * convolutions (their option B). [B, channels, H, W] -> [B, classes] */
#include "conv_norm.h"
#include "dense.h"
#include "tb_ops.h"

/* ---- residual: relu(x' + norm(conv(relu(norm(conv(x)))))) ---- */
typedef struct residual_config {
    int64_t channels, stride;
} residual_config;

typedef struct residual {
    tbi_conv_norm first, second, shortcut;
    bool projects; /* the shortcut is a convolution */
} residual;

static void residual_make(tb_params *ps, void *block, const void *config, const tb_boundary *in,
                          tb_boundary *out)
{
    const residual_config *c = config;
    residual *p = block;
    int64_t channels = in->dims[1];
    p->first = tbi_conv_norm_make(ps, "first", channels, c->channels, 3, c->stride, 1);
    p->second = tbi_conv_norm_make(ps, "second", c->channels, c->channels, 3, 1, 1);
    p->projects = c->stride != 1 || channels != c->channels;
    if (p->projects) p->shortcut = tbi_conv_norm_make(ps, "shortcut", channels, c->channels, 1, c->stride, 1);
    int64_t h = tbi_conv_norm_size(in->dims[2], c->stride), w = tbi_conv_norm_size(in->dims[3], c->stride);
    *out = (tb_boundary){in->dtype, 4, {TB_DIM_BATCH, c->channels, h, w}};
}

static tb_tensor *residual_forward(const void *block, tb_tensor *x)
{
    const residual *p = block;
    tb_scope *s = tb_scope_open();
    tb_scope *inner = tb_scope_open();
    tb_tensor *y = tbi_conv_norm_forward(&p->second, tb_relu(tbi_conv_norm_forward(&p->first, x)));
    y = tb_scope_escape(inner, y);
    tb_tensor *shortcut = p->projects ? tbi_conv_norm_forward(&p->shortcut, x) : x;
    return tb_scope_escape(s, tb_relu(tb_add(y, shortcut)));
}

static const tb_block_type residual_type = {
    .name = "residual", .bytes = sizeof(residual), .make = residual_make, .forward = residual_forward};

/* ---- the model ---- */
static tb_status resnet_build(tb_model_builder *b)
{
    int64_t depth = tb_model_int(b, "depth"), size = tb_model_int(b, "size"),
            width = tb_model_int(b, "width");
    if (depth % 6 != 2)
        return TB_FAIL(TB_ERR_CONFIG, "resnet: depth %lld is not 6 n + 2 (8, 14, 20, 32, ..)",
                       (long long)depth);
    tb_model_input(b, tb_model_dtype(b), 4,
                   (int64_t[]){TB_DIM_BATCH, tb_model_int(b, "channels"), size, size});
    tb_model_block(b, "stem", &tbi_conv_norm_relu_block, &(tbi_conv_norm_config){width, 3, 1});
    for (int stage = 0; stage < 3; stage++)
        for (int i = 0; i < depth / 6; i++)
            tb_model_block(b, "stage%d.%d", &residual_type,
                           &(residual_config){width << stage, stage > 0 && i == 0 ? 2 : 1}, stage + 1, i);
    tb_model_block(b, "average", &tbi_average_block, NULL);
    return tb_model_block(b, "fc", &tbi_dense_block,
                          &(tbi_dense_config){tb_model_int(b, "classes"), TBI_ACT_NONE});
}

static const tb_key resnet_keys[] = {
    {"depth", TB_KEY_INT, "layers", 8, 1 << 8, NULL, "20", "6 n + 2"},
    {"width", TB_KEY_INT, "", 1, 1 << 10, NULL, "16", "channels of the first stage"},
    {"size", TB_KEY_INT, "pixels", 4, 1 << 12, NULL, "28", "height and width of the images"},
    {"channels", TB_KEY_INT, "", 1, 1 << 10, NULL, "1", "of images"},
    {"classes", TB_KEY_INT, "", 2, 1 << 16, NULL, "10", "of images"},
};

TB_MODEL(resnet) = {"resnet", "residual network of the CIFAR kind: 3x3 convolutions in three stages",
                    resnet_keys, sizeof resnet_keys / sizeof resnet_keys[0], resnet_build};
