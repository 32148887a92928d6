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

/* Gives every buffer that is not external an offset such that buffers live at the same time do not overlap: one after
 * the other, each in the smallest gap that fits it; once in order of size, once in order of the bytes live around them,
 * once in order of time, and the smallest slab is kept (greedy by size and by breadth: Pisarchyk and Lee, "Efficient
 * Memory Management for Deep Neural Net Inference", 2020). Returns the slab's size; `naive` and `bound` may be NULL. */
TB_MUST_USE tb_status tbi_plan_memory(buffer *buffers, int n, size_t *total, size_t *naive, size_t *bound);
