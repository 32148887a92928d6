/* Measured costs into the simulator. */
#include "pipeline_projection.h"
#include "stats.h"
#include "tb_alloc.h"
#include "tb_cpu.h"

enum { LINK_ROUNDS = 21, LINK_SMALL = 8, LINK_LARGE = 1 << 20 };

tb_status tb_action_costs_open(tb_action_costs *c, int stages)
{
    size_t n = (size_t)stages * TB_ACTION_KINDS;
    *c =
        (tb_action_costs){.stages = stages, .sum_ns = tb_calloc(n, sizeof *c->sum_ns), .n = tb_calloc(n, sizeof *c->n)};
    return c->sum_ns && c->n ? TB_OK : TB_ERR_OOM;
}

void tb_action_costs_close(tb_action_costs *c)
{
    tb_free(c->sum_ns);
    tb_free(c->n);
    *c = (tb_action_costs){0};
}

void tb_action_costs_add(tb_action_costs *c, const tb_action *a, int64_t ns)
{
    size_t at = (size_t)a->stage * TB_ACTION_KINDS + a->kind;
    c->sum_ns[at] += (double)ns;
    c->n[at]++;
}

tb_status tb_action_costs_gather(const tb_action_costs *c, tb_comm *comm, tb_stage_time *times)
{
    int64_t n = (int64_t)c->stages * TB_ACTION_KINDS;
    double *all = tb_calloc((size_t)n * 2, sizeof *all);
    if (!all) return TB_ERR_OOM;
    for (int64_t i = 0; i < n; i++) all[i] = c->sum_ns[i], all[n + i] = c->n[i];
    tb_status st = tb_comm_allreduce(comm, all, 2 * n, TB_F64, TB_REDUCE_SUM, NULL, NULL);
    for (int s = 0; s < c->stages; s++) {
        double mean[TB_ACTION_KINDS];
        for (int k = 0; k < TB_ACTION_KINDS; k++) {
            int64_t at = (int64_t)s * TB_ACTION_KINDS + k;
            mean[k] = all[n + at] > 0 ? all[at] / all[n + at] : 0;
        }
        times[s] = (tb_stage_time){.f_ns = mean[TB_DO_F],
                                   .b_ns = mean[TB_DO_B],
                                   .i_ns = mean[TB_DO_I],
                                   .w_ns = mean[TB_DO_W],
                                   .opt_ns = mean[TB_DO_OPT]};
    }
    tb_free(all);
    return st;
}

/* ---- the link here ---- */
static tb_status time_message(tb_comm *c, char *data, size_t bytes, double *ns)
{
    double took[LINK_ROUNDS];
    int rank = tb_comm_rank(c);
    for (int i = 0; i < LINK_ROUNDS; i++) {
        TB_TRY(tb_comm_barrier(c));
        int64_t t0 = tb_now_ns();
        if (rank == 0) {
            TB_TRY(tb_comm_isend(c, data, bytes, 1, NULL, NULL));
            TB_TRY(tb_comm_irecv(c, data, bytes, 1, NULL, NULL));
        } else if (rank == 1) {
            TB_TRY(tb_comm_irecv(c, data, bytes, 0, NULL, NULL));
            TB_TRY(tb_comm_isend(c, data, bytes, 0, NULL, NULL));
        }
        took[i] = (double)(tb_now_ns() - t0) / 2;
    }
    tb_sort(took, LINK_ROUNDS);
    *ns = tb_median(took, LINK_ROUNDS);
    return TB_OK;
}

tb_status tb_measure_link(tb_comm *comm, tb_link *out)
{
    char *data = tb_calloc(1, LINK_LARGE);
    double small = 0, large = 0;
    if (!data) return TB_ERR_OOM;
    tb_status st = time_message(comm, data, LINK_SMALL, &small);
    if (st == TB_OK) st = time_message(comm, data, LINK_LARGE, &large);
    tb_free(data);
    double slope = (large - small) / (LINK_LARGE - LINK_SMALL);
    *out = (tb_link){.latency_ns = small, .ns_per_byte = slope > 0 ? slope : 0};
    return st;
}

/* ---- another place ---- */
static tb_stage_time mean_time(const tb_stage_time *t, int n)
{
    tb_stage_time m = {0};
    for (int s = 0; s < n; s++) {
        m.f_ns += t[s].f_ns / n;
        m.b_ns += t[s].b_ns / n;
        m.i_ns += t[s].i_ns / n;
        m.w_ns += t[s].w_ns / n;
        m.opt_ns += t[s].opt_ns / n;
    }
    return m;
}

static tb_stage_bytes mean_bytes(const tb_stage_bytes *b, int n)
{
    tb_stage_bytes m = {.input = b[n - 1].input};
    for (int s = 0; s < n; s++) {
        m.act += b[s].act / n;
        m.deferred += b[s].deferred / n;
    }
    return m;
}

static void stretch(const tb_schedule *here, const tb_stage_time *times, const tb_stage_bytes *bytes, double reduce_ns,
                    int stages, tb_stage_time *to_times, tb_stage_bytes *to_bytes)
{
    int last = here->stages - 1;
    for (int s = 0; s < stages; s++) {
        bool end = s == 0 || s == stages - 1;
        to_times[s] = end ? times[s ? last : 0] : mean_time(times, here->stages);
        to_times[s].reduce_ns = reduce_ns;
        to_bytes[s] = end ? bytes[s ? last : 0] : mean_bytes(bytes, here->stages);
    }
}

static tb_status simulate(const tb_schedule *s, const tb_sim_config *config, tb_projection *out)
{
    tb_sim_rank *ranks = tb_calloc((size_t)s->ranks, sizeof *ranks);
    if (!ranks) return TB_ERR_OOM;
    *out = (tb_projection){0};
    tb_status st = tb_schedule_simulate(s, config, ranks, &out->step_ns);
    for (int r = 0; st == TB_OK && r < s->ranks; r++) {
        out->busy += ranks[r].busy_ns / out->step_ns / s->ranks;
        out->bubble += ranks[r].bubble_ns / out->step_ns / s->ranks;
        if (ranks[r].exposed_ns > out->exposed_ns) out->exposed_ns = ranks[r].exposed_ns;
        if (ranks[r].peak_bytes > out->peak_bytes) out->peak_bytes = ranks[r].peak_bytes;
    }
    tb_free(ranks);
    return st;
}

tb_status tb_predict_step(const tb_schedule *here, const tb_stage_time *times, const tb_stage_bytes *bytes,
                          const tb_link *link, double *ns)
{
    tb_projection p;
    TB_TRY(simulate(here, &(tb_sim_config){.times = times, .bytes = bytes, .link = *link, .far_link = *link}, &p));
    *ns = p.step_ns;
    return TB_OK;
}

tb_status tb_project(const tb_schedule *here, const tb_stage_time *times, const tb_stage_bytes *bytes,
                     double grad_bytes, int microbatches, const tb_cluster *cluster, tb_projection *out)
{
    int chunks = here->stages / here->ranks, stages = cluster->stages * chunks;
    tb_schedule *s = NULL;
    tb_stage_time *t = tb_calloc((size_t)stages, sizeof *t);
    tb_stage_bytes *b = tb_calloc((size_t)stages, sizeof *b);
    bool many_nodes = cluster->stages * cluster->replicas > cluster->ranks_per_node;
    const tb_link *ring = many_nodes ? &cluster->far : &cluster->near;
    double reduce_ns = cluster->replicas > 1 ? tb_link_ring_ns(ring, cluster->replicas, grad_bytes / chunks) : 0;
    tb_status st = t && b ? TB_OK : TB_ERR_OOM;
    tb_schedule_config c = {.ranks = cluster->stages, .microbatches = microbatches, .chunks = chunks};
    if (st == TB_OK) st = tb_schedule_make(here->name, &c, &s);
    if (st == TB_OK) {
        stretch(here, times, bytes, reduce_ns, stages, t, b);
        tb_sim_config config = {.times = t,
                                .bytes = b,
                                .link = cluster->near,
                                .far_link = cluster->far,
                                .ranks_per_node = cluster->ranks_per_node};
        st = simulate(s, &config, out);
    }
    tb_schedule_free(s);
    tb_free(t);
    tb_free(b);
    return st;
}
