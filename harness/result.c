/* The result of a point: its launches side by side, and one summary line a metric.
 *
 * Launches are the independent units (samples inside one are not): a launch gives one number, the chosen
 * statistic over its iterations after the ranks were reduced, and the interval is taken over launches. With
 * one launch the interval over its iterations is given instead, and named so. */
#include "journal.h"
#include "stats.h"
#include "tb_alloc.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

static void sort_by_launch(tb_result *r)
{
    for (int i = 1; i < r->n_launches; i++)
        for (int k = i; k > 0 && r->launches[k - 1]->point.launch > r->launches[k]->point.launch; k--) {
            tb_launch *other = r->launches[k - 1];
            r->launches[k - 1] = r->launches[k];
            r->launches[k] = other;
        }
}

tb_status tb_result_from_journals(const char *const *paths, int n, tb_result **out)
{
    *out = NULL;
    tb_status st = TB_OK;
    if (n < 1) return TB_FAIL(TB_ERR_INVALID, "a result needs at least one journal");
    tb_result *r = tb_calloc(1, sizeof *r);
    if (!r || !(r->launches = tb_calloc((size_t)n, sizeof(tb_launch *)))) TB_GO(tb_error_code());
    for (int i = 0; i < n; i++) {
        TB_GO(tb_journal_read(paths[i], &r->launches[i]));
        r->n_launches++;
        if (strcmp(r->launches[i]->point.hash, r->launches[0]->point.hash))
            TB_GO(TB_FAIL(TB_ERR_INVALID, "%s and %s are of different points", paths[0], paths[i]));
    }
    sort_by_launch(r);
    *out = r;
    r = NULL;
cleanup:
    tb_result_free(r);
    return st;
}

/* May this launch give a number? Not when it failed, nor when it computed the wrong thing. */
static bool counts(const tb_launch *l)
{
    for (int i = 0; i < l->n_checks; i++)
        if (!l->checks[i].pass && strcmp(l->checks[i].kind, "bound")) return false;
    return strcmp(l->end.status, "failed") && strcmp(l->end.status, "invalid") &&
           strcmp(l->end.status, "timeout");
}

/* The samples of one metric in one launch, reduced over the ranks that took any. */
static tb_status reduced(const tb_launch *l, const tb_metric *m, int64_t warmup, double **out, int64_t *n)
{
    const char *how = m->reduce[0] ? m->reduce : "max";
    int64_t ranks = 0;
    *out = NULL;
    *n = INT64_MAX;
    for (int i = 0; i < l->n_series; i++) {
        const tb_series *s = &l->series[i];
        if (s->warmup != warmup || strcmp(s->metric, m->name)) continue;
        ranks++;
        if (s->n < *n) *n = s->n;
    }
    if (ranks == 0) *n = 0;
    if (*n == 0) return TB_OK;
    double *rows = tb_calloc((size_t)(*n * (ranks + 1)), sizeof *rows);
    if (!rows) return tb_error_code();
    int64_t column = 0;
    for (int i = 0; i < l->n_series; i++) {
        const tb_series *s = &l->series[i];
        if (s->warmup != warmup || strcmp(s->metric, m->name)) continue;
        for (int64_t k = 0; k < *n; k++) rows[*n + k * ranks + column] = s->values[k];
        column++;
    }
    *out = rows; /* the result goes before its inputs, so that one block serves both */
    return tb_reduce(rows + *n, *n, ranks, how, rows);
}

/* A metric without samples may be declared for values: one number a rank. */
static tb_status reduced_values(const tb_launch *l, const tb_metric *m, double **out, int64_t *n)
{
    double *x = tb_calloc((size_t)l->n_values + 1, sizeof *x);
    if (!x) return tb_error_code();
    int64_t ranks = 0;
    for (int i = 0; i < l->n_values; i++)
        if (!strcmp(l->values[i].name, m->name)) x[++ranks] = l->values[i].value;
    *out = x;
    *n = ranks > 0;
    return ranks ? tb_reduce(x + 1, 1, ranks, m->reduce[0] ? m->reduce : "max", x) : TB_OK;
}

static double quantile_named(const char *statistic) /* NaN when it names none */
{
    if (!statistic[0] || !strcmp(statistic, "median")) return 0.5;
    if (!strcmp(statistic, "p95")) return 0.95;
    if (!strcmp(statistic, "p99")) return 0.99;
    return NAN;
}

static tb_status launch_number(const tb_metric *m, const double *in_order, const double *sorted, int64_t n,
                               double *out)
{
    double q = quantile_named(m->statistic);
    if (!isnan(q))
        *out = q == 0.5 ? tb_median(sorted, n) : tb_quantile(sorted, n, q);
    else if (!strcmp(m->statistic, "last"))
        *out = in_order[n - 1];
    else if (!strcmp(m->statistic, "max"))
        *out = sorted[n - 1];
    else if (!strcmp(m->statistic, "min"))
        *out = sorted[0];
    else if (!strcmp(m->statistic, "total"))
        *out = tb_sample_mean(in_order, n) * (double)n;
    else
        return TB_FAIL(TB_ERR_CONFIG,
                       "metric '%s': statistic '%s' is not one of median, p95, p99, last, max, min, total",
                       m->name, m->statistic);
    return TB_OK;
}

/* Numbers of the launches and all samples, before they become a summary. */
typedef struct pooled {
    double *launch, *all;
    int64_t n_launches, n_all, n_warmup, n_outliers;
} pooled;

static tb_status pool_launch(const tb_launch *l, const tb_metric *m, pooled *p)
{
    tb_status st = TB_OK;
    double *x = NULL, *sorted = NULL, *more;
    int64_t n, n_warm;
    TB_GO(reduced(l, m, 1, &x, &n_warm));
    tb_free(x);
    x = NULL;
    TB_GO(reduced(l, m, 0, &x, &n));
    if (n == 0) TB_GO(reduced_values(l, m, &x, &n));
    p->n_warmup += n_warm;
    for (int64_t i = 0; i < n; i++)
        if (isnan(x[i])) n = 0; /* a loss that diverged has no median */
    if (n == 0) goto cleanup;
    if (!(more = tb_realloc(p->all, sizeof *more * (size_t)(p->n_all + n)))) TB_GO(tb_error_code());
    p->all = more;
    sorted = more + p->n_all;
    memcpy(sorted, x, sizeof *x * (size_t)n);
    tb_sort(sorted, n);
    p->n_outliers += tb_outliers(sorted, n, tb_median(sorted, n), tb_mad(sorted, n), 14.8, NULL);
    TB_GO(launch_number(m, x, sorted, n, &p->launch[p->n_launches]));
    p->n_all += n;
    p->n_launches++;
cleanup:
    tb_free(x);
    return st;
}

static void set_interval(tb_summary *s, const tb_metric *m, const pooled *p, double level)
{
    tb_interval i = {NAN, NAN, 0};
    s->method = "none";
    if (m->deterministic) {
        bool equal = p->launch[0] == p->launch[p->n_launches - 1];
        s->method = equal ? "exact" : "differs";
        i = (tb_interval){p->launch[0], p->launch[p->n_launches - 1], equal ? 1 : 0};
    } else if (p->n_launches > 1) {
        s->method = "launches";
        i = tb_quantile_interval(p->launch, p->n_launches, 0.5, level);
    } else if (!isnan(quantile_named(m->statistic)) && p->n_all > 1) {
        s->method = "iterations";
        i = tb_quantile_interval(p->all, p->n_all, quantile_named(m->statistic), level);
    }
    s->lo = i.lo;
    s->hi = i.hi;
    s->level = i.level;
}

static tb_status summarise(const tb_result *r, const tb_metric *m, double level, tb_summary *s)
{
    tb_status st = TB_OK;
    pooled p = {.launch = tb_calloc((size_t)r->n_launches, sizeof(double))};
    if (!p.launch) return tb_error_code();
    for (int i = 0; i < r->n_launches; i++)
        if (counts(r->launches[i])) TB_GO(pool_launch(r->launches[i], m, &p));
    *s = (tb_summary){.metric = m->name,
                      .unit = m->unit,
                      .dir = m->dir,
                      .n_launches = p.n_launches,
                      .scope = m->scope[0] ? m->scope : r->launches[0]->point.scope,
                      .n_samples = p.n_all,
                      .n_warmup = p.n_warmup,
                      .n_outliers = p.n_outliers};
    if (p.n_launches == 0) goto cleanup;
    tb_sort(p.launch, p.n_launches);
    tb_sort(p.all, p.n_all);
    s->value = tb_median(p.launch, p.n_launches);
    set_interval(s, m, &p, level);
    s->min = p.all[0];
    s->p25 = tb_quantile(p.all, p.n_all, 0.25);
    s->p75 = tb_quantile(p.all, p.n_all, 0.75);
    s->p95 = tb_quantile(p.all, p.n_all, 0.95);
    s->p99 = tb_quantile(p.all, p.n_all, 0.99);
    s->max = p.all[p.n_all - 1];
    s->mean = tb_sample_mean(p.all, p.n_all);
cleanup:
    tb_free(p.launch);
    tb_free(p.all);
    return st;
}

static bool metric_seen_before(const tb_result *r, int launch, int at)
{
    const char *name = r->launches[launch]->metrics[at].name;
    for (int l = 0; l < launch; l++)
        if (tb_launch_metric(r->launches[l], name)) return true;
    return tb_launch_metric(r->launches[launch], name) != &r->launches[launch]->metrics[at];
}

tb_status tb_result_summarise(tb_result *r, double level)
{
    int room = 0;
    for (int l = 0; l < r->n_launches; l++) room += r->launches[l]->n_metrics;
    tb_free(r->summaries);
    r->n_summaries = 0;
    if (!(r->summaries = tb_calloc((size_t)room + 1, sizeof *r->summaries))) return tb_error_code();
    for (int l = 0; l < r->n_launches; l++)
        for (int i = 0; i < r->launches[l]->n_metrics; i++) {
            if (metric_seen_before(r, l, i)) continue;
            tb_summary *s = &r->summaries[r->n_summaries];
            TB_TRY(summarise(r, &r->launches[l]->metrics[i], level, s));
            r->n_summaries += s->n_launches > 0; /* no launch, no number */
        }
    return TB_OK;
}

const char *tb_result_status(const tb_result *r)
{
    for (int i = 0; i < r->n_launches; i++) {
        const tb_launch *l = r->launches[i];
        if (strcmp(l->end.status, "ok")) return l->end.status;
        for (int k = 0; k < l->n_checks; k++)
            if (!l->checks[k].pass) return "invalid";
    }
    for (int i = 0; i < r->n_summaries; i++)
        if (!strcmp(r->summaries[i].method, "differs")) return "invalid";
    return "ok";
}

const tb_summary *tb_result_summary(const tb_result *r, const char *metric)
{
    for (int i = 0; i < r->n_summaries; i++)
        if (!strcmp(r->summaries[i].metric, metric)) return &r->summaries[i];
    return NULL;
}
