/* Where a tensor's bytes live. Nothing above this module assumes that the host can read them: kernels run between
 * open and close, everything else goes through read and write.
 *
 *   cpu    host memory from the context's heap
 *   guard  host memory that is unreadable outside open/close and fenced by unmapped pages: a test device that shows
 *          host reads behind the engine's back and kernels that leave their operands
 *   meta   sizes only: predicts memory without touching any */
#pragma once
#include "tb_alloc.h"
#include <stdbool.h>

typedef struct tb_device tb_device;

typedef struct tb_device_mem {
    void *handle; /* what alloc returned; free gets it back */
    void *data;   /* the address kernels use, valid between open and close; NULL on meta */
} tb_device_mem;

struct tb_device {
    const char *name;
    bool has_data;    /* false: kernels are not run */
    bool always_open; /* open and close may be skipped */
    tb_status (*alloc)(const tb_device *dev, tb_heap *heap, size_t bytes, tb_mem_tag tag, tb_device_mem *out);
    void (*free)(const tb_device *dev, tb_heap *heap, tb_device_mem mem);
    void (*open)(const tb_device *dev, tb_device_mem mem);       /* nests */
    tb_status (*close)(const tb_device *dev, tb_device_mem mem); /* fails if bytes around the block were written */
    tb_status (*read)(const tb_device *dev, tb_device_mem mem, size_t offset, void *host, size_t bytes);
    tb_status (*write)(const tb_device *dev, tb_device_mem mem, size_t offset, const void *host, size_t bytes);
};

/* "cpu", "guard", "meta"; NULL with the record filled for any other name. */
const tb_device *tb_device_find(const char *name);
