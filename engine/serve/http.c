/* The library's callbacks: one request from its first header byte to its reply.
 *
 * libmicrohttpd calls on_request first with the header alone, then with pieces of the body, then once more at
 * its end, and again in every run of its loop until a reply is queued. That last habit is what batching uses:
 * a request that waits is simply not answered yet, and nothing need be suspended or resumed. */
#include "server.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SMALL_BODY = 65536, /* a refused request's body up to this size is read to its end, to keep the connection */
    MAX_PIECES = 4096,  /* of a chunked body */
    /* The library's memory of a connection, which it clears behind every request: of 128 KiB that is a tenth of the
     * server's time, and it costs the caches; with much less, long bodies come in many pieces. */
    POOL = 65536
};

static tbi_conn *conn_of(struct MHD_Connection *http)
{
    return MHD_get_connection_info(http, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static const char *header(tbi_conn *c, const char *name)
{
    return MHD_lookup_connection_value(c->http, MHD_HEADER_KIND, name);
}

/* ---- replies ---- */

static size_t put_ms(char *out, int64_t ns) /* milliseconds with three decimals */
{
    int64_t us = ns < 0 ? 0 : ns / 1000;
    size_t n = tbi_u64_to_text((uint64_t)(us / 1000), out);
    out[n++] = '.';
    out[n++] = (char)('0' + us / 100 % 10);
    out[n++] = (char)('0' + us / 10 % 10);
    out[n++] = (char)('0' + us % 10);
    return n;
}

static void add_stage_headers(tbi_conn *c, struct MHD_Response *reply)
{
    static const char *const names[TBI_STAGES] = {
        "recv;dur=", ", parse;dur=", ", queue;dur=", ", compute;dur=", ", ser;dur="};
    char text[256], number[24];
    int32_t ns[TBI_STAGES];
    size_t n = 0;
    tbi_request_stages(&c->request, ns);
    for (int i = 0; i < TBI_STAGES; i++) {
        size_t length = strlen(names[i]);
        memcpy(text + n, names[i], length);
        n += length;
        n += put_ms(text + n, ns[i]);
    }
    text[n] = 0;
    MHD_add_response_header(reply, "Server-Timing", text);
    number[tbi_u64_to_text((uint64_t)c->request.batch_rows, number)] = 0;
    MHD_add_response_header(reply, "X-Batch-Size", number);
    MHD_add_response_header(reply, "X-Model-Version", c->served->model->version);
    if (c->json_bytes >= 0) {
        number[tbi_u64_to_text((uint64_t)c->json_bytes, number)] = 0;
        MHD_add_response_header(reply, "Inference-Header-Content-Length", number);
    }
}

static enum MHD_Result send_reply(tbi_conn *c)
{
    tb_server *s = c->server;
    void *data = c->fixed ? (void *)(uintptr_t)c->fixed : c->body.data;
    bool streams = tbi_is_stream(c);
    struct MHD_Response *reply =
        streams ? tbi_stream_response(c)
                : MHD_create_response_from_buffer(c->fixed ? c->fixed_bytes : c->body.size, data ? data : "",
                                                  MHD_RESPMEM_PERSISTENT);
    if (!reply) return MHD_NO;
    MHD_add_response_header(reply, "Content-Type", c->content_type);
    MHD_add_response_header(reply, "X-Request-Id", c->request_id);
    if (c->inferred) add_stage_headers(c, reply);
    if (c->fault.code == TBI_FAULT_METHOD_NOT_ALLOWED)
        MHD_add_response_header(reply, "Allow", tbi_route_is_post(c->route.endpoint) ? "POST" : "GET, HEAD");
    if (c->fault.code == TBI_FAULT_UNAUTHORIZED) MHD_add_response_header(reply, "WWW-Authenticate", "Bearer");
    if (c->fault.retry_after_s > 0) {
        char seconds[24];
        seconds[tbi_u64_to_text((uint64_t)c->fault.retry_after_s, seconds)] = 0;
        MHD_add_response_header(reply, "Retry-After", seconds);
    }
    if (c->close || s->drains > 0 || ++c->n_requests >= s->config.limits.requests_per_connection)
        MHD_add_response_header(reply, "Connection", "close");
    tbi_conn_state_set(c, streams && c->generates ? TBI_CONN_STREAMING : TBI_CONN_SENDING);
    enum MHD_Result queued = MHD_queue_response(c->http, (unsigned)c->status, reply);
    MHD_destroy_response(reply);
    return queued;
}

void tbi_reply_fault(tbi_conn *c)
{
    c->body.size = 0;
    c->fixed = NULL;
    c->inferred = false;
    c->json_bytes = -1;
    c->content_type = "application/json";
    c->status = tbi_fault_status(c->fault.code);
    tbi_fault_write(&c->fault, c->request_id, &c->body);
    c->server->metrics.replies[c->fault.code]++;
    tbi_conn_state_set(c, TBI_CONN_READY);
}

/* ---- inference ---- */

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
    if (c->route.model) e = tbi_repository_find(r, c->route.model, c->route.model_bytes);
    else if (r->n_entries == 1) e = &r->entries[0];
    else if (r->n_entries > 1)
        return tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, NULL,
                             "several models are served: use /v2/models/NAME/infer");
    if (!e)
        return tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the repository holds no such model");
    if (!e->live && e->state == TBI_MODEL_LOADING) {
        c->fault.retry_after_s = 1;
        return tbi_fault_set(&c->fault, TBI_FAULT_LOADING, NULL, "the model is being loaded");
    }
    if (!e->live) return tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the model is not loaded");
    const char *version = e->live->model->version;
    if (c->route.version && (strlen(version) != c->route.version_bytes ||
                             memcmp(version, c->route.version, c->route.version_bytes) != 0))
        return tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_VERSION, NULL,
                             "this version is not loaded; version %s is", version);
    c->served = e->live;
    c->served->users++;
    return true;
}

bool tbi_header_number(tbi_conn *c, const char *name, int64_t min, int64_t max, int64_t *out)
{
    const char *text = header(c, name);
    if (!text || tbi_json_integer(text, strlen(text), min, max, out)) return true;
    return tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, name, "%s takes a whole number from %lld to %lld",
                         name, (long long)min, (long long)max);
}

/* The header of an inference says enough to refuse it before its body is parsed. */
static bool begin_inference(tbi_conn *c)
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
        return tbi_batcher_admit(b, &probe, c->request.first_ns,
                                 &c->fault); /* refuses, with the wait it predicts */
    }
    if (!tbi_header_number(c, "Inference-Header-Content-Length", 0,
                       c->content_length < 0 ? INT_MAX : c->content_length, &json_bytes))
        return false;
    c->timeout_in_header = header(c, "X-Request-Timeout-Ms") != NULL;
    if (!tbi_header_number(c, "X-Request-Timeout-Ms", 1, INT_MAX, &timeout_ms)) return false;
    if (timeout_ms > limit->max_timeout_ms) timeout_ms = limit->max_timeout_ms;
    c->request.deadline_ns = c->request.first_ns + timeout_ms * 1000000;
    int64_t elements = 0;
    for (int i = 0; i < c->served->model->n_inputs; i++) elements += c->served->model->inputs[i].elements;
    int64_t most = elements * c->served->model->max_batch * 24 + 4096;
    if (most < c->body_limit) c->body_limit = most;
    tbi_infer_open(&c->infer, c->served->model,
                   c->route.endpoint == TBI_PREDICT ? TBI_INFER_PREDICT : TBI_INFER_OIP, json_bytes, c->in,
                   &c->fault);
    return c->fault.code == TBI_FAULT_NONE;
}

static void end_inference(tbi_conn *c)
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

static void begin_load(tbi_conn *c)
{
    tbi_repository *r = &c->server->repository;
    if (tbi_repository_scan(r) != TB_OK) tb_log_write(TB_LOG_WARN, "%s", tb_error_message());
    tbi_entry *e = tbi_repository_find(r, c->route.model, c->route.model_bytes);
    if (!e) tbi_fault_set(&c->fault, TBI_FAULT_UNKNOWN_MODEL, NULL, "the repository holds no such model");
    else if (tbi_repository_load(r, e, c) != TB_OK)
        tbi_fault_set(&c->fault, TBI_FAULT_INTERNAL, NULL, "no memory to load");
    if (c->fault.code) tbi_reply_fault(c);
    else tbi_conn_state_set(c, TBI_CONN_WAITING);
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

/* ---- one request ---- */

static bool usable_id(const char *id)
{
    size_t n = 0;
    for (; id[n]; n++)
        if (id[n] <= ' ' || id[n] > '~' || id[n] == '"' || id[n] == '\\') return false;
    return n > 0 && n <= TBI_REQUEST_ID;
}

static void take_request_id(tbi_conn *c)
{
    static const char hex[] = "0123456789abcdef";
    const char *given = header(c, "X-Request-Id");
    if (given && usable_id(given)) {
        snprintf(c->request_id, sizeof c->request_id, "%s", given);
        return;
    }
    uint64_t id = c->server->id_salt + c->server->next_id++;
    for (int i = 15; i >= 0; i--, id >>= 4) c->request_id[i] = hex[id & 15];
    c->request_id[16] = 0;
}

static bool authorized(tbi_conn *c)
{
    const char *key = c->server->config.api_key;
    tbi_endpoint e = c->route.endpoint;
    if (!key || e == TBI_LIVE || e == TBI_READY || e == TBI_PAGE) return true;
    const char *given = header(c, "X-Api-Key"), *bearer = header(c, "Authorization");
    if (!given && bearer && strncmp(bearer, "Bearer ", 7) == 0) given = bearer + 7;
    if (given && tbi_key_equal(given, key)) return true;
    return tbi_fault_set(&c->fault, TBI_FAULT_UNAUTHORIZED, NULL,
                         "this server wants its API key (Authorization: Bearer KEY)");
}

/* Bodies of administrative requests are checked to be JSON; their members ask for nothing that exists here.
 */
static bool ignore_event(void *arg, tbi_json_event e, const char *text, size_t bytes)
{
    (void)arg;
    (void)e;
    (void)text;
    (void)bytes;
    return true;
}

/* Everything that the header alone decides. */
static bool begin_checks(tbi_conn *c, const char *method)
{
    const tb_serve_limits *limit = &c->server->config.limits;
    if (c->uri_too_long)
        return tbi_fault_set(&c->fault, TBI_FAULT_URI_TOO_LONG, NULL, "the path is above %d bytes",
                             limit->uri_bytes);
    if (c->route.endpoint == TBI_NO_ENDPOINT)
        return tbi_fault_set(&c->fault, TBI_FAULT_NOT_FOUND, NULL, "no such path; GET /v2 lists them");
    if (!tbi_route_takes(c->route.endpoint, method))
        return tbi_fault_set(&c->fault, TBI_FAULT_METHOD_NOT_ALLOWED, NULL, "this path takes another method");
    if (!authorized(c)) return false;
    bool post = tbi_route_is_post(c->route.endpoint);
    bool infer = c->route.endpoint == TBI_INFER || c->route.endpoint == TBI_PREDICT;
    bool generate = c->route.endpoint == TBI_GENERATE || c->route.endpoint == TBI_GENERATE_STREAM;
    c->close = (infer || generate) && c->content_length == 0 && !header(c, "Content-Length");
    if (c->close) /* without a length there is no body (RFC 9112, section 6.3), and these want one */
        return tbi_fault_set(&c->fault, TBI_FAULT_LENGTH_REQUIRED, NULL,
                             "a POST with a body needs Content-Length or chunked coding");
    if (infer) c->body_limit = limit->body_bytes;
    else if (post) {
        tbi_json_open(&c->infer.scan, &c->fault, ignore_event, NULL);
    }
    if (infer && !begin_inference(c)) return false;
    if (generate && !tbi_begin_generation(c)) return false;
    if (c->content_length > c->body_limit)
        return tbi_fault_set(&c->fault, TBI_FAULT_BODY_TOO_LARGE, NULL,
                             "the body may have at most %lld bytes", (long long)c->body_limit);
    return true;
}

static enum MHD_Result begin_request(tbi_conn *c, const char *method, const char *version)
{
    c->fault = (tbi_fault){0};
    c->close = c->inferred = c->timeout_in_header = c->generates = false;
    c->fixed = NULL;
    c->json_bytes = -1;
    c->body_bytes = 0;
    c->content_length = 0;
    c->body_limit = SMALL_BODY;
    c->pieces = 0;
    c->body.size = 0;
    c->body.failed = false;
    c->request.rows = 0;
    c->request.parsing_ns = 0;
    c->request.queued = false;
    c->server->metrics.requests++;
    c->request_id[0] = 0;
    c->close = !tbi_framing_check(c, version);
    if (!c->close) take_request_id(c);
    if (!c->close && begin_checks(c, method)) {
        tbi_conn_state_set(c, TBI_CONN_BODY);
        return MHD_YES;
    }
    if (!c->close && c->content_length >= 0 && c->content_length <= SMALL_BODY) {
        tbi_conn_state_set(c, TBI_CONN_DISCARD);
        return MHD_YES;
    }
    c->close = true;
    tbi_reply_fault(c);
    return send_reply(c);
}

static enum MHD_Result take_body(tbi_conn *c, const char *data, size_t n)
{
    c->body_bytes += (int64_t)n;
    c->server->progressed = true;
    if (c->body_bytes > c->body_limit || (c->content_length < 0 && ++c->pieces > MAX_PIECES)) {
        tbi_conn_cut(c, TBI_FAULT_BODY_TOO_LARGE, "the body is too large or in more than 4096 chunks");
        return MHD_NO;
    }
    if (c->state == TBI_CONN_DISCARD) return MHD_YES;
    bool good = true;
    int64_t begin = tb_now_ns();
    if (c->served && !c->served->generator) good = tbi_infer_feed(&c->infer, data, n);
    else if (tbi_route_is_post(c->route.endpoint)) good = tbi_json_feed(&c->infer.scan, data, n);
    c->request.parsing_ns += tb_now_ns() - begin;
    if (!good) tbi_conn_state_set(c, TBI_CONN_DISCARD);
    return MHD_YES;
}

static void end_request(tbi_conn *c)
{
    c->request.body_ns = c->request.parsed_ns = tb_now_ns();
    if (c->state == TBI_CONN_DISCARD) {
        if (c->served) c->served->failures++;
        tbi_reply_fault(c);
    } else if (c->route.endpoint == TBI_INFER || c->route.endpoint == TBI_PREDICT) {
        end_inference(c);
    } else if (c->route.endpoint == TBI_GENERATE || c->route.endpoint == TBI_GENERATE_STREAM) {
        tbi_end_generation(c);
    } else if (tbi_route_is_post(c->route.endpoint) && c->body_bytes > 0 &&
               !tbi_json_finish(&c->infer.scan)) {
        tbi_reply_fault(c);
    } else if (c->route.endpoint == TBI_LOAD) {
        begin_load(c);
    } else {
        tbi_endpoint_reply(c);
    }
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *http, const char *url, const char *method,
                                  const char *version, const char *data, size_t *bytes, void **context)
{
    tbi_conn *c = conn_of(http);
    (void)arg;
    (void)url;
    (void)context;
    if (c->state == TBI_CONN_IDLE) return begin_request(c, method, version);
    if (*bytes > 0) {
        size_t n = *bytes;
        *bytes = 0;
        return take_body(c, data, n);
    }
    if (c->state == TBI_CONN_BODY || c->state == TBI_CONN_DISCARD) end_request(c);
    if (c->state == TBI_CONN_READY) return send_reply(c);
    return MHD_YES;
}

/* The request line has been read: the path is still as the client sent it. */
static void *on_uri(void *arg, const char *uri, struct MHD_Connection *http)
{
    tbi_conn *c = conn_of(http);
    (void)arg;
    c->request.first_ns = tb_now_ns();
    c->uri_too_long = strlen(uri) > (size_t)c->server->config.limits.uri_bytes;
    c->route = tbi_route_parse(uri);
    return NULL;
}

static void on_completed(void *arg, struct MHD_Connection *http, void **context,
                         enum MHD_RequestTerminationCode why)
{
    tbi_conn *c = conn_of(http);
    (void)arg;
    (void)context;
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK) c->server->metrics.disconnected++;
    tbi_conn_release_request(c);
}

static void on_connection(void *arg, struct MHD_Connection *http, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    tb_server *s = arg;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        tbi_conn *c = s->adding;
        *context = c;
        c->http = http;
        s->n_conns++;
        tbi_conn_state_set(c, TBI_CONN_IDLE);
    } else {
        tbi_conn *c = *context;
        s->n_conns--;
        tbi_conn_state_set(c, TBI_CONN_FREE);
    }
}

static void on_log(void *arg, const char *format, va_list args)
{
    char text[256];
    (void)arg;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    tb_log_write(TB_LOG_DEBUG, "http: %s", text);
}

tb_status tbi_http_start(tb_server *s)
{
    s->http = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
                               s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s, MHD_OPTION_URI_LOG_CALLBACK, on_uri, s,
                               MHD_OPTION_NOTIFY_COMPLETED, on_completed, s, MHD_OPTION_NOTIFY_CONNECTION,
                               on_connection, s, MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->config.limits.connections,
                               MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
                               MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (!s->http) return TB_FAIL(TB_ERR_INTERNAL, "serve: libmicrohttpd did not start");
    return TB_OK;
}
