/* Reads flight records after the fact, and finds the culprit:
 *   1. A rank that gave up says which rank it waited for, or which broke the rules. If that one gave up as well, the
 *      word is its; if it waited for a message when the first gave up, and until it was ended or had given up, the
 *      message's peer is next. The chain ends at a rank that did neither, or that stood meanwhile in the posting of a
 *      message: posting does not wait.
 *   2. Where nobody gave up (a rank died and the launcher ended the rest): the rank that nothing from outside ended;
 *      rather one without a record or in no operation (dead, or computing while others wait) than one in a wait.
 *   3. Where that leaves none: the rank whose oldest open operation comes first. */
#include "comm_flight.h"
#include "tb_comm.h"
#include "tb_text.h"
#include <string.h>

typedef struct state { /* of one rank */
    bool readable, closed;
    bool on_chain; /* of follow_blame() */
    int pid;
    int64_t excused_ns;
    flight_entry oldest_open; /* number 0: it waits for nothing */
    flight_entry newest_open; /* what it began last */
    flight_entry failed;      /* the first wait that it gave up; number 0: none */
    flight_entry last;        /* to end; number 0: none */
    flight_entry stood;       /* the last message that it was long in posting; number 0: none */
} state;

static bool read_file(const char *prefix, int rank, flight *to)
{
    char *path = tb_asprintf("%s.%d", prefix, rank);
    FILE *f = path ? fopen(path, "rb") : NULL;
    bool ok = f && fread(to, sizeof *to, 1, f) == 1 && to->head.magic == flight_magic && to->head.rank == rank;
    if (f) fclose(f);
    tb_free(path);
    return ok;
}

static int64_t posted_until(const flight_entry *e)
{
    if (e->state == FLIGHT_POSTING) return INT64_MAX;
    return e->open_ns ? e->open_ns : e->ended_ns;
}

static void digest(flight *f, state *out)
{
    static const int64_t long_ns = 100000000;
    *out = (state){.readable = true, .closed = f->head.closed, .pid = f->head.pid, .excused_ns = f->head.excused_ns};
    for (int i = 0; i < FLIGHT_ENTRIES; i++) {
        flight_entry *e = &f->entries[i];
        e->what[sizeof e->what - 1] = e->label[sizeof e->label - 1] = 0;
        if (!e->number || e->number > f->head.posted) continue;
        if (e->peer >= 0 && posted_until(e) - e->posted_ns >= long_ns && e->number > out->stood.number)
            memcpy(&out->stood, e, sizeof *e);
        if (e->state == FLIGHT_DONE) {
            if (e->number > out->last.number) memcpy(&out->last, e, sizeof *e);
        } else {
            if (!out->oldest_open.number || e->number < out->oldest_open.number)
                memcpy(&out->oldest_open, e, sizeof *e);
            if (e->number > out->newest_open.number) memcpy(&out->newest_open, e, sizeof *e);
            bool failed = e->state == FLIGHT_FAILED;
            if (failed && (!out->failed.number || e->number < out->failed.number)) memcpy(&out->failed, e, sizeof *e);
        }
    }
}

/* Does rank a's oldest open operation stand before b's? Of equal ones, that which never ended: others have given up. */
static bool stands_before(const flight_entry *a, const flight_entry *b)
{
    if (a->number != b->number) return a->number < b->number;
    return a->state != FLIGHT_FAILED && b->state == FLIGHT_FAILED;
}

/* Said by a rank whose word counts, of a rank that had not been ended from outside. */
static bool blames(const state *all, int rank, int ranks)
{
    const state *s = &all[rank];
    if (!s->failed.number || s->failed.blamed < 0 || s->failed.blamed >= ranks) return false;
    int64_t then = s->failed.ended_ns, its = all[s->failed.blamed].excused_ns;
    return (!s->excused_ns || then < s->excused_ns) && (!its || then < its);
}

/* Was the rank in the posting of one message for a fourth or more of the wait that was given up? */
static bool stood_still(const state *s, const flight_entry *given_up)
{
    int64_t from = s->stood.posted_ns, until = posted_until(&s->stood);
    if (!s->stood.number) return false;
    if (from < given_up->posted_ns) from = given_up->posted_ns;
    if (until > given_up->ended_ns) until = given_up->ended_ns;
    return until - from >= (given_up->ended_ns - given_up->posted_ns) / 4;
}

/* Whom a rank waited for when another gave up, and until it was ended from outside or gave up too; -1: nobody. */
static int waited_for(state *s, const flight_entry *given_up, int ranks)
{
    const flight_entry *e = &s->oldest_open;
    if (stood_still(s, given_up)) {
        memcpy(&s->newest_open, &s->stood, sizeof s->stood); /* woken since, it may have begun others */
        return -1;
    }
    bool waits = (s->excused_ns || s->failed.number) && e->number && e->state != FLIGHT_POSTING && e->peer < ranks;
    return waits && e->posted_ns <= given_up->ended_ns ? e->peer : -1;
}

/* Rule 1; -1: nobody blames anybody. Of two that say different things the one that more ranks blame; where no majority
 * does, *other is the second. */
static int follow_blame(state *s, int ranks, int *other)
{
    int at = 0, accuser = 0;
    *other = -1;
    while (at < ranks && !blames(s, at, ranks)) at++;
    if (at == ranks) return -1;
    const flight_entry *first = &s[at].failed;
    for (int next = at; next >= 0 && !s[next].on_chain;) {
        accuser = at, at = next;
        s[at].on_chain = true;
        bool word = blames(s, at, ranks), disputed = s[accuser].failed.disputed;
        next = word ? s[at].failed.blamed : disputed ? -1 : waited_for(&s[at], first, ranks);
    }
    if (!s[accuser].failed.disputed) return at;
    int votes[2] = {0};
    for (int r = 0; r < ranks; r++)
        if (blames(s, r, ranks)) votes[0] += s[r].failed.blamed == at, votes[1] += s[r].failed.blamed == accuser;
    if (votes[0] < 2 || votes[0] == votes[1]) *other = accuser;
    return votes[0] >= votes[1] ? at : accuser;
}

static int find_culprit(state *s, int ranks, int *other)
{
    int blamed = follow_blame(s, ranks, other), first = -1, waiting = -1;
    bool begun = false;
    for (int r = 0; r < ranks; r++) begun |= s[r].oldest_open.number || !s[r].readable || s[r].excused_ns;
    if (blamed >= 0) return blamed;
    for (int r = 0; begun && r < ranks; r++) {
        bool in_none = !s[r].readable || (!s[r].oldest_open.number && !s[r].closed);
        if (in_none && !s[r].excused_ns) return r;
        if (waiting < 0 && s[r].oldest_open.number && !s[r].failed.number && !s[r].excused_ns) waiting = r;
    }
    if (waiting >= 0) return waiting;
    for (int r = 0; r < ranks; r++)
        if (s[r].oldest_open.number && (first < 0 || stands_before(&s[r].oldest_open, &s[first].oldest_open)))
            first = r;
    return first;
}

static void describe(tb_text *to, const flight_entry *e)
{
    tb_text_add(to, "%s", e->what);
    if (e->peer >= 0) tb_text_add(to, " with rank %d", e->peer);
    if (e->label[0]) tb_text_add(to, " (%s)", e->label);
}

static void describe_rank(tb_text *to, const state *s, int rank, int64_t end_ns)
{
    if (!s->readable) {
        tb_text_add(to, "rank %d left no record\n", rank);
        return;
    }
    tb_text_add(to, "rank %d (process %d): ", rank, s->pid);
    if (s->oldest_open.number) {
        tb_text_add(to, "%s ", s->oldest_open.state == FLIGHT_FAILED ? "failed in" : "waits in");
        describe(to, &s->oldest_open);
        int64_t until = s->oldest_open.ended_ns ? s->oldest_open.ended_ns : end_ns;
        tb_text_add(to, " for %.1f s", (double)(until - s->oldest_open.posted_ns) * 1e-9);
    } else {
        tb_text_add(to, s->closed ? "closed in order" : "is in no communication");
    }
    if (s->last.number) {
        tb_text_add(to, "; last done: ");
        describe(to, &s->last);
    }
    tb_text_add(to, "\n");
}

static void tell_culprit(state *s, int ranks, tb_culprit *out)
{
    int other, rank = find_culprit(s, ranks, &other);
    *out = (tb_culprit){.rank = rank, .other = other};
    if (rank < 0 || !s[rank].readable) return;
    out->inside = s[rank].oldest_open.number > 0;
    const flight_entry *e = out->inside ? &s[rank].newest_open : &s[rank].last;
    if (!e->number) return;
    out->since_ns = out->inside ? e->posted_ns : e->ended_ns;
    tb_text text = {0};
    describe(&text, e);
    snprintf(out->doing, sizeof out->doing, "%s", tb_text_str(&text));
    tb_text_free(&text);
}

/* The size of the group, from whichever record can be read; 0: none. */
static int find_ranks(const char *prefix, flight *f)
{
    enum { RANKS_TRIED = 4096 };
    for (int r = 0; r < RANKS_TRIED; r++)
        if (read_file(prefix, r, f)) return f->head.size;
    return 0;
}

tb_status tb_comm_read_flight(const char *prefix, tb_text *report, tb_culprit *culprit)
{
    flight *f = tb_calloc(1, sizeof *f);
    int ranks = f ? find_ranks(prefix, f) : 0;
    state *s = tb_calloc((size_t)ranks + 1, sizeof *s);
    tb_status st = f && s ? TB_OK : tb_error_code();
    int64_t end_ns = 0;
    *culprit = (tb_culprit){.rank = -1, .other = -1};
    if (st == TB_OK && ranks <= 0) st = TB_FAIL(TB_ERR_IO, "no flight record %s.<rank> can be read", prefix);
    for (int r = 0; st == TB_OK && r < ranks; r++) {
        if (!read_file(prefix, r, f)) continue;
        digest(f, &s[r]);
        for (int i = 0; i < FLIGHT_ENTRIES; i++) {
            int64_t seen =
                f->entries[i].ended_ns > f->entries[i].posted_ns ? f->entries[i].ended_ns : f->entries[i].posted_ns;
            if (seen > end_ns) end_ns = seen;
        }
    }
    if (st == TB_OK) {
        tell_culprit(s, ranks, culprit);
        for (int r = 0; r < ranks; r++) describe_rank(report, &s[r], r, end_ns);
    }
    tb_free(f);
    tb_free(s);
    return st;
}
