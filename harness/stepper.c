/* Steps over caches. A graph updates its caches in place; op by op a step gives new ones. */
#include "stepper.h"
#include "deploy.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_ops.h"

enum { TOKEN, PLACE, CACHES }; /* inputs of a graph; its outputs are the logits and the caches */

struct tb_stepper {
    tb_model *model;
    tb_session *session;
    int64_t capacity, rows;
    int n_caches;
    uint8_t *token;   /* [rows] */
    float *place;     /* [rows] */
    float **buffer;   /* of a graph: [n_caches], of `rows` rows each */
    const void **in;  /* [CACHES + n_caches] */
    void **out;       /* [1 + n_caches] */
    tb_tensor **kept; /* op by op: [n_caches], held; NULL before the first step */
    int64_t n;        /* rows of what is kept */
};

static tb_status make_buffers(tb_stepper *s)
{
    for (int i = 0; i < s->n_caches; i++) {
        int64_t dims[TB_MAX_RANK], elements = s->rows;
        int rank = tb_model_cache_dims(s->model, i, s->capacity, dims);
        for (int k = 0; k < rank; k++) elements *= dims[k];
        s->buffer[i] = tb_calloc((size_t)elements + 1, sizeof **s->buffer);
        if (!s->buffer[i]) return TB_ERR_OOM;
        s->in[CACHES + i] = s->out[1 + i] = s->buffer[i];
    }
    s->in[TOKEN] = s->token;
    s->in[PLACE] = s->place;
    return TB_OK;
}

tb_status tb_stepper_create(tb_model *m, tb_session *session, int64_t capacity, int64_t rows, tb_stepper **out)
{
    tb_stepper *s = tb_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return TB_ERR_OOM;
    *s = (tb_stepper){
        .model = m, .session = session, .capacity = capacity, .rows = rows, .n_caches = tb_model_caches(m)};
    s->token = tb_calloc((size_t)rows + 1, 1);
    s->place = tb_calloc((size_t)rows + 1, sizeof *s->place);
    s->buffer = tb_calloc((size_t)s->n_caches + 1, sizeof *s->buffer);
    s->kept = tb_calloc((size_t)s->n_caches + 1, sizeof *s->kept);
    s->in = tb_calloc((size_t)s->n_caches + CACHES, sizeof *s->in);
    s->out = tb_calloc((size_t)s->n_caches + 1, sizeof *s->out);
    tb_status st = s->token && s->place && s->buffer && s->kept && s->in && s->out ? TB_OK : TB_ERR_OOM;
    if (st == TB_OK && session) st = make_buffers(s);
    if (st == TB_OK)
        *out = s;
    else
        tb_stepper_destroy(s);
    return st;
}

static void forget(tb_stepper *s)
{
    for (int i = 0; i < s->n_caches; i++) {
        if (s->kept[i]) tb_release(s->kept[i]);
        s->kept[i] = NULL;
    }
    s->n = 0;
}

void tb_stepper_destroy(tb_stepper *s)
{
    if (!s) return;
    if (s->kept) forget(s);
    for (int i = 0; s->buffer && i < s->n_caches; i++) tb_free(s->buffer[i]);
    tb_free(s->buffer);
    tb_free(s->kept);
    tb_free(s->in);
    tb_free(s->out);
    tb_free(s->token);
    tb_free(s->place);
    tb_free(s);
}

/* What the next step gets: what the last one gave, or zeros. */
static void take_caches(const tb_stepper *s, int64_t n, tb_tensor **cache)
{
    int64_t row[TB_MAX_RANK], dims[TB_MAX_RANK] = {n};
    for (int i = 0; i < s->n_caches; i++) {
        cache[i] = s->kept[i];
        if (cache[i]) continue;
        int rank = tb_model_cache_dims(s->model, i, s->capacity, row);
        for (int k = 0; k < rank; k++) dims[1 + k] = row[k];
        cache[i] = tb_zeros(TB_F32, 1 + rank, dims);
    }
}

static tb_status step_by_ops(tb_stepper *s, int64_t n, float *logits)
{
    tb_tensor **cache = (tb_tensor **)(void *)s->out;
    if (n != s->n) forget(s);
    tb_scope *scope = tb_scope_open();
    bool mode = tb_grad_mode(tb_ctx_current(), false);
    take_caches(s, n, cache);
    tb_tensor *y = tb_deploy_step(s->model, s->capacity, tb_tensor_from(TB_U8, 1, &n, s->token),
                                  tb_tensor_from(TB_F32, 1, &n, s->place), cache);
    tb_status st = tb_tensor_read(y, logits, tb_tensor_bytes(y));
    for (int i = 0; i < s->n_caches && st == TB_OK; i++) tb_retain(cache[i]);
    if (st == TB_OK) {
        forget(s);
        for (int i = 0; i < s->n_caches; i++) s->kept[i] = cache[i];
        s->n = n;
    }
    tb_grad_mode(tb_ctx_current(), mode);
    tb_scope_close(scope);
    return st;
}

tb_status tb_stepper_run(tb_stepper *s, int64_t n, const uint8_t *text, int64_t row_bytes, int64_t place, float *logits)
{
    for (int64_t i = 0; i < n; i++) {
        s->token[i] = text[i * row_bytes + place];
        s->place[i] = (float)place;
    }
    if (!s->session) return step_by_ops(s, n, logits);
    s->out[0] = logits;
    return tb_session_run(s->session, &n, s->in, s->out);
}
