/* Results and experiments as JSON. */
#include "show_json.h"
#include "tb_text.h"

static void put_text(tb_json *j, const char *key, const char *value)
{
    tb_json_key(j, key);
    tb_json_str(j, value);
}

static void put_number(tb_json *j, const char *key, double value)
{
    tb_json_key(j, key);
    tb_json_num(j, value);
}

static void put_summary(tb_json *j, const tb_summary *s)
{
    tb_json_key(j, s->metric);
    tb_json_open(j, '{');
    put_text(j, "unit", s->unit);
    put_text(j, "dir", s->dir);
    put_text(j, "scope", s->scope);
    put_number(j, "value", s->value);
    put_number(j, "lo", s->lo);
    put_number(j, "hi", s->hi);
    put_number(j, "level", s->level);
    put_text(j, "method", s->method);
    put_number(j, "launches", (double)s->n_launches);
    put_number(j, "samples", (double)s->n_samples);
    put_number(j, "p95", s->p95);
    put_number(j, "p99", s->p99);
    tb_json_close(j, '}');
}

static void put_launch(tb_json *j, const tb_launch *l)
{
    tb_json_open(j, '{');
    put_text(j, "status", l->end.status);
    put_text(j, "reason", l->end.reason);
    put_number(j, "torn_bytes", (double)l->torn_bytes);
    put_number(j, "damaged_records", (double)l->damaged_records);
    tb_json_key(j, "samples");
    tb_json_open(j, '[');
    for (int i = 0; i < l->n_series; i++) {
        tb_json_open(j, '{');
        put_text(j, "metric", l->series[i].metric);
        put_number(j, "rank", (double)l->series[i].rank);
        put_number(j, "warmup", (double)l->series[i].warmup);
        put_number(j, "n", (double)l->series[i].n);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
    tb_json_key(j, "values");
    tb_json_open(j, '{');
    for (int i = 0; i < l->n_values; i++)
        if (l->values[i].rank <= 0) put_number(j, l->values[i].name, l->values[i].value);
    tb_json_close(j, '}');
    tb_json_key(j, "texts");
    tb_json_open(j, '{');
    for (int i = 0; i < l->n_artefacts; i++)
        if (l->artefacts[i].rank <= 0) put_text(j, l->artefacts[i].name, l->artefacts[i].text);
    tb_json_close(j, '}');
    tb_json_key(j, "checks");
    tb_json_open(j, '[');
    for (int i = 0; i < l->n_checks; i++) {
        tb_json_open(j, '{');
        put_text(j, "name", l->checks[i].name);
        put_text(j, "kind", l->checks[i].kind);
        put_number(j, "value", l->checks[i].value);
        put_number(j, "limit", l->checks[i].limit);
        tb_json_key(j, "pass");
        tb_json_bool(j, l->checks[i].pass);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
    tb_json_close(j, '}');
}

static int print_json(tb_text *text)
{
    bool failed = text->failed;
    if (!failed) printf("%s", tb_text_str(text));
    tb_text_free(text);
    return failed ? tb_report(stderr) : 0;
}

int tb_show_json(const tb_results *results)
{
    tb_text text = {0};
    tb_json j = {.to = &text, .pretty = true};
    tb_json_open(&j, '[');
    for (int i = 0; i < results->n; i++) {
        const tb_result *r = results->at[i];
        const tb_point *p = &r->launches[0]->point;
        tb_json_open(&j, '{');
        put_text(&j, "experiment", p->experiment);
        put_text(&j, "label", p->label);
        put_text(&j, "hash", p->hash);
        put_text(&j, "status", tb_result_status(r));
        put_text(&j, "scope", p->scope);
        tb_json_key(&j, "config");
        tb_json_raw(&j, p->config);
        tb_json_key(&j, "metrics");
        tb_json_open(&j, '{');
        for (int s = 0; s < r->n_summaries; s++) put_summary(&j, &r->summaries[s]);
        tb_json_close(&j, '}');
        tb_json_key(&j, "launches");
        tb_json_open(&j, '[');
        for (int l = 0; l < r->n_launches; l++) put_launch(&j, r->launches[l]);
        tb_json_close(&j, ']');
        tb_json_close(&j, '}');
    }
    tb_json_close(&j, ']');
    return print_json(&text);
}

int tb_show_experiment_json(const tb_experiment *e)
{
    tb_text text = {0};
    tb_json j = {.to = &text, .pretty = true};
    tb_json_open(&j, '{');
    put_text(&j, "experiment", e->name);
    put_text(&j, "question", e->question);
    put_text(&j, "driver", e->driver->name);
    put_number(&j, "launches", (double)e->launches);
    tb_json_key(&j, "plots");
    tb_json_raw(&j, e->plots);
    tb_json_key(&j, "points");
    tb_json_open(&j, '[');
    for (int p = 0; p < e->n_points; p++) {
        tb_json_open(&j, '{');
        put_text(&j, "label", e->points[p].label);
        put_text(&j, "hash", e->points[p].hash);
        put_text(&j, "scope", e->points[p].scope);
        tb_json_key(&j, "config");
        tb_json_raw(&j, e->points[p].json);
        tb_json_close(&j, '}');
    }
    tb_json_close(&j, ']');
    tb_json_close(&j, '}');
    return print_json(&text);
}
