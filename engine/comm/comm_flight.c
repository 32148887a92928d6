/* Reads flight records after the fact. A rank that waits has an open operation. The culprit is a rank that the others
 * wait for and that waits for nobody itself: it died, hangs or computes; where all wait, the one whose oldest open
 * operation comes first, or has not ended where the others gave up. */
#include "comm_flight.h"
#include "tb_comm.h"
#include "tb_text.h"
#include <string.h>

typedef struct state { /* of one rank */
    bool readable, closed;
    int pid;
    int64_t posted;
    flight_entry oldest_open; /* number 0: it waits for nothing */
    flight_entry last;        /* to end; number 0: none */
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

static void digest(flight *f, state *out)
{
    *out = (state){ .readable = true, .closed = f->head.closed, .pid = f->head.pid, .posted = f->head.posted };
    for (int i = 0; i < FLIGHT_ENTRIES; i++) {
        flight_entry *e = &f->entries[i];
        e->what[sizeof e->what - 1] = e->label[sizeof e->label - 1] = 0;
        if (!e->number || e->number > f->head.posted) continue;
        if (e->state == FLIGHT_DONE) {
            if (e->number > out->last.number) memcpy(&out->last, e, sizeof *e);
        } else if (!out->oldest_open.number || e->number < out->oldest_open.number) {
            memcpy(&out->oldest_open, e, sizeof *e);
        }
    }
}

/* Does rank a's oldest open operation stand before b's? Of equal ones, that which never ended: others have given up. */
static bool stands_before(const flight_entry *a, const flight_entry *b)
{
    if (a->number != b->number) return a->number < b->number;
    return a->state == FLIGHT_OPEN && b->state == FLIGHT_FAILED;
}

static int find_culprit(const state *s, int ranks)
{
    int first = -1;
    for (int r = 0; r < ranks; r++)
        if (s[r].oldest_open.number && (first < 0 || stands_before(&s[r].oldest_open, &s[first].oldest_open)))
            first = r;
    if (first < 0) return -1;
    for (int r = 0; r < ranks; r++)
        if (!s[r].readable || (!s[r].oldest_open.number && !s[r].closed)) return r;
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

tb_status tb_comm_read_flight(const char *prefix, int ranks, tb_text *report, int *culprit)
{
    flight *f = tb_calloc(1, sizeof *f);
    state *s = tb_calloc((size_t)ranks, sizeof *s);
    tb_status st = f && s ? TB_OK : tb_error_code();
    int readable = 0;
    int64_t end_ns = 0;
    *culprit = -1;
    for (int r = 0; st == TB_OK && r < ranks; r++) {
        if (!read_file(prefix, r, f)) continue;
        digest(f, &s[r]);
        readable++;
        for (int i = 0; i < FLIGHT_ENTRIES; i++) {
            int64_t seen =
                f->entries[i].ended_ns > f->entries[i].posted_ns ? f->entries[i].ended_ns : f->entries[i].posted_ns;
            if (seen > end_ns) end_ns = seen;
        }
    }
    if (st == TB_OK && !readable) st = TB_FAIL(TB_ERR_IO, "no flight record %s.<rank> can be read", prefix);
    if (st == TB_OK) {
        *culprit = find_culprit(s, ranks);
        for (int r = 0; r < ranks; r++) describe_rank(report, &s[r], r, end_ns);
    }
    tb_free(f);
    tb_free(s);
    return st;
}
