/* torch as a side of a comparison: scripts/peers/torch_bench.py in a process of its own, on the same cores.
 */
#pragma once
#include "tb_bench.h"

typedef struct tb_bench_torch {
    struct tb_peer *peer;
    char detail[64]; /* version and settings */
} tb_bench_torch;

/* `what`: one of the script's cases with its sizes, words joined by spaces. Stop it whether or not this
 * failed. */
TB_MUST_USE tb_status tb_bench_torch_start(tb_bench_torch *t, int threads, const char *what);
void tb_bench_torch_stop(tb_bench_torch *t);
/* Makes it the peer of a case. */
void tb_bench_torch_join(tb_bench_torch *t, tb_bench_case *c);
/* tb_bench_measure(), beside torch's `what` where the run asks for a peer. */
TB_MUST_USE tb_status tb_bench_measure_beside_torch(tb_bench_run *run, const char *what, tb_bench_case *c);
