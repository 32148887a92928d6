/* The structure behind tb_trainer. */
#pragma once
#include "tb_train.h"

struct tb_trainer {
    tb_trainer_config cfg;
    tb_ctx *ctx;
    tb_optim *optim;
    tb_loader *loader;
    tb_loss_scale scaling; /* where cfg.loss_scale is not 0 */
    tb_tensor *count; /* i64 0-d: labels of a step; what losses are divided by */
};
