/* Times of a graph's layers, by the session's observer. */
#include "layer_times.h"
#include "tb_alloc.h"
#include "tb_exec.h"
#include "tb_quant.h"
#include <stdio.h>
#include <string.h>

enum { RUNS = 7 };

/* "fc1.weight.s8" and "conv.weight.normed" are of the layers "fc1" and "conv". */
static void name_of(const tb_graph *g, int node, bool is_product, char name[64])
{
    const tb_node *n = &g->nodes[node];
    int weight = is_product && n->n_in > 1 ? n->in[1] : TB_NO_VALUE;
    bool has_name = weight != TB_NO_VALUE && g->values[weight].constant;
    snprintf(name, 64, "%s", has_name ? g->values[weight].name : n->op->name);
    char *end = has_name ? strstr(name, ".weight") : NULL;
    if (end) *end = 0;
}

static tb_layer_time *place_of(tb_layer_times *t, const char *name, bool is_product)
{
    for (int i = 0; i < t->n; i++)
        if (strcmp(t->at[i].name, name) == 0) return &t->at[i];
    if (t->n == TB_LAYER_TIMES) return &t->at[t->n - 1];
    tb_layer_time *new = &t->at[t->n++];
    *new = (tb_layer_time){.is_product = is_product};
    snprintf(new->name, sizeof new->name, "%s", name);
    return new;
}

static void add_time(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    int64_t *of_run = arg;
    (void)call;
    of_run[node] += ns; /* a node that runs in slices reports each */
}

tb_status tb_node_times_measure(tb_session *s, int n_nodes, tb_run_session run, void *arg, double *us)
{
    int64_t *of_run = tb_calloc((size_t)n_nodes + 1, sizeof *of_run);
    if (!of_run) return TB_ERR_OOM;
    tb_status st = run(arg, 0); /* plans, packs */
    tb_session_observe(s, add_time, of_run);
    for (int turn = 1; turn <= RUNS && st == TB_OK; turn++) {
        memset(of_run, 0, (size_t)n_nodes * sizeof *of_run);
        st = run(arg, turn);
        for (int i = 0; i < n_nodes; i++)
            if (turn == 1 || (double)of_run[i] / 1e3 < us[i]) us[i] = (double)of_run[i] / 1e3;
    }
    tb_session_observe(s, NULL, NULL);
    tb_free(of_run);
    return st;
}

tb_status tb_layer_times_measure(tb_session *s, const tb_graph *g, tb_run_session run, void *arg, tb_layer_times *out)
{
    double *us = tb_calloc((size_t)g->n_nodes + 1, sizeof *us);
    *out = (tb_layer_times){0};
    tb_status st = us ? tb_node_times_measure(s, g->n_nodes, run, arg, us) : TB_ERR_OOM;
    for (int i = 0; i < g->n_nodes && st == TB_OK; i++) {
        char name[64];
        bool is_product = tb_quant_macs(g, i) > 0;
        if (us[i] <= 0) continue; /* a view */
        name_of(g, i, is_product, name);
        place_of(out, name, is_product)->us += us[i];
        if (is_product) out->products_us += us[i];
    }
    tb_free(us);
    return st;
}
