/* tb diff: two runs side by side. Points are matched by hash, else by label. Exact metrics gate; times of two
 * separate runs never do (machines drift): their ratio is shown with the interval that the two intervals
 * allow. */
#include "results.h"
#include "tb_conf.h"
#include "tb_text.h"
#include "tb_verb.h"
#include <string.h>

enum { EXIT_REGRESSION = 1, EXIT_INVALID = 3 };

static const tb_result *find_match(const tb_results *in, const tb_result *like)
{
    const tb_point *p = &like->launches[0]->point;
    for (int i = 0; i < in->n; i++)
        if (strcmp(in->at[i]->launches[0]->point.hash, p->hash) == 0) return in->at[i];
    for (int i = 0; i < in->n; i++)
        if (strcmp(in->at[i]->launches[0]->point.label, p->label) == 0) return in->at[i];
    return NULL;
}

/* Returns whether the difference is a regression. */
static bool print_metric(const tb_summary *a, const tb_summary *b, const tb_metric *m)
{
    bool exact = m && strcmp(m->kind, "exact") == 0;
    double ratio = b->value / a->value;
    bool worse = false;
    printf("  %-24s %12.6g %12.6g %-8s", a->metric, a->value, b->value, a->unit);
    if (exact) {
        bool higher_is_worse = strcmp(a->dir, "lower") == 0;
        worse =
            a->value != b->value && strcmp(a->dir, "none") != 0 && (b->value > a->value) == higher_is_worse;
        printf(" %+.6g  %s\n", b->value - a->value,
               a->value == b->value ? "equal"
               : worse              ? "WORSE"
                                    : "better");
        return worse;
    }
    printf(" x %.4f", ratio);
    if (a->level > 0 && b->level > 0 && a->lo > 0 && b->lo > 0) {
        double lo = b->lo / a->hi, hi = b->hi / a->lo, margin = m && m->margin > 0 ? m->margin : 0.05;
        double level = 1 - (1 - a->level) - (1 - b->level);
        const char *verdict = level < 0.9           ? "too few launches to tell"
                              : lo > 1 + margin       ? "higher"
                              : hi < 1 / (1 + margin) ? "lower"
                              : lo > 1 / (1 + margin) && hi < 1 + margin ? "same" : "not told apart";
        if (level > 0) printf("  [%.4f, %.4f] at %.3g %%", lo, hi, level * 100);
        printf("  %s", verdict);
    }
    printf("\n");
    return false;
}

static void print_difference(const char *name, const char *a, const char *b) /* NULL: that side lacks it */
{
    printf("  %-32s %.60s -> %.60s\n", name, a ? a : "(absent)", b ? b : "(absent)");
}

/* Scalars of A that B has otherwise or not at all; with `only`, A is the second run, and what the first lacks is told.
 */
static void print_conf_differences(const tb_conf *a, const tb_conf *b, const char *prefix, bool only)
{
    for (int i = 0; a && a->kind == TB_CONF_MAP && i < a->n_items; i++) {
        char name[256];
        const tb_conf *other = b ? tb_conf_find(b, a->keys[i]) : NULL;
        const char *text = other ? other->text : NULL;
        snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", a->keys[i]);
        if (a->items[i]->kind == TB_CONF_MAP) {
            print_conf_differences(a->items[i], other, name, only);
        } else if (a->items[i]->kind == TB_CONF_SCALAR && only) {
            if (!text) print_difference(name, NULL, a->items[i]->text);
        } else if (a->items[i]->kind == TB_CONF_SCALAR && (!text || strcmp(a->items[i]->text, text) != 0)) {
            print_difference(name, a->items[i]->text, text);
        }
    }
}

/* Facts of A that B has otherwise or not at all; with `only` as above. */
static void print_fact_differences(const tb_launch *a, const tb_launch *b, bool only)
{
    static const char *const told[] = {"build/", "source/", "host/", "mpi/", "lib/"};
    for (int i = 0; i < a->n_facts; i++) {
        const char *key = a->facts[i].key, *own = a->facts[i].value, *other = tb_launch_fact(b, key);
        bool wanted = false;
        for (int k = 0; k < 5; k++) wanted |= strncmp(key, told[k], strlen(told[k])) == 0;
        if (!wanted || a->facts[i].rank > 0 || strncmp(key, "host/psi", 8) == 0) continue;
        if (only && !*other && *own) print_difference(key, NULL, own);
        if (!only && strcmp(other, own) != 0) print_difference(key, own, *other ? other : NULL);
    }
}

static void print_origin(const tb_launch *a, const tb_launch *b)
{
    tb_conf *left = NULL, *right = NULL;
    if (tb_conf_parse(a->point.config, strlen(a->point.config), "A", &left) == TB_OK &&
        tb_conf_parse(b->point.config, strlen(b->point.config), "B", &right) == TB_OK) {
        print_conf_differences(left, right, "", false);
        print_conf_differences(right, left, "", true);
    }
    tb_conf_free(left);
    tb_conf_free(right);
    print_fact_differences(a, b, false);
    print_fact_differences(b, a, true);
}

static int diff(const tb_args *args)
{
    tb_results a, b;
    int n_matched = 0, n_worse = 0;
    if (tb_results_read(args->words[0], &a) != TB_OK) return tb_report(stderr);
    if (tb_results_read(args->words[1], &b) != TB_OK) {
        tb_results_free(&a);
        return tb_report(stderr);
    }
    for (int i = 0; i < a.n; i++) {
        const tb_result *left = a.at[i], *right = find_match(&b, left);
        printf("%s%s\n", left->launches[0]->point.label, right ? "" : ": not in B");
        for (int s = 0; right && s < left->n_summaries; s++) {
            const tb_summary *other = tb_result_summary(right, left->summaries[s].metric);
            if (!other) printf("  %-24s not in B\n", left->summaries[s].metric);
            else n_worse += print_metric(&left->summaries[s], other,
                                         tb_launch_metric(left->launches[0], left->summaries[s].metric));
        }
        if (right && tb_args_has(args, "why")) print_origin(left->launches[0], right->launches[0]);
        n_matched += right != NULL;
    }
    tb_results_free(&a);
    tb_results_free(&b);
    if (n_matched == 0) fprintf(stderr, "nothing to compare: no point of A is in B\n");
    return n_matched == 0 ? EXIT_INVALID : n_worse ? EXIT_REGRESSION : 0;
}

static const tb_option options[] = {
    {"why", 0, NULL, "also what differs in configuration, build and machine"}};

TB_VERB(diff, .group = TB_VERB_EXPERIMENT, .args = "A B", .min_args = 2, .max_args = 2,
        .doc = "Two runs side by side: B against A",
        .help = "A and B are run folders, .h5 files or journals. Exit code 1 when an exact metric (bytes, "
                "messages) of B\n"
                "is worse; times of separate runs are shown, but never decide.",
        .options = options, .n_options = 1, .run = diff);
