/* The optimizer's step on sums: what each rank does to the shares that it owns, while they are in its cache.
 *
 * The owner turns a sum into the parameter's new value where the sum lies, so all ranks find new parameters in the
 * arena of gradients when the sums are done. Until then the old ones, which the backward pass may still read, lie in a
 * second arena of the same layout. Then the two change places: nothing is copied. */
#include "ddp_internal.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_cpu.h"
#include "tb_kernel.h"
#include "tb_ops.h"
#include <string.h>

tb_status tbi_ddp_update_open(tb_ddp *d)
{
    const tb_optim_config *c = d->cfg.update;
    tb_ctx *ctx = tb_ctx_current();
    if (tb_params_dtype(d->cfg.params) != TB_F32)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "ddp: updates on sums are there in f32, not %s; leave `update` out",
                       tb_dtype_name(tb_params_dtype(d->cfg.params)));
    for (int i = 0; i < d->n; i++)
        if (!tb_tensor_host(d->slots[i].leaf))
            return TB_FAIL(TB_ERR_UNSUPPORTED,
                           "ddp: updates on sums need parameters in host memory, not on device %s; leave "
                           "`update` out",
                           tb_ctx_device(ctx)->name);
    if (c->clip_norm > 0)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "ddp: an update on sums cannot clip by the norm of all; leave `update` out");
    ddp_update *u = d->update = tb_calloc(1, sizeof *u);
    if (!u) return TB_ERR_OOM;
    u->cfg = *c;
    u->n_states = tb_optim_states(c);
    u->whole = tb_calloc((size_t)(d->n * u->n_states) + 1, sizeof *u->whole);
    if (!u->whole) return TB_ERR_OOM;
    int found = tb_kernel_find(c->kind == TB_OPTIM_SGD ? "sgd" : "adamw", TB_F32, tb_ctx_isa(ctx), &u->kernel, 1);
    return found ? TB_OK : TB_FAIL(TB_ERR_UNSUPPORTED, "ddp: no kernel updates parameters of f32");
}

/* Parameters return to memory of their own. */
static void move_out(const slot *s)
{
    tb_scope *scope = tb_scope_open();
    bool recorded = tb_grad_mode(tb_ctx_current(), false);
    tb_mem_tag before = tb_ctx_set_tag(tb_ctx_current(), TB_MEM_PARAM);
    tb_tensor *own = tb_copy(s->leaf);
    (void)!tb_tensor_rebase(s->leaf, own);
    tb_ctx_set_tag(tb_ctx_current(), before);
    tb_grad_mode(tb_ctx_current(), recorded);
    tb_scope_close(scope);
}

void tbi_ddp_update_close(tb_ddp *d)
{
    ddp_update *u = d->update;
    if (!u) return;
    for (int i = 0; u->view && i < d->n; i++) {
        if (!u->view[i]) continue;
        move_out(&d->slots[i]);
        tb_release(u->view[i]);
    }
    for (int i = 0; u->whole && i < d->n * u->n_states; i++) tb_release(u->whole[i]);
    for (int k = 0; k < u->n_states; k++) tb_heap_free(tb_ctx_heap(tb_ctx_current()), u->state[k]);
    tb_release(u->arena);
    tb_comm_free(d->cfg.comm, u->memory);
    tb_free(u->view);
    tb_free(u->whole);
    tb_free(u->ranges);
    tb_free(u);
    d->update = NULL;
}

/* ---- state ---- */
static int owned_ranges(const tb_ddp *d, range *out, int64_t *numel)
{
    int n = 0;
    *numel = 0;
    for (int b = 0; b < d->n_buckets; b++) {
        range r;
        for (int64_t k = 0; tb_comm_owned(d->cfg.comm, d->buckets[b].numel, TB_F32, k, &r.first, &r.n); k++, n++) {
            r.first += d->buckets[b].offset;
            r.state = *numel;
            *numel += r.n;
            if (out) out[n] = r;
        }
    }
    return n;
}

static tb_status make_state(tb_ddp *d)
{
    ddp_update *u = d->update;
    tb_ctx *ctx = tb_ctx_current();
    u->n_ranges = owned_ranges(d, NULL, &u->numel);
    u->ranges = tb_calloc((size_t)u->n_ranges + 1, sizeof *u->ranges);
    if (!u->ranges) return TB_ERR_OOM;
    (void)owned_ranges(d, u->ranges, &u->numel);
    size_t bytes = (size_t)(u->numel ? u->numel : 1) * sizeof(float);
    for (int k = 0; k < u->n_states; k++) {
        u->state[k] = tb_heap_alloc(tb_ctx_heap(ctx), bytes, TB_MEM_OPT);
        if (!u->state[k]) return TB_ERR_OOM;
        memset(u->state[k], 0, bytes);
    }
    tb_mem_tag before = tb_ctx_set_tag(ctx, TB_MEM_OPT);
    tb_scope *scope = tb_scope_open();
    for (int i = 0; i < d->n * u->n_states; i++)
        if (d->slots[i / u->n_states].rows > 1) u->whole[i] = tb_retain(tb_zeros_like(d->slots[i / u->n_states].leaf));
    tb_scope_close(scope);
    tb_ctx_set_tag(ctx, before);
    return tb_ctx_take_error(ctx);
}

static tb_tensor *row(const slot *s, tb_tensor *rows, int r)
{
    if (s->rows == 1) return rows;
    return tb_reshape(tb_slice(rows, 0, r, r + 1, 1), tb_tensor_rank(s->leaf), tb_tensor_dims(s->leaf));
}

/* Parameters move to the second arena. */
static tb_status move_in(tb_ddp *d)
{
    ddp_update *u = d->update;
    u->view = tb_calloc((size_t)d->n + 1, sizeof *u->view);
    if (!u->view) return TB_ERR_OOM;
    TB_TRY(tbi_ddp_make_arena(d, tb_tensor_numel(d->arena), &u->memory, &u->arena));
    for (int i = 0; i < d->n; i++) {
        slot *s = &d->slots[i];
        u->view[i] = tbi_ddp_view(s, u->arena);
        tb_scope *scope = tb_scope_open();
        tb_tensor *place = row(s, u->view[i], 0);
        tb_accumulate(place, s->leaf, true);
        tb_status st = tb_ctx_take_error(tb_ctx_current());
        if (st == TB_OK) st = tb_tensor_rebase(s->leaf, place);
        tb_scope_close(scope);
        TB_TRY(st);
    }
    return TB_OK;
}

tb_status tbi_ddp_update_place(tb_ddp *d)
{
    TB_TRY(make_state(d));
    return move_in(d);
}

/* ---- on sums ---- */
void tbi_ddp_update_begin(tb_ddp *d) { d->update->t++; }

/* values[n], elements [at, at + n) of the arena, all of one parameter and of one owned range. */
static void update_part(const ddp_update *u, const slot *s, const range *r, int64_t at, int64_t n, float *values)
{
    tb_optim_attrs attrs = tb_optim_attrs_at(&u->cfg, s->decays, u->t, 1);
    const float *param = (const float *)tb_tensor_host(s->leaf) + (at - s->offset);
    if (!s->has_grad) {
        memcpy(values, param, (size_t)n * sizeof *values);
        return;
    }
    tb_update_args a = {.n = n, .param = values, .from = param, .grad = values, .attrs = &attrs};
    for (int k = 0; k < u->n_states; k++) a.state[k] = u->state[k] + r->state + at - r->first;
    u->kernel->run(&a);
}

void tbi_ddp_update_map(void *arg, int64_t first, int64_t n, void *values)
{
    const bucket *b = arg;
    const tb_ddp *d = b->d;
    const ddp_update *u = d->update;
    int64_t at = b->offset + first, end = at + n;
    int low = 0;
    for (int high = u->n_ranges - 1; low < high;) { /* the last range that begins at or before `at` */
        int middle = (low + high + 1) / 2;
        if (u->ranges[middle].first <= at) low = middle;
        else high = middle - 1;
    }
    for (int i = 0; i < b->n_slots; i++) {
        const slot *s = &d->slots[d->order[b->first_slot + i]];
        int64_t from = s->offset > at ? s->offset : at, to = s->offset + s->numel < end ? s->offset + s->numel : end;
        if (s->rows == 1 && from < to)
            update_part(u, s, &u->ranges[low], from, to - from, (float *)values + (from - at));
    }
}

/* ---- a step ---- */
/* The first step has shown the order of gradients: they move to where they lie from now on, and state has its place. */
static tb_status settle(tb_ddp *d)
{
    size_t bytes = (size_t)tb_ddp_bytes(d);
    int64_t *offset = tb_calloc((size_t)d->n + 1, sizeof *offset);
    char *copy = tb_calloc(bytes ? bytes : 1, 1);
    tb_status st = offset && copy ? TB_OK : TB_ERR_OOM;
    if (st == TB_OK) {
        memcpy(copy, d->memory, bytes);
        for (int i = 0; i < d->n; i++) offset[i] = d->slots[i].offset;
        for (int i = 0; i < d->n; i++) d->slots[i].has_grad = d->slots[i].is_complete || tb_grad(d->slots[i].leaf);
        tb_params_clear_grads(d->cfg.params);
        st = tbi_ddp_adopt_order(d);
    }
    for (int i = 0; st == TB_OK && i < d->n; i++) {
        slot *s = &d->slots[i];
        s->is_complete = s->has_grad;
        if (s->has_grad)
            memcpy((float *)d->memory + s->offset, copy + (size_t)offset[i] * sizeof(float),
                   (size_t)s->numel * sizeof(float));
    }
    tb_free(copy);
    tb_free(offset);
    return st == TB_OK ? tbi_ddp_update_place(d) : st;
}

/* A parameter with several uses: rows of sums are joined as tb_grad_join() does, every rank updates. */
static void update_whole(const tb_ddp *d, int index)
{
    const ddp_update *u = d->update;
    const slot *s = &d->slots[index];
    tb_tensor *sum = row(s, s->view, 0), **state = u->whole + index * u->n_states;
    tb_optim_attrs attrs = tb_optim_attrs_at(&u->cfg, s->decays, u->t, 1);
    if (s->has_grad) {
        for (int r = 1; r < s->rows; r++) sum = tb_accumulate(sum, row(s, s->view, r), false);
        if (u->cfg.kind == TB_OPTIM_SGD) tb_sgd(s->leaf, sum, u->n_states ? state[0] : NULL, &attrs.sgd);
        else tb_adamw(s->leaf, sum, state[0], state[1], &attrs.adamw);
    }
    tb_accumulate(sum, s->leaf, true);
    int64_t one = s->numel / s->rows;
    memset((float *)d->memory + s->offset + one, 0, (size_t)(s->numel - one) * sizeof(float));
}

/* What were gradients are parameters now, and the old ones' memory is for the next gradients. */
static tb_status change_places(tb_ddp *d)
{
    ddp_update *u = d->update;
    void *memory = d->memory;
    tb_tensor *arena = d->arena;
    d->memory = u->memory, d->arena = u->arena;
    u->memory = memory, u->arena = arena;
    tb_tensor_touch(u->arena);
    tb_params_clear_grads(d->cfg.params);
    for (int i = 0; i < d->n; i++) {
        slot *s = &d->slots[i];
        tb_tensor *view = s->view;
        s->view = u->view[i];
        u->view[i] = view;
        tb_scope *scope = tb_scope_open();
        tb_status st = tb_tensor_rebase(s->leaf, row(s, view, 0));
        tb_scope_close(scope);
        TB_TRY(st);
        TB_TRY(tb_grad_set_buffer(s->leaf, s->view));
    }
    return TB_OK;
}

static tb_status finish_step(tb_ddp *d)
{
    if (!d->has_seen) TB_TRY(settle(d));
    TB_TRY(tbi_ddp_start_rest(d));
    for (int b = 0; b < d->n_buckets; b++) TB_TRY(tb_comm_wait(d->cfg.comm, &d->buckets[b].request, 0));
    TB_TRY(tbi_ddp_check_gradients(d));
    tb_scope *scope = tb_scope_open();
    for (int i = 0; i < d->n; i++)
        if (d->slots[i].rows > 1) update_whole(d, i);
    tb_scope_close(scope);
    TB_TRY(tb_ctx_take_error(tb_ctx_current()));
    return change_places(d);
}

tb_status tb_ddp_step(tb_ddp *d)
{
    d->syncing = false;
    TB_TRY(d->status);
    if (!d->update) return TB_FAIL(TB_ERR_INVALID, "this ddp has no update: call tb_ddp_finish and the optimizer");
    int64_t t0 = tb_now_ns();
    bool recorded = tb_grad_mode(tb_ctx_current(), false);
    tb_status st = finish_step(d);
    tb_grad_mode(tb_ctx_current(), recorded);
    d->sum_ns += tb_now_ns() - t0;
    return st;
}

void tb_ddp_set_rate(tb_ddp *d, double rate) { d->update->cfg.rate = rate; }

int64_t tb_ddp_state_bytes(const tb_ddp *d)
{
    int64_t bytes = d->update->numel * d->update->n_states * (int64_t)sizeof(float);
    for (int i = 0; i < d->n * d->update->n_states; i++)
        if (d->update->whole[i]) bytes += (int64_t)tb_tensor_bytes(d->update->whole[i]);
    return bytes;
}

int64_t tb_ddp_steps(const tb_ddp *d) { return d->update->t; }
