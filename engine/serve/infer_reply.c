/* Writing a reply: OIP JSON, OIP with binary tensors, /v1/predict. */
#include "infer.h"
#include <math.h>
#include <string.h>

static bool write_values(const tbi_infer *q, const tb_serve_tensor *t, const void *data, int64_t n,
                         tb_text *body)
{
    char text[TBI_F32_TEXT + 1];
    for (int64_t i = 0; i < n; i++) {
        size_t length = 0;
        if (i) text[length++] = ',';
        if (t->dtype == TB_U8) length += tbi_u64_to_text(((const uint8_t *)data)[i], text + length);
        else {
            float x = ((const float *)data)[i];
            if (!isfinite(x))
                return tbi_fault_set(
                    q->fault, TBI_FAULT_NON_FINITE, "outputs",
                    "output '%s' holds NaN or infinity, which JSON cannot; ask for binary_data", t->name);
            length += tbi_f32_to_text(x, text + length);
        }
        tb_text_add_bytes(body, text, length);
    }
    return true;
}

static bool write_predict(const tbi_infer *q, const void *const *out, tb_text *body)
{
    const tb_serve_tensor *t = &q->model->outputs[0];
    size_t row = (size_t)t->elements * tb_dtype_size(t->dtype);
    tb_text_add_bytes(body, "{\"y\":[", 6);
    for (int r = 0; r < q->rows; r++) {
        if (q->reply_nested) tb_text_add_bytes(body, ",[" + (r == 0), 2 - (size_t)(r == 0));
        if (!write_values(q, t, (const char *)out[0] + (size_t)r * row, t->elements, body)) return false;
        if (q->reply_nested) tb_text_add_bytes(body, "]", 1);
    }
    tb_text_add_bytes(body, "]}", 2);
    return true;
}

static bool is_binary(const tbi_infer *q, int k)
{
    if (q->form == TBI_INFER_RAW) return true;
    if (k < q->n_outputs && q->out_form[k] != TBI_OUT_UNSAID) return q->out_form[k] == TBI_OUT_BINARY;
    return q->binary_output;
}

static bool write_output(const tbi_infer *q, int k, const tb_serve_tensor *t, const void *data, tb_text *body)
{
    int64_t n = q->rows * t->elements;
    tb_text_add(body, "%s{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[%d", k ? "," : "", t->name,
                tbi_oip_dtype(t->dtype), q->rows);
    for (int d = 0; d < t->rank; d++) tb_text_add(body, ",%lld", (long long)t->shape[d]);
    if (is_binary(q, k)) {
        tb_text_add(body, "],\"parameters\":{\"binary_data_size\":%lld}}",
                    (long long)n * (long long)tb_dtype_size(t->dtype));
        return true;
    }
    tb_text_add_bytes(body, "],\"data\":[", 10);
    if (!write_values(q, t, data, n, body)) return false;
    tb_text_add_bytes(body, "]}", 2);
    return true;
}

/* A string has at most six bytes of text a byte, a number of a shape 20; the rest is the fixed text. */
size_t tbi_infer_reply_most(const tb_serve_model *m)
{
    size_t most = 128 + strlen(m->name) + strlen(m->version) + 6 * TBI_JSON_STRING;
    for (int o = 0; o < m->n_outputs; o++) {
        const tb_serve_tensor *t = &m->outputs[o];
        most += 192 + strlen(t->name) + 20 * (size_t)t->rank + (size_t)t->elements * (TBI_F32_TEXT + 1);
    }
    return most;
}

bool tbi_infer_reply(const tbi_infer *q, const void *const *out, tb_text *body, int64_t *json_bytes)
{
    *json_bytes = -1;
    if (q->form == TBI_INFER_PREDICT) return write_predict(q, out, body);
    int n = q->n_outputs ? q->n_outputs : q->model->n_outputs;
    bool any_binary = false;
    tb_text_add(body, "{\"model_name\":\"%s\",\"model_version\":\"%s\"", q->model->name, q->model->version);
    if (q->id[0]) {
        tb_json j = {.to = body};
        tb_text_add_bytes(body, ",\"id\":", 6);
        tb_json_str(&j, q->id);
    }
    tb_text_add_bytes(body, ",\"outputs\":[", 12);
    for (int k = 0; k < n; k++) {
        int o = q->n_outputs ? q->out_index[k] : k;
        any_binary |= is_binary(q, k);
        if (!write_output(q, k, &q->model->outputs[o], out[o], body)) return false;
    }
    tb_text_add_bytes(body, "]}", 2);
    if (!any_binary) return true;
    *json_bytes = (int64_t)body->size;
    for (int k = 0; k < n; k++) {
        int o = q->n_outputs ? q->out_index[k] : k;
        const tb_serve_tensor *t = &q->model->outputs[o];
        if (is_binary(q, k))
            tb_text_add_bytes(body, out[o], (size_t)(q->rows * t->elements) * tb_dtype_size(t->dtype));
    }
    return true;
}
