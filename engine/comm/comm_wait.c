/* Waiting for requests, with deadlines: spins, then gives the core away; who waits too long says for whom. */
#include "comm_internal.h"
#include "tb_log.h"
#include <immintrin.h>
#include <sched.h>
#include <stdio.h>

void tbi_relax(unsigned *turns)
{
    if (++*turns < 2000)
        _mm_pause();
    else
        sched_yield();
}

/* "rank 0 of 2: allreduce #17 of 1024 f32 (step 4, bucket 2) waited 2.0 s for rank 1" */
static void describe_wait(const tb_comm *c, int64_t waited_ns, int missing, char *out, size_t bytes)
{
    char who[32] = "another rank";
    if (missing >= 0) snprintf(who, sizeof who, "rank %d", missing);
    snprintf(out, bytes, "rank %d of %d: %s%s%s%s waited %.1f s for %s", c->rank, c->size, c->doing,
             c->label[0] ? " (" : "", c->label, c->label[0] ? ")" : "", (double)waited_ns * 1e-9, who);
}

enum { WAIT_TEXT = 320 };

static tb_status too_late(tb_comm *c, const void *op, int64_t waited_ns)
{
    char text[WAIT_TEXT];
    c->blamed = c->backend->missing(c, op);
    describe_wait(c, waited_ns, c->blamed, text, sizeof text);
    return TB_FAIL(TB_ERR_TIMEOUT, "%s", text);
}

/* A wait that ended well, but took more than this part of the deadline, is told: the rank lives and is slow. */
enum { SLOW_PART = 4 };

static void tell_slow(const tb_comm *c, int64_t waited_ns, int missing)
{
    char text[WAIT_TEXT];
    describe_wait(c, waited_ns, missing, text, sizeof text);
    tb_log_write(TB_LOG_WARN, "%s, which is slow; the deadline is %.1f s", text, (double)c->deadline_ns * 1e-9);
}

const tb_comm *tbi_comm_accuser(const tb_comm *c)
{
    while (c->blamed < 0 && c->inner) c = c->inner;
    return c;
}

tb_status tbi_comm_wait_until(tb_comm *c, tb_request *request, int64_t until_ns)
{
    if (!request->op) return TB_OK;
    int64_t start = tb_now_ns(), now = start;
    unsigned turns = 0;
    bool done = false, slow = false;
    int missing = -1;
    tb_status st = TB_OK;
    for (;;) {
        st = c->backend->poll(c, request->op, &done);
        if (st != TB_OK || done) break;
        tbi_relax(&turns);
        if (turns % 64) continue;
        now = tb_now_ns();
        if (!slow && now - start > c->deadline_ns / SLOW_PART) {
            slow = true;
            missing = c->backend->missing(c, request->op);
        }
        if (now < until_ns) continue;
        st = too_late(c, request->op, now - start);
        break;
    }
    if (st != TB_OK && c->backend->give_up) c->backend->give_up(c, request->op);
    now = tb_now_ns();
    if (slow && st == TB_OK) tell_slow(c, now - start, missing);
    c->stats.wait_ns += now - start;
    request->op = NULL;
    return st;
}

tb_status tb_comm_wait(tb_comm *c, tb_request *request, int64_t deadline_ns)
{
    return tb_comm_wait_all(c, request, 1, deadline_ns);
}

tb_status tb_comm_wait_all(tb_comm *c, tb_request *requests, int n, int64_t deadline_ns)
{
    TB_TRY(tbi_comm_usable(c));
    int64_t until = tb_now_ns() + (deadline_ns > 0 ? deadline_ns : c->deadline_ns);
    for (int i = 0; i < n; i++) TB_TRY(tbi_comm_keep_failure(c, tbi_comm_wait_until(c, &requests[i], until)));
    return TB_OK;
}

tb_status tb_comm_poll(tb_comm *c, tb_request *request, bool *done)
{
    *done = request && !request->op;
    TB_TRY(tbi_comm_usable(c));
    if (*done) return TB_OK;
    tb_status st = tbi_comm_keep_failure(c, c->backend->poll(c, request ? request->op : NULL, done));
    if (request && *done) request->op = NULL;
    return st;
}
