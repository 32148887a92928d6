/* The end of a run: table, trouble, checks over the sweep, verdict. */
#include "report.h"
#include "checks.h"
#include "geomean.h"
#include "table.h"
#include "tb_alloc.h"
#include <string.h>

enum { CHECKS_MAX = 64, EXIT_PARITY = 1, EXIT_INVALID = 3 };

static const char *point_status(const tb_runner *r, int point, const tb_result *result)
{
    if (!result) return "nothing measured";
    const char *status = tb_result_status(result);
    bool complete = true;
    for (int l = 0; l < r->experiment->launches; l++)
        complete &= r->done[point * r->experiment->launches + l];
    return complete || strcmp(status, "ok") != 0 ? status : "incomplete";
}

static void print_table(const tb_runner *r, tb_result *const *results)
{
    const tb_experiment *e = r->experiment;
    const tb_conf *named = tb_conf_find(e->tree, "metrics");
    tb_row *rows = tb_calloc((size_t)e->n_points, sizeof *rows);
    const char *metrics[TB_TABLE_METRICS];
    int n = 0;
    for (int p = 0; rows && p < e->n_points; p++)
        rows[p] =
            (tb_row){e->points[p].label, results[p], point_status(r, p, results[p]), e->points[p].scope};
    for (; named && n < named->n_items && n < TB_TABLE_METRICS; n++) metrics[n] = named->keys[n];
    if (rows && n == 0) n = tb_table_metrics(rows, e->n_points, metrics);
    printf("\n");
    if (rows) tb_table_print(e->name, rows, e->n_points, metrics, n);
    tb_free(rows);
}

/* The reason that was printed last, and how many launches in a row had it too. */
typedef struct said {
    const char *reason;
    int more;
} said;

static void print_more(said *s)
{
    if (s->more) printf("  and %d more launch%s for the same reason\n", s->more, s->more == 1 ? "" : "es");
    s->more = 0;
}

static bool has_failed_check(const tb_launch *l)
{
    for (int c = 0; c < l->n_checks; c++)
        if (!l->checks[c].pass) return true;
    return false;
}

/* Why launches are not ok, a few lines each. Returns whether a parity check failed. */
static bool print_trouble(const char *label, const tb_result *result, said *s)
{
    bool parity = false;
    for (int i = 0; result && i < result->n_launches; i++) {
        const tb_launch *l = result->launches[i];
        bool is_ok = strcmp(l->end.status, "ok") == 0;
        if (!is_ok && s->reason && strcmp(s->reason, l->end.reason) == 0 && !has_failed_check(l)) {
            s->more++;
        } else if (!is_ok) {
            print_more(s);
            printf("%s, launch %lld: %s%s%s\n", label, (long long)l->point.launch + 1, l->end.status,
                   *l->end.reason ? ": " : "", l->end.reason);
            s->reason = l->end.reason;
        }
        for (int c = 0; c < l->n_checks; c++) {
            if (l->checks[c].pass) continue;
            print_more(s);
            printf("  %s: %.6g, limit %.6g: %s\n", l->checks[c].name, l->checks[c].value, l->checks[c].limit,
                   l->checks[c].message);
            parity |= strcmp(l->checks[c].kind, "parity") == 0;
        }
    }
    return parity;
}

static bool print_sweep_checks(const tb_experiment *e, tb_result *const *results)
{
    tb_sweep_check checks[CHECKS_MAX];
    int n = tb_sweep_checks(e, results, checks, CHECKS_MAX);
    bool all = true;
    for (int i = 0; i < n; i++) {
        const char *verdict = checks[i].n_compared == 0 ? "not compared" : checks[i].pass ? "pass" : "FAIL";
        printf("check  %s: %s (%s)\n", checks[i].text, verdict, checks[i].message);
        all &= checks[i].pass;
    }
    return all;
}

int tb_report_run(tb_runner *r, tb_result *const *results)
{
    const tb_experiment *e = r->experiment;
    bool parity = false;
    int n_ok = 0, n_measured = 0;
    said trouble = {0};
    print_table(r, results);
    for (int p = 0; p < e->n_points; p++) {
        n_ok += strcmp(point_status(r, p, results[p]), "ok") == 0;
        n_measured += results[p] != NULL;
        parity |= print_trouble(e->points[p].label, results[p], &trouble);
    }
    print_more(&trouble);
    if (n_measured > 0 && !r->interrupted) tb_geomeans_print(e, results);
    if (n_measured > 0 && !r->interrupted) parity |= !print_sweep_checks(e, results);
    printf("results  %s   %d of %d points ok%s\n", r->folder, n_ok, e->n_points,
           r->n_kept ? "; what was complete was kept" : "");
    if (r->interrupted || r->n_failed)
        printf("tb run %s --resume --out %s   goes on from here\n", e->name, r->folder);
    if (parity) return EXIT_PARITY;
    return n_ok == e->n_points ? 0 : EXIT_INVALID;
}
