/* Contents of a storage in a kernel's layout, kept beside them: a few places, the first taken first, each published by
 * its key behind its block. */
#include "tensor_internal.h"

/* Before the packed contents: what they were made from, in full. */
typedef struct packed {
    tbi_layout layout;
    int64_t rank, offset, dims[TB_MAX_RANK], strides[TB_MAX_RANK];
} packed;
enum { PACKED_AT = 192 };
_Static_assert(sizeof(packed) <= PACKED_AT && PACKED_AT % 64 == 0, "packed contents lie behind what they are of");
static const uint64_t being_changed = 1;

static packed describe(const tb_tensor *t, tbi_layout layout)
{
    packed p = {.layout = layout, .rank = t->rank, .offset = t->offset};
    memcpy(p.dims, t->dims, sizeof *t->dims * t->rank);
    memcpy(p.strides, t->strides, sizeof *t->strides * t->rank);
    return p;
}

static uint64_t key_of(const tb_storage *s, const packed *p)
{
    uint64_t mix = (uint64_t)(uintptr_t)p->layout.of ^ (uint64_t)p->layout.bytes << 20 ^ (uint64_t)p->dims[0] << 40;
    return ((uint64_t)s->version + 1) << 32 | mix * 0x9e3779b97f4a7c15u >> 32; /* Fibonacci hashing: Knuth, 6.4 */
}

static const void *kept(const tb_storage *s, const packed *p, uint64_t key)
{
    for (int i = 0; i < TBI_PACKED_PLACES; i++) {
        if (atomic_load_explicit(&s->packed[i].key, memory_order_acquire) != key) continue;
        const void *block = atomic_load_explicit(&s->packed[i].block, memory_order_relaxed);
        if (memcmp(block, p, sizeof *p) == 0) return (const char *)block + PACKED_AT;
    }
    return NULL;
}

const void *tbi_packed(const tb_tensor *t, tbi_layout layout)
{
    if (!atomic_load_explicit(&t->storage->packed[0].key, memory_order_relaxed)) return NULL;
    packed p = describe(t, layout);
    return kept(t->storage, &p, key_of(t->storage, &p));
}

/* Whether a layout of the present contents has the place, or somebody is about to give it to one. */
static bool is_taken(const tb_storage *s, uint64_t key)
{
    return key == being_changed || key >> 32 == (uint64_t)s->version + 1;
}

static bool has_room(const tb_storage *s)
{
    for (int i = 0; i < TBI_PACKED_PLACES; i++)
        if (!is_taken(s, atomic_load_explicit(&s->packed[i].key, memory_order_relaxed))) return true;
    return false;
}

bool tbi_packing_pays(const tb_tensor *t, bool is_planned)
{
    tb_storage *s = t->storage;
    if (s->is_wrapped || t->offset != 0 || tb_tensor_bytes(t) != s->bytes) return false; /* others may write there */
    if (!has_room(s)) return false;
    uint32_t now = s->version + 1;
    if (is_planned || atomic_load_explicit(&s->seen, memory_order_relaxed) == now) return true;
    atomic_store_explicit(&s->seen, now, memory_order_relaxed); /* two at once: both packing late does no harm */
    return false;
}

void *tbi_packed_new(const tb_tensor *t, tbi_layout layout)
{
    char *block = tb_heap_alloc(tb_heap_process(), PACKED_AT + layout.bytes, TB_MEM_PARAM);
    if (!block) return NULL;
    *(packed *)(void *)block = describe(t, layout);
    return block + PACKED_AT;
}

const void *tbi_packed_keep(const tb_tensor *t, void *fresh)
{
    tb_storage *s = t->storage;
    void *block = (char *)fresh - PACKED_AT;
    uint64_t key = key_of(s, block);
    const void *theirs = kept(s, block, key); /* somebody was faster */
    for (int i = 0; i < TBI_PACKED_PLACES && !theirs; i++) {
        tbi_packed_place *place = &s->packed[i];
        uint64_t before = atomic_load(&place->key);
        if (is_taken(s, before) || !atomic_compare_exchange_strong(&place->key, &before, being_changed)) continue;
        void *stale = atomic_exchange(&place->block, block); /* of contents that nobody reads any more */
        atomic_store_explicit(&place->key, key, memory_order_release);
        if (stale) tb_free(stale);
        return fresh;
    }
    if (!theirs) theirs = kept(s, block, key);
    tb_free(block);
    return theirs;
}

void tbi_packed_drop(tb_storage *s)
{
    for (int i = 0; i < TBI_PACKED_PLACES; i++) {
        atomic_store_explicit(&s->packed[i].key, 0, memory_order_relaxed);
        void *made = atomic_exchange_explicit(&s->packed[i].block, NULL, memory_order_relaxed);
        if (made) tb_free(made);
    }
}
