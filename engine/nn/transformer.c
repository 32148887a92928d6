/* Self-attention and the pre-norm transformer block. */
#include "tb_nn.h"
#include "tb_ops.h"

tb_nn_attention tb_nn_attention_make(tb_params *ps, const char *name, const tb_nn_attention_config *c)
{
    tb_nn_attention l = {.heads = c->heads, .causal = c->causal, .drop = tb_nn_dropout_make(ps, c->dropout)};
    size_t mark = tb_params_enter(ps, name);
    l.qkv = tb_nn_linear_make_with(ps, "qkv", c->width, 3 * c->width, true, tb_init_normal(c->std));
    l.proj = tb_nn_linear_make_with(ps, "proj", c->width, c->width, true, tb_init_normal(c->proj_std));
    tb_params_leave(ps, mark);
    return l;
}

tb_tensor *tb_nn_attention_forward(const tb_nn_attention *l, tb_tensor *x)
{
    tb_scope *s = tb_scope_open();
    int64_t b = tb_tensor_dim(x, 0), t = tb_tensor_dim(x, 1), c = tb_tensor_dim(x, 2), h = l->heads;
    tb_tensor *part[3]; /* q, k, v: [B, heads, T, width / heads], views of one product */
    tb_tensor_split(tb_nn_linear_forward(&l->qkv, x), -1, 3, (int64_t[]){c, c, c}, part);
    for (int i = 0; i < 3; i++) part[i] = tb_transpose(tb_reshape(part[i], 4, (int64_t[]){b, t, h, c / h}), 1, 2);
    tb_tensor *y =
        tb_scaled_dot_product_attention(part[0], part[1], part[2], &(tb_attention_opts){.causal = l->causal});
    y = tb_reshape(tb_transpose(y, 1, 2), 3, (int64_t[]){b, t, c});
    y = tb_nn_dropout_forward(&l->drop, tb_nn_linear_forward(&l->proj, y));
    return tb_scope_escape(s, y);
}

/* The token's key and value are put into the cache at its place, then its query attends to the keys up to there. */
tb_tensor *tb_nn_attention_step(const tb_nn_attention *l, tb_tensor *x, tb_tensor *place, tb_tensor **cache)
{
    tb_scope *s = tb_scope_open();
    int64_t b = tb_tensor_dim(x, 0), c = tb_tensor_dim(x, 2), h = l->heads, capacity = tb_tensor_dim(*cache, 3);
    tb_tensor *part[2], *kv[2]; /* query; key and value side by side */
    tb_tensor_split(tb_nn_linear_forward(&l->qkv, x), -1, 2, (int64_t[]){c, 2 * c}, part);
    tb_tensor *q = tb_transpose(tb_reshape(part[0], 4, (int64_t[]){b, 1, h, c / h}), 1, 2);
    const int64_t row[] = {b, 2, h, 1, c / h};
    tb_tensor *where = tb_expand(tb_reshape(place, 5, (int64_t[]){b, 1, 1, 1, 1}), 5, row);
    tb_tensor *after = tb_scatter(*cache, 3, where, tb_reshape(part[1], 5, row));
    for (int i = 0; i < 2; i++)
        kv[i] = tb_reshape(tb_slice(after, 1, i, i + 1, 1), 4, (int64_t[]){b, h, capacity, c / h});
    tb_tensor *length = tb_add(place, tb_scalar(TB_I64, 1));
    tb_tensor *y = tb_scaled_dot_product_attention(q, kv[0], kv[1], &(tb_attention_opts){.kv_len = length});
    y = tb_nn_linear_forward(&l->proj, tb_reshape(tb_transpose(y, 1, 2), 3, (int64_t[]){b, 1, c}));
    tb_scope_keep(s, after);
    *cache = after;
    return tb_scope_escape(s, y);
}

tb_nn_transformer_block tb_nn_transformer_block_make(tb_params *ps, const tb_nn_attention_config *c)
{
    tb_nn_transformer_block l;
    l.norm1 = tb_nn_layer_norm_make(ps, "norm1", c->width);
    l.attn = tb_nn_attention_make(ps, "attn", c);
    l.norm2 = tb_nn_layer_norm_make(ps, "norm2", c->width);
    l.fc = tb_nn_linear_make_with(ps, "fc", c->width, 4 * c->width, true, tb_init_normal(c->std));
    l.proj = tb_nn_linear_make_with(ps, "proj", 4 * c->width, c->width, true, tb_init_normal(c->proj_std));
    l.drop = tb_nn_dropout_make(ps, c->dropout);
    return l;
}

tb_tensor *tb_nn_transformer_block_forward(const tb_nn_transformer_block *l, tb_tensor *x)
{
    tb_scope *s = tb_scope_open();
    tb_tensor *h = tb_add(x, tb_nn_attention_forward(&l->attn, tb_nn_layer_norm_forward(&l->norm1, x)));
    tb_tensor *wide = tb_gelu_tanh(tb_nn_linear_forward(&l->fc, tb_nn_layer_norm_forward(&l->norm2, h)));
    tb_tensor *y = tb_add(h, tb_nn_dropout_forward(&l->drop, tb_nn_linear_forward(&l->proj, wide)));
    return tb_scope_escape(s, y);
}

tb_tensor *tb_nn_transformer_block_step(const tb_nn_transformer_block *l, tb_tensor *x, tb_tensor *place,
                                        tb_tensor **cache)
{
    tb_scope *s = tb_scope_open();
    tb_tensor *h = tb_add(x, tb_nn_attention_step(&l->attn, tb_nn_layer_norm_forward(&l->norm1, x), place, cache));
    tb_tensor *wide = tb_gelu_tanh(tb_nn_linear_forward(&l->fc, tb_nn_layer_norm_forward(&l->norm2, h)));
    tb_tensor *y = tb_add(h, tb_nn_linear_forward(&l->proj, wide));
    tb_scope_keep(s, *cache);
    return tb_scope_escape(s, y);
}
