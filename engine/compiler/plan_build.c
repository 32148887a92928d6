/* The plan of a graph at concrete sizes: a tensor for every value, a prepared call for every node, a place in the slab
 * for every buffer. */
#include "plan.h"

/* ---- memory ---- */
static void free_lists(plan *p)
{
    tb_free(p->tensors);
    tb_free(p->storages);
    tb_free(p->buffers);
    tb_free(p->calls);
    tb_free(p->operands);
    tb_free(p->attrs);
    tb_free(p->slices);
    tb_free(p->windows);
    tb_free(p->moving);
}

void tbi_plan_free(plan *p)
{
    if (!p) return;
    free_lists(p);
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
    p->slices = tb_calloc(nodes, sizeof *p->slices);
    p->windows = tb_calloc(values + operands, sizeof *p->windows);
    p->moving = tb_calloc(2 * values + operands, sizeof *p->moving);
    return p->tensors && p->storages && p->buffers && p->calls && p->operands && p->attrs && p->slices && p->windows &&
                   p->moving
               ? TB_OK
               : TB_ERR_OOM;
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
    else
        tbi_row_major(s->rank, t->dims, t->strides);
    t->offset = s->is_view ? s->offset : 0;
    t->is_contiguous = tbi_is_row_major(s->rank, t->dims, t->strides);
}

/* ---- nodes ---- */
typedef struct builder {
    const tb_graph *g;
    tb_ctx *ctx;
    tb_arena *scratch;
    plan *p;
    const slice *slice; /* that the current node belongs to, or NULL */
    tb_tensor **seen;   /* [n_values]: what nodes of the slice see of a value, NULL: not yet asked for */
} builder;

static void set_rows(tb_tensor *t, int64_t from, int64_t to)
{
    t->dims[0] = t->dims[0] / from * to;
    t->numel = t->numel / from * to;
    t->is_contiguous = tbi_is_row_major(t->rank, t->dims, t->strides);
}

/* `t` of the current slice goes on by its rows. */
static void add_moving(builder *b, tb_tensor *t)
{
    int64_t step = t->strides[0] * (t->dims[0] / b->slice->rows);
    b->p->moving[b->p->n_moving++] = (moving){t, t->offset, step};
}

static bool is_moving(const plan *p, const tb_tensor *t)
{
    for (int i = 0; i < p->n_moving; i++)
        if (p->moving[i].tensor == t) return true;
    return false;
}

/* The rows of the current slice in `whole`. */
static tb_tensor *add_window(builder *b, const tb_tensor *whole)
{
    tb_tensor *w = &b->p->windows[b->p->n_windows++];
    *w = *whole;
    set_rows(w, b->p->sizes[0], b->slice->rows);
    add_moving(b, w);
    return w;
}

static tb_tensor *operand(builder *b, int value)
{
    if (value == TB_NO_VALUE) return NULL;
    tb_tensor *t = &b->p->tensors[value];
    const tb_value *v = &b->g->values[value];
    if (!b->slice || v->rank == 0 || !v->dims[0].per[0]) return t;
    if (!b->seen[value]) b->seen[value] = add_window(b, t);
    return b->seen[value];
}

static bool is_seen_beyond(const tb_graph *g, int value, const slice *s)
{
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] == value) return true;
    for (int i = s->end; i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] == value) return true;
    return false;
}

/* Result `t` of a node, described at the sizes of the current slice, gets its storage. */
static tb_status place_result(builder *b, int at, int value, tb_tensor **t)
{
    tb_tensor *whole = *t;
    if (!b->slice || !is_seen_beyond(b->g, value, b->slice)) {
        add_buffer(b->p, whole, b->ctx, at, false);
    } else { /* rows must follow each other in memory */
        if (whole->numel && whole->strides[0] * whole->dims[0] != whole->numel) return TB_ERR_UNSUPPORTED;
        set_rows(whole, b->slice->rows, b->p->sizes[0]);
        add_buffer(b->p, whole, b->ctx, at, false);
        *t = add_window(b, whole);
    }
    if (b->slice) b->seen[value] = *t;
    return TB_OK;
}

/* A graph's types were found at two sizes; a rule that clamps (slice) may say something else at this one. */
static tb_status check_types(const tb_graph *g, const tb_node *n, const tb_op_call *c, const int64_t *sizes)
{
    for (int o = 0; o < n->n_out; o++) {
        const tb_value *v = &g->values[n->out[o]];
        for (int i = 0; i < v->rank; i++)
            if (tb_dim_at(v->dims[i], sizes) != c->spec[o].dims[i])
                return TB_FAIL(TB_ERR_SHAPE, "graph %s: at this size %s makes %s, which is not its type", g->name,
                               n->op->name, tb_dims_text(c->spec[o].rank, c->spec[o].dims));
    }
    return TB_OK;
}

static tb_status plan_node(builder *b, int at, tb_tensor **operands, uint64_t *attrs)
{
    plan *p = b->p;
    const tb_node *n = &b->g->nodes[at];
    tb_op_call *c = &p->calls[at];
    int64_t sizes[TB_MAX_SYMBOLS];
    memcpy(sizes, p->sizes, sizeof sizes);
    if (b->slice) sizes[0] = b->slice->rows;
    tbi_attrs_at(n, sizes, attrs);
    *c = (tb_op_call){.op = n->op,
                      .ctx = b->ctx,
                      .attrs = n->attrs ? attrs : NULL,
                      .n_in = n->n_in,
                      .in = operands,
                      .arena = b->scratch};
    for (int k = 0; k < n->n_in; k++) operands[k] = operand(b, n->in[k]);
    TB_TRY(n->op->shape(c));
    TB_TRY(check_types(b->g, n, c, sizes));
    for (int o = 0; o < n->n_out; o++) {
        if (n->op->hides && o >= n->n_out - n->op->n_hidden && tb_graph_uses(b->g, n->out[o]) == 0) continue;
        tb_tensor *t = c->out[o] = &p->tensors[n->out[o]];
        t->ctx = b->ctx;
        atomic_init(&t->refs, 1);
        apply_spec(t, &c->spec[o]);
        if (c->spec[o].is_view) {
            t->storage = operands[c->spec[o].view_of]->storage;
            if (b->slice) b->seen[n->out[o]] = t;
            if (b->slice && is_moving(p, operands[c->spec[o].view_of])) add_moving(b, t);
        } else {
            TB_TRY(place_result(b, at, n->out[o], &c->out[o]));
        }
    }
    for (int k = 0; k < n->n_in; k++) {
        buffer *used = operands[k] ? buffer_of(p, operands[k]) : NULL;
        if (used) used->last = at;
    }
    return TB_OK;
}

/* What lives beyond a slice lives through all of its turns. */
static void live_through(plan *p, const slice *s)
{
    for (int i = s->first; i < s->end; i++) {
        const tb_op_call *c = &p->calls[i];
        for (int k = 0; k < c->n_in + c->op->n_out; k++) {
            const tb_tensor *t = k < c->n_in ? c->in[k] : c->out[k - c->n_in]; /* NULL: absent */
            buffer *b = t ? buffer_of(p, t) : NULL;
            if (!b || (b->first >= s->first && b->last < s->end)) continue;
            if (b->first > s->first) b->first = s->first;
            if (b->last < s->end) b->last = s->end; /* past the last node, which must not take it over */
        }
    }
}

/* ---- buffers ---- */
static bool same_place(const tb_tensor *a, const tb_tensor *b)
{
    return a->is_contiguous && b->is_contiguous && a->offset == b->offset && a->rank == b->rank &&
           a->dtype == b->dtype && memcmp(a->dims, b->dims, sizeof *a->dims * (size_t)a->rank) == 0;
}

/* An op that may write where it reads: its result takes the buffer of an operand that has its last use here, unless
 * another operand shows the same bytes in another way, or what a slice may read again. */
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
                   !is_moving(p, in) && b->bytes == buffer_of(p, out)->bytes && same_place(in, out);
        for (int o = 0; may && o < c->n_in; o++)
            may = !c->in[o] || o == k || c->in[o]->storage != in->storage || (is_pointwise && same_place(c->in[o], in));
        if (!may) continue;
        b->last = buffer_of(p, out)->last;
        buffer_of(p, out)->is_external = true;
        for (int i = 0; i < g->n_values; i++) /* the result and its views */
            if (p->tensors[i].storage == mine) p->tensors[i].storage = in->storage;
        for (int i = 0; i < p->n_windows; i++)
            if (p->windows[i].storage == mine) p->windows[i].storage = in->storage;
    }
}

bool tbi_is_direct(const tb_graph *g, const plan *p, int output)
{
    const tb_value *v = &g->values[g->outputs[output]];
    if (v->producer < 0 || p->calls[v->producer].spec[v->output].is_view || !p->calls[v->producer].op->ref)
        return false;
    if (!p->tensors[g->outputs[output]].is_contiguous) return false;
    for (int i = 0; i < output; i++)
        if (p->tensors[g->outputs[i]].storage == p->tensors[g->outputs[output]].storage) return false;
    return true;
}

static tb_status plan_values(builder *b)
{
    const tb_graph *g = b->g;
    plan *p = b->p;
    for (int i = 0; i < g->n_values; i++) {
        const tb_value *v = &g->values[i];
        tb_tensor *t = &p->tensors[i];
        if (v->producer >= 0) continue;
        tbi_describe(v, p->sizes, t);
        t->ctx = b->ctx;
        atomic_init(&t->refs, 1);
        if (v->constant) { /* the graph's own storage: what is packed for it serves all plans */
            memcpy(t->strides, v->constant->strides, sizeof t->strides);
            t->is_contiguous = v->constant->is_contiguous;
            t->offset = v->constant->offset;
            t->storage = v->constant->storage;
        } else {
            add_buffer(p, t, b->ctx, 0, true);
        }
    }
    return TB_OK;
}

static tb_status plan_nodes(builder *b)
{
    const tb_graph *g = b->g;
    plan *p = b->p;
    tb_tensor **operands = p->operands;
    uint64_t *attrs = p->attrs;
    for (int i = 0, at = 0; i < g->n_nodes; i++) {
        if (b->slice && i == b->slice->end) b->slice = NULL, at++;
        if (at < p->n_slices && i == p->slices[at].first) {
            b->slice = &p->slices[at];
            p->slices[at].first_moving = p->n_moving;
            memset(b->seen, 0, sizeof(tb_tensor *) * (size_t)g->n_values);
        }
        TB_TRY(plan_node(b, i, operands, attrs));
        if (b->slice) p->slices[at].end_moving = p->n_moving;
        operands += g->nodes[i].n_in;
        attrs += (g->nodes[i].op->attrs_bytes + 7) / 8;
    }
    for (int i = 0; i < g->n_outputs; i++) { /* what the caller reads lives to the end */
        buffer *read = buffer_of(p, &p->tensors[g->outputs[i]]);
        if (read) read->last = g->n_nodes;
    }
    for (int i = 0; i < p->n_slices; i++) live_through(p, &p->slices[i]);
    for (int i = 0; i < g->n_nodes; i++) take_over(g, p, i);
    for (int i = 0; i < g->n_outputs; i++)
        if (tbi_is_direct(g, p, i)) buffer_of(p, &p->tensors[g->outputs[i]])->is_external = true;
    return tbi_plan_memory(p->buffers, p->n_buffers, &p->slab_bytes, &p->naive_bytes, &p->bound_bytes);
}

/* slice_bytes 0: not in slices. Nor on several threads, which would meet at every node of every slice. */
static tb_status build(const tb_graph *g, tb_ctx *ctx, tb_arena *scratch, int64_t slice_bytes, plan *p)
{
    builder b = {.g = g, .ctx = ctx, .scratch = scratch, .p = p};
    TB_TRY(plan_alloc(g, p));
    if (slice_bytes && tb_pool_threads(ctx->pool) == 1)
        p->n_slices = tbi_find_slices(ctx, g, p->sizes, slice_bytes, p->slices);
    b.seen = tb_calloc((size_t)g->n_values + 1, sizeof(tb_tensor *));
    tb_status st = b.seen ? plan_values(&b) : TB_ERR_OOM;
    if (st == TB_OK) st = plan_nodes(&b);
    tb_free(b.seen);
    return st;
}

tb_status tbi_plan_build(const tb_graph *g, tb_ctx *ctx, tb_arena *scratch, int64_t slice_bytes, const int64_t *sizes,
                         plan *p)
{
    for (int i = 0; i < g->n_symbols; i++) {
        p->sizes[i] = sizes[i];
        if (sizes[i] < 0)
            return TB_FAIL(TB_ERR_SHAPE, "graph %s: %s = %lld", g->name, g->symbols[i], (long long)sizes[i]);
    }
    tb_status st = build(g, ctx, scratch, slice_bytes, p);
    if (st != TB_ERR_UNSUPPORTED || p->n_slices == 0) return st;
    plan whole = {0}; /* rows of some value lie scattered */
    memcpy(whole.sizes, p->sizes, sizeof whole.sizes);
    free_lists(p);
    *p = whole;
    return build(g, ctx, scratch, 0, p);
}
