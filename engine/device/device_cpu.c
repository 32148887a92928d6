/* Host memory. */
#include "device_internal.h"
#include <string.h>

static tb_status cpu_alloc(const tb_device *dev, tb_heap *heap, size_t bytes, tb_mem_tag tag, tb_device_mem *out)
{
    (void)dev;
    out->handle = out->data = tb_heap_alloc(heap, bytes, tag);
    return out->handle ? TB_OK : TB_ERR_OOM;
}

static void cpu_free(const tb_device *dev, tb_heap *heap, tb_device_mem mem)
{
    (void)dev;
    tb_heap_free(heap, mem.handle);
}

static void cpu_open(const tb_device *dev, tb_device_mem mem) { (void)dev, (void)mem; }

static tb_status cpu_close(const tb_device *dev, tb_device_mem mem)
{
    (void)dev, (void)mem;
    return TB_OK;
}

static tb_status cpu_read(const tb_device *dev, tb_device_mem mem, size_t offset, void *host, size_t bytes)
{
    (void)dev;
    if (bytes) memcpy(host, (const char *)mem.data + offset, bytes);
    return TB_OK;
}

static tb_status cpu_write(const tb_device *dev, tb_device_mem mem, size_t offset, const void *host, size_t bytes)
{
    (void)dev;
    if (bytes) memcpy((char *)mem.data + offset, host, bytes);
    return TB_OK;
}

const tb_device tbi_device_cpu = {
    .name = "cpu", .has_data = true, .always_open = true, .alloc = cpu_alloc, .free = cpu_free,
    .open = cpu_open, .close = cpu_close, .read = cpu_read, .write = cpu_write,
};
