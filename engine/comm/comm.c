/* Groups and calls: finds backends by name, checks arguments, counts, keeps the failure of a communicator. Waiting is
 * in comm_wait.c, what moves the data in comm_<backend>.c. */
#include "comm_internal.h"
#include "tb_text.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TB_COMM_ENTRY(name_) extern TB_COMM(name_);
#include "tb_comm_list.inc"
#undef TB_COMM_ENTRY

static const struct {
    const char *name;
    const tbi_comm_backend *backend;
} backends[] = {
#define TB_COMM_ENTRY(name_) {#name_, &tbi_comm_##name_},
#include "tb_comm_list.inc"
#undef TB_COMM_ENTRY
};
enum { N_BACKENDS = sizeof backends / sizeof backends[0] };

static tb_status find_backend(const char *name, int *out)
{
    const char *names[N_BACKENDS];
    for (int i = 0; i < N_BACKENDS; i++) {
        names[i] = backends[i].name;
        *out = i;
        if (strcmp(name, names[i]) == 0) return TB_OK;
    }
    const char *near = tb_nearest(name, names, N_BACKENDS);
    return TB_FAIL(TB_ERR_NOT_FOUND, "no communication backend '%s'%s%s", name, near ? "; nearest: " : "",
                   near ? near : "");
}

/* ---- failures ---- */

tb_status tbi_comm_keep_failure(tb_comm *c, tb_status st)
{
    if (st == TB_OK || c->failed || st == TB_ERR_INVALID || st == TB_ERR_DTYPE || st == TB_ERR_UNSUPPORTED) return st;
    c->failed = st;
    c->failure = tb_strdup(tb_error_message());
    return st;
}

tb_status tbi_comm_usable(const tb_comm *c)
{
    if (!c->failed) return TB_OK;
    return TB_FAIL(TB_ERR_CANCELLED, "rank %d: this communicator failed before: %s", c->rank,
                   c->failure ? c->failure : tb_status_name(c->failed));
}

static tb_status host_only(const tb_stream *stream)
{
    if (!stream) return TB_OK;
    return TB_FAIL(TB_ERR_UNSUPPORTED, "communication on host memory has no device streams; pass NULL");
}

/* Without what has been put around it. */
static tb_comm *plain(tb_comm *c)
{
    while (c->inner) c = c->inner;
    return c;
}

/* ---- groups ---- */
tb_status tb_comm_make_id(const char *backend, int size, tb_comm_id *out)
{
    int i;
    memset(out, 0, sizeof *out);
    TB_TRY(find_backend(backend, &i));
    if (size < 1) return TB_FAIL(TB_ERR_INVALID, "a group has at least 1 rank, not %d", size);
    if (backends[i].backend->make_id) return backends[i].backend->make_id(size, out);
    return TB_FAIL(TB_ERR_UNSUPPORTED, "groups of backend '%s' are not made from ids; use tb_comm_open_world", backend);
}

static tb_comm *new_comm(int backend, int rank, int size, const tb_comm_options *o)
{
    tb_comm *c = tb_calloc(1, sizeof *c);
    if (!c) return NULL;
    *c = (tb_comm){ .backend = backends[backend].backend, .name = backends[backend].name, .rank = rank, .size = size };
    c->blamed = -1;
    c->heap = o && o->heap ? o->heap : tb_heap_process();
    c->native = o && o->native;
    c->deadline_ns = o && o->deadline_ns > 0 ? o->deadline_ns : 30 * (int64_t)1000000000;
    snprintf(c->doing, sizeof c->doing, "open");
    return c;
}

static void free_comm(tb_comm *c)
{
    tb_heap_free(c->heap, c->scratch);
    tb_free(c->failure);
    tb_free(c);
}

tb_status tbi_comm_open_backend(const char *name, int rank, int size, const tb_comm_id *id,
                                const tb_comm_options *options, tb_comm **out)
{
    int i;
    TB_TRY(find_backend(name, &i));
    tb_comm *c = new_comm(i, rank, size, options);
    if (!c) return tb_error_code();
    tb_status st = c->backend->open(c, id);
    if (st != TB_OK) {
        free_comm(c);
        return st;
    }
    *out = c;
    return TB_OK;
}

tb_status tb_comm_open(const char *backend, int rank, int size, const tb_comm_id *id, const tb_comm_options *options,
                       tb_comm **out)
{
    *out = NULL;
    if (size < 1 || rank < 0 || rank >= size)
        return TB_FAIL(TB_ERR_INVALID, "rank %d of %d: a group has ranks 0..size-1", rank, size);
    TB_TRY(tbi_comm_open_backend(backend, rank, size, id, options, out));
    tb_status st = tb_comm_barrier(*out);
    if (st == TB_OK) return TB_OK;
    tb_comm_close(*out);
    *out = NULL;
    return st;
}

typedef struct membership {
    int color;
    tb_status made;
    tb_comm_id id;
} membership;

/* The lowest rank of each color makes an id; one allgather tells colors, one the ids. */
static tb_status split_by_ids(tb_comm *c, membership *all, int color, tb_comm **out)
{
    membership *mine = &all[c->rank];
    int rank = 0, size = 0, first = -1;
    *mine = (membership){ .color = color };
    TB_TRY(tb_comm_allgather(c, mine, all, sizeof *mine, NULL, NULL));
    for (int r = 0; r < c->size; r++) {
        if (all[r].color != color) continue;
        if (first < 0) first = r;
        rank += r < c->rank;
        size++;
    }
    if (color >= 0 && first == c->rank) mine->made = plain(c)->backend->make_id(size, &mine->id);
    TB_TRY(tb_comm_allgather(c, mine, all, sizeof *mine, NULL, NULL));
    if (color < 0) return TB_OK;
    if (all[first].made != TB_OK) return TB_FAIL(all[first].made, "split: rank %d could not make the new group", first);
    return tb_comm_open(c->name, rank, size, &all[first].id,
                        &(tb_comm_options){ .deadline_ns = c->deadline_ns, .heap = c->heap }, out);
}

tb_status tb_comm_split(tb_comm *c, int color, tb_comm **out)
{
    *out = NULL;
    TB_TRY(tbi_comm_usable(c));
    tb_comm *base = plain(c);
    if (!base->backend->split) {
        membership *all = tb_calloc((size_t)c->size, sizeof *all);
        if (!all) return tb_error_code();
        tb_status st = split_by_ids(c, all, color, out);
        tb_free(all);
        return st;
    }
    int backend;
    TB_TRY(find_backend(base->name, &backend));
    tb_comm *child = new_comm(backend, 0, 1, &(tb_comm_options){ .deadline_ns = c->deadline_ns, .heap = c->heap });
    if (!child) return tb_error_code();
    tb_status st = tbi_comm_keep_failure(c, base->backend->split(base, color, child));
    if (st != TB_OK || color < 0) {
        free_comm(child);
        return st;
    }
    *out = child;
    return TB_OK;
}

void tb_comm_close(tb_comm *c)
{
    if (!c) return;
    if (!c->failed && tb_comm_barrier(c) != TB_OK) tb_error_add("while rank %d closed", c->rank);
    c->backend->close(c);
    if (c->parent && c->failed) tbi_comm_keep_failure(c->parent, tb_error_code() ? tb_error_code() : c->failed);
    tb_comm_close(c->parent);
    free_comm(c);
}

int tb_comm_rank(const tb_comm *c) { return c->rank; }
int tb_comm_size(const tb_comm *c) { return c->size; }
const char *tb_comm_backend(const tb_comm *c) { return c->name; }
int64_t tb_comm_deadline_ns(const tb_comm *c) { return c->deadline_ns; }

tb_comm_caps tb_comm_get_caps(const tb_comm *c)
{
    while (c->inner) c = c->inner;
    return c->backend->caps;
}

void tb_comm_get_stats(const tb_comm *c, tb_comm_stats *out)
{
    *out = c->stats;
    while ((c = c->inner)) {
        out->wire_bytes += c->stats.wire_bytes;
        out->wait_ns += c->stats.wait_ns;
    }
}

void tb_comm_label(tb_comm *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->label, sizeof c->label, fmt, args);
    va_end(args);
}

void *tb_comm_alloc(tb_comm *c, size_t bytes)
{
    if (c->backend->alloc) return c->backend->alloc(c, bytes);
    void *block = tb_heap_alloc(c->heap, bytes, TB_MEM_COMM);
    if (block) memset(block, 0, bytes);
    return block;
}

void tb_comm_free(tb_comm *c, void *block)
{
    if (c->backend->free) c->backend->free(c, block);
    else tb_heap_free(c->heap, block);
}

tb_status tb_comm_addresses(tb_comm *c, const void *mine, void **theirs)
{
    const tb_comm *base = plain(c);
    if (!base->backend->place)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "ranks of backend %s share no memory; shm and thread do", c->name);
    ptrdiff_t place = base->backend->place(base, mine), *all = tb_calloc((size_t)c->size, sizeof *all);
    if (!all) return tb_error_code();
    tb_status st = tb_comm_allgather(c, &place, all, sizeof place, NULL, NULL);
    for (int r = 0; r < c->size; r++) theirs[r] = base->backend->at(base, all[r]);
    tb_free(all);
    return st;
}

ptrdiff_t tbi_own_place(const tb_comm *c, const void *mine)
{
    (void)c;
    return (ptrdiff_t)(uintptr_t)mine;
}

void *tbi_own_at(const tb_comm *c, ptrdiff_t place)
{
    (void)c;
    return (void *)(uintptr_t)place;
}

void tb_comm_abort(tb_comm *c, int exit_code, const char *why)
{
    tbi_comm_keep_failure(c, TB_FAIL(TB_ERR_CANCELLED, "rank %d aborted: %s", c->rank, why));
    c->backend->abort(c, exit_code, why);
}

/* ---- collectives ---- */
static tb_status collective(tb_comm *c, const char *name, const tbi_collective *what, const tb_stream *stream,
                            tb_request *request)
{
    tb_request mine = { 0 };
    TB_TRY(tbi_comm_usable(c));
    TB_TRY(host_only(stream));
    if (what->count < 0) return TB_FAIL(TB_ERR_INVALID, "%s: the count %lld is negative", name, (long long)what->count);
    snprintf(c->doing, sizeof c->doing, "%s #%lld of %lld %s", name, (long long)++c->stats.collectives,
             (long long)what->count, what->dtype == TB_U8 ? "bytes" : tb_dtype_name(what->dtype));
    if (c->backend->collective)
        TB_TRY(tbi_comm_keep_failure(c, c->backend->collective(c, what, &mine)));
    else
        TB_TRY(tbi_comm_keep_failure(c, tbi_messages_collective(c, what)));
    if (!request) return tb_comm_wait(c, &mine, 0);
    *request = mine;
    return TB_OK;
}

static tb_status can_reduce(const char *name, tb_dtype dtype)
{
    if (tbi_can_reduce(dtype)) return TB_OK;
    return TB_FAIL(TB_ERR_DTYPE, "%s: cannot reduce %s; f32, f64, bf16, f16, i32 and i64 can be", name,
                   tb_dtype_name(dtype));
}

tb_status tb_comm_allreduce(tb_comm *c, void *data, int64_t count, tb_dtype dtype, tb_reduction reduction,
                            tb_stream *stream, tb_request *request)
{
    TB_TRY(can_reduce("allreduce", dtype));
    return collective(c, "allreduce",
                      &(tbi_collective){TBI_ALLREDUCE, data, data, count, dtype, reduction, 0, NULL, NULL}, stream,
                      request);
}

tb_status tb_comm_allreduce_map(tb_comm *c, void *data, int64_t count, tb_dtype dtype, tb_comm_map map, void *arg,
                                tb_stream *stream, tb_request *request)
{
    TB_TRY(can_reduce("allreduce", dtype));
    return collective(c, "allreduce",
                      &(tbi_collective){TBI_ALLREDUCE, data, data, count, dtype, TB_REDUCE_SUM, 1, map, arg}, stream,
                      request);
}

bool tb_comm_owned(const tb_comm *c, int64_t count, tb_dtype dtype, int64_t k, int64_t *first, int64_t *n)
{
    const tb_comm *base = c;
    while (base->inner) base = base->inner;
    int64_t bytes = base->backend->piece_bytes ? base->backend->piece_bytes : TBI_PIECE_BYTES;
    int64_t size = (int64_t)tb_dtype_size(dtype), piece = bytes / size, at = k * piece;
    if (at >= count) return false;
    tbi_shard(count - at < piece ? count - at : piece, (size_t)size, c->rank, c->size, first, n);
    *first += at;
    return true;
}

tb_status tb_comm_reduce_scatter(tb_comm *c, const void *data, void *out, int64_t count, tb_dtype dtype,
                                 tb_reduction reduction, tb_stream *stream, tb_request *request)
{
    TB_TRY(can_reduce("reduce_scatter", dtype));
    return collective(c, "reduce_scatter",
                      &(tbi_collective){TBI_REDUCE_SCATTER, data, out, count, dtype, reduction, 0, NULL, NULL}, stream,
                      request);
}

tb_status tb_comm_allgather(tb_comm *c, const void *data, void *out, size_t bytes, tb_stream *stream,
                            tb_request *request)
{
    return collective(c, "allgather", &(tbi_collective){ .kind = TBI_ALLGATHER, .data = data, .out = out,
                                                         .count = (int64_t)bytes, .dtype = TB_U8 }, stream, request);
}

tb_status tb_comm_bcast(tb_comm *c, void *data, size_t bytes, int root, tb_stream *stream, tb_request *request)
{
    if (root < 0 || root >= c->size) return TB_FAIL(TB_ERR_INVALID, "bcast: root %d of %d ranks", root, c->size);
    return collective(c, "bcast", &(tbi_collective){ .kind = TBI_BCAST, .data = data, .out = data,
                                                     .count = (int64_t)bytes,
                                                     .dtype = TB_U8, .root = root }, stream, request);
}

tb_status tb_comm_barrier(tb_comm *c)
{
    return collective(c, "barrier", &(tbi_collective){ .kind = TBI_BARRIER, .dtype = TB_U8 }, NULL, NULL);
}

tb_status tb_comm_agree(tb_comm *c, tb_status mine)
{
    int32_t first = mine == TB_OK ? c->size : c->rank;
    tb_status record = tb_error_code();
    char *sentence = mine != TB_OK ? tb_strdup(tb_error_message()) : NULL;
    tb_status st = tb_comm_allreduce(c, &first, 1, TB_I32, TB_REDUCE_MIN, NULL, NULL);
    if (mine != TB_OK) {
        tb_error_set(record == TB_OK ? mine : record, sentence ? sentence : tb_status_name(mine));
        tb_free(sentence);
        return mine;
    }
    if (st != TB_OK || first == c->size) return st;
    return TB_FAIL(TB_ERR_COMM, "rank %d of %d failed; its own message says why", (int)first, c->size);
}

/* ---- messages ---- */
static tb_status begin_message(tb_comm *c, const tb_stream *stream, const char *what, size_t bytes, int peer)
{
    TB_TRY(tbi_comm_usable(c));
    TB_TRY(host_only(stream));
    if (peer < 0 || peer >= c->size || peer == c->rank)
        return TB_FAIL(TB_ERR_INVALID, "%s: rank %d of %d cannot be the peer of rank %d", what, peer, c->size, c->rank);
    snprintf(c->doing, sizeof c->doing, "%s of %zu bytes", what, bytes);
    c->stats.messages++;
    return TB_OK;
}

tb_status tb_comm_isend(tb_comm *c, const void *data, size_t bytes, int peer, tb_stream *stream, tb_request *request)
{
    tb_request mine = { 0 };
    TB_TRY(begin_message(c, stream, "send", bytes, peer));
    TB_TRY(tbi_comm_keep_failure(c, c->backend->send(c, TBI_LANE_USER, data, bytes, peer, &mine)));
    if (!request) return tb_comm_wait(c, &mine, 0);
    *request = mine;
    return TB_OK;
}

tb_status tb_comm_irecv(tb_comm *c, void *data, size_t bytes, int peer, tb_stream *stream, tb_request *request)
{
    tb_request mine = { 0 };
    TB_TRY(begin_message(c, stream, "receive", bytes, peer));
    TB_TRY(tbi_comm_keep_failure(c, c->backend->recv(c, TBI_LANE_USER, data, bytes, peer, &mine)));
    if (!request) return tb_comm_wait(c, &mine, 0);
    *request = mine;
    return TB_OK;
}
