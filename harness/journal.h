/* The journal: an append-only file of checksummed records, one file a point and launch. It is the truth while a run
 * goes on: a kill at any moment loses no record that was written whole. HDF5 is made from it at the end, because an
 * HDF5 file that is being appended to does not survive a kill.
 *
 * Life of a file: `tb run` creates it with the point record; rank 0 of the launch opens it, appends, syncs at the
 * ends of blocks; `tb run` opens it again and adds the end record (and the log tails) when the launch left none.
 * One writer at a time (flock). Other ranks write the same records into a memory journal, whose bytes rank 0
 * gathers and appends.
 *
 * A failed write (full disk) undoes its own partial record, fills the error record with one sentence that names the
 * path, and makes every later write of this journal fail the same way: what was written before stays readable. */
#pragma once
#include "record.h"

typedef struct tb_journal tb_journal;

TB_MUST_USE tb_status tb_journal_create(const char *path, const tb_point *point, tb_journal **out); /* new file only */
TB_MUST_USE tb_status tb_journal_open(const char *path, tb_journal **out); /* to append; a torn tail is cut off */
TB_MUST_USE tb_status tb_journal_memory(tb_journal **out);
/* Syncs and frees; returns the first failure this journal had. NULL is accepted. */
TB_MUST_USE tb_status tb_journal_close(tb_journal *j);

TB_MUST_USE tb_status tb_journal_fact(tb_journal *j, const tb_fact *fact);
TB_MUST_USE tb_status tb_journal_metric(tb_journal *j, const tb_metric *metric);
TB_MUST_USE tb_status tb_journal_samples(tb_journal *j, const tb_samples *samples);
TB_MUST_USE tb_status tb_journal_value(tb_journal *j, const tb_value *value);
TB_MUST_USE tb_status tb_journal_artefact(tb_journal *j, const tb_artefact *artefact);
TB_MUST_USE tb_status tb_journal_event(tb_journal *j, const tb_event *event);
TB_MUST_USE tb_status tb_journal_check(tb_journal *j, const tb_check *check);
TB_MUST_USE tb_status tb_journal_end(tb_journal *j, const tb_end *end);
TB_MUST_USE tb_status tb_journal_sync(tb_journal *j); /* block end: fdatasync */

/* Bytes of a memory journal since the last tb_journal_drain; valid until the next write to it. */
void tb_journal_bytes(const tb_journal *j, const void **data, size_t *bytes);
void tb_journal_drain(tb_journal *j);
/* Appends records that a memory journal made; refuses bytes that are not whole, intact records. */
TB_MUST_USE tb_status tb_journal_append(tb_journal *j, const void *data, size_t bytes);

/* Reads every complete record. Damage and a torn tail are counted in the launch, not errors; a file without an
 * intact point record, or of another schema, is one (TB_ERR_PARSE). */
TB_MUST_USE tb_status tb_journal_read(const char *path, tb_launch **out);
