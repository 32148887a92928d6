/* The caching heap: size classes with four steps per power of two, one free list each. A 64-byte header before each
 * block holds its class, size and tag. Blocks of at least HUGE_BYTES are mapped, advised to use huge pages and
 * touched once, so that no page fault is left for later (4 KiB faults cost 15-25 us each on virtual machines). */
#include "tb_alloc.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { CACHES_BLOCKS = 0 }; /* so that the sanitizer sees each free */
#else
enum { CACHES_BLOCKS = 1 };
#endif

enum { ALIGN = 64, CLASSES = 4 * 48, HUGE_BYTES = 1 << 20 };

typedef struct header {
    tb_heap *heap;
    struct header *next_free;
    struct header *next, *prev; /* in the ring of all blocks, live and free */
    size_t bytes;         /* as requested */
    size_t capacity;      /* of the block after the header */
    int32_t size_class;
    int16_t tag;
    int16_t is_meta;
} header;

_Static_assert(sizeof(header) <= ALIGN, "a block's header fills the alignment gap before it");

struct tb_heap {
    header *free_list[CLASSES];
    header all; /* ring */
    tb_mem_stats stats;
    int64_t fail_in;
    bool locked;
    pthread_mutex_t lock;
};

static const char *const tag_names[TB_MEM_TAGS] = {"param",    "grad",      "opt",  "act",  "act_grad",
                                                   "boundary", "workspace", "comm", "other"};

const char *tb_mem_tag_name(tb_mem_tag tag) { return (unsigned)tag < TB_MEM_TAGS ? tag_names[tag] : "?"; }

/* Class c holds (4 + c % 4) << (c / 4 + 4) bytes: 64, 80, 96, 112, 128, 160, ... */
static size_t class_bytes(int c) { return (size_t)(4 + c % 4) << (c / 4 + 4); }

static int class_of(size_t bytes)
{
    if (bytes <= ALIGN) return 0;
    int top = 63 - __builtin_clzll((unsigned long long)(bytes - 1));
    int c = 4 * (top - 6) + (int)((bytes - 1) >> (top - 2)) - 4 + 1;
    return c < CLASSES ? c : -1;
}

static void init(tb_heap *heap, bool locked)
{
    memset(heap, 0, sizeof *heap);
    heap->all.next = heap->all.prev = &heap->all;
    heap->locked = locked;
    pthread_mutex_init(&heap->lock, NULL);
    const char *fault = getenv("TB_FAULT");
    if (fault && strncmp(fault, "alloc:", 6) == 0) heap->fail_in = atoll(fault + 6);
}

tb_heap *tb_heap_create(void)
{
    tb_heap *heap = malloc(sizeof *heap);
    if (!heap) {
        (void)TB_FAIL(TB_ERR_OOM, "no memory for a heap");
        return NULL;
    }
    init(heap, false);
    return heap;
}

static tb_heap process_heap;

static void init_process_heap(void) { init(&process_heap, true); }

tb_heap *tb_heap_process(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_process_heap);
    return &process_heap;
}

static void *system_alloc(size_t bytes)
{
    if (bytes < HUGE_BYTES) return aligned_alloc(ALIGN, (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1));
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096) ((volatile char *)p)[i] = 0;
    return p;
}

static void system_free(header *h)
{
    size_t bytes = h->capacity + ALIGN;
    h->prev->next = h->next;
    h->next->prev = h->prev;
    if (h->is_meta || bytes < HUGE_BYTES) free(h);
    else munmap(h, bytes);
}

static inline void count(tb_heap *heap, tb_mem_tag tag, int64_t bytes)
{
    tb_mem_stats *s = &heap->stats;
    int64_t of_tag = s->live_by_tag[tag] += bytes, all = s->live_bytes += bytes;
    if (of_tag > s->peak_by_tag[tag]) s->peak_by_tag[tag] = of_tag;
    if (all > s->peak_bytes) {
        s->peak_bytes = all;
        memcpy(s->at_peak_by_tag, s->live_by_tag, sizeof s->live_by_tag);
    }
}

static void lock(const tb_heap *heap)
{
    if (heap->locked) pthread_mutex_lock((pthread_mutex_t *)(uintptr_t)&heap->lock);
}

static void unlock(const tb_heap *heap)
{
    if (heap->locked) pthread_mutex_unlock((pthread_mutex_t *)(uintptr_t)&heap->lock);
}

static header *from_system(tb_heap *heap, size_t bytes, int c, bool is_meta)
{
    size_t capacity = is_meta ? 0 : CACHES_BLOCKS ? class_bytes(c) : bytes;
    header *h = system_alloc(capacity + ALIGN);
    if (!h) return NULL;
    heap->stats.system_calls++;
    *h = (header){.heap = heap,
                  .next = heap->all.next,
                  .prev = &heap->all,
                  .capacity = capacity,
                  .size_class = c,
                  .is_meta = is_meta};
    h->next->prev = heap->all.next = h;
    return h;
}

static inline header *from_cache(tb_heap *heap, int c)
{
    header *h = heap->free_list[c];
    if (!h) return NULL;
    heap->free_list[c] = h->next_free;
    heap->stats.cached_bytes -= (int64_t)h->capacity;
    return h;
}

static inline void *make_live(tb_heap *heap, header *h, size_t bytes, tb_mem_tag tag)
{
    h->bytes = bytes;
    h->tag = (int16_t)tag;
    heap->stats.live_blocks++;
    count(heap, tag, (int64_t)bytes);
    return (char *)h + ALIGN;
}

static __attribute__((noinline)) void *allocate(tb_heap *heap, size_t bytes, tb_mem_tag tag, bool is_meta)
{
    lock(heap);
    heap->stats.requests++;
    bool fails = heap->fail_in > 0 && --heap->fail_in == 0;
    int c = class_of(bytes);
    header *h = fails || c < 0 || is_meta ? NULL : from_cache(heap, c);
    if (!h && !fails && c >= 0) h = from_system(heap, bytes, c, is_meta);
    void *block = h ? make_live(heap, h, bytes, tag) : NULL;
    int64_t live = heap->stats.live_bytes;
    unlock(heap);
    if (!block)
        (void)TB_FAIL(TB_ERR_OOM, "no memory for %zu bytes (%s); %lld bytes are live in this heap", bytes,
                      tb_mem_tag_name(tag), (long long)live);
    return block;
}

/* The path of a steady step: a heap of one thread that has a block of the size. */
void *tb_heap_alloc(tb_heap *heap, size_t bytes, tb_mem_tag tag)
{
    int c = class_of(bytes);
    if (heap->locked || heap->fail_in > 0 || c < 0) return allocate(heap, bytes, tag, false);
    header *h = from_cache(heap, c);
    if (!h) return allocate(heap, bytes, tag, false);
    heap->stats.requests++;
    return make_live(heap, h, bytes, tag);
}

void *tb_heap_alloc_meta(tb_heap *heap, size_t bytes, tb_mem_tag tag) { return allocate(heap, bytes, tag, true); }

static header *header_of(const void *block) { return (header *)((uintptr_t)block - ALIGN); }

void tb_heap_free(tb_heap *heap, void *block)
{
    if (!block) return;
    header *h = header_of(block);
    lock(heap);
    heap->stats.live_blocks--;
    heap->stats.live_bytes -= (int64_t)h->bytes;
    heap->stats.live_by_tag[h->tag] -= (int64_t)h->bytes;
    if (h->is_meta || !CACHES_BLOCKS) {
        system_free(h);
    } else {
        h->next_free = heap->free_list[h->size_class];
        heap->free_list[h->size_class] = h;
        heap->stats.cached_bytes += (int64_t)h->capacity;
    }
    unlock(heap);
}

void tb_heap_retag(tb_heap *heap, void *block, tb_mem_tag tag)
{
    header *h = header_of(block);
    lock(heap);
    count(heap, (tb_mem_tag)h->tag, -(int64_t)h->bytes);
    h->tag = (int16_t)tag;
    count(heap, tag, (int64_t)h->bytes);
    unlock(heap);
}

size_t tb_heap_block_bytes(const void *block) { return header_of(block)->bytes; }

tb_mem_tag tb_heap_block_tag(const void *block) { return (tb_mem_tag)header_of(block)->tag; }

void tb_heap_stats(const tb_heap *heap, tb_mem_stats *out)
{
    lock(heap);
    *out = heap->stats;
    unlock(heap);
}

void tb_heap_reset_peak(tb_heap *heap)
{
    lock(heap);
    tb_mem_stats *s = &heap->stats;
    s->peak_bytes = s->live_bytes;
    memcpy(s->at_peak_by_tag, s->live_by_tag, sizeof s->live_by_tag);
    memcpy(s->peak_by_tag, s->live_by_tag, sizeof s->live_by_tag);
    unlock(heap);
}

void tb_heap_trim(tb_heap *heap)
{
    lock(heap);
    for (int c = 0; c < CLASSES; c++)
        for (header *h = heap->free_list[c], *next; h; h = next) {
            next = h->next_free;
            heap->stats.cached_bytes -= (int64_t)h->capacity;
            system_free(h);
        }
    memset(heap->free_list, 0, sizeof heap->free_list);
    unlock(heap);
}

int64_t tb_heap_destroy(tb_heap *heap)
{
    if (!heap) return 0;
    int64_t leaked = heap->stats.live_blocks;
    while (heap->all.next != &heap->all) system_free(heap->all.next);
    pthread_mutex_destroy(&heap->lock);
    if (heap != &process_heap) free(heap);
    return leaked;
}

void tb_heap_fail_at(tb_heap *heap, int64_t n)
{
    lock(heap);
    heap->fail_in = n;
    unlock(heap);
}

void *tb_calloc(size_t count_, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count_, size, &bytes)) {
        (void)TB_FAIL(TB_ERR_OOM, "no memory for %zu x %zu bytes", count_, size);
        return NULL;
    }
    void *p = tb_heap_alloc(tb_heap_process(), bytes, TB_MEM_OTHER);
    return p ? memset(p, 0, bytes) : NULL;
}

void *tb_realloc(void *block, size_t bytes)
{
    if (block && bytes <= header_of(block)->capacity && bytes >= header_of(block)->capacity / 4) {
        header *h = header_of(block);
        lock(h->heap);
        count(h->heap, (tb_mem_tag)h->tag, (int64_t)bytes - (int64_t)h->bytes);
        h->bytes = bytes;
        unlock(h->heap);
        return block;
    }
    void *p = tb_heap_alloc(tb_heap_process(), bytes, TB_MEM_OTHER);
    if (p && block) {
        size_t old = header_of(block)->bytes;
        memcpy(p, block, old < bytes ? old : bytes);
        tb_free(block);
    }
    return p;
}

char *tb_strndup(const char *s, size_t n)
{
    n = strnlen(s, n);
    char *p = tb_heap_alloc(tb_heap_process(), n + 1, TB_MEM_OTHER);
    if (!p) return NULL;
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *tb_strdup(const char *s) { return tb_strndup(s, strlen(s)); }

char *tb_asprintf(const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : tb_heap_alloc(tb_heap_process(), (size_t)n + 1, TB_MEM_OTHER);
    if (p) vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void tb_free(void *block) { tb_heap_free(tb_heap_process(), block); }
