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
