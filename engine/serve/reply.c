/* What a connection answers: its reply with the headers that go with it. */
#include "server.h"
#include <string.h>

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

enum MHD_Result tbi_send_reply(tbi_conn *c)
{
    tb_server *s = c->server;
    void *data = c->fixed ? (void *)(uintptr_t)c->fixed : c->body.data;
    bool streams = tbi_is_stream(c);
    struct MHD_Response *reply = streams ? tbi_stream_response(c)
                                         : MHD_create_response_from_buffer(c->fixed ? c->fixed_bytes : c->body.size,
                                                                           data ? data : "", MHD_RESPMEM_PERSISTENT);
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
