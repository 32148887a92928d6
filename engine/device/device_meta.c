/* Sizes without memory. Reading gives zeros, so shape-only runs of programs that look at a value go on. */
#include "device_internal.h"
#include <string.h>

static tb_status meta_alloc(const tb_device *dev, tb_heap *heap, size_t bytes, tb_mem_tag tag, tb_device_mem *out)
{
    (void)dev;
    *out = (tb_device_mem){.handle = tb_heap_alloc_meta(heap, bytes, tag)};
    return out->handle ? TB_OK : TB_ERR_OOM;
}

static void meta_free(const tb_device *dev, tb_heap *heap, tb_device_mem mem)
{
    (void)dev;
    tb_heap_free(heap, mem.handle);
}

static void meta_open(const tb_device *dev, tb_device_mem mem) { (void)dev, (void)mem; }

static tb_status meta_close(const tb_device *dev, tb_device_mem mem)
{
    (void)dev, (void)mem;
    return TB_OK;
}

static tb_status meta_read(const tb_device *dev, tb_device_mem mem, size_t offset, void *host, size_t bytes)
{
    (void)dev, (void)mem, (void)offset;
    memset(host, 0, bytes);
    return TB_OK;
}

static tb_status meta_write(const tb_device *dev, tb_device_mem mem, size_t offset, const void *host, size_t bytes)
{
    (void)dev, (void)mem, (void)offset, (void)host, (void)bytes;
    return TB_OK;
}

const tb_device tbi_device_meta = {
    .name = "meta", .has_data = false, .always_open = true, .alloc = meta_alloc, .free = meta_free,
    .open = meta_open, .close = meta_close, .read = meta_read, .write = meta_write,
};
