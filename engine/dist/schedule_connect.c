/* Puts messages, REDUCE and OPT into lists of plain work, the same way for every generator.
 *
 * The work is laid on a clock with the durations of the configuration and free messages. A result that another
 * rank needs is sent at the instant its work ends: the sender posts right after that work, the receiver between the
 * two pieces of work around that instant, and all messages of one rank at one instant are one group. Instants are
 * the same on all ranks and a group needs only groups of its own instant, so the lists cannot deadlock, with no
 * buffering at all; and opposite messages that meet overlap. This is also where they would be sent in the ideal
 * run. */
#include "schedule_internal.h"
#include "tb_alloc.h"
#include <string.h>

typedef struct clock_state {
    const tb_schedule *work;
    int64_t ticks[4];         /* of F, B, I, W */
    int64_t **end;            /* [ranks][n of the rank's list]: instant at which each piece of work ends */
    int64_t *next;            /* [ranks]: first piece without a time */
    int64_t *ready_f, *ready_b; /* [stages * microbatches]: end of F, of B or I; -1 not yet known */
    int *queue;               /* ranks that may be able to go on */
    bool *queued;
    int head, waiting;
} clock_state;

static void wake(clock_state *c, int rank)
{
    if (c->queued[rank]) return;
    c->queued[rank] = true;
    c->queue[(c->head + c->waiting++) % c->work->ranks] = rank;
}

/* When the operands of `a` exist: -1 not yet known. */
static int64_t operands_ready(const clock_state *c, const tb_action *a)
{
    int64_t m = c->work->microbatches, at = a->stage * m + a->microbatch;
    if (a->kind == TB_DO_F) return a->stage == 0 ? 0 : c->ready_f[at - m];
    if (a->kind == TB_DO_W) return c->ready_b[at];
    if (a->stage == c->work->stages - 1 || c->ready_f[at] < 0) return c->ready_f[at];
    return c->ready_b[at + m];
}

static void advance(clock_state *c, int rank)
{
    const tb_schedule *s = c->work;
    const tb_action_list *list = &s->lists[rank];
    for (int64_t i = c->next[rank]; i < list->n; i++) {
        const tb_action *a = &list->at[i];
        int64_t start = operands_ready(c, a);
        if (start < 0) return;
        int64_t before = i ? c->end[rank][i - 1] : 0;
        int64_t end = (start > before ? start : before) + c->ticks[a->kind];
        c->end[rank][i] = end;
        c->next[rank] = i + 1;
        int64_t at = (int64_t)a->stage * s->microbatches + a->microbatch;
        if (a->kind == TB_DO_F) {
            c->ready_f[at] = end;
            if (a->stage + 1 < s->stages) wake(c, s->placement[a->stage + 1]);
        } else if (a->kind != TB_DO_W) {
            c->ready_b[at] = end;
            if (a->stage > 0) wake(c, s->placement[a->stage - 1]);
        }
    }
}

static tb_status run_clock(clock_state *c)
{
    for (int r = 0; r < c->work->ranks; r++) wake(c, r);
    while (c->waiting) {
        int rank = c->queue[c->head];
        c->head = (c->head + 1) % c->work->ranks;
        c->waiting--;
        c->queued[rank] = false;
        advance(c, rank);
    }
    for (int r = 0; r < c->work->ranks; r++) {
        if (c->next[r] == c->work->lists[r].n) continue;
        char text[TB_ACTION_TEXT];
        return TB_FAIL(TB_ERR_INVALID, "schedule %s: rank %d can never run %s: what it needs comes after it",
                       c->work->name, r, tb_action_format(&c->work->lists[r].at[c->next[r]], text));
    }
    return TB_OK;
}

static void clock_close(clock_state *c)
{
    for (int r = 0; c->end && r < c->work->ranks; r++) tb_free(c->end[r]);
    tb_free(c->end);
    tb_free(c->next);
    tb_free(c->ready_f);
    tb_free(c->ready_b);
    tb_free(c->queue);
    tb_free(c->queued);
}

static tb_status clock_open(clock_state *c, const tb_schedule_config *config, const tb_schedule *s)
{
    size_t ranks = (size_t)s->ranks, cells = (size_t)s->stages * (size_t)s->microbatches;
    *c = (clock_state){ .work = s, .ticks = { config->f_ticks, config->i_ticks + config->w_ticks, config->i_ticks,
                                            config->w_ticks } };
    c->end = tb_calloc(ranks, sizeof *c->end);
    c->next = tb_calloc(ranks, sizeof *c->next);
    c->ready_f = tb_calloc(cells, sizeof *c->ready_f);
    c->ready_b = tb_calloc(cells, sizeof *c->ready_b);
    c->queue = tb_calloc(ranks, sizeof *c->queue);
    c->queued = tb_calloc(ranks, sizeof *c->queued);
    if (!c->end || !c->next || !c->ready_f || !c->ready_b || !c->queue || !c->queued) return tb_error_code();
    memset(c->ready_f, -1, cells * sizeof *c->ready_f);
    memset(c->ready_b, -1, cells * sizeof *c->ready_b);
    for (size_t r = 0; r < ranks; r++) {
        c->end[r] = tb_calloc((size_t)s->lists[r].n, sizeof **c->end);
        if (!c->end[r]) return tb_error_code();
    }
    return TB_OK;
}

/* The rank that must get the result of `a`, or -1: nobody else. */
static int receiver(const tb_schedule *s, int rank, const tb_action *a)
{
    int stage = a->kind == TB_DO_F ? a->stage + 1 : a->kind == TB_DO_W ? -1 : a->stage - 1;
    if (stage < 0 || stage >= s->stages || s->placement[stage] == rank) return -1;
    return s->placement[stage];
}

/* A rank's own work, or the work of a neighbour that sends to it: a cursor over messages in the order of time. */
typedef struct source {
    int rank;
    int64_t next;
} source;

typedef struct rank_build {
    const clock_state *clock;
    int rank;
    tb_action_list list;
    source *sources; /* [0]: the rank itself (its sends); others: ranks it receives from, ascending */
    int n_sources;
} rank_build;

/* Moves the cursor to the next message to or from this rank; its instant, or INT64_MAX at the end. For its own sends
 * only work before `limit` counts. */
static int64_t next_instant(const rank_build *b, source *from, int64_t limit)
{
    const tb_schedule *s = b->clock->work;
    const tb_action_list *list = &s->lists[from->rank];
    bool own = from->rank == b->rank;
    for (; from->next < (own ? limit : list->n); from->next++) {
        int to = receiver(s, from->rank, &list->at[from->next]);
        if (own ? to >= 0 : to == b->rank) return b->clock->end[from->rank][from->next];
    }
    return INT64_MAX;
}

static tb_action message_of(const rank_build *b, const source *from)
{
    const tb_schedule *s = b->clock->work;
    const tb_action *work = &s->lists[from->rank].at[from->next];
    bool forward = work->kind == TB_DO_F;
    tb_action a = { .stage = work->stage, .microbatch = work->microbatch };
    if (from->rank == b->rank) {
        a.kind = forward ? TB_SEND_F : TB_SEND_B;
        a.peer = (uint16_t)receiver(s, b->rank, work);
    } else {
        a.kind = forward ? TB_RECV_F : TB_RECV_B;
        a.stage = (uint16_t)(forward ? work->stage + 1 : work->stage - 1);
        a.peer = (uint16_t)from->rank;
    }
    return a;
}

/* Emits the groups of all instants up to `until`; own work counts up to index `limit`. */
static void emit_messages(rank_build *b, int64_t until, int64_t limit)
{
    for (;;) {
        int64_t now = INT64_MAX;
        for (int i = 0; i < b->n_sources; i++) {
            int64_t t = next_instant(b, &b->sources[i], limit);
            if (t < now) now = t;
        }
        if (now == INT64_MAX || now > until) return;
        bool joined = false;
        for (int i = 0; i < b->n_sources; i++) {
            if (next_instant(b, &b->sources[i], limit) != now) continue;
            tb_action a = message_of(b, &b->sources[i]);
            a.joined = joined;
            joined = true;
            b->list.at[b->list.n++] = a;
            b->sources[i].next++;
        }
    }
}

static void add_source(rank_build *b, int rank)
{
    int at = b->n_sources;
    for (int i = 1; i < at; i++)
        if (b->sources[i].rank == rank) return;
    for (; at > 1 && b->sources[at - 1].rank > rank; at--) b->sources[at] = b->sources[at - 1];
    b->sources[at] = (source){ .rank = rank };
    b->n_sources++;
}

static void find_sources(rank_build *b)
{
    const tb_schedule *s = b->clock->work;
    b->sources[b->n_sources++] = (source){ .rank = b->rank };
    for (int stage = 0; stage < s->stages; stage++) {
        if (s->placement[stage] != b->rank) continue;
        if (stage > 0 && s->placement[stage - 1] != b->rank) add_source(b, s->placement[stage - 1]);
        if (stage + 1 < s->stages && s->placement[stage + 1] != b->rank) add_source(b, s->placement[stage + 1]);
    }
}

/* Messages between the pieces of work; REDUCE of a stage behind its last weight gradient; all OPT at the end. */
static void emit_rank(rank_build *b, int64_t *weight_grads, uint16_t *done)
{
    const tb_schedule *s = b->clock->work;
    const tb_action_list *work = &s->lists[b->rank];
    int n_done = 0, n_reduced = 0;
    for (int64_t i = 0; i <= work->n; i++) {
        int64_t start = i < work->n ? b->clock->end[b->rank][i] - b->clock->ticks[work->at[i].kind] : INT64_MAX;
        emit_messages(b, start, i);
        for (; n_reduced < n_done; n_reduced++)
            b->list.at[b->list.n++] = (tb_action){ .kind = TB_DO_REDUCE, .stage = done[n_reduced] };
        if (i == work->n) break;
        const tb_action *a = &work->at[i];
        b->list.at[b->list.n++] = *a;
        if (tbi_is_weight_grad(a->kind) && ++weight_grads[a->stage] == s->microbatches) done[n_done++] = a->stage;
    }
    for (int i = 0; i < n_done; i++)
        b->list.at[b->list.n++] = (tb_action){ .kind = TB_DO_OPT, .stage = done[i] };
}

static tb_status build_rank(const clock_state *clock, int rank, tb_action_list *out)
{
    const tb_schedule *s = clock->work;
    rank_build b = { .clock = clock, .rank = rank };
    tb_status st = TB_OK;
    int64_t *weight_grads = tb_calloc((size_t)s->stages, sizeof *weight_grads);
    uint16_t *done = tb_calloc((size_t)s->stages, sizeof *done);
    b.sources = tb_calloc(2 * (size_t)s->stages + 1, sizeof *b.sources);
    if (!weight_grads || !done || !b.sources) {
        st = tb_error_code();
        goto cleanup;
    }
    find_sources(&b);
    /* a piece of work has at most one message in and one out */
    TB_GO(tbi_schedule_reserve(&b.list, 3 * s->lists[rank].n + 2 * s->stages));
    emit_rank(&b, weight_grads, done);
    *out = b.list;
    b.list.at = NULL;
cleanup:
    tb_free(b.list.at);
    tb_free(b.sources);
    tb_free(done);
    tb_free(weight_grads);
    return st;
}

tb_status tbi_schedule_connect(const tb_schedule_config *config, tb_schedule *s)
{
    clock_state clock;
    tb_action_list *lists = NULL;
    tb_status st;
    TB_GO(clock_open(&clock, config, s));
    TB_GO(run_clock(&clock));
    lists = tb_calloc((size_t)s->ranks, sizeof *lists);
    if (!lists) {
        st = tb_error_code();
        goto cleanup;
    }
    for (int r = 0; r < s->ranks; r++) TB_GO(build_rank(&clock, r, &lists[r]));
    for (int r = 0; r < s->ranks; r++) {
        tb_action_list work = s->lists[r];
        s->lists[r] = lists[r];
        lists[r] = work;
    }
cleanup:
    clock_close(&clock);
    for (int r = 0; lists && r < s->ranks; r++) tb_free(lists[r].at);
    tb_free(lists);
    return st;
}
