/* The board: one page of shared memory between `tb run` and the ranks of a launch, by which it sees what each
 * rank is doing, also after the rank was killed, and tells them to stop. A file in the run's folder, mapped
 * by everybody, gone after the launch. Ranks write their own slot only; a reader may see a half-written name,
 * which is for people. */
#pragma once
#include "tb_status.h"
#include <stdatomic.h>
#include <stdint.h>

typedef struct tb_board_slot {
    char phase[48];        /* "backward"; "" before the rank has started */
    int64_t step, total;   /* -1: no step; total 0: not known */
    char headline[32], unit[16];
    double value;          /* of the headline */
    int64_t changed_ns;    /* CLOCK_MONOTONIC */
} tb_board_slot;

typedef struct tb_board {
    atomic_int stop;       /* 1: leave your loops, keep what you have */
    int ranks;
    size_t bytes;          /* of the mapping */
    tb_board_slot slots[];
} tb_board;

/* path NULL: memory of this process and its children */
TB_MUST_USE tb_status tb_board_create(const char *path, int ranks, tb_board **out);
TB_MUST_USE tb_status tb_board_open(const char *path, tb_board **out);
void tb_board_close(tb_board *board); /* unmaps; the file is the creator's to unlink. NULL is accepted */
/* "step 17 of 100, backward" or "start-up", into `out`. */
void tb_board_describe(const tb_board_slot *slot, char *out, size_t bytes);
