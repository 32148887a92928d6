/* An op of the engine as a case: called as programs call it, its kernel named by watching the dispatch, its
 * result compared with the op's own reference implementation (plain loops, sums in f64). */
#pragma once
#include "tb_bench.h"
#include "tb_tensor.h"

enum { TB_BENCH_RESULTS = 3 };

typedef struct tb_bench_op {
    tb_status (*call)(void *arg, tb_tensor **out); /* results in the current scope */
    /* The same in another way, measured beside it; NULL: torch, where that is asked for. */
    tb_status (*peer_call)(void *arg, tb_tensor **out);
    int n_out;                                     /* that are compared; 0 means 1 */
    tb_status (*reset)(void *arg);                 /* puts back what a call changes in place; or NULL */
    void *arg;
    tb_status (*check)(void *arg, const float *y); /* of the only result, where the reference would take too long */
    double tolerance;  /* allowed difference, in units of 2^-24 of the largest value of a result */
    const char *torch; /* the same as a case of torch_bench.py */
} tb_bench_op;

/* Fills kernel, isa, our side and check of `c`, and measures it beside c->peer, the op's peer_call, or torch where
 * neither is set. */
TB_MUST_USE tb_status tb_bench_measure_op(tb_bench_run *run, const tb_bench_op *op, tb_bench_case *c);
/* f32, filled from the stream with values in [-1, 1). */
tb_tensor *tb_bench_tensor(uint64_t stream, int rank, const int64_t *dims);
