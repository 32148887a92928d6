/* Tensors and storages: life, getters, data. */
#include "tensor_internal.h"
#include <stdio.h>
#include <sys/single_threaded.h>

tb_tensor tbi_poison = {.dtype = TB_F32, .is_contiguous = true, .numel = 1};

tb_tensor *tb_poison(void) { return &tbi_poison; }

bool tb_is_poison(const tb_tensor *t) { return t == &tbi_poison; }

void tbi_row_major(int rank, const int64_t *dims, int64_t *strides)
{
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
        strides[i] = step;
        step *= dims[i];
    }
}

bool tbi_is_row_major(int rank, const int64_t *dims, const int64_t *strides)
{
    bool fits = true;
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; i--) {
        if (dims[i] == 0) return true; /* no element whose place could differ */
        fits &= dims[i] == 1 || strides[i] == step;
        step *= dims[i];
    }
    return fits;
}

/* A tensor that is no view lies in one block with its storage. */
typedef struct owner {
    tb_tensor tensor;
    tb_storage storage;
} owner;

/* All but dims, strides, numel and storage. */
static tb_tensor *tensor_alloc(tb_ctx *ctx, size_t bytes, tb_dtype dtype, int rank)
{
    tb_tensor *t = tb_heap_alloc(ctx->heap, bytes, TB_MEM_OTHER);
    if (!t) return NULL;
    atomic_init(&t->refs, 1);
    t->dtype = (uint8_t)dtype;
    t->rank = (uint8_t)rank;
    t->has_own_storage = false;
    t->offset = 0;
    t->storage = NULL;
    t->ctx = ctx;
    t->scope = NULL;
    t->autograd = NULL;
    t->name[0] = 0;
    ctx->live_tensors++;
    return t;
}

/* References are counted without locking the bus where nobody else can be counting: while the process has one thread,
 * and by who holds the only one. */
static inline void refer(atomic_int *refs)
{
    if (__libc_single_threaded)
        atomic_store_explicit(refs, atomic_load_explicit(refs, memory_order_relaxed) + 1, memory_order_relaxed);
    else
        atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

/* Whether the reference given up is the last one. */
static inline bool is_last(atomic_int *refs)
{
    int held = atomic_load_explicit(refs, memory_order_acquire);
    if (held == 1) return true;
    if (!__libc_single_threaded) return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
    atomic_store_explicit(refs, held - 1, memory_order_relaxed);
    return false;
}

static void drop_data(tb_storage *s)
{
    if (!s->is_wrapped) s->device->free(s->device, s->ctx->heap, s->mem);
    s->is_wrapped = true;
    if (atomic_load_explicit(&s->packed[0].block, memory_order_relaxed)) tbi_packed_drop(s);
}

static void storage_release(tb_storage *s)
{
    if (!is_last(&s->refs)) return;
    drop_data(s);
    tb_heap_free(s->ctx->heap, (char *)s - offsetof(owner, storage));
}

static tb_storage *own_storage(tb_tensor *t) { return &((owner *)t)->storage; }

/* Row-major dims, strides and numel; false where a dimension is negative or the bytes overflow. */
static bool lay_out(tb_tensor *t, size_t size, int rank, const int64_t *dims)
{
    int64_t step = 1, bytes = (int64_t)size; /* leaves zeros out: [huge, 0, huge] is impossible as well */
    for (int i = rank - 1; i >= 0; i--) {
        if (dims[i] < 0 || (dims[i] > 0 && __builtin_mul_overflow(bytes, dims[i], &bytes))) return false;
        t->dims[i] = dims[i];
        t->strides[i] = step;
        step *= dims[i];
    }
    t->numel = step;
    t->is_contiguous = true;
    return true;
}

static tb_tensor *contiguous(tb_ctx *ctx, tb_dtype dtype, int rank, const int64_t *dims, void *wrapped)
{
    if (rank < 0 || rank > TB_MAX_RANK) {
        (void)TB_FAIL(TB_ERR_SHAPE, "a tensor has at most %d dimensions, not %d", TB_MAX_RANK, rank);
        return NULL;
    }
    tb_tensor *t = tensor_alloc(ctx, sizeof(owner), dtype, rank);
    if (!t) return NULL;
    if (!lay_out(t, tb_dtype_size(dtype), rank, dims)) {
        (void)TB_FAIL(TB_ERR_SHAPE, "impossible shape %s: a dimension is negative or the size overflows",
                      tb_dims_text(rank, dims));
        goto failed;
    }
    tb_storage *s = own_storage(t);
    *s = (tb_storage){.ctx = ctx, .device = ctx->device, .bytes = tb_tensor_bytes(t), .is_wrapped = wrapped};
    atomic_init(&s->refs, 1);
    if (wrapped)
        s->mem = (tb_device_mem){.handle = wrapped, .data = wrapped};
    else if (s->device->alloc(s->device, ctx->heap, s->bytes, ctx->tag, &s->mem) != TB_OK)
        goto failed;
    t->storage = s;
    t->has_own_storage = true;
    tbi_scope_adopt(ctx->scope, t);
    return t;
failed:
    ctx->live_tensors--;
    tb_heap_free(ctx->heap, t);
    return NULL;
}

tb_tensor *tbi_tensor_new(tb_ctx *ctx, tb_dtype dtype, int rank, const int64_t *dims)
{
    return contiguous(ctx, dtype, rank, dims, NULL);
}

void tbi_lay_out(tb_tensor *t, const int64_t *strides)
{
    memcpy(t->strides, strides, sizeof *strides * t->rank);
    t->is_contiguous = tbi_is_row_major(t->rank, t->dims, strides);
}

tb_tensor *tbi_tensor_view(tb_tensor *of, tb_dtype dtype, int rank, const int64_t *dims, const int64_t *strides,
                           int64_t offset)
{
    tb_tensor *t = tensor_alloc(of->ctx, sizeof *t, dtype, rank);
    if (!t) return NULL;
    t->storage = of->storage;
    refer(&t->storage->refs);
    t->numel = 1;
    for (int i = 0; i < rank; i++) {
        t->dims[i] = dims[i];
        t->strides[i] = strides[i];
        t->numel *= dims[i];
    }
    t->offset = offset;
    t->is_contiguous = tbi_is_row_major(rank, dims, strides);
    tbi_scope_adopt(of->ctx->scope, t);
    return t;
}

static tb_tensor *or_poison(tb_ctx *ctx, tb_tensor *t) { return t ? t : tbi_poisoned(ctx); }

static tb_ctx *needed_ctx(void)
{
    tb_ctx *ctx = tbi_ctx();
    if (!ctx) (void)TB_FAIL(TB_ERR_INVALID, "this thread has entered no context (tb_ctx_enter)");
    return ctx;
}

tb_tensor *tb_tensor_empty(tb_dtype dtype, int rank, const int64_t *dims)
{
    tb_ctx *ctx = needed_ctx();
    return ctx ? or_poison(ctx, contiguous(ctx, dtype, rank, dims, NULL)) : tb_poison();
}

tb_tensor *tb_tensor_from(tb_dtype dtype, int rank, const int64_t *dims, const void *host)
{
    tb_tensor *t = tb_tensor_empty(dtype, rank, dims);
    if (tb_is_poison(t)) return t;
    const tb_storage *s = t->storage;
    return s->device->write(s->device, s->mem, 0, host, s->bytes) == TB_OK ? t : tbi_poisoned(t->ctx);
}

tb_tensor *tb_scalar(tb_dtype dtype, double value)
{
    uint64_t element = 0;
    tb_store_f64(dtype, &element, value);
    return tb_tensor_from(dtype, 0, NULL, &element);
}

tb_tensor *tb_tensor_wrap(tb_dtype dtype, int rank, const int64_t *dims, void *memory)
{
    tb_ctx *ctx = needed_ctx();
    if (!ctx) return tb_poison();
    if (!ctx->device->always_open || !ctx->device->has_data || ((uintptr_t)memory & 63)) {
        (void)TB_FAIL(TB_ERR_INVALID, "wrapped memory must be 64-byte aligned and the device cpu, not %s",
                      ctx->device->name);
        return tbi_poisoned(ctx);
    }
    return or_poison(ctx, contiguous(ctx, dtype, rank, dims, memory));
}

tb_tensor *tb_retain(tb_tensor *t)
{
    if (t && t != &tbi_poison) refer(&t->refs);
    return t;
}

void tb_release(tb_tensor *t)
{
    if (!t || t == &tbi_poison || !is_last(&t->refs)) return;
    if (t->autograd) t->ctx->autograd_free(t);
    t->ctx->live_tensors--;
    if (t->has_own_storage) {
        if (t->storage != own_storage(t)) storage_release(t->storage); /* rebased */
        storage_release(own_storage(t));
    } else {
        storage_release(t->storage);
        tb_heap_free(t->ctx->heap, t);
    }
}

tb_dtype tb_tensor_dtype(const tb_tensor *t) { return (tb_dtype)t->dtype; }
int tb_tensor_rank(const tb_tensor *t) { return t->rank; }
const int64_t *tb_tensor_dims(const tb_tensor *t) { return t->dims; }
const int64_t *tb_tensor_strides(const tb_tensor *t) { return t->strides; }
int64_t tb_tensor_numel(const tb_tensor *t) { return t->numel; }
size_t tb_tensor_bytes(const tb_tensor *t) { return (size_t)t->numel * tb_dtype_size((tb_dtype)t->dtype); }
bool tb_tensor_is_contiguous(const tb_tensor *t) { return t->is_contiguous; }
uint32_t tb_tensor_version(const tb_tensor *t) { return t->storage ? t->storage->version : 0; }
const char *tb_tensor_name(const tb_tensor *t) { return t->name; }

int64_t tb_tensor_dim(const tb_tensor *t, int axis)
{
    if (axis < 0) axis += t->rank;
    return axis >= 0 && axis < t->rank ? t->dims[axis] : 0;
}

void tb_tensor_set_tag(tb_tensor *t, tb_mem_tag tag)
{
    tb_storage *s = t->storage;
    if (s && !s->is_wrapped && s->device->always_open) tb_heap_retag(s->ctx->heap, s->mem.handle, tag);
}

void tb_tensor_set_name(tb_tensor *t, const char *name)
{
    if (t != &tbi_poison) snprintf(t->name, sizeof t->name, "%s", name);
}

tb_status tb_tensor_rebase(tb_tensor *t, const tb_tensor *onto)
{
    bool alike = t->storage && onto->storage && t->dtype == onto->dtype && t->rank == onto->rank && t->is_contiguous &&
                 onto->is_contiguous && memcmp(t->dims, onto->dims, (size_t)t->rank * sizeof *t->dims) == 0;
    if (!alike)
        return TB_FAIL(TB_ERR_SHAPE,
                       "a tensor of %s cannot take the place of one of %s: both must be contiguous and alike",
                       tb_shape_text(t), tb_shape_text(onto));
    /* A block that holds t refers to its own storage as long as t lives, wherever t's elements are. */
    tb_storage *before = t->storage, *own = t->has_own_storage ? own_storage(t) : NULL;
    if (onto->storage != own) refer(&onto->storage->refs);
    t->storage = onto->storage;
    if (before != own)
        storage_release(before);
    else if (t->storage != own && atomic_load(&own->refs) == 1)
        drop_data(own);
    t->offset = onto->offset;
    return TB_OK;
}

void tb_tensor_touch(tb_tensor *t)
{
    if (t->storage) t->storage->version++;
}

void *tb_tensor_host(tb_tensor *t)
{
    const tb_storage *s = t->storage;
    return s && t->is_contiguous && s->device->always_open && s->device->has_data ? tbi_data(t) : NULL;
}

static tb_status check_read(tb_tensor *t, size_t bytes)
{
    tb_ctx *ctx = t->ctx ? t->ctx : tbi_ctx();
    TB_TRY(tb_ctx_take_error(ctx));
    if (t == &tbi_poison) return TB_FAIL(TB_ERR_INVALID, "the tensor is the result of an op that failed earlier");
    if (ctx->on_read) TB_TRY(ctx->on_read(ctx, t));
    if (bytes != tb_tensor_bytes(t))
        return TB_FAIL(TB_ERR_SHAPE, "tensor %s of %s has %zu bytes, the buffer %zu", tb_shape_text(t),
                       tb_dtype_name((tb_dtype)t->dtype), tb_tensor_bytes(t), bytes);
    return TB_OK;
}

/* Copies the elements of a strided tensor into row-major order, innermost axis first. */
static char *gather(const tb_tensor *t, int axis, const char *from, char *to)
{
    size_t size = tb_dtype_size((tb_dtype)t->dtype);
    if (axis == t->rank) {
        memcpy(to, from, size);
        return to + size;
    }
    for (int64_t i = 0; i < t->dims[axis]; i++)
        to = gather(t, axis + 1, from + i * t->strides[axis] * (int64_t)size, to);
    return to;
}

tb_status tb_tensor_read(tb_tensor *t, void *host, size_t bytes)
{
    TB_TRY(check_read(t, bytes));
    const tb_storage *s = t->storage;
    if (t->is_contiguous)
        return s->device->read(s->device, s->mem, (size_t)t->offset * tb_dtype_size((tb_dtype)t->dtype), host, bytes);
    if (!s->device->has_data) return s->device->read(s->device, s->mem, 0, host, bytes);
    tbi_open(t);
    gather(t, 0, tbi_data(t), host);
    return tbi_close(t);
}

tb_status tb_tensor_write(tb_tensor *t, const void *host, size_t bytes)
{
    TB_TRY(check_read(t, bytes));
    if (!t->is_contiguous) return TB_FAIL(TB_ERR_SHAPE, "only a contiguous tensor can be written from the host");
    tb_tensor_touch(t);
    const tb_storage *s = t->storage;
    return s->device->write(s->device, s->mem, (size_t)t->offset * tb_dtype_size((tb_dtype)t->dtype), host, bytes);
}

static tb_status item(tb_tensor *t, uint64_t *element)
{
    if (t->numel != 1 && t != &tbi_poison)
        return TB_FAIL(TB_ERR_SHAPE, "a tensor of shape %s is not one number", tb_shape_text(t));
    *element = 0;
    return tb_tensor_read(t, element, tb_dtype_size((tb_dtype)t->dtype));
}

tb_status tb_item_f64(tb_tensor *t, double *out)
{
    uint64_t element;
    TB_TRY(item(t, &element));
    *out = tb_load_f64((tb_dtype)t->dtype, &element);
    return TB_OK;
}

tb_status tb_item_f32(tb_tensor *t, float *out)
{
    double x;
    TB_TRY(tb_item_f64(t, &x));
    *out = (float)x;
    return TB_OK;
}

tb_status tb_item_i64(tb_tensor *t, int64_t *out)
{
    uint64_t element;
    TB_TRY(item(t, &element));
    *out = tb_load_i64((tb_dtype)t->dtype, &element);
    return TB_OK;
}

const char *tb_dims_text(int rank, const int64_t *dims)
{
    static _Thread_local char buffers[8][192];
    static _Thread_local unsigned turn;
    char *text = buffers[turn++ % 8];
    int at = snprintf(text, sizeof buffers[0], "[");
    for (int i = 0; i < rank && at < (int)sizeof buffers[0] - 24; i++)
        at += snprintf(text + at, sizeof buffers[0] - (size_t)at, i ? ", %lld" : "%lld", (long long)dims[i]);
    snprintf(text + at, sizeof buffers[0] - (size_t)at, "]");
    return text;
}

const char *tb_shape_text(const tb_tensor *t) { return t == &tbi_poison ? "(failed)" : tb_dims_text(t->rank, t->dims); }
