/* mlp: a multi-layer perceptron, one block per layer: flatten, then linear with an activation in between. */
#include "tb_model.h"
#include "tb_nn.h"
#include "tb_ops.h"
#include <stdlib.h>
#include <string.h>

typedef enum activation { ACT_NONE, ACT_RELU, ACT_GELU, ACT_TANH } activation;
static const char *const activation_names[] = {"none", "relu", "gelu", "tanh"};

typedef struct layer_config {
    int64_t width;
    activation act;
} layer_config;

typedef struct layer {
    tb_nn_linear fc;
    int64_t inputs;
    activation act;
} layer;

static void layer_make(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out)
{
    const layer_config *c = config;
    layer *p = block;
    int64_t inputs = in->dims[in->rank - 1];
    *p = (layer){.fc = tb_nn_linear_make(ps, "", inputs, c->width, true), .inputs = inputs, .act = c->act};
    *out = (tb_boundary){.dtype = in->dtype, .rank = 2, .dims = {TB_DIM_BATCH, c->width}};
}

/* x: [B, ..] with `inputs` elements a row; result [B, width] */
static tb_tensor *layer_forward(const void *block, tb_tensor *x)
{
    const layer *p = block;
    tb_scope *s = tb_scope_open();
    if (tb_tensor_rank(x) != 2) x = tb_reshape(x, 2, (int64_t[]){-1, p->inputs});
    tb_tensor *y = tb_nn_linear_forward(&p->fc, x);
    if (p->act == ACT_RELU) y = tb_relu(y);
    else if (p->act == ACT_GELU) y = tb_gelu_tanh(y);
    else if (p->act == ACT_TANH) y = tb_tanh(y);
    return tb_scope_escape(s, y);
}

static const tb_block_type layer_type = {"linear", sizeof(layer), layer_make, layer_forward};

static activation parse_activation(const char *name)
{
    int a = ACT_TANH;
    while (a > 0 && strcmp(activation_names[a], name) != 0) a--;
    return (activation)a;
}

/* "784-512-256-10": inputs, hidden widths, classes. */
static tb_status mlp_build(tb_model_builder *b)
{
    const char *widths = tb_model_str(b, "widths");
    activation act = parse_activation(tb_model_str(b, "act"));
    char *at;
    int64_t inputs = strtoll(widths, &at, 10);
    int n = 0;
    tb_status st = TB_OK;
    tb_model_input(b, tb_model_dtype(b), 2, (int64_t[]){TB_DIM_BATCH, inputs});
    while (st == TB_OK && inputs > 0 && *at == '-') {
        int64_t width = strtoll(at + 1, &at, 10);
        if (width < 1) break;
        st = tb_model_block(b, "fc%d", &layer_type, &(layer_config){width, *at == '-' ? act : ACT_NONE}, ++n);
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
