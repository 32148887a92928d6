/* Runs a schedule in virtual time: measured costs per action, alpha-beta links, in-order streams, slow ranks.
 *
 * A message takes latency + bytes * ns_per_byte from the moment both sides have posted it; a group ends with its last
 * message. Every event time is the maximum of the times it waits for plus its own duration, so the lists are walked
 * once in an order of dependence: no event queue, and 1024 ranks x 4096 micro-batches take seconds.
 * What it leaves out: two messages that share one link, and the host's own cost of posting. */
#pragma once
#include "tb_schedule.h"

typedef struct tb_stage_time {
    double f_ns, b_ns, i_ns, w_ns, reduce_ns, opt_ns;
} tb_stage_time;

typedef struct tb_link {
    double latency_ns, ns_per_byte;
} tb_link;

/* Ring allreduce over n ranks: 2(n-1)/n of the bytes over each link in 2(n-1) steps (Patarasuk and Yuan 2009). */
double tb_link_ring_ns(const tb_link *link, int ranks, double bytes);

typedef struct tb_sim_config {
    const tb_stage_time *times;  /* [stages] */
    const tb_stage_bytes *bytes; /* [stages], or NULL: messages cost their latency only and memory is not followed */
    tb_link link;                /* between ranks of one node */
    tb_link far_link;            /* between nodes */
    int ranks_per_node;          /* 0: all in one */
    const double *slowdown;      /* [ranks] factors of work's time, or NULL: 1 */
    double jitter;               /* each piece of work takes its time * (1 + jitter * u), u uniform in [-1, 1) */
    uint64_t seed;               /* of u, keyed (rank, action) */
    bool streams;                /* messages and REDUCE on a stream of their own beside the work; false: in one line */
    /* Optional observers, called per rank in the order of its list, respectively of time. */
    void (*on_action)(void *arg, int rank, int64_t index, double start_ns, double end_ns);
    void (*on_memory)(void *arg, int rank, double at_ns, int64_t held_bytes);
    void *arg;
} tb_sim_config;

typedef struct tb_sim_rank {
    double busy_ns;     /* F, B, I, W, OPT */
    double exposed_ns;  /* waited while its own bytes were moving */
    double bubble_ns;   /* makespan - busy - exposed: waited for another rank's work */
    double finish_ns;
    int64_t peak_bytes; /* activations and boundary tensors, `rebuilt` not included */
    double peak_at_ns;
} tb_sim_rank;

/* ranks[s->ranks] and makespan_ns out. INVALID: the schedule cannot run to its end (tb_schedule_check says why). */
TB_MUST_USE tb_status tb_schedule_simulate(const tb_schedule *s, const tb_sim_config *config, tb_sim_rank *ranks,
                                           double *makespan_ns);
