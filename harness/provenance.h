/* Where a number comes from: everything about build, host, libraries, environment and noise that a sceptic would ask
 * for, as facts of a journal. Key prefixes: build/ host/ mpi/ lib/ env/ run/ rank/ noise/ (results/SCHEMA.md). */
#pragma once
#include "journal.h"
#include <stdbool.h>

typedef struct tb_provenance {
    int argc;
    char *const *argv;
    const char *mpi_library; /* MPI_Get_library_version(), or "" */
    const char *source_dir;  /* for the sha and dirtiness of the tree at run time; NULL: skip */
} tb_provenance;

/* Of the launch: rank 0 writes it once. */
TB_MUST_USE tb_status tb_provenance_write(tb_journal *j, const tb_provenance *in);
/* Of one rank: host name, pid, cpuset, NUMA node. Each rank, into its own journal, after binding. */
TB_MUST_USE tb_status tb_provenance_write_rank(tb_journal *j, int rank);
void tb_provenance_print(const tb_provenance *in, bool json); /* for `tb info`, on stdout */

/* How quiet the machine is: a fixed amount of work timed many times, pressure stall information, timer, and the
 * latency between two cores. About 0.2 s. */
typedef struct tb_noise {
    double calib_median_ns, calib_cv, calib_p99_over_p50;
    double psi_some_percent;     /* cpu.some avg10; NaN where the kernel has none */
    double load_1min;
    double timer_ns, timer_overhead_ns;
    double core_to_core_ns;      /* one way between the first two cores of the cpuset; NaN with one core */
    int64_t involuntary_switches;
} tb_noise;
TB_MUST_USE tb_status tb_noise_measure(tb_noise *out);
/* As values "noise.<when>.calib_cv", ...; `when`: before | after. */
TB_MUST_USE tb_status tb_noise_write(tb_journal *j, const char *when, const tb_noise *noise);
