/* The bound of a sum over ranks: what must cross between cores, moved without a word about who is ready.
 *
 * However ranks go about it, each takes in at least 2 (p-1)/p of the size of its data: others' values that it lacks
 * and others' sums (Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009). At
 * what rate a core gets lines that another has just written depends on the instructions, so the bound is the fastest of
 * several ways to move as many. A sum over ranks contains one of them, and so cannot be faster. */
#pragma once
#include "tb_cpu.h"
#include "tb_status.h"
#include <stdint.h>

typedef enum tb_crossing {
    TB_CROSSING_READ, /* reads them as a stream, adding them up in the nearest cache */
    TB_CROSSING_SUM,  /* sums this rank's share into the memory of all: half comes in, half goes out */
    TB_CROSSING_COPY, /* copies this rank's share of others to here, and as much to there */
    TB_CROSSINGS
} tb_crossing;

/* Elements that a rank must take in of data[n]. n must be a multiple of `ranks`. */
int64_t tb_crossing_count(int64_t n, int ranks);
const char *tb_crossing_name(tb_crossing way); /* "read" */
/* Whether this number of ranks and instruction set have that way. */
bool tb_crossing_exists(tb_crossing way, int ranks, tb_isa isa);
/* Rank's part: data[r] is rank r's data[n], where this one sees it; ranks divides n. *checksum: of what READ read. */
void tb_cross(tb_crossing way, tb_isa isa, float *const *data, int64_t n, int rank, int ranks, double *checksum);
