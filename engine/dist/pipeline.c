/* The executor: cells of one (stage, micro-batch), the actions, the walk over the rank's list. */
#include "tb_pipeline.h"
#include "pipeline_internal.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_cpu.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include "tensor_internal.h"

/* ---- a stage on one micro-batch ---- */
static uint64_t stream_of(int64_t step, int64_t microbatch, int block)
{
    uint64_t stream = tb_stream_index(tb_stream_name(0, "step"), (uint64_t)step);
    return tb_stream_index(tb_stream_index(stream, (uint64_t)microbatch), (uint64_t)block);
}

static int64_t in_step(const tb_pipeline *p, int64_t microbatch) { return p->cfg.first_microbatch + microbatch; }

/* One block, and behind the last one the loss. */
static tb_tensor *run_block(void *arg, tb_tensor *x)
{
    const block_run *r = arg;
    const tb_pipeline_config *cfg = &r->p->cfg;
    tb_ctx_set_stream(tb_ctx_current(), stream_of(r->p->step, in_step(r->p, r->microbatch), r->block), 0);
    x = tb_model_forward_blocks(cfg->model, r->block, 1, x);
    if (r->block + 1 < tb_model_blocks(cfg->model)) return x;
    return cfg->source.loss(cfg->source.arg, r->p->step, in_step(r->p, r->microbatch), x);
}

static tb_tensor *run_stage(const cell *c, tb_tensor *x)
{
    const tb_pipeline_config *cfg = &c->p->cfg;
    block_run *runs = c->p->runs + c->microbatch * tb_model_blocks(cfg->model);
    for (int b = cfg->cuts[c->stage]; b < cfg->cuts[c->stage + 1]; b++)
        x = cfg->recompute ? tb_recompute(run_block, &runs[b], x) : run_block(&runs[b], x);
    return x;
}

static void let_go(tb_tensor **t)
{
    tb_release(*t);
    *t = NULL;
}

/* Takes a boundary tensor to its place; it stays counted as such until an action uses it. */
static tb_status arrive(tb_tensor **place, tb_tensor *t)
{
    if (tb_is_poison(t)) return tb_ctx_take_error(tb_ctx_current());
    *place = tb_retain(t);
    tb_tensor_set_tag(t, TB_MEM_BOUNDARY);
    return TB_OK;
}

/* What the graph keeps of the output is counted as its own, so what leaves must be bytes of its own. */
static tb_tensor *own_bytes(tb_tensor *y)
{
    bool alone = atomic_load(&y->storage->refs) == 1 && y->is_contiguous;
    return alone ? tb_detach(y) : tb_copy(tb_detach(y));
}

static tb_status keep_output(cell *c, tb_tensor *y)
{
    tb_pipeline *p = c->p;
    bool is_last = c->stage + 1 == p->cfg.schedule->stages;
    tb_scope *scope = tb_scope_open();
    c->root = tb_retain(is_last ? y : tb_graph_root(y));
    tb_status st = tb_ctx_take_error(tb_ctx_current());
    if (st == TB_OK && is_last) {
        float value;
        st = tb_item_f32(y, &value);
        p->loss += value;
    } else if (st == TB_OK) {
        cell *next = tbi_pipeline_owns(p, c->stage + 1) ? tbi_pipeline_cell(p, c->stage + 1, c->microbatch) : NULL;
        st = arrive(next ? &next->in : &c->out, own_bytes(y));
    }
    tb_scope_close(scope);
    return st;
}

static tb_status forward(cell *c)
{
    const tb_pipeline_config *cfg = &c->p->cfg;
    tb_ctx *ctx = tb_ctx_current();
    tb_scope *scope = tb_scope_open();
    tb_tensor *x = c->in;
    if (c->stage == 0) {
        x = cfg->source.input(cfg->source.arg, c->p->step, in_step(c->p, c->microbatch));
    } else {
        tb_tensor_set_tag(x, TB_MEM_ACT);
        (void)!tb_require_grad(x); /* a failure is pending and met below */
    }
    tb_tensor *y = run_stage(c, x);
    tb_retain(y);
    tb_scope_close(scope);
    tb_status st = tb_ctx_take_error(ctx);
    if (st == TB_OK && tb_is_poison(y))
        st = TB_FAIL(TB_ERR_INVALID, "stage %d runs blocks that this rank lacks", c->stage);
    if (st == TB_OK) st = keep_output(c, y);
    tb_release(y);
    return st;
}

/* B, or I when the gradients of weights wait. */
static tb_status backward(cell *c, bool defer)
{
    tb_pipeline *p = c->p;
    if (c->grad_out) tb_tensor_set_tag(c->grad_out, TB_MEM_ACT_GRAD); /* arrived; W may still want it */
    TB_TRY(tb_backward_with(c->root, &(tb_backward_opts){.grad = c->grad_out, .defer_weights = defer, .input = c->in}));
    tb_tensor *g = c->in ? tb_grad(c->in) : NULL;
    if (c->in && !g) return TB_FAIL(TB_ERR_INVALID, "stage %d: no gradient reaches its input", c->stage);
    if (g) {
        bool here = tbi_pipeline_owns(p, c->stage - 1);
        cell *before = here ? tbi_pipeline_cell(p, c->stage - 1, c->microbatch) : NULL;
        TB_TRY(arrive(before ? &before->grad_out : &c->grad_in, g));
        tb_grad_clear(c->in);
    }
    let_go(&c->in);
    let_go(&c->grad_out);
    if (!defer) let_go(&c->root);
    return TB_OK;
}

static tb_status weights(cell *c)
{
    TB_TRY(tb_backward_weights(c->root));
    let_go(&c->root);
    return TB_OK;
}

/* A stage's gradients become sums over the pipelines. All are under way before the first is waited for. */
static tb_status reduce(tb_pipeline *p, int stage)
{
    const tb_pipeline_config *cfg = &p->cfg;
    const tb_params *ps = tb_model_params(cfg->model);
    int n = 0;
    if (!cfg->replicas) return TB_OK;
    tb_comm_label(cfg->replicas, "step %lld, gradients of stage %d", (long long)p->step, stage);
    for (int b = cfg->cuts[stage]; b < cfg->cuts[stage + 1]; b++) {
        const tb_block *block = tb_model_block_at(cfg->model, b);
        for (int i = block->first_param; i < block->first_param + block->n_params; i++) {
            tb_tensor *g = tb_grad(tb_params_at(ps, i)->tensor);
            if (!g) continue; /* the graph is the same everywhere */
            void *host = g->is_contiguous ? tb_tensor_host(g) : NULL;
            if (!host)
                return TB_FAIL(TB_ERR_UNSUPPORTED, "the gradient of %s lies where ranks cannot sum it",
                               tb_params_at(ps, i)->name);
            tb_tensor_touch(g);
            TB_TRY(tb_comm_allreduce(cfg->replicas, host, tb_tensor_numel(g), tb_tensor_dtype(g), TB_REDUCE_SUM, NULL,
                                     &p->requests[n++]));
        }
    }
    return tb_comm_wait_all(cfg->replicas, p->requests, n, 0);
}

/* All stages of a rank are updated together, when the last of them may be. */
static tb_status update(tb_pipeline *p)
{
    if (++p->updates < p->own_stages || !p->cfg.optim) return TB_OK;
    return tb_optim_step(p->cfg.optim);
}

static tb_status work(tb_pipeline *p, const tb_action *a)
{
    cell *c = tbi_pipeline_cell(p, a->stage, a->microbatch);
    switch ((tb_action_kind)a->kind) {
    case TB_DO_F:
        return forward(c);
    case TB_DO_B:
        return backward(c, false);
    case TB_DO_I:
        return backward(c, true);
    case TB_DO_W:
        return weights(c);
    case TB_DO_OPT:
        return update(p);
    case TB_DO_REDUCE:
        return reduce(p, a->stage);
    default:
        return TB_OK; /* messages are not work */
    }
}

/* ---- messages ---- */
static tb_status new_boundary(const tb_pipeline *p, int stage, tb_tensor **place)
{
    int64_t dims[TB_MAX_RANK];
    tb_dtype dtype;
    int rank = tbi_pipeline_boundary(&p->cfg, stage, &dtype, dims);
    tb_scope *scope = tb_scope_open();
    tb_status st = arrive(place, tb_tensor_empty(dtype, rank, dims));
    tb_scope_close(scope);
    return st;
}

static tb_status post(tb_pipeline *p, const tb_action *a, tb_request *request)
{
    cell *c = tbi_pipeline_cell(p, a->stage, a->microbatch);
    tb_tensor **slot[TB_ACTION_KINDS] = {
        [TB_SEND_F] = &c->out, [TB_RECV_F] = &c->in, [TB_SEND_B] = &c->grad_in, [TB_RECV_B] = &c->grad_out};
    tb_tensor **t = slot[a->kind];
    bool forwards = a->kind == TB_SEND_F || a->kind == TB_RECV_B;
    if (!tb_action_is_send(a)) TB_TRY(new_boundary(p, forwards ? a->stage + 1 : a->stage, t));
    void *host = tb_tensor_host(*t);
    if (!host)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "tensors of device %s cannot be sent",
                       tb_ctx_device(tb_ctx_current())->name);
    if (tb_action_is_send(a)) return tb_comm_isend(p->cfg.comm, host, tb_tensor_bytes(*t), a->peer, NULL, request);
    tb_tensor_touch(*t);
    return tb_comm_irecv(p->cfg.comm, host, tb_tensor_bytes(*t), a->peer, NULL, request);
}

static tb_status exchange(tb_pipeline *p, const tb_action *group, int n)
{
    tb_status st = TB_OK;
    int posted = 0;
    for (; st == TB_OK && posted < n; posted += st == TB_OK) st = post(p, &group[posted], &p->requests[posted]);
    if (st == TB_OK) st = tb_comm_wait_all(p->cfg.comm, p->requests, posted, 0);
    for (int i = 0; st == TB_OK && i < n; i++) {
        cell *c = tbi_pipeline_cell(p, group[i].stage, group[i].microbatch);
        if (tb_action_is_send(&group[i])) let_go(group[i].kind == TB_SEND_F ? &c->out : &c->grad_in);
    }
    return st;
}

/* ---- the walk ---- */
/* After an action, or a group of messages: what is held, and who wants to know. */
static void observe(tb_pipeline *p, const tb_action *a, int64_t t0_ns)
{
    tb_mem_stats m;
    tb_heap_stats(tb_ctx_heap(tb_ctx_current()), &m);
    int64_t graphs = m.live_by_tag[TB_MEM_OTHER] - p->static_by_tag[TB_MEM_OTHER];
    int64_t held = m.live_bytes - p->memory.static_bytes - graphs, act = held - m.live_by_tag[TB_MEM_BOUNDARY];
    if (act > p->memory.act_bytes) p->memory.act_bytes = act;
    if (held > p->memory.held_bytes) {
        p->memory.held_bytes = held;
        for (int t = 0; t < TB_MEM_TAGS; t++) p->memory.held_by_tag[t] = m.live_by_tag[t] - p->static_by_tag[t];
    }
    if (p->cfg.on_action) p->cfg.on_action(p->cfg.on_action_arg, a, t0_ns, tb_now_ns(), held);
}

static void start_count(tb_pipeline *p)
{
    tb_mem_stats m;
    tb_heap *heap = tb_ctx_heap(tb_ctx_current());
    tb_heap_reset_peak(heap);
    tb_heap_stats(heap, &m);
    p->memory = (tb_pipeline_memory){.static_bytes = m.live_bytes};
    for (int t = 0; t < TB_MEM_TAGS; t++) p->static_by_tag[t] = m.live_by_tag[t];
}

tb_status tbi_pipeline_run(tb_pipeline *p)
{
    const tb_action_list *list = &p->cfg.schedule->lists[p->rank];
    start_count(p);
    p->updates = 0;
    p->loss = 0;
    for (int64_t i = 0, end; i < list->n; i = end) {
        const tb_action *a = &list->at[i];
        int64_t t0 = tb_now_ns();
        for (end = i + 1; end < list->n && list->at[end].joined; end++) continue;
        char text[TB_ACTION_TEXT];
        if (p->cfg.comm) tb_comm_label(p->cfg.comm, "step %lld, %s", (long long)p->step, tb_action_format(a, text));
        tb_status st = tb_action_is_message(a) ? exchange(p, a, (int)(end - i)) : work(p, a);
        if (st != TB_OK) {
            tb_error_add("step %lld, rank %d, %s", (long long)p->step, p->rank, tb_action_format(a, text));
            return st;
        }
        observe(p, a, t0);
    }
    tb_mem_stats m;
    tb_heap_stats(tb_ctx_heap(tb_ctx_current()), &m);
    p->memory.peak_bytes = m.peak_bytes;
    return TB_OK;
}

/* What is left of an earlier step has been summed over the pipelines, and would be again. */
static tb_status must_be_clear(const tb_pipeline *p)
{
    const tb_params *ps = tb_model_params(p->cfg.model);
    for (int i = 0; p->cfg.replicas && i < tb_params_count(ps); i++)
        if (tb_grad(tb_params_at(ps, i)->tensor))
            return TB_FAIL(TB_ERR_INVALID,
                           "pipeline: %s has a gradient from before this step, which its sum over the "
                           "pipelines would count again: take the optimizer's step or clear gradients in between",
                           tb_params_at(ps, i)->name);
    return TB_OK;
}

tb_status tb_pipeline_step(tb_pipeline *p, double *loss)
{
    const tb_schedule *s = p->cfg.schedule;
    TB_TRY(must_be_clear(p));
    tb_model_set_training(p->cfg.model, true);
    tb_status st = tbi_pipeline_run(p);
    if (st == TB_OK && p->cfg.comm)
        st = tb_comm_bcast(p->cfg.comm, &p->loss, sizeof p->loss, s->placement[s->stages - 1], NULL, NULL);
    if (st == TB_OK && p->cfg.replicas)
        st = tb_comm_allreduce(p->cfg.replicas, &p->loss, 1, TB_F32, TB_REDUCE_SUM, NULL, NULL);
    if (st != TB_OK) {
        tbi_pipeline_drop(p);
        return st;
    }
    p->step++;
    *loss = (double)p->loss;
    return TB_OK;
}

void tb_pipeline_get_memory(const tb_pipeline *p, tb_pipeline_memory *out) { *out = p->memory; }
