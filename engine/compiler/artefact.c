/* Reading and writing deploy artefacts. */
#include "graph_internal.h"
#include "tb_artefact.h"
#include "tb_conf.h"
#include "tb_file.h"
#include "tb_hash.h"
#include "tb_rng.h"
#include "tb_safetensors.h"
#include <math.h>

struct tb_artefact {
    tb_exec *exec;
    tb_conf *conf;
    tb_artefact_info info;
    char *dir;
};

/* ---- golden rows ---- */
static tb_tensor *golden_tensor(const tb_graph *g, int value, int64_t n)
{
    const tb_value *v = &g->values[value];
    int64_t dims[TB_MAX_RANK], sizes[TB_MAX_SYMBOLS] = {n, n};
    for (int i = 0; i < v->rank; i++) dims[i] = tb_dim_at(v->dims[i], sizes);
    return tb_tensor_empty(v->dtype, v->rank, dims);
}

static tb_status fill_golden(tb_tensor *t, uint64_t stream)
{
    char *data = tb_tensor_host(t);
    if (!data) return TB_FAIL(TB_ERR_UNSUPPORTED, "artefacts are written on the cpu device");
    size_t size = tb_dtype_size(tb_tensor_dtype(t));
    for (int64_t i = 0; i < tb_tensor_numel(t); i++) {
        double x = tb_dtype_is_float(tb_tensor_dtype(t)) ? tb_random_normal(1, stream, (uint64_t)i)
                                                         : (double)tb_random_below(1, stream, (uint64_t)i, 256);
        tb_store_f64(tb_tensor_dtype(t), data + (size_t)i * size, x);
    }
    return TB_OK;
}

static tb_status run_on(tb_session *s, const tb_graph *g, int64_t n, tb_tensor *const *in,
                        tb_tensor *const *out)
{
    const void *from[MAX_OPERANDS];
    void *to[MAX_OPERANDS];
    int64_t sizes[TB_MAX_SYMBOLS] = {n, n};
    for (int i = 0; i < g->n_inputs; i++) from[i] = tb_tensor_host(in[i]);
    for (int i = 0; i < g->n_outputs; i++) to[i] = tb_tensor_host(out[i]);
    return tb_session_run(s, sizes, from, to);
}

static tb_status write_golden(const tb_graph *g, tb_session *s, int64_t n, const char *path)
{
    tb_tensor *t[2 * MAX_OPERANDS];
    tb_safetensors_item items[2 * MAX_OPERANDS];
    int n_all = g->n_inputs + g->n_outputs;
    tb_scope *scope = tb_scope_open();
    tb_status st = TB_OK;
    for (int i = 0; i < n_all && st == TB_OK; i++) {
        int value = i < g->n_inputs ? g->inputs[i] : g->outputs[i - g->n_inputs];
        t[i] = golden_tensor(g, value, n);
        items[i] = (tb_safetensors_item){g->values[value].name, t[i]};
        if (tb_is_poison(t[i])) st = tb_ctx_take_error(tb_ctx_current());
        else if (i < g->n_inputs) st = fill_golden(t[i], (uint64_t)i);
    }
    if (st == TB_OK) st = run_on(s, g, n, t, t + g->n_inputs);
    if (st == TB_OK) st = tb_safetensors_save(path, n_all, items, 0, NULL);
    tb_scope_close(scope);
    return st;
}

/* ---- model.yaml ---- */
static void describe_values(tb_json *j, const char *key, const tb_graph *g, const int *ids, int n)
{
    tb_json_key(j, key);
    tb_json_open(j, '{');
    for (int i = 0; i < n; i++) {
        tb_text type = {0};
        tbi_dump_type(g, &g->values[ids[i]], &type);
        tb_json_put_str(j, g->values[ids[i]].name, tb_text_str(&type));
        j->to->failed |= type.failed;
        tb_text_free(&type);
    }
    tb_json_close(j, '}');
}

static const char *const hashed[] = {"graph.tbir", "weights.safetensors", "golden.safetensors"};
enum { N_HASHED = sizeof hashed / sizeof *hashed };

static tb_status hash_of(const char *dir, const char *file, char hex[TB_SHA256_HEX])
{
    char *path = tb_asprintf("%s/%s", dir, file);
    tb_status st = path ? tb_sha256_of_file(path, hex) : TB_ERR_OOM;
    tb_free(path);
    return st;
}

static tb_status describe(const tb_graph *g, const tb_artefact_info *info, const char *dir, tb_text *to)
{
    char hex[TB_SHA256_HEX];
    tb_json j = {.to = to, .pretty = true}; /* JSON is YAML */
    tb_json_open(&j, '{');
    tb_json_put_str(&j, "schema", "tensorbrain.model/2");
    tb_json_put_str(&j, "name", info->name);
    tb_json_put_int(&j, "max_batch", info->max_batch);
    describe_values(&j, "inputs", g, g->inputs, g->n_inputs);
    describe_values(&j, "outputs", g, g->outputs, g->n_outputs);
    tb_json_put_str(&j, "vocabulary", info->vocabulary);
    tb_json_key(&j, "labels");
    tb_json_open(&j, '[');
    for (int i = 0; i < info->n_labels; i++) tb_json_str(&j, info->labels[i]);
    tb_json_close(&j, ']');
    tb_json_key(&j, "facts");
    tb_json_open(&j, '{');
    for (int i = 0; i < info->n_facts; i++) {
        tb_json_put_str(&j, info->facts[2 * i], info->facts[2 * i + 1]);
    }
    tb_json_close(&j, '}');
    tb_json_key(&j, "sha256");
    tb_json_open(&j, '{');
    for (int i = 0; i < N_HASHED; i++) {
        TB_TRY(hash_of(dir, hashed[i], hex));
        tb_json_put_str(&j, hashed[i], hex);
    }
    tb_json_close(&j, '}');
    tb_json_close(&j, '}');
    tb_text_add(to, "\n");
    return to->failed ? TB_ERR_OOM : TB_OK;
}

static tb_status write_description(const tb_graph *g, const tb_artefact_info *info, const char *dir, const char *path)
{
    tb_text text = {0};
    tb_status st = describe(g, info, dir, &text);
    if (st == TB_OK) st = tb_file_save(path, text.data, text.size);
    tb_text_free(&text);
    return st;
}

static tb_status check_labels(const tb_graph *g, const tb_artefact_info *info)
{
    const tb_value *y = &g->values[g->outputs[0]];
    int64_t classes = y->dims[y->rank - 1].base;
    if (info->n_labels == 0 || info->n_labels == classes) return TB_OK;
    return TB_FAIL(TB_ERR_CONFIG, "model %s: %d labels, but output '%s' has %lld classes", info->name, info->n_labels,
                   y->name, (long long)classes);
}

static tb_status check_form(const tb_graph *g)
{
    bool fits = g->n_symbols == 1 && g->n_inputs > 0 && g->n_outputs > 0 && g->n_inputs <= MAX_OPERANDS &&
                g->n_outputs <= MAX_OPERANDS;
    for (int i = 0; fits && i < g->n_inputs + g->n_outputs; i++) {
        const tb_value *v = &g->values[i < g->n_inputs ? g->inputs[i] : g->outputs[i - g->n_inputs]];
        fits = v->rank >= 1 && tb_dim_equal(v->dims[0], (tb_dim){.per = {1}});
    }
    if (fits) return TB_OK;
    return TB_FAIL(TB_ERR_SHAPE, "graph %s: an artefact has one symbol, the first dimension of all inputs and outputs",
                   g->name);
}

tb_status tb_artefact_save(const tb_graph *g, const tb_artefact_info *info, int64_t n_golden, const char *dir)
{
    char *golden = tb_asprintf("%s/golden.safetensors", dir), *yaml = tb_asprintf("%s/model.yaml", dir);
    tb_graph *again = NULL;
    tb_exec *e = NULL;
    tb_session *s = NULL;
    tb_status st = golden && yaml ? check_form(g) : TB_ERR_OOM;
    if (st == TB_OK) st = check_labels(g, info);
    if (st == TB_OK) st = tb_file_make_folder(dir);
    if (st == TB_OK) st = tb_graph_save(g, dir);
    /* What was written is what is run: the answers come from the folder, not from memory. */
    if (st == TB_OK) st = tb_graph_load(dir, &again);
    if (st == TB_OK) st = tb_exec_create(again, &e);
    if (st == TB_OK) st = tb_session_create(e, tb_ctx_current(), &s);
    if (st == TB_OK) st = write_golden(g, s, n_golden, golden);
    if (st == TB_OK) st = write_description(g, info, dir, yaml);
    tb_session_free(s);
    tb_exec_free(e);
    tb_free(golden);
    tb_free(yaml);
    return st;
}

/* ---- loading ---- */
static tb_status read_list(tb_conf *conf, const char *key, int *n, const char *const **out)
{
    tb_conf *list = tb_conf_find(conf, key);
    if (!list || list->kind != TB_CONF_LIST)
        return tb_conf_fail(list ? list : conf, TB_ERR_CONFIG, "'%s' must be a list", key);
    const char **items = tb_calloc((size_t)list->n_items + 1, sizeof *items);
    if (!items) return TB_ERR_OOM;
    *out = items;
    for (*n = 0; *n < list->n_items; ++*n) TB_TRY(tb_conf_str(list->items[*n], key, &items[*n]));
    return TB_OK;
}

static tb_status read_facts(tb_conf *conf, tb_artefact_info *info)
{
    tb_conf *facts = tb_conf_find(conf, "facts");
    if (!facts || facts->kind != TB_CONF_MAP)
        return tb_conf_fail(facts ? facts : conf, TB_ERR_CONFIG, "'facts' must be a map");
    const char **items = tb_calloc((size_t)facts->n_items * 2 + 1, sizeof *items);
    if (!items) return TB_ERR_OOM;
    info->facts = items;
    for (int i = 0; i < facts->n_items; i++) {
        items[2 * i] = facts->keys[i];
        TB_TRY(tb_conf_str(facts->items[i], facts->keys[i], &items[2 * i + 1]));
        info->n_facts++;
    }
    return TB_OK;
}

/* A changed bit may hide where the golden rows do not look, or below their tolerance. */
static tb_status check_hashes(const tb_artefact *a)
{
    tb_conf *map = tb_conf_find(a->conf, "sha256");
    if (!map || map->kind != TB_CONF_MAP)
        return tb_conf_fail(map ? map : a->conf, TB_ERR_CONFIG, "'sha256' must be a map");
    for (int i = 0; i < N_HASHED; i++) {
        const char *want;
        char hex[TB_SHA256_HEX];
        const tb_conf *at = tb_conf_find(map, hashed[i]);
        if (!at) return tb_conf_fail(map, TB_ERR_CONFIG, "no sha256 of '%s'", hashed[i]);
        TB_TRY(tb_conf_str(at, hashed[i], &want));
        TB_TRY(hash_of(a->dir, hashed[i], hex));
        if (strcmp(hex, want) != 0)
            return TB_FAIL(TB_ERR_PARITY,
                           "%s/%s is damaged or of another model: its SHA-256 is not the one in model.yaml", a->dir,
                           hashed[i]);
    }
    return TB_OK;
}

/* What model.yaml says of inputs or outputs must be what the graph has. */
static tb_status check_values(const tb_conf *conf, const char *key, const tb_graph *g, const int *ids, int n)
{
    const tb_conf *map = tb_conf_find(conf, key);
    if (!map || map->kind != TB_CONF_MAP || map->n_items != n)
        return tb_conf_fail(map ? map : conf, TB_ERR_CONFIG, "'%s' must be a map of the graph's %d", key, n);
    for (int i = 0; i < n; i++) {
        const tb_value *v = &g->values[ids[i]];
        tb_text type = {0};
        const char *said;
        tbi_dump_type(g, v, &type);
        tb_status st = type.failed ? TB_ERR_OOM : tb_conf_str(map->items[i], map->keys[i], &said);
        if (st == TB_OK && (strcmp(map->keys[i], v->name) != 0 || strcmp(said, tb_text_str(&type)) != 0))
            st = tb_conf_fail(map->items[i], TB_ERR_CONFIG, "%s: '%s' is %s here, but graph.tbir has '%s', %s", key,
                              map->keys[i], said, v->name, tb_text_str(&type));
        tb_text_free(&type);
        TB_TRY(st);
    }
    return TB_OK;
}

static tb_status check_description(const tb_artefact *a, const tb_graph *g)
{
    TB_TRY(check_form(g));
    TB_TRY(check_values(a->conf, "inputs", g, g->inputs, g->n_inputs));
    TB_TRY(check_values(a->conf, "outputs", g, g->outputs, g->n_outputs));
    return check_labels(g, &a->info);
}

static tb_status read_description(tb_artefact *a, const char *path)
{
    const char *schema, *name;
    TB_TRY(tb_conf_load(path, &a->conf));
    const tb_conf *c = a->conf, *at;
    if (c->kind != TB_CONF_MAP || !(at = tb_conf_find(c, "schema")))
        return tb_conf_fail(c, TB_ERR_CONFIG, "no 'schema'");
    TB_TRY(tb_conf_str(at, "schema", &schema));
    if (strcmp(schema, "tensorbrain.model/2") != 0)
        return tb_conf_fail(at, TB_ERR_CONFIG, "schema '%s' is not tensorbrain.model/2: write the artefact anew",
                            schema);
    if (!(at = tb_conf_find(c, "name"))) return tb_conf_fail(c, TB_ERR_CONFIG, "no 'name'");
    TB_TRY(tb_conf_str(at, "name", &name));
    snprintf(a->info.name, sizeof a->info.name, "%s", name);
    if (!(at = tb_conf_find(c, "max_batch"))) return tb_conf_fail(c, TB_ERR_CONFIG, "no 'max_batch'");
    TB_TRY(tb_conf_int(at, "max_batch", 1, 1 << 20, &a->info.max_batch));
    if ((at = tb_conf_find(c, "vocabulary")) && (at->quoted || strcmp(at->text, "null") != 0))
        TB_TRY(tb_conf_str(at, "vocabulary", &a->info.vocabulary));
    TB_TRY(read_list(a->conf, "labels", &a->info.n_labels, &a->info.labels));
    return read_facts(a->conf, &a->info);
}

tb_status tb_artefact_load(const char *dir, tb_artefact **out)
{
    tb_artefact *a = tb_calloc(1, sizeof *a);
    tb_graph *g = NULL;
    *out = NULL;
    if (!a) return TB_ERR_OOM;
    char *yaml = tb_asprintf("%s/model.yaml", dir);
    a->dir = tb_strdup(dir);
    tb_status st = a->dir && yaml ? read_description(a, yaml) : TB_ERR_OOM;
    if (st == TB_OK) st = check_hashes(a);
    if (st == TB_OK) st = tb_graph_load(dir, &g);
    if (st == TB_OK && (st = check_description(a, g)) != TB_OK) tb_graph_free(g);
    if (st == TB_OK) st = tb_exec_create(g, &a->exec);
    tb_free(yaml);
    if (st != TB_OK) tb_artefact_free(a);
    else *out = a;
    return st;
}

void tb_artefact_free(tb_artefact *a)
{
    if (!a) return;
    tb_exec_free(a->exec);
    tb_conf_free(a->conf);
    tb_free((void *)(uintptr_t)a->info.labels);
    tb_free((void *)(uintptr_t)a->info.facts);
    tb_free(a->dir);
    tb_free(a);
}

tb_exec *tb_artefact_exec(const tb_artefact *a) { return a->exec; }

const tb_artefact_info *tb_artefact_info_of(const tb_artefact *a) { return &a->info; }

static tb_status compare(const tb_graph *g, int output, tb_tensor *got, tb_tensor *expected)
{
    double worst = 0, largest = 0;
    size_t size = tb_dtype_size(tb_tensor_dtype(got));
    const char *a = tb_tensor_host(got), *b = tb_tensor_host(expected);
    for (int64_t i = 0; i < tb_tensor_numel(got); i++) {
        double x = tb_load_f64(tb_tensor_dtype(got), a + (size_t)i * size);
        double y = tb_load_f64(tb_tensor_dtype(got), b + (size_t)i * size);
        worst = fmax(worst, isnan(x) != isnan(y) ? HUGE_VAL : fabs(x - y));
        largest = fmax(largest, fabs(y));
    }
    if (worst <= 1e-3 * largest) return TB_OK;
    return TB_FAIL(TB_ERR_PARITY, "model %s: output '%s' differs from the stored answers by %g (largest value %g)",
                   g->name, g->values[g->outputs[output]].name, worst, largest);
}

static tb_status check_golden(const tb_graph *g, tb_session *s, const tb_safetensors *f)
{
    tb_tensor *in[MAX_OPERANDS], *out[MAX_OPERANDS], *expected[MAX_OPERANDS];
    const tb_safetensors_entry *first = tb_safetensors_find(f, g->values[g->inputs[0]].name);
    if (!first) return tb_error_code();
    int64_t n = first->rank ? first->dims[0] : 0;
    for (int i = 0; i < g->n_inputs; i++) {
        in[i] = golden_tensor(g, g->inputs[i], n);
        TB_TRY(tb_ctx_take_error(tb_ctx_current()));
        TB_TRY(tb_safetensors_load(f, g->values[g->inputs[i]].name, in[i]));
    }
    for (int i = 0; i < g->n_outputs; i++) {
        out[i] = golden_tensor(g, g->outputs[i], n);
        expected[i] = golden_tensor(g, g->outputs[i], n);
        TB_TRY(tb_ctx_take_error(tb_ctx_current()));
        TB_TRY(tb_safetensors_load(f, g->values[g->outputs[i]].name, expected[i]));
    }
    TB_TRY(run_on(s, g, n, in, out));
    for (int i = 0; i < g->n_outputs; i++) TB_TRY(compare(g, i, out[i], expected[i]));
    return TB_OK;
}

tb_status tb_artefact_check(const tb_artefact *a, tb_session *s)
{
    char *path = tb_asprintf("%s/golden.safetensors", a->dir);
    tb_safetensors *f = NULL;
    tb_status st = path ? tb_safetensors_open(path, &f) : TB_ERR_OOM;
    tb_scope *scope = tb_scope_open();
    if (st == TB_OK) st = check_golden(tb_exec_graph(a->exec), s, f);
    tb_scope_close(scope);
    tb_safetensors_close(f);
    tb_free(path);
    return st;
}
