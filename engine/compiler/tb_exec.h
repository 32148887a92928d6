/* Running a graph: one planned slab, no allocation once a size is planned (by tb_session_plan_stats or the first run).
 *
 * A tb_exec holds a verified graph and may be shared by threads; a tb_session belongs to one thread and has its own
 * slab and plans (one per combination of symbol sizes, the least recently used of 64 makes room). Results have the
 * bits of the same ops run eagerly. */
#pragma once
#include "tb_graph.h"

typedef struct tb_exec tb_exec;
typedef struct tb_session tb_session;

/* Takes the graph over (also on failure). */
TB_MUST_USE tb_status tb_exec_create(tb_graph *g, tb_exec **out);
void tb_exec_free(tb_exec *e); /* its sessions first; NULL is accepted */
const tb_graph *tb_exec_graph(const tb_exec *e);

TB_MUST_USE tb_status tb_session_create(tb_exec *e, tb_ctx *ctx, tb_session **out);
void tb_session_free(tb_session *s);
/* sizes[s] for every symbol; in[i] and out[i] are row-major host buffers of the graph's inputs and outputs, in their
 * order; they need not be aligned. */
TB_MUST_USE tb_status tb_session_run(tb_session *s, const int64_t *sizes, const void *const *in, void *const *out);

typedef struct tb_plan_stats {
    size_t planned_bytes; /* the slab */
    size_t naive_bytes;   /* every buffer for itself */
    size_t bound_bytes;   /* most bytes live at one time: no plan is smaller */
    size_t scratch_bytes; /* the kernels' scratch, most of all sizes planned so far */
    int n_buffers;        /* intermediate values, those that take over another's buffer and outputs left out */
} tb_plan_stats;
/* Plans these sizes and rehearses the plan once on zeros: runs at these sizes then allocate nothing. */
TB_MUST_USE tb_status tb_session_plan_stats(tb_session *s, const int64_t *sizes, tb_plan_stats *out);
/* Called after every node with its time, of a part that runs in slices of the batch once for every slice (the last of
 * which may repeat rows); NULL switches it off. For profiles and `tb verify`. */
typedef void (*tb_node_observer)(void *arg, int node, const tb_op_call *call, int64_t ns);
void tb_session_observe(tb_session *s, tb_node_observer f, void *arg);
/* From now on nothing runs in slices: an observer sees every row of a run once, and all rows of a node together. */
void tb_session_keep_whole(tb_session *s);
