/* Finding and loading an experiment's file: extends, profile, -s, and the check of every key. */
#include "experiment.h"
#include "experiment_internal.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <string.h>
#include <unistd.h>

enum { EXTENDS_MAX = 8, NAMES_MAX = 256 };

static const char *const top_keys[] = {"question", "driver",   "extends", "launch", "params", "sweep",
                                       "measure",  "profiles", "metrics", "valid",  "checks", "plots"};
enum { N_TOP_KEYS = sizeof top_keys / sizeof top_keys[0] };

static bool is_folder_with_experiments(const char *folder)
{
    char *path = tb_asprintf("%s/experiments", folder);
    bool found = path && access(path, R_OK | X_OK) == 0;
    tb_free(path);
    return found;
}

tb_status tb_experiment_root(char **out)
{
    *out = NULL;
    char program[4096] = "";
    if (is_folder_with_experiments(".")) {
        *out = tb_strdup(".");
        return *out ? TB_OK : TB_ERR_OOM;
    }
    if (readlink("/proc/self/exe", program, sizeof program - 1) > 0) {
        const char *folder = dirname(dirname(program)); /* <root>/build/tb */
        if (is_folder_with_experiments(folder)) {
            *out = tb_strdup(folder);
            return *out ? TB_OK : TB_ERR_OOM;
        }
    }
    return TB_FAIL(TB_ERR_NOT_FOUND,
                   "no folder experiments/ here or above the program; change into the source tree");
}

/* A sentence for the name of an experiment that is not there. */
static tb_status fail_missing(const tb_experiment *e, const char *name)
{
    char *names[NAMES_MAX];
    int n = 0;
    char *folder = tb_asprintf("%s/experiments", e->root);
    DIR *dir = folder ? opendir(folder) : NULL;
    for (const struct dirent *entry; dir && n < NAMES_MAX && (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        if (length <= 5 || strcmp(entry->d_name + length - 5, ".yaml") != 0) continue;
        if ((names[n] = tb_strndup(entry->d_name, length - 5))) n++;
    }
    const char *near = tb_nearest(name, (const char *const *)names, n);
    tb_status st = TB_FAIL(TB_ERR_NOT_FOUND, "no experiment '%s' (%s)%s%s; tb list shows what there is", name,
                           e->path, near ? "; nearest: " : "", near ? near : "");
    for (int i = 0; i < n; i++) tb_free(names[i]);
    if (dir) closedir(dir);
    tb_free(folder);
    return st;
}

static tb_status find_file(tb_experiment *e, const char *name)
{
    bool is_path = strchr(name, '/') || strstr(name, ".yaml");
    tb_status st = tb_experiment_root(&e->root);
    if (st != TB_OK && !is_path) return st;
    if (!e->root && !(e->root = tb_strdup("."))) return TB_ERR_OOM;
    e->path = is_path ? tb_strdup(name) : tb_asprintf("%s/experiments/%s.yaml", e->root, name);
    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".yaml") == 0) n -= 5;
    e->name = tb_strndup(base, n);
    if (!e->path || !e->name) return TB_ERR_OOM;
    if (access(e->path, R_OK) == 0) return TB_OK;
    if (!is_path && errno == ENOENT) return fail_missing(e, name);
    return TB_FAIL(TB_ERR_NOT_FOUND, "%s: %s", e->path, strerror(errno));
}

/* The tree of one file over what it extends. */
static tb_status load_tree(const char *path, int depth, tb_conf **out)
{
    *out = NULL;
    tb_conf *child = NULL, *base = NULL;
    TB_TRY(tb_conf_load(path, &child));
    tb_status st = TB_OK;
    char *copy = NULL, *base_path = NULL;
    const char *parent;
    if (child->kind != TB_CONF_MAP)
        TB_GO(tb_conf_fail(child, TB_ERR_CONFIG, "an experiment is a map of keys"));
    const tb_conf *extends = tb_conf_find(child, "extends");
    if (!extends) {
        *out = child;
        return TB_OK;
    }
    TB_GO(tb_conf_str(extends, "extends", &parent));
    if (depth == EXTENDS_MAX)
        TB_GO(tb_conf_fail(extends, TB_ERR_CONFIG, "extends: goes in a circle, or too deep"));
    copy = tb_strdup(path);
    base_path = copy ? tb_asprintf("%s/%s", dirname(copy), parent) : NULL;
    if (!base_path) TB_GO(TB_ERR_OOM);
    st = load_tree(base_path, depth + 1, &base);
    if (st == TB_ERR_NOT_FOUND) st = tb_conf_fail(extends, TB_ERR_CONFIG, "extends: no file %s", base_path);
    if (st == TB_OK) st = tb_conf_merge(base, child);
    if (st == TB_OK) {
        *out = base;
        base = NULL;
    }
cleanup:
    tb_free(copy);
    tb_free(base_path);
    tb_conf_free(child);
    tb_conf_free(base);
    return st;
}

static tb_status read_source(tb_experiment *e)
{
    FILE *file = fopen(e->path, "rb");
    if (!file) return TB_FAIL(TB_ERR_IO, "%s: %s", e->path, strerror(errno));
    tb_text text = {0};
    char block[4096];
    for (size_t n; (n = fread(block, 1, sizeof block, file)) > 0;) tb_text_add_bytes(&text, block, n);
    fclose(file);
    if (text.failed) return TB_ERR_OOM;
    e->source = text.data;
    return TB_OK;
}

static tb_status check_top(const tb_experiment *e)
{
    for (int i = 0; i < e->tree->n_items; i++) {
        const char *key = e->tree->keys[i];
        bool known = false;
        for (int k = 0; k < N_TOP_KEYS; k++) known |= strcmp(key, top_keys[k]) == 0;
        if (known) continue;
        const char *near = tb_nearest(key, top_keys, N_TOP_KEYS);
        return tb_conf_fail(e->tree->items[i], TB_ERR_CONFIG, "unknown key '%s'%s%s%s", key,
                            near ? "; nearest: '" : "", near ? near : "", near ? "'" : "");
    }
    return TB_OK;
}

static tb_status find_driver(tb_experiment *e)
{
    const tb_conf *node = tb_conf_find(e->tree, "driver");
    const char *name, *names[NAMES_MAX];
    if (!node) return TB_FAIL(TB_ERR_CONFIG, "%s: key 'driver' is missing", e->path);
    TB_TRY(tb_conf_str(node, "driver", &name));
    e->driver = tb_driver_find(name);
    if (e->driver) return TB_OK;
    int n = 0;
    for (; n < tb_driver_count() && n < NAMES_MAX; n++) names[n] = tb_driver_at(n)->name;
    const char *near = tb_nearest(name, names, n);
    return tb_conf_fail(node, TB_ERR_CONFIG, "no driver '%s'%s%s", name, near ? "; nearest: " : "",
                        near ? near : "");
}

/* ---- the tables, by dotted path ---- */

typedef struct section {
    const char *name;
    const tb_key *keys;
    int n_keys;
} section;

static tb_status fail_unknown(const tb_experiment *e, const tb_conf *node, const char *path,
                              const section *sections)
{
    char names[NAMES_MAX][96];
    const char *list[NAMES_MAX];
    int n = 0;
    for (int s = 0; s < 3; s++)
        for (int k = 0; k < sections[s].n_keys && n < NAMES_MAX; k++, n++) {
            snprintf(names[n], sizeof names[n], "%s.%s", sections[s].name, sections[s].keys[k].name);
            list[n] = names[n];
        }
    const char *near = tb_nearest(path, list, n);
    char hint[128] = "";
    if (near) snprintf(hint, sizeof hint, "; nearest: '%s'", near);
    if (node && node->line)
        return tb_conf_fail(node, TB_ERR_CONFIG, "unknown key '%s'%s.  tb show %s --keys lists all", path,
                            hint, e->name);
    return TB_FAIL(TB_ERR_CONFIG, "%s: unknown key '%s' (from -s)%s.  tb show %s --keys lists all", e->name,
                   path, hint, e->name);
}

const tb_key *tbi_experiment_key(const tb_experiment *e, const tb_conf *node, const char *path)
{
    const section sections[] = {{"params", e->driver->keys, e->driver->n_keys},
                                {"launch", tb_launch_keys, tb_n_launch_keys},
                                {"measure", tb_measure_keys, tb_n_measure_keys}};
    for (int s = 0; s < 3; s++) {
        size_t n = strlen(sections[s].name);
        if (strncmp(path, sections[s].name, n) != 0 || path[n] != '.') continue;
        for (int k = 0; k < sections[s].n_keys; k++)
            if (strcmp(path + n + 1, sections[s].keys[k].name) == 0) return &sections[s].keys[k];
    }
    (void)fail_unknown(e, node, path, sections);
    return NULL;
}

/* A profile's keys may also reach into the sweep, the metrics and what is valid. */
static tb_status check_profiles(const tb_experiment *e)
{
    const tb_conf *profiles = tb_conf_find(e->tree, "profiles");
    for (int p = 0; profiles && p < profiles->n_items; p++) {
        const tb_conf *profile = profiles->items[p];
        if (profile->kind != TB_CONF_MAP)
            return tb_conf_fail(profile, TB_ERR_CONFIG,
                                "a profile is a map of dotted keys (measure.launches: 3)");
        for (int i = 0; i < profile->n_items; i++) {
            const char *path = profile->keys[i];
            bool free_form = strncmp(path, "sweep.", 6) == 0 || strncmp(path, "metrics.", 8) == 0 ||
                             strcmp(path, "valid") == 0 || strcmp(path, "checks") == 0;
            if (!free_form && !tbi_experiment_key(e, profile->items[i], path)) return TB_ERR_CONFIG;
        }
    }
    return TB_OK;
}

static tb_status apply_profile(tb_experiment *e)
{
    if (!*e->profile) return TB_OK;
    const tb_conf *profiles = tb_conf_find(e->tree, "profiles"), *profile = NULL;
    const char *names[NAMES_MAX];
    int n = 0;
    for (; profiles && n < profiles->n_items && n < NAMES_MAX; n++) {
        names[n] = profiles->keys[n];
        if (strcmp(names[n], e->profile) == 0) profile = profiles->items[n];
    }
    if (!profile) {
        const char *near = tb_nearest(e->profile, names, n);
        if (!near && n > 0) near = names[0];
        return TB_FAIL(TB_ERR_CONFIG, "%s: no profile '%s'%s%s", e->name, e->profile,
                       near ? "; there is: " : "", near ? near : "");
    }
    for (int i = 0; i < profile->n_items; i++) {
        tb_conf *value;
        TB_TRY(tb_conf_clone(profile->items[i], &value));
        TB_TRY(tb_conf_set(e->tree, profile->keys[i], value));
    }
    return TB_OK;
}

static void mark_from_command_line(tb_conf *node)
{
    node->line = node->column = 0;
    for (int i = 0; i < node->n_items; i++) mark_from_command_line(node->items[i]);
}

/* What -s gives a key, as a list: [a, b] is one, anything else is one value and stands as it is written, commas
 * and all (gpt:layers=8,width=64). */
static tb_status parse_setting(const tb_experiment *e, const tb_key *key, const char *setting, tb_conf **list)
{
    const char *equals = strchr(setting, '='), *text = equals + 1;
    if (*text == '[') {
        TB_TRY(tb_conf_parse(text, strlen(text), "-s", list));
        mark_from_command_line(*list);
        return TB_OK;
    }
    bool is_text = key->type == TB_KEY_STR || key->type == TB_KEY_CHOICE;
    if (!is_text && strchr(text, ','))
        return TB_FAIL(TB_ERR_CONFIG, "%s: -s %s: several values are written '%.*s=[%s]'", e->name, setting,
                       (int)(equals - setting), setting, text);
    TB_TRY(tb_conf_parse("['']", 4, "-s", list));
    tb_conf_free((*list)->items[0]);
    (*list)->items[0] = tb_conf_scalar("-s", text, !*text);
    return (*list)->items[0] ? TB_OK : TB_ERR_OOM;
}

static bool a_case_sets(const tb_experiment *e, const char *path)
{
    const tb_conf *cases = tb_conf_find(e->tree, "sweep.cases");
    for (int i = 0; cases && i < cases->n_items; i++)
        if (tb_conf_find(cases->items[i], path)) return true;
    return false;
}

/* One -s key=value. A list becomes a dimension of the sweep; a key that the sweep varies is held at the
 * value. */
static tb_status apply_set(tb_experiment *e, const char *setting)
{
    const char *equals = strchr(setting, '=');
    if (!equals || equals == setting)
        return TB_FAIL(TB_ERR_CONFIG, "%s: -s %s: write -s key=value", e->name, setting);
    tb_status st = TB_OK;
    tb_conf *list = NULL, *value = NULL;
    char *path = tb_strndup(setting, (size_t)(equals - setting));
    char *product = path ? tb_asprintf("sweep.product.%s", path) : NULL, *zip = NULL;
    if (!product || !(zip = tb_asprintf("sweep.zip.%s", path))) TB_GO(TB_ERR_OOM);
    const tb_key *key = tbi_experiment_key(e, NULL, path);
    if (!key) TB_GO(TB_ERR_CONFIG);
    TB_GO(parse_setting(e, key, setting, &list));
    if (tb_conf_find(e->tree, zip) || a_case_sets(e, path))
        TB_GO(TB_FAIL(TB_ERR_CONFIG, "%s: '%s' is varied by sweep.%s; choose its rows with --where", e->name,
                      path, a_case_sets(e, path) ? "cases" : "zip"));
    if (equals[1] == '[' || tb_conf_find(e->tree, product)) {
        st = tb_conf_set(e->tree, product, list);
        list = NULL;
    } else {
        TB_GO(tb_conf_clone(list->items[0], &value));
        TB_GO(tb_conf_set(e->tree, path, value));
    }
cleanup:
    tb_conf_free(list);
    tb_free(path);
    tb_free(product);
    tb_free(zip);
    return st;
}

/* A plot's axes, series and base are keys of the experiment; what else its kind takes is scripts/plot's to
 * say. */
static tb_status check_plot_keys(const tb_experiment *e, const tb_conf *node)
{
    const char *path;
    if (!node) return TB_OK;
    if (node->kind == TB_CONF_SCALAR) {
        TB_TRY(tb_conf_str(node, "plots", &path));
        return !strchr(path, '.') || tbi_experiment_key(e, node, path) ? TB_OK : TB_ERR_CONFIG;
    }
    for (int i = 0; i < node->n_items; i++) {
        if (node->kind == TB_CONF_LIST)
            TB_TRY(check_plot_keys(e, node->items[i]));
        else if (!tbi_experiment_key(e, node->items[i], node->keys[i]))
            return TB_ERR_CONFIG;
    }
    return TB_OK;
}

/* What tb_geomeans_print() relies on. */
static tb_status check_geomean(const tb_experiment *e, const tb_conf *plot)
{
    const tb_conf *metrics = tb_conf_find(plot, "metric"), *of = tb_conf_find(plot, "of"),
                  *series = tb_conf_find(plot, "series");
    bool fits = metrics && metrics->kind == TB_CONF_LIST && of && of->kind == TB_CONF_LIST && of->n_items > 0 &&
                (!series || series->kind == TB_CONF_SCALAR);
    for (int i = 0; fits && i < of->n_items; i++) {
        fits = of->items[i]->kind == TB_CONF_MAP;
        for (int k = 0; fits && k < of->items[i]->n_items; k++) fits = of->items[i]->items[k]->kind == TB_CONF_SCALAR;
    }
    if (!fits)
        return tb_conf_fail(plot, TB_ERR_CONFIG,
                            "plots: a geomean has lists metric (names) and of (maps of keys to "
                            "values), and may have a series (one key)");
    for (int i = 0; i < metrics->n_items; i++) {
        const char *name, *near = NULL;
        TB_TRY(tb_conf_str(metrics->items[i], "metric", &name));
        if (!tb_driver_emits(e->driver, name, &near))
            return tb_conf_fail(metrics->items[i], TB_ERR_CONFIG, "plots: driver '%s' emits no '%s'%s%s",
                                e->driver->name, name, near ? "; nearest: " : "", near ? near : "");
    }
    return TB_OK;
}

static tb_status check_plot(const tb_experiment *e, const tb_conf *plot)
{
    static const char *const with_keys[] = {"x", "series", "label", "base", "panels", "of"};
    const tb_conf *kind = plot->kind == TB_CONF_MAP ? tb_conf_find(plot, "kind") : NULL;
    if (!kind || kind->kind != TB_CONF_SCALAR)
        return tb_conf_fail(plot, TB_ERR_CONFIG, "plots: each is a map with a 'kind'");
    if (strcmp(kind->text, "geomean") == 0) TB_TRY(check_geomean(e, plot));
    for (size_t i = 0; i < sizeof with_keys / sizeof *with_keys; i++)
        TB_TRY(check_plot_keys(e, tb_conf_find(plot, with_keys[i])));
    return TB_OK;
}

static tb_status check_lists(const tb_experiment *e)
{
    const tb_conf *valid = tb_conf_find(e->tree, "valid"), *checks = tb_conf_find(e->tree, "checks");
    const char *text;
    if (valid && valid->kind != TB_CONF_LIST)
        return tb_conf_fail(valid, TB_ERR_CONFIG, "valid: a list of conditions");
    for (int i = 0; valid && i < valid->n_items; i++) TB_TRY(tb_conf_str(valid->items[i], "valid", &text));
    if (checks && checks->kind != TB_CONF_LIST)
        return tb_conf_fail(checks, TB_ERR_CONFIG, "checks: a list of checks");
    for (int i = 0; checks && i < checks->n_items; i++) TB_TRY(tbi_check_validate(e, checks->items[i]));
    const tb_conf *plots = tb_conf_find(e->tree, "plots");
    if (plots && plots->kind != TB_CONF_LIST)
        return tb_conf_fail(plots, TB_ERR_CONFIG, "plots: a list of plots");
    for (int i = 0; plots && i < plots->n_items; i++) TB_TRY(check_plot(e, plots->items[i]));
    return TB_OK;
}

static tb_status read_captions(tb_experiment *e)
{
    const tb_conf *question = tb_conf_find(e->tree, "question"), *plots = tb_conf_find(e->tree, "plots");
    tb_text json = {0};
    e->question = "";
    if (question) TB_TRY(tb_conf_str(question, "question", &e->question));
    if (plots) tb_conf_canonical(plots, &json);
    else tb_text_add(&json, "[]");
    e->plots = json.data;
    return json.failed ? TB_ERR_OOM : TB_OK;
}

tb_status tb_experiment_load(const char *name, const tb_experiment_options *options, tb_experiment **out)
{
    *out = NULL;
    tb_status st = TB_OK;
    tb_experiment *e = tb_calloc(1, sizeof *e);
    if (!e) return TB_ERR_OOM;
    e->profile = options->profile ? options->profile : "";
    TB_GO(find_file(e, name));
    TB_GO(load_tree(e->path, 0, &e->tree));
    TB_GO(read_source(e));
    TB_GO(check_top(e));
    TB_GO(find_driver(e));
    TB_GO(check_profiles(e));
    TB_GO(apply_profile(e));
    for (int i = 0; i < options->n_set; i++) TB_GO(apply_set(e, options->set[i]));
    TB_GO(check_lists(e));
    TB_GO(read_captions(e));
    TB_GO(tbi_experiment_expand(e, options->where));
    *out = e;
    return TB_OK;
cleanup:
    tb_experiment_free(e);
    return st;
}

void tb_experiment_free(tb_experiment *e)
{
    if (!e) return;
    for (int i = 0; i < e->n_points; i++) {
        tb_conf_free(e->points[i].config);
        tb_free(e->points[i].json);
        tb_free(e->points[i].label);
        tb_free(e->points[i].stem);
    }
    tb_free(e->points);
    tb_conf_free(e->tree);
    tb_free(e->name);
    tb_free(e->path);
    tb_free(e->root);
    tb_free(e->source);
    tb_free(e->plots);
    tb_free(e);
}
