/* The zero-buffering run (schedule_run.h). Each rank has at most one group posted, and earlier messages between two
 * ranks have met before either posts another group; so the k-th send from a to b meets the k-th receive of b from a
 * simply by taking the first open one on the other side. */
#include "schedule_run.h"
#include "tb_alloc.h"
#include <string.h>

static int64_t group_end(const tb_action_list *list, int64_t at)
{
    int64_t end = at + 1;
    while (end < list->n && list->at[end].joined) end++;
    return end;
}

tb_status tbi_run_open(tbi_run *run, const tb_schedule *s, const tbi_run_hooks *hooks, void *arg)
{
    size_t ranks = (size_t)s->ranks;
    *run = (tbi_run){ .s = s, .hooks = hooks, .arg = arg, .crossed_rank = -1 };
    run->ranks = tb_calloc(ranks, sizeof *run->ranks);
    run->queue = tb_calloc(ranks, sizeof *run->queue);
    run->queued = tb_calloc(ranks, sizeof *run->queued);
    if (!run->ranks || !run->queue || !run->queued) return tb_error_code();
    for (size_t r = 0; r < ranks; r++) {
        const tb_action_list *list = &s->lists[r];
        int64_t longest = 1;
        for (int64_t i = 0, end; i < list->n; i = end) {
            end = group_end(list, i);
            if (end - i > longest) longest = end - i;
        }
        run->ranks[r].met = tb_calloc((size_t)longest, 1);
        if (!run->ranks[r].met) return tb_error_code();
    }
    return TB_OK;
}

void tbi_run_close(tbi_run *run)
{
    for (int r = 0; run->ranks && r < run->s->ranks; r++) tb_free(run->ranks[r].met);
    tb_free(run->ranks);
    tb_free(run->queue);
    tb_free(run->queued);
}

static void wake(tbi_run *run, int rank)
{
    if (run->queued[rank]) return;
    run->queued[rank] = true;
    run->queue[(run->head + run->waiting++) % run->s->ranks] = rank;
}

/* The first message of rank's posted group that has not met, goes the wanted way and is for `peer`; -1 if none. */
static int64_t find_open(const tbi_run *run, int rank, int peer, bool want_send)
{
    const tbi_run_rank *r = &run->ranks[rank];
    for (int64_t i = r->at; i < r->group_end; i++) {
        const tb_action *a = &run->s->lists[rank].at[i];
        if (!r->met[i - r->at] && a->peer == peer && tb_action_is_send(a) == want_send) return i;
    }
    return -1;
}

static void try_meet(tbi_run *run, int rank, int64_t i)
{
    const tb_action *mine = &run->s->lists[rank].at[i];
    bool send = tb_action_is_send(mine);
    int peer = mine->peer;
    int64_t j = find_open(run, peer, rank, !send);
    if (j < 0) return;
    const tb_action *other = &run->s->lists[peer].at[j];
    if (!(send ? tbi_messages_agree(mine, other) : tbi_messages_agree(other, mine))) {
        run->crossed_rank = rank;
        run->crossed_at = i;
        run->crossed_peer_at = j;
        return;
    }
    tbi_run_rank *a = &run->ranks[rank], *b = &run->ranks[peer];
    a->met[i - a->at] = b->met[j - b->at] = 1;
    a->open--;
    b->open--;
    if (run->hooks) {
        if (send) run->hooks->meet(run->arg, rank, i, peer, j);
        else run->hooks->meet(run->arg, peer, j, rank, i);
    }
    if (b->open == 0) wake(run, peer);
}

static void post(tbi_run *run, int rank)
{
    tbi_run_rank *r = &run->ranks[rank];
    r->group_end = group_end(&run->s->lists[rank], r->at);
    r->open = (int)(r->group_end - r->at);
    memset(r->met, 0, (size_t)r->open);
    if (run->hooks) run->hooks->post(run->arg, rank, r->at, r->group_end);
    for (int64_t i = r->at; i < r->group_end && run->crossed_rank < 0; i++) try_meet(run, rank, i);
}

static void advance(tbi_run *run, int rank)
{
    tbi_run_rank *r = &run->ranks[rank];
    const tb_action_list *list = &run->s->lists[rank];
    while (run->crossed_rank < 0) {
        if (r->group_end > r->at) {
            if (r->open) return;
            if (run->hooks) run->hooks->done(run->arg, rank, r->at, r->group_end);
            r->at = r->group_end;
        }
        if (r->at == list->n) return;
        if (tb_action_is_message(&list->at[r->at])) {
            post(run, rank);
        } else {
            if (run->hooks) run->hooks->work(run->arg, rank, r->at);
            r->at++;
        }
    }
}

void tbi_run_go(tbi_run *run)
{
    for (int r = 0; r < run->s->ranks; r++) wake(run, r);
    while (run->waiting && run->crossed_rank < 0) {
        int rank = run->queue[run->head];
        run->head = (run->head + 1) % run->s->ranks;
        run->waiting--;
        run->queued[rank] = false;
        advance(run, rank);
    }
}
