/* The in-memory form of a launch: growing lists, samples joined into series, lookups. */
#include "record_types.h"
#include "tb_alloc.h"
#include <stdbool.h>
#include <string.h>

void *tb_store_add(tb_store *store, size_t bytes)
{
    void **blocks = tb_realloc(store->blocks, sizeof *blocks * (size_t)(store->n + 1));
    if (!blocks) return NULL;
    store->blocks = blocks;
    void *block = tb_calloc(1, bytes ? bytes : 1);
    if (block) blocks[store->n++] = block;
    return block;
}

void tb_store_free(tb_store *store)
{
    for (int i = 0; i < store->n; i++) tb_free(store->blocks[i]);
    tb_free(store->blocks);
    *store = (tb_store){0};
}

tb_status tb_launch_create(tb_launch **out)
{
    *out = tb_calloc(1, sizeof **out);
    if (!*out) return tb_error_code();
    for (int kind = 1; kind < TB_RECORD_KINDS; kind++) { /* absent text is "", not NULL */
        const tb_record_type *t = &tb_record_types[kind];
        for (int f = 0; f < t->n_fields && !t->count_at; f++)
            if (t->fields[f].type <= TB_FIELD_SHARED)
                *(const char **)((char *)*out + t->at + t->fields[f].offset) = "";
    }
    (*out)->end.status = "running";
    (*out)->end.failed_rank = -1;
    return TB_OK;
}

void tb_launch_free(tb_launch *l)
{
    if (!l) return;
    for (int i = 0; i < l->n_series; i++) {
        tb_free(l->series[i].steps);
        tb_free(l->series[i].values);
    }
    for (int kind = 1; kind < TB_RECORD_KINDS; kind++) {
        const tb_record_type *t = &tb_record_types[kind];
        if (t->count_at) tb_free(*(void **)((char *)l + t->at));
    }
    tb_store_free(&l->store);
    tb_free(l);
}

void tb_result_free(tb_result *r)
{
    if (!r) return;
    for (int i = 0; i < r->n_launches; i++) tb_launch_free(r->launches[i]);
    tb_free(r->launches);
    tb_free(r->summaries);
    tb_store_free(&r->store);
    tb_free(r);
}

/* Capacity is the next power of two, so that it need not be kept. */
static bool grow(void *list, int64_t old_n, int64_t new_n, size_t size)
{
    int64_t had = 1, need = 1;
    while (had < old_n) had *= 2;
    while (need < new_n) need *= 2;
    void **at = list;
    if (*at && had >= need) return true;
    void *bigger = tb_realloc(*at, (size_t)need * size);
    if (bigger) *at = bigger;
    return bigger != NULL;
}

static tb_status join_samples(tb_launch *l, const tb_samples *batch)
{
    tb_series *s = NULL;
    for (int i = 0; i < l->n_series && !s; i++)
        if (l->series[i].rank == batch->rank && l->series[i].warmup == batch->warmup &&
            !strcmp(l->series[i].metric, batch->metric))
            s = &l->series[i];
    if (!s) {
        if (!grow(&l->series, l->n_series, l->n_series + 1, sizeof *l->series)) return tb_error_code();
        s = &l->series[l->n_series++];
        *s = (tb_series){.metric = batch->metric, .rank = batch->rank, .warmup = batch->warmup};
    }
    int64_t n = s->n + batch->n;
    if (!grow(&s->steps, s->n, n, sizeof *s->steps) || !grow(&s->values, s->n, n, sizeof *s->values))
        return tb_error_code();
    for (int64_t i = 0; i < batch->n; i++) {
        s->steps[s->n + i] = batch->steps ? batch->steps[i] : batch->first_step + i;
        s->values[s->n + i] = batch->values[i];
    }
    s->n = n;
    return TB_OK;
}

tb_status tb_record_check(tb_record_kind kind, const void *record)
{
    const char *name = "x";
    if (kind == TB_RECORD_SAMPLES) name = ((const tb_samples *)record)->metric;
    if (kind == TB_RECORD_ARTEFACT) name = ((const tb_artefact *)record)->name;
    if (!name || !name[0] || !strcmp(name, ".") || strlen(name) > 100 || strchr(name, '/'))
        return TB_FAIL(TB_ERR_INVALID, "record: the name '%.110s' must have 1 to 100 bytes and no '/'",
                       name ? name : "");
    if (kind != TB_RECORD_SAMPLES) return TB_OK;
    const tb_samples *s = record;
    if (s->rank < 0 || s->rank > 65535 || s->n < 0)
        return TB_FAIL(TB_ERR_INVALID, "samples of '%s': rank %lld or count %lld is out of range", name,
                       (long long)s->rank, (long long)s->n);
    return TB_OK;
}

tb_status tb_launch_add(tb_launch *l, tb_record_kind kind, const void *record)
{
    const tb_record_type *t = &tb_record_types[kind];
    TB_TRY(tb_record_check(kind, record));
    if (kind == TB_RECORD_SAMPLES) return join_samples(l, record);
    char *place = (char *)l + t->at;
    if (t->count_at) {
        int *count = (int *)((char *)l + t->count_at);
        if (!grow(place, *count, *count + 1, t->size)) return tb_error_code();
        place = *(char **)place + (size_t)(*count)++ * t->size;
    }
    memcpy(place, record, t->size);
    return TB_OK;
}

const tb_metric *tb_launch_metric(const tb_launch *l, const char *name)
{
    for (int i = 0; i < l->n_metrics; i++)
        if (!strcmp(l->metrics[i].name, name)) return &l->metrics[i];
    return NULL;
}

const tb_series *tb_launch_series(const tb_launch *l, const char *metric, int64_t rank, int64_t warmup)
{
    for (int i = 0; i < l->n_series; i++)
        if (l->series[i].rank == rank && l->series[i].warmup == warmup &&
            !strcmp(l->series[i].metric, metric))
            return &l->series[i];
    return NULL;
}

const tb_value *tb_launch_value(const tb_launch *l, const char *name, int64_t rank)
{
    for (int i = 0; i < l->n_values; i++)
        if (l->values[i].rank == rank && !strcmp(l->values[i].name, name)) return &l->values[i];
    return NULL;
}

const char *tb_launch_fact(const tb_launch *l, const char *key)
{
    for (int i = 0; i < l->n_facts; i++)
        if (!strcmp(l->facts[i].key, key)) return l->facts[i].value;
    return "";
}

const char *tb_launch_artefact(const tb_launch *l, const char *name, int64_t rank)
{
    for (int i = 0; i < l->n_artefacts; i++)
        if (l->artefacts[i].rank == rank && !strcmp(l->artefacts[i].name, name)) return l->artefacts[i].text;
    return "";
}
