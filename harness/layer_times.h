/* How long each layer of a graph takes: what its nodes need, the product and what is fused to it under the name of its
 * weight, everything else under the name of its op. */
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

/* `run` runs the session once; its observer is this function's meanwhile. */
TB_MUST_USE tb_status tb_layer_times_measure(tb_session *s, const tb_graph *g, tb_status (*run)(void *arg, int turn),
                                             void *arg, tb_layer_times *out);
