/* mlp: a multi-layer perceptron, one block per layer. [B, ..] -> [B, classes] */
#include "dense.h"
#include <stdlib.h>
#include <string.h>

static tbi_activation activation(const char *name)
{
    return strcmp(name, "relu") == 0 ? TBI_ACT_RELU : strcmp(name, "gelu") == 0 ? TBI_ACT_GELU : TBI_ACT_TANH;
}

/* "784-512-256-10": inputs, hidden widths, classes. */
static tb_status mlp_build(tb_model_builder *b)
{
    const char *widths = tb_model_str(b, "widths");
    tbi_activation act = activation(tb_model_str(b, "act"));
    char *at;
    int64_t inputs = strtoll(widths, &at, 10);
    int n = 0;
    tb_status st = TB_OK;
    tb_model_input(b, tb_model_dtype(b), 2, (int64_t[]){TB_DIM_BATCH, inputs});
    while (st == TB_OK && inputs > 0 && *at == '-') {
        int64_t width = strtoll(at + 1, &at, 10);
        if (width < 1) break;
        st = tb_model_block(b, "fc%d", &tbi_dense_block, &(tbi_dense_config){width, *at == '-' ? act : TBI_ACT_NONE},
                            ++n);
    }
    if (st == TB_OK && (*at || n == 0))
        st = TB_FAIL(TB_ERR_CONFIG, "mlp: widths '%s' must be numbers joined by '-', such as 784-512-10", widths);
    return st;
}

static const tb_key mlp_keys[] = {
    {"widths", TB_KEY_STR, "", 0, 0, NULL, "784-512-256-10", "inputs, hidden layers, classes"},
    {"act", TB_KEY_CHOICE, "", 0, 0, "relu|gelu|tanh", "relu", "between layers"},
};

TB_MODEL(mlp) = {"mlp", "multi-layer perceptron", mlp_keys, sizeof mlp_keys / sizeof mlp_keys[0], mlp_build};
