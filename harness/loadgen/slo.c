/* The search for the largest rate that holds an SLO. Runs are short, so the answer is confirmed at the end.
 */
#include "tb_load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

tb_status tb_slo_parse(const char *text, tb_slo *out)
{
    double percent, limit_ms;
    int end = 0;
    if (sscanf(text, "p%lf:%lf%n", &percent, &limit_ms, &end) != 2 || text[end] || !(percent > 0 && percent < 100) ||
        !(limit_ms > 0))
        return TB_FAIL(TB_ERR_CONFIG, "an SLO is PERCENTILE:MILLISECONDS, for example p95:25, not '%s'", text);
    out->quantile = percent / 100;
    out->limit_ms = limit_ms;
    return TB_OK;
}

bool tb_slo_holds(const tb_load_result *r, const tb_slo *slo, char *why)
{
    enum { ROOM = 160 };
    double q_ms = (double)tb_histogram_quantile(&r->latency, slo->quantile) * 1e-6;
    /* What is answered within the limit of the last arrival is on time, too: in a short run that is no small part. */
    double due_per_s = r->offered_per_s / (1 + 1e-3 * slo->limit_ms * r->offered_per_s / (double)r->n);
    why[0] = 0;
    if (*r->void_reason) snprintf(why, ROOM, "%s", r->void_reason);
    else if (r->ok < r->n)
        snprintf(why, ROOM, "%lld of %lld requests were not answered well", (long long)(r->n - r->ok),
                 (long long)r->n);
    else if (q_ms > slo->limit_ms) snprintf(why, ROOM, "p%g is %.2f ms", slo->quantile * 100, q_ms);
    else if (r->achieved_per_s < 0.995 * due_per_s)
        snprintf(why, ROOM, "achieved %.0f of %.0f a second", r->achieved_per_s, r->offered_per_s);
    else if (r->last_third_p50_ns > 1.2 * r->first_third_p50_ns &&
             r->last_third_p50_ns > 0.1e6 * slo->limit_ms)
        snprintf(why, ROOM, "the backlog grows: p50 from %.2f to %.2f ms", r->first_third_p50_ns * 1e-6,
                 r->last_third_p50_ns * 1e-6);
    return !*why;
}

typedef struct {
    const tb_load_config *config;
    const tb_load_schedule *schedule;
    tb_load_requests *requests;
    const tb_slo *slo;
    void (*progress)(const tb_slo_point *);
    tb_slo_result *out;
} search;

static bool is_told_to_end(const search *s) { return s->config->until && atomic_load(s->config->until); }

/* A run in which only the generator was late says nothing about the server: it is made again, up to twice. */
static tb_status run_at(search *s, const tb_load_config *config, const tb_load_schedule *schedule, tb_load_result **out)
{
    for (int i = 0;; i++) {
        TB_TRY(tb_load_run(config, schedule, s->requests, out));
        if (i == 2 || is_told_to_end(s) || !*(*out)->void_reason || (*out)->ok < (*out)->n) return TB_OK;
        tb_load_result_free(*out);
    }
}

static tb_status try_rate(search *s, double rate, tb_slo_point *p)
{
    tb_load_schedule schedule = *s->schedule;
    tb_load_config config = *s->config;
    tb_load_result *r;
    schedule.rate = rate;
    schedule.duration_s = s->slo->point_s;
    schedule.seed += (uint64_t)s->out->n; /* every run another draw */
    config.slo_ms = s->slo->limit_ms;
    config.timeout_s = 2;
    TB_TRY(run_at(s, &config, &schedule, &r));
    *p = (tb_slo_point){.rate = rate, .achieved = r->achieved_per_s,
                        .quantile_ms = (double)tb_histogram_quantile(&r->latency, s->slo->quantile) * 1e-6,
                        .p50_ms = (double)tb_histogram_quantile(&r->latency, 0.5) * 1e-6};
    p->holds = tb_slo_holds(r, s->slo, p->why);
    s->out->stopped = is_told_to_end(s);
    s->out->generator_limited = *r->void_reason && r->ok == r->n;
    tb_load_result_free(r);
    if (s->out->stopped) return TB_OK; /* a part of a run is no point */
    if (s->out->n < 64) s->out->points[s->out->n++] = *p;
    if (s->progress) s->progress(p);
    return TB_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One run that fails may have met somebody else on the machine; at a second one the rate is lowered by 3 % and
 * confirmed anew. */
static tb_status confirm(search *s, double rate)
{
    double achieved[16];
    int want = s->slo->confirm, n = 0, failed = 0;
    while (n < want && s->out->n < 64) {
        tb_slo_point p;
        TB_TRY(try_rate(s, rate, &p));
        if (s->out->stopped) return TB_OK;
        if (p.holds) achieved[n++] = p.achieved;
        else if (++failed > 1)
            n = failed = 0, rate *= 0.97;
    }
    if (n < want) return TB_OK;
    qsort(achieved, (size_t)n, sizeof *achieved, ascending);
    s->out->rate = achieved[n / 2];
    s->out->rate_min = achieved[0];
    return TB_OK;
}

tb_status tb_slo_search(const tb_load_config *config, const tb_load_schedule *schedule, tb_load_requests *requests,
                        const tb_slo *given, void (*progress)(const tb_slo_point *), tb_slo_result *out)
{
    tb_slo slo = *given;
    if (slo.start_rate <= 0) slo.start_rate = 500;
    if (slo.point_s <= 0) slo.point_s = 2;
    if (slo.confirm <= 0) slo.confirm = 5;
    if (slo.confirm > 15) slo.confirm = 15;
    memset(out, 0, sizeof *out);
    search s = {config, schedule, requests, &slo, progress, out};
    tb_slo_point p;
    double good = 0, bad = 0;
    bool limited = false;
    for (double rate = slo.start_rate; !bad && rate < 2e6; rate *= 2) {
        TB_TRY(try_rate(&s, rate, &p));
        if (out->stopped) return TB_OK;
        if (p.holds) good = rate;
        else bad = rate, limited = out->generator_limited;
    }
    while (good > 0 && bad / good > 1.03) {
        double middle = (good + bad) / 2;
        TB_TRY(try_rate(&s, middle, &p));
        if (out->stopped) return TB_OK;
        if (p.holds) good = middle;
        else bad = middle, limited = out->generator_limited;
    }
    if (good > 0) TB_TRY(confirm(&s, good));
    out->generator_limited = limited;
    return TB_OK;
}
