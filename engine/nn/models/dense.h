/* The block that image models share: flatten, linear, activation. */
#pragma once
#include "tb_model.h"

typedef enum tbi_activation { TBI_ACT_NONE, TBI_ACT_RELU, TBI_ACT_GELU, TBI_ACT_TANH } tbi_activation;
typedef struct tbi_dense_config {
    int64_t width;
    tbi_activation act;
} tbi_dense_config;
extern const tb_block_type tbi_dense_block; /* [B, ..] -> [B, width] */
