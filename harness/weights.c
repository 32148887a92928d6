/* Weights in a file beside the experiments. */
#include "weights.h"
#include "experiment.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_safetensors.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *tb_weights_path(const char *path)
{
    char *root = NULL;
    if (path[0] == '/') return tb_strdup(path);
    if (tb_experiment_root(&root) != TB_OK) return NULL;
    char *full = tb_asprintf("%s/%s", root, path);
    tb_free(root);
    return full;
}

static tb_status check_note(const tb_safetensors *f, const char *path, const char *key, const char *ours)
{
    const char *theirs = tb_safetensors_note(f, key);
    if (theirs && strcmp(theirs, ours) == 0) return TB_OK;
    return TB_FAIL(TB_ERR_CONFIG,
                   "%s holds weights of another %s ('%s', this point has '%s'): remove it to train anew, or "
                   "name another file in params.weights",
                   path, key, theirs ? theirs : "(none)", ours);
}

/* Reads a tensor of f16 or of the parameter's own dtype. */
static tb_status load_one(const tb_safetensors *f, const tb_param *p)
{
    const tb_safetensors_entry *e = tb_safetensors_find(f, p->name);
    if (!e) return tb_error_code();
    if (e->dtype == tb_tensor_dtype(p->tensor)) return tb_safetensors_load(f, p->name, p->tensor);
    tb_scope *scope = tb_scope_open();
    tb_tensor *stored = tb_tensor_empty(e->dtype, e->rank, e->dims);
    tb_status st =
        tb_is_poison(stored) ? tb_ctx_take_error(tb_ctx_current()) : tb_safetensors_load(f, p->name, stored);
    size_t bytes = tb_tensor_bytes(p->tensor);
    void *host = tb_calloc(bytes, 1);
    if (st == TB_OK && !host) st = TB_ERR_OOM;
    tb_tensor *wide = tb_cast(stored, tb_tensor_dtype(p->tensor));
    if (st == TB_OK && tb_tensor_numel(wide) != tb_tensor_numel(p->tensor))
        st = TB_FAIL(TB_ERR_SHAPE, "weights: %s has another shape", p->name);
    if (st == TB_OK) st = tb_tensor_read(wide, host, bytes);
    if (st == TB_OK) st = tb_tensor_write(p->tensor, host, bytes);
    tb_free(host);
    tb_scope_close(scope);
    return st;
}

tb_status tb_weights_read(tb_model *m, const tb_safetensors *f)
{
    const tb_params *ps = tb_model_params(m);
    for (int i = 0; i < tb_params_count(ps); i++) TB_TRY(load_one(f, tb_params_at(ps, i)));
    for (int i = 0; i < tb_params_buffer_count(ps); i++) TB_TRY(load_one(f, tb_params_buffer_at(ps, i)));
    return TB_OK;
}

tb_status tb_weights_load(tb_model *m, const char *path, const tb_weights_origin *origin, bool *found, double *loss)
{
    tb_safetensors *f = NULL;
    *found = access(path, F_OK) == 0;
    if (!*found) return TB_OK;
    TB_TRY(tb_safetensors_open(path, &f));
    tb_status st = check_note(f, path, "model", tb_model_spec(m));
    if (st == TB_OK) st = check_note(f, path, "training", origin->training);
    if (st == TB_OK) st = check_note(f, path, "data", origin->data);
    const char *text = st == TB_OK ? tb_safetensors_note(f, "loss") : NULL;
    *loss = text ? strtod(text, NULL) : 0;
    if (st == TB_OK) st = tb_weights_read(m, f);
    tb_safetensors_close(f);
    return st;
}

tb_status tb_weights_save(const tb_model *m, const char *path, const tb_weights_origin *origin, double loss)
{
    const tb_params *ps = tb_model_params(m);
    tb_ctx *ctx = tb_ctx_current();
    int n_params = tb_params_count(ps), n = n_params + tb_params_buffer_count(ps);
    char text[32];
    tb_safetensors_item *items = tb_calloc((size_t)n + 1, sizeof *items);
    if (!items) return TB_ERR_OOM;
    snprintf(text, sizeof text, "%.6g", loss);
    bool recorded = tb_grad_mode(ctx, false);
    tb_scope *scope = tb_scope_open();
    for (int i = 0; i < n; i++) {
        const tb_param *p = i < n_params ? tb_params_at(ps, i) : tb_params_buffer_at(ps, i - n_params);
        items[i] = (tb_safetensors_item){p->name, i < n_params ? tb_cast(p->tensor, TB_F16) : p->tensor};
    }
    tb_safetensors_pair notes[] = {{"model", tb_model_spec(m)}, {"training", origin->training},
                                   {"data", origin->data}, {"loss", text}};
    tb_status st = tb_ctx_take_error(ctx);
    if (st == TB_OK) st = tb_safetensors_save(path, n, items, sizeof notes / sizeof *notes, notes);
    tb_scope_close(scope);
    tb_grad_mode(ctx, recorded);
    tb_free(items);
    return st;
}
