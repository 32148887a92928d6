/* The structures behind tb_tensor.h and tb_ctx.h, for the engine's modules. */
#pragma once
#include "tb_tensor.h"
#include <stdatomic.h>
#include <string.h>

/* Contents in the layout of a kernel (tbi_packed): of two, since a graph may convolve by another kernel than the model
 * that it was captured from and shares its weights with. */
enum { TBI_PACKED_PLACES = 2 };
typedef struct tbi_packed_place {
    _Atomic(void *) block; /* or NULL */
    _Atomic(uint64_t) key; /* 1 + their version, then 32 bits of their layout's hash; below 2^32: none */
} tbi_packed_place;

typedef struct tb_storage {
    atomic_int refs;
    uint32_t version;
    tb_ctx *ctx;            /* whose heap holds it */
    const tb_device *device;
    tb_device_mem mem;
    size_t bytes;
    bool is_wrapped;        /* memory of somebody else */
    tbi_packed_place packed[TBI_PACKED_PLACES];
    _Atomic(uint32_t) seen; /* 1 + the version that tbi_packing_pays saw last */
} tb_storage;

struct tb_tensor {
    atomic_int refs;
    uint8_t dtype, rank;
    bool is_contiguous;
    bool has_own_storage; /* behind the tensor, in one block (tensor.c): that lives until both are let go */
    int64_t dims[TB_MAX_RANK], strides[TB_MAX_RANK];
    int64_t offset;         /* elements into the storage */
    int64_t numel;
    tb_storage *storage;    /* NULL: poison */
    tb_ctx *ctx;
    tb_scope *scope;        /* that holds one reference, or NULL */
    tb_tensor *scope_prev, *scope_next;
    void *autograd;         /* owned by autograd/; freed through ctx->autograd_free */
    char name[48];
};

struct tb_scope {
    tb_ctx *ctx;
    tb_scope *parent, *next_open;
    tb_tensor *first;       /* list of owned tensors, newest first */
};

/* What looks at every op call (ops/tb_op.h explains how). */
typedef struct tb_interceptor tb_interceptor;

enum { TB_CTX_SLOTS = 8 };

struct tb_ctx {
    tb_heap *heap;
    tb_pool *pool;
    const tb_device *device;
    tb_isa isa;
    bool ref_only;
    uint64_t seed, stream, stream_uses;
    int64_t first_sample;
    int batch_blocks;
    bool bf16_products, f16_products;
    tb_mem_tag tag;
    tb_scope root, *scope, *open_scopes;
    tb_interceptor *interceptors; /* outermost first */
    void (*autograd_free)(tb_tensor *t);
    tb_status (*on_read)(tb_ctx *ctx, const tb_tensor *t); /* capture: may refuse a host read; or NULL */
    tb_status pending;            /* first failure of an op, with its sentence */
    char pending_message[1024];
    int64_t live_tensors;
    /* State of higher modules (dispatch cache, tape, profiler), one slot each, freed with the context. */
    struct {
        void *state;
        void (*destroy)(tb_ctx *ctx, void *state);
    } slot[TB_CTX_SLOTS];
};

enum { TB_SLOT_OPS, TB_SLOT_AUTOGRAD, TB_SLOT_TRACE, TB_SLOT_CAPTURE };

extern _Thread_local tb_ctx *tbi_current;
static inline tb_ctx *tbi_ctx(void) { return tbi_current; } /* never NULL inside an op that has one */

extern tb_tensor tbi_poison;
static inline bool tbi_is_poison(const tb_tensor *t) { return t == &tbi_poison; }

/* Keeps the thread's record as the context's pending cause, unless one is pending, and returns poison. */
tb_tensor *tbi_poisoned(tb_ctx *ctx);

/* A new tensor with its own storage (contiguous), or over `storage` with the given layout. In the current scope;
 * NULL on failure. */
tb_tensor *tbi_tensor_new(tb_ctx *ctx, tb_dtype dtype, int rank, const int64_t *dims);
tb_tensor *tbi_tensor_view(tb_tensor *of, tb_dtype dtype, int rank, const int64_t *dims, const int64_t *strides,
                           int64_t offset);
void tbi_lay_out(tb_tensor *t, const int64_t *strides); /* a new tensor lies so instead, filling its storage */
void tbi_scope_adopt(tb_scope *scope, tb_tensor *t); /* the scope takes over one reference */
void tbi_scope_disown(tb_tensor *t);                 /* the caller takes the scope's reference */
/* tb_scope_open and tb_scope_close for a scope in the caller's own memory. */
void tbi_scope_enter(tb_ctx *ctx, tb_scope *scope);
void tbi_scope_leave(tb_scope *scope);

static inline void *tbi_data(const tb_tensor *t)
{
    return (char *)t->storage->mem.data + (size_t)t->offset * tb_dtype_size((tb_dtype)t->dtype);
}
static inline void tbi_open(const tb_tensor *t)
{
    if (!t->storage->device->always_open) t->storage->device->open(t->storage->device, t->storage->mem);
}
static inline tb_status tbi_close(const tb_tensor *t)
{
    const tb_device *d = t->storage->device;
    return d->always_open ? TB_OK : d->close(d, t->storage->mem);
}
bool tbi_is_row_major(int rank, const int64_t *dims, const int64_t *strides);
void tbi_row_major(int rank, const int64_t *dims, int64_t *strides);

/* Weights in a kernel's own layout are made once and kept with the storage they were made from, until that changes: the
 * first layouts that come, in the process heap, since readers are many. Threads may do all of this at once; only
 * who owns a storage changes its contents, and nobody reads it then. */
typedef struct tbi_layout {
    const void *of;  /* what packs it: a kernel */
    int64_t variant; /* what it depends on besides the dimensions and strides of the tensor */
    size_t bytes;
} tbi_layout;
/* What is kept of the present contents of `t` in this layout, or NULL. */
const void *tbi_packed(const tb_tensor *t, tbi_layout layout);
/* Whether a packed form is worth its bytes: contents that never change (a planned run's constants), or that are used
 * for the second time since they changed (not the weights of a training step). Other layouts must have left a place. */
bool tbi_packing_pays(const tb_tensor *t, bool is_planned);
void *tbi_packed_new(const tb_tensor *t, tbi_layout layout); /* memory to fill */
/* Publishes it. Returns what is kept in that layout; NULL, and `fresh` is gone, where others have the places. */
const void *tbi_packed_keep(const tb_tensor *t, void *fresh);
void tbi_packed_drop(tb_storage *s); /* all; by who owns the storage */
