/* Recompute: a segment is run without recording, and once more, with recording, when its gradient is asked for. */
#include "autograd_internal.h"

enum { MAX_SEGMENT_LEAVES = 63 };

tb_tensor *tb_recompute(tb_segment f, void *arg, tb_tensor *x)
{
    tb_ctx *ctx = tb_ctx_current();
    tape *tp = ctx ? tbi_tape(ctx) : NULL;
    if (!tp || tb_is_poison(x) || !tp->is_on || tp->collecting) return f(arg, x);
    node *n = tbi_node_new(tp, 1 + MAX_SEGMENT_LEAVES, 1, 0);
    if (!n) return tbi_poisoned(ctx);
    n->segment = (segment){f, arg, ctx->stream, ctx->stream_uses, ctx->first_sample};
    n->saved_in[0] = tb_retain(x);
    n->version[0] = x->storage->version;
    tbi_edge_set(n, 0, x);
    tb_scope *scope = tb_scope_open();
    tp->is_on = false;
    tp->collecting = n;
    tb_tensor *y = f(arg, tb_detach(x));
    tp->collecting = NULL;
    tp->is_on = true;
    if (!tb_is_poison(y)) y = tb_detach(y);
    y = tb_scope_escape(scope, y);
    bool any = false;
    for (int i = 0; i < n->n_in; i++) any |= n->edges[i].leaf || n->edges[i].to;
    if (!tb_is_poison(y) && any) {
        n->out_spec[0] = (tb_out_spec){.dtype = (tb_dtype)y->dtype, .rank = y->rank};
        memcpy(n->out_spec[0].dims, y->dims, sizeof y->dims);
        tbi_node_attach(n, 0, y);
    }
    tbi_node_release(n);
    return y;
}

bool tb_is_recomputing(const tb_ctx *ctx)
{
    const tape *tp = ctx ? ctx->slot[TB_SLOT_AUTOGRAD].state : NULL;
    return tp && tp->runs_again;
}

/* What it reads must be what it read. */
static tb_status check_unchanged(const node *n)
{
    for (int i = 0; i < n->n_in; i++) {
        const tb_tensor *t = i == 0 ? n->saved_in[0] : n->edges[i].leaf;
        if (t && t->storage->version != n->version[i])
            return TB_FAIL(TB_ERR_INVALID, "the %s%s of a recomputed segment was changed in place",
                           i == 0 ? "input" : "parameter ", i == 0 ? "" : t->name);
    }
    return TB_OK;
}

/* Runs the segment again under its own random stream and takes the gradient through it: parameters accumulate
 * directly, x's gradient is left in result[0]. */
tb_status tbi_run_segment(tape *tp, node *n)
{
    tb_ctx *ctx = n->ctx;
    const segment *s = &n->segment;
    uint64_t stream = ctx->stream, uses = ctx->stream_uses;
    int64_t first_sample = ctx->first_sample;
    bool was_on = tp->is_on, was_again = tp->runs_again;
    TB_TRY(check_unchanged(n));
    tb_mem_tag tag = tb_ctx_set_tag(ctx, TB_MEM_ACT);
    ctx->stream = s->stream;
    ctx->stream_uses = s->stream_uses;
    ctx->first_sample = s->first_sample;
    tp->is_on = true;
    tb_tensor *x = tb_detach(n->saved_in[0]);
    bool needs_x = n->edges[0].leaf || n->edges[0].to;
    tb_status st = needs_x ? tb_require_grad(x) : TB_OK;
    tp->runs_again = true;
    tb_tensor *y = st == TB_OK ? s->run(s->arg, x) : x;
    tp->runs_again = was_again;
    ctx->stream = stream;
    ctx->stream_uses = uses;
    ctx->first_sample = first_sample;
    if (st == TB_OK) st = tbi_backward_inside(y, n->grads[0]);
    if (st == TB_OK && needs_x) n->result[0] = tb_grad(x);
    tp->is_on = was_on;
    tb_ctx_set_tag(ctx, tag);
    return st;
}
