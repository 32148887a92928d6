/* Recording, and the three ways to read: Prometheus text, the timeline, the page's numbers. */
#include "server.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <stdlib.h>

const char *const tbi_stage_names[TBI_STAGES] = {"receive", "parse", "queue", "compute", "serialize"};

/* Upper bounds in microseconds: 1, 2, 5 times powers of ten from 10 us to 10 s. */
static int64_t bucket_us(int i)
{
    static const int step[] = {1, 2, 5};
    int64_t scale = 10;
    for (int k = 0; k < i / 3; k++) scale *= 10;
    return scale * step[i % 3];
}

static int bucket_of(int64_t ns)
{
    int i = 0;
    while (i < TBI_BUCKETS && ns > bucket_us(i) * 1000) i++;
    return i;
}

void tbi_request_stages(const tbi_request *r, int32_t ns[TBI_STAGES])
{
    const int64_t stamps[TBI_STAGES + 1] = {r->first_ns, r->body_ns, r->parsed_ns,
                                            r->start_ns, r->done_ns, r->reply_ns};
    for (int i = 0; i < TBI_STAGES; i++) {
        int64_t d = stamps[i + 1] - stamps[i];
        if (i == TBI_RECEIVE) d -= r->parsing_ns;
        if (i == TBI_PARSE) d += r->parsing_ns;
        ns[i] = d < 0 ? 0 : d > INT32_MAX ? INT32_MAX : (int32_t)d;
    }
}

void tbi_metrics_record(tbi_metrics *m, const tbi_request *r, int status)
{
    tbi_recent *t = &m->recent[m->n_recent++ % TBI_RECENT];
    t->first_ns = r->first_ns;
    t->status = (uint16_t)status;
    t->rows = (int16_t)r->rows;
    t->batch_rows = (int16_t)(status == 200 ? r->batch_rows : 0);
    tbi_request_stages(r, t->stage_ns);
    if (status != 200) return;
    m->inferences++;
    m->rows += (uint64_t)r->rows;
    for (int i = 0; i < TBI_STAGES; i++) {
        m->buckets[i][bucket_of(t->stage_ns[i])]++;
        m->stage_sum_ns[i] += t->stage_ns[i];
    }
    tb_histogram_add(&m->latency, r->reply_ns - r->first_ns);
}

/* ---- Prometheus ---- */

static void counter(tb_text *out, const char *name, const char *help, uint64_t value)
{
    tb_text_add(out, "# HELP tensorbrain_%s %s\n# TYPE tensorbrain_%s counter\ntensorbrain_%s %llu\n", name,
                help, name, name, (unsigned long long)value);
}

static void write_stages(const tbi_metrics *m, tb_text *out)
{
    tb_text_add(out, "# HELP tensorbrain_stage_seconds Time of an answered inference by stage.\n"
                     "# TYPE tensorbrain_stage_seconds histogram\n");
    for (int i = 0; i < TBI_STAGES; i++) {
        uint64_t below = 0;
        for (int k = 0; k < TBI_BUCKETS; k++) {
            below += m->buckets[i][k];
            tb_text_add(out, "tensorbrain_stage_seconds_bucket{stage=\"%s\",le=\"%g\"} %llu\n",
                        tbi_stage_names[i], (double)bucket_us(k) * 1e-6, (unsigned long long)below);
        }
        tb_text_add(out, "tensorbrain_stage_seconds_bucket{stage=\"%s\",le=\"+Inf\"} %llu\n",
                    tbi_stage_names[i], (unsigned long long)m->inferences);
        tb_text_add(out, "tensorbrain_stage_seconds_sum{stage=\"%s\"} %.9f\n", tbi_stage_names[i],
                    (double)m->stage_sum_ns[i] * 1e-9);
        tb_text_add(out, "tensorbrain_stage_seconds_count{stage=\"%s\"} %llu\n", tbi_stage_names[i],
                    (unsigned long long)m->inferences);
    }
}

static void write_models(const tb_server *s, tb_text *out)
{
    tb_text_add(out, "# HELP tensorbrain_batches_total Batches run, by model and rows.\n# TYPE "
                     "tensorbrain_batches_total counter\n");
    for (int i = 0; i < s->repository.n_entries; i++) {
        const tbi_served *m = s->repository.entries[i].live;
        for (int rows = 1; m && rows <= m->model->max_batch; rows++)
            if (m->batcher->by_size[rows].batches)
                tb_text_add(out, "tensorbrain_batches_total{model=\"%s\",version=\"%s\",rows=\"%d\"} %llu\n",
                            m->model->name, m->model->version, rows,
                            (unsigned long long)m->batcher->by_size[rows].batches);
    }
    tb_text_add(out, "# HELP tensorbrain_queue_rows Rows waiting.\n# TYPE tensorbrain_queue_rows gauge\n");
    for (int i = 0; i < s->repository.n_entries; i++) {
        const tbi_served *m = s->repository.entries[i].live;
        if (m)
            tb_text_add(out, "tensorbrain_queue_rows{model=\"%s\"} %d\n", m->model->name,
                        m->batcher->queued_rows);
    }
}

void tbi_metrics_prometheus(const tb_server *s, tb_text *out)
{
    const tbi_metrics *m = &s->metrics;
    tb_mem_stats heap;
    tb_heap_stats(tb_heap_process(), &heap);
    counter(out, "requests_total", "HTTP requests whose header was complete.", m->requests);
    counter(out, "inferences_total", "Inference requests answered.", m->inferences);
    counter(out, "rows_total", "Rows of answered inference requests.", m->rows);
    counter(out, "generations_total", "Texts generated to their end.", m->generations);
    counter(out, "generated_tokens_total", "Tokens drawn.", m->tokens);
    tb_text_add(out, "# HELP tensorbrain_first_token_seconds From a request for text to its first token.\n"
                     "# TYPE tensorbrain_first_token_seconds summary\n"
                     "tensorbrain_first_token_seconds_sum %.9f\ntensorbrain_first_token_seconds_count %llu\n",
                (double)m->first_token_ns * 1e-9, (unsigned long long)m->first_tokens);
    counter(out, "connections_total", "Connections that arrived.", m->connections);
    counter(out, "connections_refused_total", "Connections refused by a limit.", m->connections_refused);
    counter(out, "slow_requests_cut_total",
            "Connections ended because a header, a body or a client was too slow.", m->cut_slow);
    counter(out, "disconnects_total", "Requests whose client left before the reply.", m->disconnected);
    tb_text_add(out,
                "# HELP tensorbrain_spin_seconds_total CPU time of polling with nothing to do.\n"
                "# TYPE tensorbrain_spin_seconds_total counter\ntensorbrain_spin_seconds_total %.9f\n",
                (double)m->spun_ns * 1e-9);
    counter(out, "allocations_total", "Requests to the engine's process heap; constant in steady state.",
            (uint64_t)heap.requests);
    tb_text_add(
        out, "# HELP tensorbrain_replies_total Replies by code.\n# TYPE tensorbrain_replies_total counter\n");
    for (int i = 0; i < TBI_FAULTS; i++)
        if (i == TBI_FAULT_NONE || m->replies[i])
            tb_text_add(out, "tensorbrain_replies_total{code=\"%s\"} %llu\n",
                        i ? tbi_fault_name((tbi_fault_code)i) : "ok", (unsigned long long)m->replies[i]);
    tb_text_add(out,
                "# HELP tensorbrain_open_connections Open connections.\n# TYPE tensorbrain_open_connections "
                "gauge\ntensorbrain_open_connections %d\n",
                s->n_conns);
    write_stages(m, out);
    write_models(s, out);
}

/* ---- recent requests ---- */

static int recent_count(const tbi_metrics *m, int last)
{
    int have = m->n_recent < TBI_RECENT ? (int)m->n_recent : TBI_RECENT;
    return last < have ? last : have;
}

static const tbi_recent *recent_at(const tbi_metrics *m, int back)
{
    return &m->recent[(m->n_recent - 1 - (uint64_t)back) % TBI_RECENT];
}

void tbi_metrics_timeline(const tbi_metrics *m, int last, tb_text *out)
{
    tb_json j = {.to = out};
    tb_json_open(&j, '{');
    tb_json_key(&j, "requests");
    tb_json_open(&j, '[');
    for (int i = recent_count(m, last) - 1; i >= 0; i--) {
        const tbi_recent *t = recent_at(m, i);
        tb_json_open(&j, '{');
        tb_json_put_int(&j, "at_us", (t->first_ns - m->started_ns) / 1000);
        tb_json_put_int(&j, "status", t->status);
        tb_json_put_int(&j, "rows", t->rows);
        tb_json_put_int(&j, "batch_rows", t->batch_rows);
        for (int k = 0; k < TBI_STAGES; k++) {
            char key[32];
            snprintf(key, sizeof key, "%s_ns", tbi_stage_names[k]);
            tb_json_put_int(&j, key, t->stage_ns[k]);
        }
        tb_json_close(&j, '}');
    }
    tb_json_close(&j, ']');
    tb_json_close(&j, '}');
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Of the answered among the recent requests of the last ten seconds. */
void tbi_metrics_page(const tb_server *s, tb_text *out)
{
    static const double quantiles[] = {0.5, 0.95, 0.99};
    static const char *const names[] = {"p50_us", "p95_us", "p99_us"};
    const tbi_metrics *m = &s->metrics;
    int64_t now = tb_now_ns(), latency[TBI_RECENT], oldest = now;
    int sizes[65] = {0}, n = 0, all = recent_count(m, TBI_RECENT);
    for (int i = 0; i < all; i++) {
        const tbi_recent *t = recent_at(m, i);
        if (t->first_ns < now - 10000000000LL) break;
        oldest = t->first_ns;
        if (t->status != 200) continue;
        latency[n] = 0;
        for (int k = 0; k < TBI_STAGES; k++) latency[n] += t->stage_ns[k];
        n++;
        sizes[t->batch_rows < 64 ? t->batch_rows : 64]++;
    }
    qsort(latency, (size_t)n, sizeof *latency, by_value);
    tb_json j = {.to = out};
    tb_json_open(&j, '{');
    tb_json_key(&j, "per_s");
    double span = all == TBI_RECENT ? (double)(now - oldest) * 1e-9 : 10;
    if (span < 1e-3 || (double)(now - m->started_ns) * 1e-9 < span)
        span = (double)(now - m->started_ns) * 1e-9;
    tb_json_num(&j, n / span);
    for (int i = 0; i < 3; i++) {
        tb_json_key(&j, names[i]);
        if (n) tb_json_int(&j, latency[(int)(quantiles[i] * (n - 1) + 0.5)] / 1000);
        else tb_json_str(&j, NULL);
    }
    tb_json_key(&j, "batch_rows");
    tb_json_open(&j, '[');
    for (int i = 1; i <= 64; i++) tb_json_int(&j, sizes[i]);
    tb_json_close(&j, ']');
    tb_json_put_int(&j, "answered", (int64_t)m->inferences);
    tb_json_put_int(&j, "connections", s->n_conns);
    tb_json_key(&j, "models");
    tb_json_open(&j, '[');
    for (int i = 0; i < s->repository.n_entries; i++)
        if (s->repository.entries[i].live) tb_json_str(&j, s->repository.entries[i].name);
    tb_json_close(&j, ']');
    tb_json_close(&j, '}');
}
