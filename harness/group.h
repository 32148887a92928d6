/* The ranks of one launch, seen by the harness: start-up, agreement, gathering of records. The only user of
 * MPI in the harness. Drivers that communicate do it through engine/comm, never through this. All calls are
 * collective over the group unless they say otherwise. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tb_group tb_group;

/* From the launcher's environment, before MPI is started: -1 when this process was not started by mpirun. */
int tb_group_env_rank(void);
int tb_group_env_size(void);

TB_MUST_USE tb_status tb_group_start(tb_group **world); /* MPI_Init_thread; a process does it once */
void tb_group_end(tb_group *world);                     /* MPI_Finalize; NULL is accepted */
_Noreturn void tb_group_abort(int exit_code);           /* ends every rank: for a rank that fails alone */

/* Ranks 0 .. n-1 form a group of their own; the others get NULL. Freed with tb_group_leave(). */
TB_MUST_USE tb_status tb_group_first(tb_group *world, int n, tb_group **out);
void tb_group_leave(tb_group *group); /* not collective; NULL is accepted */

/* Waits below end after this long with TB_ERR_TIMEOUT; 0 (at first): never. The group can then only be left; the
 * caller's memory is its own again. */
void tb_group_set_deadline(tb_group *group, int64_t ns);

int tb_group_rank(const tb_group *group);
int tb_group_size(const tb_group *group);
const char *tb_group_library(void); /* MPI's name and version, one line */

TB_MUST_USE tb_status tb_group_barrier(tb_group *group);      /* spins: exact, for timed blocks */
TB_MUST_USE tb_status tb_group_idle_barrier(tb_group *group); /* polls with sleeps: burns no core while it waits */
TB_MUST_USE tb_status tb_group_broadcast(tb_group *group, void *data, size_t bytes); /* from rank 0 */
TB_MUST_USE tb_status tb_group_max(tb_group *group, int64_t *value);
/* Every rank's bytes, in rank order, on rank 0: tb_free(*all); elsewhere NULL and sizes untouched. */
TB_MUST_USE tb_status tb_group_gather(tb_group *group, const void *data, size_t bytes, void **all, size_t *all_bytes);
