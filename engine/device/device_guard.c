/* Fenced memory: [no access][slack ... data][no access]. The data ends at most 63 bytes before the upper fence, so
 * that it stays 64-byte aligned; slack on both sides holds a pattern that close() checks. Pages are PROT_NONE while
 * nobody has the block open: any access then is a segmentation fault at the guilty line. */
#include "device_internal.h"
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PATTERN = 0xA5 };

typedef struct guarded {
    char *fence;        /* start of the whole mapping */
    size_t page, inner; /* bytes of a page and of the accessible part */
    size_t bytes;
    char *data;
    void *counted;      /* the heap's account of the payload */
    int open_count;
} guarded;

static void protect(const guarded *g, int protection) { mprotect(g->fence + g->page, g->inner, protection); }

static tb_status guard_alloc(const tb_device *dev, tb_heap *heap, size_t bytes, tb_mem_tag tag, tb_device_mem *out)
{
    (void)dev;
    *out = (tb_device_mem){0};
    guarded *g = tb_calloc(1, sizeof *g);
    if (!g) return TB_ERR_OOM;
    g->counted = tb_heap_alloc_meta(heap, bytes, tag);
    if (!g->counted) {
        tb_free(g);
        return TB_ERR_OOM;
    }
    g->page = (size_t)sysconf(_SC_PAGESIZE);
    g->bytes = bytes;
    g->inner = (bytes + 64 + g->page - 1) / g->page * g->page;
    g->fence = mmap(NULL, g->inner + 2 * g->page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->fence == MAP_FAILED) {
        tb_heap_free(heap, g->counted);
        tb_free(g);
        return TB_FAIL(TB_ERR_OOM, "no address space for %zu guarded bytes", bytes);
    }
    char *end = g->fence + g->page + g->inner;
    g->data = end - ((bytes + 63) & ~(size_t)63);
    protect(g, PROT_READ | PROT_WRITE);
    memset(g->fence + g->page, PATTERN, g->inner);
    protect(g, PROT_NONE);
    *out = (tb_device_mem){.handle = g, .data = g->data};
    return TB_OK;
}

static void guard_free(const tb_device *dev, tb_heap *heap, tb_device_mem mem)
{
    (void)dev;
    guarded *g = mem.handle;
    if (!g) return;
    tb_heap_free(heap, g->counted);
    munmap(g->fence, g->inner + 2 * g->page);
    tb_free(g);
}

static void guard_open(const tb_device *dev, tb_device_mem mem)
{
    (void)dev;
    guarded *g = mem.handle;
    if (g->open_count++ == 0) protect(g, PROT_READ | PROT_WRITE);
}

static int is_pattern(const char *from, const char *to)
{
    for (; from < to; from++)
        if ((unsigned char)*from != PATTERN) return 0;
    return 1;
}

static tb_status guard_close(const tb_device *dev, tb_device_mem mem)
{
    (void)dev;
    guarded *g = mem.handle;
    if (--g->open_count > 0) return TB_OK;
    const char *start = g->fence + g->page, *end = start + g->inner;
    int clean = is_pattern(start, g->data) && is_pattern(g->data + g->bytes, end);
    protect(g, PROT_NONE);
    if (clean) return TB_OK;
    return TB_FAIL(TB_ERR_INTERNAL, "a kernel wrote outside its block of %zu bytes", g->bytes);
}

static tb_status guard_read(const tb_device *dev, tb_device_mem mem, size_t offset, void *host, size_t bytes)
{
    guard_open(dev, mem);
    if (bytes) memcpy(host, (const char *)mem.data + offset, bytes);
    return guard_close(dev, mem);
}

static tb_status guard_write(const tb_device *dev, tb_device_mem mem, size_t offset, const void *host, size_t bytes)
{
    guard_open(dev, mem);
    if (bytes) memcpy((char *)mem.data + offset, host, bytes);
    return guard_close(dev, mem);
}

const tb_device tbi_device_guard = {
    .name = "guard", .has_data = true, .always_open = false, .alloc = guard_alloc, .free = guard_free,
    .open = guard_open, .close = guard_close, .read = guard_read, .write = guard_write,
};
