/* Cuts and bytes of a pipeline by running it on the meta device. */
#include "pipeline_plan.h"
#include "tb_alloc.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Cuts so that the stage that keeps most for its backward pass keeps as little as possible: every block is probed as
 * a stage of its own, with the model of the current (meta) context. */
static tb_status find_cuts(const tb_schedule *schedule, tb_pipeline_config c, int *cuts)
{
    int blocks = tb_model_blocks(c.model);
    tb_schedule *each = NULL;
    tb_stage_bytes *bytes = tb_calloc((size_t)blocks, sizeof *bytes);
    double *cost = tb_calloc((size_t)blocks, sizeof *cost);
    int *ones = tb_calloc((size_t)blocks + 1, sizeof *ones);
    tb_status st = bytes && cost && ones ? TB_OK : TB_ERR_OOM;
    for (int b = 0; st == TB_OK && b <= blocks; b++) ones[b] = b;
    if (st == TB_OK)
        st = tb_schedule_make("accumulate", &(tb_schedule_config){.ranks = 1, .microbatches = 1, .chunks = blocks},
                              &each);
    c.schedule = each;
    c.cuts = ones;
    c.recompute = false;
    if (st == TB_OK) st = tb_pipeline_stage_bytes(&c, bytes);
    for (int b = 0; st == TB_OK && b < blocks; b++) cost[b] = (double)bytes[b].act;
    if (st == TB_OK) st = tb_pipeline_cut(blocks, cost, schedule->stages, cuts);
    tb_schedule_free(each);
    tb_free(bytes);
    tb_free(cost);
    tb_free(ones);
    return st;
}

static tb_status allocate(tb_stage_plan *plan, int ranks)
{
    size_t stages = (size_t)plan->schedule->stages;
    plan->cuts = tb_calloc(stages + 1, sizeof *plan->cuts);
    plan->bytes = tb_calloc(stages, sizeof *plan->bytes);
    plan->peaks = tb_calloc((size_t)ranks, sizeof *plan->peaks);
    plan->gpipe_peaks = tb_calloc((size_t)ranks, sizeof *plan->gpipe_peaks);
    return plan->cuts && plan->bytes && plan->peaks && plan->gpipe_peaks ? TB_OK : TB_ERR_OOM;
}

static tb_status gpipe_peaks(const tb_arrangement_config *c, tb_stage_plan *plan)
{
    tb_schedule *gpipe = NULL;
    TB_TRY(tb_arrangement_schedule(c, "gpipe", c->ranks, &gpipe));
    tb_schedule_peaks(gpipe, plan->bytes, plan->gpipe_peaks);
    tb_schedule_free(gpipe);
    return TB_OK;
}

tb_status tb_stage_plan_make(const tb_arrangement_config *c, const char *schedule, tb_stage_plan *plan)
{
    tb_arrangement meta = {0};
    *plan = (tb_stage_plan){0};
    TB_TRY(tb_arrangement_schedule(c, schedule, c->ranks, &plan->schedule));
    TB_TRY(allocate(plan, c->ranks));
    tb_status st = tb_arrangement_open(c, plan->schedule, plan->cuts, -1, "meta", &meta);
    if (st == TB_OK) st = find_cuts(plan->schedule, tb_arrangement_pipeline(&meta), plan->cuts);
    tb_pipeline_config config = tb_arrangement_pipeline(&meta);
    if (st == TB_OK) st = tb_pipeline_stage_bytes(&config, plan->bytes);
    tb_arrangement_close(&meta);
    TB_TRY(st);
    tb_schedule_peaks(plan->schedule, plan->bytes, plan->peaks);
    return plan->schedule->stages == c->ranks ? gpipe_peaks(c, plan) : TB_OK;
}

void tb_stage_plan_free(tb_stage_plan *plan)
{
    tb_schedule_free(plan->schedule);
    tb_free(plan->cuts);
    tb_free(plan->bytes);
    tb_free(plan->peaks);
    tb_free(plan->gpipe_peaks);
    *plan = (tb_stage_plan){0};
}

void tb_stage_plan_check(const tb_stage_plan *plan, const tb_run *run, int rank, const tb_pipeline *p)
{
    tb_pipeline_memory m;
    tb_pipeline_get_memory(p, &m);
    const tb_rank_peak *peak = &plan->peaks[rank];
    tb_emit_check(run, "held_bytes.difference", "parity", (double)llabs(m.held_bytes - peak->held_bytes), 0,
                  "held bytes differ from those predicted on the meta device");
    tb_emit_check(run, "act_bytes.difference", "parity", (double)llabs(m.act_bytes - peak->act_bytes), 0,
                  "activation bytes differ from those predicted on the meta device");
}

/* Micro-batches in flight on a rank of one stage, by the formulas; 0: this schedule has none here. */
static int64_t in_flight(const tb_schedule *s, int rank)
{
    int m = s->microbatches, left = s->ranks - rank;
    if (strcmp(s->name, "accumulate") == 0) return 1;
    if (strcmp(s->name, "gpipe") == 0) return m;
    return strcmp(s->name, "1f1b") == 0 ? (m < left ? m : left) : 0;
}

void tb_stage_plan_emit(const tb_stage_plan *plan, const tb_run *run, int rank, const tb_pipeline *p)
{
    tb_pipeline_memory m;
    tb_pipeline_get_memory(p, &m);
    const tb_rank_peak *peak = &plan->peaks[rank], *gpipe = &plan->gpipe_peaks[rank];
    int64_t flying = in_flight(plan->schedule, rank);
    tb_emit_value(run, "static_bytes", "B", (double)m.static_bytes);
    tb_emit_value(run, "held_bytes", "B", (double)m.held_bytes);
    tb_emit_value(run, "predicted_held_bytes", "B", (double)peak->held_bytes);
    tb_emit_value(run, "act_bytes", "B", (double)m.act_bytes);
    if (flying) tb_emit_value(run, "formula_act_bytes", "B", (double)(flying * plan->bytes[rank].act));
    tb_emit_value(run, "transient_peak_bytes", "B", (double)m.peak_bytes);
    tb_emit_value(run, "graph_bytes", "B", (double)m.held_by_tag[TB_MEM_OTHER]);
    if (gpipe->held_bytes) {
        double all = (double)(m.static_bytes + gpipe->held_bytes);
        tb_emit_value(run, "saved_against_gpipe", "", 1 - (double)(m.static_bytes + m.held_bytes) / all);
        tb_emit_value(run, "static_to_gpipe_act", "", (double)m.static_bytes / (double)gpipe->act_bytes);
    }
    for (int t = 0; t < TB_MEM_TAGS; t++) {
        char name[64];
        snprintf(name, sizeof name, "held_bytes.%s", tb_mem_tag_name((tb_mem_tag)t));
        if (m.held_by_tag[t]) tb_emit_value(run, name, "B", (double)m.held_by_tag[t]);
    }
}
