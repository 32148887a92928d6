/* A rank that dies says so: handlers that write "rank 1 died: SIGSEGV in step 17, backward" and die of the
 * signal. */
#pragma once
#include "board.h"

void tb_crash_handlers(int rank, const tb_board_slot *slot); /* once a process; slot may be NULL */
/* Ranks that others end (SIGTERM), or that gave up waiting, are not what failed: they say so in this word of their
 * flight record (tb_comm_recorder_excuse; NULL: none). Excusing is safe in signal handlers. */
void tb_crash_excuse_by(_Atomic int64_t *word);
void tb_crash_excuse(void);
const char *tb_signal_name(int signal); /* "SIGSEGV"; "signal 34" for others (per thread) */
