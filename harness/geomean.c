/* Geometric means over named points. */
#include "geomean.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Whether a point's configuration has the values that `wanted` maps keys to. */
static bool matches(const tb_conf *config, const tb_conf *wanted)
{
    bool all = true;
    for (int i = 0; i < wanted->n_items && all; i++) {
        const tb_conf *value = tb_conf_find(config, wanted->keys[i]);
        all = value && value->kind == TB_CONF_SCALAR && strcmp(value->text, wanted->items[i]->text) == 0;
    }
    return all;
}

static const char *series_of(const tb_experiment *e, int point, const char *key)
{
    const tb_conf *value = key ? tb_conf_find(e->points[point].config, key) : NULL;
    return value ? value->text : "";
}

/* The summary of the series' one point that `wanted` names; NULL: it is not there, not ok, or not the only one. */
static const tb_summary *find(const tb_experiment *e, tb_result *const *results, const tb_conf *wanted, const char *key,
                              const char *series, const char *metric)
{
    int found = -1;
    for (int p = 0; p < e->n_points; p++) {
        if (!matches(e->points[p].config, wanted) || strcmp(series_of(e, p, key), series) != 0) continue;
        if (found >= 0) return NULL;
        found = p;
    }
    if (found < 0 || !results[found] || strcmp(tb_result_status(results[found]), "ok") != 0) return NULL;
    return tb_result_summary(results[found], metric);
}

/* How many means there are, how many of them have not all their points, and the first of those. */
typedef struct tally {
    int n, n_left_out, first_point;
    const char *first_metric;
} tally;

static void print_mean(const tb_experiment *e, tb_result *const *results, const tb_conf *of, const char *key,
                       const char *series, const char *metric, tally *t)
{
    double sum = 0;
    t->n++;
    for (int i = 0; i < of->n_items; i++) {
        const tb_summary *s = find(e, results, of->items[i], key, series, metric);
        if (!s) {
            if (t->n_left_out++ == 0) t->first_point = i + 1, t->first_metric = metric;
            return;
        }
        sum += log(s->value);
    }
    printf("geomean  %s over %d points%s%s%s%s: %.4g\n", metric, of->n_items, key ? ", " : "", key ? key : "",
           key ? " " : "", series, exp(sum / of->n_items));
}

static void print_one(const tb_experiment *e, tb_result *const *results, const tb_conf *plot, tally *t)
{
    const tb_conf *metrics = tb_conf_find(plot, "metric"), *of = tb_conf_find(plot, "of"),
                  *series = tb_conf_find(plot, "series");
    const char *key = series ? series->text : NULL;
    for (int p = 0; p < e->n_points; p++) {
        const char *name = series_of(e, p, key);
        bool is_first = true;
        for (int q = 0; q < p; q++) is_first &= strcmp(series_of(e, q, key), name) != 0;
        for (int m = 0; is_first && m < metrics->n_items; m++)
            print_mean(e, results, of, key, name, metrics->items[m]->text, t);
    }
}

void tb_geomeans_print(const tb_experiment *e, tb_result *const *results)
{
    const tb_conf *plots = tb_conf_find(e->tree, "plots");
    tally t = {0};
    for (int i = 0; plots && i < plots->n_items; i++)
        if (strcmp(tb_conf_find(plots->items[i], "kind")->text, "geomean") == 0)
            print_one(e, results, plots->items[i], &t);
    if (t.n_left_out)
        printf("geomean  %d of %d means left out: a point is missing, not ok, or several (first: point %d of %s)\n",
               t.n_left_out, t.n, t.first_point, t.first_metric);
}
