/* Contexts: creation, current one, settings, the pending error. */
#include "tensor_internal.h"
#include "tb_log.h"
#include "tb_rng.h"
#include <stdarg.h>

_Thread_local tb_ctx *tbi_current;

tb_status tb_ctx_create(const tb_ctx_config *config, tb_ctx **out)
{
    tb_status st = TB_OK;
    *out = NULL;
    tb_ctx *ctx = tb_calloc(1, sizeof *ctx);
    if (!ctx) return TB_ERR_OOM;
    ctx->seed = config->seed;
    ctx->batch_blocks = 8;
    ctx->tag = TB_MEM_ACT;
    ctx->root.ctx = ctx;
    ctx->scope = &ctx->root;
    ctx->device = tb_device_find(config->device ? config->device : "cpu");
    if (!ctx->device) {
        st = TB_ERR_NOT_FOUND;
        goto cleanup;
    }
    TB_GO(tb_isa_allowed(&ctx->isa));
    ctx->heap = tb_heap_create();
    if (!ctx->heap) {
        st = TB_ERR_OOM;
        goto cleanup;
    }
    TB_GO(tb_pool_create(config->threads ? config->threads : 1, &ctx->pool));
    if (config->cores) TB_GO(tb_pool_bind(ctx->pool, config->cores, config->n_cores));
    *out = ctx;
    ctx = NULL;
cleanup:
    if (ctx) tb_ctx_destroy(ctx);
    return st;
}

int64_t tb_ctx_destroy(tb_ctx *ctx)
{
    if (!ctx) return 0;
    int64_t scopes = 0;
    for (; ctx->open_scopes; scopes++) tb_scope_close(ctx->open_scopes);
    while (ctx->root.first) {
        tb_tensor *t = ctx->root.first;
        tbi_scope_disown(t);
        tb_release(t);
    }
    for (int i = TB_CTX_SLOTS - 1; i >= 0; i--)
        if (ctx->slot[i].destroy) ctx->slot[i].destroy(ctx, ctx->slot[i].state);
    int64_t tensors = ctx->live_tensors;
    if (tbi_current == ctx) tbi_current = NULL;
    tb_pool_destroy(ctx->pool);
    int64_t blocks = tb_heap_destroy(ctx->heap);
    tb_free(ctx);
#ifdef TB_DEBUG
    if (scopes || tensors || blocks)
        tb_log_write(TB_LOG_ERROR,
                     "context destroyed with %lld scopes open, %lld tensors and %lld blocks still alive",
                     (long long)scopes, (long long)tensors, (long long)blocks);
#endif
    return scopes + (tensors > blocks ? tensors : blocks);
}

tb_ctx *tb_ctx_enter(tb_ctx *ctx)
{
    tb_ctx *before = tbi_current;
    tbi_current = ctx;
    return before;
}

tb_ctx *tb_ctx_current(void) { return tbi_current; }

tb_heap *tb_ctx_heap(tb_ctx *ctx) { return ctx->heap; }
tb_pool *tb_ctx_pool(tb_ctx *ctx) { return ctx->pool; }
const tb_device *tb_ctx_device(const tb_ctx *ctx) { return ctx->device; }
tb_isa tb_ctx_isa(const tb_ctx *ctx) { return ctx->isa; }
uint64_t tb_ctx_seed(const tb_ctx *ctx) { return ctx->seed; }
int tb_ctx_batch_blocks(const tb_ctx *ctx) { return ctx->batch_blocks; }
void tb_ctx_set_bf16_products(tb_ctx *ctx, bool on) { ctx->bf16_products = on; }
bool tb_ctx_bf16_products(const tb_ctx *ctx) { return ctx->bf16_products; }
void tb_ctx_set_f16_products(tb_ctx *ctx, bool on) { ctx->f16_products = on; }
bool tb_ctx_f16_products(const tb_ctx *ctx) { return ctx->f16_products; }
int64_t tb_ctx_live_tensors(const tb_ctx *ctx) { return ctx->live_tensors; }

void tb_ctx_limit_kernels(tb_ctx *ctx, tb_isa isa, bool ref_only)
{
    ctx->ref_only = ref_only;
    if (isa < ctx->isa) ctx->isa = isa;
    if (ctx->slot[TB_SLOT_OPS].destroy) { /* choices made so far are void */
        ctx->slot[TB_SLOT_OPS].destroy(ctx, ctx->slot[TB_SLOT_OPS].state);
        ctx->slot[TB_SLOT_OPS].state = NULL;
        ctx->slot[TB_SLOT_OPS].destroy = NULL;
    }
}

tb_mem_tag tb_ctx_set_tag(tb_ctx *ctx, tb_mem_tag tag)
{
    tb_mem_tag before = ctx->tag;
    ctx->tag = tag;
    return before;
}

tb_status tb_ctx_set_batch_blocks(tb_ctx *ctx, int blocks)
{
    if (blocks < 1 || blocks > 8 || (blocks & (blocks - 1)))
        return TB_FAIL(TB_ERR_INVALID, "batch blocks must be 1, 2, 4 or 8, not %d", blocks);
    ctx->batch_blocks = blocks;
    return TB_OK;
}

void tb_ctx_set_stream(tb_ctx *ctx, uint64_t stream, int64_t first_sample)
{
    ctx->stream = stream;
    ctx->stream_uses = 0;
    ctx->first_sample = first_sample;
}

tb_status tb_ctx_take_error(tb_ctx *ctx)
{
    if (!ctx) return TB_FAIL(TB_ERR_INVALID, "this thread has entered no context (tb_ctx_enter)");
    tb_status st = ctx->pending;
    if (st != TB_OK) {
        tb_error_set(st, ctx->pending_message);
        ctx->pending = TB_OK;
    }
    return st;
}

void tb_ctx_add_error(tb_ctx *ctx, const char *fmt, ...)
{
    if (!ctx || ctx->pending == TB_OK) return;
    size_t at = strlen(ctx->pending_message), room = sizeof ctx->pending_message - at;
    va_list args;
    if (room < 8) return;
    va_start(args, fmt);
    memcpy(ctx->pending_message + at, " (", 3);
    int n = vsnprintf(ctx->pending_message + at + 2, room - 3, fmt, args);
    va_end(args);
    at = strlen(ctx->pending_message);
    if (n >= 0) memcpy(ctx->pending_message + at, ")", 2);
}

tb_tensor *tbi_poisoned(tb_ctx *ctx)
{
    if (ctx && ctx->pending == TB_OK) {
        ctx->pending = tb_error_code() ? tb_error_code() : TB_ERR_INTERNAL;
        snprintf(ctx->pending_message, sizeof ctx->pending_message, "%s", tb_error_message());
    }
    return tb_poison();
}
