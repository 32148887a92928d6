/* Ranks of one node over a memory that all map (comm_shm.h): making it, joining, leaving, aborting, and the one poll
 * that drives collectives and messages. Ranks are processes or threads; each maps the memory itself. */
#include "comm_shm.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHM_WRITING = -1, PAGE = 4096 };
static const uint64_t shm_magic = 0x74622d73686d0001;
/* Address space of a rank's region; it takes memory only where touched. Not a power of two: ranks' buckets lie at equal
 * places of their regions, and where all lower address bits are equal they evict each other from the first-level
 * cache (Zen predicts its ways by a hash of bits 12 to 27; sums then ran several times slower). */
static const size_t region_bytes = ((size_t)4 << 30) + 17 * PAGE;

typedef struct shm_id {
    uint64_t magic;
    int32_t pid, fd;
} shm_id;

static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

typedef struct layout {
    size_t entries, channels, chunks, regions, all;
} layout;

static layout layout_of(int ranks)
{
    size_t n = (size_t)ranks, n_channels = TBI_LANES * n * n;
    layout l = { .entries = pages(sizeof(shm_head)) };
    l.channels = l.entries + pages(SHM_SLOTS * n * sizeof(shm_entry));
    l.chunks = l.channels + pages(n_channels * sizeof(shm_channel));
    l.regions = l.chunks + n_channels * SHM_CHUNKS * SHM_CHUNK;
    l.all = l.regions + n * region_bytes;
    return l;
}

static tb_status make_id(int size, tb_comm_id *out)
{
    if (size > SHM_MAX_RANKS)
        return TB_FAIL(TB_ERR_INVALID, "backend shm takes at most %d ranks, not %d", SHM_MAX_RANKS, size);
    char name[32]; /* /proc/<pid>/maps shows it: whose memory it is that a process still holds */
    snprintf(name, sizeof name, "tensorbrain-%d", getpid());
    int fd = memfd_create(name, MFD_CLOEXEC);
    shm_head head = { .magic = shm_magic, .ranks = size, .creator_pid = getpid(), .creator_fd = fd };
    if (fd < 0 || ftruncate(fd, (off_t)layout_of(size).all) != 0 || pwrite(fd, &head, sizeof head, 0) != sizeof head) {
        int code = errno;
        if (fd >= 0) close(fd);
        return TB_FAIL(TB_ERR_IO, "cannot make shared memory for %d ranks: %s", size, strerror(code));
    }
    shm_id id = { .magic = shm_magic, .pid = getpid(), .fd = fd };
    memset(out, 0, sizeof *out);
    memcpy(out->bytes, &id, sizeof id);
    return TB_OK;
}

static tb_status map(tb_comm *c, const tb_comm_id *id)
{
    shm_comm *s = c->state;
    shm_id name;
    memcpy(&name, id->bytes, sizeof name);
    if (name.magic != shm_magic || c->size > SHM_MAX_RANKS)
        return TB_FAIL(TB_ERR_INVALID, "this id names no shared memory of %d ranks", c->size);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", name.pid, name.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat is;
    layout l = layout_of(c->size);
    if (fd < 0)
        return TB_FAIL(TB_ERR_IO, "rank %d: cannot open the group's memory %s: %s", c->rank, path, strerror(errno));
    if (fstat(fd, &is) != 0 || (size_t)is.st_size != l.all) {
        close(fd);
        return TB_FAIL(TB_ERR_INVALID, "this id names no shared memory of %d ranks", c->size);
    }
    void *base = mmap(NULL, l.all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    close(fd);
    if (base == MAP_FAILED)
        return TB_FAIL(TB_ERR_OOM, "rank %d: cannot map %zu bytes of address space: %s", c->rank, l.all,
                       strerror(errno));
    s->base = base;
    s->bytes = l.all;
    s->head = base;
    s->entries = (shm_entry *)(s->base + l.entries);
    s->channels = (shm_channel *)(s->base + l.channels);
    s->chunks = s->base + l.chunks;
    s->regions = s->base + l.regions;
    return TB_OK;
}

static void free_ops(shm_op *o)
{
    for (shm_op *next; o; o = next) {
        next = o->next;
        tb_free(o);
    }
}

static void free_queue(shm_message *m)
{
    for (shm_message *next; m; m = next) {
        next = m->behind;
        tb_free(m);
    }
}

static void shm_abort(tb_comm *c, int exit_code, const char *why)
{
    (void)exit_code;
    shm_head *head = ((shm_comm *)c->state)->head;
    int32_t nobody = 0;
    if (!atomic_compare_exchange_strong(&head->aborted_by, &nobody, SHM_WRITING)) return;
    snprintf(head->why, sizeof head->why, "%s", why);
    atomic_store_explicit(&head->aborted_by, c->rank + 1, memory_order_release);
}

/* Other ranks keep their own mapping, so nothing of this one's leaving can hurt them; after a failure they are told. */
static void shm_close(tb_comm *c)
{
    shm_comm *s = c->state;
    if (c->failed && s->head) shm_abort(c, 0, c->failure ? c->failure : "it failed");
    tbi_shm_region_close(s, c->heap);
    free_ops(s->spare_pieces);
    free_ops(s->spare_messages);
    free_ops(s->open);
    for (int i = 0; i < TBI_LANES * c->size; i++) {
        if (s->sends) free_queue(s->sends[i].first);
        if (s->recvs) free_queue(s->recvs[i].first);
    }
    tb_free(s->sends);
    tb_free(s->recvs);
    tb_free(s->in);
    tb_free(s->out);
    if (s->base) munmap(s->base, s->bytes);
    tb_free(s);
}

static tb_status prepare(tb_comm *c)
{
    shm_comm *s = c->state;
    size_t n = (size_t)c->size;
    s->open_last = &s->open;
    s->in = tb_calloc(n, sizeof *s->in);
    s->out = tb_calloc(n, sizeof *s->out);
    s->sends = tb_calloc(n * TBI_LANES, sizeof *s->sends);
    s->recvs = tb_calloc(n * TBI_LANES, sizeof *s->recvs);
    if (!s->in || !s->out || !s->sends || !s->recvs) return tb_error_code();
    for (size_t i = 0; i < n * TBI_LANES; i++) {
        s->sends[i].last = &s->sends[i].first;
        s->recvs[i].last = &s->recvs[i].first;
    }
    TB_TRY(tb_isa_allowed(&s->isa));
    size_t staging = (size_t)SHM_STAGES * SHM_PIECE;
    TB_TRY(tbi_shm_region_open(s, s->regions + (size_t)c->rank * region_bytes + staging, region_bytes - staging));
    atomic_store(&s->head->pids[c->rank], getpid());
    return TB_OK;
}

/* All have mapped the memory: its name in the creator is no longer needed. */
static tb_status forget_name(tb_comm *c)
{
    shm_head *head = ((shm_comm *)c->state)->head;
    tb_request request = { 0 };
    TB_TRY(tbi_shm_collective(c, &(tbi_collective){ .kind = TBI_BARRIER, .dtype = TB_U8 }, &request));
    TB_TRY(tbi_comm_wait_until(c, &request, tb_now_ns() + c->deadline_ns));
    if (head->creator_pid == getpid() && !atomic_exchange(&head->fd_closed, 1)) close(head->creator_fd);
    return TB_OK;
}

static tb_status shm_open_group(tb_comm *c, const tb_comm_id *id)
{
    if (!id) return TB_FAIL(TB_ERR_UNSUPPORTED, "groups over shared memory are opened with an id");
    shm_comm *s = tb_calloc(1, sizeof *s);
    if (!s) return tb_error_code();
    c->state = s;
    tb_status st = map(c, id);
    if (st == TB_OK) st = prepare(c);
    if (st == TB_OK) st = forget_name(c);
    if (st != TB_OK) shm_close(c);
    return st;
}

/* A process that has vanished is noticed within 50 ms of waiting for it. */
static tb_status check_others(tb_comm *c)
{
    shm_comm *s = c->state;
    int by = atomic_load_explicit(&s->head->aborted_by, memory_order_acquire);
    if (by > 0)
        return TB_FAIL(TB_ERR_CANCELLED, "rank %d of %d: rank %d aborted: %s", c->rank, c->size, by - 1, s->head->why);
    int64_t now = tb_now_ns();
    if (now - s->last_liveness_ns < 50000000) return TB_OK;
    s->last_liveness_ns = now;
    for (int r = 0; r < c->size; r++) {
        int pid = atomic_load(&s->head->pids[r]);
        if (pid <= 0 || kill(pid, 0) == 0 || errno != ESRCH) continue;
        c->blamed = r;
        return TB_FAIL(TB_ERR_COMM, "rank %d of %d: %s%s%s%s: rank %d (process %d) is gone", c->rank, c->size, c->doing,
                       c->label[0] ? " (" : "", c->label, c->label[0] ? ")" : "", r, pid);
    }
    return TB_OK;
}

static tb_status shm_poll(tb_comm *c, void *wanted, bool *done)
{
    shm_comm *s = c->state;
    shm_op *o = wanted;
    TB_TRY(tbi_shm_advance_collectives(c));
    if (s->n_messages) TB_TRY(tbi_shm_advance_messages(c));
    *done = o && o->done;
    if (!*done) return check_others(c);
    shm_op **spare = o->is_message ? &s->spare_messages : &s->spare_pieces;
    o->next = *spare;
    *spare = o;
    return TB_OK;
}

static int missing(const tb_comm *c, const void *op)
{
    const shm_op *o = op;
    return o->is_message ? ((const shm_message *)op)->peer : tbi_shm_missing_in_collective(c);
}

static ptrdiff_t place(const tb_comm *c, const void *mine)
{
    return (const char *)mine - ((const shm_comm *)c->state)->base;
}

static void *at(const tb_comm *c, ptrdiff_t where) { return ((const shm_comm *)c->state)->base + where; }

TB_COMM(shm) = {
    .make_id = make_id, .open = shm_open_group, .close = shm_close, .send = tbi_shm_send, .recv = tbi_shm_recv,
    .poll = shm_poll, .missing = missing, .abort = shm_abort, .collective = tbi_shm_collective,
    .alloc = tbi_shm_region_alloc, .free = tbi_shm_region_free, .place = place, .at = at,
    .piece_bytes = SHM_PIECE, .caps = { .processes = true, .in_place = true, .cooperative = true },
};
