/* A deploy artefact behind the server's model interface. */
#include "tb_serve_artefact.h"
#include "tb_artefact.h"
#include <pthread.h>
#include <stdatomic.h>

enum { MAX_SESSIONS = 8, MAX_PLANNED = 64 };

/* One thread at a time runs in a seat: a context and a session of its own. */
typedef struct seat {
    atomic_flag taken;
    tb_ctx *ctx;
    tb_session *session;
} seat;

typedef struct artefact_model {
    tb_serve_model model; /* first: the server's pointer is ours */
    tb_ctx *ctx;          /* holds the weights */
    tb_artefact *artefact;
    seat seats[MAX_SESSIONS];
    pthread_mutex_t growing;
} artefact_model;

/* Plans batches of every size (64 sizes: as many plans as a session keeps), so that no request waits for one. */
static tb_status plan_batches(tb_session *s, int64_t most)
{
    tb_plan_stats stats;
    TB_TRY(tb_session_plan_stats(s, &most, &stats));
    for (int64_t n = 1; n < most && n < MAX_PLANNED; n++) TB_TRY(tb_session_plan_stats(s, &n, &stats));
    return TB_OK;
}

static void seat_empty(seat *s)
{
    tb_session_free(s->session);
    tb_ctx_destroy(s->ctx);
    s->session = NULL;
    s->ctx = NULL;
}

/* Whole or not at all: who comes next tries again. */
static tb_status seat_fill(artefact_model *m, seat *s)
{
    tb_status st = TB_OK;
    if (s->session) return TB_OK;
    pthread_mutex_lock(&m->growing);
    st = tb_ctx_create(&(tb_ctx_config){.threads = 1}, &s->ctx);
    if (st == TB_OK) st = tb_session_create(tb_artefact_exec(m->artefact), s->ctx, &s->session);
    if (st == TB_OK) st = plan_batches(s->session, m->model.max_batch);
    if (st != TB_OK) seat_empty(s);
    pthread_mutex_unlock(&m->growing);
    return st;
}

static seat *take_seat(artefact_model *m)
{
    for (;;)
        for (int i = 0; i < MAX_SESSIONS; i++)
            if (!atomic_flag_test_and_set(&m->seats[i].taken)) return &m->seats[i];
}

static tb_status run(const tb_serve_model *model, int n, const void *const *in, void *const *out,
                     void *scratch)
{
    artefact_model *m = (artefact_model *)(uintptr_t)model;
    int64_t size = n;
    (void)scratch;
    seat *s = take_seat(m);
    tb_status st = seat_fill(m, s);
    if (st == TB_OK) st = tb_session_run(s->session, &size, in, out);
    atomic_flag_clear(&s->taken);
    return st;
}

static tb_status check(const tb_serve_model *model)
{
    artefact_model *m = (artefact_model *)(uintptr_t)model;
    seat *s = take_seat(m);
    tb_status st = seat_fill(m, s);
    tb_ctx *before = tb_ctx_enter(m->ctx);
    if (st == TB_OK) st = tb_artefact_check(m->artefact, s->session);
    tb_ctx_enter(before);
    atomic_flag_clear(&s->taken);
    return st;
}

static void destroy(tb_serve_model *model)
{
    artefact_model *m = (artefact_model *)model;
    for (int i = 0; i < MAX_SESSIONS; i++) seat_empty(&m->seats[i]);
    tb_artefact_free(m->artefact);
    tb_ctx_destroy(m->ctx);
    pthread_mutex_destroy(&m->growing);
    tb_free(m);
}

static tb_status describe(const tb_value *v, tb_serve_tensor *t)
{
    if (v->rank < 1 || v->rank > TB_SERVE_MAX_RANK || (v->dtype != TB_F32 && v->dtype != TB_U8))
        return TB_FAIL(TB_ERR_UNSUPPORTED,
                       "'%s' is %s of rank %d; the server takes f32 and u8 of rank 1 to %d", v->name,
                       tb_dtype_name(v->dtype), v->rank, TB_SERVE_MAX_RANK);
    *t = (tb_serve_tensor){.dtype = v->dtype, .rank = v->rank - 1, .elements = 1};
    snprintf(t->name, sizeof t->name, "%.*s", TB_SERVE_MAX_NAME, v->name);
    for (int i = 0; i < t->rank; i++) {
        t->shape[i] = v->dims[i + 1].base;
        t->elements *= t->shape[i];
    }
    return TB_OK;
}

static tb_status fill_model(artefact_model *m, const char *name, const char *version)
{
    const tb_graph *g = tb_exec_graph(tb_artefact_exec(m->artefact));
    tb_serve_model *to = &m->model;
    snprintf(to->name, sizeof to->name, "%s", name);
    snprintf(to->version, sizeof to->version, "%s", version);
    if (g->n_inputs > TB_SERVE_MAX_TENSORS || g->n_outputs > TB_SERVE_MAX_TENSORS)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "model %s has more than %d inputs or outputs", name,
                       TB_SERVE_MAX_TENSORS);
    to->n_inputs = g->n_inputs;
    to->n_outputs = g->n_outputs;
    for (int i = 0; i < g->n_inputs; i++) TB_TRY(describe(&g->values[g->inputs[i]], &to->inputs[i]));
    for (int i = 0; i < g->n_outputs; i++) TB_TRY(describe(&g->values[g->outputs[i]], &to->outputs[i]));
    to->max_batch = (int)tb_artefact_info_of(m->artefact)->max_batch;
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].constant) to->weight_bytes += tb_tensor_bytes(g->values[i].constant);
    to->run = run;
    to->check = check;
    to->destroy = destroy;
    return TB_OK;
}

tb_status tb_serve_artefact_open(void *arg, const char *dir, const char *name, const char *version,
                                 tb_serve_model **out)
{
    (void)arg;
    artefact_model *m = tb_calloc(1, sizeof *m);
    *out = NULL;
    if (!m) return TB_ERR_OOM;
    pthread_mutex_init(&m->growing, NULL);
    tb_status st = tb_ctx_create(&(tb_ctx_config){.threads = 1}, &m->ctx);
    tb_ctx *before = st == TB_OK ? tb_ctx_enter(m->ctx) : tb_ctx_current();
    if (st == TB_OK) st = tb_artefact_load(dir, &m->artefact);
    tb_ctx_enter(before);
    if (st == TB_OK) st = fill_model(m, name, version);
    if (st != TB_OK) destroy(&m->model);
    else *out = &m->model;
    return st;
}
