/* From an experiment's tree to its points: cases x product x zip, each assignment applied, checked, hashed, named. */
#include "experiment.h"
#include "experiment_internal.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include "tb_topo.h"
#include <ctype.h>
#include <string.h>

enum { DIMS_MAX = 16, KEYS_MAX = 16, POINTS_MAX = 10000 };

/* One dimension: keys that change together. A product key is a dimension of one key; all of zip is one
 * dimension, and so are the cases. */
typedef struct dim {
    char path[KEYS_MAX][96];
    const tb_conf *values[KEYS_MAX]; /* lists; of no use where there are cases */
    const tb_conf *cases;            /* a list of maps, each with the values of the keys that it sets */
    int n_keys, n_values;
} dim;

/* NULL: the case leaves the key as it is. */
static const tb_conf *value_at(const dim *d, int key, int value)
{
    return d->cases ? tb_conf_find(d->cases->items[value], d->path[key]) : d->values[key]->items[value];
}

/* What only plans the run is no part of a point. */
static const char *const planning[] = {"measure.launches", "measure.order", "launch.timeout_s"};

static tb_status check_key(const tb_experiment *e, const char *path, const tb_conf *node)
{
    if (!tbi_experiment_key(e, node, path)) return TB_ERR_CONFIG;
    for (int i = 0; i < 3; i++)
        if (strcmp(path, planning[i]) == 0)
            return tb_conf_fail(node, TB_ERR_CONFIG, "sweep: '%s' plans the run and cannot be varied in it",
                                path);
    return TB_OK;
}

static tb_status check_values(const tb_experiment *e, const char *path, const tb_conf *list)
{
    TB_TRY(check_key(e, path, list));
    if (list->kind != TB_CONF_LIST || list->n_items == 0)
        return tb_conf_fail(list, TB_ERR_CONFIG, "sweep: '%s' wants a list of values", path);
    return TB_OK;
}

/* Adds the lists below `map` to dims: each as a dimension of its own, or (zip) all to one. */
static tb_status collect_dims(const tb_experiment *e, const tb_conf *map, const char *prefix, bool zip,
                              dim *dims, int *n)
{
    for (int i = 0; map && i < map->n_items; i++) {
        char path[96];
        const tb_conf *list = map->items[i];
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", map->keys[i]);
        if (list->kind == TB_CONF_MAP) {
            TB_TRY(collect_dims(e, list, path, zip, dims, n));
            continue;
        }
        TB_TRY(check_values(e, path, list));
        bool joins = zip && *n > 0 && dims[*n - 1].n_keys > 0;
        if (*n == DIMS_MAX || (joins && dims[*n - 1].n_keys == KEYS_MAX))
            return tb_conf_fail(list, TB_ERR_CONFIG, "sweep: more than %d keys", DIMS_MAX);
        if (joins && list->n_items != dims[*n - 1].n_values)
            return tb_conf_fail(list, TB_ERR_CONFIG, "sweep.zip: '%s' has %d values, '%s' has %d", path,
                                list->n_items, dims[*n - 1].path[0], dims[*n - 1].n_values);
        dim *d = joins ? &dims[*n - 1] : &dims[(*n)++];
        memcpy(d->path[d->n_keys], path, sizeof path);
        d->values[d->n_keys++] = list;
        d->n_values = list->n_items;
    }
    return TB_OK;
}

/* Adds the keys of one case that no case before it has named. */
static tb_status collect_case_keys(const tb_experiment *e, const tb_conf *map, const char *prefix, dim *d)
{
    for (int i = 0; i < map->n_items; i++) {
        char path[96];
        bool known = false;
        const tb_conf *item = map->items[i];
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", map->keys[i]);
        if (item->kind == TB_CONF_MAP) {
            TB_TRY(collect_case_keys(e, item, path, d));
            continue;
        }
        TB_TRY(check_key(e, path, item));
        for (int k = 0; k < d->n_keys; k++) known |= strcmp(d->path[k], path) == 0;
        if (known) continue;
        if (d->n_keys == KEYS_MAX)
            return tb_conf_fail(item, TB_ERR_CONFIG, "sweep.cases: more than %d keys", KEYS_MAX);
        memcpy(d->path[d->n_keys++], path, sizeof path);
    }
    return TB_OK;
}

static tb_status collect_cases(const tb_experiment *e, const tb_conf *cases, dim *dims, int *n)
{
    if (!cases) return TB_OK;
    if (cases->kind != TB_CONF_LIST || cases->n_items == 0)
        return tb_conf_fail(cases, TB_ERR_CONFIG, "sweep.cases: a list of maps, each with the keys of one case");
    dim *d = &dims[(*n)++];
    *d = (dim){.cases = cases, .n_values = cases->n_items};
    for (int i = 0; i < cases->n_items; i++) {
        if (cases->items[i]->kind != TB_CONF_MAP)
            return tb_conf_fail(cases->items[i], TB_ERR_CONFIG, "sweep.cases: each is a map of keys");
        TB_TRY(collect_case_keys(e, cases->items[i], "", d));
    }
    return TB_OK;
}

static tb_status find_dims(const tb_experiment *e, dim *dims, int *n)
{
    static const char *const known[] = {"cases", "product", "zip", "exclude"};
    enum { N_KNOWN = sizeof known / sizeof *known };
    const tb_conf *sweep = tb_conf_find(e->tree, "sweep");
    for (int i = 0; sweep && i < sweep->n_items; i++) {
        const char *near = tb_nearest(sweep->keys[i], known, N_KNOWN);
        if (near && strcmp(near, sweep->keys[i]) == 0) continue;
        return tb_conf_fail(sweep->items[i], TB_ERR_CONFIG,
                            "unknown key 'sweep.%s'; it may hold cases, product, zip, exclude", sweep->keys[i]);
    }
    TB_TRY(collect_cases(e, tb_conf_find(sweep, "cases"), dims, n));
    TB_TRY(collect_dims(e, tb_conf_find(sweep, "product"), "", false, dims, n));
    dim zipped[2] = {0}; /* one is filled; collect_dims() joins to the last */
    int n_zipped = 0;
    TB_TRY(collect_dims(e, tb_conf_find(sweep, "zip"), "", true, zipped, &n_zipped));
    if (n_zipped == 0) return TB_OK;
    if (*n == DIMS_MAX) return TB_FAIL(TB_ERR_CONFIG, "%s: sweep: more than %d keys", e->name, DIMS_MAX);
    dims[(*n)++] = zipped[0];
    return TB_OK;
}

/* A copy of a section of the tree, or an empty map. */
static tb_status section(const tb_experiment *e, const char *name, tb_conf *to)
{
    const tb_conf *found = tb_conf_find(e->tree, name);
    tb_conf *copy = NULL;
    if (found) TB_TRY(tb_conf_clone(found, &copy));
    else TB_TRY(tb_conf_parse("{}", 2, e->path, &copy));
    return tb_conf_set(to, name, copy);
}

static tb_status apply_dim(const dim *d, int value, tb_conf *config)
{
    for (int k = 0; k < d->n_keys; k++) {
        tb_conf *copy;
        const tb_conf *given = value_at(d, k, value);
        if (!given) continue;
        TB_TRY(tb_conf_clone(given, &copy));
        TB_TRY(tb_conf_set(config, d->path[k], copy));
    }
    return TB_OK;
}

/* "cnn ranks=2": texts stand for themselves, numbers and flags get their key. */
static void add_label(const tb_experiment *e, const dim *d, int value, const tb_conf *config, tb_text *label)
{
    for (int k = 0; k < d->n_keys; k++) {
        if (!value_at(d, k, value)) continue;
        const char *path = d->path[k], *last = strrchr(path, '.') + 1;
        const tb_key *key = tbi_experiment_key(e, NULL, path);
        bool is_text = key->type == TB_KEY_STR || key->type == TB_KEY_CHOICE;
        tb_text_add(label, "%s%s%s%s", label->size ? " " : "", is_text ? "" : last, is_text ? "" : "=",
                    tb_conf_find(config, path)->text);
    }
}

static const tb_metric *find_metric(const tb_driver *driver, const char *name)
{
    for (int i = 0; i < tb_driver_metric_count(driver); i++)
        if (strcmp(tb_driver_metric_at(driver, i)->name, name) == 0) return tb_driver_metric_at(driver, i);
    return NULL;
}

/* Each metric of the experiment, completed from the driver's table. */
static tb_status complete_metrics(const tb_experiment *e, tb_conf *metrics)
{
    for (int i = 0; i < metrics->n_items; i++) {
        const tb_metric *m = find_metric(e->driver, metrics->keys[i]);
        const char *names[64];
        int n = 0;
        for (; !m && n < tb_driver_metric_count(e->driver) && n < 64; n++)
            names[n] = tb_driver_metric_at(e->driver, n)->name;
        const char *near = m ? NULL : tb_nearest(metrics->keys[i], names, n);
        if (!m)
            return tb_conf_fail(metrics->items[i], TB_ERR_CONFIG, "driver '%s' has no metric '%s'%s%s",
                                e->driver->name, metrics->keys[i], near ? "; nearest: " : "",
                                near ? near : "");
        char prefix[128], margin[32];
        snprintf(prefix, sizeof prefix, "metrics.%s.", m->name);
        snprintf(margin, sizeof margin, "%g", m->margin);
        const char *defaults[] = {m->dir, m->kind, m->reduce, m->statistic, m->scope, margin};
        tb_key keys[6];
        for (int k = 0; k < tb_n_metric_keys; k++) {
            keys[k] = tb_metric_keys[k];
            if (defaults[k] && *defaults[k]) keys[k].default_text = defaults[k];
        }
        TB_TRY(tb_conf_apply_keys(metrics->items[i], prefix, keys, tb_n_metric_keys));
    }
    return TB_OK;
}

static void drop(tb_conf *map, const char *name)
{
    for (int i = 0; map && i < map->n_items; i++) {
        if (strcmp(map->keys[i], name) != 0) continue;
        tb_free(map->keys[i]);
        tb_conf_free(map->items[i]);
        map->n_items--;
        memmove(&map->keys[i], &map->keys[i + 1], sizeof map->keys[0] * (size_t)(map->n_items - i));
        memmove(&map->items[i], &map->items[i + 1], sizeof map->items[0] * (size_t)(map->n_items - i));
        return;
    }
}

/* Checks and completes all sections, and takes out what plans the sweep but does not change what is measured:
 * a point keeps its hash, and so its results, when only the number of launches, their order or the timeout
 * change. */
static tb_status complete(tb_experiment *e, tb_conf *config, tb_plan_point *p)
{
    tb_conf *launch = tb_conf_find(config, "launch"), *measure = tb_conf_find(config, "measure");
    int64_t ranks, threads, seed;
    const char *order;
    TB_TRY(tb_conf_apply_keys(launch, "launch.", tb_launch_keys, tb_n_launch_keys));
    TB_TRY(tb_conf_apply_keys(measure, "measure.", tb_measure_keys, tb_n_measure_keys));
    TB_TRY(tb_conf_apply_keys(tb_conf_find(config, "params"), "params.", e->driver->keys, e->driver->n_keys));
    TB_TRY(complete_metrics(e, tb_conf_find(config, "metrics")));
    TB_TRY(tb_conf_int(tb_conf_find(launch, "ranks"), "launch.ranks", 1, 4096, &ranks));
    TB_TRY(tb_conf_int(tb_conf_find(launch, "threads"), "launch.threads", 1, 1024, &threads));
    TB_TRY(tb_conf_num(tb_conf_find(launch, "timeout_s"), "launch.timeout_s", 0, 1e9, &e->timeout_s));
    TB_TRY(tb_conf_int(tb_conf_find(measure, "launches"), "measure.launches", 1, 1000, &e->launches));
    TB_TRY(tb_conf_num(tb_conf_find(measure, "level"), "measure.level", 0, 1, &e->level));
    TB_TRY(tb_conf_int(tb_conf_find(measure, "seed"), "measure.seed", 0, INT64_MAX, &seed));
    TB_TRY(tb_conf_str(tb_conf_find(measure, "order"), "measure.order", &order));
    e->interleaved = strcmp(order, "interleaved") == 0;
    e->seed = (uint64_t)seed;
    p->ranks = (int)ranks;
    p->threads = (int)threads;
    for (int i = 0; i < 3; i++) {
        const char *last = strrchr(planning[i], '.') + 1;
        drop(strncmp(planning[i], "launch.", 7) == 0 ? launch : measure, last);
    }
    return TB_OK;
}

static tb_status name_point(const tb_experiment *e, tb_plan_point *p, const tb_topo *topo)
{
    if (p->threads > topo->n_cores)
        return tb_conf_fail(tb_conf_find(p->config, "launch.threads"), TB_ERR_CONFIG,
                            "launch.threads: %d threads, but this process may use %d core(s)", p->threads,
                            topo->n_cores);
    p->scope = (int64_t)p->ranks * p->threads > topo->n_cores ? "oversubscribed" : "measured";
    tb_text json = {0}, hashed = {0};
    tb_conf_canonical(p->config, &json);
    tb_text_add(&hashed, "%s\ndriver version %d\n", tb_text_str(&json), e->driver->version);
    p->json = json.data;
    tb_status st =
        json.failed || hashed.failed ? TB_ERR_OOM : tb_sha256_of(hashed.data, hashed.size, p->hash);
    tb_text_free(&hashed);
    if (st != TB_OK) return st;
    p->stem = tb_asprintf("%s-%.8s", p->label, p->hash);
    if (!p->stem) return TB_ERR_OOM;
    for (char *c = p->stem; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_') *c = '-';
    return TB_OK;
}

static tb_status build_point(tb_experiment *e, const dim *dims, int n_dims, int64_t index, tb_plan_point *p)
{
    static const char *const sections[] = {"launch", "measure", "params", "metrics"};
    TB_TRY(tb_conf_parse("{}", 2, e->path, &p->config));
    for (int s = 0; s < 4; s++) TB_TRY(section(e, sections[s], p->config));
    tb_conf *driver = tb_conf_scalar(NULL, e->driver->name, true), *valid = NULL;
    if (!driver) return TB_ERR_OOM;
    TB_TRY(tb_conf_set(p->config, "driver", driver));
    if (tb_conf_find(e->tree, "valid")) TB_TRY(tb_conf_clone(tb_conf_find(e->tree, "valid"), &valid));
    else TB_TRY(tb_conf_parse("[]", 2, e->path, &valid));
    TB_TRY(tb_conf_set(p->config, "valid", valid));
    int value[DIMS_MAX];
    for (int d = n_dims - 1; d >= 0; d--) { /* the last key changes fastest */
        value[d] = (int)(index % dims[d].n_values);
        TB_TRY(apply_dim(&dims[d], value[d], p->config));
        index /= dims[d].n_values;
    }
    tb_text label = {0};
    TB_TRY(complete(e, p->config, p));
    for (int d = 0; d < n_dims; d++) add_label(e, &dims[d], value[d], p->config, &label);
    if (label.size == 0) tb_text_add(&label, "%s", e->name);
    p->label = label.data;
    return label.failed ? TB_ERR_OOM : TB_OK;
}

static void clear_point(tb_plan_point *p)
{
    tb_conf_free(p->config);
    tb_free(p->label);
    tb_free(p->json);
    tb_free(p->stem);
    *p = (tb_plan_point){0};
}

static tb_status is_wanted(const tb_experiment *e, const tb_plan_point *p, const char *where, bool *wanted)
{
    const tb_conf *exclude = tb_conf_find(e->tree, "sweep.exclude");
    *wanted = true;
    bool holds;
    for (int i = 0; exclude && i < exclude->n_items; i++) {
        const char *text;
        TB_TRY(tb_conf_str(exclude->items[i], "sweep.exclude", &text));
        if (tb_expr_test(text, tb_conf_lookup, p->config, &holds) != TB_OK)
            return tb_conf_fail(exclude->items[i], TB_ERR_CONFIG, "sweep.exclude: %s", tb_error_message());
        *wanted &= !holds;
    }
    if (!where) return TB_OK;
    if (tb_expr_test(where, tb_conf_lookup, p->config, &holds) != TB_OK)
        return TB_FAIL(TB_ERR_CONFIG, "%s: --where %s", e->name, tb_error_message());
    *wanted &= holds;
    return TB_OK;
}

/* A name in `valid`: a key of the point, or what the driver may emit, of which only the run knows the value. */
typedef struct promised {
    const tb_driver *driver;
    const tb_conf *config;
} promised;

static bool look_up(const void *arg, const char *name, tb_expr_value *out, char *near)
{
    const promised *p = arg;
    const char *emitted = NULL;
    *out = (tb_expr_value){.type = TB_EXPR_ANY};
    if (tb_driver_emits(p->driver, name, &emitted) || tb_conf_lookup(p->config, name, out, near)) return true;
    if (!near[0] && emitted) snprintf(near, 256, "%s", emitted);
    return false;
}

/* A misspelt condition is told now, not after hours. */
static tb_status check_conditions(const tb_experiment *e, const tb_plan_point *p)
{
    const tb_conf *valid = tb_conf_find(p->config, "valid");
    promised known = {e->driver, p->config};
    bool ignored;
    for (int i = 0; i < valid->n_items; i++)
        if (tb_expr_test(valid->items[i]->text, look_up, &known, &ignored) != TB_OK)
            return tb_conf_fail(valid->items[i], TB_ERR_CONFIG, "valid: %s", tb_error_message());
    return TB_OK;
}

/* A value that stands twice in a list would be measured twice into the same files. */
static tb_status refuse_twin(const tb_experiment *e, const tb_plan_point *p)
{
    for (int i = 0; i < e->n_points; i++)
        if (strcmp(e->points[i].hash, p->hash) == 0)
            return TB_FAIL(TB_ERR_CONFIG, "%s: the points '%s' and '%s' are one and the same", e->name,
                           e->points[i].label, p->label);
    return TB_OK;
}

tb_status tbi_experiment_expand(tb_experiment *e, const char *where)
{
    dim dims[DIMS_MAX] = {0};
    int n_dims = 0;
    TB_TRY(find_dims(e, dims, &n_dims));
    int64_t total = 1;
    for (int d = 0; d < n_dims; d++) {
        total *= dims[d].n_values;
        if (total > POINTS_MAX)
            return TB_FAIL(TB_ERR_CONFIG, "%s: the sweep has more than %d points", e->name, POINTS_MAX);
    }
    tb_topo topo;
    TB_TRY(tb_topo_load(&topo));
    e->points = tb_calloc((size_t)total, sizeof *e->points);
    if (!e->points) return TB_ERR_OOM;
    for (int64_t i = 0; i < total; i++) {
        tb_plan_point *p = &e->points[e->n_points];
        bool wanted = false;
        tb_status st = build_point(e, dims, n_dims, i, p);
        if (st == TB_OK) st = check_conditions(e, p);
        if (st == TB_OK) st = is_wanted(e, p, where, &wanted);
        if (st == TB_OK && wanted) st = name_point(e, p, &topo);
        if (st == TB_OK && wanted) st = refuse_twin(e, p);
        if (st != TB_OK || !wanted) clear_point(p);
        else e->n_points++;
        if (st != TB_OK) return st;
    }
    if (e->n_points == 0)
        return TB_FAIL(TB_ERR_CONFIG, "%s: no point is left of %lld%s%s", e->name, (long long)total,
                       where ? " by --where " : "; sweep.exclude takes all", where ? where : "");
    return TB_OK;
}
