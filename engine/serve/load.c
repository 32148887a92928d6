/* From a version folder to a model that may serve: opened, its description checked, its rows shown to be
 * independent of their batch, its answers finite, its time measured. */
#include "repository.h"
#include "tb_alloc.h"
#include "tb_rng.h"
#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tbi_name_ok(const char *name)
{
    size_t n = strlen(name);
    if (n == 0 || n > TB_SERVE_MAX_NAME || name[0] == '.') return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && *p != '_' && *p != '-' && *p != '.') return false;
    return true;
}

tb_status tbi_latest_version(const char *dir, const char *name, char version[TB_SERVE_MAX_NAME + 1])
{
    char *path = tb_asprintf("%s/%s", dir, name);
    if (!path) return tb_error_code();
    DIR *d = opendir(path);
    long best = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        char *end;
        long v = e->d_name[0] >= '1' && e->d_name[0] <= '9' ? strtol(e->d_name, &end, 10) : 0;
        if (v > best && *end == 0) best = v;
    }
    if (d) closedir(d);
    tb_free(path);
    if (!best)
        return TB_FAIL(TB_ERR_NOT_FOUND,
                       "model '%s': no version folder (a number from 1 on) in the repository", name);
    snprintf(version, TB_SERVE_MAX_NAME + 1, "%ld", best);
    return TB_OK;
}

static tb_status check_tensor(const tb_serve_model *m, const tb_serve_tensor *t)
{
    int64_t elements = 1;
    for (int d = 0; d < t->rank; d++) elements *= t->shape[d];
    for (const char *p = t->name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("_-./:", *p))
            return TB_FAIL(TB_ERR_INVALID, "model '%s': tensor name '%s' holds '%c'", m->name, t->name, *p);
    if (!*t->name) return TB_FAIL(TB_ERR_INVALID, "model '%s': a tensor has no name", m->name);
    if (t->dtype != TB_F32 && t->dtype != TB_U8)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "model '%s': tensor '%s' is %s; served tensors are f32 or u8",
                       m->name, t->name, tb_dtype_name(t->dtype));
    if (t->rank < 0 || t->rank > TB_SERVE_MAX_RANK || elements != t->elements || elements < 1)
        return TB_FAIL(TB_ERR_SHAPE, "model '%s': tensor '%s' has a bad shape", m->name, t->name);
    return TB_OK;
}

static tb_status check_description(const tb_serve_model *m)
{
    if (m->n_inputs < 1 || m->n_inputs > TB_SERVE_MAX_TENSORS || m->n_outputs < 1 ||
        m->n_outputs > TB_SERVE_MAX_TENSORS)
        return TB_FAIL(TB_ERR_INVALID, "model '%s': a served model has 1 to %d inputs and outputs", m->name,
                       TB_SERVE_MAX_TENSORS);
    if (m->max_batch < 1 || m->max_batch > 4096)
        return TB_FAIL(TB_ERR_INVALID, "model '%s': max_batch must be 1 to 4096, is %d", m->name,
                       m->max_batch);
    for (int i = 0; i < m->n_inputs; i++) TB_TRY(check_tensor(m, &m->inputs[i]));
    for (int o = 0; o < m->n_outputs; o++) TB_TRY(check_tensor(m, &m->outputs[o]));
    return TB_OK;
}

static void fill_inputs(const tb_serve_model *m, tbi_batch *batch)
{
    for (int i = 0; i < m->n_inputs; i++) {
        const tb_serve_tensor *t = &m->inputs[i];
        for (int64_t k = 0; k < t->elements * m->max_batch; k++)
            tb_store_f64(t->dtype, (char *)batch->in[i] + (size_t)k * tb_dtype_size(t->dtype),
                         t->dtype == TB_U8 ? (double)(tb_random_u32(1, 1, (uint64_t)k) & 255)
                                           : tb_random_uniform(1, 1, (uint64_t)k));
    }
}

static tb_status check_finite(const tb_serve_model *m, const tbi_batch *batch)
{
    for (int o = 0; o < m->n_outputs; o++)
        for (int64_t k = 0; m->outputs[o].dtype == TB_F32 && k < m->outputs[o].elements * m->max_batch; k++)
            if (!isfinite(((const float *)batch->out[o])[k]))
                return TB_FAIL(TB_ERR_PARITY, "model '%s': output '%s' is not finite on finite inputs",
                               m->name, m->outputs[o].name);
    return TB_OK;
}

/* Rows [first, first + n) once more, in a batch of n: the same bits as in the full batch. */
static tb_status compare_rows(const tb_serve_model *m, const tbi_batch *full, tbi_batch *part, int first,
                              int n)
{
    for (int i = 0; i < m->n_inputs; i++)
        memcpy(part->in[i], (const char *)full->in[i] + tbi_row_bytes(&m->inputs[i]) * (size_t)first,
               tbi_row_bytes(&m->inputs[i]) * (size_t)n);
    part->rows = n;
    tbi_batch_run(part, m);
    if (part->status != TB_OK) return part->status;
    for (int o = 0; o < m->n_outputs; o++) {
        size_t bytes = tbi_row_bytes(&m->outputs[o]);
        if (memcmp(part->out[o], (const char *)full->out[o] + bytes * (size_t)first, bytes * (size_t)n) != 0)
            return TB_FAIL(TB_ERR_PARITY,
                           "model '%s': a row of '%s' has other bits in a batch of %d than in one of %d",
                           m->name, m->outputs[o].name, n, m->max_batch);
    }
    return TB_OK;
}

static tb_status self_check(const tb_serve_model *m)
{
    tb_status st;
    tbi_batch full = {0}, part = {0};
    TB_GO(tbi_batch_open(&full, m));
    TB_GO(tbi_batch_open(&part, m));
    fill_inputs(m, &full);
    for (int i = 0; i < m->n_inputs; i++) full.use[i] = full.in[i], part.use[i] = part.in[i];
    full.rows = m->max_batch;
    tbi_batch_run(&full, m);
    TB_GO(full.status);
    TB_GO(check_finite(m, &full));
    for (int n = 1; n < m->max_batch; n = n < 4 ? n + 1 : n * 2)
        TB_GO(compare_rows(m, &full, &part, (m->max_batch - n) / 2, n));
    if (m->check) TB_GO(m->check(m));
cleanup:
    tbi_batch_close(&full);
    tbi_batch_close(&part);
    return st;
}

tb_status tbi_served_open(const tb_serve_config *config, const char *dir, const char *name,
                          const char *version, tbi_served **out)
{
    tb_status st;
    tbi_served *s = tb_calloc(1, sizeof *s);
    char *path = tb_asprintf("%s/%s/%s", dir, name, version);
    if (!s || !path) {
        st = tb_error_code();
        goto cleanup;
    }
    TB_GO(config->open(config->open_arg, path, name, version, &s->model));
    snprintf(s->model->name, sizeof s->model->name, "%s", name);
    snprintf(s->model->version, sizeof s->model->version, "%s", version);
    TB_GO(check_description(s->model));
    TB_GO(self_check(s->model));
    int rows = config->limits.queue_rows ? config->limits.queue_rows : 4 * s->model->max_batch;
    TB_GO(
        tbi_batcher_create(s->model, config->mode, config->workers ? config->workers : 1, rows, &s->batcher));
    if (tbi_model_steps(s->model)) TB_GO(tbi_generator_create(s->batcher, rows, &s->generator));
    *out = s;
    s = NULL;
cleanup:
    tb_free(path);
    tbi_served_close(s);
    return st;
}

void tbi_served_close(tbi_served *s)
{
    if (!s) return;
    tbi_generator_destroy(s->generator);
    tbi_batcher_destroy(s->batcher);
    if (s->model) s->model->destroy(s->model);
    tb_free(s);
}
