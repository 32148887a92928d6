/* Requests for text and how it goes out: as a whole, or as server-sent events (WHATWG HTML, section 9.2), one for
 * every token, while it is generated. */
#include "server.h"
#include "tb_cpu.h"
#include <string.h>
#include <sys/types.h>

enum { PROMPT_BODY = 8192, STREAM_BLOCK = 4096 };

bool tbi_is_stream(const tbi_conn *c) { return c->route.endpoint == TBI_GENERATE_STREAM && !c->fault.code; }

bool tbi_begin_generation(tbi_conn *c)
{
    int64_t timeout_ms = c->server->config.limits.max_timeout_ms, most = timeout_ms;
    if (!tbi_find_served(c) || !tbi_quota_left(c->server, c->request.first_ns, &c->fault)) return false;
    if (!c->served->generator)
        return tbi_fault_set(&c->fault, TBI_FAULT_BAD_REQUEST, NULL,
                             "the model does not generate text: use /v2/models/NAME/infer");
    c->body_limit = PROMPT_BODY;
    c->timeout_in_header = MHD_lookup_connection_value(c->http, MHD_HEADER_KIND, "X-Request-Timeout-Ms") != NULL;
    if (!tbi_header_number(c, "X-Request-Timeout-Ms", 1, INT32_MAX, &timeout_ms)) return false;
    c->generation.deadline_ns = c->request.first_ns + (timeout_ms < most ? timeout_ms : most) * 1000000;
    tbi_prompt_open(&c->prompt, &c->infer.scan, &c->fault);
    return true;
}

void tbi_end_generation(tbi_conn *c)
{
    tbi_generation *r = &c->generation;
    int64_t now = tb_now_ns();
    c->text.size = c->body.size = 0;
    c->inferred = false;
    if (tbi_prompt_finish(&c->prompt, &c->infer.scan)) {
        int64_t asked = c->request.first_ns + c->prompt.timeout_us * 1000;
        r->prompt = &c->prompt;
        if (c->prompt.timeout_us && !c->timeout_in_header && asked < r->deadline_ns) r->deadline_ns = asked;
        if (tbi_generator_admit(c->served->generator, r, now, &c->fault)) {
            c->generates = true;
            tbi_conn_state_set(c, TBI_CONN_WAITING);
            return;
        }
    }
    c->served->failures++;
    tbi_reply_fault(c);
}

/* A byte as JSON text; those above 127 stand for no character of their own. */
static void add_character(tb_json *j, uint8_t byte)
{
    char text[2] = {(char)byte, 0};
    if (byte == 0) tb_json_raw(j, "\"\\u0000\"");
    else tb_json_str(j, byte < 128 ? text : "\xef\xbf\xbd");
}

static void open_object(tbi_conn *c, tb_json *j)
{
    tb_json_open(j, '{');
    tb_json_put_str(j, "model_name", c->served->model->name);
    tb_json_put_str(j, "model_version", c->served->model->version);
    if (c->prompt.id[0]) {
        tb_json_put_str(j, "id", c->prompt.id);
    }
}

static void close_object(tbi_conn *c, tb_json *j)
{
    const tbi_generation *r = &c->generation;
    if (r->reason) {
        tb_json_put_int(j, "tokens", r->n);
        tb_json_put_str(j, "finish_reason", r->reason == TBI_BY_STOP ? "stop" : "length");
    }
    tb_json_close(j, '}');
}

static void add_event(tbi_conn *c)
{
    tb_json j = {.to = &c->body};
    tb_text_add_bytes(&c->body, "data: ", 6);
    open_object(c, &j);
    tb_json_put_int(&j, "token", c->generation.last);
    tb_json_key(&j, "text_output");
    add_character(&j, c->generation.last);
    close_object(c, &j);
    tb_text_add(&c->body, "\n\n%s", c->generation.reason ? "data: [DONE]\n\n" : "");
}

/* The text as one JSON string: its tokens, written one by one without their quotes. */
static void add_reply(tbi_conn *c)
{
    tb_json j = {.to = &c->body};
    open_object(c, &j);
    tb_json_put_raw(&j, "text_output", "\"");
    for (size_t i = 0; i < c->text.size; i++) {
        tb_json one = {.to = &c->body};
        size_t begin = c->body.size;
        add_character(&one, (uint8_t)c->text.data[i]);
        if (c->body.failed) return;
        memmove(c->body.data + begin, c->body.data + begin + 1, c->body.size - begin - 2);
        c->body.size -= 2;
    }
    tb_text_add_bytes(&c->body, "\"", 1);
    close_object(c, &j);
}

static void count(tbi_conn *c, const tbi_fault *fault)
{
    tbi_metrics *m = &c->server->metrics;
    const tbi_generation *r = &c->generation;
    if (fault->code) {
        c->served->failures++;
        return;
    }
    m->tokens++;
    if (r->n == 1) {
        m->first_tokens++;
        m->first_token_ns += r->first_ns - r->queued_ns;
    }
    if (!r->reason) return;
    m->generations++;
    c->served->successes++;
    c->served->last_ms = tb_now_ns() / 1000000;
}

/* The status has gone out: what is wrong can only be told by the last event. */
static void fail_stream(tbi_conn *c, const tbi_fault *fault)
{
    c->server->metrics.replies[fault->code]++;
    tb_text_add_bytes(&c->body, "data: ", 6);
    tbi_fault_write(fault, c->request_id, &c->body);
    tb_text_add_bytes(&c->body, "\n\n", 2);
    c->close = true;
}

void tbi_generated_token(void *server, tbi_generation *r, const tbi_fault *fault)
{
    tbi_conn *c = (tbi_conn *)(void *)((char *)r - offsetof(tbi_conn, generation));
    bool is_over = fault->code || r->reason, streams = c->route.endpoint == TBI_GENERATE_STREAM;
    ((tb_server *)server)->progressed = true;
    count(c, fault);
    if (is_over) c->generates = false;
    if (fault->code && c->state == TBI_CONN_WAITING) {
        c->fault = *fault;
        tbi_reply_fault(c);
        return;
    }
    if (fault->code) fail_stream(c, fault);
    else if (streams) add_event(c);
    else tb_text_add_bytes(&c->text, &r->last, 1);
    if (streams && c->state == TBI_CONN_STREAMING && is_over) tbi_conn_state_set(c, TBI_CONN_SENDING);
    if (!streams && is_over) add_reply(c);
    if (c->state != TBI_CONN_WAITING || !(streams || is_over)) return;
    c->status = 200;
    c->fixed = NULL;
    c->content_type = streams ? "text/event-stream" : "application/json";
    c->server->metrics.replies[TBI_FAULT_NONE]++;
    tbi_conn_state_set(c, TBI_CONN_READY);
}

/* The library asks for what comes behind the first `at` bytes; 0: nothing yet, it asks again in its next run. */
static ssize_t read_stream(void *arg, uint64_t at, char *to, size_t most)
{
    tbi_conn *c = arg;
    if (c->body.failed) return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = c->body.size - (size_t)at;
    if (n == 0 && !c->generates) return MHD_CONTENT_READER_END_OF_STREAM;
    if (n > most) n = most;
    memcpy(to, c->body.data + at, n);
    return (ssize_t)n;
}

struct MHD_Response *tbi_stream_response(tbi_conn *c)
{
    struct MHD_Response *reply =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, c, NULL);
    if (reply) MHD_add_response_header(reply, "Cache-Control", "no-store");
    return reply;
}
