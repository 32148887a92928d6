/* How long each node and each layer of a graph takes. A layer has the product and what is fused to it, under the name
 * of its weight; everything else goes under the name of its op. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>

typedef struct tb_session tb_session; /* tb_exec.h, whose tb_value is another than a driver's */
typedef struct tb_graph tb_graph;

typedef struct tb_layer_time {
    char name[64];
    bool is_product; /* linear, convolution, attention */
    double us;       /* of one run: the least of a few, for each node by itself */
} tb_layer_time;

enum { TB_LAYER_TIMES = 64 };

typedef struct tb_layer_times {
    int n;
    tb_layer_time at[TB_LAYER_TIMES]; /* in the order of the graph; what goes beyond shares the last place */
    double products_us;
} tb_layer_times;

typedef tb_status (*tb_run_session)(void *arg, int turn); /* runs the session once */

/* us[node] of a graph of `n_nodes`: the least of a few runs, for each node by itself; views take nothing. The
 * session's observer is this function's meanwhile. */
TB_MUST_USE tb_status tb_node_times_measure(tb_session *s, int n_nodes, tb_run_session run, void *arg, double *us);

TB_MUST_USE tb_status tb_layer_times_measure(tb_session *s, const tb_graph *g, tb_run_session run, void *arg,
                                             tb_layer_times *out);
