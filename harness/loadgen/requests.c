/* Requests as bytes, made once; replies compared with the expected answers to the last bit. */
#include "tb_load.h"
#include "tb_alloc.h"
#include <stdlib.h>
#include <string.h>

/* The shortest of the usual forms that reads back to x. */
static void add_f32(tb_text *t, float x)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)x);
        if (strtof(text, NULL) == x) break;
    }
    tb_text_add(t, "%s", text);
}

static void add_values(tb_text *t, const tb_load_samples *s, int i)
{
    for (int64_t k = 0; k < s->elements; k++) {
        if (k) tb_text_add_bytes(t, ",", 1);
        if (s->u8) tb_text_add(t, "%d", ((const uint8_t *)s->rows)[i * s->elements + k]);
        else add_f32(t, ((const float *)s->rows)[i * s->elements + k]);
    }
}

static void add_oip(tb_text *t, const tb_load_samples *s, int i, bool binary)
{
    size_t bytes = (size_t)s->elements * (s->u8 ? 1 : 4);
    tb_text_add(t, "{\"inputs\":[{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":[1", s->input_name,
                s->u8 ? "UINT8" : "FP32");
    for (int d = 0; d < s->rank; d++) tb_text_add(t, ",%lld", (long long)s->shape[d]);
    if (binary) {
        tb_text_add(t,
                    "],\"parameters\":{\"binary_data_size\":%zu}}],\"outputs\":[{\"name\":\"%s\","
                    "\"parameters\":{\"binary_data\":true}}]}",
                    bytes, s->output_name);
        return;
    }
    tb_text_add(t, "],\"data\":[");
    add_values(t, s, i);
    tb_text_add(t, "]}]}");
}

static void add_prompt(tb_text *t, const tb_load_samples *s, int i)
{
    tb_json j = {.to = t};
    tb_text prompt = {0};
    tb_text_add_bytes(&prompt, (const uint8_t *)s->rows + i * s->elements, (size_t)s->elements);
    tb_json_open(&j, '{');
    tb_json_put_str(&j, "text_input", tb_text_str(&prompt));
    tb_json_key(&j, "parameters");
    tb_json_open(&j, '{');
    tb_json_put_int(&j, "max_tokens", s->n_tokens);
    tb_json_close(&j, '}');
    tb_json_close(&j, '}');
    t->failed |= prompt.failed;
    tb_text_free(&prompt);
}

static void add_request(tb_text *t, tb_text *body, const tb_load_requests *r, const char *host,
                        const char *path, const char *key, int i)
{
    const tb_load_samples *s = r->samples;
    size_t row = (size_t)s->elements * (s->u8 ? 1 : 4), json_bytes;
    body->size = 0;
    if (r->form == TB_LOAD_TEXT) {
        add_prompt(body, s, i);
    } else if (r->form == TB_LOAD_PREDICT) {
        tb_text_add(body, "{\"data\":[");
        add_values(body, s, i);
        tb_text_add(body, "]}");
    } else {
        add_oip(body, s, i, r->form == TB_LOAD_BINARY);
    }
    json_bytes = body->size;
    if (r->form == TB_LOAD_BINARY) tb_text_add_bytes(body, (const char *)s->rows + (size_t)i * row, row);
    tb_text_add(t, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n", path, host,
                r->form == TB_LOAD_BINARY ? "application/octet-stream" : "application/json", body->size);
    if (r->form == TB_LOAD_BINARY) tb_text_add(t, "Inference-Header-Content-Length: %zu\r\n", json_bytes);
    if (key) tb_text_add(t, "Authorization: Bearer %s\r\n", key);
    tb_text_add(t, "\r\n");
    tb_text_add_bytes(t, body->data, body->size);
}

tb_status tb_load_requests_make(const tb_load_samples *samples, tb_load_form form, const char *host,
                                const char *path, const char *api_key, tb_load_requests **out)
{
    tb_text text = {0}, body = {0};
    tb_load_requests *r = tb_calloc(1, sizeof *r);
    if (!r) return tb_error_code();
    r->form = form;
    r->n = samples->n;
    r->samples = samples;
    r->begin = tb_calloc((size_t)samples->n + 1, sizeof *r->begin);
    r->known_room = samples->answers ? 512 + 32 * (size_t)samples->answer_elements : 1;
    r->known = tb_calloc((size_t)samples->n, r->known_room);
    r->known_bytes = tb_calloc((size_t)samples->n, sizeof *r->known_bytes);
    for (int i = 0; r->begin && i < samples->n; i++) {
        add_request(&text, &body, r, host, path, api_key, i);
        r->begin[i + 1] = (int64_t)text.size;
    }
    tb_text_free(&body);
    r->text = text.data;
    if (!r->begin || !r->known || !r->known_bytes || text.failed) {
        tb_load_requests_free(r);
        return TB_FAIL(TB_ERR_OOM, "load: no memory for %d requests", samples->n);
    }
    *out = r;
    return TB_OK;
}

void tb_load_requests_free(tb_load_requests *r)
{
    if (!r) return;
    tb_free(r->known);
    tb_free(r->known_bytes);
    tb_free(r->begin);
    tb_free(r->text);
    tb_free(r);
}

static bool json_matches(const tb_load_samples *s, int i, const char *body, size_t bytes, const char *key)
{
    char copy[1 << 14];
    if (bytes >= sizeof copy) return false;
    memcpy(copy, body, bytes);
    copy[bytes] = 0;
    const char *at = strstr(copy, key);
    if (!at) return false;
    at += strlen(key);
    for (int64_t k = 0; k < s->answer_elements; k++) {
        char *end;
        while (*at == '[' || *at == ',' || *at == ' ') at++;
        float x = strtof(at, &end);
        if (end == at || memcmp(&x, &s->answers[i * s->answer_elements + k], sizeof x) != 0) return false;
        at = end;
    }
    return *at == ']';
}

bool tb_load_verify(tb_load_requests *r, int i, const char *body, size_t bytes, int64_t json_bytes)
{
    const tb_load_samples *s = r->samples;
    size_t row = (size_t)s->answer_elements * sizeof(float);
    if (r->form == TB_LOAD_TEXT) return false; /* no stream */
    if (!s->answers) return true;
    if (r->form == TB_LOAD_BINARY)
        return json_bytes >= 0 && bytes == (size_t)json_bytes + row &&
               memcmp(body + json_bytes, s->answers + i * s->answer_elements, row) == 0;
    char *known = r->known + (size_t)i * r->known_room;
    if (bytes > 0 && r->known_bytes[i] == bytes && memcmp(known, body, bytes) == 0) return true;
    if (!json_matches(s, i, body, bytes, r->form == TB_LOAD_PREDICT ? "\"y\":" : "\"data\":")) return false;
    if (bytes > r->known_room) return true;
    memcpy(known, body, bytes); /* parsed once a sample, then compared as text */
    r->known_bytes[i] = bytes;
    return true;
}
