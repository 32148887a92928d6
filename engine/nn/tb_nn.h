/* Layers: structures of parameters with a maker and a forward. A maker adds "<name>.weight" and so on to the set under
 * its current prefix, with PyTorch's shapes and initial values; forward is plain ops. A failed maker leaves poison
 * (tb_params_status tells), so makers are used without checks. */
#pragma once
#include "tb_params.h"

/* torch.nn.Linear: weight [out, in], bias [out]; uniform(+-1/sqrt(in)). */
typedef struct tb_nn_linear {
    tb_tensor *weight, *bias; /* bias NULL: none */
} tb_nn_linear;
tb_nn_linear tb_nn_linear_make(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias);
/* The same with weights from `init` and a zero bias. */
tb_nn_linear tb_nn_linear_make_with(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias, tb_init init);
tb_tensor *tb_nn_linear_forward(const tb_nn_linear *l, tb_tensor *x); /* [.., in] -> [.., out] */

/* torch.nn.Conv2d: weight [out, in / groups, kernel, kernel], bias [out]; uniform(+-1/sqrt(in / groups * kernel^2)). */
typedef struct tb_nn_conv2d {
    tb_tensor *weight, *bias;
    int64_t stride, pad, groups;
} tb_nn_conv2d;
typedef struct tb_nn_conv2d_opts {
    int64_t stride, pad, groups; /* stride 0 and groups 0 mean 1 */
    bool no_bias;
} tb_nn_conv2d_opts;
tb_nn_conv2d tb_nn_conv2d_make(tb_params *ps, const char *name, int64_t in, int64_t out, int64_t kernel,
                               const tb_nn_conv2d_opts *opts); /* opts NULL: all defaults */
tb_tensor *tb_nn_conv2d_forward(const tb_nn_conv2d *l, tb_tensor *x); /* [N, in, H, W] -> [N, out, H', W'] */

/* torch.nn.Embedding: weight [count, width], normal(0, 1) there; `std` here. */
typedef struct tb_nn_embedding {
    tb_tensor *weight;
} tb_nn_embedding;
tb_nn_embedding tb_nn_embedding_make(tb_params *ps, const char *name, int64_t count, int64_t width, double std);
tb_tensor *tb_nn_embedding_forward(const tb_nn_embedding *l, tb_tensor *indices); /* [..] i32 or i64 -> [.., width] */

/* torch.nn.LayerNorm over the last dimension: weight ones, bias zeros. */
typedef struct tb_nn_layer_norm {
    tb_tensor *weight, *bias;
    double eps;
} tb_nn_layer_norm;
tb_nn_layer_norm tb_nn_layer_norm_make(tb_params *ps, const char *name, int64_t width);
tb_tensor *tb_nn_layer_norm_forward(const tb_nn_layer_norm *l, tb_tensor *x);

/* torch.nn.BatchNorm2d (and 1d): weight ones, bias zeros, buffers running_mean zeros and running_var ones.
 * Training normalises by the batch and moves the averages by a tenth of the way, once a forward pass, recomputed or
 * not; evaluation takes the averages. */
typedef struct tb_nn_batch_norm {
    tb_tensor *weight, *bias, *running_mean, *running_var;
    const bool *training; /* the set's switch */
} tb_nn_batch_norm;
tb_nn_batch_norm tb_nn_batch_norm_make(tb_params *ps, const char *name, int64_t channels);
tb_tensor *tb_nn_batch_norm_forward(const tb_nn_batch_norm *l, tb_tensor *x); /* [N, channels, ..] -> the same */

/* Identity in evaluation. Draws follow the context's stream (tb_ctx_set_stream): global sample by global sample. */
typedef struct tb_nn_dropout {
    double p;             /* of an element to become 0; the rest is scaled by 1 / (1 - p) */
    const bool *training; /* the set's switch */
} tb_nn_dropout;
tb_nn_dropout tb_nn_dropout_make(tb_params *ps, double p);
tb_tensor *tb_nn_dropout_forward(const tb_nn_dropout *l, tb_tensor *x);

/* ---- transformer: Vaswani et al., "Attention Is All You Need" (2017) ---- */
/* Self-attention over `heads` heads of width / heads: "qkv" makes queries, keys and values in one product, "proj" mixes
 * the heads. `std` of weights, `proj_std` of the projection; biases start at zero. */
typedef struct tb_nn_attention {
    tb_nn_linear qkv, proj;
    int64_t heads;
    bool causal;
    tb_nn_dropout drop;
} tb_nn_attention;
typedef struct tb_nn_attention_config {
    int64_t width, heads; /* heads divides width */
    bool causal;
    double std, proj_std, dropout;
} tb_nn_attention_config;
tb_nn_attention tb_nn_attention_make(tb_params *ps, const char *name, const tb_nn_attention_config *c);
tb_tensor *tb_nn_attention_forward(const tb_nn_attention *l, tb_tensor *x); /* [B, T, width] -> the same */

/* Generation, one token a row at a time: x [B, 1, width] -> the same. *cache [B, 2, heads, capacity, width / heads]
 * holds the keys and values of the tokens so far and becomes the one that holds this token's too; place: i64 [B], where
 * each row's token stands, 0 <= place < capacity. The result has the bits of the whole row's causal forward at that
 * place. */
tb_tensor *tb_nn_attention_step(const tb_nn_attention *l, tb_tensor *x, tb_tensor *place, tb_tensor **cache);

/* Pre-norm block (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020):
 * h = x + attention(norm1(x)); y = h + proj(gelu(fc(norm2(h)))), fc four times as wide. */
typedef struct tb_nn_transformer_block {
    tb_nn_layer_norm norm1, norm2;
    tb_nn_attention attn;
    tb_nn_linear fc, proj;
    tb_nn_dropout drop;
} tb_nn_transformer_block;
/* Adds "norm1", "attn", "norm2", "fc" and "proj" under the set's prefix. */
tb_nn_transformer_block tb_nn_transformer_block_make(tb_params *ps, const tb_nn_attention_config *c);
tb_tensor *tb_nn_transformer_block_forward(const tb_nn_transformer_block *l, tb_tensor *x);
tb_tensor *tb_nn_transformer_block_step(const tb_nn_transformer_block *l, tb_tensor *x, tb_tensor *place,
                                        tb_tensor **cache); /* as tb_nn_attention_step */
