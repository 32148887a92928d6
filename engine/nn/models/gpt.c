/* gpt: a decoder-only transformer over bytes, as GPT-2 (Radford et al., "Language Models are Unsupervised Multitask
 * Learners", 2019): embeddings of bytes and places, pre-norm blocks, a last norm, and a head tied to the byte
 * embedding. [B, T] i32 -> [B, T, vocab] logits. Weights start from normal(0, 0.02), projections into the residual
 * stream from 0.02 / sqrt(2 layers). */
#include "tb_model.h"
#include "tb_nn.h"
#include "tb_ops.h"
#include <math.h>
#include <string.h>

static const double weight_std = 0.02;

/* ---- embed ---- */
typedef struct embed_config {
    int64_t vocab, context, width;
    double dropout;
} embed_config;

typedef struct embed {
    tb_nn_embedding token, place;
    tb_nn_dropout drop;
} embed;

static void embed_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    const embed_config *c = config;
    embed *p = block;
    (void)in;
    p->token = tb_nn_embedding_make(ps, "token", c->vocab, c->width, weight_std);
    p->place = tb_nn_embedding_make(ps, "place", c->context, c->width, weight_std);
    p->drop = tb_nn_dropout_make(ps, c->dropout);
    *out = (tb_boundary){tb_params_dtype(ps), 3, {TB_DIM_BATCH, TB_DIM_TIME, c->width}};
}

static tb_tensor *embed_forward(const void *block, tb_tensor *x)
{
    const embed *p = block;
    tb_scope *s = tb_scope_open();
    tb_tensor *places = tb_slice(p->place.weight, 0, 0, tb_tensor_dim(x, 1), 1); /* [T, C] */
    tb_tensor *y = tb_add(tb_nn_embedding_forward(&p->token, x), places);
    return tb_scope_escape(s, tb_nn_dropout_forward(&p->drop, y));
}

static tb_tensor *embed_step(const void *block, tb_tensor *x, const tb_step *at, tb_tensor **cache)
{
    const embed *p = block;
    tb_scope *s = tb_scope_open();
    (void)cache;
    int64_t width = tb_tensor_dim(p->place.weight, 1); /* the reshape fails where the context is shorter */
    tb_tensor *places =
        tb_reshape(tb_slice(p->place.weight, 0, 0, at->capacity, 1), 2, (int64_t[]){at->capacity, width});
    tb_tensor *place = tb_embedding(places, tb_reshape(at->place, 2, (int64_t[]){tb_tensor_dim(x, 0), 1}));
    return tb_scope_escape(s, tb_add(tb_nn_embedding_forward(&p->token, x), place));
}

static const tb_block_type embed_type = {.name = "embed", .bytes = sizeof(embed), .make = embed_make,
                                         .forward = embed_forward, .step = embed_step};

/* ---- blocks ---- */
static void block_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    *(tb_nn_transformer_block *)block = tb_nn_transformer_block_make(ps, config);
    *out = *in;
}

static tb_tensor *block_forward(const void *block, tb_tensor *x) { return tb_nn_transformer_block_forward(block, x); }

static tb_tensor *block_step(const void *block, tb_tensor *x, const tb_step *at, tb_tensor **cache)
{
    return tb_nn_transformer_block_step(block, x, at->place, cache);
}

static int block_cache(const void *block, int64_t capacity, int64_t dims[TB_MAX_RANK])
{
    const tb_nn_transformer_block *l = block;
    int64_t width = tb_tensor_dim(l->attn.proj.weight, 0);
    memcpy(dims, (int64_t[]){2, l->attn.heads, capacity, width / l->attn.heads}, 4 * sizeof *dims);
    return 4;
}

static const tb_block_type block_type = {.name = "transformer_block", .bytes = sizeof(tb_nn_transformer_block),
                                         .make = block_make, .forward = block_forward, .step = block_step,
                                         .cache = block_cache};

/* ---- head ---- */
typedef struct head_config {
    const char *tie; /* NULL: weights of its own, so that no two stages of a pipeline share any */
    int64_t vocab;
} head_config;

typedef struct head {
    tb_nn_layer_norm norm;
    tb_tensor *token; /* [vocab, C] */
} head;

static void head_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    const head_config *c = config;
    head *p = block;
    p->norm = tb_nn_layer_norm_make(ps, "norm", in->dims[2]);
    p->token = c->tie ? tb_params_share(ps, c->tie)
                      : tb_params_add(ps, "weight", tb_init_normal(weight_std), 2, (int64_t[]){c->vocab, in->dims[2]});
    *out = *in;
    out->dims[2] = c->vocab;
}

static tb_tensor *head_forward(const void *block, tb_tensor *x)
{
    const head *p = block;
    tb_scope *s = tb_scope_open();
    return tb_scope_escape(s, tb_linear(tb_nn_layer_norm_forward(&p->norm, x), p->token, NULL));
}

static const tb_block_type head_type = {
    .name = "head", .bytes = sizeof(head), .make = head_make, .forward = head_forward};

/* ---- the model ---- */
static tb_status gpt_build(tb_model_builder *b)
{
    int64_t vocab = tb_model_int(b, "vocab"), context = tb_model_int(b, "context"), width = tb_model_int(b, "width");
    int64_t layers = tb_model_int(b, "layers"), heads = tb_model_int(b, "heads");
    double dropout = tb_model_num(b, "dropout");
    if (width % heads)
        return TB_FAIL(TB_ERR_CONFIG, "gpt: width %lld cannot be shared by %lld heads", (long long)width,
                       (long long)heads);
    tb_model_input(b, TB_I32, 2, (int64_t[]){TB_DIM_BATCH, TB_DIM_TIME});
    tb_model_block(b, "embed", &embed_type, &(embed_config){vocab, context, width, dropout});
    tb_nn_attention_config c = {.width = width, .heads = heads, .causal = true, .std = weight_std,
                                .proj_std = weight_std / sqrt(2 * (double)layers), .dropout = dropout};
    for (int i = 0; i < layers; i++) tb_model_block(b, "block.%d", &block_type, &c, i);
    const char *tie = strcmp(tb_model_str(b, "tie"), "true") == 0 ? "embed.token.weight" : NULL;
    return tb_model_block(b, "head", &head_type, &(head_config){tie, vocab});
}

static const tb_key gpt_keys[] = {
    {"layers", TB_KEY_INT, "", 1, 200, NULL, "4", "transformer blocks"},
    {"width", TB_KEY_INT, "", 1, 1 << 16, NULL, "256", "of the residual stream"},
    {"heads", TB_KEY_INT, "", 1, 1024, NULL, "8", "divide the width"},
    {"context", TB_KEY_INT, "", 1, 1 << 16, NULL, "128", "longest row"},
    {"vocab", TB_KEY_INT, "", 2, 1 << 24, NULL, "256", "256: bytes"},
    {"tie", TB_KEY_BOOL, "", 0, 0, NULL, "true", "the head's weights are the byte embedding"},
    {"dropout", TB_KEY_NUM, "", 0, 0.95, NULL, "0", "behind the embedding and in both halves of a block"},
};

TB_MODEL(gpt) = {"gpt", "decoder-only transformer over bytes", gpt_keys, sizeof gpt_keys / sizeof gpt_keys[0],
                 gpt_build};
