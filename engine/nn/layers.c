/* Linear, convolution, embedding, normalisation, dropout: makers and forwards. */
#include "tb_nn.h"
#include "tb_ops.h"
#include <math.h>

/* ---- linear ---- */
static tb_nn_linear linear(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias, tb_init weights,
                           tb_init biases)
{
    tb_nn_linear l = {0};
    size_t mark = tb_params_enter(ps, name);
    l.weight = tb_params_add(ps, "weight", weights, 2, (int64_t[]){out, in});
    if (bias) l.bias = tb_params_add(ps, "bias", biases, 1, &out);
    tb_params_leave(ps, mark);
    return l;
}

tb_nn_linear tb_nn_linear_make(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias)
{
    tb_init init = tb_init_kaiming_uniform(in, sqrt(5));
    return linear(ps, name, in, out, bias, init, init);
}

tb_nn_linear tb_nn_linear_make_with(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias, tb_init init)
{
    return linear(ps, name, in, out, bias, init, tb_init_constant(0));
}

tb_tensor *tb_nn_linear_forward(const tb_nn_linear *l, tb_tensor *x) { return tb_linear(x, l->weight, l->bias); }

/* ---- convolution ---- */
tb_nn_conv2d tb_nn_conv2d_make(tb_params *ps, const char *name, int64_t in, int64_t out, int64_t kernel,
                               const tb_nn_conv2d_opts *opts)
{
    const tb_nn_conv2d_opts o = opts ? *opts : (tb_nn_conv2d_opts){0};
    tb_nn_conv2d l = {.stride = o.stride, .pad = o.pad, .groups = o.groups ? o.groups : 1};
    int64_t depth = in / l.groups;
    tb_init init = tb_init_kaiming_uniform(depth * kernel * kernel, sqrt(5));
    size_t mark = tb_params_enter(ps, name);
    l.weight = tb_params_add(ps, "weight", init, 4, (int64_t[]){out, depth, kernel, kernel});
    if (!o.no_bias) l.bias = tb_params_add(ps, "bias", init, 1, &out);
    tb_params_leave(ps, mark);
    return l;
}

tb_tensor *tb_nn_conv2d_forward(const tb_nn_conv2d *l, tb_tensor *x)
{
    tb_conv2d_opts opts = {.stride = {l->stride, l->stride}, .pad = {l->pad, l->pad}, .groups = l->groups};
    return tb_conv2d(x, l->weight, l->bias, &opts);
}

/* ---- embedding ---- */
tb_nn_embedding tb_nn_embedding_make(tb_params *ps, const char *name, int64_t count, int64_t width, double std)
{
    size_t mark = tb_params_enter(ps, name);
    tb_nn_embedding l = {tb_params_add(ps, "weight", tb_init_normal(std), 2, (int64_t[]){count, width})};
    tb_params_leave(ps, mark);
    return l;
}

tb_tensor *tb_nn_embedding_forward(const tb_nn_embedding *l, tb_tensor *indices)
{
    return tb_embedding(l->weight, indices);
}

/* ---- layer norm ---- */
tb_nn_layer_norm tb_nn_layer_norm_make(tb_params *ps, const char *name, int64_t width)
{
    tb_nn_layer_norm l = {.eps = 1e-5};
    size_t mark = tb_params_enter(ps, name);
    l.weight = tb_params_add(ps, "weight", tb_init_constant(1), 1, &width);
    l.bias = tb_params_add(ps, "bias", tb_init_constant(0), 1, &width);
    tb_params_leave(ps, mark);
    return l;
}

tb_tensor *tb_nn_layer_norm_forward(const tb_nn_layer_norm *l, tb_tensor *x)
{
    return tb_layer_norm(x, l->weight, l->bias, l->eps);
}

/* ---- dropout ---- */
tb_nn_dropout tb_nn_dropout_make(tb_params *ps, double p) { return (tb_nn_dropout){p, tb_params_training(ps)}; }

tb_tensor *tb_nn_dropout_forward(const tb_nn_dropout *l, tb_tensor *x)
{
    return *l->training && l->p > 0 ? tb_dropout(x, l->p, tb_next_key()) : x;
}
