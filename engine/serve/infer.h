/* An inference request and its reply on the wire: the Open Inference Protocol v2 over REST (JSON tensors and
 * the binary tensor extension) and the short form /v1/predict. No sockets, no queue: bytes in, rows of the
 * model's inputs out; rows of its outputs in, bytes out.
 *
 * Stricter than the protocol asks: unknown members, parameters that the server would have to ignore,
 * duplicate keys and tensors whose name, datatype, shape or element count is not the model's are refused. */
#pragma once
#include "fault.h"
#include "json_scan.h"
#include "tb_serve_model.h"

/* The rows of one input. The memory stays with the connection from request to request and only grows. */
typedef struct tbi_rows {
    void *data;         /* process heap, 64-byte aligned */
    size_t capacity;    /* bytes */
} tbi_rows;

typedef struct tbi_infer_input {
    bool named, has_shape, has_dtype, has_data;
    int64_t rows;          /* what the shape says */
    int64_t binary_bytes;  /* declared binary_data_size; -1: the elements are in the JSON */
    int64_t count;         /* elements received in JSON, and how their arrays nested */
    int rank;
    int64_t dims[TBI_JSON_DEPTH];
} tbi_infer_input;

typedef enum tbi_infer_form { TBI_INFER_OIP, TBI_INFER_RAW, TBI_INFER_PREDICT } tbi_infer_form;

typedef struct tbi_infer {
    /* set by tbi_infer_open */
    const tb_serve_model *model;
    tbi_infer_form form;
    tbi_fault *fault;
    tbi_rows *in;                 /* [n_inputs] of the connection */
    int64_t header_bytes;         /* of JSON before binary tensors; -1: the whole body is JSON */
    /* results, valid after tbi_infer_finish */
    int rows;
    char id[TBI_JSON_STRING + 1]; /* the request's "id", "" when absent */
    int64_t timeout_us;           /* parameter `timeout`; 0: absent */
    bool reply_nested;            /* predict: data was an array of rows */
    /* the parser's own */
    tbi_json scan;
    tbi_json_tensor tensor;
    tbi_infer_input input[TB_SERVE_MAX_TENSORS];
    int order[TB_SERVE_MAX_TENSORS]; /* order[k]: which input the k-th member of "inputs" is */
    int n_inputs;                 /* members of "inputs" so far */
    int current;                  /* model input of the member being read; -1: not yet known */
    char stack[TBI_JSON_DEPTH + 1];
    uint32_t seen[TBI_JSON_DEPTH + 1];
    int depth, member;
    int shape_rank;
    bool binary_output;           /* for outputs that do not say themselves */
    int n_outputs; /* members of "outputs" so far; each: which output, and JSON, binary or unsaid */
    int out_index[TB_SERVE_MAX_TENSORS];
    enum { TBI_OUT_UNSAID, TBI_OUT_JSON, TBI_OUT_BINARY } out_form[TB_SERVE_MAX_TENSORS];
    int64_t received;             /* body bytes so far */
    bool json_done;
    int binary_at;                /* order[binary_at] is the binary tensor being filled */
    int64_t binary_filled;
} tbi_infer;

/* `header_bytes` as above; 0 makes the whole body one raw tensor of a single-input model (form becomes RAW).
 */
void tbi_infer_open(tbi_infer *q, const tb_serve_model *model, tbi_infer_form form, int64_t header_bytes,
                    tbi_rows *in, tbi_fault *fault);
bool tbi_infer_feed(tbi_infer *q, const char *bytes, size_t n); /* false: fault is set; feed no more */
bool tbi_infer_finish(tbi_infer *q);

/* Appends the reply body for the request's rows; out[o] points at its first row of output o. *json_bytes
 * becomes the length of the JSON part when binary tensors follow it (Inference-Header-Content-Length), else
 * -1. False with the fault set: a value that JSON cannot hold. */
bool tbi_infer_reply(const tbi_infer *q, const void *const *out, tb_text *body, int64_t *json_bytes);

size_t tbi_infer_reply_most(const tb_serve_model *m); /* bytes of a reply to one row, of any form */
size_t tbi_row_bytes(const tb_serve_tensor *t);

/* Makes room for `bytes`, keeping what is there; false: out of memory. */
bool tbi_rows_reserve(tbi_rows *r, size_t bytes);

const char *tbi_oip_dtype(tb_dtype t); /* "FP32", "UINT8" */
