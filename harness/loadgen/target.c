/* Asking a server what it serves, and making samples and answers that fit. */
#include "target.h"
#include "tb_alloc.h"
#include "tb_conf.h"
#include "tb_rng.h"
#include "tb_safetensors.h"
#include "tb_serve_artefact.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static tb_status parse_url(const char *url, tb_target *t)
{
    char port[8] = "80", prefix[8];
    int end = 0;
    t->path[0] = 0;
    if (sscanf(url, "%7[a-z]://%63[0-9.a-z]%n", prefix, t->host, &end) != 2 || strcmp(prefix, "http") != 0)
        return TB_FAIL(TB_ERR_CONFIG, "load: '%s' is no URL of the form http://ADDRESS:PORT[/PATH]", url);
    const char *rest = url + end;
    if (*rest == ':') {
        if (sscanf(rest, ":%7[0-9]%n", port, &end) != 1)
            return TB_FAIL(TB_ERR_CONFIG, "load: no port in '%s'", url);
        rest += end;
    }
    if (strcmp(t->host, "localhost") == 0) snprintf(t->host, sizeof t->host, "127.0.0.1");
    struct in_addr address;
    if (inet_pton(AF_INET, t->host, &address) != 1)
        return TB_FAIL(TB_ERR_CONFIG, "load: '%s' is no IPv4 address", t->host);
    t->port = atoi(port);
    snprintf(t->path, sizeof t->path, "%s", rest);
    return TB_OK;
}

/* With the server's own sentence where it gave one; `error`: why there is no connection, else 0. */
static tb_status fail_get(const tb_target *t, const char *method, const char *path, int error, const char *answer)
{
    static const char member[] = "{\"error\":\"";
    if (error)
        return TB_FAIL(TB_ERR_IO, "load: no connection to http://%s:%d (%s); does a server run there?", t->host,
                       t->port, strerror(error));
    if (!answer) return TB_FAIL(TB_ERR_IO, "load: %s http://%s:%d%s: no whole answer", method, t->host, t->port, path);
    const char *told = strstr(answer, member);
    if (told) told += strlen(member);
    return TB_FAIL(TB_ERR_IO, "load: %s http://%s:%d%s: answered %.*s%s%.*s", method, t->host, t->port, path,
                   (int)strcspn(answer, "\r\n"), answer, told ? ": " : "", told ? (int)strcspn(told, "\"") : 0,
                   told ? told : "");
}

tb_status tb_target_get(const tb_target *t, const char *method, const char *path, char **body)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
    struct timeval limit = {.tv_sec = 10};
    char head[1024], buffer[4096];
    tb_text all = {0};
    ssize_t k;
    inet_pton(AF_INET, t->host, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: 0\r\n%s%s%s\r\n",
                     method, path, t->host, t->api_key ? "Authorization: Bearer " : "",
                     t->api_key ? t->api_key : "", t->api_key ? "\r\n" : "");
    bool sent = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
                send(fd, head, (size_t)n, MSG_NOSIGNAL) == n;
    int why = errno;
    while (sent && (k = recv(fd, buffer, sizeof buffer, 0)) > 0) tb_text_add_bytes(&all, buffer, (size_t)k);
    if (fd >= 0) close(fd);
    const char *text = tb_text_str(&all), *split = strstr(text, "\r\n\r\n");
    int status = 0;
    if (!sent || !split || sscanf(text, "HTTP/1.%*d %d", &status) != 1 || status != 200) {
        tb_status st = fail_get(t, method, path, sent ? 0 : why, split ? text : NULL);
        tb_text_free(&all);
        return st;
    }
    *body = tb_strdup(split + 4);
    tb_text_free(&all);
    return *body ? TB_OK : tb_error_code();
}

static tb_status get_json(const tb_target *t, const char *method, const char *path, tb_conf **out)
{
    char *body;
    TB_TRY(tb_target_get(t, method, path, &body));
    tb_status st = tb_conf_parse(body, strlen(body), path, out);
    tb_free(body);
    return st;
}

static tb_status member(const tb_conf *map, const char *key, const char **out)
{
    const tb_conf *value = tb_conf_find(map, key);
    if (!value) return TB_FAIL(TB_ERR_PARSE, "load: the server's reply has no '%s'", key);
    return tb_conf_str(value, key, out);
}

/* The name of the one model that is ready. */
static tb_status find_model(tb_target *t)
{
    tb_conf *index;
    const char *name, *state;
    int ready = 0;
    TB_TRY(get_json(t, "POST", "/v2/repository/index", &index));
    tb_status st = TB_OK;
    for (int i = 0; st == TB_OK && index->kind == TB_CONF_LIST && i < index->n_items; i++) {
        st = member(index->items[i], "name", &name);
        if (st == TB_OK) st = member(index->items[i], "state", &state);
        if (st != TB_OK || strcmp(state, "READY") != 0) continue;
        snprintf(t->model, sizeof t->model, "%s", name);
        ready++;
    }
    tb_conf_free(index);
    if (st == TB_OK && ready != 1)
        st = TB_FAIL(TB_ERR_CONFIG,
                     "load: the server has %d models ready; name one: http://%s:%d/v2/models/NAME", ready,
                     t->host, t->port);
    return st;
}

static tb_status read_tensor(const tb_conf *list, const char *what, char name[64], bool *u8, int *rank,
                             int64_t shape[6], int64_t *elements)
{
    const char *text, *dtype;
    if (!list || list->kind != TB_CONF_LIST || list->n_items != 1)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "load: only models of one input and one output can be loaded, not of %d %ss",
                       list && list->kind == TB_CONF_LIST ? list->n_items : 0, what);
    TB_TRY(member(list->items[0], "name", &text));
    TB_TRY(member(list->items[0], "datatype", &dtype));
    snprintf(name, 64, "%s", text);
    *u8 = strcmp(dtype, "UINT8") == 0;
    if (!*u8 && strcmp(dtype, "FP32") != 0)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "load: %s '%s' is %s; only FP32 and UINT8 can be loaded", what,
                       name, dtype);
    const tb_conf *dims = tb_conf_find(list->items[0], "shape");
    *elements = 1;
    *rank = 0;
    for (int d = 1; dims && dims->kind == TB_CONF_LIST && d < dims->n_items && d <= 6; d++) {
        shape[*rank] = strtoll(dims->items[d]->text, NULL, 10);
        *elements *= shape[(*rank)++];
    }
    return TB_OK;
}

/* Its inputs are a token, its place, and the caches (engine/serve/tb_serve_model.h). */
static bool is_generating(const tb_conf *meta)
{
    const tb_conf *inputs = tb_conf_find(meta, "inputs");
    if (!inputs || inputs->kind != TB_CONF_LIST || inputs->n_items < 3) return false;
    const tb_conf *token = tb_conf_find(inputs->items[0], "name"), *place = tb_conf_find(inputs->items[1], "name");
    return token && place && strcmp(token->text, "token") == 0 && strcmp(place->text, "place") == 0;
}

tb_status tb_target_open(const char *url, const char *api_key, tb_target *t)
{
    char path[160];
    tb_conf *meta = NULL;
    bool out_u8;
    int64_t shape[6];
    int rank;
    memset(t, 0, sizeof *t);
    t->api_key = api_key;
    TB_TRY(parse_url(url, t));
    if (sscanf(t->path, "/v2/models/%63[A-Za-z0-9_.-]", t->model) != 1) TB_TRY(find_model(t));
    snprintf(path, sizeof path, "/v2/models/%s", t->model);
    TB_TRY(get_json(t, "GET", path, &meta));
    tb_load_samples *s = &t->samples;
    if (is_generating(meta)) {
        tb_conf_free(meta);
        return TB_FAIL(TB_ERR_UNSUPPORTED,
                       "load: '%s' generates text, a token at a time with its caches; tb load sends rows to models of "
                       "one input: compile it without --generate, or measure generation by tb run serving_load",
                       t->model);
    }
    tb_status st = read_tensor(tb_conf_find(meta, "inputs"), "input", t->input_name, &s->u8, &s->rank,
                               s->shape, &s->elements);
    if (st == TB_OK)
        st = read_tensor(tb_conf_find(meta, "outputs"), "output", t->output_name, &out_u8, &rank, shape,
                         &s->answer_elements);
    if (st == TB_OK && out_u8) st = TB_FAIL(TB_ERR_UNSUPPORTED, "load: the model's output must be FP32");
    tb_conf_free(meta);
    s->input_name = t->input_name;
    s->output_name = t->output_name;
    return st;
}

void tb_target_close(tb_target *t)
{
    tb_dataset_close(t->data);
    tb_free(t->rows);
    tb_free(t->answers);
    memset(t, 0, sizeof *t);
}

static tb_status read_file_tensor(const tb_safetensors *f, const tb_safetensors_entry *e, tb_dtype dtype,
                                  int64_t elements, void **out, int64_t *rows)
{
    int64_t all = 1;
    for (int d = 0; d < e->rank; d++) all *= e->dims[d];
    if (e->dtype != dtype || e->rank < 1 || e->dims[0] < 1 || all != e->dims[0] * elements)
        return TB_FAIL(TB_ERR_SHAPE,
                       "load: tensor '%s' of the file does not fit the model: rows of %lld %s are wanted",
                       e->name, (long long)elements, tb_dtype_name(dtype));
    *rows = e->dims[0];
    *out = tb_realloc(NULL, e->end - e->begin);
    return *out ? tb_safetensors_read(f, e, *out) : tb_error_code();
}

static tb_status samples_of_file(tb_target *t, const char *path, int n)
{
    tb_safetensors *f;
    tb_load_samples *s = &t->samples;
    int64_t rows = 0, answers = 0;
    TB_TRY(tb_safetensors_open(path, &f));
    const tb_safetensors_entry *in = tb_safetensors_find(f, "input");
    tb_status st =
        in ? read_file_tensor(f, in, s->u8 ? TB_U8 : TB_F32, s->elements, &t->rows, &rows) : tb_error_code();
    for (int i = 0; st == TB_OK && i < tb_safetensors_count(f); i++) {
        const tb_safetensors_entry *e = tb_safetensors_at(f, i);
        if (strcmp(e->name, "output") != 0) continue;
        st = read_file_tensor(f, e, TB_F32, s->answer_elements, (void **)&t->answers, &answers);
        if (st == TB_OK && answers != rows)
            st = TB_FAIL(TB_ERR_SHAPE, "load: %s holds %lld inputs but %lld outputs", path, (long long)rows,
                         (long long)answers);
    }
    tb_safetensors_close(f);
    s->n = rows < n ? (int)rows : n;
    s->answers = t->answers;
    return st;
}

static tb_status samples_of_dataset(tb_target *t, const char *name, int n)
{
    tb_load_samples *s = &t->samples;
    TB_TRY(tb_dataset_open(name, &t->data));
    const tb_data_part *test = tb_dataset_part(t->data, TB_SPLIT_TEST);
    int64_t pixels = tb_dataset_height(t->data) * tb_dataset_width(t->data);
    if (pixels != s->elements)
        return TB_FAIL(TB_ERR_SHAPE, "load: the model takes rows of %lld, %s has %lld",
                       (long long)s->elements, name, (long long)pixels);
    s->n = test->rows < n ? (int)test->rows : n;
    t->rows = tb_calloc((size_t)(s->n * pixels), s->u8 ? 1 : sizeof(float));
    if (!t->rows) return tb_error_code();
    for (int64_t i = 0; i < s->n * pixels; i++) {
        if (s->u8) ((uint8_t *)t->rows)[i] = test->bytes[i];
        else ((float *)t->rows)[i] = (float)test->bytes[i] / 255.0f;
    }
    return TB_OK;
}

static tb_status random_samples(tb_target *t, int n, uint64_t seed)
{
    tb_load_samples *s = &t->samples;
    uint64_t stream = tb_stream_name(0, "samples");
    s->n = n;
    t->rows = tb_calloc((size_t)n * (size_t)s->elements, s->u8 ? 1 : sizeof(float));
    if (!t->rows) return tb_error_code();
    for (int64_t i = 0; i < n * s->elements; i++) {
        if (s->u8) ((uint8_t *)t->rows)[i] = (uint8_t)tb_random_u32(seed, stream, (uint64_t)i);
        else ((float *)t->rows)[i] = (float)tb_random_uniform(seed, stream, (uint64_t)i);
    }
    return TB_OK;
}

tb_status tb_target_samples(tb_target *t, const char *data, int n, uint64_t seed)
{
    size_t length = strlen(data);
    bool file = length > 12 && strcmp(data + length - 12, ".safetensors") == 0;
    tb_status st = strcmp(data, "random") == 0 ? random_samples(t, n, seed)
                   : file                      ? samples_of_file(t, data, n)
                                               : samples_of_dataset(t, data, n);
    t->samples.rows = t->rows;
    return st;
}

tb_status tb_target_answers(tb_target *t, const char *dir)
{
    tb_load_samples *s = &t->samples;
    tb_serve_model *m;
    size_t row = (size_t)s->elements * (s->u8 ? 1 : sizeof(float));
    TB_TRY(tb_serve_artefact_open(NULL, dir, t->model, "offline", &m));
    tb_free(t->answers);
    t->answers = tb_calloc((size_t)s->n * (size_t)s->answer_elements, sizeof(float));
    tb_status st = t->answers ? TB_OK : tb_error_code();
    if (st == TB_OK && (m->n_inputs != 1 || m->n_outputs != 1 || m->inputs[0].elements != s->elements ||
                        m->outputs[0].elements != s->answer_elements))
        st = TB_FAIL(TB_ERR_SHAPE, "load: the model in %s is not shaped as the one that is served", dir);
    for (int i = 0; st == TB_OK && i < s->n; i++) {
        const void *in[] = {(const char *)t->rows + (size_t)i * row};
        void *out[] = {t->answers + i * s->answer_elements};
        st = m->run(m, 1, in, out, NULL);
    }
    m->destroy(m);
    s->answers = t->answers;
    return st;
}
