/* The executor: a plan holds, for concrete sizes, a tensor for every value and a prepared call for every node. A run
 * points the external tensors at the caller's buffers and goes down the list. A new plan is rehearsed once on zeros, so
 * that weights are packed, kernels looked up and scratch reserved before the first real run. */
#include "plan.h"

struct tb_exec {
    tb_graph *graph;
};

typedef struct plan {
    int64_t sizes[TB_MAX_SYMBOLS];
    tb_tensor *tensors;     /* [n_values] */
    tb_storage *storages;   /* [n_buffers] */
    buffer *buffers;
    int n_buffers;
    tb_op_call *calls;      /* [n_nodes] */
    tb_tensor **operands;   /* operand lists of all calls, one after the other */
    uint64_t *attrs;        /* attribute structures of all calls */
    size_t slab_bytes, naive_bytes, bound_bytes;
    uint64_t last_use;
} plan;

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

/* ---- planning ---- */
static void plan_free(plan *p)
{
    if (!p) return;
    tb_free(p->tensors);
    tb_free(p->storages);
    tb_free(p->buffers);
    tb_free(p->calls);
    tb_free(p->operands);
    tb_free(p->attrs);
    tb_free(p);
}

static tb_status plan_alloc(const tb_graph *g, plan *p)
{
    size_t operands = 0, words = 0, values = (size_t)g->n_values + 1, nodes = (size_t)g->n_nodes + 1;
    for (int i = 0; i < g->n_nodes; i++) {
        operands += (size_t)g->nodes[i].n_in;
        words += (g->nodes[i].op->attrs_bytes + 7) / 8;
    }
    p->tensors = tb_calloc(values, sizeof *p->tensors);
    p->storages = tb_calloc(values, sizeof *p->storages);
    p->buffers = tb_calloc(values, sizeof *p->buffers);
    p->calls = tb_calloc(nodes, sizeof *p->calls);
    p->operands = tb_calloc(operands + 1, sizeof(tb_tensor *));
    p->attrs = tb_calloc(words + 1, sizeof(uint64_t));
    return p->tensors && p->storages && p->buffers && p->calls && p->operands && p->attrs ? TB_OK : TB_ERR_OOM;
}

static void add_buffer(plan *p, tb_tensor *t, tb_ctx *ctx, int first, bool is_external)
{
    buffer *b = &p->buffers[p->n_buffers];
    *b = (buffer){.bytes = tb_tensor_bytes(t), .first = first, .last = first, .is_external = is_external};
    tb_storage *s = &p->storages[p->n_buffers++];
    *s = (tb_storage){.ctx = ctx, .device = ctx->device, .bytes = b->bytes, .is_wrapped = true};
    atomic_init(&s->refs, 1);
    t->storage = s;
}

/* NULL for a constant (or a view of one): it has no buffer of the plan's. */
static buffer *buffer_of(const plan *p, const tb_tensor *t)
{
    bool is_ours = t->storage >= p->storages && t->storage < p->storages + p->n_buffers;
    return is_ours ? &p->buffers[t->storage - p->storages] : NULL;
}

static void apply_spec(tb_tensor *t, const tb_out_spec *s)
{
    t->dtype = (uint8_t)s->dtype;
    t->rank = (uint8_t)s->rank;
    t->numel = 1;
    for (int i = 0; i < s->rank; i++) {
        t->dims[i] = s->dims[i];
        t->numel *= s->dims[i];
    }
    if (s->is_view || s->is_laid_out)
        memcpy(t->strides, s->strides, sizeof t->strides);
    else tbi_row_major(s->rank, t->dims, t->strides);
    t->offset = s->is_view ? s->offset : 0;
    t->is_contiguous = tbi_is_row_major(s->rank, t->dims, t->strides);
}

static tb_status plan_node(tb_session *s, plan *p, int at, tb_tensor **operands, uint64_t *attrs)
{
    const tb_graph *g = s->exec->graph;
    const tb_node *n = &g->nodes[at];
    tb_op_call *c = &p->calls[at];
    tbi_attrs_at(n, p->sizes, attrs);
    *c = (tb_op_call){.op = n->op, .ctx = s->ctx, .attrs = n->attrs ? attrs : NULL, .n_in = n->n_in, .in = operands,
                      .arena = &s->scratch};
    for (int k = 0; k < n->n_in; k++) operands[k] = n->in[k] == TB_NO_VALUE ? NULL : &p->tensors[n->in[k]];
    TB_TRY(n->op->shape(c));
    for (int o = 0; o < n->n_out; o++) {
        tb_tensor *t = c->out[o] = &p->tensors[n->out[o]];
        t->ctx = s->ctx;
        atomic_init(&t->refs, 1);
        apply_spec(t, &c->spec[o]);
        if (c->spec[o].is_view) t->storage = operands[c->spec[o].view_of]->storage;
        else add_buffer(p, t, s->ctx, at, false);
    }
    for (int k = 0; k < n->n_in; k++) {
        buffer *b = operands[k] ? buffer_of(p, operands[k]) : NULL;
        if (b) b->last = at;
    }
    return TB_OK;
}

static bool same_place(const tb_tensor *a, const tb_tensor *b)
{
    return a->is_contiguous && b->is_contiguous && a->offset == b->offset && a->rank == b->rank &&
           a->dtype == b->dtype && memcmp(a->dims, b->dims, sizeof *a->dims * (size_t)a->rank) == 0;
}

/* An op that may write where it reads: its result takes the buffer of an operand that has its last use here, unless
 * another operand shows the same bytes in another way. */
static void take_over(const tb_graph *g, plan *p, int at)
{
    const tb_op_call *c = &p->calls[at];
    tb_tensor *out = c->out[0];
    bool is_pointwise = c->op->fusion == TB_FUSE_POINTWISE;
    if ((!is_pointwise && !c->op->overwrites) || c->op->n_out != 1 || c->spec[0].is_view) return;
    tb_storage *mine = out->storage;
    for (int k = 0; k < c->n_in && out->storage == mine; k++) {
        const tb_tensor *in = c->in[k];
        buffer *b = in ? buffer_of(p, in) : NULL;
        bool may = (is_pointwise || c->op->overwrites >> k & 1) && b && !b->is_external && b->last == at &&
                   b->bytes == buffer_of(p, out)->bytes && same_place(in, out);
        for (int o = 0; may && o < c->n_in; o++)
            may = !c->in[o] || o == k || c->in[o]->storage != in->storage || (is_pointwise && same_place(c->in[o], in));
        if (!may) continue;
        b->last = buffer_of(p, out)->last;
        buffer_of(p, out)->is_external = true;
        for (int i = 0; i < g->n_values; i++) /* the result and its views */
            if (p->tensors[i].storage == mine) p->tensors[i].storage = in->storage;
    }
}

/* An output that a node computes goes straight to the caller; a view, a repeated output, or one that lies in another
 * order than its dims say, is copied. */
static bool is_direct(const tb_graph *g, const plan *p, int output)
{
    const tb_value *v = &g->values[g->outputs[output]];
    if (v->producer < 0 || p->calls[v->producer].spec[v->output].is_view || !p->calls[v->producer].op->ref)
        return false;
    if (!p->tensors[g->outputs[output]].is_contiguous) return false;
    for (int i = 0; i < output; i++)
        if (p->tensors[g->outputs[i]].storage == p->tensors[g->outputs[output]].storage) return false;
    return true;
}

static tb_status plan_build(tb_session *s, const int64_t *sizes, plan *p)
{
    const tb_graph *g = s->exec->graph;
    tb_tensor **operands;
    uint64_t *attrs;
    for (int i = 0; i < g->n_symbols; i++) {
        p->sizes[i] = sizes[i];
        if (sizes[i] < 0)
            return TB_FAIL(TB_ERR_SHAPE, "graph %s: %s = %lld", g->name, g->symbols[i], (long long)sizes[i]);
    }
    TB_TRY(plan_alloc(g, p));
    for (int i = 0; i < g->n_values; i++) {
        const tb_value *v = &g->values[i];
        tb_tensor *t = &p->tensors[i];
        if (v->producer >= 0) continue;
        tbi_describe(v, p->sizes, t);
        t->ctx = s->ctx;
        atomic_init(&t->refs, 1);
        if (v->constant) { /* the graph's own storage: what is packed for it serves all plans */
            memcpy(t->strides, v->constant->strides, sizeof t->strides);
            t->is_contiguous = v->constant->is_contiguous;
            t->offset = v->constant->offset;
            t->storage = v->constant->storage;
        } else {
            add_buffer(p, t, s->ctx, 0, true);
        }
    }
    operands = p->operands;
    attrs = p->attrs;
    for (int i = 0; i < g->n_nodes; i++) {
        TB_TRY(plan_node(s, p, i, operands, attrs));
        operands += g->nodes[i].n_in;
        attrs += (g->nodes[i].op->attrs_bytes + 7) / 8;
    }
    for (int i = 0; i < g->n_outputs; i++) { /* what the caller reads lives to the end */
        buffer *b = buffer_of(p, &p->tensors[g->outputs[i]]);
        if (b) b->last = g->n_nodes;
    }
    for (int i = 0; i < g->n_nodes; i++) take_over(g, p, i);
    for (int i = 0; i < g->n_outputs; i++)
        if (is_direct(g, p, i)) buffer_of(p, &p->tensors[g->outputs[i]])->is_external = true;
    return tbi_plan_memory(p->buffers, p->n_buffers, &p->slab_bytes, &p->naive_bytes, &p->bound_bytes);
}

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
        if (is_direct(g, p, i)) p->tensors[g->outputs[i]].storage->mem.data = out[i];
}

static tb_status run_nodes(tb_session *s, plan *p)
{
    const tb_graph *g = s->exec->graph;
    for (int i = 0; i < g->n_nodes; i++) {
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

/* One run on zeros, unseen by the observer: whatever is made on first use is made now. */
static tb_status rehearse(tb_session *s, plan *p)
{
    const tb_graph *g = s->exec->graph;
    void *buffers[2 * MAX_OPERANDS] = {0};
    int n = g->n_inputs + g->n_outputs, made = 0;
    tb_node_observer observer = s->observer;
    tb_status st =
        n > 2 * MAX_OPERANDS ? TB_FAIL(TB_ERR_UNSUPPORTED, "graph %s: %d inputs and outputs", g->name, n) : TB_OK;
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
        tb_ctx_enter(before);
    }
    s->observer = observer;
    while (made > 0) tb_heap_free(s->ctx->heap, buffers[--made]);
    return st == TB_OK ? scratch_reserve(s) : st;
}

static tb_status plan_for(tb_session *s, const int64_t *sizes, plan **out)
{
    int n_symbols = s->exec->graph->n_symbols, at = s->n_plans;
    for (int i = 0; i < s->n_plans; i++)
        if (memcmp(s->plans[i]->sizes, sizes, sizeof *sizes * (size_t)n_symbols) == 0) {
            *out = s->plans[i];
            (*out)->last_use = ++s->uses;
            return TB_OK;
        }
    plan *p = tb_calloc(1, sizeof *p);
    tb_status st = p ? plan_build(s, sizes, p) : TB_ERR_OOM;
    if (st == TB_OK) st = slab_reserve(s, p->slab_bytes);
    if (st == TB_OK) st = rehearse(s, p);
    if (st != TB_OK) {
        plan_free(p);
        return st;
    }
    if (at == MAX_PLANS) { /* the least recently used makes room */
        for (int i = at = 0; i < MAX_PLANS; i++)
            if (s->plans[i]->last_use < s->plans[at]->last_use) at = i;
        plan_free(s->plans[at]);
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
    return TB_OK;
}

void tb_session_free(tb_session *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_plans; i++) plan_free(s->plans[i]);
    tb_heap_free(s->ctx->heap, s->slab);
    tb_heap_free(s->ctx->heap, s->scratch.data);
    tb_free(s);
}

void tb_session_observe(tb_session *s, tb_node_observer f, void *arg)
{
    s->observer = f;
    s->observer_arg = arg;
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
        if (!is_direct(g, p, i))
            st = tb_tensor_read(&p->tensors[g->outputs[i]], out[i], tb_tensor_bytes(&p->tensors[g->outputs[i]]));
    tb_ctx_enter(before);
    return st;
}
