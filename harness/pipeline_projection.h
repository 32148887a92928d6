/* What a pipeline would do on a cluster that is not here: the simulator (tb_schedule_sim.h) fed with the costs that two
 * ranks had here. Nothing of it is a measurement but the error, which stands beside it: the same simulator's step of
 * the ranks that ran, against steps that they took and that gave no costs. */
#pragma once
#include "tb_comm.h"
#include "tb_schedule_sim.h"

/* Durations of one rank's actions, summed over some steps. */
typedef struct tb_action_costs {
    int stages;
    double *sum_ns, *n; /* [stages * TB_ACTION_KINDS] */
} tb_action_costs;

TB_MUST_USE tb_status tb_action_costs_open(tb_action_costs *c, int stages);
void tb_action_costs_close(tb_action_costs *c);
void tb_action_costs_add(tb_action_costs *c, const tb_action *a, int64_t ns);
/* Collective: every rank gets all stages' mean times, times[stages]. REDUCE costs nothing: there is one replica. */
TB_MUST_USE tb_status tb_action_costs_gather(const tb_action_costs *c, tb_comm *comm, tb_stage_time *times);

/* Collective over 2 ranks or more: latency and time a byte of a message between ranks 0 and 1, out and back halved. */
TB_MUST_USE tb_status tb_measure_link(tb_comm *comm, tb_link *out);

typedef struct tb_cluster {
    int stages, replicas; /* stages x replicas ranks */
    int ranks_per_node;
    tb_link near, far; /* within a node, between nodes */
} tb_cluster;

typedef struct tb_projection {
    double step_ns, exposed_ns; /* exposed communication: of the worst rank */
    double busy, bubble;        /* shares of the ranks' time, mean: at work; waiting for others' work */
    int64_t peak_bytes;         /* of the worst rank: activations and boundaries */
} tb_projection;

/* A schedule on the ranks of a cluster. The first and the last stage cost what they did here, those between the mean
 * of all; so do their bytes. Gradients (grad_bytes a stage) are summed over the replicas in a ring between nodes. */
TB_MUST_USE tb_status tb_project(const tb_schedule *here, const tb_stage_time *times, const tb_stage_bytes *bytes,
                                 double grad_bytes, int microbatches, const tb_cluster *cluster, tb_projection *out);
/* The step of `here` itself by the simulator, in ns. */
TB_MUST_USE tb_status tb_predict_step(const tb_schedule *here, const tb_stage_time *times, const tb_stage_bytes *bytes,
                                      const tb_link *link, double *ns);
