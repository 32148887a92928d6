/* A toy model: one linear layer. [B, ..] -> [B, classes] */
#include "dense.h"

static tb_status toy_net_build(tb_model_builder *b)
{
    tb_model_input(b, tb_model_dtype(b), 2, (int64_t[]){TB_DIM_BATCH, 784});
    return tb_model_block(b, "only", &tbi_dense_block, &(tbi_dense_config){tb_model_int(b, "classes"), TBI_ACT_NONE});
}

static const tb_key toy_net_keys[] = {{"classes", TB_KEY_INT, "", 2, 1000, NULL, "10", ""}};

TB_MODEL(toy_net) = {"toy_net", "one linear layer", toy_net_keys, 1, toy_net_build};
