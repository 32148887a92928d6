/* Behind tb_emit_*: one rank's records on their way to the launch's journal. Samples are gathered in short
 * batches per metric (a batch goes out when it is full, its steps jump, or a quarter of a second has passed),
 * so that emitting costs nanoseconds and a kill loses a quarter of a second at most. Rank 0 writes the
 * journal; the other ranks write memory journals that tb_run_sync() brings to it. */
#pragma once
#include "board.h"
#include "group.h"
#include "journal.h"
#include "tb_driver.h"

typedef struct tb_recorder tb_recorder;

/* `journal` and `slot` are borrowed; slot may be NULL. */
TB_MUST_USE tb_status tb_recorder_create(tb_journal *journal, int rank, tb_board *board, tb_recorder **out);
void tb_recorder_free(tb_recorder *recorder); /* NULL is accepted */
/* Declares a metric; samples of an undeclared one are an error that tb_run_sync() tells. Strings are
 * borrowed. */
TB_MUST_USE tb_status tb_recorder_metric(tb_recorder *recorder, const tb_metric *metric);
/* The first failure so far, with its sentence in the error record. */
TB_MUST_USE tb_status tb_recorder_status(const tb_recorder *recorder);
int tb_recorder_failed_checks(const tb_recorder *recorder);
tb_board_slot *tb_recorder_slot(tb_recorder *recorder); /* NULL when there is no board */
