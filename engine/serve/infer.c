/* Reading a request, whatever its form: pieces of the body go to the JSON's reader (infer_json.c) or are rows as they
 * are; at the end, what has come must be what the model takes. */
#include "infer_internal.h"
#include "tb_alloc.h"
#include <string.h>

const char *tbi_oip_dtype(tb_dtype t) { return t == TB_F32 ? "FP32" : "UINT8"; }

bool tbi_rows_reserve(tbi_rows *r, size_t bytes)
{
    if (bytes <= r->capacity) return true;
    void *data = tb_realloc(r->data, bytes);
    if (!data) return false;
    r->data = data;
    r->capacity = bytes;
    return true;
}

bool tbi_infer_bad(tbi_infer *q, const char *field, const char *what)
{
    return tbi_fault_set(q->fault, TBI_FAULT_BAD_REQUEST, field, "%s", what);
}

size_t tbi_row_bytes(const tb_serve_tensor *t) { return (size_t)t->elements * tb_dtype_size(t->dtype); }

bool tbi_infer_batch_refused(tbi_infer *q, const char *field)
{
    return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, field, "the model takes batches of 1 to %d rows",
                         q->model->max_batch);
}

bool tbi_infer_no_memory(tbi_infer *q)
{
    return tbi_fault_set(q->fault, TBI_FAULT_INTERNAL, NULL, "no memory for the request's tensors");
}

void tbi_infer_open(tbi_infer *q, const tb_serve_model *model, tbi_infer_form form, int64_t header_bytes,
                    tbi_rows *in, tbi_fault *fault)
{
    q->model = model;
    q->form = form == TBI_INFER_OIP && header_bytes == 0 ? TBI_INFER_RAW : form;
    q->fault = fault;
    q->in = in;
    q->header_bytes = header_bytes;
    q->rows = 0;
    q->id[0] = 0;
    q->timeout_us = 0;
    q->reply_nested = q->binary_output = q->json_done = false;
    q->depth = q->member = q->n_inputs = q->n_outputs = q->binary_at = 0;
    q->received = q->binary_filled = 0;
    q->current = model->n_inputs == 1 ? 0 : -1;
    for (int i = 0; i < model->n_inputs; i++) q->input[i] = (tbi_infer_input){.binary_bytes = -1};
    tbi_json_open(&q->scan, fault, tbi_infer_event, q);
    if ((q->form == TBI_INFER_RAW || form == TBI_INFER_PREDICT) && model->n_inputs != 1)
        tbi_infer_bad(q, NULL, "the model has several inputs: use /v2/models/NAME/infer with named inputs");
}

static bool check_data(tbi_infer *q, int i)
{
    const tb_serve_tensor *want = &q->model->inputs[i];
    tbi_infer_input *in = &q->input[i];
    int64_t expected = in->rows * want->elements;
    if (in->count != expected)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].data",
                             "input '%s': expected %lld elements, got %lld", want->name, (long long)expected,
                             (long long)in->count);
    bool same = in->rank == 1 || (in->rank == want->rank + 1 && in->dims[0] == in->rows);
    for (int d = 1; same && d < in->rank; d++) same = in->dims[d] == want->shape[d - 1];
    return same || tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].data",
                                 "input '%s': the data is nested otherwise than its shape", want->name);
}

static bool check_input(tbi_infer *q, int i)
{
    const tb_serve_tensor *want = &q->model->inputs[i];
    tbi_infer_input *in = &q->input[i];
    const char *missing = !in->named       ? "input"
                          : !in->has_shape ? "'shape' of input"
                          : !in->has_dtype ? "'datatype' of input"
                          : in->has_data == (in->binary_bytes >= 0)
                              ? "exactly one of 'data' and 'binary_data_size' of input"
                              : NULL;
    if (missing)
        return tbi_fault_set(q->fault, TBI_FAULT_BAD_REQUEST, "inputs", "missing: %s '%s'", missing,
                             want->name);
    if (in->rows != q->input[0].rows)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].shape",
                             "the inputs differ in their batch");
    if (in->has_data) return check_data(q, i);
    int64_t bytes = in->rows * (int64_t)tbi_row_bytes(want);
    if (q->header_bytes < 0)
        return tbi_infer_bad(q, "inputs[].parameters",
                             "binary_data_size needs the header Inference-Header-Content-Length");
    if (in->binary_bytes != bytes)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs[].parameters",
                             "input '%s': binary_data_size must be %lld", want->name, (long long)bytes);
    return tbi_rows_reserve(&q->in[i], (size_t)bytes) || tbi_infer_no_memory(q);
}

/* /v1/predict: one flat row, or an array of rows (flat or in the model's shape). */
static bool check_predict(tbi_infer *q)
{
    const tb_serve_tensor *want = &q->model->inputs[0];
    tbi_infer_input *in = &q->input[0];
    if (!in->has_data) return tbi_infer_bad(q, "data", "missing: member 'data'");
    bool flat = in->rank == 1, rows_flat = in->rank == 2 && in->dims[1] == want->elements;
    bool shaped = in->rank == want->rank + 1;
    for (int d = 1; shaped && d < in->rank; d++) shaped = in->dims[d] == want->shape[d - 1];
    if (flat ? in->count != want->elements : !rows_flat && !shaped)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "data",
                             "expected %lld elements a row, got %lld in all", (long long)want->elements,
                             (long long)in->count);
    q->reply_nested = !flat;
    q->rows = (int)(in->count / want->elements);
    return q->rows <= q->model->max_batch || tbi_infer_batch_refused(q, "data");
}

static bool end_json(tbi_infer *q)
{
    if (!tbi_json_finish(&q->scan)) return false;
    q->json_done = true;
    if (q->form == TBI_INFER_PREDICT) return check_predict(q);
    for (int i = 0; i < q->model->n_inputs; i++)
        if (!check_input(q, i)) return false;
    q->rows = (int)q->input[0].rows;
    return true;
}

/* Binary tensors lie one after the other in the order of "inputs". */
static bool feed_binary(tbi_infer *q, const char *bytes, size_t n)
{
    while (n > 0 && q->binary_at < q->n_inputs) {
        int i = q->order[q->binary_at];
        int64_t left = q->input[i].binary_bytes - q->binary_filled;
        if (left <= 0) { /* full, or its elements were in the JSON */
            q->binary_at++;
            q->binary_filled = 0;
            continue;
        }
        size_t k = (size_t)left < n ? (size_t)left : n;
        memcpy((char *)q->in[i].data + q->binary_filled, bytes, k);
        q->binary_filled += (int64_t)k;
        bytes += k;
        n -= k;
    }
    return n == 0 || tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs",
                                   "more binary data than binary_data_size says");
}

static bool feed_raw(tbi_infer *q, const char *bytes, size_t n)
{
    size_t at = (size_t)(q->received - (int64_t)n),
           most = tbi_row_bytes(&q->model->inputs[0]) * (size_t)q->model->max_batch;
    if (at + n > most) return tbi_infer_batch_refused(q, NULL);
    size_t room = q->in[0].capacity ? q->in[0].capacity : tbi_row_bytes(&q->model->inputs[0]);
    while (room < at + n) room = room * 2 < most ? room * 2 : most;
    if (!tbi_rows_reserve(&q->in[0], room)) return tbi_infer_no_memory(q);
    memcpy((char *)q->in[0].data + at, bytes, n);
    return true;
}

bool tbi_infer_feed(tbi_infer *q, const char *bytes, size_t n)
{
    if (q->fault->code != TBI_FAULT_NONE) return false;
    int64_t before = q->received;
    q->received += (int64_t)n;
    if (q->form == TBI_INFER_RAW) return feed_raw(q, bytes, n);
    if (q->header_bytes < 0) return tbi_json_feed(&q->scan, bytes, n);
    size_t json = before >= q->header_bytes ? 0 : (size_t)(q->header_bytes - before);
    if (json > n) json = n;
    if (json && !tbi_json_feed(&q->scan, bytes, json)) return false;
    if (q->received < q->header_bytes) return true;
    if (!q->json_done && !end_json(q)) return false;
    return feed_binary(q, bytes + json, n - json);
}

static bool end_binary(tbi_infer *q)
{
    if (q->received < q->header_bytes)
        return tbi_fault_set(q->fault, TBI_FAULT_BAD_FRAMING, NULL,
                             "Inference-Header-Content-Length is beyond the end of the body");
    int64_t missing = -q->binary_filled;
    for (int k = q->binary_at; k < q->n_inputs; k++)
        if (q->input[q->order[k]].binary_bytes > 0) missing += q->input[q->order[k]].binary_bytes;
    return missing == 0 || tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, "inputs",
                                         "the binary data is %lld bytes short", (long long)missing);
}

static bool end_raw(tbi_infer *q)
{
    int64_t row = (int64_t)tbi_row_bytes(&q->model->inputs[0]);
    if (q->received == 0 || q->received % row)
        return tbi_fault_set(q->fault, TBI_FAULT_SHAPE_MISMATCH, NULL,
                             "a raw body is a whole number of rows of %lld bytes", (long long)row);
    q->rows = (int)(q->received / row);
    q->input[0].binary_bytes = q->received;
    return true;
}

/* JSON cannot hold them, so only binary tensors need the look. */
static bool all_finite(tbi_infer *q)
{
    for (int i = 0; i < q->model->n_inputs; i++) {
        if (q->input[i].binary_bytes < 0 || q->model->inputs[i].dtype != TB_F32) continue;
        const uint32_t *bits = q->in[i].data;
        int64_t n = q->rows * q->model->inputs[i].elements;
        uint32_t bad_bits = 0;
        for (int64_t k = 0; k < n; k++) bad_bits |= (bits[k] & 0x7f800000u) == 0x7f800000u;
        if (bad_bits)
            return tbi_fault_set(q->fault, TBI_FAULT_NON_FINITE, "inputs", "input '%s' holds NaN or infinity",
                                 q->model->inputs[i].name);
    }
    return true;
}

bool tbi_infer_finish(tbi_infer *q)
{
    if (q->fault->code != TBI_FAULT_NONE) return false;
    if (q->form == TBI_INFER_RAW) return end_raw(q) && all_finite(q);
    if (q->header_bytes < 0) return end_json(q);
    return end_binary(q) && all_finite(q);
}
