/* Tables for people. */
#include "report.h"
#include "checks.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include <math.h>
#include <string.h>

enum { COLUMNS_MAX = 3, CHECKS_MAX = 64, CELL = 36 };

void tb_format_summary(const tb_summary *s, char *out, size_t bytes)
{
    const char *unit = s->unit;
    int n = snprintf(out, bytes, "%.4g%s%s", s->value, *unit ? " " : "", unit);
    if (n >= 0 && (size_t)n < bytes && isfinite(s->lo) && isfinite(s->hi) && s->level > 0)
        snprintf(out + n, bytes - (size_t)n, "  [%.4g, %.4g]", s->lo, s->hi);
}

/* The metrics that the experiment names, in its order; else those of the results with a direction. */
static int choose_columns(const tb_experiment *e, tb_result *const *results, const char **names)
{
    const tb_conf *metrics = tb_conf_find(e->tree, "metrics");
    int n = 0;
    for (; metrics && n < metrics->n_items && n < COLUMNS_MAX; n++) names[n] = metrics->keys[n];
    for (int p = 0; p < e->n_points && n == 0; p++)
        for (int i = 0; results[p] && i < results[p]->n_summaries && n < COLUMNS_MAX; i++)
            if (strcmp(results[p]->summaries[i].dir, "none") != 0)
                names[n++] = results[p]->summaries[i].metric;
    return n;
}

static double common_level(const tb_experiment *e, tb_result *const *results)
{
    double level = 1;
    for (int p = 0; p < e->n_points; p++)
        for (int i = 0; results[p] && i < results[p]->n_summaries; i++)
            if (results[p]->summaries[i].level > 0) level = fmin(level, results[p]->summaries[i].level);
    return level < 1 ? level : 0;
}

static int label_width(const tb_experiment *e)
{
    int width = (int)strlen(e->name);
    for (int p = 0; p < e->n_points; p++) {
        int n = (int)strlen(e->points[p].label) + 2;
        if (n > width) width = n;
    }
    return width;
}

static const char *point_status(const tb_runner *r, int point, const tb_result *result)
{
    if (!result) return "nothing measured";
    for (int l = 0; l < r->experiment->launches; l++)
        if (!r->done[point * r->experiment->launches + l])
            return strcmp(tb_result_status(result), "ok") == 0 ? "incomplete" : tb_result_status(result);
    return tb_result_status(result);
}

static void print_table(const tb_runner *r, tb_result *const *results)
{
    const tb_experiment *e = r->experiment;
    const char *names[COLUMNS_MAX];
    int n = choose_columns(e, results, names), width = label_width(e);
    printf("\n%-*s", width + 2, e->name);
    for (int c = 0; c < n; c++) printf("%-*s", CELL, names[c]);
    printf("status\n");
    for (int p = 0; p < e->n_points; p++) {
        printf("  %-*s", width, e->points[p].label);
        for (int c = 0; c < n; c++) {
            char cell[96] = "-";
            const tb_summary *s = results[p] ? tb_result_summary(results[p], names[c]) : NULL;
            if (s) tb_format_summary(s, cell, sizeof cell);
            printf("%-*s", CELL, cell);
        }
        printf("%s%s%s\n", point_status(r, p, results[p]), strcmp(e->points[p].scope, "measured") ? ", " : "",
               strcmp(e->points[p].scope, "measured") ? e->points[p].scope : "");
    }
    double level = common_level(e, results);
    if (level > 0) printf("  [ , ]: %.3g %% intervals%s\n", level * 100, e->launches == 1 ? " over iterations of one launch" : "");
}

/* Why points are not ok, one line each. */
static void print_trouble(const tb_experiment *e, tb_result *const *results, bool *parity)
{
    for (int p = 0; p < e->n_points; p++)
        for (int i = 0; results[p] && i < results[p]->n_launches; i++) {
            const tb_launch *l = results[p]->launches[i];
            if (strcmp(l->end.status, "ok") != 0)
                printf("%s, launch %lld: %s: %s\n", e->points[p].label, (long long)l->point.launch + 1, l->end.status,
                       l->end.reason);
            for (int c = 0; c < l->n_checks; c++) {
                if (l->checks[c].pass) continue;
                printf("  %s: %.6g, limit %.6g: %s\n", l->checks[c].name, l->checks[c].value, l->checks[c].limit,
                       l->checks[c].message);
                *parity |= strcmp(l->checks[c].kind, "parity") == 0;
            }
        }
}

static bool print_sweep_checks(const tb_experiment *e, tb_result *const *results)
{
    tb_sweep_check checks[CHECKS_MAX];
    int n = tb_sweep_checks(e, results, checks, CHECKS_MAX);
    bool all = true;
    for (int i = 0; i < n; i++) {
        printf("check  %s: %s (%s)\n", checks[i].text, checks[i].n_compared == 0 ? "not compared"
               : checks[i].pass ? "pass" : "FAIL", checks[i].message);
        all &= checks[i].pass;
    }
    return all;
}

int tb_report_run(tb_runner *r, tb_result *const *results)
{
    const tb_experiment *e = r->experiment;
    bool parity = false;
    int n_ok = 0, n_measured = 0;
    for (int p = 0; p < e->n_points; p++) {
        n_ok += strcmp(point_status(r, p, results[p]), "ok") == 0;
        n_measured += results[p] != NULL;
    }
    print_table(r, results);
    print_trouble(e, results, &parity);
    bool checks = n_measured > 0 ? print_sweep_checks(e, results) : true;
    printf("results  %s   %d of %d points ok%s\n", r->folder, n_ok, e->n_points,
           r->n_kept ? " (what was there was kept)" : "");
    if (r->interrupted || r->n_failed) printf("tb run %s --resume --out %s   goes on from here\n", e->name, r->folder);
    if (parity || (!checks && !r->interrupted)) return 1;
    return n_ok == e->n_points ? 0 : 3;
}
