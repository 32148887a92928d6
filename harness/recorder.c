/* Emitting records, batching samples, bringing ranks together. */
#include "recorder.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <string.h>

enum { METRICS_MAX = 128, BATCH = 256 };
static const int64_t FLUSH_NS = 250 * 1000 * 1000;

typedef struct series {
    const char *metric;
    int64_t first_step, n;
    double values[BATCH];
} series;

struct tb_recorder {
    tb_journal *journal;
    tb_board *board;
    int rank, failed_checks, n_series;
    bool warming;
    int64_t flushed_ns;
    tb_status status;
    char message[512];
    series series[METRICS_MAX];
};

tb_status tb_recorder_create(tb_journal *journal, int rank, tb_board *board, tb_recorder **out)
{
    tb_recorder *r = tb_calloc(1, sizeof *r);
    if (!r) return TB_ERR_OOM;
    r->journal = journal;
    r->rank = rank;
    r->board = board;
    r->flushed_ns = tb_now_ns();
    *out = r;
    return TB_OK;
}

void tb_recorder_free(tb_recorder *recorder) { tb_free(recorder); }

/* Keeps the first failure: emitters return nothing, tb_run_sync() tells it. */
static void note(tb_recorder *r, tb_status st)
{
    if (st == TB_OK || r->status != TB_OK) return;
    r->status = st;
    snprintf(r->message, sizeof r->message, "%s", tb_error_message());
}

tb_status tb_recorder_status(const tb_recorder *r)
{
    if (r->status != TB_OK) tb_error_set(r->status, r->message);
    return r->status;
}

int tb_recorder_failed_checks(const tb_recorder *r) { return r->failed_checks; }

tb_board_slot *tb_recorder_slot(tb_recorder *r)
{
    return r && r->board && r->rank < r->board->ranks ? &r->board->slots[r->rank] : NULL;
}

static series *find_series(tb_recorder *r, const char *metric)
{
    for (int i = 0; i < r->n_series; i++)
        if (r->series[i].metric == metric || strcmp(r->series[i].metric, metric) == 0) return &r->series[i];
    return NULL;
}

tb_status tb_recorder_metric(tb_recorder *r, const tb_metric *metric)
{
    if (find_series(r, metric->name))
        return TB_FAIL(TB_ERR_INTERNAL, "metric '%s' is declared twice", metric->name);
    if (r->n_series == METRICS_MAX) return TB_FAIL(TB_ERR_INTERNAL, "more than %d metrics", METRICS_MAX);
    r->series[r->n_series++] = (series){.metric = metric->name};
    return r->rank == 0 ? tb_journal_metric(r->journal, metric) : TB_OK;
}

static void flush_series(tb_recorder *r, series *s)
{
    if (s->n == 0) return;
    tb_samples batch = {.metric = s->metric,
                        .rank = r->rank,
                        .warmup = r->warming,
                        .first_step = s->first_step,
                        .n = s->n,
                        .values = s->values};
    note(r, tb_journal_samples(r->journal, &batch));
    s->n = 0;
}

static void flush(tb_recorder *r)
{
    for (int i = 0; i < r->n_series; i++) flush_series(r, &r->series[i]);
    r->flushed_ns = tb_now_ns();
}

void tb_run_warming(const tb_run *run, bool warming)
{
    tb_recorder *r = run->recorder;
    if (!r) return;
    flush(r);
    r->warming = warming;
}

void tb_emit_sample(const tb_run *run, const char *metric, int64_t step, double value)
{
    tb_recorder *r = run->recorder;
    if (!r) return;
    series *s = find_series(r, metric);
    if (!s) {
        note(r,
             TB_FAIL(TB_ERR_INTERNAL, "the driver emits metric '%s', which its table does not hold", metric));
        return;
    }
    if (s->n == BATCH || (s->n > 0 && s->first_step + s->n != step)) flush_series(r, s);
    if (s->n == 0) s->first_step = step;
    s->values[s->n++] = value;
    if (tb_now_ns() - r->flushed_ns > FLUSH_NS) flush(r);
}

void tb_emit_value(const tb_run *run, const char *name, const char *unit, double value)
{
    tb_recorder *r = run->recorder;
    if (r) note(r, tb_journal_value(r->journal, &(tb_value){name, unit, r->rank, value}));
}

void tb_emit_text(const tb_run *run, const char *name, const char *text)
{
    tb_recorder *r = run->recorder;
    if (r) note(r, tb_journal_artefact(r->journal, &(tb_artefact){name, text, r->rank}));
}

void tb_emit_fact(const tb_run *run, const char *key, const char *value)
{
    tb_recorder *r = run->recorder;
    if (r) note(r, tb_journal_fact(r->journal, &(tb_fact){key, value, r->rank}));
}

void tb_emit_check(const tb_run *run, const char *name, const char *kind, double value, double limit,
                   const char *message)
{
    tb_recorder *r = run->recorder;
    if (!r) return;
    bool pass = value <= limit; /* a NaN does not pass */
    r->failed_checks += !pass;
    tb_check check = {name, kind, pass ? "" : message, value, limit, pass};
    note(r, tb_journal_check(r->journal, &check));
}

void tb_emit_event(const tb_run *run, const char *name, const char *text, int64_t track, int64_t index,
                   int64_t t0_ns, int64_t t1_ns)
{
    tb_recorder *r = run->recorder;
    if (r)
        note(r, tb_journal_event(r->journal, &(tb_event){name, text, r->rank, track, index, t0_ns, t1_ns}));
}

void tb_run_phase(const tb_run *run, const char *phase, int64_t step, int64_t total)
{
    tb_board_slot *slot = tb_recorder_slot(run->recorder);
    if (!slot) return;
    snprintf(slot->phase, sizeof slot->phase, "%s", phase);
    slot->step = step;
    slot->total = total;
    slot->changed_ns = tb_now_ns();
}

void tb_run_headline(const tb_run *run, const char *name, double value, const char *unit)
{
    tb_board_slot *slot = tb_recorder_slot(run->recorder);
    if (!slot) return;
    snprintf(slot->headline, sizeof slot->headline, "%s", name);
    snprintf(slot->unit, sizeof slot->unit, "%s", unit);
    slot->value = value;
}

/* The other ranks' records move to rank 0's journal. */
static tb_status gather_records(const tb_run *run)
{
    tb_recorder *r = run->recorder;
    if (run->ranks == 1) return TB_OK;
    const void *mine = NULL;
    void *all = NULL;
    size_t bytes = 0, all_bytes = 0;
    if (run->rank > 0) tb_journal_bytes(r->journal, &mine, &bytes);
    TB_TRY(tb_group_gather(run->group, mine, bytes, &all, &all_bytes));
    if (run->rank > 0) tb_journal_drain(r->journal);
    if (run->rank == 0 && all_bytes > 0) note(r, tb_journal_append(r->journal, all, all_bytes));
    tb_free(all);
    return TB_OK;
}

/* What the first rank that could not record says, on the ranks that could: else their sentence hides the cause. */
static tb_status take_cause(const tb_run *run, tb_status st)
{
    tb_recorder *r = run->recorder;
    char cause[sizeof r->message + 32] = "";
    void *all = NULL;
    size_t bytes = 0;
    TB_TRY(tb_group_gather(run->group, r->message, sizeof r->message, &all, &bytes));
    for (size_t rank = 0; !*cause && (rank + 1) * sizeof r->message <= bytes; rank++) {
        const char *message = (const char *)all + rank * sizeof r->message;
        if (*message) snprintf(cause, sizeof cause, "rank %zu could not record: %s", rank, message);
    }
    tb_free(all);
    TB_TRY(tb_group_broadcast(run->group, cause, sizeof cause));
    return r->status != TB_OK ? tb_recorder_status(r) : TB_FAIL(st, "%s", cause);
}

tb_status tb_run_sync(const tb_run *run, bool *stop)
{
    tb_recorder *r = run->recorder;
    flush(r);
    TB_TRY(gather_records(run));
    if (run->rank == 0) note(r, tb_journal_sync(r->journal));
    int64_t worst = (int64_t)r->status * 2 + (r->board && atomic_load(&r->board->stop));
    TB_TRY(tb_group_max(run->group, &worst));
    *stop = worst == 1;
    return worst > 1 ? take_cause(run, (tb_status)(worst / 2)) : TB_OK;
}

tb_status tb_run_barrier(const tb_run *run) { return run->ranks > 1 ? tb_group_barrier(run->group) : TB_OK; }
