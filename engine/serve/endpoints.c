/* Replies of everything but inference: health, metadata, statistics, the repository, metrics, the page. */
#include "server.h"
#include <string.h>

bool tbi_server_ready(const tb_server *s)
{
    for (int i = 0; i < s->repository.n_entries; i++)
        if (s->repository.entries[i].state == TBI_MODEL_LOADING && !s->repository.entries[i].live)
            return false;
    return s->drains == 0;
}

static void write_server(const tb_server *s, tb_json *j)
{
    static const char *const extensions[] = {"binary_tensor_data", "model_repository",
                                             "model_repository(unload_dependents)", "statistics",
                                             "model_configuration", "generate"};
    (void)s;
    tb_json_open(j, '{');
    tb_json_put_str(j, "name", "tensorbrain");
    tb_json_put_str(j, "version", TBI_VERSION);
    tb_json_key(j, "extensions");
    tb_json_open(j, '[');
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) tb_json_str(j, extensions[i]);
    tb_json_close(j, ']');
    tb_json_close(j, '}');
}

static void write_tensors(tb_json *j, const char *key, const tb_serve_tensor *t, int n)
{
    tb_json_key(j, key);
    tb_json_open(j, '[');
    for (int i = 0; i < n; i++) {
        tb_json_open(j, '{');
        tb_json_put_str(j, "name", t[i].name);
        tb_json_put_str(j, "datatype", tbi_oip_dtype(t[i].dtype));
        tb_json_key(j, "shape");
        tb_json_open(j, '[');
        tb_json_int(j, -1);
        for (int d = 0; d < t[i].rank; d++) tb_json_int(j, t[i].shape[d]);
        tb_json_close(j, ']');
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
}

static void write_model(const tb_serve_model *m, tb_json *j)
{
    tb_json_open(j, '{');
    tb_json_put_str(j, "name", m->name);
    tb_json_key(j, "versions");
    tb_json_open(j, '[');
    tb_json_str(j, m->version);
    tb_json_close(j, ']');
    tb_json_put_str(j, "platform", "tensorbrain");
    write_tensors(j, "inputs", m->inputs, m->n_inputs);
    write_tensors(j, "outputs", m->outputs, m->n_outputs);
    tb_json_close(j, '}');
}

/* How the model is served: measured times of batches, and what was decided from them. */
static void write_config(const tbi_served *s, tb_json *j)
{
    const tbi_batcher *b = s->batcher;
    tb_json_open(j, '{');
    tb_json_put_str(j, "name", s->model->name);
    tb_json_put_str(j, "platform", "tensorbrain");
    tb_json_put_int(j, "max_batch_size", s->model->max_batch);
    tb_json_put_int(j, "weight_bytes", (int64_t)s->model->weight_bytes);
    tb_json_put_str(j, "mode", b->by_worker ? "worker" : "loop");
    tb_json_put_int(j, "workers", b->n_workers);
    tb_json_put_int(j, "handover_ns", b->handover_ns);
    tb_json_put_int(j, "queue_limit_rows", b->limit_rows);
    if (s->generator) tb_json_put_int(j, "tokens_of_a_row", s->generator->capacity);
    tb_json_key(j, "batch_ns");
    tb_json_open(j, '[');
    for (int i = 0; i < b->n_sizes; i++) {
        tb_json_open(j, '{');
        tb_json_put_int(j, "rows", b->sizes[i]);
        tb_json_put_int(j, "ns", b->cost_ns[i]);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
    write_tensors(j, "input", s->model->inputs, s->model->n_inputs);
    write_tensors(j, "output", s->model->outputs, s->model->n_outputs);
    tb_json_close(j, '}');
}

static void duration(tb_json *j, const char *key, uint64_t count, int64_t ns)
{
    tb_json_key(j, key);
    tb_json_open(j, '{');
    tb_json_put_int(j, "count", (int64_t)count);
    tb_json_put_int(j, "ns", ns);
    tb_json_close(j, '}');
}

static void write_model_stats(const tbi_served *s, tb_json *j)
{
    tb_json_open(j, '{');
    tb_json_put_str(j, "name", s->model->name);
    tb_json_put_str(j, "version", s->model->version);
    tb_json_put_int(j, "last_inference", s->last_ms);
    tb_json_put_int(j, "inference_count", (int64_t)s->rows);
    uint64_t executions = 0;
    for (int rows = 1; rows <= s->model->max_batch; rows++) executions += s->batcher->by_size[rows].batches;
    tb_json_put_int(j, "execution_count", (int64_t)executions);
    tb_json_key(j, "inference_stats");
    tb_json_open(j, '{');
    duration(j, "success", s->successes, s->parse_ns + s->queue_ns + s->infer_ns + s->serialize_ns);
    duration(j, "fail", s->failures, 0);
    duration(j, "queue", s->successes, s->queue_ns);
    duration(j, "compute_input", s->successes, s->parse_ns);
    duration(j, "compute_infer", s->successes, s->infer_ns);
    duration(j, "compute_output", s->successes, s->serialize_ns);
    tb_json_close(j, '}');
    tb_json_key(j, "batch_stats");
    tb_json_open(j, '[');
    for (int rows = 1; rows <= s->model->max_batch; rows++) {
        const tbi_batch_size *b = &s->batcher->by_size[rows];
        if (!b->batches) continue;
        tb_json_open(j, '{');
        tb_json_put_int(j, "batch_size", rows);
        duration(j, "compute_infer", b->batches, b->busy_ns);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
    tb_json_close(j, '}');
}

static void write_stats(const tb_server *s, const tbi_served *one, tb_json *j)
{
    tb_json_open(j, '{');
    tb_json_key(j, "model_stats");
    tb_json_open(j, '[');
    if (one) write_model_stats(one, j);
    for (int i = 0; !one && i < s->repository.n_entries; i++)
        if (s->repository.entries[i].live) write_model_stats(s->repository.entries[i].live, j);
    tb_json_close(j, ']');
    tb_json_close(j, '}');
}

static void write_index(const tb_server *s, tb_json *j)
{
    static const char *const states[] = {"UNAVAILABLE", "LOADING", "READY", "UNAVAILABLE"};
    tb_json_open(j, '[');
    for (int i = 0; i < s->repository.n_entries; i++) {
        const tbi_entry *e = &s->repository.entries[i];
        tb_json_open(j, '{');
        tb_json_put_str(j, "name", e->name);
        tb_json_put_str(j, "version", e->live ? e->live->model->version : "");
        tb_json_put_str(j, "state", states[e->state]);
        tb_json_put_str(j, "reason", e->reason);
        tb_json_close(j, '}');
    }
    tb_json_close(j, ']');
}

static void write_decisions(const tb_server *s, int last, tb_json *j)
{
    tb_json_open(j, '{');
    tb_json_key(j, "decisions");
    tb_json_open(j, '[');
    for (int i = 0; i < s->repository.n_entries; i++) {
        const tbi_served *m = s->repository.entries[i].live;
        uint64_t n = m ? m->batcher->n_decisions : 0, have = n < TBI_DECISIONS_KEPT ? n : TBI_DECISIONS_KEPT;
        for (uint64_t k = have < (uint64_t)last ? have : (uint64_t)last; k > 0; k--) {
            const tbi_decision *d = &m->batcher->decisions[(n - k) % TBI_DECISIONS_KEPT];
            tb_json_open(j, '{');
            tb_json_put_str(j, "model", m->model->name);
            tb_json_put_int(j, "at_us", (d->at_ns - s->metrics.started_ns) / 1000);
            tb_json_put_int(j, "queued_rows", d->queued_rows);
            tb_json_put_int(j, "rows", d->rows);
            tb_json_put_int(j, "predicted_ns", d->predicted_ns);
            tb_json_put_int(j, "took_ns", d->took_ns);
            tb_json_close(j, '}');
        }
    }
    tb_json_close(j, ']');
    tb_json_close(j, '}');
}

/* rows, cols, labels and pixels of the samples: "TBS1", then u32 n, rows, cols, classes; names by '\n';
 * labels; pixels. */
static void write_samples(const tb_serve_samples *p, tb_text *out)
{
    uint32_t head[4] = {(uint32_t)p->n, (uint32_t)p->rows, (uint32_t)p->cols, (uint32_t)p->n_classes};
    tb_text_add_bytes(out, "TBS1", 4);
    tb_text_add_bytes(out, head, sizeof head);
    for (int i = 0; i < p->n_classes; i++) tb_text_add(out, "%s\n", p->class_names[i]);
    tb_text_add_bytes(out, p->labels, (size_t)p->n);
    tb_text_add_bytes(out, p->pixels, (size_t)p->n * (size_t)p->rows * (size_t)p->cols);
}

/* The live model that the path names; NULL with the fault set. */
static tbi_served *named_model(tbi_conn *c, tbi_entry **entry)
{
    tbi_entry *e = c->route.model
                       ? tbi_repository_find(&c->server->repository, c->route.model, c->route.model_bytes)
                       : NULL;
    if (entry) *entry = e;
    if (!e || !e->live) {
        bool loading = e && e->state == TBI_MODEL_LOADING;
        tbi_fault_set(&c->fault, loading ? TBI_FAULT_LOADING : TBI_FAULT_UNKNOWN_MODEL, NULL,
                      loading ? "the model is being loaded"
                              : "no such model is loaded; POST /v2/repository/index lists them");
        return NULL;
    }
    const char *version = e->live->model->version;
    if (c->route.version && (strlen(version) != c->route.version_bytes ||
                             memcmp(version, c->route.version, c->route.version_bytes) != 0)) {
        tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_VERSION, NULL, "this version is not loaded; version %s is",
                      version);
        return NULL;
    }
    return e->live;
}

static void unload(tbi_conn *c)
{
    tbi_entry *e = tbi_repository_find(&c->server->repository, c->route.model, c->route.model_bytes);
    if (!e) tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the repository holds no such model");
    else tbi_repository_unload(&c->server->repository, e);
}

static void health(tbi_conn *c)
{
    bool ready = c->route.endpoint == TBI_LIVE || tbi_server_ready(c->server);
    if (!ready)
        tbi_fault_set(&c->fault, c->server->drains ? TBI_FAULT_DRAINING : TBI_FAULT_LOADING, NULL,
                      c->server->drains ? "the server is draining" : "models are being loaded");
    else tb_text_add(&c->body, "{\"%s\":true}", c->route.endpoint == TBI_LIVE ? "live" : "ready");
}

static void binary(tbi_conn *c, const char *type, const void *fixed, size_t bytes)
{
    c->content_type = type;
    c->fixed = fixed;
    c->fixed_bytes = bytes;
}

void tbi_endpoint_reply(tbi_conn *c)
{
    tb_server *s = c->server;
    tb_json j = {.to = &c->body};
    tbi_endpoint e = c->route.endpoint;
    bool of_model = e == TBI_MODEL || e == TBI_MODEL_READY_ || e == TBI_MODEL_CONFIG ||
                    (e == TBI_MODEL_STATS && c->route.model);
    const tbi_served *m = of_model ? named_model(c, NULL) : NULL;
    c->content_type = "application/json";
    c->body.size = 0;
    if (!c->fault.code) switch (e) {
    case TBI_PAGE: binary(c, "text/html; charset=utf-8", tbi_page_html, tbi_page_html_bytes); break;
    case TBI_PAGE_STATE: tbi_metrics_page(s, &c->body); break;
    case TBI_PAGE_SAMPLES:
        c->content_type = "application/octet-stream";
        if (s->config.samples) write_samples(s->config.samples, &c->body);
        else
            tbi_fault_set(&c->fault, TBI_FAULT_NOT_FOUND, NULL,
                          "the server was started without sample images");
        break;
    case TBI_SERVER_METADATA: write_server(s, &j); break;
    case TBI_LIVE:
    case TBI_READY: health(c); break;
    case TBI_MODEL: write_model(m->model, &j); break;
    case TBI_MODEL_READY_: tb_text_add(&c->body, "{\"name\":\"%s\",\"ready\":true}", m->model->name); break;
    case TBI_MODEL_CONFIG: write_config(m, &j); break;
    case TBI_MODEL_STATS: write_stats(s, m, &j); break;
    case TBI_INDEX: write_index(s, &j); break;
    case TBI_UNLOAD: unload(c); break;
    case TBI_METRICS:
        c->content_type = "text/plain; version=0.0.4";
        tbi_metrics_prometheus(s, &c->body);
        break;
    case TBI_TIMELINE: tbi_metrics_timeline(&s->metrics, c->route.last, &c->body); break;
    case TBI_DECISIONS: write_decisions(s, c->route.last, &j); break;
    case TBI_LOAD:
    case TBI_INFER:
    case TBI_GENERATE:
    case TBI_GENERATE_STREAM:
    case TBI_PREDICT:
    case TBI_NO_ENDPOINT: break;
    }
    if (c->body.failed) tbi_fault_set(&c->fault, TBI_FAULT_INTERNAL, NULL, "no memory for the reply");
    if (c->fault.code) {
        tbi_reply_fault(c);
        return;
    }
    c->status = 200;
    s->metrics.replies[TBI_FAULT_NONE]++;
    tbi_conn_state_set(c, TBI_CONN_READY);
}
