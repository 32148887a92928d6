/* Backward: marks what the root reaches, then walks the nodes from newest to oldest. A node runs when everything newer
 * has, so its gradients are complete; it frees what it saved and hands results to its edges. */
#include "autograd_internal.h"

typedef struct pass {
    tape *tape;
    const tb_backward_opts *opts;
    uint64_t mark;
    bool weights_only; /* second half of a deferred backward */
    bool selective;    /* tb_gradients: only what leads to wanted inputs */
    bool inside;       /* of a recomputed segment: another pass counts the uses of leaves */
    int n_wanted;
    tb_tensor *const *wanted;
    tb_tensor **grads;
} pass;

/* ---- marking ---- */
static void mark_leaf(leaf *l, uint64_t mark)
{
    if (l->mark != mark) {
        l->mark = mark;
        l->uses = l->arrived = 0;
    }
    l->uses++;
}

/* Marks everything below the root; returns the oldest node reached, and in *waiting one whose weights wait, or NULL. */
static node *mark_reachable(node *root, uint64_t mark, bool with_leaves, node **waiting)
{
    node *oldest = root;
    *waiting = NULL;
    int64_t open = 1;
    root->mark = mark;
    for (node *n = root; open > 0; n = n->older) {
        if (n->mark != mark) continue;
        open--;
        oldest = n;
        n->is_useful = true;
        if (n->is_deferred) *waiting = n;
        for (int i = 0; i < n->n_in; i++) {
            if (n->edges[i].leaf && with_leaves) mark_leaf(leaf_of(n->edges[i].leaf), mark);
            node *to = n->edges[i].to;
            if (!to || to->mark == mark) continue;
            to->mark = mark;
            open++;
        }
    }
    return oldest;
}

static bool is_wanted(const pass *p, const node *n, const tb_tensor *t)
{
    for (int i = 0; i < p->n_wanted; i++) {
        if (t && p->wanted[i] == t) return true;
        const origin *from = origin_of(p->wanted[i]);
        if (n && from && from->made_by == n) return true;
    }
    return false;
}

/* From the oldest upwards: a node is useful when it, or an edge of it, leads to a wanted input. */
static void mark_useful(const pass *p, node *oldest, node *root)
{
    for (node *n = oldest;; n = n->newer) {
        if (n->mark == p->mark) {
            n->is_useful = is_wanted(p, n, NULL);
            for (int i = 0; i < n->n_in && !n->is_useful; i++) {
                const edge *e = &n->edges[i];
                n->is_useful = (e->leaf && is_wanted(p, NULL, e->leaf)) || (e->to && e->to->is_useful);
            }
        }
        if (n == root) return;
    }
}

/* ---- leaves ---- */
/* A result nobody else holds becomes the gradient itself; anything else, and memory of the user's, is copied. */
static bool is_exclusive(const tb_tensor *g)
{
    return atomic_load(&g->refs) == 1 && atomic_load(&g->storage->refs) == 1 && !g->storage->is_wrapped &&
           g->is_contiguous && !g->autograd;
}

/* Each use of the leaf adds to its own row. */
static int row_of(const leaf *l) { return l->rows == 0 ? 0 : l->arrived < l->rows ? l->arrived : l->rows - 1; }
static bool is_filled(const leaf *l, int row) { return l->filled >> row & 1; }

static tb_status buffer_add(tb_tensor *t, leaf *l, tb_tensor *g)
{
    int row = row_of(l);
    tb_scope scope;
    tbi_scope_enter(t->ctx, &scope);
    tb_tensor *to = l->rows ? tbi_grad_row(l->buffer, row) : l->buffer;
    bool is_there = to && g->storage == to->storage && g->offset == to->offset; /* the rule took what was given */
    tb_status st = !to ? TB_ERR_OOM : TB_OK;
    if (st == TB_OK && !is_there && tb_is_poison(tb_accumulate(to, g, !is_filled(l, row))))
        st = tb_ctx_take_error(t->ctx);
    if (st == TB_OK) {
        l->filled |= UINT64_C(1) << row;
        if (row == 0 && !l->grad) l->grad = tb_retain(to);
    }
    tbi_scope_leave(&scope);
    return st;
}

static tb_status leaf_add(tb_tensor *t, leaf *l, tb_tensor *g)
{
    tb_tensor *next;
    if (l->buffer && g->autograd)
        return TB_FAIL(TB_ERR_UNSUPPORTED,
                       "create_graph: the gradient of '%s' is written into its buffer, which has "
                       "no graph; take it with tb_gradients()",
                       t->name);
    if (l->buffer) return buffer_add(t, l, g);
    if (l->grad) {
        next = tb_add(l->grad, g);
    } else {
        next = is_exclusive(g) || g->autograd ? g : tb_copy(g);
    }
    if (tb_is_poison(next)) return tb_ctx_take_error(t->ctx);
    tb_retain(next);
    tb_release(l->grad);
    l->grad = next;
    tb_tensor_set_tag(next, TB_MEM_GRAD);
    return TB_OK;
}

tb_status tbi_leaf_receive(tb_tensor *t, tb_tensor *g, uint64_t mark)
{
    leaf *l = leaf_of(t);
    if (g) {
        TB_TRY(leaf_add(t, l, g));
        l->arrived++;
    }
    if (l->mark == mark && --l->uses == 0 && l->hook) l->hook(t, l->hook_arg);
    return TB_OK;
}

/* ---- running a node ---- */
static tb_status check_versions(const node *n)
{
    for (int i = 0; i < n->n_in + n->n_out; i++)
        if (n->saved_in[i] && n->saved_in[i]->storage->version != n->version[i])
            return TB_FAIL(TB_ERR_INVALID, "gradient of %s: a tensor of shape %s that it needs was changed in place",
                           n->op->name, tb_shape_text(n->saved_in[i]));
    return TB_OK;
}

/* Saved outputs are outside the graph; for gradients of gradients they get their place back for the call. */
static tb_status reattach_outputs(node *n, tb_tensor **out)
{
    for (int o = 0; o < n->n_out; o++) {
        const tb_tensor *t = out[o] = n->saved_out[o];
        if (!t || !tb_dtype_is_float((tb_dtype)t->dtype)) continue;
        out[o] = tbi_tensor_view(n->saved_out[o], (tb_dtype)t->dtype, t->rank, t->dims, t->strides, t->offset);
        if (!out[o]) return TB_ERR_OOM;
        tbi_node_attach(n, o, out[o]);
    }
    return TB_OK;
}

static tb_tensor *fitted(tb_tensor *g, const tb_out_spec *to)
{
    bool fits = g->dtype == to->dtype && g->rank == to->rank &&
                memcmp(g->dims, to->dims, (size_t)g->rank * sizeof *g->dims) == 0;
    if (fits) return g;
    g = tb_sum_to(g, to->rank, to->dims);
    return tb_cast(g, to->dtype);
}

/* Of a leaf: does defer_weights put its gradient off? */
static bool waits(const edge *e) { return e->leaf && !leaf_of(e->leaf)->is_input; }

/* A recomputed segment gives all its leaves their gradients at once; its edges only count the uses. */
static uint64_t wants_of(const pass *p, const node *n)
{
    uint64_t wants = 0;
    if (!n->op) return UINT64_MAX;
    for (int i = 0; i < n->n_in; i++) {
        const edge *e = &n->edges[i];
        bool wanted = e->leaf || e->to;
        if (p->selective) wanted = (e->leaf && is_wanted(p, NULL, e->leaf)) || (e->to && e->to->is_useful);
        if (p->weights_only) wanted = waits(e);
        else if (p->opts->defer_weights) wanted = e->to || (e->leaf && !waits(e));
        if (wanted) wants |= UINT64_C(1) << i;
    }
    return wants;
}

typedef struct rule_call {
    const pass *pass;
    const node *node;
    uint64_t given; /* bit i: the rule was given the open sum that input i's gradient goes to */
} rule_call;

/* What has arrived for an output so far, if nobody else holds it: more may be added in place. */
static tb_tensor *open_sum(const pass *p, const node *n, int output)
{
    tb_tensor *sum = n->grads[output];
    return sum && !p->opts->create_graph && is_exclusive(sum) ? sum : NULL;
}

/* tb_grad_given: the buffer of a leaf, or the sum of an output, that this node reads once: nothing else of the node
 * arrives in between. */
static tb_tensor *given_for(void *backward, int i, bool *overwrite)
{
    rule_call *r = backward;
    const edge *to = &r->node->edges[i];
    const leaf *l = to->leaf ? leaf_of(to->leaf) : NULL;
    if (r->pass->selective || r->pass->opts->create_graph || (l && !l->buffer)) return NULL;
    for (int e = 0; e < r->node->n_in; e++) {
        const edge *other = &r->node->edges[e];
        if (e != i && other->leaf == to->leaf && other->to == to->to) return NULL;
    }
    *overwrite = l && !is_filled(l, row_of(l));
    if (to->to) {
        tb_tensor *sum = open_sum(r->pass, to->to, to->output);
        if (sum) r->given |= UINT64_C(1) << i;
        return sum;
    }
    return !l ? NULL : l->rows ? tbi_grad_row(l->buffer, row_of(l)) : l->buffer;
}

static tb_status call_rule(const pass *p, node *n, uint64_t wants, uint64_t *given)
{
    tb_tensor *out[TB_MAX_OUT];
    rule_call rule = {p, n, 0};
    TB_TRY(check_versions(n));
    if (p->opts->create_graph) TB_TRY(reattach_outputs(n, out));
    tb_grad_call c = {.op = n->op, .ctx = n->ctx, .attrs = n->attrs, .n_in = n->n_in, .n_out = n->n_out,
                      .in = n->saved_in, .out = p->opts->create_graph ? out : n->saved_out, .grad = n->grads,
                      .in_spec = n->in_spec, .out_spec = n->out_spec, .wants = wants, .result = n->result,
                      .given = given_for, .backward = &rule};
    p->tape->backward_op = n->op;
    n->op->grad(&c);
    p->tape->backward_op = NULL;
    *given = rule.given;
    for (int i = 0; i < n->n_in; i++)
        if (n->result[i]) n->result[i] = fitted(n->result[i], &n->in_spec[i]);
    tb_status st = tb_ctx_take_error(n->ctx);
    if (st != TB_OK) tb_error_add("in the gradient of %s", n->op->name);
    return st;
}

/* `was_given`: the rule had the sum so far, and may have added to it in place. */
static tb_status give_to_node(const pass *p, node *to, int output, tb_tensor *g, bool was_given)
{
    tb_tensor *before = to->grads[output], *open = open_sum(p, to, output);
    bool is_there = was_given && before && g->storage == before->storage && g->offset == before->offset;
    tb_tensor *sum = g;
    if (before && !is_there) sum = open && g->is_contiguous ? tb_accumulate(open, g, false) : tb_add(before, g);
    if (tb_is_poison(sum)) return tb_ctx_take_error(to->ctx);
    tb_retain(sum);
    tb_release(to->grads[output]);
    to->grads[output] = sum;
    return TB_OK;
}

static tb_status give_to_leaf(const pass *p, tb_tensor *t, tb_tensor *g)
{
    if (!p->selective) return tbi_leaf_receive(t, g, p->inside ? 0 : p->mark);
    for (int i = 0; i < p->n_wanted; i++) {
        if (p->wanted[i] != t || !g) continue;
        tb_tensor *sum = p->grads[i] ? tb_add(p->grads[i], g) : g;
        if (tb_is_poison(sum)) return tb_ctx_take_error(t->ctx);
        tb_retain(sum);
        tb_release(p->grads[i]);
        p->grads[i] = sum;
    }
    return TB_OK;
}

static tb_status distribute(const pass *p, node *n, uint64_t wants, uint64_t given)
{
    for (int i = 0; i < n->n_in; i++) {
        const edge *e = &n->edges[i];
        if (!(wants >> i & 1)) continue;
        if (e->leaf) TB_TRY(give_to_leaf(p, e->leaf, n->result[i]));
        else if (n->result[i])
            TB_TRY(give_to_node(p, e->to, e->output, n->result[i], given >> i & 1));
    }
    return TB_OK;
}

static void capture_outputs(const pass *p, const node *n)
{
    for (int i = 0; i < p->n_wanted; i++) {
        const origin *from = origin_of(p->wanted[i]);
        if (from && from->made_by == n && n->grads[from->output] && !p->grads[i])
            p->grads[i] = tb_retain(n->grads[from->output]);
    }
}

/* Uses of leaves that get nothing from this node still count as done. */
static tb_status skip_leaves(const pass *p, const node *n)
{
    for (int i = 0; i < n->n_in && !p->selective && !p->inside; i++)
        if (n->edges[i].leaf) TB_TRY(tbi_leaf_receive(n->edges[i].leaf, NULL, p->mark));
    return TB_OK;
}

static void forget_grads(node *n)
{
    for (int o = 0; o < n->n_out; o++) {
        tb_release(n->grads[o]);
        n->grads[o] = NULL;
    }
}

static tb_status run_node(const pass *p, node *n)
{
    bool any_grad = false;
    for (int o = 0; o < n->n_out; o++) any_grad |= n->grads[o] != NULL;
    if (p->weights_only) {
        if (!n->is_deferred) return skip_leaves(p, n);
    } else {
        if (!any_grad) return skip_leaves(p, n);
        capture_outputs(p, n);
        if (!n->is_useful) { /* the root of a graph that holds nothing wanted */
            forget_grads(n);
            return TB_OK;
        }
    }
    if (n->is_freed)
        return TB_FAIL(TB_ERR_INVALID, "backward a second time through %s: what it saved is freed; use retain_graph",
                       n->op ? n->op->name : "a recomputed segment");
    if (!n->op && (p->selective || p->opts->create_graph))
        return TB_FAIL(TB_ERR_UNSUPPORTED, "a recomputed segment has first gradients into its parameters only");
    uint64_t wants = wants_of(p, n), given = 0;
    tb_scope scope;
    tbi_scope_enter(n->ctx, &scope);
    tb_status st = !wants ? TB_OK : n->op ? call_rule(p, n, wants, &given) : tbi_run_segment(p->tape, n);
    if (st == TB_OK) st = distribute(p, n, wants, given);
    tbi_scope_leave(&scope);
    for (int i = 0; i < n->n_in; i++) n->result[i] = NULL;
    if (st != TB_OK) return st;

    bool keeps = p->opts->retain_graph || p->opts->create_graph;
    if (p->opts->defer_weights && !p->weights_only) {
        for (int i = 0; i < n->n_in; i++) n->is_deferred |= n->op && waits(&n->edges[i]);
        if (n->is_deferred) return TB_OK; /* keeps what it saved and its gradients for the second half */
    }
    n->is_deferred = false;
    if (!keeps) {
        tbi_node_free_saved(n);
        n->is_freed = true;
    }
    forget_grads(n);
    return TB_OK;
}

static void drop_grads(node *root, uint64_t mark)
{
    for (node *n = root; n; n = n->older) {
        if (n->mark != mark) continue;
        forget_grads(n);
        n->is_deferred = false;
    }
}

/* Gradients that wait in a node would be taken for this pass's. */
static tb_status check_waiting(const pass *p, const node *waiting)
{
    if (!waiting || p->weights_only) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID,
                   "backward through %s, whose weights still wait for tb_backward_weights() of an earlier pass",
                   waiting->op->name);
}

static tb_status seed_root(tb_tensor *root, const tb_backward_opts *opts)
{
    tb_tensor *g = opts->grad;
    if (!g && root->numel != 1)
        return TB_FAIL(TB_ERR_SHAPE,
                       "backward from a tensor of shape %s needs its gradient; only one element implies 1",
                       tb_shape_text(root));
    tb_scope *scope = tb_scope_open();
    if (!g) g = tb_ones_like(root);
    tb_status st = tb_is_poison(g) ? tb_ctx_take_error(root->ctx) : TB_OK;
    if (st == TB_OK && (g->rank != root->rank || memcmp(g->dims, root->dims, sizeof g->dims[0] * g->rank) != 0))
        st = TB_FAIL(TB_ERR_SHAPE, "backward: the gradient's shape %s is not its root's, %s", tb_shape_text(g),
                     tb_shape_text(root));
    if (st == TB_OK) g = tb_cast(g, (tb_dtype)root->dtype);
    if (st == TB_OK && tb_is_poison(g)) st = tb_ctx_take_error(root->ctx);
    if (st == TB_OK) origin_of(root)->made_by->grads[origin_of(root)->output] = tb_retain(g);
    tb_scope_close(scope);
    return st;
}

static tb_status walk(pass *p, tb_tensor *root)
{
    tb_ctx *ctx = root->ctx;
    node *first = origin_of(root)->made_by, *waiting;
    p->mark = ++p->tape->passes;
    node *oldest = mark_reachable(first, p->mark, !p->inside, &waiting);
    TB_TRY(check_waiting(p, waiting));
    tbi_node_retain(first);
    if (p->selective) mark_useful(p, oldest, first);
    bool was_on = p->tape->is_on;
    p->tape->is_on = p->opts->create_graph;
    tb_mem_tag tag = tb_ctx_set_tag(ctx, TB_MEM_ACT_GRAD);
    tb_status st = p->weights_only ? TB_OK : seed_root(root, p->opts);
    for (node *n = first, *next; st == TB_OK && n; n = next) {
        bool is_last = n == oldest;
        tbi_node_retain(n); /* hooks may let go of tensors */
        if (n->mark == p->mark) st = run_node(p, n);
        next = is_last ? NULL : n->older;
        tbi_node_release(n);
    }
    if (st != TB_OK) drop_grads(first, p->mark);
    tb_ctx_set_tag(ctx, tag);
    p->tape->is_on = was_on;
    tbi_node_release(first);
    return st;
}

static tb_status start(tb_tensor *root, tape **tp)
{
    tb_ctx *ctx = root->ctx ? root->ctx : tb_ctx_current();
    TB_TRY(tb_ctx_take_error(ctx));
    if (tb_is_poison(root)) return TB_FAIL(TB_ERR_INVALID, "backward from the result of an op that failed earlier");
    if (!root->autograd || !origin_of(root)->made_by)
        return TB_FAIL(TB_ERR_INVALID, "backward from a tensor that no recorded op made: no input required a gradient, "
                                       "or recording was off");
    *tp = tbi_tape(ctx);
    return TB_OK;
}

tb_status tb_backward_with(tb_tensor *root, const tb_backward_opts *opts)
{
    pass p = {.opts = opts};
    TB_TRY(start(root, &p.tape));
    if (opts->input && tbi_is_leaf(opts->input)) leaf_of(opts->input)->is_input = true;
    return walk(&p, root);
}

tb_status tb_backward(tb_tensor *root) { return tb_backward_with(root, &(tb_backward_opts){0}); }

tb_status tbi_backward_inside(tb_tensor *root, tb_tensor *grad)
{
    pass p = {.opts = &(tb_backward_opts){.grad = grad}, .inside = true};
    TB_TRY(start(root, &p.tape));
    return walk(&p, root);
}

tb_status tb_backward_weights(tb_tensor *root)
{
    pass p = {.opts = &(tb_backward_opts){0}, .weights_only = true};
    TB_TRY(start(root, &p.tape));
    return walk(&p, root);
}

tb_status tb_gradients(tb_tensor *root, const tb_backward_opts *opts, int n, tb_tensor *const *inputs,
                       tb_tensor **grads)
{
    pass p = {.opts = opts ? opts : &(tb_backward_opts){0}, .selective = true, .n_wanted = n, .wanted = inputs,
              .grads = grads};
    for (int i = 0; i < n; i++) grads[i] = NULL;
    TB_TRY(start(root, &p.tape));
    tb_status st = walk(&p, root);
    for (int i = 0; i < n; i++) {
        if (!grads[i]) continue;
        if (st != TB_OK) {
            tb_release(grads[i]);
            grads[i] = NULL;
        } else if (grads[i]->scope) {
            tb_release(grads[i]); /* the scope that made it still holds it */
        } else {
            tbi_scope_adopt(root->ctx->scope, grads[i]);
        }
    }
    return st;
}
