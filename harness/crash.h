/* A rank that dies says so: handlers that write "rank 1 died: SIGSEGV in step 17, backward" and die of the
 * signal. */
#pragma once
#include "board.h"

void tb_crash_handlers(int rank, const tb_board_slot *slot); /* once a process; slot may be NULL */
const char *tb_signal_name(int signal); /* "SIGSEGV"; "signal 34" for others (per thread) */
