/* One launch of one point as its own mpirun, watched: time limit, stop, what became of it. */
#pragma once
#include "board.h"
#include "experiment.h"
#include "record.h"
#include "tb_text.h"

typedef struct tb_launch_plan {
    const tb_experiment *experiment;
    const tb_plan_point *point;
    int64_t launch;            /* 0-based */
    const char *folder;        /* of the run; exists */
    bool traced;
    tb_text *told;                  /* warnings of earlier launches, a line each: none is told twice; may be NULL */
    const volatile int *interrupts; /* 1: stop soon and keep what there is; 2: at once */
    void (*tick)(void *arg, const tb_board *board); /* ten times a second; NULL: none */
    void *tick_arg;
} tb_launch_plan;

typedef struct tb_outcome {
    char status[16];           /* as tb_end.status */
    char reason[600];          /* one sentence; "" when ok */
    double seconds;
} tb_outcome;

/* TB_OK means that the launch took place and its journal has an end record, whatever `out` says of it. */
TB_MUST_USE tb_status tb_launch_run(const tb_launch_plan *plan, tb_outcome *out);

/* The point record of a launch, for tb_journal_create(). Strings are borrowed from `plan`. */
tb_point tb_launch_point(const tb_launch_plan *plan);
char *tb_launch_journal_path(const tb_launch_plan *plan); /* tb_free(); NULL: no memory */
