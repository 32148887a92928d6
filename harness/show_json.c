/* Results and experiments as JSON. */
#include "show_json.h"
#include "tb_text.h"

static void put_summary(tb_json *j, const tb_summary *s)
{
    tb_json_key(j, s->metric);
    tb_json_open(j, '{');
    tb_json_put_str(j, "unit", s->unit);
    tb_json_put_str(j, "dir", s->dir);
    tb_json_put_str(j, "scope", s->scope);
    tb_json_put_num(j, "value", s->value);
    tb_json_put_num(j, "lo", s->lo);
    tb_json_put_num(j, "hi", s->hi);
    tb_json_put_num(j, "level", s->level);
    tb_json_put_str(j, "method", s->method);
    tb_json_put_num(j, "launches", (double)s->n_launches);
    tb_json_put_num(j, "samples", (double)s->n_samples);
    tb_json_put_num(j, "p95", s->p95);
    tb_json_put_num(j, "p99", s->p99);
    tb_json_close(j, '}');
}

static void put_launch(tb_json *j, const tb_launch *l)
{
    tb_json_open(j, '{');
    tb_json_put_str(j, "status", l->end.status);
    tb_json_put_str(j, "reason", l->end.reason);
    tb_json_put_num(j, "torn_bytes", (double)l->torn_bytes);
    tb_json_put_num(j, "damaged_records", (double)l->damaged_records);
    tb_json_key(j, "samples");
    tb_json_open(j, '[');
    for (int i = 0; i < l->n_series; i++) {
        tb_json_open(j, '{');
        tb_json_put_str(j, "metric", l->series[i].metric);
        tb_json_put_num(j, "rank", (double)l->series[i].rank);
        tb_json_put_num(j, "warmup", (double)l->series[i].warmup);
        tb_json_put_num(j, "n", (double)l->series[i].n);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
    tb_json_key(j, "values");
    tb_json_open(j, '{');
    for (int i = 0; i < l->n_values; i++)
        if (l->values[i].rank <= 0) tb_json_put_num(j, l->values[i].name, l->values[i].value);
    tb_json_close(j, '}');
    tb_json_key(j, "texts");
    tb_json_open(j, '{');
    for (int i = 0; i < l->n_artefacts; i++)
        if (l->artefacts[i].rank <= 0) tb_json_put_str(j, l->artefacts[i].name, l->artefacts[i].text);
    tb_json_close(j, '}');
    tb_json_key(j, "checks");
    tb_json_open(j, '[');
    for (int i = 0; i < l->n_checks; i++) {
        tb_json_open(j, '{');
        tb_json_put_str(j, "name", l->checks[i].name);
        tb_json_put_str(j, "kind", l->checks[i].kind);
        tb_json_put_num(j, "value", l->checks[i].value);
        tb_json_put_num(j, "limit", l->checks[i].limit);
        tb_json_put_bool(j, "pass", l->checks[i].pass);
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
        tb_json_put_str(&j, "experiment", p->experiment);
        tb_json_put_str(&j, "label", p->label);
        tb_json_put_str(&j, "hash", p->hash);
        tb_json_put_str(&j, "status", tb_result_status(r));
        tb_json_put_str(&j, "scope", p->scope);
        tb_json_put_raw(&j, "config", p->config);
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
    tb_json_put_str(&j, "experiment", e->name);
    tb_json_put_str(&j, "question", e->question);
    tb_json_put_str(&j, "driver", e->driver->name);
    tb_json_put_num(&j, "launches", (double)e->launches);
    tb_json_put_raw(&j, "plots", e->plots);
    tb_json_key(&j, "points");
    tb_json_open(&j, '[');
    for (int p = 0; p < e->n_points; p++) {
        tb_json_open(&j, '{');
        tb_json_put_str(&j, "label", e->points[p].label);
        tb_json_put_str(&j, "hash", e->points[p].hash);
        tb_json_put_str(&j, "scope", e->points[p].scope);
        tb_json_put_raw(&j, "config", e->points[p].json);
        tb_json_close(&j, '}');
    }
    tb_json_close(&j, ']');
    tb_json_close(&j, '}');
    return print_json(&text);
}
