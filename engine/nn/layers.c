/* Linear, convolution, embedding, normalisations, dropout: makers and forwards. */
#include "tb_autograd.h"
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

/* ---- batch norm ---- */
static const double batch_norm_eps = 1e-5, batch_norm_momentum = 0.1;

tb_nn_batch_norm tb_nn_batch_norm_make(tb_params *ps, const char *name, int64_t channels)
{
    size_t mark = tb_params_enter(ps, name);
    tb_nn_batch_norm l = {.training = tb_params_training(ps)};
    l.weight = tb_params_add(ps, "weight", tb_init_constant(1), 1, &channels);
    l.bias = tb_params_add(ps, "bias", tb_init_constant(0), 1, &channels);
    l.running_mean = tb_params_add_buffer(ps, "running_mean", 0, 1, &channels);
    l.running_var = tb_params_add_buffer(ps, "running_var", 1, 1, &channels);
    tb_params_leave(ps, mark);
    return l;
}

/* As PyTorch, the average keeps the unbiased variance. */
static void track(const tb_nn_batch_norm *l, const tb_tensor *x, tb_tensor *mean, tb_tensor *var)
{
    tb_ctx *ctx = tb_ctx_current();
    bool recorded = tb_grad_mode(ctx, false);
    double n = (double)(tb_tensor_numel(x) / tb_tensor_dim(x, 1));
    tb_running_average(l->running_mean, mean, batch_norm_momentum, 1);
    tb_running_average(l->running_var, var, batch_norm_momentum, n / (n - 1));
    tb_grad_mode(ctx, recorded);
}

tb_tensor *tb_nn_batch_norm_forward(const tb_nn_batch_norm *l, tb_tensor *x)
{
    if (!*l->training)
        return tb_batch_norm_eval(x, l->running_mean, l->running_var, l->weight, l->bias, batch_norm_eps);
    tb_tensor *mean, *var, *y = tb_batch_norm(x, l->weight, l->bias, batch_norm_eps, &mean, &var);
    if (!tb_is_poison(y) && !tb_is_recomputing(tb_ctx_current())) track(l, x, mean, var);
    return y;
}

/* ---- dropout ---- */
tb_nn_dropout tb_nn_dropout_make(tb_params *ps, double p) { return (tb_nn_dropout){p, tb_params_training(ps)}; }

tb_tensor *tb_nn_dropout_forward(const tb_nn_dropout *l, tb_tensor *x)
{
    return *l->training && l->p > 0 ? tb_dropout(x, l->p, tb_next_key()) : x;
}
