/* Ranks as threads of one process. A sender posts the address of its data in a channel (one per ordered pair of ranks
 * and lane), the receiver copies from there and says so: one copy, no buffering, no locks. Channels have one writer
 * and one reader, so two counters order everything. */
#include "comm_internal.h"
#include <stdatomic.h>
#include <string.h>

enum { POSTS = 64 }; /* open sends per channel; more wait their turn */

typedef struct post {
    const void *data;
    size_t bytes;
} post;

typedef struct channel {
    _Alignas(64) _Atomic uint64_t posted; /* by the sender */
    _Alignas(64) _Atomic uint64_t taken;  /* by the receiver */
    _Atomic bool copying;                 /* by the receiver: it reads the sender's memory */
    post posts[POSTS];
} channel;

typedef struct hub { /* what all ranks of a group share */
    uint64_t magic;
    int size;
    _Atomic int open; /* ranks that have yet to close */
    _Atomic int aborted_by; /* rank + 1 */
    char why[160];
    channel *channels; /* [TBI_LANES][from * size + to] */
} hub;

static const uint64_t hub_magic = 0x74622d7468726561; /* an id that is not ours must not be followed */

typedef struct op {
    struct op *next;
    channel *ch;
    uint64_t index; /* of the message in its channel */
    bool is_send, posted, done;
    const void *from;
    void *to;
    size_t bytes;
    int peer;
} op;

typedef struct thread_comm {
    hub *hub;
    op *first, **last; /* open operations in the order of their calls */
    op *spare;
    uint64_t *sent, *expected; /* [TBI_LANES * size]: messages so far to and from each peer */
} thread_comm;

static void free_hub(hub *h)
{
    tb_free(h->channels);
    tb_free(h);
}

static tb_status make_id(int size, tb_comm_id *out)
{
    hub *h = tb_calloc(1, sizeof *h);
    if (!h) return tb_error_code();
    h->magic = hub_magic;
    h->size = size;
    atomic_store(&h->open, size);
    h->channels = tb_calloc((size_t)size * (size_t)size * TBI_LANES, sizeof *h->channels);
    if (!h->channels) {
        free_hub(h);
        return tb_error_code();
    }
    memset(out, 0, sizeof *out);
    memcpy(out->bytes, &hub_magic, sizeof hub_magic);
    memcpy(out->bytes + sizeof hub_magic, &h, sizeof h);
    return TB_OK;
}

static void leave(hub *h)
{
    if (atomic_fetch_sub(&h->open, 1) == 1) free_hub(h);
}

static void thread_abort(tb_comm *c, int exit_code, const char *why)
{
    (void)exit_code;
    thread_comm *t = c->state;
    int nobody = 0;
    enum { WRITING = -1 }; /* the sentence is not there yet: ranks go on until it is */
    if (!atomic_compare_exchange_strong(&t->hub->aborted_by, &nobody, WRITING)) return;
    snprintf(t->hub->why, sizeof t->hub->why, "%s", why);
    atomic_store_explicit(&t->hub->aborted_by, c->rank + 1, memory_order_release);
}

static channel *channel_of(const thread_comm *t, tbi_lane lane, int from, int to)
{
    int size = t->hub->size;
    return &t->hub->channels[((size_t)lane * (size_t)size + (size_t)from) * (size_t)size + (size_t)to];
}

/* After a failure this rank's buffers go away while others may still want them: no copy begins after the abort, and
 * those that have begun are waited for. */
static void withdraw(tb_comm *c)
{
    const thread_comm *t = c->state;
    unsigned turns = 0;
    thread_abort(c, 0, c->failure ? c->failure : "it failed");
    for (int lane = 0; lane < TBI_LANES; lane++)
        for (int to = 0; to < c->size; to++)
            while (atomic_load(&channel_of(t, (tbi_lane)lane, c->rank, to)->copying)) tbi_relax(&turns);
}

static void thread_close(tb_comm *c)
{
    thread_comm *t = c->state;
    if (c->failed) withdraw(c);
    for (op *o = t->first, *next; o; o = next) next = o->next, tb_free(o);
    for (op *o = t->spare, *next; o; o = next) next = o->next, tb_free(o);
    leave(t->hub);
    tb_free(t->sent);
    tb_free(t->expected);
    tb_free(t);
}

static tb_status thread_open(tb_comm *c, const tb_comm_id *id)
{
    uint64_t magic;
    hub *h;
    if (!id) return TB_FAIL(TB_ERR_UNSUPPORTED, "groups of threads are opened with an id");
    memcpy(&magic, id->bytes, sizeof magic);
    memcpy(&h, id->bytes + sizeof magic, sizeof h);
    if (magic != hub_magic || !h || h->magic != hub_magic || h->size != c->size)
        return TB_FAIL(TB_ERR_INVALID, "this id names no thread group of %d ranks in this process", c->size);
    thread_comm *t = tb_calloc(1, sizeof *t);
    if (!t) return tb_error_code();
    t->hub = h;
    t->last = &t->first;
    t->sent = tb_calloc((size_t)c->size * TBI_LANES, sizeof *t->sent);
    t->expected = tb_calloc((size_t)c->size * TBI_LANES, sizeof *t->expected);
    c->state = t;
    if (t->sent && t->expected) return TB_OK;
    thread_close(c);
    return tb_error_code();
}

static tb_status new_op(thread_comm *t, op value, tb_request *out)
{
    op *o = t->spare;
    if (o) t->spare = o->next;
    else if (!(o = tb_calloc(1, sizeof *o))) return tb_error_code();
    *o = value;
    *t->last = o;
    t->last = &o->next;
    out->op = o;
    return TB_OK;
}

static tb_status thread_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    thread_comm *t = c->state;
    op o = { .ch = channel_of(t, lane, c->rank, peer), .index = t->sent[lane * c->size + peer]++, .is_send = true,
             .from = data, .bytes = bytes, .peer = peer };
    return new_op(t, o, out);
}

static tb_status thread_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    thread_comm *t = c->state;
    op o = { .ch = channel_of(t, lane, peer, c->rank), .index = t->expected[lane * c->size + peer]++, .to = data,
             .bytes = bytes, .peer = peer };
    return new_op(t, o, out);
}

static void advance_send(op *o)
{
    channel *ch = o->ch;
    uint64_t taken = atomic_load_explicit(&ch->taken, memory_order_acquire);
    if (!o->posted && atomic_load_explicit(&ch->posted, memory_order_relaxed) == o->index && o->index < taken + POSTS) {
        ch->posts[o->index % POSTS] = (post){ o->from, o->bytes };
        atomic_store_explicit(&ch->posted, o->index + 1, memory_order_release);
        o->posted = true;
    }
    o->done = taken > o->index;
}

static tb_status advance_recv(tb_comm *c, op *o)
{
    const thread_comm *t = c->state;
    channel *ch = o->ch;
    if (atomic_load_explicit(&ch->taken, memory_order_relaxed) != o->index ||
        atomic_load_explicit(&ch->posted, memory_order_acquire) <= o->index)
        return TB_OK;
    const post *p = &ch->posts[o->index % POSTS];
    if (p->bytes != o->bytes) {
        c->blamed = o->peer;
        c->disputed = true;
        return TB_FAIL(TB_ERR_COMM, "rank %d of %d: %s expects %zu bytes from rank %d, which sends %zu", c->rank,
                       c->size, c->doing, o->bytes, o->peer, p->bytes);
    }
    atomic_store(&ch->copying, true);
    if (!atomic_load(&t->hub->aborted_by)) {
        if (o->bytes) memcpy(o->to, p->data, o->bytes);
        atomic_store_explicit(&ch->taken, o->index + 1, memory_order_release);
        o->done = true;
    }
    atomic_store(&ch->copying, false);
    return TB_OK;
}

static tb_status thread_poll(tb_comm *c, void *wanted, bool *done)
{
    thread_comm *t = c->state;
    int by = atomic_load_explicit(&t->hub->aborted_by, memory_order_acquire);
    if (by > 0)
        return TB_FAIL(TB_ERR_CANCELLED, "rank %d of %d: rank %d aborted: %s", c->rank, c->size, by - 1, t->hub->why);
    for (op *o = t->first; o; o = o->next) {
        if (o->done) continue;
        if (o->is_send) advance_send(o);
        else TB_TRY(advance_recv(c, o));
    }
    op *w = wanted;
    *done = w && w->done;
    if (!*done) return TB_OK;
    op **at = &t->first;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    if (t->last == &w->next) t->last = at;
    w->next = t->spare;
    t->spare = w;
    return TB_OK;
}

static int missing(const tb_comm *c, const void *wanted)
{
    (void)c;
    return ((const op *)wanted)->peer;
}

TB_COMM(thread) = {
    .make_id = make_id,
    .open = thread_open,
    .close = thread_close,
    .send = thread_send,
    .recv = thread_recv,
    .poll = thread_poll,
    .missing = missing,
    .abort = thread_abort,
    .place = tbi_own_place,
    .at = tbi_own_at,
    .caps = {0},
};
