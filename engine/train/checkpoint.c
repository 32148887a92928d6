/* Checkpoints. What a step depends on and the file cannot change (model, data, seed, batch, optimizer) is written as
 * text beside the tensors and must be equal when the run goes on. */
#include "tb_alloc.h"
#include "tb_safetensors.h"
#include "trainer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FACTS = 6, COUNTS = 5, NOTE_BYTES = 512 };
static const char optim_prefix[] = "optim/";

typedef struct facts {
    char text[FACTS][NOTE_BYTES];
} facts;
static const char *const fact_names[FACTS] = {"model", "data_sha256", "seed", "batch", "optimizer", "schedule"};

/* Numbers that go on; those of loss scaling are 0 without it. */
static const char *const count_names[COUNTS] = {"steps", "position", "loss_scale", "loss_scale_good", "steps_skipped"};

static void counts_of(const tb_trainer *t, int64_t counts[COUNTS])
{
    counts[0] = tb_trainer_steps(t);
    counts[1] = tb_loader_position(t->loader);
    counts[2] = (int64_t)t->scaling.scale;
    counts[3] = t->scaling.good_steps;
    counts[4] = t->scaling.skipped;
}

static void facts_of(const tb_trainer *t, facts *f)
{
    const tb_trainer_config *c = &t->cfg;
    const tb_optim_config *o = &c->optim;
    static const char *const kinds[] = {"sgd", "adam", "adamw"}, *const schedules[] = {"constant", "cosine"};
    const tb_lr_schedule *s = &c->schedule;
    snprintf(f->text[0], NOTE_BYTES, "%s", tb_model_spec(c->model));
    snprintf(f->text[1], NOTE_BYTES, "%s", tb_dataset_part(c->data, TB_SPLIT_TRAIN)->sha256);
    snprintf(f->text[2], NOTE_BYTES, "%llu", (unsigned long long)c->seed);
    snprintf(f->text[3], NOTE_BYTES, "%lld in %d, context %lld", (long long)c->batch, c->microbatches,
             (long long)c->context);
    snprintf(f->text[4], NOTE_BYTES, "%s decay=%.17g momentum=%.17g nesterov=%d beta=%.17g,%.17g eps=%.17g clip=%.17g",
             kinds[o->kind], o->decay, o->momentum, o->nesterov, o->beta1, o->beta2, o->eps, o->clip_norm);
    snprintf(f->text[5], NOTE_BYTES, "%s rate=%.17g floor=%.17g warmup=%lld steps=%lld", schedules[s->kind], s->rate,
             s->floor, (long long)s->warmup, (long long)s->steps);
}

/* Names and tensors of parameters and buffers, then of optimizer state. The caller frees both arrays and the
 * state's names. */
static tb_status collect(const tb_params *ps, const tb_optim *o, int *n, tb_safetensors_item **items)
{
    int n_params = tb_params_count(ps), n_kept = n_params + tb_params_buffer_count(ps),
        n_states = o ? tb_optim_state_count(o) : 0;
    *items = tb_calloc((size_t)(n_kept + n_states) + 1, sizeof **items);
    *n = *items ? n_kept + n_states : 0;
    for (int i = 0; i < *n; i++) {
        tb_safetensors_item *item = &(*items)[i];
        if (i < n_kept) {
            const tb_param *p = i < n_params ? tb_params_at(ps, i) : tb_params_buffer_at(ps, i - n_params);
            *item = (tb_safetensors_item){p->name, p->tensor};
        } else {
            item->tensor = tb_optim_state(o, i - n_kept);
            item->name = tb_asprintf("%s%s", optim_prefix, tb_optim_state_name(o, i - n_kept));
            if (!item->name) return TB_ERR_OOM;
        }
    }
    return *items ? TB_OK : TB_ERR_OOM;
}

static void free_items(const tb_params *ps, int n, tb_safetensors_item *items)
{
    for (int i = tb_params_count(ps) + tb_params_buffer_count(ps); i < n; i++)
        tb_free((char *)(uintptr_t)items[i].name);
    tb_free(items);
}

tb_status tb_trainer_save(const tb_trainer *t, const char *path)
{
    const tb_params *ps = tb_model_params(t->cfg.model);
    facts f;
    int64_t counts[COUNTS];
    char numbers[COUNTS][32];
    tb_safetensors_pair notes[FACTS + COUNTS];
    tb_safetensors_item *items;
    int n;
    facts_of(t, &f);
    counts_of(t, counts);
    for (int i = 0; i < FACTS; i++) notes[i] = (tb_safetensors_pair){fact_names[i], f.text[i]};
    for (int i = 0; i < COUNTS; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%lld", (long long)counts[i]);
        notes[FACTS + i] = (tb_safetensors_pair){count_names[i], numbers[i]};
    }
    tb_status st = collect(ps, t->optim, &n, &items);
    if (st == TB_OK) st = tb_safetensors_save(path, n, items, FACTS + COUNTS, notes);
    free_items(ps, n, items);
    return st;
}

static tb_status note_i64(const tb_safetensors *f, const char *path, const char *key, int64_t *out)
{
    const char *text = tb_safetensors_note(f, key);
    char *end;
    errno = 0;
    *out = text ? strtoll(text, &end, 10) : 0;
    if (!text || *end || end == text || *out < 0 || errno == ERANGE)
        return TB_FAIL(TB_ERR_PARSE, "%s: this is no training checkpoint ('%s' is missing or no number)", path, key);
    return TB_OK;
}

/* Counts that no run has: more steps skipped than there were, a loss scale that is no power of two. */
static tb_status check_counts(const int64_t counts[COUNTS], const char *path)
{
    int64_t scale = counts[2];
    bool is_scale = (scale & (scale - 1)) == 0 && (double)scale <= TB_LOSS_SCALE_MAX;
    if (counts[4] <= counts[0] && is_scale) return TB_OK;
    return TB_FAIL(TB_ERR_PARSE, "%s: this is no training checkpoint (%lld of %lld steps skipped, loss scale %lld)",
                   path, (long long)counts[4], (long long)counts[0], (long long)scale);
}

static tb_status check_facts(const tb_trainer *t, const tb_safetensors *file, const char *path)
{
    facts f;
    facts_of(t, &f);
    for (int i = 0; i < FACTS; i++) {
        const char *theirs = tb_safetensors_note(file, fact_names[i]);
        if (!theirs || strcmp(theirs, f.text[i]) != 0)
            return TB_FAIL(TB_ERR_CONFIG, "%s: cannot go on: its %s is '%s', this run's is '%s'", path, fact_names[i],
                           theirs ? theirs : "(missing)", f.text[i]);
    }
    return TB_OK;
}

/* Nothing is changed by a file that does not hold all of it. */
static tb_status load_items(const tb_safetensors *f, int n, const tb_safetensors_item *items)
{
    for (int i = 0; i < n; i++) TB_TRY(tb_safetensors_check(f, items[i].name, items[i].tensor));
    for (int i = 0; i < n; i++) TB_TRY(tb_safetensors_load(f, items[i].name, items[i].tensor));
    return TB_OK;
}

tb_status tb_trainer_load(tb_trainer *t, const char *path)
{
    const tb_params *ps = tb_model_params(t->cfg.model);
    tb_status st = TB_OK;
    tb_safetensors *f = NULL;
    tb_safetensors_item *items = NULL;
    int64_t counts[COUNTS] = {0};
    int n = 0;
    TB_GO(tb_safetensors_open(path, &f));
    for (int i = 0; i < COUNTS; i++) /* a training without loss scaling may lack what is of it */
        if (i < 2 || tb_safetensors_note(f, count_names[i])) TB_GO(note_i64(f, path, count_names[i], &counts[i]));
    TB_GO(check_counts(counts, path));
    TB_GO(check_facts(t, f, path));
    TB_GO(collect(ps, t->optim, &n, &items));
    TB_GO(load_items(f, n, items));
    if (counts[2] > 0 && t->cfg.loss_scale != 0) {
        t->scaling.scale = (double)counts[2];
        t->scaling.good_steps = counts[3];
    }
    t->scaling.skipped = counts[4]; /* steps that the optimizer did not make */
    tb_optim_set_steps(t->optim, counts[0] - counts[4]);
    TB_GO(tb_loader_seek(t->loader, counts[1]));
cleanup:
    free_items(ps, n, items);
    tb_safetensors_close(f);
    return st;
}

tb_status tb_model_save(const tb_model *m, const char *path)
{
    const tb_params *ps = tb_model_params(m);
    tb_safetensors_item *items;
    int n;
    tb_status st = collect(ps, NULL, &n, &items);
    tb_safetensors_pair note = {"model", tb_model_spec(m)};
    if (st == TB_OK) st = tb_safetensors_save(path, n, items, 1, &note);
    free_items(ps, n, items);
    return st;
}

tb_status tb_model_load(tb_model *m, const char *path)
{
    const tb_params *ps = tb_model_params(m);
    tb_safetensors *f;
    tb_safetensors_item *items;
    int n;
    TB_TRY(tb_safetensors_open(path, &f));
    tb_status st = collect(ps, NULL, &n, &items);
    if (st == TB_OK) st = load_items(f, n, items);
    free_items(ps, n, items);
    tb_safetensors_close(f);
    return st;
}
