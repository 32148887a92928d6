/* Replies that grow: server-sent events (WHATWG HTML, section 9.2) in chunked coding, one for every token of a text.
 * Each is timed when its last byte has come, and compared with the token that is expected there. */
#include "client.h"
#include <stdlib.h>
#include <string.h>

enum { CR_LF = 2 };

/* Takes the framing away, in place: bytes [head_bytes, plain) of the buffer are the body so far. */
static void take_chunks(load_connection *c)
{
    while (c->raw < c->received && !c->is_whole) {
        if (c->chunk_left == 0) {
            char *line = c->buffer + c->raw, *end = memchr(line, '\n', c->received - c->raw);
            if (!end) return;
            size_t bytes = strtoul(line, NULL, 16);
            c->raw = (size_t)(end + 1 - c->buffer);
            c->chunk_left = bytes + CR_LF;
            c->is_last_chunk = bytes == 0;
        }
        size_t n = c->received - c->raw, body = c->chunk_left > CR_LF ? c->chunk_left - CR_LF : 0;
        if (n > c->chunk_left) n = c->chunk_left;
        if (body > n) body = n;
        memmove(c->buffer + c->plain, c->buffer + c->raw, body);
        c->plain += body;
        c->raw += n;
        c->chunk_left -= n;
        c->is_whole = c->is_last_chunk && c->chunk_left == 0;
    }
}

static void take_token(load_run *r, load_connection *c, int token, int64_t now)
{
    const tb_load_samples *s = r->requests->samples;
    int64_t sample = c->arrival % r->requests->n;
    if (c->tokens >= s->n_tokens || s->tokens[sample * s->n_tokens + c->tokens] != token) c->is_wrong = true;
    if (c->tokens++ == 0)
        tb_histogram_add(&r->result->first_token, now - r->result->columns[c->arrival].intended_ns);
    else
        tb_histogram_add(&r->result->token_gap, now - c->token_ns);
    c->token_ns = now;
    r->result->tokens++;
}

static void take_events(load_run *r, load_connection *c, int64_t now)
{
    static const char begin[] = "data: ", done[] = "data: [DONE]", token[] = "\"token\":";
    char *event = c->buffer + c->event, *end;
    char held = c->buffer[c->plain];
    c->buffer[c->plain] = 0;
    for (; (end = strstr(event, "\n\n")); event = end + 2) {
        *end = 0;
        const char *at = strncmp(event, begin, sizeof begin - 1) == 0 ? strstr(event, token) : NULL;
        if (strcmp(event, done) == 0)
            c->is_done = true;
        else if (at)
            take_token(r, c, atoi(at + sizeof token - 1), now);
        else
            c->is_wrong = true; /* the text broke off with an error */
    }
    c->event = (size_t)(event - c->buffer);
    c->buffer[c->plain] = held;
}

bool load_stream_read(load_run *r, load_connection *c)
{
    take_chunks(c);
    take_events(r, c, load_now(r));
    if (c->is_whole && (!c->is_done || c->tokens != r->requests->samples->n_tokens)) c->is_wrong = true;
    return c->is_whole;
}
