/* A strict streaming JSON scanner (RFC 8259, UTF-8) without a tree. Bytes are pushed in pieces cut anywhere;
 * members come out as events; the numbers of a tensor go straight into its memory. Nothing is allocated:
 * depth, string and number lengths are bounded, and a token that a cut splits waits in a fixed buffer.
 *
 * Refused with a fault: anything RFC 8259 refuses, invalid UTF-8 (overlong forms and surrogates too), depth
 * above TBI_JSON_DEPTH, strings above TBI_JSON_STRING bytes, numbers above TBI_NUMBER_TEXT characters, NUL in
 * a string. */
#pragma once
#include "decimal.h"
#include "fault.h"
#include "tb_dtype.h"

enum { TBI_JSON_DEPTH = 8, TBI_JSON_STRING = 256 };

typedef enum tbi_json_event {
    TBI_JSON_OBJECT, TBI_JSON_OBJECT_END, TBI_JSON_ARRAY, TBI_JSON_ARRAY_END,
    TBI_JSON_KEY, TBI_JSON_STRING_VALUE, /* text: decoded UTF-8, zero-terminated */
    TBI_JSON_NUMBER,                     /* text: as written, not zero-terminated */
    TBI_JSON_TRUE, TBI_JSON_FALSE, TBI_JSON_NULL
} tbi_json_event;

/* Where the numbers of an array (nested arrays flattened, row major) go. `more` makes room for at least one
 * element above `capacity` by changing data and capacity, or sets the fault and returns false. */
typedef struct tbi_json_tensor {
    tb_dtype dtype;            /* TB_F32 or TB_U8 */
    void *data;
    int64_t count, capacity;
    bool (*more)(void *arg, struct tbi_json_tensor *t);
    void *more_arg;
    int rank;                  /* filled: how deep the arrays nested; dims are regular, or a fault was set */
    int64_t dims[TBI_JSON_DEPTH];
    /* the scanner's own */
    int level;
    int64_t filled[TBI_JSON_DEPTH];
} tbi_json_tensor;

typedef struct tbi_json {
    bool (*event)(void *arg, tbi_json_event e, const char *text,
                  size_t bytes); /* false: stop, fault is set */
    void *arg;
    tbi_fault *fault;
    const char *field;         /* names the tensor in faults; set with `tensor` */
    tbi_json_tensor *tensor;   /* set by the handler of ARRAY: this array is a tensor; cleared at its end */
    /* the scanner's own */
    int depth, want, tensor_depth;
    bool is_object[TBI_JSON_DEPTH + 1];
    bool escaped;              /* the carried string ends in an odd backslash */
    size_t carried;
    char carry[6 * TBI_JSON_STRING + 2];
    char decoded[TBI_JSON_STRING + 4];
} tbi_json;

void tbi_json_open(tbi_json *s, tbi_fault *fault, bool (*event)(void *, tbi_json_event, const char *, size_t),
                   void *arg);
bool tbi_json_feed(tbi_json *s, const char *bytes, size_t n); /* false: fault is set, stop */
bool tbi_json_finish(tbi_json *s);                            /* the text must be complete here */

/* An integer without fraction or exponent within [min, max]; false otherwise. */
bool tbi_json_integer(const char *text, size_t bytes, int64_t min, int64_t max, int64_t *out);
