/* What a client is told when its request fails: one code of this table, its HTTP status, one sentence, the
 * member of the request it is about. The sentence never repeats bytes of the request, paths or addresses. */
#pragma once
#include "tb_status.h"
#include "tb_text.h"
#include <stdint.h>

#define TBI_FAULT_MAP(X)                                                                                              \
    X(NONE, "", 200)                                                                                                  \
    X(MALFORMED_JSON, "malformed_json", 400)                                                                          \
    X(BAD_UTF8, "bad_utf8", 400)                                                                                      \
    X(DTYPE_MISMATCH, "dtype_mismatch", 400)                                                                          \
    X(SHAPE_MISMATCH, "shape_mismatch", 400)                                                                          \
    X(NUMBER_RANGE, "number_range", 400)                                                                              \
    X(BAD_FRAMING, "bad_framing", 400)                                                                                \
    X(BAD_REQUEST, "bad_request", 400)                                                                                \
    X(UNAUTHORIZED, "unauthorized", 401)                                                                              \
    X(NOT_FOUND, "not_found", 404)                                                                                    \
    X(UNKNOWN_MODEL, "unknown_model", 404)                                                                            \
    X(UNKNOWN_VERSION, "unknown_version", 404)                                                                        \
    X(METHOD_NOT_ALLOWED, "method_not_allowed", 405)                                                                  \
    X(SLOW_REQUEST, "slow_request", 408)                                                                              \
    X(LENGTH_REQUIRED, "length_required", 411)                                                                        \
    X(BODY_TOO_LARGE, "body_too_large", 413)                                                                          \
    X(URI_TOO_LONG, "uri_too_long", 414)                                                                              \
    X(MEDIA_TYPE, "unsupported_media_type", 415)                                                                      \
    X(EXPECTATION, "expectation_failed", 417)                                                                         \
    X(NON_FINITE, "non_finite", 422)                                                                                  \
    X(QUOTA, "quota_exceeded", 429)                                                                                   \
    X(HEADER_TOO_LARGE, "header_too_large", 431)                                                                      \
    X(INTERNAL, "internal", 500)                                                                                      \
    X(TRANSFER_CODING, "unsupported_transfer_coding", 501)                                                            \
    X(QUEUE_FULL, "queue_full", 503)                                                                                  \
    X(TOO_MANY_CONNECTIONS, "too_many_connections", 503)                                                              \
    X(DEADLINE_UNATTAINABLE, "deadline_unattainable", 503)                                                            \
    X(DRAINING, "draining", 503)                                                                                      \
    X(LOADING, "loading", 503)                                                                                        \
    X(DEADLINE_EXPIRED, "deadline_expired", 504)

typedef enum tbi_fault_code {
#define TBI_FAULT_ENUM(name, text, status) TBI_FAULT_##name,
    TBI_FAULT_MAP(TBI_FAULT_ENUM)
#undef TBI_FAULT_ENUM
    TBI_FAULTS
} tbi_fault_code;

typedef struct tbi_fault {
    tbi_fault_code code;
    char message[192];
    char field[48];     /* "inputs[0].shape", or "" */
    int retry_after_s;  /* 0: not said */
} tbi_fault;

const char *tbi_fault_name(tbi_fault_code code);
int tbi_fault_status(tbi_fault_code code);

/* Fills *f (the first fault stays) and returns false, so a parser says `return tbi_fault_set(...)`. */
bool tbi_fault_set(tbi_fault *f, tbi_fault_code code, const char *field, const char *fmt, ...)
    TB_PRINTF(4, 5);

/* The error body: {"error":...,"code":...,"status":...,"request_id":...,"field":...,"retry_after_s":...} */
void tbi_fault_write(const tbi_fault *f, const char *request_id, tb_text *out);
