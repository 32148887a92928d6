/* A library as a side of a comparison (peers/tb_peer_library.h). */
#pragma once
#include "tb_bench.h"
#include "tb_cpu.h"
#include "tb_peer_library.h"

typedef struct tb_bench_library {
    void *handle;
    const tb_peer_library *library;
    tb_peer_gemm gemm;
    tb_peer_conv conv;
    void *state;
    void (*run)(void *state);
    void (*close)(void *state);
} tb_bench_library;

/* Loads tb_peer_<name>.so from the folder "peers" beside the program, or from $TB_PEERS, and prepares the
 * product or convolution, whose operands stay the caller's. isa: OpenBLAS is told to use its kernels for that one.
 * Close it whether or not this failed. */
TB_MUST_USE tb_status tb_bench_library_gemm(tb_bench_library *l, const char *name, tb_isa isa,
                                            const tb_peer_gemm *gemm);
TB_MUST_USE tb_status tb_bench_library_conv(tb_bench_library *l, const char *name, tb_isa isa,
                                            const tb_peer_conv *conv);
void tb_bench_library_close(tb_bench_library *l);
/* The run of a side whose self begins with a tb_bench_library. */
tb_status tb_bench_library_run(void *self, int64_t times, double *ns);
