/* One arrangement of a training in micro-batches: a context of its own with the model (all of it, or the blocks of one
 * rank), the data and the optimizer. The run, its prediction on the meta device and its reference on one rank differ in
 * schedule, blocks and device alone. */
#pragma once
#include "tb_data.h"
#include "tb_driver.h"
#include "tb_pipeline.h"

/* What all arrangements of a run have in common. */
typedef struct tb_arrangement_config {
    const tb_run *run; /* params: model, rate, recompute */
    const tb_dataset *data;
    int ranks, replicas;        /* ranks of a pipeline; pipelines */
    int64_t microbatches, rows; /* micro-batches of a step on each pipeline; rows of one */
    int64_t time;               /* text: tokens of a row; images: 1 */
} tb_arrangement_config;

typedef struct tb_arrangement {
    const tb_arrangement_config *config;
    const tb_schedule *schedule; /* borrowed, as the cuts */
    const int *cuts;             /* [stages + 1] */
    tb_ctx *ctx;
    tb_model *model;
    tb_loader *loader;
    tb_tensor *count; /* i64[]: labels of a step of all pipelines */
    tb_optim *optim;
} tb_arrangement;

int64_t tb_arrangement_pieces(const tb_arrangement_config *c); /* micro-batches of a step, of all pipelines */

/* By name (tb_schedule_make) for `ranks`, with the run's micro-batches. The caller frees it with tb_schedule_free. */
TB_MUST_USE tb_status tb_arrangement_schedule(const tb_arrangement_config *c, const char *name, int ranks,
                                              tb_schedule **out);

/* Makes context, model and data, and enters the context. The model is what `rank` runs of the schedule; rank < 0: all
 * blocks, and cuts may then come later. *a is to be closed after a failure, too. */
TB_MUST_USE tb_status tb_arrangement_open(const tb_arrangement_config *c, const tb_schedule *schedule, const int *cuts,
                                          int rank, const char *device, tb_arrangement *a);
TB_MUST_USE tb_status tb_arrangement_open_optim(tb_arrangement *a); /* AdamW over the model's parameters */
void tb_arrangement_close(tb_arrangement *a);

/* The executor of the schedule on one rank, with the arrangement's micro-batches and optimizer (where it has one). */
tb_pipeline_config tb_arrangement_pipeline(tb_arrangement *a);
