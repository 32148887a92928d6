/* tb show: an experiment with its keys, or what a run measured (from HDF5 or from journals, also of a run
 * that goes on or was killed). */
#include "experiment.h"
#include "flight.h"
#include "noise.h"
#include "results.h"
#include "show_json.h"
#include "table.h"
#include "tb_alloc.h"
#include "tb_verb.h"
#include <dirent.h>
#include <string.h>
#include <unistd.h>

static const char *const type_names[] = {"int", "number", "bool", "text", "choice"};

static void print_keys(const char *section, const tb_key *keys, int n)
{
    for (int i = 0; i < n; i++) {
        const tb_key *k = &keys[i];
        char name[96], range[64] = "";
        snprintf(name, sizeof name, "%s.%s", section, k->name);
        if (k->type == TB_KEY_CHOICE) snprintf(range, sizeof range, "%s", k->choices);
        else if (k->min != 0 || k->max != 0)
            snprintf(range, sizeof range, "%.10g .. %.10g", k->min, k->max);
        printf("  %-24s %-7s %-14s %-24s %s%s%s%s\n", name, type_names[k->type],
               k->default_text ? k->default_text : "required", range, k->doc, *k->unit ? " (" : "", k->unit,
               *k->unit ? ")" : "");
    }
}

static int show_experiment(const char *name, bool with_keys, bool json)
{
    tb_experiment *e = NULL;
    if (tb_experiment_load(name, &(tb_experiment_options){0}, &e) != TB_OK) return tb_report(stderr);
    if (json) {
        int code = tb_show_experiment_json(e);
        tb_experiment_free(e);
        return code;
    }
    printf("%s: %s\n  %s\n  driver %s: %s\n\n", e->name, e->question, e->path, e->driver->name,
           e->driver->doc);
    if (with_keys) {
        printf("  %-24s %-7s %-14s %-24s\n", "key", "type", "default", "range");
        print_keys("params", e->driver->keys, e->driver->n_keys);
        print_keys("launch", tb_launch_keys, tb_n_launch_keys);
        print_keys("measure", tb_measure_keys, tb_n_measure_keys);
        printf("\n  %-24s %-10s %-8s %-8s %s\n", "metric", "unit", "better", "class",
               "over ranks, iterations");
        for (int i = 0; i < tb_driver_metric_count(e->driver); i++) {
            const tb_metric *m = tb_driver_metric_at(e->driver, i);
            printf("  %-24s %-10s %-8s %-8s %s, %s\n", m->name, m->unit, m->dir, m->kind, m->reduce,
                   m->statistic);
        }
        printf("\n  also for valid and checks:");
        for (int i = 0; e->driver->emits && e->driver->emits[i]; i++) printf(" %s", e->driver->emits[i]);
        printf("\n");
    } else {
        for (int p = 0; p < e->n_points; p++)
            printf("  %.8s  %-40s %s\n", e->points[p].hash, e->points[p].label, e->points[p].scope);
        const tb_conf *profiles = tb_conf_find(e->tree, "profiles");
        for (int i = 0; profiles && i < profiles->n_items; i++) printf("  profile %s\n", profiles->keys[i]);
        printf("\ntb run %s   tb show %s --keys\n", e->name, e->name);
    }
    tb_experiment_free(e);
    return 0;
}

/* ---- results ---- */

static void print_metrics(const tb_result *r)
{
    printf("\n  %-20s %-36s %8s %8s %8s %6s  %-10s\n", "metric", "value", "p25", "p95", "max", "n", "method");
    for (int i = 0; i < r->n_summaries; i++) {
        const tb_summary *s = &r->summaries[i];
        char cell[96];
        tb_format_summary(s, cell, sizeof cell);
        printf("  %-20s %-36s %8.4g %8.4g %8.4g %6lld  %s", s->metric, cell, s->p25, s->p95, s->max,
               (long long)s->n_samples, s->method);
        if (s->n_outliers) printf(", %lld outliers", (long long)s->n_outliers);
        printf("\n");
    }
}

enum { TEXT_SHOWN = 4000 };

static void print_text(const tb_artefact *a)
{
    bool is_block = strchr(a->text, '\n') != NULL;
    if (strlen(a->text) > TEXT_SHOWN)
        printf("    %s: %zu bytes (--json has them)\n", a->name, strlen(a->text));
    else printf("    %s:%s%s\n", a->name, is_block ? "\n" : " ", a->text);
}

static void print_launch(const tb_launch *l)
{
    printf("\n  launch %lld: %s%s%s", (long long)l->point.launch + 1, l->end.status,
           *l->end.reason ? ": " : "", l->end.reason);
    if (l->torn_bytes || l->damaged_records)
        printf("   (%lld bytes torn at the end, %lld damaged records)", (long long)l->torn_bytes,
               (long long)l->damaged_records);
    printf("\n");
    for (int i = 0; i < l->n_series; i++)
        if (strcmp(l->end.status, "ok") != 0)
            printf("    kept: %lld samples of %s, rank %lld%s\n", (long long)l->series[i].n,
                   l->series[i].metric, (long long)l->series[i].rank, l->series[i].warmup ? ", warm-up" : "");
    for (int i = 0; i < l->n_values; i++)
        if (l->values[i].rank <= 0)
            printf("    %-32s %.6g %s\n", l->values[i].name, l->values[i].value, l->values[i].unit);
    for (int i = 0; i < l->n_checks; i++)
        printf("    check %-26s %s  %.6g, limit %.6g  %s\n", l->checks[i].name,
               l->checks[i].pass ? "pass" : "FAIL", l->checks[i].value, l->checks[i].limit,
               l->checks[i].message);
    for (int i = 0; i < l->n_artefacts; i++) print_text(&l->artefacts[i]);
}

static void print_facts(const tb_launch *l)
{
    printf("\n  facts\n");
    for (int i = 0; i < l->n_facts; i++)
        if (l->facts[i].rank <= 0) printf("    %-32s %s\n", l->facts[i].key, l->facts[i].value);
}

static void print_result(const tb_result *r, bool with_facts)
{
    const tb_point *p = &r->launches[0]->point;
    printf("%s, %s: %s   (%s)\n", p->experiment, p->label, tb_result_status(r), p->scope);
    double others = tb_noise_others_percent(r);
    if (others > TB_NOISE_BUSY_PERCENT)
        printf("  busy machine: other processes took up to %.0f %% of the cores while it ran\n", others);
    printf("  question  %s\n  point     %s\n  config    %s\n", p->question, p->hash, p->config);
    print_metrics(r);
    for (int i = 0; i < r->n_launches; i++) print_launch(r->launches[i]);
    if (with_facts) print_facts(r->launches[0]);
    else printf("\n  --facts shows build, machine, libraries and environment\n");
}

/* A text alone, as its driver wrote it, ready for the tool that reads it. The first launch that has it speaks. */
static int show_text(const char *path, const char *name)
{
    tb_results results;
    if (tb_results_read(path, &results) != TB_OK) return tb_report(stderr);
    const tb_artefact *found = NULL;
    for (int r = 0; r < results.n && !found; r++)
        for (int l = 0; l < results.at[r]->n_launches && !found; l++) {
            const tb_launch *launch = results.at[r]->launches[l];
            for (int i = 0; i < launch->n_artefacts && !found; i++)
                if (strcmp(launch->artefacts[i].name, name) == 0) found = &launch->artefacts[i];
        }
    int code = 0;
    if (found) {
        fputs(found->text, stdout);
    } else {
        (void)TB_FAIL(TB_ERR_NOT_FOUND, "%s holds no text '%s'%s", path, name,
                      strcmp(name, "trace") == 0 ? "; tb run --trace writes one" : "");
        code = tb_report(stderr);
    }
    tb_results_free(&results);
    return code;
}

/* ---- flight records ---- */
static void print_flight(const char *prefix)
{
    tb_text report = {0};
    tb_culprit culprit;
    char sentence[256];
    if (tb_flight_tell(prefix, &report, sentence, sizeof sentence, &culprit)) {
        printf("\n  flight records %s.*, of a launch that did not end well or goes on\n%s", prefix,
               tb_text_str(&report));
        printf("  culprit: %s\n", *sentence ? sentence : "none, all ranks had finished what they began");
    }
    tb_text_free(&report);
}

/* Of a folder, or of one journal: what the ranks of launches that left no result were doing. */
static void print_flights(const char *path)
{
    static const char first[] = ".flight.0";
    DIR *dir = opendir(path);
    char *prefix = dir ? NULL : tb_flight_prefix(path);
    if (prefix) print_flight(prefix);
    tb_free(prefix);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        size_t n = strlen(e->d_name), cut = strlen(".0");
        if (n < strlen(first) || strcmp(e->d_name + n - strlen(first), first) != 0) continue;
        prefix = tb_asprintf("%s/%.*s", path, (int)(n - cut), e->d_name);
        if (prefix) print_flight(prefix);
        tb_free(prefix);
    }
    if (dir) closedir(dir);
}

static int show_results(const char *path, bool json, bool with_facts)
{
    tb_results results;
    if (tb_results_read(path, &results) != TB_OK) return tb_report(stderr);
    int code = 0;
    if (json) {
        code = tb_show_json(&results);
    } else if (results.n == 1) {
        print_result(results.at[0], with_facts);
    } else {
        tb_row *rows = tb_calloc((size_t)results.n, sizeof *rows);
        const char *metrics[TB_TABLE_METRICS];
        for (int i = 0; rows && i < results.n; i++) {
            const tb_point *p = &results.at[i]->launches[0]->point;
            rows[i] = (tb_row){p->label, results.at[i], tb_result_status(results.at[i]), p->scope};
        }
        if (rows) tb_table_print(path, rows, results.n, metrics, tb_table_metrics(rows, results.n, metrics));
        tb_free(rows);
        printf("tb show FILE shows one point in full\n");
    }
    if (!json) print_flights(path);
    tb_results_free(&results);
    return code;
}

/* A file or folder, if no experiment has this name: one in the source tree is called kernels, as a folder is. */
static bool names_results(const char *what)
{
    const char *dot = strrchr(what, '.');
    if (dot && (strcmp(dot, ".h5") == 0 || strcmp(dot, ".journal") == 0)) return true;
    if (strstr(what, ".yaml") || access(what, F_OK) != 0) return false;
    char *root = NULL, *file = NULL;
    if (!strchr(what, '/') && tb_experiment_root(&root) == TB_OK)
        file = tb_asprintf("%s/experiments/%s.yaml", root, what);
    bool is_experiment = file && access(file, F_OK) == 0;
    tb_free(file);
    tb_free(root);
    return !is_experiment;
}

static int show(const tb_args *args)
{
    const char *what = args->words[0];
    const char *text = tb_args_get(args, "text");
    bool is_experiment = tb_args_has(args, "keys") || !names_results(what);
    if (is_experiment && text) {
        fprintf(stderr, "tb show: --text takes a text from what a run measured, a folder, .h5 or .journal: not '%s'\n",
                what);
        return 2;
    }
    if (is_experiment) return show_experiment(what, tb_args_has(args, "keys"), tb_args_has(args, "json"));
    if (text) return show_text(what, text);
    return show_results(what, tb_args_has(args, "json"), tb_args_has(args, "facts"));
}

static const tb_option options[] = {
    {"keys", 0, NULL, "an experiment's keys: type, default, range, meaning; and its metrics"},
    {"facts", 0, NULL, "a result's provenance too"},
    {"json", 0, NULL, "as JSON"},
    {"text", 0, "NAME", "one text that the run wrote, alone: profile, trace, sample"},
};

TB_VERB(show, .group = TB_VERB_EXPERIMENT, .args = "EXPERIMENT | RUN", .min_args = 1, .max_args = 1,
        .doc = "An experiment, or what a run measured",
        .help = "RUN is a folder in results/runs/, one of its .h5 files, or a .journal: also of a run that "
                "was killed.\nAn experiment's name comes before a folder's of the same name: ./NAME is the folder.",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = show);
