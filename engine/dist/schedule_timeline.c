/* Merges the memory changes of two streams (schedule_timeline.h). At one instant, what is given back counts first. */
#include "schedule_timeline.h"
#include "tb_alloc.h"
#include <math.h>
#include <string.h>

tb_status tbi_timeline_add(tbi_timeline *t, bool comm, double at, int64_t bytes)
{
    tbi_changes *q = &t->streams[comm];
    if (q->n == q->capacity && q->head > q->n / 2) {
        memmove(q->at, q->at + q->head, (size_t)(q->n - q->head) * sizeof *q->at);
        q->n -= q->head;
        q->head = 0;
    }
    if (q->n == q->capacity) {
        int64_t capacity = q->capacity ? 2 * q->capacity : 16;
        tbi_change *grown = tb_realloc(q->at, (size_t)capacity * sizeof *grown);
        if (!grown) return tb_error_code();
        q->at = grown;
        q->capacity = capacity;
    }
    q->at[q->n++] = (tbi_change){ .at = at, .bytes = bytes };
    return TB_OK;
}

static const tbi_change *head(const tbi_changes *q) { return q->head < q->n ? &q->at[q->head] : NULL; }

void tbi_timeline_settle(tbi_timeline *t, double work_free, double comm_free)
{
    double free_at[2] = { work_free, comm_free };
    for (;;) {
        const tbi_change *a = head(&t->streams[0]), *b = head(&t->streams[1]);
        double ta = a ? a->at : (double)INFINITY, tb = b ? b->at : (double)INFINITY;
        bool comm = tb < ta || (tb == ta && b && b->bytes < 0);
        const tbi_change *c = comm ? b : a;
        if (!c || c->at > free_at[!comm]) return;
        t->held += c->bytes;
        t->streams[comm].head++;
        if (t->held > t->peak_bytes) {
            t->peak_bytes = t->held;
            t->peak_at = c->at;
        }
        if (t->on_memory) t->on_memory(t->arg, t->rank, c->at, t->held);
    }
}

void tbi_timeline_close(tbi_timeline *t)
{
    tb_free(t->streams[0].at);
    tb_free(t->streams[1].at);
}
