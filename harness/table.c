/* Tables of points by metrics. */
#include "table.h"
#include "noise.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { CELL_MAX = 96, GAP = 3 };

void tb_format_summary(const tb_summary *s, char *out, size_t bytes)
{
    if (!s) {
        snprintf(out, bytes, "-");
        return;
    }
    int n = snprintf(out, bytes, "%.4g%s%s", s->value, s->unit[0] ? " " : "", s->unit);
    if (n >= 0 && (size_t)n < bytes && isfinite(s->lo) && isfinite(s->hi) && s->level > 0)
        snprintf(out + n, bytes - (size_t)n, "  [%.4g, %.4g]", s->lo, s->hi);
}

int tb_table_metrics(const tb_row *rows, int n, const char *names[TB_TABLE_METRICS])
{
    int n_names = 0;
    for (int r = 0; r < n && n_names == 0; r++)
        for (int i = 0; rows[r].result && i < rows[r].result->n_summaries && n_names < TB_TABLE_METRICS; i++)
            if (strcmp(rows[r].result->summaries[i].dir, "none") != 0)
                names[n_names++] = rows[r].result->summaries[i].metric;
    return n_names;
}

static int longer(int width, const char *text)
{
    return (int)strlen(text) > width ? (int)strlen(text) : width;
}

static const tb_summary *summary_of(const tb_row *row, const char *metric)
{
    return row->result ? tb_result_summary(row->result, metric) : NULL;
}

static int column_width(const tb_row *rows, int n, const char *metric)
{
    int width = (int)strlen(metric);
    char cell[CELL_MAX];
    for (int r = 0; r < n; r++) {
        tb_format_summary(summary_of(&rows[r], metric), cell, sizeof cell);
        width = longer(width, cell);
    }
    return width + GAP;
}

/* The lowest level of the intervals shown: what the table as a whole may claim. */
static void print_level(const tb_row *rows, int n, const char *const *metrics, int n_metrics)
{
    double level = 1;
    bool over_iterations = false;
    for (int r = 0; r < n; r++)
        for (int m = 0; m < n_metrics; m++) {
            const tb_summary *s = summary_of(&rows[r], metrics[m]);
            if (!s || s->level <= 0) continue;
            level = fmin(level, s->level);
            over_iterations |= strcmp(s->method, "iterations") == 0;
        }
    if (level < 1)
        printf("  [ , ]: %.3g %% intervals%s\n", level * 100,
               over_iterations ? " over the iterations of one launch: they say nothing about another launch"
                               : " over launches");
}

/* Two-core figures stand or fall with how far apart the two cores are. */
static void print_core_to_core(const tb_row *rows, int n)
{
    static const char *const names[] = {"noise.before.core_to_core_ns", "noise.after.core_to_core_ns"};
    double lo = INFINITY, hi = 0;
    for (int r = 0; r < n; r++)
        for (int i = 0; rows[r].result && i < rows[r].result->n_launches; i++) {
            const tb_launch *l = rows[r].result->launches[i];
            for (int k = 0; k < 2 && l->point.ranks * l->point.threads > 1; k++) {
                const tb_value *v = tb_launch_value(l, names[k], -1);
                lo = v ? fmin(lo, v->value) : lo;
                hi = v ? fmax(hi, v->value) : hi;
            }
        }
    if (hi > 0) printf("  core to core %.0f to %.0f ns one way\n", lo, hi);
}

/* Points whose figures other processes may have spoilt: they stand, and this says why they may be unlike the next. */
static void print_busy(const tb_row *rows, int n)
{
    enum { SHOWN = 6 };
    int found = 0;
    for (int r = 0; r < n; r++) {
        double others = tb_noise_others_percent(rows[r].result);
        if (others <= TB_NOISE_BUSY_PERCENT) continue;
        if (found < SHOWN) printf("%s%s (%.0f %%)", found ? ", " : "  busy machine during: ", rows[r].label, others);
        found++;
    }
    if (found > SHOWN) printf(" and %d more", found - SHOWN);
    if (found) printf("; in brackets what other processes took of the cores\n");
}

/* What carried the messages of several ranks: the fastest that reaches them all, unless a parameter says which. */
static void print_backends(const tb_row *rows, int n)
{
    char line[160] = "";
    for (int r = 0; r < n; r++)
        for (int i = 0; rows[r].result && i < rows[r].result->n_launches; i++) {
            const tb_launch *l = rows[r].result->launches[i];
            const char *backend = l->point.ranks > 1 ? tb_launch_fact(l, "comm/backend") : NULL;
            size_t have = strlen(line);
            if (backend && !strstr(line, backend))
                snprintf(line + have, sizeof line - have, "%s%s", have ? ", " : "", backend);
        }
    if (line[0]) printf("  ranks communicate by %s\n", line);
}

void tb_table_print(const char *title, const tb_row *rows, int n, const char *const *metrics, int n_metrics)
{
    char cell[CELL_MAX];
    int width = (int)strlen(title) - 2, widths[TB_TABLE_METRICS];
    for (int r = 0; r < n; r++) width = longer(width, rows[r].label);
    for (int m = 0; m < n_metrics; m++) widths[m] = column_width(rows, n, metrics[m]);
    printf("%-*s", width + 2 + GAP, title);
    for (int m = 0; m < n_metrics; m++) printf("%-*s", widths[m], metrics[m]);
    printf("status\n");
    for (int r = 0; r < n; r++) {
        bool is_measured = strcmp(rows[r].scope, "measured") == 0;
        printf("  %-*s", width + GAP, rows[r].label);
        for (int m = 0; m < n_metrics; m++) {
            tb_format_summary(summary_of(&rows[r], metrics[m]), cell, sizeof cell);
            printf("%-*s", widths[m], cell);
        }
        printf("%s%s%s\n", rows[r].status, is_measured ? "" : ", ", is_measured ? "" : rows[r].scope);
    }
    print_level(rows, n, metrics, n_metrics);
    print_core_to_core(rows, n);
    print_busy(rows, n);
    print_backends(rows, n);
}
