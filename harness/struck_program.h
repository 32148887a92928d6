/* A training run in which a fault strikes, as a program of its own, and what became of it. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct tb_struck_plan {
    const char *work; /* experiments/common/fault_<work>.yaml; "fused" is of ddp */
    const char *backend;
    char fault[48]; /* as launch.fault */
    int ranks, victim;
    double deadline_s;
    bool direct;     /* started by mpirun; else by tb run */
    bool lives;      /* the run must end well, and tell of the slow rank */
    bool disputable; /* a message's two ends, or two ranks, say different things: both must be named */
} tb_struck_plan;

typedef struct tb_struck {
    bool struck;         /* the fault came before the run was over */
    bool named;          /* what is printed names the victim and what it was doing */
    bool ended;          /* all processes are gone, and the exit code tells the truth */
    bool left_behind;    /* shared memory is still there: the ranks', or files that nobody maps */
    double gone_s;       /* from the deadline after the strike until all were gone; negative: before it */
    char doing[208];     /* the victim: "allreduce #17 of 1024 f32 (step 4, gradients, bucket 1 of 2)" */
    char sentence[1536]; /* what was printed of it; not named: of everything, and the ranks' records */
} tb_struck;

TB_MUST_USE tb_status tb_struck_program(const tb_struck_plan *plan, tb_struck *out);
/* Does any process still map the memory that the ranks of a group shared and that this process made? */
bool tb_struck_left_arena(pid_t maker);
