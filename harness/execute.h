/* One launch of one point, on every rank of its group: from the journal's point record to its end record. */
#pragma once
#include "board.h"
#include "group.h"
#include "record.h"
#include "tb_topo.h"

typedef struct tb_execution {
    const tb_point *point;
    const char *journal;      /* path; rank 0 appends to it */
    tb_group *group;
    tb_board *board;          /* NULL: none */
    const tb_topo *topo;      /* of the process before its ranks were bound */
    const char *source_dir;   /* of the experiment, for provenance; NULL: none */
    bool traced;
    int argc;
    char *const *argv;
} tb_execution;

/* Returns TB_OK when the launch ended as it should, be it ok, invalid or interrupted: the journal says which,
 * and
 * `*exit_code` is what the process should end with. A failure is in the journal too, as far as rank 0 could
 * write. */
TB_MUST_USE tb_status tb_execute(const tb_execution *e, int *exit_code);

/* Binds this thread, and so what it starts later, to the cores of `rank`: its own share of `topo`, or all of
 * them where ranks share cores. Before MPI starts its threads. */
TB_MUST_USE tb_status tb_bind_rank(const tb_topo *topo, int rank, int ranks, int threads);
