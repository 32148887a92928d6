/* The memory plan of a graph at concrete sizes. */
#pragma once
#include "tb_exec.h"
#include "graph_internal.h"

/* Storage of one or more values (a value and its views). */
typedef struct buffer {
    size_t bytes, offset;
    int first, last;   /* nodes between which it is live */
    bool is_external;  /* the caller's, or part of another buffer: not in the slab */
} buffer;

/* Nodes [first, end) run one slice of the batch after the other, so that what they hand on stays in L2. Rows of a
 * result depend on the same rows of the operands only, so slices need not be of one size: the last one ends with the
 * batch and repeats rows of the one before where the batch is no multiple. */
typedef struct slice {
    int first, end;
    int64_t rows, n;              /* of symbol 0: in a slice; slices */
    int first_moving, end_moving; /* of the plan's list */
} slice;

/* The parts of the graph that are worth it, where a node's slice is to take at most `bytes` of the cache; in order, at
 * most g->n_nodes. Returns how many. */
int tbi_find_slices(tb_ctx *ctx, const tb_graph *g, const int64_t *sizes, int64_t bytes, slice *out);
/* Half of an L2 of 1 MiB, as blocking.h has it. */
enum { TBI_SLICE_BYTES = 512 << 10 };
/* For tests: another figure, before the first run. */
void tbi_session_slice(tb_session *s, int64_t bytes);

/* A tensor of a slice that is a part of something larger: element `start` of its storage in the first slice, and `step`
 * further for every row. */
typedef struct moving {
    tb_tensor *tensor;
    int64_t start, step;
} moving;

typedef struct plan {
    int64_t sizes[TB_MAX_SYMBOLS];
    tb_tensor *tensors;   /* [n_values]; of values that live within a slice, their rows of a slice */
    tb_storage *storages; /* [n_buffers] */
    buffer *buffers;
    int n_buffers;
    tb_op_call *calls;    /* [n_nodes] */
    tb_tensor **operands; /* operand lists of all calls, one after the other */
    uint64_t *attrs;      /* attribute structures of all calls */
    slice *slices;
    int n_slices;
    tb_tensor *windows; /* on the rows of values that live beyond a slice */
    moving *moving;     /* windows, and views of them */
    int n_windows, n_moving;
    size_t slab_bytes, naive_bytes, bound_bytes;
    uint64_t last_use;
} plan;

/* At sizes[s] of every symbol, with scratch from `scratch`. Free it on failure too. */
TB_MUST_USE tb_status tbi_plan_build(const tb_graph *g, tb_ctx *ctx, tb_arena *scratch, int64_t slice_bytes,
                                     const int64_t *sizes, plan *p);
void tbi_plan_free(plan *p); /* NULL is accepted */

/* Whether output `output` is written where the caller wants it: a view, a repeated output, or one that lies in another
 * order than its dims say, is copied. */
bool tbi_is_direct(const tb_graph *g, const plan *p, int output);

/* Gives every buffer that is not external an offset such that buffers live at the same time do not overlap: one after
 * the other, each in the smallest gap that fits it; once in order of size, once in order of the bytes live around them,
 * once in order of time, and the smallest slab is kept (greedy by size and by breadth: Pisarchyk and Lee, "Efficient
 * Memory Management for Deep Neural Net Inference", 2020). Returns the slab's size; `naive` and `bound` may be NULL. */
TB_MUST_USE tb_status tbi_plan_memory(buffer *buffers, int n, size_t *total, size_t *naive, size_t *bound);
