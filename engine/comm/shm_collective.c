/* Collectives over shared memory. A collective is cut into pieces that are numbered through the life of the group; a
 * piece goes through three steps, each rank at its own pace and without a central barrier:
 *
 *   publish  this rank's data of the piece may be read (where it lies, or staged: copied into the shared memory)
 *   act      when all have published: do this rank's share. ALLREDUCE: sum shard r of everybody's data, in the one
 *            order, and write it to everybody. The others: take what is mine from where it lies.
 *   finish   when all have acted: the piece is complete here (staged results are copied out) and its slot is free
 *
 * Up to SHM_SLOTS pieces are in flight, so a bucket can be published and left to later polls. */
#include "comm_shm.h"
#include "tb_kernel.h"
#include <string.h>

static bool is_shared(const shm_comm *s, const void *p)
{
    return (const char *)p >= s->base && (const char *)p < s->base + s->bytes;
}

static size_t element(const tbi_collective *w) { return tb_dtype_size(w->dtype); }

tb_status tbi_shm_collective(tb_comm *c, const tbi_collective *what, tb_request *out)
{
    shm_comm *s = c->state;
    shm_piece_op *o = (shm_piece_op *)s->spare_pieces;
    if (o)
        s->spare_pieces = o->op.next;
    else if (!(o = tb_calloc(1, sizeof *o)))
        return tb_error_code();
    *o = (shm_piece_op){.what = *what, .first = s->posted};
    o->piece_count = SHM_PIECE / (int64_t)element(what);
    if (what->kind == TBI_REDUCE_SCATTER) o->piece_count = SHM_PIECE / 64 * 64 / c->size / (int64_t)element(what);
    o->n = what->count ? ((uint64_t)what->count + (uint64_t)o->piece_count - 1) / (uint64_t)o->piece_count : 1;
    s->posted += o->n;
    *s->open_last = &o->op;
    s->open_last = &o->op.next;
    out->op = o;
    return tbi_shm_advance_collectives(c);
}

/* Elements [*from, *from + *n) of each block are the piece. Pieces go from the end of the data to its beginning: who
 * fills memory goes upwards, and what was filled last is still in the caches. */
static void extent(const shm_piece_op *o, uint64_t piece, int64_t *from, int64_t *n)
{
    *from = (int64_t)(o->first + o->n - 1 - piece) * o->piece_count;
    int64_t left = o->what.count - *from;
    *n = left < o->piece_count ? left : o->piece_count;
}

static char *stage(const tb_comm *c, uint64_t piece, int rank)
{
    const shm_comm *s = c->state;
    size_t region = (s->bytes - (size_t)(s->regions - s->base)) / (size_t)c->size;
    return s->regions + (size_t)rank * region + piece % SHM_STAGES * SHM_PIECE;
}

static bool has_input(const tb_comm *c, const tbi_collective *w)
{
    return w->kind != TBI_BARRIER && (w->kind != TBI_BCAST || w->root == c->rank);
}

static bool is_staged(const tb_comm *c, const tbi_collective *w)
{
    return has_input(c, w) && w->count > 0 && !is_shared(c->state, w->data);
}

/* ---- publish ---- */
static void publish(tb_comm *c, const shm_piece_op *o, uint64_t piece)
{
    const shm_comm *s = c->state;
    const tbi_collective *w = &o->what;
    shm_entry *e = shm_entry_of(s, piece, c->rank);
    size_t size = element(w);
    int64_t from, n;
    extent(o, piece, &from, &n);
    const char *data = (const char *)w->data + (size_t)from * size;
    e->stride = (uint64_t)w->count * size;
    if (is_staged(c, w)) {
        char *to = stage(c, piece, c->rank);
        int blocks = w->kind == TBI_REDUCE_SCATTER ? c->size : 1;
        for (int b = 0; b < blocks; b++)
            memcpy(to + (size_t)b * (size_t)n * size, data + (size_t)b * e->stride, (size_t)n * size);
        e->stride = (uint64_t)n * size;
        data = to;
    }
    e->offset = has_input(c, w) && w->count > 0 ? (uint64_t)(data - s->base) : 0;
    e->count = w->count;
    e->kind = (int32_t)w->kind;
    e->dtype = (int32_t)w->dtype;
    e->reduction = (int32_t)w->reduction;
    e->root = w->root;
    atomic_store_explicit(&e->ready, piece + 1, memory_order_release);
}

/* ---- act ---- */
static bool agree(const void *one, const void *other)
{
    const shm_entry *a = one, *b = other;
    return a->kind == b->kind && a->count == b->count && a->dtype == b->dtype && a->reduction == b->reduction &&
           a->root == b->root;
}

/* All ranks' entries of a piece are there when it is acted on, so every rank finds the same one to differ. */
static tb_status disagreement(tb_comm *c, uint64_t piece)
{
    static const char *const kinds[] = {"allreduce", "reduce_scatter", "allgather", "bcast", "barrier"};
    const shm_comm *s = c->state;
    int most, odd;
    c->disputed = tbi_find_odd(shm_entry_of(s, piece, 0), sizeof(shm_entry), c->size, agree, &most, &odd);
    int rank = agree(shm_entry_of(s, piece, c->rank), shm_entry_of(s, piece, odd)) ? most : odd;
    const shm_entry *other = shm_entry_of(s, piece, rank);
    c->blamed = c->disputed ? rank : odd;
    return TB_FAIL(TB_ERR_COMM,
                   "rank %d of %d: %s%s%s%s meets %s of %lld %s on rank %d: ranks must call the same in the same order",
                   c->rank, c->size, c->doing, c->label[0] ? " (" : "", c->label, c->label[0] ? ")" : "",
                   kinds[other->kind], (long long)other->count, tb_dtype_name((tb_dtype)other->dtype), rank);
}

/* Sums, then does what the caller wants done to them, while they are in the nearest cache; then everybody gets them. */
static void reduce_and_map(tb_comm *c, const tbi_collective *w, int64_t first, int64_t count)
{
    enum { STEP_BYTES = 4 << 10 };
    const shm_comm *s = c->state;
    size_t size = element(w);
    const tb_kernel *kernel = tbi_reduce_kernel(c->size, 1, w->dtype, w->reduction, s->isa);
    for (int64_t n, step = STEP_BYTES / (int64_t)size; count > 0; count -= n, first += n) {
        n = count < step ? count : step;
        tbi_reduce_to(s->in, c->size, &s->out[c->rank], 1, n, w->dtype, w->reduction, kernel);
        w->map(w->map_arg, first, n, s->out[c->rank]);
        for (int r = 0; r < c->size; r++) {
            if (r != c->rank) memcpy(s->out[r], s->out[c->rank], (size_t)n * size);
        }
        for (int r = 0; r < c->size; r++) {
            s->in[r] = (const char *)s->in[r] + (size_t)n * size;
            s->out[r] = (char *)s->out[r] + (size_t)n * size;
        }
    }
}

static void act_reduce(tb_comm *c, const shm_piece_op *o, uint64_t piece)
{
    const shm_comm *s = c->state;
    const tbi_collective *w = &o->what;
    size_t size = element(w);
    int64_t from, n, first = 0, count;
    extent(o, piece, &from, &n);
    bool all = w->kind == TBI_ALLREDUCE;
    if (all)
        tbi_shard(n, size, c->rank, c->size, &first, &count);
    else
        count = n;
    if (count <= 0) return;
    for (int r = 0; r < c->size; r++) {
        const shm_entry *e = shm_entry_of(s, piece, r);
        s->in[r] = s->base + e->offset + (all ? (size_t)first * size : (size_t)c->rank * e->stride);
        s->out[r] = all ? s->base + e->offset + (size_t)first * size : (char *)w->out + (size_t)from * size;
    }
    int n_out = all ? c->size : 1;
    if (w->map)
        reduce_and_map(c, w, from + first, count);
    else
        tbi_reduce_to(s->in, c->size, s->out, n_out, count, w->dtype, w->reduction,
                      tbi_reduce_kernel(c->size, n_out, w->dtype, w->reduction, s->isa));
    c->stats.wire_bytes += (all ? 2 : 1) * (c->size - 1) * count * (int64_t)size;
}

static void act_copy(tb_comm *c, const shm_piece_op *o, uint64_t piece)
{
    const shm_comm *s = c->state;
    const tbi_collective *w = &o->what;
    int64_t from, n;
    extent(o, piece, &from, &n);
    if (n <= 0) return;
    for (int r = 0; r < c->size; r++) {
        if (w->kind == TBI_BCAST && (r != w->root || r == c->rank)) continue;
        char *to = (char *)w->out + (w->kind == TBI_ALLGATHER ? (int64_t)r * w->count : 0) + from;
        const char *data = r == c->rank ? (const char *)w->data + from : s->base + shm_entry_of(s, piece, r)->offset;
        if (to != data) memcpy(to, data, (size_t)n);
        if (r != c->rank) c->stats.wire_bytes += n;
    }
}

static int first_not(const tb_comm *c, uint64_t piece, bool ready)
{
    const shm_comm *s = c->state;
    for (int r = 0; r < c->size; r++) {
        const shm_entry *e = shm_entry_of(s, piece, r);
        if (atomic_load_explicit(ready ? &e->ready : &e->done, memory_order_acquire) < piece + 1) return r;
    }
    return -1;
}

static tb_status act(tb_comm *c, const shm_piece_op *o, uint64_t piece)
{
    const shm_comm *s = c->state;
    shm_entry *mine = shm_entry_of(s, piece, c->rank);
    for (int r = 0; r < c->size; r++)
        if (!agree(mine, shm_entry_of(s, piece, r))) return disagreement(c, piece);
    if (o->what.kind == TBI_ALLREDUCE || o->what.kind == TBI_REDUCE_SCATTER)
        act_reduce(c, o, piece);
    else if (o->what.kind != TBI_BARRIER)
        act_copy(c, o, piece);
    atomic_store_explicit(&mine->done, piece + 1, memory_order_release);
    return TB_OK;
}

/* ---- finish ---- */
static void finish(tb_comm *c, const shm_piece_op *o, uint64_t piece)
{
    const tbi_collective *w = &o->what;
    if (w->kind != TBI_ALLREDUCE || !is_staged(c, w)) return;
    int64_t from, n;
    extent(o, piece, &from, &n);
    memcpy((char *)w->out + (size_t)from * element(w), stage(c, piece, c->rank), (size_t)n * element(w));
}

/* The operation that a piece belongs to; pieces are open, so it exists. */
static shm_piece_op *owner(const shm_comm *s, uint64_t piece)
{
    shm_piece_op *o = (shm_piece_op *)s->open;
    while (piece >= o->first + o->n) o = (shm_piece_op *)o->op.next;
    return o;
}

static bool may_publish(const tb_comm *c)
{
    const shm_comm *s = c->state;
    if (s->published == s->posted) return false;
    bool staged = is_staged(c, &owner(s, s->published)->what);
    return s->published < s->finished + (staged ? SHM_STAGES : SHM_SLOTS);
}

static tb_status advance_once(tb_comm *c, bool *moved)
{
    shm_comm *s = c->state;
    *moved = false;
    for (; may_publish(c); *moved = true, s->published++) publish(c, owner(s, s->published), s->published);
    for (; s->acted < s->published && first_not(c, s->acted, true) < 0; *moved = true, s->acted++)
        TB_TRY(act(c, owner(s, s->acted), s->acted));
    for (; s->finished < s->acted && first_not(c, s->finished, false) < 0; *moved = true) {
        shm_piece_op *o = owner(s, s->finished);
        finish(c, o, s->finished);
        if (++s->finished < o->first + o->n) continue;
        o->op.done = true;
        s->open = o->op.next;
        if (!s->open) s->open_last = &s->open;
    }
    return TB_OK;
}

tb_status tbi_shm_advance_collectives(tb_comm *c)
{
    bool moved = true;
    while (moved) TB_TRY(advance_once(c, &moved));
    return TB_OK;
}

int tbi_shm_missing_in_collective(const tb_comm *c)
{
    const shm_comm *s = c->state;
    if (s->acted < s->published) return first_not(c, s->acted, true);
    return s->finished < s->acted ? first_not(c, s->finished, false) : -1;
}
