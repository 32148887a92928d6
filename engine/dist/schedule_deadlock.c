/* Reads a run that stopped early: crossed messages, a rank that waits for one whose list has ended, or the shortest
 * cycle of ranks that wait for each other (breadth first from every waiting rank). */
#include "schedule_run.h"
#include "tb_alloc.h"
#include <string.h>

static const char *action_text(const tbi_run *run, int rank, int64_t index, char out[TB_ACTION_TEXT])
{
    return tb_action_format(&run->s->lists[rank].at[index], out);
}

/* Index of the first open message of `rank` for `peer` (-1: for anyone) at or after `from`; -1: none. */
static int64_t next_open(const tbi_run *run, int rank, int peer, int64_t from)
{
    const tbi_run_rank *r = &run->ranks[rank];
    for (int64_t i = from; i < r->group_end; i++)
        if (!r->met[i - r->at] && (peer < 0 || run->s->lists[rank].at[i].peer == peer)) return i;
    return -1;
}

static bool has_ended(const tbi_run *run, int rank) { return run->ranks[rank].at == run->s->lists[rank].n; }

static tb_status crossed(const tbi_run *run)
{
    char a[TB_ACTION_TEXT], b[TB_ACTION_TEXT];
    int rank = run->crossed_rank, peer = run->s->lists[rank].at[run->crossed_at].peer;
    return TB_FAIL(TB_ERR_INVALID,
                   "schedule %s: action %lld of rank %d, %s, meets action %lld of rank %d, %s: messages of two ranks "
                   "must come in the same order on both", run->s->name, (long long)run->crossed_at, rank,
                   action_text(run, rank, run->crossed_at, a), (long long)run->crossed_peer_at, peer,
                   action_text(run, peer, run->crossed_peer_at, b));
}

/* A rank that waits for one whose list has ended; TB_OK: there is none. */
static tb_status waits_for_ended(const tbi_run *run)
{
    for (int r = 0; r < run->s->ranks; r++) {
        if (has_ended(run, r)) continue;
        for (int64_t i = next_open(run, r, -1, run->ranks[r].at); i >= 0; i = next_open(run, r, -1, i + 1)) {
            int peer = run->s->lists[r].at[i].peer;
            char text[TB_ACTION_TEXT];
            if (has_ended(run, peer))
                return TB_FAIL(TB_ERR_INVALID, "schedule %s: action %lld of rank %d, %s, waits for rank %d, whose list "
                               "has no counterpart", run->s->name, (long long)i, r, action_text(run, r, i, text), peer);
        }
    }
    return TB_OK;
}

typedef struct search {
    int *queue, *from; /* from[r]: the rank that r was reached from, -1 not reached */
    int *cycle, length; /* the shortest found so far, in the order of waiting */
} search;

static void search_from(const tbi_run *run, search *f, int start)
{
    int n = 0, done = 0;
    memset(f->from, -1, (size_t)run->s->ranks * sizeof *f->from);
    f->queue[n++] = start;
    while (done < n) {
        int r = f->queue[done++];
        for (int64_t i = next_open(run, r, -1, run->ranks[r].at); i >= 0; i = next_open(run, r, -1, i + 1)) {
            int peer = run->s->lists[r].at[i].peer;
            if (f->from[peer] >= 0) continue;
            f->from[peer] = r;
            if (peer != start) {
                f->queue[n++] = peer;
                continue;
            }
            int length = 1;
            for (int q = r; q != start; q = f->from[q]) length++;
            if (f->length && length >= f->length) return;
            f->length = length;
            for (int q = r, k = length; k-- > 0; q = f->from[q]) f->cycle[k] = q;
            return;
        }
    }
}

static tb_status describe(const tbi_run *run, const search *f)
{
    tb_text text = { 0 };
    char action[TB_ACTION_TEXT];
    enum { MAX_NAMED = 16 };
    for (int k = 0; k < f->length && k < MAX_NAMED; k++) {
        int r = f->cycle[k], peer = f->cycle[(k + 1) % f->length];
        int64_t i = next_open(run, r, peer, run->ranks[r].at);
        tb_text_add(&text, "%srank %d at action %lld, %s, waits for rank %d", k ? "; " : "", r, (long long)i,
                    action_text(run, r, i, action), peer);
    }
    if (f->length > MAX_NAMED) tb_text_add(&text, "; and %d more", f->length - MAX_NAMED);
    tb_status st = TB_FAIL(TB_ERR_INVALID, "schedule %s deadlocks: %s. Post opposite messages together, or in the "
                           "same order on both ranks", run->s->name, tb_text_str(&text));
    tb_text_free(&text);
    return st;
}

static tb_status cycle(const tbi_run *run)
{
    size_t ranks = (size_t)run->s->ranks;
    search f = { .queue = tb_calloc(ranks, sizeof(int)), .from = tb_calloc(ranks, sizeof(int)),
                 .cycle = tb_calloc(ranks, sizeof(int)) };
    tb_status st = f.queue && f.from && f.cycle ? TB_OK : tb_error_code();
    for (int r = 0; st == TB_OK && r < run->s->ranks; r++)
        if (!has_ended(run, r)) search_from(run, &f, r);
    if (st == TB_OK) st = describe(run, &f);
    tb_free(f.queue);
    tb_free(f.from);
    tb_free(f.cycle);
    return st;
}

tb_status tbi_run_verdict(const tbi_run *run, tb_schedule_rule *broken)
{
    *broken = TB_RULE_MATCH;
    if (run->crossed_rank >= 0) return crossed(run);
    TB_TRY(waits_for_ended(run));
    for (int r = 0; r < run->s->ranks; r++) {
        if (has_ended(run, r)) continue;
        *broken = TB_RULE_DEADLOCK;
        return cycle(run);
    }
    *broken = TB_RULE_NONE;
    return TB_OK;
}
