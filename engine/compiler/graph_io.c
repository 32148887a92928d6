/* A graph on disk: DIR/graph.tbir (text) and DIR/weights.safetensors (constants by name). */
#include "graph_internal.h"
#include "tb_file.h"
#include "tb_safetensors.h"

static tb_status save_weights(const tb_graph *g, const char *path)
{
    tb_safetensors_item *items = tb_calloc((size_t)g->n_values + 1, sizeof *items);
    int n = 0;
    if (!items) return TB_ERR_OOM;
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].constant) items[n++] = (tb_safetensors_item){g->values[i].name, g->values[i].constant};
    tb_status st = tb_safetensors_save(path, n, items, 0, NULL);
    tb_free(items);
    return st;
}

static tb_status save_text(const tb_graph *g, const char *path)
{
    tb_text text = {0};
    tb_graph_dump(g, &text);
    tb_status st = text.failed ? TB_ERR_OOM : tb_file_save(path, text.data, text.size);
    tb_text_free(&text);
    return st;
}

tb_status tb_graph_save(const tb_graph *g, const char *dir)
{
    char *weights = tb_asprintf("%s/weights.safetensors", dir), *text = tb_asprintf("%s/graph.tbir", dir);
    tb_status st = weights && text ? save_weights(g, weights) : TB_ERR_OOM;
    if (st == TB_OK) st = save_text(g, text);
    tb_free(weights);
    tb_free(text);
    return st;
}

static tb_tensor *weight(void *arg, const char *name)
{
    const tb_safetensors *f = arg;
    const tb_safetensors_entry *e = tb_safetensors_find(f, name);
    tb_ctx *ctx = tb_ctx_current();
    if (!e) {
        (void)TB_FAIL(TB_ERR_PARSE, "the weights hold no constant '%s'", name);
        return tbi_poisoned(ctx);
    }
    tb_mem_tag tag = tb_ctx_set_tag(ctx, TB_MEM_PARAM);
    tb_tensor *t = tb_tensor_empty(e->dtype, e->rank, e->dims);
    tb_ctx_set_tag(ctx, tag);
    if (tb_is_poison(t)) return t;
    tb_tensor_set_name(t, name);
    return tb_safetensors_load(f, name, t) == TB_OK ? t : tbi_poisoned(ctx);
}

tb_status tb_graph_load(const char *dir, tb_graph **out)
{
    char *weights = tb_asprintf("%s/weights.safetensors", dir), *path = tb_asprintf("%s/graph.tbir", dir);
    tb_safetensors *f = NULL;
    uint8_t *text = NULL;
    size_t bytes;
    *out = NULL;
    tb_status st = weights && path ? tb_safetensors_open(weights, &f) : TB_ERR_OOM;
    if (st == TB_OK) st = tb_file_read(path, NULL, &text, &bytes);
    if (st == TB_OK) st = tb_graph_parse((const char *)text, bytes, path, weight, f, out);
    tb_free(text);
    tb_safetensors_close(f);
    tb_free(weights);
    tb_free(path);
    return st;
}
