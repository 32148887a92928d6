/* Models: specs to options, the builder, running blocks. */
#include "tb_alloc.h"
#include "tb_model.h"
#include "tb_text.h"
#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCKS = 256 };

struct tb_model {
    char *spec;
    tb_params *params;
    tb_block blocks[MAX_BLOCKS];
    int n_blocks;
};

struct tb_model_builder {
    tb_model *model;
    const tb_model_type *type;
    tb_conf *options;
    tb_boundary boundary; /* what the next block gets */
    tb_dtype dtype;
    bool (*holds)(void *arg, int block); /* NULL: all */
    void *arg;
    tb_status status;
};

#define TB_MODEL_ENTRY(name_) extern const tb_model_type tb_model_##name_;
#include "tb_model_list.inc"
#undef TB_MODEL_ENTRY
static const tb_model_type *const model_types[] = {
#define TB_MODEL_ENTRY(name_) &tb_model_##name_,
#include "tb_model_list.inc"
#undef TB_MODEL_ENTRY
};
enum { MODEL_TYPES = sizeof model_types / sizeof model_types[0] };

int tb_model_type_count(void) { return MODEL_TYPES; }
const tb_model_type *tb_model_type_at(int index) { return model_types[index]; }

static const tb_model_type *find_type(const char *name, size_t length)
{
    const char *names[MODEL_TYPES];
    char wanted[64];
    for (int i = 0; i < MODEL_TYPES; i++) {
        names[i] = model_types[i]->name;
        if (strlen(names[i]) == length && strncmp(names[i], name, length) == 0) return model_types[i];
    }
    snprintf(wanted, sizeof wanted, "%.*s", (int)length, name);
    const char *near = tb_nearest(wanted, names, MODEL_TYPES);
    (void)TB_FAIL(TB_ERR_NOT_FOUND, "no model '%s'%s%s%s", wanted, near ? "; nearest: '" : "", near ? near : "",
                  near ? "'" : "");
    return NULL;
}

/* ---- options ---- */
/* "key=value,key=value" into a map. */
static tb_status parse_options(const char *spec, const char *text, tb_conf *map)
{
    char *copy = tb_strdup(text), *rest = copy;
    tb_status st = copy ? TB_OK : TB_ERR_OOM;
    for (char *item; st == TB_OK && rest && (item = strsep(&rest, ","));) {
        char *value = strchr(item, '=');
        if (!value || value == item) {
            st = TB_FAIL(TB_ERR_CONFIG, "model '%s': '%s' is no option; write key=value", spec, item);
            break;
        }
        *value++ = '\0';
        if (tb_conf_find(map, item)) {
            st = TB_FAIL(TB_ERR_CONFIG, "model '%s': option '%s' is given twice", spec, item);
            break;
        }
        tb_conf *node = tb_conf_scalar("-s", value, false);
        st = node ? tb_conf_set(map, item, node) : TB_ERR_OOM;
    }
    tb_free(copy);
    return st;
}

static tb_status load_options(const char *spec, tb_model_builder *b)
{
    const char *colon = strchr(spec, ':');
    b->type = find_type(spec, colon ? (size_t)(colon - spec) : strlen(spec));
    if (!b->type) return tb_error_code();
    TB_TRY(tb_conf_parse("{}", 2, "model", &b->options));
    if (colon) TB_TRY(parse_options(spec, colon + 1, b->options));
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s:", b->type->name);
    return tb_conf_apply_keys(b->options, prefix, b->type->keys, b->type->n_keys);
}

/* Every option in the order of the table. */
static char *full_spec(const tb_model_builder *b)
{
    tb_text text = {0};
    tb_text_add(&text, "%s", b->type->name);
    for (int i = 0; i < b->type->n_keys; i++)
        tb_text_add(&text, "%c%s=%s", i ? ',' : ':', b->type->keys[i].name, tb_model_str(b, b->type->keys[i].name));
    char *spec = text.failed ? NULL : tb_strdup(tb_text_str(&text));
    tb_text_free(&text);
    return spec;
}

const char *tb_model_str(const tb_model_builder *b, const char *key)
{
    const tb_conf *node = tb_conf_find(b->options, key);
    assert(node && node->kind == TB_CONF_SCALAR);
    return node->text;
}

double tb_model_num(const tb_model_builder *b, const char *key) { return strtod(tb_model_str(b, key), NULL); }
int64_t tb_model_int(const tb_model_builder *b, const char *key) { return strtoll(tb_model_str(b, key), NULL, 10); }
tb_dtype tb_model_dtype(const tb_model_builder *b) { return b->dtype; }

/* ---- building ---- */
void tb_model_input(tb_model_builder *b, tb_dtype dtype, int rank, const int64_t *dims)
{
    b->boundary = (tb_boundary){.dtype = dtype, .rank = rank};
    memcpy(b->boundary.dims, dims, (size_t)rank * sizeof *dims);
}

tb_status tb_model_block(tb_model_builder *b, const char *name, const tb_block_type *type, const void *config, ...)
{
    char text[64];
    tb_model *m = b->model;
    if (b->status != TB_OK) return b->status;
    if (m->n_blocks == MAX_BLOCKS)
        return b->status = TB_FAIL(TB_ERR_INVALID, "model %s: more than %d blocks", b->type->name, MAX_BLOCKS);
    va_list args;
    va_start(args, config);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    tb_block *k = &m->blocks[m->n_blocks++];
    *k = (tb_block){.name = tb_strdup(text), .type = type, .block = tb_calloc(1, type->bytes), .in = b->boundary,
                    .first_param = tb_params_count(m->params)};
    if (!k->name || !k->block) return b->status = TB_ERR_OOM;
    size_t mark = tb_params_enter(m->params, text);
    tb_params_omit(m->params, b->holds && !b->holds(b->arg, m->n_blocks - 1));
    type->make(m->params, k->block, config, &k->in, &k->out);
    tb_params_leave(m->params, mark);
    k->n_params = tb_params_count(m->params) - k->first_param;
    b->boundary = k->out;
    b->status = tb_params_status(m->params);
    if (b->status != TB_OK) tb_error_add("model %s, block %s", b->type->name, text);
    return b->status;
}

tb_status tb_model_create(const char *spec, tb_dtype dtype, tb_model **out)
{
    return tb_model_create_part(spec, dtype, NULL, NULL, out);
}

tb_status tb_model_create_part(const char *spec, tb_dtype dtype, bool (*holds)(void *arg, int block), void *arg,
                               tb_model **out)
{
    tb_status st = TB_OK;
    tb_model_builder b = {.dtype = dtype, .holds = holds, .arg = arg};
    tb_ctx *ctx = tb_ctx_current();
    *out = NULL;
    if (!ctx) return TB_FAIL(TB_ERR_INVALID, "model %s: this thread has entered no context (tb_ctx_enter)", spec);
    b.model = tb_calloc(1, sizeof *b.model);
    if (!b.model) return TB_ERR_OOM;
    TB_GO(load_options(spec, &b));
    TB_GO(tb_params_create(dtype, tb_ctx_seed(ctx), &b.model->params));
    b.model->spec = full_spec(&b);
    if (!b.model->spec) {
        st = TB_ERR_OOM;
        goto cleanup;
    }
    TB_GO(b.type->build(&b));
    *out = b.model;
    b.model = NULL;
cleanup:
    tb_conf_free(b.options);
    tb_model_destroy(b.model);
    return st;
}

void tb_model_destroy(tb_model *m)
{
    if (!m) return;
    for (int i = 0; i < m->n_blocks; i++) {
        tb_free((void *)(uintptr_t)m->blocks[i].name);
        tb_free(m->blocks[i].block);
    }
    tb_params_destroy(m->params);
    tb_free(m->spec);
    tb_free(m);
}

const char *tb_model_spec(const tb_model *m) { return m->spec; }
tb_params *tb_model_params(const tb_model *m) { return m->params; }
void tb_model_set_training(tb_model *m, bool training) { tb_params_set_training(m->params, training); }
int tb_model_blocks(const tb_model *m) { return m->n_blocks; }
const tb_block *tb_model_block_at(const tb_model *m, int index) { return &m->blocks[index]; }

/* ---- running ---- */
tb_tensor *tb_model_forward_blocks(const tb_model *m, int first, int n, tb_tensor *x)
{
    for (int i = first; i < first + n; i++) {
        bool was_sound = !tb_is_poison(x);
        x = m->blocks[i].type->forward(m->blocks[i].block, x);
        if (was_sound && tb_is_poison(x)) tb_ctx_add_error(tb_ctx_current(), "block %s", m->blocks[i].name);
    }
    return x;
}

tb_tensor *tb_model_forward(const tb_model *m, tb_tensor *x) { return tb_model_forward_blocks(m, 0, m->n_blocks, x); }

/* ---- generation ---- */
int tb_model_caches(const tb_model *m)
{
    int n = 0;
    for (int i = 0; i < m->n_blocks; i++) n += m->blocks[i].type->cache != NULL;
    return n;
}

int tb_model_cache_dims(const tb_model *m, int index, int64_t capacity, int64_t dims[TB_MAX_RANK])
{
    int i = 0;
    while (!m->blocks[i].type->cache || index-- > 0) i++;
    return m->blocks[i].type->cache(m->blocks[i].block, capacity, dims);
}

tb_tensor *tb_model_step(const tb_model *m, tb_tensor *x, const tb_step *at, tb_tensor **cache)
{
    for (int i = 0; i < m->n_blocks; i++) {
        const tb_block *b = &m->blocks[i];
        bool was_sound = !tb_is_poison(x);
        x = b->type->step ? b->type->step(b->block, x, at, cache) : b->type->forward(b->block, x);
        cache += b->type->cache != NULL;
        if (was_sound && tb_is_poison(x)) tb_ctx_add_error(tb_ctx_current(), "block %s", b->name);
    }
    return x;
}
