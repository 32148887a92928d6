/* Comparisons between the points of a sweep. */
#include "checks.h"
#include "experiment_internal.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct check {
    char name[128], key[128];
    int64_t first;      /* 0: not a curve */
    double tolerance;   /* < 0: equal */
    bool absolute;
} check;

static const char *next_word(const char **at, char *word, size_t bytes)
{
    *at += strspn(*at, " \t");
    size_t n = strcspn(*at, " \t");
    if (n == 0 || n >= bytes) return NULL;
    memcpy(word, *at, n);
    word[n] = '\0';
    *at += n;
    return word;
}

static bool parse_number(const char *word, double *out)
{
    char *end;
    *out = strtod(word, &end);
    return end != word && !*end && isfinite(*out) && *out >= 0;
}

static bool parse(const char *text, check *c)
{
    *c = (check){.tolerance = -1};
    char word[128];
    double number;
    if (!next_word(&text, c->name, sizeof c->name) || !next_word(&text, word, sizeof word)) return false;
    if (strcmp(word, "first") == 0) {
        if (!next_word(&text, word, sizeof word) || !parse_number(word, &number) || number < 1) return false;
        c->first = (int64_t)number;
        if (!next_word(&text, word, sizeof word)) return false;
    }
    if (strcmp(word, "within") == 0) {
        if (!next_word(&text, word, sizeof word) || !parse_number(word, &c->tolerance)) return false;
    } else if (strcmp(word, "equal") != 0) {
        return false;
    }
    if (!next_word(&text, word, sizeof word)) return false;
    if (strcmp(word, "absolute") == 0) {
        c->absolute = true;
        if (!next_word(&text, word, sizeof word)) return false;
    }
    return strcmp(word, "over") == 0 && next_word(&text, c->key, sizeof c->key) && !next_word(&text, word, 2);
}

tb_status tbi_check_validate(const tb_experiment *e, const tb_conf *node)
{
    const char *text;
    check c;
    TB_TRY(tb_conf_str(node, "checks", &text));
    if (!parse(text, &c))
        return tb_conf_fail(node, TB_ERR_CONFIG,
                            "checks: '%s' is none of: NAME [first N] equal | within TOL [absolute] over KEY",
                            text);
    const char *near = NULL;
    if (!tb_driver_emits(e->driver, c.name, &near))
        return tb_conf_fail(node, TB_ERR_CONFIG, "checks: driver '%s' emits no '%s'%s%s", e->driver->name, c.name,
                            near ? "; nearest: " : "", near ? near : "");
    return tbi_experiment_key(e, node, c.key) ? TB_OK : TB_ERR_CONFIG;
}

/* Do a and b differ in `key` and in nothing else? */
static bool differ_in(const char *key, const tb_conf *a, const tb_conf *b)
{
    const tb_conf *of_a = tb_conf_find(a, key), *of_b = tb_conf_find(b, key);
    if (!of_a || !of_b || strcmp(of_a->text, of_b->text) == 0) return false;
    tb_conf *copy = NULL, *value = NULL;
    tb_text left = {0}, right = {0};
    bool same = false;
    if (tb_conf_clone(a, &copy) == TB_OK && tb_conf_clone(of_b, &value) == TB_OK &&
        tb_conf_set(copy, key, value) == TB_OK) {
        tb_conf_canonical(copy, &left);
        tb_conf_canonical(b, &right);
        same = strcmp(tb_text_str(&left), tb_text_str(&right)) == 0;
    }
    tb_conf_free(copy);
    tb_text_free(&left);
    tb_text_free(&right);
    return same;
}

static const tb_launch *first_launch(const tb_result *r)
{
    for (int i = 0; r && i < r->n_launches; i++)
        if (strcmp(r->launches[i]->end.status, "ok") == 0) return r->launches[i];
    return NULL;
}

static bool find_number(const tb_result *r, const char *name, double *out)
{
    const tb_summary *summary = tb_result_summary(r, name);
    const tb_value *value = tb_launch_value(first_launch(r), name, 0);
    if (summary) *out = summary->value;
    else if (value) *out = value->value;
    return summary || value;
}

/* The sample of a step, wherever it stands: warm-up is kept apart. */
static bool find_step(const tb_launch *l, const char *metric, int64_t step, double *out)
{
    for (int64_t warm = 0; warm < 2; warm++) {
        const tb_series *s = tb_launch_series(l, metric, 0, warm);
        for (int64_t i = 0; s && i < s->n; i++) {
            if (s->steps[i] != step) continue;
            *out = s->values[i];
            return true;
        }
    }
    return false;
}

static double difference(const check *c, double a, double b)
{
    double scale = c->absolute ? 1 : fmax(fabs(a), 1e-300);
    return a == b ? 0 : fabs(a - b) / scale;
}

static bool fits(const check *c, double difference)
{
    return difference <= (c->tolerance < 0 ? 0 : c->tolerance); /* not for a NaN */
}

static bool compare_curves(const check *c, const tb_result *a, const tb_result *b, char *why, size_t bytes)
{
    double worst = 0;
    for (int64_t step = 0; step < c->first; step++) {
        double x, y;
        if (!find_step(first_launch(a), c->name, step, &x) ||
            !find_step(first_launch(b), c->name, step, &y)) {
            snprintf(why, bytes, "no sample of '%s' at step %lld", c->name, (long long)step);
            return false;
        }
        double d = difference(c, x, y);
        if (!(d <= worst)) worst = d;
        if (fits(c, d)) continue;
        snprintf(why, bytes, "step %lld: %.9g against %.9g", (long long)step, x, y);
        return false;
    }
    snprintf(why, bytes, "largest difference %.2g", worst);
    return true;
}

static bool compare(const check *c, const tb_result *a, const tb_result *b, char *why, size_t bytes)
{
    if (!first_launch(a) || !first_launch(b)) {
        snprintf(why, bytes, "a point has no launch that ended ok");
        return false;
    }
    if (c->first > 0) return compare_curves(c, a, b, why, bytes);
    double x, y;
    if (find_number(a, c->name, &x) && find_number(b, c->name, &y)) {
        bool ok = fits(c, difference(c, x, y));
        snprintf(why, bytes, ok ? "%.9g and %.9g" : "%.9g against %.9g", x, y);
        return ok;
    }
    const char *of_a = tb_launch_artefact(first_launch(a), c->name, 0);
    const char *of_b = tb_launch_artefact(first_launch(b), c->name, 0);
    if (!*of_a || !*of_b) {
        snprintf(why, bytes, "'%s' is no metric, value or text of both points", c->name);
        return false;
    }
    bool same = strcmp(of_a, of_b) == 0;
    snprintf(why, bytes, same ? "equal" : "%.24s against %.24s", of_a, of_b);
    return same;
}

static void test_pairs(const tb_experiment *e, tb_result *const *results, const check *c, tb_sweep_check *out)
{
    out->pass = true;
    for (int i = 0; i < e->n_points; i++) {
        bool has_base = false;
        for (int k = 0; k < i; k++) has_base |= differ_in(c->key, e->points[k].config, e->points[i].config);
        for (int j = i + 1; j < e->n_points && !has_base; j++) {
            if (!results[i] || !results[j] || !differ_in(c->key, e->points[i].config, e->points[j].config))
                continue;
            char why[200];
            out->n_compared++;
            bool pass = compare(c, results[i], results[j], why, sizeof why);
            if (out->pass) snprintf(out->message, sizeof out->message, "%s | %s: %s", e->points[i].label,
                                    e->points[j].label, why);
            out->pass &= pass;
        }
    }
    if (out->n_compared == 0)
        snprintf(out->message, sizeof out->message, "only one value of %s here", c->key);
}

int tb_sweep_checks(const tb_experiment *e, tb_result *const *results, tb_sweep_check *out, int max)
{
    const tb_conf *checks = tb_conf_find(e->tree, "checks");
    int n = 0;
    for (; checks && n < checks->n_items && n < max; n++) {
        check c;
        out[n] = (tb_sweep_check){.text = checks->items[n]->text};
        if (parse(out[n].text, &c))
            test_pairs(e, results, &c, &out[n]); /* it parsed when the file was loaded */
    }
    return n;
}
