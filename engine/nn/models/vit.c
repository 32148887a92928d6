/* vit: a vision transformer (Dosovitskiy and others: "An Image is Worth 16x16 Words", 2021): patches through
 * one linear layer, learnt places, pre-norm blocks, a last norm. The head reads the average over patches
 * instead of a token of its own (their appendix D.3). [B, 1, H, W] -> [B, classes] */
#include "tb_model.h"
#include "tb_nn.h"
#include "tb_ops.h"
#include <math.h>

static const double weight_std = 0.02;

/* ---- embed: [B, 1, H, W] -> [B, patches, width] ---- */
typedef struct embed_config {
    int64_t patch, width;
} embed_config;

typedef struct embed {
    tb_nn_linear patches;
    tb_tensor *place;             /* [patches, width] */
    int64_t patch, rows, columns; /* rows, columns: of patches */
} embed;

static void embed_make(tb_params *ps, void *block, const void *config, const tb_boundary *in,
                       tb_boundary *out)
{
    const embed_config *c = config;
    embed *p = block;
    *p = (embed){.patch = c->patch, .rows = in->dims[2] / c->patch, .columns = in->dims[3] / c->patch};
    p->patches = tb_nn_linear_make(ps, "patches", c->patch * c->patch, c->width, true);
    p->place = tb_params_add(ps, "place", tb_init_normal(weight_std), 2,
                             (int64_t[]){p->rows * p->columns, c->width});
    *out = (tb_boundary){in->dtype, 3, {TB_DIM_BATCH, p->rows * p->columns, c->width}};
}

static tb_tensor *embed_forward(const void *block, tb_tensor *x)
{
    const embed *p = block;
    tb_scope *s = tb_scope_open();
    int64_t b = tb_tensor_dim(x, 0);
    x = tb_permute(tb_reshape(x, 5, (int64_t[]){b, p->rows, p->patch, p->columns, p->patch}), 5,
                   (int64_t[]){0, 1, 3, 2, 4});
    x = tb_reshape(x, 3, (int64_t[]){b, p->rows * p->columns, p->patch * p->patch});
    return tb_scope_escape(s, tb_add(tb_nn_linear_forward(&p->patches, x), p->place));
}

static const tb_block_type embed_type = {
    .name = "patch_embed", .bytes = sizeof(embed), .make = embed_make, .forward = embed_forward};

/* ---- blocks ---- */
static void block_make(tb_params *ps, void *block, const void *config, const tb_boundary *in,
                       tb_boundary *out)
{
    *(tb_nn_transformer_block *)block = tb_nn_transformer_block_make(ps, config);
    *out = *in;
}

static tb_tensor *block_forward(const void *block, tb_tensor *x)
{
    return tb_nn_transformer_block_forward(block, x);
}

static const tb_block_type block_type = {.name = "transformer_block",
                                         .bytes = sizeof(tb_nn_transformer_block),
                                         .make = block_make,
                                         .forward = block_forward};

/* ---- head: [B, patches, width] -> [B, classes] ---- */
typedef struct head {
    tb_nn_layer_norm norm;
    tb_nn_linear fc;
} head;

static void head_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    int64_t classes = *(const int64_t *)config;
    *(head *)block = (head){tb_nn_layer_norm_make(ps, "norm", in->dims[2]),
                            tb_nn_linear_make(ps, "fc", in->dims[2], classes, true)};
    *out = (tb_boundary){in->dtype, 2, {TB_DIM_BATCH, classes}};
}

static tb_tensor *head_forward(const void *block, tb_tensor *x)
{
    const head *p = block;
    tb_scope *s = tb_scope_open();
    tb_tensor *mean = tb_mean(tb_nn_layer_norm_forward(&p->norm, x), 1, (int64_t[]){1}, false);
    return tb_scope_escape(s, tb_nn_linear_forward(&p->fc, mean));
}

static const tb_block_type head_type = {
    .name = "average_head", .bytes = sizeof(head), .make = head_make, .forward = head_forward};

/* ---- the model ---- */
static tb_status vit_build(tb_model_builder *b)
{
    int64_t size = tb_model_int(b, "size"), patch = tb_model_int(b, "patch"),
            width = tb_model_int(b, "width");
    int64_t layers = tb_model_int(b, "layers"), heads = tb_model_int(b, "heads"),
            classes = tb_model_int(b, "classes");
    if (width % heads)
        return TB_FAIL(TB_ERR_CONFIG, "vit: width %lld cannot be shared by %lld heads", (long long)width,
                       (long long)heads);
    if (size % patch)
        return TB_FAIL(TB_ERR_CONFIG, "vit: images of %lld pixels are not cut into patches of %lld",
                       (long long)size, (long long)patch);
    tb_model_input(b, tb_model_dtype(b), 4, (int64_t[]){TB_DIM_BATCH, 1, size, size});
    tb_model_block(b, "embed", &embed_type, &(embed_config){patch, width});
    tb_nn_attention_config c = {
        .width = width, .heads = heads, .std = weight_std, .proj_std = weight_std / sqrt(2 * (double)layers)};
    for (int i = 0; i < layers; i++) tb_model_block(b, "block.%d", &block_type, &c, i);
    return tb_model_block(b, "head", &head_type, &classes);
}

static const tb_key vit_keys[] = {
    {"layers", TB_KEY_INT, "", 1, 200, NULL, "4", "transformer blocks"},
    {"width", TB_KEY_INT, "", 1, 1 << 16, NULL, "96", "of the residual stream"},
    {"heads", TB_KEY_INT, "", 1, 1024, NULL, "3", "divide the width"},
    {"patch", TB_KEY_INT, "pixels", 1, 1 << 10, NULL, "7", "height and width of a patch"},
    {"size", TB_KEY_INT, "pixels", 1, 1 << 12, NULL, "28", "height and width of the images"},
    {"classes", TB_KEY_INT, "", 2, 1 << 16, NULL, "10", "of images"},
};

TB_MODEL(vit) = {"vit", "vision transformer over patches", vit_keys, sizeof vit_keys / sizeof vit_keys[0],
                 vit_build};
