/* Runs the lists of a schedule against each other with nothing buffered: a rank that posts a group of messages stays
 * there until each has met its counterpart. Which messages meet does not depend on the order in which ranks are
 * visited (a posted group never changes before it is done), so one pass decides for every timing. The checker reads
 * where it stops; the simulator adds clocks through the hooks. */
#pragma once
#include "schedule_internal.h"

typedef struct tbi_run_hooks {
    void (*work)(void *arg, int rank, int64_t index);                     /* F, B, I, W, REDUCE, OPT */
    void (*post)(void *arg, int rank, int64_t first, int64_t end);        /* the group [first, end) is posted */
    void (*meet)(void *arg, int from, int64_t send, int to, int64_t recv);/* two posted messages match */
    void (*done)(void *arg, int rank, int64_t first, int64_t end);        /* all of the group have met */
} tbi_run_hooks;

typedef struct tbi_run_rank {
    int64_t at;        /* next action, or the first of the posted group */
    int64_t group_end; /* > at while a group is posted */
    int open;          /* messages of it that have not met */
    uint8_t *met;      /* per message of the group */
} tbi_run_rank;

typedef struct tbi_run {
    const tb_schedule *s;
    const tbi_run_hooks *hooks; /* NULL: none */
    void *arg;
    tbi_run_rank *ranks;
    int *queue;
    bool *queued;
    int head, waiting;
    int crossed_rank;   /* -1, or a rank whose message met one that is not its counterpart: the run stopped there */
    int64_t crossed_at; /* index of that message */
    int64_t crossed_peer_at;
} tbi_run;

TB_MUST_USE tb_status tbi_run_open(tbi_run *run, const tb_schedule *s, const tbi_run_hooks *hooks, void *arg);
void tbi_run_go(tbi_run *run);
void tbi_run_close(tbi_run *run);

/* After a run: TB_OK when all lists ended; otherwise the sentence names what waits for what, `broken` the rule. */
TB_MUST_USE tb_status tbi_run_verdict(const tbi_run *run, tb_schedule_rule *broken);
