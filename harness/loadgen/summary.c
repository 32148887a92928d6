/* From columns to a result: histograms, rates, and whether the run may be believed. */
#include "client.h"
#include "tb_alloc.h"
#include <math.h>

static void judge(tb_load_result *r, double slo_ms)
{
    double late_ms = (double)tb_histogram_quantile(&r->lag, 0.99) * 1e-6,
           allowed_ms = fmax(1.0, 0.05 * slo_ms);
    if (r->kind != TB_ARRIVALS_CLOSED && late_ms > allowed_ms)
        snprintf(r->void_reason, sizeof r->void_reason,
                 "the generator was late: p99 of its lag is %.2f ms, allowed are %.2f ms", late_ms,
                 allowed_ms);
    else if (r->answered == 0) snprintf(r->void_reason, sizeof r->void_reason, "nothing was answered");
}

static double median_of_part(load_run *r, int64_t from, int64_t to)
{
    tb_histogram *h = tb_calloc(1, sizeof *h);
    if (!h) return 0;
    tb_histogram_clear(h);
    for (int64_t i = from; i < to; i++) {
        const tb_load_column *c = &r->result->columns[i];
        if (c->done_ns >= 0) tb_histogram_add(h, c->done_ns - c->intended_ns);
    }
    double median = (double)tb_histogram_quantile(h, 0.5);
    tb_free(h);
    return median;
}

void load_summarize(load_run *run)
{
    tb_load_result *r = run->result;
    int64_t in_slo = 0, last_ok = 0, slo_ns = (int64_t)(run->config->slo_ms * 1e6);
    r->kind = run->schedule->kind;
    r->n = run->n;
    for (int64_t i = 0; i < run->n; i++) {
        const tb_load_column *c = &r->columns[i];
        int64_t latency = c->done_ns - c->intended_ns;
        bool refused = c->status == 429 || c->status == 503;
        r->answered += c->done_ns >= 0;
        r->ok += c->status == 200 && !c->wrong;
        r->refused += refused;
        r->failed += c->status != 200 && !refused;
        r->expired += c->status == 504;
        r->wrong += c->wrong;
        if (refused) tb_histogram_add(&r->refusal, latency);
        if (c->status != 200 || c->wrong) continue;
        tb_histogram_add(&r->latency, latency);
        tb_histogram_add(&r->service, c->done_ns - c->dispatch_ns);
        in_slo += latency <= slo_ns;
        if (c->done_ns > last_ok) last_ok = c->done_ns;
        r->batches[c->batch < 0 ? 0 : c->batch > 256 ? 256 : c->batch]++;
    }
    /* Offered over the time that arrivals span; achieved until the last good reply, if that is later. */
    double span = run->at_ns && run->n > 1
                      ? (double)run->at_ns[run->n - 1] * 1e-9 * (double)run->n / (double)(run->n - 1)
                      : (double)run->ended_ns * 1e-9;
    if (!(span > 0)) span = r->wall_s;
    double until = fmax(span, (double)last_ok * 1e-9);
    r->offered_per_s = (double)run->n / span;
    r->achieved_per_s = (double)r->ok / until;
    r->goodput_per_s = (double)in_slo / until;
    r->first_third_p50_ns = median_of_part(run, 0, run->n / 3);
    r->last_third_p50_ns = median_of_part(run, run->n - run->n / 3, run->n);
    judge(r, run->config->slo_ms);
}

static const double quantiles[] = {0.5, 0.9, 0.95, 0.99, 0.999};
static const char *const quantile_names[] = {"p50_ms", "p90_ms", "p95_ms", "p99_ms", "p999_ms"};
enum { N_QUANTILES = 5 };

static void json_histogram(tb_json *j, const char *key, const tb_histogram *h)
{
    tb_json_key(j, key);
    tb_json_open(j, '{');
    tb_json_put_int(j, "count", (int64_t)h->count);
    for (int i = 0; i < N_QUANTILES; i++)
        tb_json_put_num(j, quantile_names[i], (double)tb_histogram_quantile(h, quantiles[i]) * 1e-6);
    tb_json_put_num(j, "max_ms", (double)h->max * 1e-6);
    tb_json_close(j, '}');
}

void tb_load_result_json(const tb_load_result *r, double slo_ms, tb_json *j)
{
    tb_json_open(j, '{');
    tb_json_put_str(j, "arrivals", tb_arrivals_name(r->kind));
    tb_json_put_bool(j, "valid", !*r->void_reason);
    tb_json_put_str(j, "void_reason", *r->void_reason ? r->void_reason : NULL);
    tb_json_put_num(j, "requests", (double)r->n);
    tb_json_put_num(j, "planned_requests", (double)r->planned);
    tb_json_put_num(j, "ok", (double)r->ok);
    tb_json_put_num(j, "refused", (double)r->refused);
    tb_json_put_num(j, "failed", (double)r->failed);
    tb_json_put_num(j, "expired", (double)r->expired);
    tb_json_put_num(j, "wrong_answers", (double)r->wrong);
    tb_json_put_num(j, "offered_per_s", r->offered_per_s);
    tb_json_put_num(j, "achieved_per_s", r->achieved_per_s);
    tb_json_put_num(j, "slo_ms", slo_ms);
    tb_json_put_num(j, "goodput_per_s", r->goodput_per_s);
    json_histogram(j, "latency", &r->latency);
    json_histogram(j, "service", &r->service);
    json_histogram(j, "lag", &r->lag);
    json_histogram(j, "connection_wait", &r->wait);
    json_histogram(j, "refusal", &r->refusal);
    if (r->tokens) {
        tb_json_put_num(j, "tokens", (double)r->tokens);
        json_histogram(j, "first_token", &r->first_token);
        json_histogram(j, "token_gap", &r->token_gap);
    }
    tb_json_put_num(j, "generator_cpu", r->generator_cpu);
    tb_json_put_num(j, "spin_cpu", r->spin_cpu);
    tb_json_put_num(j, "reconnects", (double)r->reconnects);
    tb_json_key(j, "replies_by_batch");
    tb_json_open(j, '{');
    for (int b = 1; b <= 256; b++) {
        char key[8];
        if (!r->batches[b]) continue;
        snprintf(key, sizeof key, "%d", b);
        tb_json_put_num(j, key, (double)r->batches[b]);
    }
    tb_json_close(j, '}');
    tb_json_close(j, '}');
}

static void print_histogram(const char *name, const tb_histogram *h)
{
    printf("  %-11s", name);
    for (int i = 0; i < N_QUANTILES; i++)
        printf("  %9.3f", (double)tb_histogram_quantile(h, quantiles[i]) * 1e-6);
    printf("  %9.3f\n", (double)h->max * 1e-6);
}

void tb_load_result_print(const tb_load_result *r, double slo_ms)
{
    printf("%s: %lld requests, offered %.1f/s, achieved %.1f/s, within %.3g ms %.1f/s\n",
           tb_arrivals_name(r->kind), (long long)r->n, r->offered_per_s, r->achieved_per_s, slo_ms,
           r->goodput_per_s);
    if (r->n < r->planned)
        printf("  stopped early: %lld of %lld arrivals were made\n", (long long)r->n, (long long)r->planned);
    printf("  ok %lld  refused %lld  failed %lld  wrong answers %lld\n", (long long)r->ok,
           (long long)r->refused, (long long)r->failed, (long long)r->wrong);
    printf("  ms               p50        p90        p95        p99      p99.9        max\n");
    print_histogram("latency", &r->latency);
    print_histogram("service", &r->service);
    if (r->refused) print_histogram("refusal", &r->refusal);
    if (r->tokens) {
        print_histogram("first token", &r->first_token);
        print_histogram("next token", &r->token_gap);
    }
    if (r->kind != TB_ARRIVALS_CLOSED) {
        print_histogram("conn. wait", &r->wait);
        print_histogram("own lag", &r->lag);
    }
    uint64_t replies = 0, rows = 0;
    for (int b = 1; b <= 256; b++) replies += r->batches[b], rows += r->batches[b] * (uint64_t)b;
    if (replies) printf("  batch size, mean over replies %.2f\n", (double)rows / (double)replies);
    printf("  generator %.2f cores, %.2f more waiting precisely\n", r->generator_cpu, r->spin_cpu);
    if (*r->void_reason) printf("VOID: %s\n", r->void_reason);
}
