/* Collectives built from messages. Large reductions move 2(p-1)/p of the bytes per rank: each rank receives its shard
 * from all others, sums it in the one order (comm_reduce.c), and sends the result to all. They are cut into pieces of
 * at most 16 MiB, which bounds the scratch. Small ones take one round: everybody sends all to everybody. */
#include "comm_internal.h"
#include "tb_cpu.h"
#include <string.h>

enum { ONE_ROUND_BYTES = 4096 };

static char *scratch(tb_comm *c, size_t bytes)
{
    if (bytes <= c->scratch_bytes) return c->scratch;
    tb_heap_free(c->heap, c->scratch);
    c->scratch = tb_heap_alloc(c->heap, bytes, TB_MEM_COMM);
    c->scratch_bytes = c->scratch ? bytes : 0;
    return c->scratch;
}

/* Messages posted together and waited for together. */
typedef struct round {
    tb_comm *c;
    tb_request *requests;
    int n;
} round_;

static tb_status round_open(tb_comm *c, round_ *r)
{
    *r = (round_){ .c = c, .requests = tb_calloc(2 * (size_t)c->size, sizeof *r->requests) };
    return r->requests ? TB_OK : tb_error_code();
}

static tb_status send(round_ *r, const void *data, size_t bytes, int peer)
{
    if (bytes == 0) return TB_OK;
    r->c->stats.wire_bytes += (int64_t)bytes;
    return r->c->backend->send(r->c, TBI_LANE_COLLECTIVE, data, bytes, peer, &r->requests[r->n++]);
}

static tb_status receive(round_ *r, void *data, size_t bytes, int peer)
{
    if (bytes == 0) return TB_OK;
    return r->c->backend->recv(r->c, TBI_LANE_COLLECTIVE, data, bytes, peer, &r->requests[r->n++]);
}

static tb_status finish(round_ *r)
{
    int64_t until = tb_now_ns() + r->c->deadline_ns;
    for (int i = 0; i < r->n; i++) TB_TRY(tbi_comm_wait_until(r->c, &r->requests[i], until));
    r->n = 0;
    return TB_OK;
}

/* The k-th peer of this rank: each rank begins with its right neighbour, so that not all send to rank 0 at once. */
static int peer_at(const tb_comm *c, int k) { return (c->rank + k) % c->size; }

/* Every rank's `bytes` from `mine` meet in slots[rank * bytes], own slot included. */
static tb_status exchange_all(round_ *r, const void *mine, char *slots, size_t bytes)
{
    tb_comm *c = r->c;
    for (int k = 1; k < c->size; k++) {
        int from = peer_at(c, c->size - k);
        TB_TRY(receive(r, slots + (size_t)from * bytes, bytes, from));
    }
    for (int k = 1; k < c->size; k++) TB_TRY(send(r, mine, bytes, peer_at(c, k)));
    char *own = slots + (size_t)c->rank * bytes;
    if (own != mine && bytes) memcpy(own, mine, bytes);
    return finish(r);
}

typedef struct reduction {
    size_t size; /* of an element */
    tb_dtype dtype;
    tb_reduction kind;
    const void **in; /* [ranks] */
} reduction;

/* Rank k's block of `data` begins at element first(k); its reduction goes to `out` on rank k. */
static tb_status reduce_blocks(round_ *r, const char *data, const int64_t *first, void *out, const reduction *red)
{
    tb_comm *c = r->c;
    int64_t mine = first[c->rank + 1] - first[c->rank];
    size_t bytes = (size_t)mine * red->size;
    char *slots = scratch(c, bytes * (size_t)c->size);
    if (!slots && bytes) return tb_error_code();
    for (int k = 1; k < c->size; k++) {
        int from = peer_at(c, c->size - k);
        TB_TRY(receive(r, slots + (size_t)from * bytes, bytes, from));
    }
    for (int k = 1; k < c->size; k++) {
        int to = peer_at(c, k);
        TB_TRY(send(r, data + (size_t)first[to] * red->size, (size_t)(first[to + 1] - first[to]) * red->size, to));
    }
    TB_TRY(finish(r));
    for (int k = 0; k < c->size; k++) red->in[k] = slots + (size_t)k * bytes;
    red->in[c->rank] = data + (size_t)first[c->rank] * red->size;
    tbi_reduce_tree(red->in, c->size, out, mine, red->dtype, red->kind);
    return TB_OK;
}

static tb_status gather_blocks(round_ *r, char *data, const int64_t *first, size_t size)
{
    tb_comm *c = r->c;
    for (int k = 1; k < c->size; k++) {
        int from = peer_at(c, c->size - k);
        TB_TRY(receive(r, data + (size_t)first[from] * size, (size_t)(first[from + 1] - first[from]) * size, from));
    }
    for (int k = 1; k < c->size; k++)
        TB_TRY(send(r, data + (size_t)first[c->rank] * size,
                    (size_t)(first[c->rank + 1] - first[c->rank]) * size, peer_at(c, k)));
    return finish(r);
}

static tb_status allreduce_small(round_ *r, void *data, int64_t count, const reduction *red)
{
    size_t bytes = (size_t)count * red->size;
    char *slots = scratch(r->c, bytes * (size_t)r->c->size);
    if (!slots) return tb_error_code();
    TB_TRY(exchange_all(r, data, slots, bytes));
    for (int k = 0; k < r->c->size; k++) red->in[k] = slots + (size_t)k * bytes;
    tbi_reduce_tree(red->in, r->c->size, data, count, red->dtype, red->kind);
    return TB_OK;
}

/* Elements [at, at + count) of the whole. */
static tb_status allreduce_piece(round_ *r, const tbi_collective *w, int64_t at, int64_t count, int64_t *first,
                                 const reduction *red)
{
    int64_t n;
    int rank = r->c->rank;
    char *data = (char *)w->out + (size_t)at * red->size;
    for (int k = 0; k < r->c->size; k++) tbi_shard(count, red->size, k, r->c->size, &first[k], &n);
    first[r->c->size] = count;
    char *mine = data + (size_t)first[rank] * red->size;
    TB_TRY(reduce_blocks(r, data, first, mine, red));
    if (w->map && first[rank + 1] > first[rank])
        w->map(w->map_arg, at + first[rank], first[rank + 1] - first[rank], mine);
    return gather_blocks(r, data, first, red->size);
}

static tb_status allreduce(tb_comm *c, const tbi_collective *w)
{
    if (c->size == 1 && w->map && w->count) w->map(w->map_arg, 0, w->count, w->out);
    if (c->size == 1 || w->count == 0) return TB_OK;
    reduction red = { .size = tb_dtype_size(w->dtype), .dtype = w->dtype, .kind = w->reduction };
    int64_t piece = TBI_PIECE_BYTES / (int64_t)red.size, *first = NULL;
    round_ r;
    tb_status st;
    TB_GO(round_open(c, &r));
    red.in = tb_calloc((size_t)c->size, sizeof *red.in);
    first = tb_calloc((size_t)c->size + 1, sizeof *first);
    if (!red.in || !first) TB_GO(tb_error_code());
    if (!w->map && (size_t)w->count * red.size <= ONE_ROUND_BYTES) TB_GO(allreduce_small(&r, w->out, w->count, &red));
    else
        for (int64_t at = 0; at < w->count; at += piece)
            TB_GO(allreduce_piece(&r, w, at, w->count - at < piece ? w->count - at : piece, first, &red));
cleanup:
    tb_free(first);
    tb_free(red.in);
    tb_free(r.requests);
    return st;
}

static tb_status reduce_scatter(tb_comm *c, const void *data, void *out, int64_t count, tb_dtype dtype,
                                tb_reduction kind)
{
    reduction red = { .size = tb_dtype_size(dtype), .dtype = dtype, .kind = kind };
    int64_t *first = NULL;
    round_ r;
    tb_status st;
    TB_GO(round_open(c, &r));
    red.in = tb_calloc((size_t)c->size, sizeof *red.in);
    first = tb_calloc((size_t)c->size + 1, sizeof *first);
    if (!red.in || !first) TB_GO(tb_error_code());
    for (int k = 0; k <= c->size; k++) first[k] = count * k;
    TB_GO(reduce_blocks(&r, data, first, out, &red));
cleanup:
    tb_free(first);
    tb_free(red.in);
    tb_free(r.requests);
    return st;
}

static tb_status allgather(tb_comm *c, const void *data, void *out, size_t bytes)
{
    round_ r;
    tb_status st = round_open(c, &r);
    if (st == TB_OK) st = exchange_all(&r, data, out, bytes);
    tb_free(r.requests);
    return st;
}

/* Binomial tree: after step k, 2^k ranks have the data. */
static tb_status bcast(tb_comm *c, void *data, size_t bytes, int root)
{
    int me = (c->rank - root + c->size) % c->size, step = 1;
    round_ r;
    tb_status st;
    TB_GO(round_open(c, &r));
    for (; step < c->size && !(me & step); step <<= 1) continue;
    if (me) {
        TB_GO(receive(&r, data, bytes, (me - step + root) % c->size));
        TB_GO(finish(&r));
    }
    for (step >>= 1; step > 0; step >>= 1)
        if (me + step < c->size) TB_GO(send(&r, data, bytes, (me + step + root) % c->size));
    TB_GO(finish(&r));
cleanup:
    tb_free(r.requests);
    return st;
}

/* Dissemination: after step k a rank knows of the 2^k ranks to its left. */
static tb_status barrier(tb_comm *c)
{
    char here = 1, there = 0;
    round_ r;
    tb_status st;
    TB_GO(round_open(c, &r));
    for (int step = 1; step < c->size; step <<= 1) {
        TB_GO(receive(&r, &there, 1, (c->rank - step + c->size) % c->size));
        TB_GO(send(&r, &here, 1, (c->rank + step) % c->size));
        TB_GO(finish(&r));
    }
cleanup:
    tb_free(r.requests);
    return st;
}

tb_status tbi_messages_collective(tb_comm *c, const tbi_collective *w)
{
    switch (w->kind) {
    case TBI_ALLREDUCE: return allreduce(c, w);
    case TBI_REDUCE_SCATTER: return reduce_scatter(c, w->data, w->out, w->count, w->dtype, w->reduction);
    case TBI_ALLGATHER: return allgather(c, w->data, w->out, (size_t)w->count);
    case TBI_BCAST: return bcast(c, w->out, (size_t)w->count, w->root);
    case TBI_BARRIER: break;
    }
    return barrier(c);
}
