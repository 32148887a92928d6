/* Flatten, linear, activation. */
#include "dense.h"
#include "tb_nn.h"
#include "tb_ops.h"

typedef struct dense {
    tb_nn_linear fc;
    int64_t inputs;
    tbi_activation act;
} dense;

static void dense_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    const tbi_dense_config *c = config;
    int64_t inputs = 1;
    for (int i = 1; i < in->rank; i++) inputs *= in->dims[i];
    *(dense *)block = (dense){tb_nn_linear_make(ps, "", inputs, c->width, true), inputs, c->act};
    *out = (tb_boundary){in->dtype, 2, {TB_DIM_BATCH, c->width}};
}

static tb_tensor *activate(tbi_activation act, tb_tensor *x)
{
    switch (act) {
    case TBI_ACT_RELU: return tb_relu(x);
    case TBI_ACT_GELU: return tb_gelu_tanh(x);
    case TBI_ACT_TANH: return tb_tanh(x);
    default: return x;
    }
}

static tb_tensor *dense_forward(const void *block, tb_tensor *x)
{
    const dense *p = block;
    tb_scope *s = tb_scope_open();
    if (tb_tensor_rank(x) != 2) x = tb_reshape(x, 2, (int64_t[]){tb_tensor_dim(x, 0), p->inputs});
    return tb_scope_escape(s, activate(p->act, tb_nn_linear_forward(&p->fc, x)));
}

const tb_block_type tbi_dense_block = {
    .name = "dense", .bytes = sizeof(dense), .make = dense_make, .forward = dense_forward};
