/* Where a number comes from: what a sceptic would ask about build, machine, libraries and environment, as facts of a
 * journal. Keys (results/SCHEMA.md) begin with build/ source/ host/ mpi/ lib/ env/ run/ rank/. A fact that the system
 * does not offer has the value "unknown". */
#pragma once
#include "journal.h"
#include <stdbool.h>

typedef struct tb_provenance {
    int argc;
    char *const *argv;
    const char *mpi_library; /* MPI_Get_library_version(), or NULL */
    const char *source_dir;  /* the tree whose commit is noted at run time; NULL: none */
} tb_provenance;

/* Of the launch: one process writes it once. Runs git when source_dir is given. */
TB_MUST_USE tb_status tb_provenance_write(tb_journal *j, const tb_provenance *in);
/* Of one rank: host, process, binding, threads. Each rank, into its own journal, after it bound itself. */
TB_MUST_USE tb_status tb_provenance_write_rank(tb_journal *j, int rank);
/* What tells builds apart, SHA-256 of program and library: of this process, and of the one that made a launch. */
enum { TB_BUILD_ROOM = 136 };
TB_MUST_USE tb_status tb_provenance_build(char out[TB_BUILD_ROOM]);
void tb_provenance_build_of(const tb_launch *launch, char out[TB_BUILD_ROOM]);
/* The same facts for people or, as one object, for programs. */
TB_MUST_USE tb_status tb_provenance_print(const tb_provenance *in, bool json, FILE *to);
