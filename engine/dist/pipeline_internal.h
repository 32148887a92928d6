/* The structures behind tb_pipeline. */
#pragma once
#include "tb_pipeline.h"

/* One stage on one micro-batch. Boundary tensors are here from their arrival to their use. */
typedef struct cell {
    tb_pipeline *p;
    int stage;
    int64_t microbatch;
    tb_tensor *in;       /* leaf that enters the stage; NULL for the first */
    tb_tensor *root;     /* of the graph, from F to B or W */
    tb_tensor *out;      /* on its way to the next stage's rank */
    tb_tensor *grad_out; /* gradient of the output, arrived */
    tb_tensor *grad_in;  /* gradient of the input, on its way back */
} cell;

/* One block on one micro-batch: what a recomputed segment needs to run again. */
typedef struct block_run {
    tb_pipeline *p;
    int block;
    int64_t microbatch;
} block_run;

struct tb_pipeline {
    tb_pipeline_config cfg;
    int rank, own_stages, updates;
    int64_t step;
    float loss;
    cell *cells;          /* [stages * microbatches] */
    block_run *runs;      /* [microbatches * blocks] */
    tb_request *requests; /* as many as the largest group of messages, or as parameters here */
    tb_pipeline_memory memory;
    int64_t static_by_tag[TB_MEM_TAGS];
};

static inline cell *tbi_pipeline_cell(const tb_pipeline *p, int stage, int64_t microbatch)
{
    return &p->cells[stage * (int64_t)p->cfg.schedule->microbatches + microbatch];
}
static inline bool tbi_pipeline_owns(const tb_pipeline *p, int stage)
{
    return stage >= 0 && stage < p->cfg.schedule->stages && p->cfg.schedule->placement[stage] == p->rank;
}
/* Shape of what enters `stage` with a micro-batch; returns its rank. */
int tbi_pipeline_boundary(const tb_pipeline_config *c, int stage, tb_dtype *dtype, int64_t *dims);
TB_MUST_USE tb_status tbi_pipeline_run(tb_pipeline *p); /* the rank's list, once */
void tbi_pipeline_drop(tb_pipeline *p);                 /* what a failed step has left in the cells */
