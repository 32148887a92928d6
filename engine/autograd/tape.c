/* Recording: the interceptor that makes nodes, and the life of nodes and of what tensors know about them. */
#include "autograd_internal.h"

static void tape_destroy(tb_ctx *ctx, void *state)
{
    tape *tp = state;
    tb_interceptor_remove(ctx, &tp->anomaly);
    tb_interceptor_remove(ctx, &tp->interceptor);
    tb_heap_free(ctx->heap, tp);
}

bool tbi_needs_grad(const tb_tensor *t) { return t && t->autograd; }

/* A leaf read inside a recomputed segment becomes an edge of the segment's node. */
static tb_status note_leaves(node *n, const tb_op_call *c)
{
    for (int i = 0; i < c->n_in; i++) {
        const origin *from = c->in[i] ? origin_of(c->in[i]) : NULL;
        if (!from) continue;
        if (from->made_by) /* running it again would walk that graph too, in a pass of its own */
            return TB_FAIL(TB_ERR_UNSUPPORTED,
                           "a recomputed segment reads, in %s, the result %s of an op that is recorded: give it as the "
                           "segment's input, or tb_detach() it",
                           c->op->name, tb_shape_text(c->in[i]));
        bool is_known = false;
        int free_edge = -1;
        for (int e = n->n_in - 1; e > 0; e--) {
            is_known |= n->edges[e].leaf == c->in[i];
            if (!n->edges[e].leaf) free_edge = e;
        }
        if (is_known) continue;
        if (free_edge < 0)
            return TB_FAIL(TB_ERR_UNSUPPORTED, "a recomputed segment reads more than %d parameters", n->n_in - 1);
        n->edges[free_edge].leaf = tb_retain(c->in[i]);
        n->version[free_edge] = c->in[i]->storage->version;
    }
    return TB_OK;
}

static tb_status save(node *n, const tb_op_call *c)
{
    const tb_op *op = c->op;
    for (int i = 0; i < c->n_in; i++) {
        const tb_tensor *t = c->in[i];
        n->in_spec[i].dtype = t ? (tb_dtype)t->dtype : TB_F32;
        n->in_spec[i].rank = t ? t->rank : 0;
        for (int d = 0; t && d < t->rank; d++) n->in_spec[i].dims[d] = t->dims[d];
        bool is_saved = t && (op->saves & TB_SAVE_IN(i < 23 ? i : 23));
        n->saved_in[i] = is_saved ? tb_retain(c->in[i]) : NULL;
        n->version[i] = is_saved ? t->storage->version : 0;
        tbi_edge_set(n, i, c->in[i]);
    }
    for (int o = 0; o < n->n_out; o++) {
        n->out_spec[o] = c->spec[o];
        tb_tensor *t = c->out[o];
        if (!(op->saves & TB_SAVE_OUT(o))) continue;
        /* An alias outside the graph: the node must not own the tensor that owns the node. */
        tb_tensor *alias = tbi_tensor_view(t, (tb_dtype)t->dtype, t->rank, t->dims, t->strides, t->offset);
        if (!alias) return TB_ERR_OOM;
        tbi_scope_disown(alias);
        n->saved_out[o] = alias;
        n->version[n->n_in + o] = t->storage->version;
    }
    return TB_OK;
}

static tb_status record(tape *tp, const tb_op_call *c)
{
    const tb_op *op = c->op;
    if (c->n_in > 64)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "%s: gradients of at most 64 inputs, not %d", op->name, c->n_in);
    node *n = tbi_node_new(tp, c->n_in, op->n_out, op->attrs_bytes);
    if (!n) return TB_ERR_OOM;
    n->op = op;
    if (c->attrs && op->attrs_bytes) memcpy(n->attrs, c->attrs, op->attrs_bytes);
    else n->attrs = NULL;
    tb_status st = save(n, c);
    for (int o = 0; o < op->n_out - op->n_hidden && st == TB_OK; o++)
        if (tb_dtype_is_float((tb_dtype)c->out[o]->dtype)) tbi_node_attach(n, o, c->out[o]);
    tbi_node_release(n);
    return st;
}

/* With create_graph, a rule's result through such an op would lose its graph without a word. */
static tb_status refuse_constant(const tape *tp, const tb_op_call *c)
{
    for (int o = 0; o < c->op->n_out; o++)
        if (tb_dtype_is_float((tb_dtype)c->out[o]->dtype))
            return TB_FAIL(TB_ERR_UNSUPPORTED,
                           "create_graph: the gradient of %s goes through %s, which has no gradient (%s)",
                           tp->backward_op->name, c->op->name, c->op->no_grad);
    return TB_OK;
}

static tb_status tape_around(tb_interceptor *self, tb_op_call *c)
{
    tape *tp = (tape *)self;
    bool any = false;
    for (int i = 0; i < c->n_in; i++) any |= tbi_needs_grad(c->in[i]);
    TB_TRY(tb_dispatch_next(self, c));
    if (!any) return TB_OK;
    if (tp->collecting) return note_leaves(tp->collecting, c);
    if (!tp->is_on) return TB_OK;
    if (c->op->grad) return record(tp, c);
    return tp->backward_op ? refuse_constant(tp, c) : TB_OK;
}

tape *tbi_tape(tb_ctx *ctx)
{
    tape *tp = ctx->slot[TB_SLOT_AUTOGRAD].state;
    if (tp) return tp;
    tp = tb_heap_alloc(ctx->heap, sizeof *tp, TB_MEM_OTHER);
    if (!tp) return NULL;
    *tp = (tape){.interceptor = {.name = "tape", .order = TB_ORDER_TAPE, .around = tape_around},
                 .anomaly = {.name = "anomaly", .order = TB_ORDER_ANOMALY, .around = tbi_anomaly_around},
                 .ctx = ctx, .is_on = true};
    tb_interceptor_add(ctx, &tp->interceptor);
    ctx->slot[TB_SLOT_AUTOGRAD].state = tp;
    ctx->slot[TB_SLOT_AUTOGRAD].destroy = tape_destroy;
    return tp;
}

/* ---- nodes ---- */
static size_t aligned(size_t bytes) { return (bytes + 15) & ~(size_t)15; }

/* One block holds the node and all its arrays. */
node *tbi_node_new(tape *tp, int n_in, int n_out, size_t attrs_bytes)
{
    size_t ins = (size_t)n_in, outs = (size_t)n_out;
    size_t at_edges = aligned(sizeof(node)) + aligned(attrs_bytes), at_saved = at_edges + ins * sizeof(edge),
           at_grads = at_saved + (ins + outs) * sizeof(tb_tensor *), at_result = at_grads + outs * sizeof(tb_tensor *),
           at_origins = at_result + ins * sizeof(tb_tensor *), at_version = at_origins + outs * sizeof(origin),
           at_spec = aligned(at_version + (ins + outs) * sizeof(uint32_t));
    char *p = tb_heap_alloc(tp->ctx->heap, at_spec + (ins + outs) * sizeof(tb_out_spec), TB_MEM_OTHER);
    if (!p) return NULL;
    memset(p, 0, at_version); /* what lies behind is written before it is read */
    node *n = (node *)p;
    n->ctx = tp->ctx;
    n->refs = 1;
    n->n_in = n_in;
    n->n_out = n_out;
    n->attrs = p + aligned(sizeof(node));
    n->edges = (edge *)(p + at_edges);
    n->saved_in = (tb_tensor **)(p + at_saved);
    n->saved_out = n->saved_in + n_in;
    n->grads = (tb_tensor **)(p + at_grads);
    n->result = (tb_tensor **)(p + at_result);
    n->origins = (origin *)(p + at_origins);
    for (int o = 0; o < n_out; o++) n->origins[o] = (origin){n, o};
    n->version = (uint32_t *)(p + at_version);
    n->in_spec = (tb_out_spec *)(p + at_spec);
    n->out_spec = n->in_spec + n_in;
    n->older = tp->newest;
    if (tp->newest) tp->newest->newer = n;
    tp->newest = n;
    return n;
}

void tbi_node_retain(node *n) { n->refs++; }

void tbi_node_free_saved(node *n)
{
    for (int i = 0; i < n->n_in + n->n_out; i++) { /* saved_out follows saved_in */
        tb_release(n->saved_in[i]);
        n->saved_in[i] = NULL;
    }
    for (int o = 0; o < n->n_out; o++) {
        tb_release(n->grads[o]);
        n->grads[o] = NULL;
    }
}

static void unlink_node(node *n)
{
    tape *tp = n->ctx->slot[TB_SLOT_AUTOGRAD].state;
    if (n->older) n->older->newer = n->newer;
    if (n->newer) n->newer->older = n->older;
    else tp->newest = n->older;
}

/* A graph can be thousands of nodes deep, so the dead queue up in a list (linked by `older`) instead of recursing.
 * Saved inputs are what may release further nodes on the way, through their tensors; an edge to the same node is
 * always released after them, so those never are the last reference and nothing nests. */
void tbi_node_release(node *n)
{
    if (--n->refs > 0) return;
    unlink_node(n);
    n->older = NULL;
    for (node *dead = n; dead;) {
        node *queue = dead->older;
        tbi_node_free_saved(dead);
        for (int i = 0; i < dead->n_in; i++) {
            tb_release(dead->edges[i].leaf);
            node *to = dead->edges[i].to;
            if (!to || --to->refs > 0) continue;
            unlink_node(to);
            to->older = queue;
            queue = to;
        }
        tb_heap_free(dead->ctx->heap, dead);
        dead = queue;
    }
}

void tbi_edge_set(node *n, int i, tb_tensor *in)
{
    const origin *from = in ? origin_of(in) : NULL;
    if (!from) return;
    if (from->made_by) {
        n->edges[i].to = from->made_by;
        n->edges[i].output = from->output;
        tbi_node_retain(from->made_by);
    } else {
        n->edges[i].leaf = tb_retain(in);
    }
}

/* ---- what tensors know ---- */
static void forget(tb_tensor *t)
{
    node *made_by = origin_of(t)->made_by;
    leaf *l = made_by ? NULL : leaf_of(t);
    t->autograd = NULL;
    if (made_by) tbi_node_release(made_by);
    if (!l) return;
    tb_release(l->grad);
    tb_release(l->buffer);
    tb_heap_free(t->ctx->heap, l);
}

void tbi_node_attach(node *n, int output, tb_tensor *t)
{
    t->ctx->autograd_free = forget;
    t->autograd = &n->origins[output];
    tbi_node_retain(n);
}

/* ---- leaves ---- */
tb_status tb_require_grad(tb_tensor *t)
{
    if (tb_is_poison(t)) return tb_ctx_take_error(tb_ctx_current());
    if (!tb_dtype_is_float((tb_dtype)t->dtype))
        return TB_FAIL(TB_ERR_DTYPE, "only floats have gradients, not %s", tb_dtype_name((tb_dtype)t->dtype));
    if (t->autograd)
        return origin_of(t)->made_by ? TB_FAIL(TB_ERR_INVALID, "the tensor is the result of an op that is recorded; "
                                                               "tb_detach() it first")
                                     : TB_OK;
    leaf *l = tbi_tape(t->ctx) ? tb_heap_alloc(t->ctx->heap, sizeof *l, TB_MEM_OTHER) : NULL;
    if (!l) return TB_ERR_OOM;
    *l = (leaf){0};
    t->ctx->autograd_free = forget;
    t->autograd = l;
    return TB_OK;
}

bool tb_requires_grad(const tb_tensor *t) { return tbi_needs_grad(t); }

tb_tensor *tb_grad(const tb_tensor *t) { return tbi_is_leaf(t) ? leaf_of(t)->grad : NULL; }

static tb_status find_leaf(tb_tensor *t, leaf **out)
{
    *out = leaf_of(t);
    if (tbi_is_leaf(t)) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "tensor '%s' is not a leaf (tb_require_grad)", t->name);
}

enum { MAX_ROWS = 64 };

tb_status tb_grad_set_buffer(tb_tensor *t, tb_tensor *buffer)
{
    leaf *l;
    TB_TRY(find_leaf(t, &l));
    if (buffer && tb_is_poison(buffer)) {
        TB_TRY(tb_ctx_take_error(t->ctx));
        return TB_FAIL(TB_ERR_INVALID, "the gradient buffer of '%s' is the result of an op that failed", t->name);
    }
    int front = buffer ? buffer->rank - t->rank : 0; /* a dimension in front: rows */
    bool fits = !buffer || (buffer->is_contiguous && buffer->dtype == t->dtype && (front == 0 || front == 1) &&
                            memcmp(buffer->dims + front, t->dims, sizeof t->dims[0] * t->rank) == 0);
    if (fits && front == 1) fits = buffer->dims[0] >= 1 && buffer->dims[0] <= MAX_ROWS;
    if (!fits)
        return TB_FAIL(TB_ERR_SHAPE, "a gradient buffer of %s must be contiguous and like its leaf %s '%s'",
                       tb_shape_text(buffer), tb_shape_text(t), t->name);
    tb_grad_clear(t);
    tb_release(l->buffer);
    l->buffer = tb_retain(buffer);
    l->rows = front ? (int)buffer->dims[0] : 0;
    return TB_OK;
}

tb_tensor *tbi_grad_row(tb_tensor *buffer, int i)
{
    return tbi_tensor_view(buffer, (tb_dtype)buffer->dtype, buffer->rank - 1, buffer->dims + 1, buffer->strides + 1,
                           buffer->offset + i * buffer->strides[0]);
}

tb_status tb_grad_join(tb_tensor *t)
{
    leaf *l;
    TB_TRY(find_leaf(t, &l));
    if (l->rows < 2 || !l->grad) return TB_OK;
    bool recorded = tb_grad_mode(t->ctx, false);
    tb_scope *scope = tb_scope_open();
    tb_tensor *zero = tb_zeros((tb_dtype)t->dtype, t->rank, t->dims);
    tb_status st = TB_OK;
    for (int i = 1; i < l->rows && st == TB_OK; i++) {
        if (!(l->filled >> i & 1)) continue; /* what lies there is of a gradient that was cleared */
        tb_tensor *row = tbi_grad_row(l->buffer, i);
        if (!row) st = TB_ERR_OOM;
        else if (tb_is_poison(tb_accumulate(l->grad, row, false)) || tb_is_poison(tb_accumulate(row, zero, true)))
            st = tb_ctx_take_error(t->ctx);
    }
    l->filled &= 1;
    tb_scope_close(scope);
    tb_grad_mode(t->ctx, recorded);
    return st;
}

void tb_grad_clear(tb_tensor *t)
{
    if (!tbi_is_leaf(t)) return;
    leaf *l = leaf_of(t);
    tb_release(l->grad);
    l->grad = NULL;
    l->filled = 0;
}

tb_status tb_grad_set_hook(tb_tensor *t, tb_grad_hook hook, void *arg)
{
    leaf *l;
    TB_TRY(find_leaf(t, &l));
    l->hook = hook;
    l->hook_arg = arg;
    return TB_OK;
}

bool tb_grad_mode(tb_ctx *ctx, bool on)
{
    tape *tp = tbi_tape(ctx);
    if (!tp) return true;
    bool before = tp->is_on;
    tp->is_on = on;
    return before;
}

tb_tensor *tb_detach(tb_tensor *t)
{
    if (tb_is_poison(t)) return t;
    tb_tensor *alias = tbi_tensor_view(t, (tb_dtype)t->dtype, t->rank, t->dims, t->strides, t->offset);
    return alias ? alias : tbi_poisoned(t->ctx);
}

tb_tensor *tb_graph_root(tb_tensor *t)
{
    if (tb_is_poison(t)) return t;
    const origin *from = origin_of(t);
    if (!from || !from->made_by) {
        (void)TB_FAIL(TB_ERR_INVALID, "a root of a graph is what a recorded op made");
        return tbi_poisoned(t->ctx);
    }
    tb_tensor *root = tbi_tensor_new(t->ctx, (tb_dtype)t->dtype, 1, (int64_t[]){0});
    if (!root) return tbi_poisoned(t->ctx);
    tbi_node_attach(from->made_by, from->output, root);
    root->rank = t->rank;
    memcpy(root->dims, t->dims, sizeof t->dims);
    memcpy(root->strides, t->strides, sizeof t->strides);
    root->numel = t->numel;
    return root;
}
