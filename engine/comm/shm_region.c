/* Memory inside the shared mapping that one rank hands out to its owner: first fit, neighbours join when freed. The
 * blocks' list is private to the process; the bytes count in the owner's heap. Buckets live as long as training does,
 * so simple is enough. */
#include "comm_shm.h"
#include <string.h>

typedef struct block {
    struct block *next; /* by address */
    char *at;
    size_t bytes;       /* of the place; a multiple of 64 */
    void *account;      /* in the heap's books; NULL: free */
} block;

struct shm_region {
    block *first;
};

tb_status tbi_shm_region_open(shm_comm *s, char *at, size_t bytes)
{
    s->region = tb_calloc(1, sizeof *s->region);
    block *all = tb_calloc(1, sizeof *all);
    if (!s->region || !all) {
        tb_free(all);
        return tb_error_code();
    }
    *all = (block){ .at = at, .bytes = bytes & ~(size_t)63 };
    s->region->first = all;
    return TB_OK;
}

void tbi_shm_region_close(shm_comm *s, tb_heap *heap)
{
    block *b = s->region ? s->region->first : NULL;
    for (block *next; b; b = next) {
        next = b->next;
        tb_heap_free(heap, b->account);
        tb_free(b);
    }
    tb_free(s->region);
}

void *tbi_shm_region_alloc(tb_comm *c, size_t bytes)
{
    const shm_comm *s = c->state;
    size_t need = (bytes + 63) & ~(size_t)63;
    if (need == 0) need = 64;
    block *b = s->region->first;
    while (b && (b->account || b->bytes < need)) b = b->next;
    if (!b) {
        (void)TB_FAIL(TB_ERR_OOM, "rank %d: %zu bytes do not fit its part of the shared memory", c->rank, bytes);
        return NULL;
    }
    if (b->bytes > need) {
        block *rest = tb_calloc(1, sizeof *rest);
        if (!rest) return NULL;
        *rest = (block){ .next = b->next, .at = b->at + need, .bytes = b->bytes - need };
        b->next = rest;
        b->bytes = need;
    }
    b->account = tb_heap_alloc_meta(c->heap, bytes, TB_MEM_COMM);
    if (!b->account) return NULL;
    return memset(b->at, 0, bytes);
}

static void join_next(block *b)
{
    block *next = b->next;
    if (!next || next->account) return;
    b->bytes += next->bytes;
    b->next = next->next;
    tb_free(next);
}

void tbi_shm_region_free(tb_comm *c, void *at)
{
    const shm_comm *s = c->state;
    block *before = NULL, *b = s->region->first;
    while (b && b->at != at) before = b, b = b->next;
    if (!b) return;
    tb_heap_free(c->heap, b->account);
    b->account = NULL;
    join_next(b);
    if (before && !before->account) join_next(before);
}
