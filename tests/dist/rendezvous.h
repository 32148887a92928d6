/* Really runs a schedule: one thread per rank (two with streams), messages by rendezvous with nothing buffered, a
 * deadline on every wait. The oracle of the checker: it knows no rule, only what physically happens.
 *
 * Each boundary tensor, activation and gradient is a block of its rank's own heap that holds one 64-bit number; work
 * mixes numbers (not commutative), so any missing, doubled or reordered step ends in other weights, an empty or an
 * occupied slot, a block left over, or a wait that nothing can end. */
#pragma once
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_schedule.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef enum verdict { RAN, WRONG, STUCK } verdict;

typedef struct rendezvous_options {
    bool streams;        /* a second thread per rank runs messages and REDUCE, in order, beside the work */
    bool only_deadline;  /* do not look for waits that nothing can end: let the deadline find them */
    int64_t deadline_ns; /* of each wait */
} rendezvous_options;

typedef struct rendezvous_result {
    verdict verdict;
    char why[160];
    int64_t held_bytes[64], inside_bytes[64]; /* per rank, measured; without streams */
} rendezvous_result;

enum { IN, ACT, KEPT, OUT, GRAD_OUT, GRAD_IN, SLOTS };

typedef struct posted { /* a posted message: its block, and whether it has met its counterpart */
    uint64_t *block;
    struct posted *next;
    bool met;
} posted;

typedef struct channel { /* from one rank to another: at most one of the queues is not empty */
    posted *sends, *recvs;
} channel;

typedef struct runner {
    struct world *w;
    int rank;
    int stream;       /* -1: everything, 0: work, 1: messages and REDUCE */
    pthread_t thread;
    pthread_cond_t wake;
    bool blocked;
    posted *group;       /* waits until all `n_group` have met ... */
    int64_t n_group;
    int64_t waits_for;   /* ... or until this action of the list is done (-1) */
} runner;

typedef struct world {
    const tb_schedule *s;
    const tb_stage_bytes *bytes;
    rendezvous_options o;
    pthread_mutex_t lock;
    uint64_t **slots[SLOTS]; /* [stages * microbatches], touched by the stage's owner only */
    uint64_t *weights, *grads;
    channel *channels;       /* [ranks * ranks] */
    tb_heap **heaps;
    bool **done;             /* [ranks][actions] */
    runner *runners;
    int n_runners, live, blocked;
    rendezvous_result *result;
} world;

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9E3779B97F4A7C15u + (b ^ 0xD1B54A32D192ED03u);
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    return x ^ (x >> 29);
}
static inline uint64_t start_weight(int stage) { return mix(77, (uint64_t)stage); }
static inline uint64_t loss_grad(uint64_t act) { return mix(act, 5); }
static inline uint64_t input_grad(uint64_t act, uint64_t g, uint64_t w) { return mix(mix(act, g), w); }
static inline uint64_t weight_grad(uint64_t act, uint64_t g) { return mix(g, act); }

/* What plain accumulation gives. */
static inline void reference_weights(int stages, int microbatches, uint64_t *weights)
{
    uint64_t *act = calloc((size_t)stages, sizeof *act), *grads = calloc((size_t)stages, sizeof *grads);
    for (int s = 0; s < stages; s++) weights[s] = start_weight(s);
    for (int i = 0; i < microbatches; i++) {
        uint64_t x = mix(1, (uint64_t)i);
        for (int s = 0; s < stages; s++) x = act[s] = mix(weights[s], x);
        uint64_t g = loss_grad(x);
        for (int s = stages - 1; s >= 0; s--) {
            grads[s] = mix(grads[s], weight_grad(act[s], g));
            g = input_grad(act[s], g, weights[s]);
        }
    }
    for (int s = 0; s < stages; s++) weights[s] = mix(weights[s], mix(grads[s], 9));
    free(act);
    free(grads);
}

static inline bool ended(const world *w) { return w->result->verdict != RAN; }

static inline void end_all(world *w, verdict v, const char *why, int rank, int64_t index)
{
    if (ended(w)) return;
    char text[TB_ACTION_TEXT] = "end";
    if (index < w->s->lists[rank].n) tb_action_format(&w->s->lists[rank].at[index], text);
    w->result->verdict = v;
    snprintf(w->result->why, sizeof w->result->why, "rank %d, %s: %s", rank, text, why);
    for (int i = 0; i < w->n_runners; i++) pthread_cond_signal(&w->runners[i].wake);
}

static inline bool may_go(const runner *r)
{
    if (r->waits_for >= 0) return r->w->done[r->rank][r->waits_for];
    for (int64_t i = 0; i < r->n_group; i++)
        if (!r->group[i].met) return false;
    return true;
}

/* Nothing can change any more when every live thread is blocked and none may go. */
static inline bool nothing_can_change(const world *w)
{
    if (w->blocked < w->live) return false;
    for (int i = 0; i < w->n_runners; i++)
        if (w->runners[i].blocked && may_go(&w->runners[i])) return false;
    return w->live > 0;
}

static inline void block(runner *r, int64_t index)
{
    world *w = r->w;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + w->o.deadline_ns;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    r->blocked = true;
    w->blocked++;
    while (!ended(w) && !may_go(r)) {
        if (!w->o.only_deadline && nothing_can_change(w))
            end_all(w, STUCK, "nothing can end this wait", r->rank, index);
        else if (pthread_cond_timedwait(&r->wake, &w->lock, &until) != 0 && !may_go(r))
            end_all(w, STUCK, "deadline passed", r->rank, index);
    }
    r->blocked = false;
    w->blocked--;
}

static inline void wake_rank(world *w, int rank)
{
    for (int i = 0; i < w->n_runners; i++)
        if (w->runners[i].rank == rank) pthread_cond_signal(&w->runners[i].wake);
}

/* ---- slots ---- */
typedef struct step { /* the action being run */
    runner *r;
    int64_t index;
    const tb_action *a;
} step;

static inline uint64_t **slot(const step *t, int which, int stage)
{
    return &t->r->w->slots[which][(int64_t)stage * t->r->w->s->microbatches + t->a->microbatch];
}

static inline void wrong(const step *t, const char *why) { end_all(t->r->w, WRONG, why, t->r->rank, t->index); }

static inline void put(const step *t, int which, int stage, int64_t bytes, uint64_t value)
{
    uint64_t **to = slot(t, which, stage);
    if (*to) {
        wrong(t, "the place of its result is occupied");
        return;
    }
    *to = tb_heap_alloc(t->r->w->heaps[t->r->rank], (size_t)bytes, TB_MEM_ACT);
    **to = value;
}

static inline uint64_t look(const step *t, int which, int stage)
{
    uint64_t **from = slot(t, which, stage);
    if (*from) return **from;
    wrong(t, "what it needs is not there");
    return 0;
}

static inline void drop(const step *t, int which, int stage)
{
    uint64_t **from = slot(t, which, stage);
    tb_heap_free(t->r->w->heaps[t->r->rank], *from);
    *from = NULL;
}

/* ---- work ---- */
static inline int owner(const world *w, int stage)
{
    return stage >= 0 && stage < w->s->stages ? w->s->placement[stage] : -1;
}

static inline void forward(const step *t, int s)
{
    world *w = t->r->w;
    const tb_stage_bytes *b = w->bytes;
    uint64_t x = s ? look(t, IN, s) : mix(1, (uint64_t)t->a->microbatch);
    uint64_t y = mix(w->weights[s], x);
    put(t, ACT, s, b[s].act - b[s].deferred, y);
    put(t, KEPT, s, b[s].deferred, y);
    if (owner(w, s + 1) == t->r->rank) put(t, IN, s + 1, b[s + 1].input, y);
    else if (s + 1 < w->s->stages) put(t, OUT, s, b[s + 1].input, y);
    if (s) drop(t, IN, s);
}

static inline void backward(const step *t, int s)
{
    world *w = t->r->w;
    bool last = s + 1 == w->s->stages;
    uint64_t act = look(t, ACT, s), g = last ? loss_grad(act) : look(t, GRAD_OUT, s);
    if (ended(w)) return;
    uint64_t gx = input_grad(act, g, w->weights[s]);
    **slot(t, KEPT, s) = weight_grad(act, g);
    if (owner(w, s - 1) == t->r->rank) put(t, GRAD_OUT, s - 1, w->bytes[s].input, gx);
    else if (s > 0) put(t, GRAD_IN, s, w->bytes[s].input, gx);
    drop(t, ACT, s);
    if (!last) drop(t, GRAD_OUT, s);
}

static inline void add_weight(const step *t, int s)
{
    if (*slot(t, ACT, s)) wrong(t, "W before I");
    t->r->w->grads[s] = mix(t->r->w->grads[s], look(t, KEPT, s));
    drop(t, KEPT, s);
}

static inline void work(const step *t)
{
    world *w = t->r->w;
    int s = t->a->stage;
    if (owner(w, s) != t->r->rank) {
        wrong(t, "this rank has no such stage");
        return;
    }
    switch (t->a->kind) {
    case TB_DO_F: forward(t, s); return;
    case TB_DO_I: backward(t, s); return;
    case TB_DO_B:
        backward(t, s);
        if (!ended(w)) add_weight(t, s);
        return;
    case TB_DO_W: add_weight(t, s); return;
    case TB_DO_REDUCE: w->grads[s] = mix(w->grads[s], 9); return;
    default:
        w->weights[s] = mix(w->weights[s], w->grads[s]);
        w->grads[s] = 0;
    }
}

/* ---- messages ---- */
static inline void append(posted **queue, posted *p)
{
    while (*queue) queue = &(*queue)->next;
    *queue = p;
}

static inline void post_message(const step *t, posted *p)
{
    world *w = t->r->w;
    int s = t->a->stage, me = t->r->rank, peer = t->a->peer;
    bool send = tb_action_is_send(t->a);
    if (owner(w, s) != me) {
        wrong(t, "this rank has no such stage");
        return;
    }
    int which = t->a->kind == TB_SEND_F   ? OUT
                : t->a->kind == TB_SEND_B ? GRAD_IN
                : t->a->kind == TB_RECV_F ? IN
                                          : GRAD_OUT;
    int edge = t->a->kind == TB_SEND_F || t->a->kind == TB_RECV_B ? s + 1 : s;
    if (send) look(t, which, s);
    else put(t, which, s, edge > 0 && edge < w->s->stages ? w->bytes[edge].input : 8, 0);
    if (ended(w)) return;
    *p = (posted){ .block = *slot(t, which, s) };
    channel *c = &w->channels[send ? me * w->s->ranks + peer : peer * w->s->ranks + me];
    posted **others = send ? &c->recvs : &c->sends, *other = *others;
    if (!other) {
        append(send ? &c->sends : &c->recvs, p);
        return;
    }
    *others = other->next;
    *(send ? other : p)->block = *(send ? p : other)->block;
    p->met = other->met = true;
    wake_rank(w, peer);
}

static inline void messages(runner *r, int64_t first, int64_t end)
{
    world *w = r->w;
    posted *group = calloc((size_t)(end - first), sizeof *group);
    const tb_action *list = w->s->lists[r->rank].at;
    for (int64_t i = first; i < end && !ended(w); i++) {
        if (tb_action_is_message(&list[i])) post_message(&(step){ r, i, &list[i] }, &group[i - first]);
        else end_all(w, WRONG, "work inside a group", r->rank, i);
    }
    r->group = group;
    r->n_group = end - first;
    r->waits_for = -1;
    if (!ended(w)) block(r, first);
    for (int64_t i = first; i < end && !ended(w); i++)
        if (tb_action_is_send(&list[i]))
            drop(&(step){ r, i, &list[i] }, list[i].kind == TB_SEND_F ? OUT : GRAD_IN, list[i].stage);
    r->n_group = 0;
    if (ended(w)) return; /* others may still look at the group: world_close frees it */
    r->group = NULL;
    free(group);
}

static inline bool on_comm_stream(const tb_action *a) { return tb_action_is_message(a) || a->kind == TB_DO_REDUCE; }

/* With streams: the last action of the other stream, before `index` in the list, that touches the same tensors; this
 * one must wait for it. -1: none. */
static inline int64_t event_for(const tb_action_list *list, int64_t index)
{
    const tb_action *a = &list->at[index];
    for (int64_t i = index - 1; i >= 0; i--) {
        const tb_action *b = &list->at[i];
        if (a->stage != b->stage || on_comm_stream(a) == on_comm_stream(b)) continue;
        if (a->kind >= TB_DO_REDUCE || b->kind >= TB_DO_REDUCE || a->microbatch == b->microbatch) return i;
    }
    return -1;
}

static inline void *run_list(void *arg)
{
    runner *r = arg;
    world *w = r->w;
    const tb_action_list *list = &w->s->lists[r->rank];
    pthread_mutex_lock(&w->lock);
    for (int64_t i = 0, end; i < list->n && !ended(w); i = end) {
        const tb_action *a = &list->at[i];
        for (end = i + 1; end < list->n && list->at[end].joined; end++) continue;
        bool comm = end > i + 1 || on_comm_stream(a);
        if (r->stream >= 0 && r->stream != comm) continue;
        for (int64_t k = i; r->stream >= 0 && k < end && !ended(w); k++) {
            r->waits_for = event_for(list, k);
            if (r->waits_for >= 0) block(r, k);
        }
        if (ended(w)) break;
        if (tb_action_is_message(a) || end > i + 1) messages(r, i, end);
        else work(&(step){ r, i, a });
        for (int64_t k = i; k < end; k++) w->done[r->rank][k] = true;
        if (r->stream >= 0) wake_rank(w, r->rank);
        if (r->stream < 0) {
            tb_mem_stats m;
            tb_heap_stats(w->heaps[r->rank], &m);
            if (m.live_bytes > w->result->held_bytes[r->rank]) w->result->held_bytes[r->rank] = m.live_bytes;
        }
    }
    w->live--;
    if (!w->o.only_deadline && nothing_can_change(w))
        end_all(w, STUCK, "nothing can end the others' waits", r->rank, list->n);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static inline void world_open(world *w)
{
    const tb_schedule *s = w->s;
    size_t cells = (size_t)s->stages * (size_t)s->microbatches, ranks = (size_t)s->ranks;
    pthread_mutex_init(&w->lock, NULL);
    for (int k = 0; k < SLOTS; k++) w->slots[k] = calloc(cells, sizeof *w->slots[k]);
    w->weights = calloc((size_t)s->stages, sizeof *w->weights);
    w->grads = calloc((size_t)s->stages, sizeof *w->grads);
    w->channels = calloc(ranks * ranks, sizeof *w->channels);
    w->heaps = calloc(ranks, sizeof *w->heaps);
    w->done = calloc(ranks, sizeof *w->done);
    w->runners = calloc(2 * ranks, sizeof *w->runners);
    for (int i = 0; i < s->stages; i++) w->weights[i] = start_weight(i);
    for (int r = 0; r < s->ranks; r++) {
        w->heaps[r] = tb_heap_create();
        w->done[r] = calloc((size_t)s->lists[r].n + 1, sizeof *w->done[r]);
        for (int k = 0; k <= (int)w->o.streams; k++)
            w->runners[w->n_runners++] = (runner){.w = w, .rank = r, .stream = w->o.streams ? k : -1, .waits_for = -1};
    }
    w->live = w->n_runners;
}

static inline void world_close(world *w)
{
    for (int k = 0; k < SLOTS; k++) {
        for (int64_t i = 0; i < (int64_t)w->s->stages * w->s->microbatches; i++)
            if (w->slots[k][i]) tb_heap_free(w->heaps[w->s->placement[i / w->s->microbatches]], w->slots[k][i]);
        free(w->slots[k]);
    }
    for (int r = 0; r < w->s->ranks; r++) {
        tb_heap_destroy(w->heaps[r]);
        free(w->done[r]);
    }
    for (int i = 0; i < w->n_runners; i++) {
        pthread_cond_destroy(&w->runners[i].wake);
        free(w->runners[i].group);
    }
    pthread_mutex_destroy(&w->lock);
    free(w->runners);
    free(w->done);
    free(w->heaps);
    free(w->channels);
    free(w->grads);
    free(w->weights);
}

/* At the end: nothing left over, and the weights of plain accumulation. */
static inline void judge(world *w)
{
    uint64_t *wanted = calloc((size_t)w->s->stages, sizeof *wanted);
    reference_weights(w->s->stages, w->s->microbatches, wanted);
    for (int r = 0; r < w->s->ranks; r++) {
        tb_mem_stats m;
        tb_heap_stats(w->heaps[r], &m);
        w->result->inside_bytes[r] = m.peak_bytes;
        if (m.live_blocks) end_all(w, WRONG, "something is left over", r, w->s->lists[r].n);
    }
    for (int s = 0; s < w->s->stages; s++)
        if (w->weights[s] != wanted[s] || w->grads[s]) end_all(w, WRONG, "other weights", w->s->placement[s], 0);
    free(wanted);
}

static inline void rendezvous_run(const tb_schedule *s, const tb_stage_bytes *bytes, rendezvous_options o,
                                  rendezvous_result *result)
{
    world w = { .s = s, .bytes = bytes, .o = o, .result = result };
    *result = (rendezvous_result){ .verdict = RAN };
    world_open(&w);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    for (int i = 0; i < w.n_runners; i++) pthread_cond_init(&w.runners[i].wake, &monotonic);
    for (int i = 0; i < w.n_runners; i++)
        pthread_create(&w.runners[i].thread, NULL, run_list, &w.runners[i]);
    for (int i = 0; i < w.n_runners; i++) pthread_join(w.runners[i].thread, NULL);
    if (result->verdict == RAN) judge(&w);
    world_close(&w);
}
