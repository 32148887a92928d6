/* Before the first step: where a model is cut into stages, and what each rank will then hold, counted on the meta
 * device. Afterwards: the same beside what the allocator counted, which must be equal. */
#pragma once
#include "pipeline_arrangement.h"

typedef struct tb_stage_plan {
    tb_schedule *schedule;
    int *cuts;                         /* [stages + 1] */
    tb_stage_bytes *bytes;             /* [stages] */
    tb_rank_peak *peaks, *gpipe_peaks; /* [ranks] by this schedule; by gpipe (0: its stages would be others) */
} tb_stage_plan;

/* Leaves another context than it found. *plan is to be freed after a failure, too. */
TB_MUST_USE tb_status tb_stage_plan_make(const tb_arrangement_config *c, const char *schedule, tb_stage_plan *plan);
void tb_stage_plan_free(tb_stage_plan *plan);

/* Checks `held_bytes.difference` and `act_bytes.difference` of the last step, on this rank of the pipeline. */
void tb_stage_plan_check(const tb_stage_plan *plan, const tb_run *run, int rank, const tb_pipeline *p);
/* Values: bytes counted in the last step, predicted, and by the formulas of the schedules. */
void tb_stage_plan_emit(const tb_stage_plan *plan, const tb_run *run, int rank, const tb_pipeline *p);
