/* Capture of trained models with their preprocessing, and accuracy of a graph. */
#include "deploy.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_safetensors.h"
#include "weights.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

tb_status tb_deploy_open(const char *checkpoint, tb_model **out)
{
    tb_safetensors *f;
    struct stat info;
    *out = NULL;
    if (stat(checkpoint, &info) == 0 && S_ISDIR(info.st_mode))
        return TB_FAIL(TB_ERR_INVALID, "%s is a folder; a checkpoint is a file that tb run wrote (.safetensors)",
                       checkpoint);
    TB_TRY(tb_safetensors_open(checkpoint, &f));
    const char *spec = tb_safetensors_note(f, "model");
    tb_status st = spec ? tb_model_create(spec, TB_F32, out)
                        : TB_FAIL(TB_ERR_PARSE, "%s names no model; it is not a checkpoint of tb run",
                                  checkpoint);
    if (st == TB_OK) st = tb_weights_read(*out, f);
    tb_safetensors_close(f);
    if (st != TB_OK) {
        tb_model_destroy(*out);
        *out = NULL;
    }
    return st;
}

tb_status tb_deploy_check_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.");
    if (n > 0 && n < 64 && !name[n]) return TB_OK;
    return TB_FAIL(TB_ERR_CONFIG, "'%s' is no name of a model: letters, digits, '_', '-' and '.', at most 63", name);
}

tb_status tb_deploy_data(const tb_model *m, const char **name, tb_dataset **out)
{
    bool reads_text = !tb_dtype_is_float(tb_model_block_at(m, 0)->in.dtype);
    if (!*name) *name = reads_text ? "jargon" : "fashion-mnist";
    return tb_dataset_open(*name, out);
}

typedef struct captured {
    tb_model *model;
    const tb_dataset *data;
    const tb_boundary *input;
} captured;

/* (pixel / 255 - mean) / std, as the loader does, then the shape that the first block takes. */
static tb_tensor *image_forward(void *arg, int n, tb_tensor *const *in)
{
    const captured *c = arg;
    (void)n;
    double std = tb_dataset_std(c->data), mean = tb_dataset_mean(c->data);
    int64_t dims[TB_MAX_RANK];
    tb_tensor *x = tb_mul(tb_cast(in[0], TB_F32), tb_scalar(TB_F32, 1 / (255 * std)));
    x = tb_sub(x, tb_scalar(TB_F32, mean / std));
    for (int i = 0; i < c->input->rank; i++) dims[i] = i == 0 ? tb_tensor_dim(in[0], 0) : c->input->dims[i];
    return tb_model_forward(c->model, tb_reshape(x, c->input->rank, dims));
}

static tb_tensor *text_forward(void *arg, int n, tb_tensor *const *in)
{
    const captured *c = arg;
    (void)n;
    return tb_model_forward(c->model, tb_cast(in[0], TB_I32));
}

/* Images are one f32 row or image of their pixels, text rows of tokens. */
static tb_status must_fit(const tb_model *m, const tb_dataset *data)
{
    const tb_boundary *in = &tb_model_block_at(m, 0)->in;
    bool takes_text = !tb_dtype_is_float(in->dtype), is_text = tb_dataset_kind(data) == TB_DATA_TEXT;
    int64_t pixels = tb_dataset_height(data) * tb_dataset_width(data), takes = 1;
    for (int i = 1; i < in->rank; i++) takes *= in->dims[i];
    if (takes_text != is_text)
        return TB_FAIL(TB_ERR_INVALID, "model %s reads %s, but '%s' holds %s; --data names the data it was trained on",
                       tb_model_spec(m), takes_text ? "text" : "images", tb_dataset_name(data),
                       is_text ? "text" : "images");
    if (!is_text && takes != pixels)
        return TB_FAIL(TB_ERR_INVALID, "model %s reads images of %lld pixels, but those of '%s' have %lld",
                       tb_model_spec(m), (long long)takes, tb_dataset_name(data), (long long)pixels);
    return TB_OK;
}

/* A model of text spells out the longest row that it knows. */
static tb_status context_fits(const tb_model *m, int64_t context)
{
    const char *option = strstr(tb_model_spec(m), "context=");
    long long longest = option ? strtoll(option + strlen("context="), NULL, 10) : context;
    if (context <= longest) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "--context %lld: rows of model %s have at most %lld tokens", (long long)context,
                   tb_model_spec(m), longest);
}

tb_status tb_deploy_capture(tb_model *m, const tb_dataset *data, int64_t context, const char *name,
                            tb_graph **out)
{
    bool is_text = tb_dataset_kind(data) == TB_DATA_TEXT;
    int64_t width = is_text ? context : tb_dataset_height(data) * tb_dataset_width(data);
    captured c = {m, data, &tb_model_block_at(m, 0)->in};
    tb_capture_input input = {.name = is_text ? "tokens" : "image", .dtype = TB_U8, .rank = 2, .dims = {-1, width}};
    tb_ctx *ctx = tb_ctx_current();
    *out = NULL;
    TB_TRY(must_fit(m, data));
    if (is_text) TB_TRY(context_fits(m, context));
    tb_model_set_training(m, false);
    bool mode = tb_grad_mode(ctx, false);
    tb_status st = tb_capture(name, 1, (const char *[]){"N"}, 1, &input,
                              is_text ? text_forward : image_forward, &c, out);
    tb_grad_mode(ctx, mode);
    if (st == TB_OK)
        snprintf((*out)->values[(*out)->outputs[0]].name, sizeof (*out)->values[0].name, "logits");
    return st;
}

enum { MAX_CACHES = TB_MAX_GRAPH_OUTPUTS - 1 };

typedef struct stepped {
    tb_model *model;
    int64_t capacity;
} stepped;

/* A place outside of the cache is held at its end: the step serves rows that come over a network. */
tb_tensor *tb_deploy_step(tb_model *m, int64_t capacity, tb_tensor *token, tb_tensor *place, tb_tensor **cache)
{
    int64_t rows = tb_tensor_dim(token, 0);
    tb_step at = {tb_cast(tb_clamp(place, 0, (double)(capacity - 1)), TB_I64), capacity};
    tb_tensor *logits = tb_model_step(m, tb_reshape(tb_cast(token, TB_I32), 2, (int64_t[]){rows, 1}), &at, cache);
    return tb_reshape(logits, 2, (int64_t[]){rows, tb_tensor_dim(logits, 2)});
}

static void step_forward(void *arg, int n, tb_tensor *const *in, tb_tensor **out)
{
    const stepped *c = arg;
    for (int i = 2; i < n; i++) out[i - 1] = in[i];
    out[0] = tb_deploy_step(c->model, c->capacity, in[0], in[1], out + 1);
}

tb_status tb_deploy_capture_step(tb_model *m, int64_t capacity, const char *name, tb_graph **out)
{
    tb_capture_input in[2 + MAX_CACHES] = {{"token", TB_U8, 1, {-1}}, {"place", TB_F32, 1, {-1}}};
    char names[2 * MAX_CACHES][32];
    const char *outputs[1 + MAX_CACHES] = {"logits"};
    int n = tb_model_caches(m);
    stepped c = {m, capacity};
    *out = NULL;
    if (n < 1 || n > MAX_CACHES)
        return TB_FAIL(TB_ERR_UNSUPPORTED,
                       "model %s cannot generate: it keeps nothing of earlier tokens (or has more than "
                       "%d blocks that do)",
                       tb_model_spec(m), MAX_CACHES);
    for (int i = 0; i < n; i++) {
        snprintf(names[2 * i], sizeof names[0], "cache.%d", i);
        snprintf(names[2 * i + 1], sizeof names[0], "cache.%d.next", i);
        in[2 + i] = (tb_capture_input){.name = names[2 * i], .dtype = TB_F32, .dims = {-1}};
        int64_t row[TB_MAX_RANK];
        in[2 + i].rank = 1 + tb_model_cache_dims(m, i, capacity, row);
        memcpy(in[2 + i].dims + 1, row, sizeof *row * (TB_MAX_RANK - 1));
        outputs[1 + i] = names[2 * i + 1];
    }
    TB_TRY(context_fits(m, capacity));
    tb_ctx *ctx = tb_ctx_current();
    tb_model_set_training(m, false);
    bool mode = tb_grad_mode(ctx, false);
    tb_status st = tb_capture_several(name, 1, (const char *[]){"N"}, 2 + n, in, 1 + n, outputs, step_forward, &c, out);
    tb_grad_mode(ctx, mode);
    return st;
}

static uint8_t most_likely(const float *logits, int64_t classes)
{
    int64_t best = 0;
    for (int64_t k = 1; k < classes; k++)
        if (logits[k] > logits[best]) best = k;
    return (uint8_t)best;
}

tb_status tb_deploy_accuracy(tb_session *s, const tb_dataset *data, int64_t batch, uint8_t *predictions,
                             double *accuracy)
{
    const tb_data_part *test = tb_dataset_part(data, TB_SPLIT_TEST);
    int64_t pixels = tb_dataset_height(data) * tb_dataset_width(data);
    int64_t classes = tb_dataset_classes(data), right = 0;
    float *logits = tb_calloc((size_t)(batch * classes), sizeof *logits);
    tb_status st = logits ? TB_OK : TB_ERR_OOM;
    for (int64_t at = 0; at < test->rows && st == TB_OK; at += batch) {
        int64_t rows = test->rows - at < batch ? test->rows - at : batch;
        st = tb_session_run(s, &rows, (const void *[]){test->bytes + at * pixels}, (void *[]){logits});
        for (int64_t i = 0; i < rows && st == TB_OK; i++) {
            uint8_t class = most_likely(logits + i * classes, classes);
            right += class == test->labels[at + i];
            if (predictions) predictions[at + i] = class;
        }
    }
    tb_free(logits);
    *accuracy = test->rows ? (double)right / (double)test->rows : 0;
    return st;
}

const char *const *tb_deploy_labels(const tb_dataset *data, int *n)
{
    static const char *const fashion[] = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                          "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"};
    bool is_fashion = strcmp(tb_dataset_name(data), "fashion-mnist") == 0;
    *n = is_fashion ? 10 : 0;
    return is_fashion ? fashion : NULL;
}

const char *tb_deploy_vocabulary(const tb_dataset *data)
{
    return tb_dataset_kind(data) == TB_DATA_TEXT ? "bytes" : NULL;
}
