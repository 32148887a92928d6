/* The reducer: layout of the arena, buckets, hooks. */
#include "ddp_internal.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_cpu.h"
#include "tb_ops.h"
#include <string.h>

enum { ALIGN_BYTES = 64, DEFAULT_BUCKET_BYTES = 1 << 20 };

/* ---- layout ---- */
tb_tensor *tbi_ddp_view(const slot *s, tb_tensor *arena)
{
    tb_scope *scope = tb_scope_open();
    bool recorded = tb_grad_mode(tb_ctx_current(), false);
    tb_tensor *part = tb_slice(arena, 0, s->offset, s->offset + s->numel, 1);
    int rank = tb_tensor_rank(s->leaf), front = s->rows > 1;
    int64_t dims[TB_MAX_RANK + 1] = {s->rows};
    memcpy(dims + front, tb_tensor_dims(s->leaf), sizeof *dims * (size_t)rank);
    tb_tensor *view = tb_retain(tb_reshape(part, rank + front, dims));
    tb_grad_mode(tb_ctx_current(), recorded);
    tb_scope_close(scope);
    return view;
}

static tb_status place(tb_ddp *d, slot *s)
{
    tb_release(s->view);
    s->view = tbi_ddp_view(s, d->arena);
    return tb_grad_set_buffer(s->leaf, s->view);
}

static tb_status lay_out(tb_ddp *d)
{
    int64_t at = 0, unit = (int64_t)tb_dtype_size(tb_params_dtype(d->cfg.params));
    d->n_buckets = 0;
    for (int i = 0; i < d->n; i++) {
        slot *s = &d->slots[d->order[i]];
        bucket *b = d->n_buckets ? &d->buckets[d->n_buckets - 1] : NULL;
        if (!b || b->numel * unit >= d->cfg.bucket_bytes) {
            b = &d->buckets[d->n_buckets++];
            *b = (bucket){.d = d, .offset = at, .first_slot = i};
        }
        s->bucket = d->n_buckets - 1;
        s->offset = at;
        b->numel += s->room;
        b->n_slots++;
        at += s->room;
        TB_TRY(place(d, s));
    }
    memset(d->memory, 0, (size_t)(at * unit)); /* a use that gives nothing counts as zero */
    return TB_OK;
}

tb_status tbi_ddp_take_order(tb_ddp *d, const int *order)
{
    memcpy(d->order, order, (size_t)d->n * sizeof *d->order);
    d->has_seen = true;
    return lay_out(d);
}

/* Which parameters got a gradient in this step, in one number: FNV-1a (Fowler, Noll, Vo). */
static int which_got_gradients(const tb_ddp *d)
{
    uint32_t hash = 2166136261u;
    for (int i = 0; i < d->n; i++) hash = (hash ^ d->slots[i].has_grad) * 16777619u;
    return (int)(hash >> 1);
}

static tb_status other_gradients(const char *than)
{
    return TB_FAIL(TB_ERR_UNSUPPORTED,
                   "ddp: other parameters got gradients than %s; every rank and step must have the same graph", than);
}

/* Rank 0's order of the first step, for all; parameters without a gradient come last. */
tb_status tbi_ddp_adopt_order(tb_ddp *d)
{
    for (int i = 0; i < d->n; i++)
        if (!d->slots[i].is_complete) d->seen[d->n_seen++] = i;
    int mine = d->seen[d->n] = which_got_gradients(d);
    TB_TRY(tb_comm_bcast(d->cfg.comm, d->seen, (size_t)(d->n + 1) * sizeof *d->seen, 0, NULL, NULL));
    if (d->seen[d->n] != mine) return other_gradients("on rank 0");
    return tbi_ddp_take_order(d, d->seen);
}

/* Where they are others than in the step before, ranks would no longer sum or update the same. */
tb_status tbi_ddp_check_gradients(tb_ddp *d)
{
    int now = which_got_gradients(d), before = d->with_gradients;
    d->with_gradients = now;
    return before < 0 || before == now ? TB_OK : other_gradients("in the step before");
}

/* ---- a step ---- */
/* Full buckets go in their order, so that all ranks post the same sums. */
static tb_status start_full(tb_ddp *d)
{
    tb_dtype dtype = tb_params_dtype(d->cfg.params);
    for (; d->started < d->n_buckets && d->buckets[d->started].missing == 0; d->started++) {
        bucket *b = &d->buckets[d->started];
        char *data = (char *)d->memory + (size_t)b->offset * tb_dtype_size(dtype);
        tb_comm_label(d->cfg.comm, "step %lld, gradients, bucket %d of %d", (long long)d->step, d->started,
                      d->n_buckets);
        if (d->update && d->has_seen)
            TB_TRY(tb_comm_allreduce_map(d->cfg.comm, data, b->numel, dtype, tbi_ddp_update_map, b, NULL, &b->request));
        else
            TB_TRY(tb_comm_allreduce(d->cfg.comm, data, b->numel, dtype, TB_REDUCE_SUM, NULL, &b->request));
    }
    bool done;
    return d->started ? tb_comm_poll(d->cfg.comm, NULL, &done) : TB_OK;
}

static void on_complete(tb_tensor *leaf, void *arg)
{
    slot *s = arg;
    tb_ddp *d = s->d;
    if (!d->syncing || !tb_grad(leaf) || d->status != TB_OK) return;
    if (s->is_complete) { /* its bucket may be on its way */
        d->status = TB_FAIL(TB_ERR_INVALID,
                            "ddp: a second backward pass reaches %s in the step that sums gradients; begin all passes "
                            "but the last with sync = false, or add their roots",
                            tb_tensor_name(leaf));
        return;
    }
    s->is_complete = s->has_grad = true;
    d->seen[d->n_seen++] = (int)(s - d->slots);
    d->buckets[s->bucket].missing--;
    if (!d->has_seen) return;
    int64_t t0 = tb_now_ns();
    d->status = start_full(d);
    d->sum_ns += tb_now_ns() - t0;
}

static bool is_clear(const tb_ddp *d)
{
    for (int i = 0; i < d->n; i++)
        if (tb_grad(d->slots[i].leaf)) return false;
    return true;
}

void tb_ddp_begin(tb_ddp *d, bool sync)
{
    d->status = d->n_seen && !d->has_seen && is_clear(d) ? tbi_ddp_adopt_order(d) : TB_OK;
    d->syncing = sync;
    d->step++;
    if (sync && d->update) tbi_ddp_update_begin(d);
    d->started = d->n_seen = 0;
    d->sum_ns = 0;
    for (int i = 0; i < d->n; i++) d->slots[i].is_complete = false;
    for (int b = 0; b < d->n_buckets; b++) d->buckets[b].missing = d->buckets[b].n_slots;
}

/* Parameters that got nothing in this step count as zero. */
tb_status tbi_ddp_start_rest(tb_ddp *d)
{
    size_t size = tb_dtype_size(tb_params_dtype(d->cfg.params));
    for (int i = 0; i < d->n; i++) {
        slot *s = &d->slots[i];
        s->has_grad = s->is_complete || tb_grad(s->leaf);
        if (s->has_grad) continue;
        memset((char *)d->memory + (size_t)s->offset * size, 0, (size_t)s->numel * size);
    }
    for (int b = 0; b < d->n_buckets; b++) d->buckets[b].missing = 0;
    return start_full(d);
}

tb_status tb_ddp_finish(tb_ddp *d)
{
    d->syncing = false;
    TB_TRY(d->status);
    if (d->update) return TB_FAIL(TB_ERR_INVALID, "this ddp updates the parameters itself: call tb_ddp_step");
    int64_t t0 = tb_now_ns();
    TB_TRY(tbi_ddp_start_rest(d));
    for (int b = 0; b < d->n_buckets; b++) TB_TRY(tb_comm_wait(d->cfg.comm, &d->buckets[b].request, 0));
    tb_tensor_touch(d->arena);
    TB_TRY(tbi_ddp_check_gradients(d));
    for (int i = 0; i < d->n; i++) TB_TRY(tb_grad_join(d->slots[i].leaf));
    d->sum_ns += tb_now_ns() - t0;
    return TB_OK;
}

/* ---- making one ---- */
tb_status tbi_ddp_make_arena(const tb_ddp *d, int64_t numel, void **memory, tb_tensor **arena)
{
    tb_dtype dtype = tb_params_dtype(d->cfg.params);
    *memory = tb_comm_alloc(d->cfg.comm, (size_t)numel * tb_dtype_size(dtype));
    if (!*memory) return tb_error_code();
    tb_scope *scope = tb_scope_open();
    *arena = tb_retain(tb_tensor_wrap(dtype, 1, &numel, *memory));
    tb_scope_close(scope);
    return tb_ctx_take_error(tb_ctx_current());
}

static tb_status prepare(tb_ddp *d)
{
    int64_t total = 0, unit = ALIGN_BYTES / (int64_t)tb_dtype_size(tb_params_dtype(d->cfg.params));
    size_t n = (size_t)d->n + 1;
    d->slots = tb_calloc(n, sizeof *d->slots);
    d->order = tb_calloc(n, sizeof *d->order);
    d->seen = tb_calloc(n, sizeof *d->seen);
    d->buckets = tb_calloc(n, sizeof *d->buckets);
    if (!d->slots || !d->order || !d->seen || !d->buckets) return TB_ERR_OOM;
    for (int i = 0; i < d->n; i++) {
        const tb_param *p = tb_params_at(d->cfg.params, i);
        int64_t numel = tb_tensor_numel(p->tensor) * p->uses;
        d->slots[i] = (slot){.d = d, .leaf = p->tensor, .decays = p->decays, .rows = p->uses, .numel = numel,
                             .room = (numel + unit - 1) / unit * unit};
        d->order[i] = d->n - 1 - i; /* until the first step has shown it: backward is mostly forward reversed */
        total += d->slots[i].room;
    }
    TB_TRY(tbi_ddp_make_arena(d, total, &d->memory, &d->arena));
    for (int i = 0; i < d->n; i++) TB_TRY(tb_grad_set_hook(d->slots[i].leaf, on_complete, &d->slots[i]));
    TB_TRY(lay_out(d));
    return d->cfg.update ? tbi_ddp_update_open(d) : TB_OK;
}

tb_status tb_ddp_create(const tb_ddp_config *config, tb_ddp **out)
{
    *out = NULL;
    if (tb_comm_size(config->comm) > 1 && tb_params_buffer_count(config->params))
        return TB_FAIL(TB_ERR_UNSUPPORTED,
                       "ddp on %d ranks: %s is a running average, and every rank would keep its own; use one rank, or "
                       "a model without batch_norm",
                       tb_comm_size(config->comm), tb_params_buffer_at(config->params, 0)->name);
    tb_ddp *d = tb_calloc(1, sizeof *d);
    if (!d) return TB_ERR_OOM;
    d->cfg = *config;
    if (d->cfg.bucket_bytes == 0) d->cfg.bucket_bytes = DEFAULT_BUCKET_BYTES;
    d->n = tb_params_count(config->params);
    d->step = d->with_gradients = -1;
    tb_status st = prepare(d);
    if (st == TB_OK) *out = d;
    else tb_ddp_destroy(d);
    return st;
}

void tb_ddp_destroy(tb_ddp *d)
{
    if (!d) return;
    tbi_ddp_update_close(d);
    for (int i = 0; d->arena && i < d->n; i++) {
        (void)!tb_grad_set_hook(d->slots[i].leaf, NULL, NULL);
        (void)!tb_grad_set_buffer(d->slots[i].leaf, NULL);
        tb_release(d->slots[i].view);
    }
    tb_release(d->arena);
    tb_comm_free(d->cfg.comm, d->memory);
    tb_free(d->slots);
    tb_free(d->order);
    tb_free(d->seen);
    tb_free(d->buckets);
    tb_free(d);
}

int64_t tb_ddp_sum_ns(const tb_ddp *d) { return d->sum_ns; }
int tb_ddp_buckets(const tb_ddp *d) { return d->n_buckets; }

int64_t tb_ddp_bytes(const tb_ddp *d)
{
    return tb_tensor_numel(d->arena) * (int64_t)tb_dtype_size(tb_params_dtype(d->cfg.params));
}
