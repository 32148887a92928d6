/* The library's callbacks: one request from its first header byte to its reply.
 *
 * libmicrohttpd calls on_request first with the header alone, then with pieces of the body, then once more at
 * its end, and again in every run of its loop until a reply is queued. That last habit is what batching uses:
 * a request that waits is simply not answered yet, and nothing need be suspended or resumed. */
#include "server.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include <stdio.h>
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

const char *tbi_header(tbi_conn *c, const char *name)
{
    return MHD_lookup_connection_value(c->http, MHD_HEADER_KIND, name);
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
    const char *given = tbi_header(c, "X-Request-Id");
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
    const char *given = tbi_header(c, "X-Api-Key"), *bearer = tbi_header(c, "Authorization");
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
    c->close = (infer || generate) && c->content_length == 0 && !tbi_header(c, "Content-Length");
    if (c->close) /* without a length there is no body (RFC 9112, section 6.3), and these want one */
        return tbi_fault_set(&c->fault, TBI_FAULT_LENGTH_REQUIRED, NULL,
                             "a POST with a body needs Content-Length or chunked coding");
    if (infer) c->body_limit = limit->body_bytes;
    else if (post) {
        tbi_json_open(&c->infer.scan, &c->fault, ignore_event, NULL);
    }
    if (infer && !tbi_begin_inference(c)) return false;
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
    return tbi_send_reply(c);
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
        tbi_end_inference(c);
    } else if (c->route.endpoint == TBI_GENERATE || c->route.endpoint == TBI_GENERATE_STREAM) {
        tbi_end_generation(c);
    } else if (tbi_route_is_post(c->route.endpoint) && c->body_bytes > 0 &&
               !tbi_json_finish(&c->infer.scan)) {
        tbi_reply_fault(c);
    } else if (c->route.endpoint == TBI_LOAD) {
        tbi_begin_load(c);
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
    if (c->state == TBI_CONN_READY) return tbi_send_reply(c);
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
