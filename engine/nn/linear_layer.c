/* The linear layer. */
#include "tb_nn.h"
#include "tb_ops.h"
#include <math.h>

static tb_nn_linear make(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias, tb_init weights,
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
    return make(ps, name, in, out, bias, init, init);
}

tb_nn_linear tb_nn_linear_make_with(tb_params *ps, const char *name, int64_t in, int64_t out, bool bias, tb_init init)
{
    return make(ps, name, in, out, bias, init, tb_init_constant(0));
}

tb_tensor *tb_nn_linear_forward(const tb_nn_linear *l, tb_tensor *x) { return tb_linear(x, l->weight, l->bias); }
