/* The flight recorder: notes each operation in a mapped file when it is posted and when it ends. What is in the file
 * when the process dies is what it was doing. */
#include "comm_flight.h"
#include "comm_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct op { /* behind a request */
    struct op *next;
    void *inner;
    flight_entry *entry;
} op;

typedef struct recorder {
    flight *file;
    op *spare;
} recorder;

static flight_entry *note(tb_comm *c, int peer)
{
    flight *f = ((recorder *)c->state)->file;
    int64_t number = atomic_load_explicit(&f->head.posted, memory_order_relaxed) + 1;
    flight_entry *e = &f->entries[number % FLIGHT_ENTRIES];
    atomic_store_explicit(&e->state, 0, memory_order_release);
    e->number = number;
    e->posted_ns = tb_now_ns();
    e->open_ns = e->ended_ns = 0;
    e->peer = peer;
    e->blamed = -1;
    e->disputed = 0;
    memcpy(e->what, c->doing, sizeof e->what);
    memcpy(e->label, c->label, sizeof e->label);
    atomic_store_explicit(&e->state, FLIGHT_POSTING, memory_order_release);
    atomic_store_explicit(&f->head.posted, number, memory_order_release);
    return e;
}

static void ended(const tb_comm *c, flight_entry *e, tb_status st)
{
    e->ended_ns = tb_now_ns();
    if (st != TB_OK) {
        const tb_comm *accuser = tbi_comm_accuser(c);
        e->blamed = accuser->blamed;
        e->disputed = accuser->disputed;
    }
    atomic_store_explicit(&e->state, st == TB_OK ? FLIGHT_DONE : FLIGHT_FAILED, memory_order_release);
}

/* Gives the caller a request that remembers its entry, or closes the entry when all is over. */
static tb_status follow(tb_comm *c, flight_entry *e, tb_status st, tb_request *out)
{
    recorder *r = c->state;
    if (st != TB_OK || !out->op) {
        ended(c, e, st);
        return st;
    }
    op *o = r->spare;
    if (o) r->spare = o->next;
    else if (!(o = tb_calloc(1, sizeof *o))) return tb_error_code();
    *o = (op){ .inner = out->op, .entry = e };
    out->op = o;
    e->open_ns = tb_now_ns();
    atomic_store_explicit(&e->state, FLIGHT_OPEN, memory_order_release);
    return TB_OK;
}

static tb_status record_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    flight_entry *e = note(c, peer);
    return follow(c, e, tbi_pass_send(c, lane, data, bytes, peer, out), out);
}

static tb_status record_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    flight_entry *e = note(c, peer);
    return follow(c, e, tbi_pass_recv(c, lane, data, bytes, peer, out), out);
}

static tb_status record_collective(tb_comm *c, const tbi_collective *what, tb_request *out)
{
    flight_entry *e = note(c, -1);
    return follow(c, e, tbi_pass_collective(c, what, out), out);
}

static void settle(const tb_comm *c, op *o, tb_status st)
{
    recorder *r = c->state;
    ended(c, o->entry, st);
    o->next = r->spare;
    r->spare = o;
}

static tb_status record_poll(tb_comm *c, void *wanted, bool *done)
{
    op *o = wanted;
    TB_TRY(tbi_pass_poll(c, o ? o->inner : NULL, done));
    if (*done) settle(c, o, TB_OK);
    return TB_OK;
}

static void record_give_up(tb_comm *c, void *wanted) { settle(c, wanted, TB_ERR_COMM); }

static int record_missing(const tb_comm *c, const void *wanted)
{
    return tbi_pass_missing(c, ((const op *)wanted)->inner);
}

static void record_close(tb_comm *c)
{
    recorder *r = c->state;
    tbi_comm_unwrap(c);
    r->file->head.closed = c->failed == TB_OK;
    for (op *o = r->spare, *next; o; o = next) next = o->next, tb_free(o);
    munmap(r->file, sizeof *r->file);
    tb_free(r);
}

static tb_status map_file(const tb_comm *c, const char *prefix, flight **out)
{
    char *path = tb_asprintf("%s.%d", prefix, c->rank);
    if (!path) return tb_error_code();
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    void *at = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof **out) == 0)
        at = mmap(NULL, sizeof **out, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    tb_status st =
        at == MAP_FAILED ? TB_FAIL(TB_ERR_IO, "cannot make the flight record %s: %s", path, strerror(errno)) : TB_OK;
    if (fd >= 0) close(fd);
    tb_free(path);
    *out = at;
    return st;
}

static const tbi_comm_backend record = {
    .close = record_close,
    .send = record_send,
    .recv = record_recv,
    .poll = record_poll,
    .missing = record_missing,
    .give_up = record_give_up,
    .abort = tbi_pass_abort,
    .collective = record_collective,
    .alloc = tbi_pass_alloc,
    .free = tbi_pass_free,
};

tb_status tb_comm_add_recorder(tb_comm *c, const char *prefix)
{
    recorder *r = tb_calloc(1, sizeof *r);
    if (!r) return tb_error_code();
    tb_status st = map_file(c, prefix, &r->file);
    if (st == TB_OK) {
        memset(r->file, 0, sizeof *r->file); /* touched now, not in the first steps */
        r->file->head = (flight_head){ .magic = flight_magic, .rank = c->rank, .size = c->size, .pid = getpid() };
        st = tbi_comm_wrap(c, &record, r);
        if (st == TB_OK) return st;
        munmap(r->file, sizeof *r->file);
    }
    tb_free(r);
    return st;
}

_Atomic int64_t *tb_comm_recorder_excuse(tb_comm *c)
{
    while (c && c->backend != &record) c = c->inner;
    return c ? &((recorder *)c->state)->file->head.excused_ns : NULL;
}
