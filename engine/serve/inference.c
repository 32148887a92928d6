/* One inference of a connection, and one loading of a model: what is refused by the header alone, what goes to a
 * batcher or to the loader, and what becomes of the answer. */
#include "server.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include <limits.h>
#include <string.h>

static void record(tbi_conn *c)
{
    tbi_served *m = c->served;
    tbi_request *r = &c->request;
    r->reply_ns = tb_now_ns();
    tbi_metrics_record(&c->server->metrics, r, c->status);
    if (c->status != 200) {
        m->failures++;
        return;
    }
    m->successes++;
    m->rows += (uint64_t)r->rows;
    m->parse_ns += r->parsing_ns + r->parsed_ns - r->body_ns;
    m->queue_ns += r->start_ns - r->parsed_ns;
    m->infer_ns += r->done_ns - r->start_ns;
    m->serialize_ns += r->reply_ns - r->done_ns;
    m->last_ms = r->reply_ns / 1000000;
}

void tbi_finish_inference(void *server, tbi_request *r, const tbi_fault *fault, const void *const *out)
{
    tbi_conn *c = (tbi_conn *)(void *)r; /* the request is its first member */
    (void)server;
    c->fault = *fault;
    c->body.size = 0;
    if (out && tbi_infer_reply(&c->infer, out, &c->body, &c->json_bytes) && !c->body.failed) {
        c->status = 200;
        c->inferred = true;
        c->fixed = NULL;
        c->content_type = c->json_bytes >= 0 ? "application/octet-stream" : "application/json";
        c->server->metrics.replies[TBI_FAULT_NONE]++;
        tbi_conn_state_set(c, TBI_CONN_READY);
    } else {
        tbi_fault_set(&c->fault, TBI_FAULT_INTERNAL, NULL, "no memory for the reply");
        tbi_reply_fault(c);
    }
    record(c);
}

bool tbi_quota_left(tb_server *s, int64_t now, tbi_fault *fault)
{
    int per_s = s->config.limits.quota_per_s;
    if (!per_s) return true;
    s->quota += (double)(now - s->quota_ns) * 1e-9 * per_s;
    s->quota_ns = now;
    if (s->quota > per_s) s->quota = per_s;
    if (s->quota >= 1) {
        s->quota -= 1;
        return true;
    }
    fault->retry_after_s = 1;
    return tbi_fault_set(fault, TBI_FAULT_QUOTA, NULL, "more than %d inferences a second", per_s);
}

bool tbi_find_served(tbi_conn *c)
{
    tbi_repository *r = &c->server->repository;
    tbi_entry *e = NULL;
    if (c->route.model)
        e = tbi_repository_find(r, c->route.model, c->route.model_bytes);
    else if (r->n_entries == 1)
        e = &r->entries[0];
    else if (r->n_entries > 1)
        return tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, NULL,
                             "several models are served: use /v2/models/NAME/infer");
    if (!e) return tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the repository holds no such model");
    if (!e->live && e->state == TBI_MODEL_LOADING) {
        c->fault.retry_after_s = 1;
        return tbi_fault_set(&c->fault, TBI_FAULT_LOADING, NULL, "the model is being loaded");
    }
    if (!e->live) return tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the model is not loaded");
    const char *version = e->live->model->version;
    if (c->route.version &&
        (strlen(version) != c->route.version_bytes || memcmp(version, c->route.version, c->route.version_bytes) != 0))
        return tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_VERSION, NULL, "this version is not loaded; version %s is",
                             version);
    c->served = e->live;
    c->served->users++;
    return true;
}

bool tbi_header_number(tbi_conn *c, const char *name, int64_t min, int64_t max, int64_t *out)
{
    const char *text = tbi_header(c, name);
    if (!text || tbi_json_integer(text, strlen(text), min, max, out)) return true;
    return tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, name, "%s takes a whole number from %lld to %lld", name,
                         (long long)min, (long long)max);
}

/* The header of an inference says enough to refuse it before its body is parsed. */
bool tbi_begin_inference(tbi_conn *c)
{
    tb_server *s = c->server;
    const tb_serve_limits *limit = &s->config.limits;
    int64_t json_bytes = -1, timeout_ms = limit->max_timeout_ms;
    if (!tbi_find_served(c) || !tbi_quota_left(s, c->request.first_ns, &c->fault)) return false;
    if (c->served->generator)
        return tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, NULL,
                             "the model generates text: use /v2/models/NAME/generate or generate_stream");
    tbi_batcher *b = c->served->batcher;
    if (b->queued_rows >= b->limit_rows) {
        tbi_request probe = {.rows = 1, .deadline_ns = INT64_MAX};
        return tbi_batcher_admit(b, &probe, c->request.first_ns, &c->fault); /* refuses, with the wait it predicts */
    }
    if (!tbi_header_number(c, "Inference-Header-Content-Length", 0, c->content_length < 0 ? INT_MAX : c->content_length,
                           &json_bytes))
        return false;
    c->timeout_in_header = tbi_header(c, "X-Request-Timeout-Ms") != NULL;
    if (!tbi_header_number(c, "X-Request-Timeout-Ms", 1, INT_MAX, &timeout_ms)) return false;
    if (timeout_ms > limit->max_timeout_ms) timeout_ms = limit->max_timeout_ms;
    c->request.deadline_ns = c->request.first_ns + timeout_ms * 1000000;
    int64_t elements = 0;
    for (int i = 0; i < c->served->model->n_inputs; i++) elements += c->served->model->inputs[i].elements;
    int64_t most = elements * c->served->model->max_batch * 24 + 4096;
    if (most < c->body_limit) c->body_limit = most;
    tbi_infer_open(&c->infer, c->served->model, c->route.endpoint == TBI_PREDICT ? TBI_INFER_PREDICT : TBI_INFER_OIP,
                   json_bytes, c->in, &c->fault);
    return c->fault.code == TBI_FAULT_NONE;
}

void tbi_end_inference(tbi_conn *c)
{
    tbi_request *r = &c->request;
    c->inferred = false;
    if (tbi_infer_finish(&c->infer)) {
        int64_t asked = c->infer.timeout_us * 1000;
        r->rows = c->infer.rows;
        r->in = c->in;
        r->parsed_ns = tb_now_ns();
        if (asked && !c->timeout_in_header && r->first_ns + asked < r->deadline_ns)
            r->deadline_ns = r->first_ns + asked;
        if (tbi_batcher_admit(c->served->batcher, r, r->parsed_ns, &c->fault)) {
            tbi_conn_state_set(c, TBI_CONN_WAITING);
            return;
        }
    }
    c->served->failures++;
    tbi_reply_fault(c);
}

/* ---- loading ---- */

void tbi_begin_load(tbi_conn *c)
{
    tbi_repository *r = &c->server->repository;
    if (tbi_repository_scan(r) != TB_OK) tb_log_write(TB_LOG_WARN, "%s", tb_error_message());
    tbi_entry *e = tbi_repository_find(r, c->route.model, c->route.model_bytes);
    if (!e)
        tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the repository holds no such model");
    else if (tbi_repository_load(r, e, c) != TB_OK)
        tbi_fault_set(&c->fault, TBI_FAULT_INTERNAL, NULL, "no memory to load");
    if (c->fault.code)
        tbi_reply_fault(c);
    else
        tbi_conn_state_set(c, TBI_CONN_WAITING);
}

void tbi_finish_load(void *server, void *waiter, tbi_entry *e, tb_status st)
{
    tbi_conn *c = waiter;
    (void)server;
    (void)e;
    if (!c) return;
    if (st != TB_OK) {
        tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, NULL,
                      "the model was not loaded; the repository index tells why");
        tbi_reply_fault(c);
        return;
    }
    tbi_endpoint_reply(c);
}
