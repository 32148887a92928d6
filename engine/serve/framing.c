/* What the HTTP library lets through and must not pass. libmicrohttpd 0.9.75 accepts Content-Length together
 * with Transfer-Encoding, several lengths, unknown codings (and then hangs), no Host or two, blanks before
 * the colon, folded lines, bare line feeds and NUL bytes: each a way to make two servers on one path see
 * different requests (RFC 9112, sections 5.1, 5.2, 6.3, 11.2).
 *
 * Folding, bare LF and NUL are gone from what the library shows, but leave a trace: names and values point
 * into the receive buffer, where each value must end exactly two bytes (CR LF, by then zeroed) before the
 * next name. */
#include "server.h"
#include <ctype.h>
#include <string.h>
#include <strings.h>

typedef struct {
    tbi_conn *c;
    const char *expected; /* where the next name must begin; NULL: not known */
    int fields, lengths, codings, hosts;
    unsigned once;        /* bit i: once_only[i] was seen */
    size_t bytes;
    bool chunked;
    int64_t length;
} framing;

/* Fields that steer this server; a second one would leave open which counts. */
static const char *const once_only[] = {"Inference-Header-Content-Length", "X-Request-Timeout-Ms",
                                        "X-Request-Id", "X-Api-Key", "Authorization"};

static bool bad(framing *f, const char *what)
{
    return tbi_fault_set(&f->c->fault, TBI_FAULT_BAD_FRAMING, NULL, "%s", what);
}

static bool name_is(const char *name, size_t bytes, const char *want)
{
    return bytes == strlen(want) && strncasecmp(name, want, bytes) == 0;
}

static bool take_length(framing *f, const char *value, size_t bytes)
{
    f->lengths++;
    if (bytes == 0 || bytes > 18) return bad(f, "Content-Length is not a length");
    for (size_t i = 0; i < bytes; i++) {
        if (!isdigit((unsigned char)value[i])) return bad(f, "Content-Length is not a length");
        f->length = f->length * 10 + (value[i] - '0');
    }
    return true;
}

static bool take_field(framing *f, const char *name, size_t name_bytes, const char *value, size_t value_bytes)
{
    f->fields++;
    f->bytes += name_bytes + value_bytes + 4;
    if (name_bytes == 0) return bad(f, "a header field has no name");
    for (size_t i = 0; i < name_bytes; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("!#$%&'*+-.^_`|~", name[i]))
            return bad(f, "a header field's name holds a character that names may not hold");
    for (size_t i = 0; i < value_bytes; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            return bad(f, "a header field's value holds a control character");
    if (f->expected && name != f->expected)
        return bad(f, "a header line is folded, ends without CR LF or holds NUL");
    f->expected = value + value_bytes + 2;
    if (name_is(name, name_bytes, "Content-Length")) return take_length(f, value, value_bytes);
    for (unsigned i = 0; i < sizeof once_only / sizeof *once_only; i++) {
        if (!name_is(name, name_bytes, once_only[i])) continue;
        if (f->once >> i & 1) return bad(f, "a header field that may occur once occurs twice");
        f->once |= 1u << i;
    }
    if (name_is(name, name_bytes, "Host")) f->hosts++;
    if (name_is(name, name_bytes, "Transfer-Encoding")) {
        f->codings++;
        f->chunked = value_bytes == 7 && strncasecmp(value, "chunked", 7) == 0;
        if (!f->chunked)
            return tbi_fault_set(&f->c->fault, TBI_FAULT_TRANSFER_CODING, NULL,
                                 "the only transfer coding is chunked");
    }
    if (name_is(name, name_bytes, "Expect") &&
        !(value_bytes == 12 && strncasecmp(value, "100-continue", 12) == 0))
        return tbi_fault_set(&f->c->fault, TBI_FAULT_EXPECTATION, NULL,
                             "the only expectation is 100-continue");
    if (name_is(name, name_bytes, "Content-Encoding"))
        return tbi_fault_set(&f->c->fault, TBI_FAULT_MEDIA_TYPE, NULL,
                             "bodies are taken without a content coding");
    return true;
}

static enum MHD_Result each_field(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_bytes,
                                  const char *value, size_t value_bytes)
{
    framing *f = arg;
    (void)kind;
    return take_field(f, name, name_bytes, value ? value : "", value ? value_bytes : 0) ? MHD_YES : MHD_NO;
}

bool tbi_framing_check(tbi_conn *c, const char *version)
{
    const tb_serve_limits *limit = &c->server->config.limits;
    framing f = {.c = c, .expected = version + strlen(version) + 2};
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return bad(&f, "the version must be HTTP/1.1 or 1.0");
    MHD_get_connection_values_n(c->http, MHD_HEADER_KIND, each_field, &f);
    if (c->fault.code != TBI_FAULT_NONE) return false;
    if (f.fields > limit->header_fields || f.bytes > (size_t)limit->header_bytes)
        return tbi_fault_set(&c->fault, TBI_FAULT_HEADER_TOO_LARGE, NULL,
                             "the header is above %d fields or %d bytes", limit->header_fields,
                             limit->header_bytes);
    if (f.lengths > 1) return bad(&f, "more than one Content-Length");
    if (f.codings > 1) return bad(&f, "more than one Transfer-Encoding");
    if (f.lengths && f.codings) return bad(&f, "Content-Length and Transfer-Encoding together");
    if (f.codings && strcmp(version, "HTTP/1.0") == 0) return bad(&f, "Transfer-Encoding in HTTP/1.0");
    if (f.hosts > 1 || (f.hosts == 0 && strcmp(version, "HTTP/1.1") == 0))
        return bad(&f, "HTTP/1.1 wants exactly one Host");
    c->content_length = f.chunked ? -1 : f.length;
    return true;
}
