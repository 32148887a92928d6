/* What a person sees while a run goes on: one changing line on a terminal, one line a launch otherwise. */
#pragma once
#include "board.h"
#include "experiment.h"
#include "launch.h"

typedef struct tb_progress {
    const tb_experiment *experiment;
    const tb_plan_point *point;
    int total, at;             /* launches of this run; the current one, from 1 */
    int64_t launch;
    int64_t begin_ns;
    bool is_terminal;
} tb_progress;

void tb_progress_open(tb_progress *p, const tb_experiment *e, int total);
void tb_progress_begin(tb_progress *p, const tb_plan_point *point, int64_t launch);
void tb_progress_tick(void *progress, const tb_board *board);
void tb_progress_note(const tb_progress *p, const char *fmt, ...) TB_PRINTF(2, 3); /* a line that stays */
void tb_progress_end(tb_progress *p, const tb_outcome *outcome);
