/* Clocks on the zero-buffering run (tb_schedule_sim.h), and where a rank's time goes. */
#include "tb_schedule_sim.h"
#include "schedule_run.h"
#include "schedule_timeline.h"
#include "tb_alloc.h"
#include "tb_rng.h"

typedef struct sim_rank {
    double work_free, comm_free; /* ends of the two streams; equal at all times when there is one line */
    double posted, group_done;   /* of the posted group */
    double moving;               /* transfer time of its last message to end */
    tbi_timeline memory;
} sim_rank;

typedef struct sim {
    const tb_schedule *s;
    const tb_sim_config *c;
    sim_rank *ranks;
    tb_sim_rank *out;
    double *ready;      /* [stages * microbatches]: when the newest thing of the cell exists: input, F, gradient, B */
    double *grad_ready; /* [stages]: last weight gradient, then REDUCE */
    tb_status st;
} sim;

double tb_link_ring_ns(const tb_link *link, int ranks, double bytes)
{
    double steps = 2.0 * (ranks - 1);
    return steps * link->latency_ns + steps / ranks * bytes * link->ns_per_byte;
}

static double max(double a, double b) { return a > b ? a : b; }
static double min(double a, double b) { return a < b ? a : b; }

static double *cell(const sim *m, const tb_action *a)
{
    return &m->ready[(int64_t)a->stage * m->s->microbatches + a->microbatch];
}

static double transfer_ns(const sim *m, int rank, const tb_action *a)
{
    const tb_sim_config *c = m->c;
    int per_node = c->ranks_per_node ? c->ranks_per_node : m->s->ranks;
    const tb_link *link = rank / per_node == a->peer / per_node ? &c->link : &c->far_link;
    int stage = a->kind == TB_SEND_F || a->kind == TB_RECV_B ? a->stage + 1 : a->stage;
    return link->latency_ns + (c->bytes ? (double)c->bytes[stage].input * link->ns_per_byte : 0);
}

static double work_ns(const sim *m, int rank, int64_t index, const tb_action *a)
{
    const tb_stage_time *t = &m->c->times[a->stage];
    double ns = a->kind == TB_DO_F   ? t->f_ns
                : a->kind == TB_DO_B ? t->b_ns
                : a->kind == TB_DO_I ? t->i_ns
                : a->kind == TB_DO_W ? t->w_ns
                                     : t->opt_ns;
    if (m->c->slowdown) ns *= m->c->slowdown[rank];
    if (m->c->jitter > 0)
        ns *= 1 + m->c->jitter * (2 * tb_random_uniform(m->c->seed, tb_stream_index(0, (uint64_t)rank),
                                                        (uint64_t)index) - 1);
    return ns;
}

static void note(sim *m, int rank, int64_t index, double start, double end)
{
    if (m->c->on_action) m->c->on_action(m->c->arg, rank, index, start, end);
}

/* Idle time before work (or in one line, in a group): at most `moving` of it is exposed communication. */
static void expose(sim *m, int rank, double idle, double moving)
{
    if (idle > 0) m->out[rank].exposed_ns += min(idle, moving);
}

static void add_memory(sim *m, int rank, bool comm, double at, int64_t bytes)
{
    if (m->c->bytes && bytes && m->st == TB_OK) m->st = tbi_timeline_add(&m->ranks[rank].memory, comm, at, bytes);
}

static void settle_memory(sim *m, int rank)
{
    sim_rank *r = &m->ranks[rank];
    if (m->c->bytes) tbi_timeline_settle(&r->memory, r->work_free, r->comm_free);
}

static bool needs_message(const sim *m, int rank, const tb_action *a)
{
    int stage = a->kind == TB_DO_F ? a->stage - 1 : a->kind == TB_DO_W ? -1 : a->stage + 1;
    return stage >= 0 && stage < m->s->stages && m->s->placement[stage] != rank;
}

static void run_reduce(sim *m, int rank, int64_t index, const tb_action *a)
{
    sim_rank *r = &m->ranks[rank];
    double start = max(r->comm_free, m->grad_ready[a->stage]);
    double ns = m->c->times[a->stage].reduce_ns;
    m->grad_ready[a->stage] = r->comm_free = start + ns;
    if (!m->c->streams) {
        r->work_free = r->comm_free;
        expose(m, rank, ns, ns);
    }
    note(m, rank, index, start, start + ns);
}

static void run_work(void *arg, int rank, int64_t index)
{
    sim *m = arg;
    sim_rank *r = &m->ranks[rank];
    const tb_action *a = &m->s->lists[rank].at[index];
    if (a->kind == TB_DO_REDUCE) {
        run_reduce(m, rank, index, a);
        return;
    }
    double ready = a->kind == TB_DO_OPT ? m->grad_ready[a->stage] : *cell(m, a);
    double start = max(r->work_free, ready), ns = work_ns(m, rank, index, a), end = start + ns;
    if (m->c->streams && start > r->work_free) {
        double moving = 0;
        if (a->kind == TB_DO_OPT) {
            moving = m->c->times[a->stage].reduce_ns;
        } else if (needs_message(m, rank, a)) {
            tb_action message = { .kind = a->kind == TB_DO_F ? TB_RECV_F : TB_RECV_B, .stage = a->stage,
                                  .peer = (uint16_t)m->s->placement[a->kind == TB_DO_F ? a->stage - 1
                                                                                       : a->stage + 1] };
            moving = transfer_ns(m, rank, &message);
        }
        expose(m, rank, start - r->work_free, moving);
    }
    if (a->kind != TB_DO_OPT) *cell(m, a) = end;
    if (tbi_is_weight_grad(a->kind)) m->grad_ready[a->stage] = end;
    m->out[rank].busy_ns += ns;
    r->work_free = end;
    if (!m->c->streams) r->comm_free = end;
    if (m->c->bytes) {
        tbi_action_bytes b = tbi_action_cost_bytes(m->s, m->c->bytes, a);
        add_memory(m, rank, false, start, b.take_act + b.take_edge);
        add_memory(m, rank, false, end, -b.give_act - b.give_edge);
        settle_memory(m, rank);
    }
    note(m, rank, index, start, end);
}

/* A send may go when its work has ended; a receive as soon as the stream is free. */
static void post_group(void *arg, int rank, int64_t first, int64_t end)
{
    sim *m = arg;
    sim_rank *r = &m->ranks[rank];
    r->posted = r->comm_free;
    for (int64_t i = first; i < end; i++) {
        const tb_action *a = &m->s->lists[rank].at[i];
        if (tb_action_is_send(a)) r->posted = max(r->posted, *cell(m, a));
    }
    r->group_done = r->posted;
    r->moving = 0;
    if (!m->c->bytes) return;
    for (int64_t i = first; i < end; i++)
        add_memory(m, rank, true, r->posted,
                   tbi_action_cost_bytes(m->s, m->c->bytes, &m->s->lists[rank].at[i]).take_edge);
}

static void meet(void *arg, int from, int64_t send, int to, int64_t recv)
{
    sim *m = arg;
    (void)recv;
    sim_rank *a = &m->ranks[from], *b = &m->ranks[to];
    double ns = transfer_ns(m, from, &m->s->lists[from].at[send]);
    double end = max(a->posted, b->posted) + ns;
    for (int side = 0; side < 2; side++) {
        sim_rank *r = side ? b : a;
        if (end < r->group_done) continue;
        r->group_done = end;
        r->moving = ns;
    }
}

static void finish_group(void *arg, int rank, int64_t first, int64_t end)
{
    sim *m = arg;
    sim_rank *r = &m->ranks[rank];
    r->comm_free = r->group_done;
    if (!m->c->streams) {
        expose(m, rank, r->group_done - r->posted, r->moving);
        r->work_free = r->group_done;
    }
    for (int64_t i = first; i < end; i++) {
        const tb_action *a = &m->s->lists[rank].at[i];
        if (!tb_action_is_send(a)) *cell(m, a) = r->group_done;
        if (m->c->bytes)
            add_memory(m, rank, true, r->group_done, -tbi_action_cost_bytes(m->s, m->c->bytes, a).give_edge);
        note(m, rank, i, r->posted, r->group_done);
    }
    settle_memory(m, rank);
}

static double summarize(sim *m)
{
    double makespan = 0;
    for (int r = 0; r < m->s->ranks; r++) {
        sim_rank *rank = &m->ranks[r];
        tb_sim_rank *out = &m->out[r];
        out->finish_ns = max(rank->work_free, rank->comm_free);
        makespan = max(makespan, out->finish_ns);
        if (!m->c->bytes) continue;
        tbi_timeline_settle(&rank->memory, out->finish_ns, out->finish_ns);
        out->peak_bytes = rank->memory.peak_bytes;
        out->peak_at_ns = rank->memory.peak_at;
    }
    for (int r = 0; r < m->s->ranks; r++)
        m->out[r].bubble_ns = makespan - m->out[r].busy_ns - m->out[r].exposed_ns;
    return makespan;
}

tb_status tb_schedule_simulate(const tb_schedule *s, const tb_sim_config *config, tb_sim_rank *ranks,
                               double *makespan_ns)
{
    static const tbi_run_hooks hooks = { .work = run_work, .post = post_group, .meet = meet, .done = finish_group };
    sim m = { .s = s, .c = config, .out = ranks, .st = TB_OK };
    tbi_run run = { .s = s };
    tb_schedule_rule broken;
    tb_status st = TB_OK;
    m.ranks = tb_calloc((size_t)s->ranks, sizeof *m.ranks);
    m.ready = tb_calloc((size_t)s->stages * (size_t)s->microbatches, sizeof *m.ready);
    m.grad_ready = tb_calloc((size_t)s->stages, sizeof *m.grad_ready);
    if (!m.ranks || !m.ready || !m.grad_ready) {
        st = tb_error_code();
        goto cleanup;
    }
    for (int r = 0; r < s->ranks; r++) {
        ranks[r] = (tb_sim_rank){ 0 };
        m.ranks[r].memory = (tbi_timeline){ .rank = r, .on_memory = config->on_memory, .arg = config->arg };
    }
    TB_GO(tbi_run_open(&run, s, &hooks, &m));
    tbi_run_go(&run);
    TB_GO(tbi_run_verdict(&run, &broken));
    TB_GO(m.st);
    *makespan_ns = summarize(&m);
cleanup:
    tbi_run_close(&run);
    for (int r = 0; m.ranks && r < s->ranks; r++) tbi_timeline_close(&m.ranks[r].memory);
    tb_free(m.ranks);
    tb_free(m.ready);
    tb_free(m.grad_ready);
    return st;
}
