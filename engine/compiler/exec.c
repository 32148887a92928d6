/* The executor: a plan holds, for concrete sizes, a tensor for every value and a prepared call for every node. A run
 * points the external tensors at the caller's buffers and goes down the list; parts of it once for every slice of the
 * batch (slices.c). A new plan is rehearsed once on zeros, so
 * that weights are packed, kernels looked up and scratch reserved before the first real run. */
#include "plan.h"

struct tb_exec {
    tb_graph *graph;
};

enum { MAX_PLANS = 64 };

struct tb_session {
    tb_exec *exec;
    tb_ctx *ctx;
    plan *plans[MAX_PLANS];
    int n_plans;
    uint64_t uses;
    char *slab;
    size_t slab_bytes;
    tb_arena scratch;
    int64_t slice_bytes;
    tb_node_observer observer;
    void *observer_arg;
};

tb_status tb_exec_create(tb_graph *g, tb_exec **out)
{
    *out = NULL;
    tb_status st = tb_graph_verify(g);
    tb_exec *e = st == TB_OK ? tb_calloc(1, sizeof *e) : NULL;
    if (!e) {
        tb_graph_free(g);
        return st == TB_OK ? TB_ERR_OOM : st;
    }
    e->graph = g;
    *out = e;
    return TB_OK;
}

void tb_exec_free(tb_exec *e)
{
    if (!e) return;
    tb_graph_free(e->graph);
    tb_free(e);
}

const tb_graph *tb_exec_graph(const tb_exec *e) { return e->graph; }

static tb_status slab_reserve(tb_session *s, size_t bytes)
{
    if (bytes <= s->slab_bytes) return TB_OK;
    tb_heap_free(s->ctx->heap, s->slab);
    s->slab = tb_heap_alloc(s->ctx->heap, bytes, TB_MEM_ACT);
    s->slab_bytes = s->slab ? bytes : 0;
    return s->slab ? TB_OK : TB_ERR_OOM;
}

static tb_status scratch_reserve(tb_session *s)
{
    if (s->scratch.wanted <= s->scratch.bytes) return TB_OK;
    tb_heap_free(s->ctx->heap, s->scratch.data);
    s->scratch.bytes = 0;
    s->scratch.data = tb_heap_alloc(s->ctx->heap, s->scratch.wanted, TB_MEM_WORKSPACE);
    if (!s->scratch.data) return TB_ERR_OOM;
    s->scratch.bytes = s->scratch.wanted;
    return TB_OK;
}

/* ---- running ---- */
static void point_at_buffers(tb_session *s, plan *p, const void *const *in, void *const *out)
{
    const tb_graph *g = s->exec->graph;
    for (int i = 0; i < p->n_buffers; i++)
        if (!p->buffers[i].is_external) p->storages[i].mem.data = s->slab + p->buffers[i].offset;
    for (int i = 0; i < g->n_inputs; i++) p->tensors[g->inputs[i]].storage->mem.data = (void *)(uintptr_t)in[i];
    for (int i = 0; i < g->n_outputs; i++)
        if (tbi_is_direct(g, p, i)) p->tensors[g->outputs[i]].storage->mem.data = out[i];
}

static tb_status run_part(tb_session *s, plan *p, int first, int end)
{
    const tb_graph *g = s->exec->graph;
    for (int i = first; i < end; i++) {
        tb_op_call *c = &p->calls[i];
        if (c->spec[0].is_view || !c->op->ref) continue;
        int64_t start = s->observer ? tb_now_ns() : 0;
        s->scratch.used = 0;
        tb_status st = tbi_op_compute(c);
        if (st != TB_OK) {
            tb_error_add("node %d, %s, of graph %s", i, c->op->name, g->name);
            return st;
        }
        if (s->observer) s->observer(s->observer_arg, i, c, tb_now_ns() - start);
    }
    return TB_OK;
}

static tb_status run_nodes(tb_session *s, plan *p)
{
    int at = 0;
    for (int i = 0; i < p->n_slices; i++) {
        const slice *part = &p->slices[i];
        TB_TRY(run_part(s, p, at, part->first));
        for (int64_t turn = 0; turn < part->n; turn++) {
            int64_t row = turn + 1 < part->n ? turn * part->rows : p->sizes[0] - part->rows;
            for (int k = part->first_moving; k < part->end_moving; k++)
                p->moving[k].tensor->offset = p->moving[k].start + row * p->moving[k].step;
            TB_TRY(run_part(s, p, part->first, part->end));
        }
        at = part->end;
    }
    return run_part(s, p, at, s->exec->graph->n_nodes);
}

/* One run on zeros, unseen by the observer: whatever is made on first use is made now. */
static tb_status rehearse(tb_session *s, plan *p)
{
    const tb_graph *g = s->exec->graph;
    int n = g->n_inputs + g->n_outputs, made = 0;
    void **buffers = tb_calloc((size_t)n + 1, sizeof *buffers);
    tb_node_observer observer = s->observer;
    tb_status st = buffers ? TB_OK : TB_ERR_OOM;
    for (; made < n && st == TB_OK; made++) {
        int value = made < g->n_inputs ? g->inputs[made] : g->outputs[made - g->n_inputs];
        size_t bytes = tb_tensor_bytes(&p->tensors[value]);
        buffers[made] = tb_heap_alloc(s->ctx->heap, bytes + 1, TB_MEM_WORKSPACE);
        if (buffers[made]) memset(buffers[made], 0, bytes);
        else st = TB_ERR_OOM;
    }
    s->observer = NULL;
    if (st == TB_OK) {
        tb_ctx *before = tb_ctx_enter(s->ctx);
        point_at_buffers(s, p, (const void *const *)buffers, buffers + g->n_inputs);
        st = run_nodes(s, p);
        if (st == TB_ERR_INVALID) st = TB_OK; /* zeros are not for every op: the rest is made in the first run */
        tb_ctx_enter(before);
    }
    s->observer = observer;
    while (made > 0) tb_heap_free(s->ctx->heap, buffers[--made]);
    tb_free(buffers);
    return st == TB_OK ? scratch_reserve(s) : st;
}

static tb_status plan_for(tb_session *s, const int64_t *sizes, plan **out)
{
    int n_symbols = s->exec->graph->n_symbols, at = s->n_plans;
    for (int i = 0; i < s->n_plans; i++)
        if (memcmp(s->plans[i]->sizes, sizes, sizeof *sizes * (size_t)n_symbols) == 0) {
            *out = s->plans[i];
            (*out)->last_use = ++s->uses;
            return slab_reserve(s, (*out)->slab_bytes); /* it is gone where a larger one could not be had */
        }
    plan *p = tb_calloc(1, sizeof *p);
    tb_status st = p ? tbi_plan_build(s->exec->graph, s->ctx, &s->scratch, s->slice_bytes, sizes, p) : TB_ERR_OOM;
    if (st == TB_OK) st = slab_reserve(s, p->slab_bytes);
    if (st == TB_OK) st = rehearse(s, p);
    if (st != TB_OK) {
        tbi_plan_free(p);
        return st;
    }
    if (at == MAX_PLANS) { /* the least recently used makes room */
        for (int i = at = 0; i < MAX_PLANS; i++)
            if (s->plans[i]->last_use < s->plans[at]->last_use) at = i;
        tbi_plan_free(s->plans[at]);
    } else {
        s->n_plans++;
    }
    s->plans[at] = *out = p;
    p->last_use = ++s->uses;
    return TB_OK;
}

/* ---- sessions ---- */
tb_status tb_session_create(tb_exec *e, tb_ctx *ctx, tb_session **out)
{
    *out = NULL;
    if (!ctx->device->always_open || !ctx->device->has_data)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "graphs run on the cpu device, not on %s", ctx->device->name);
    tb_session *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    s->exec = e;
    s->ctx = ctx;
    s->slice_bytes = TBI_SLICE_BYTES;
    return TB_OK;
}

void tbi_session_slice(tb_session *s, int64_t bytes) { s->slice_bytes = bytes; }

void tb_session_free(tb_session *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_plans; i++) tbi_plan_free(s->plans[i]);
    tb_heap_free(s->ctx->heap, s->slab);
    tb_heap_free(s->ctx->heap, s->scratch.data);
    tb_free(s);
}

void tb_session_observe(tb_session *s, tb_node_observer f, void *arg)
{
    s->observer = f;
    s->observer_arg = arg;
}

void tb_session_keep_whole(tb_session *s)
{
    while (s->n_plans > 0) tbi_plan_free(s->plans[--s->n_plans]);
    s->slice_bytes = 0;
}

tb_status tb_session_plan_stats(tb_session *s, const int64_t *sizes, tb_plan_stats *out)
{
    plan *p;
    TB_TRY(plan_for(s, sizes, &p));
    *out = (tb_plan_stats){.planned_bytes = p->slab_bytes, .naive_bytes = p->naive_bytes,
                           .bound_bytes = p->bound_bytes, .scratch_bytes = s->scratch.bytes};
    for (int i = 0; i < p->n_buffers; i++) out->n_buffers += !p->buffers[i].is_external;
    return TB_OK;
}

tb_status tb_session_run(tb_session *s, const int64_t *sizes, const void *const *in, void *const *out)
{
    const tb_graph *g = s->exec->graph;
    plan *p;
    TB_TRY(plan_for(s, sizes, &p));
    tb_ctx *before = tb_ctx_enter(s->ctx);
    point_at_buffers(s, p, in, out);
    tb_status st = run_nodes(s, p);
    for (int i = 0; i < g->n_outputs && st == TB_OK; i++)
        if (!tbi_is_direct(g, p, i))
            st = tb_tensor_read(&p->tensors[g->outputs[i]], out[i], tb_tensor_bytes(&p->tensors[g->outputs[i]]));
    tb_ctx_enter(before);
    return st;
}
