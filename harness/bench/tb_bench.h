/* Microbenchmarks. One kind, one file, harness/bench/<name>.c, with one
 *     TB_BENCH(name, .doc = "...", .shape_form = ..., .shapes = ..., .dtypes = ..., .run = ...);
 * found at build time by that line; `tb bench` and the driver `bench` call it. (`tb bench train-step` runs
 * TB_BENCH(train_step).)
 *
 * A kind builds a case and hands it to tb_bench_measure(): the output is checked against a plain reference
 * first (a wrong one is TB_ERR_PARITY and gives no number), then blocks of runs are timed, in ABBA order with
 * the peer's where there is one, between two measurements of what the machine can do. Both sides run on the
 * same cores: the process is bound to the first `threads` of its cpuset. */
#pragma once
#include "stats.h"
#include "tb_ctx.h"
#include "tb_dtype.h"
#include <stdbool.h>
#include <stdint.h>

enum { TB_BENCH_DIMS = 8, TB_BENCH_EXTRAS = 6, TB_BENCH_LEVEL_PERCENT = 99, TB_BENCH_NAME = 32 };

typedef struct tb_bench_shape {
    int n;
    int64_t at[TB_BENCH_DIMS];
} tb_bench_shape;

/* More numbers of a row, under their own names ("gb_per_s"), NaN: null. */
typedef struct tb_bench_extra {
    const char *name;
    double value;
} tb_bench_extra;

/* Where a run that computes lies under its roof (Williams, Waterman, Patterson, CACM 52(4), 2009). flop, bytes: of one
 * run, each operand counted once; the peaks are of its dtype, ISA and threads, reading at the size of its operands. All
 * NaN: does not apply. */
typedef struct tb_roofline {
    double flop, bytes, peak_gflops, peak_gb_per_s;
} tb_roofline;

typedef struct tb_bench_row {
    char op[32], shape[64], isa[16], kernel[64];
    const char *dtype;
    int threads;
    double median_ns, gflops, pct_peak; /* of one run; NaN: does not apply */
    tb_interval interval;               /* of median_ns */
    const char *peer;                   /* NULL: none was asked for */
    double peer_median_ns, ratio;       /* peer's time / ours, median of pairs; NaN where the peer is void */
    tb_interval ratio_interval;
    char peer_detail[96]; /* its version, kernel, settings; why it is void */
    tb_roofline roofline;
    int n_extra;
    tb_bench_extra extra[TB_BENCH_EXTRAS];
} tb_bench_row;

/* What one call of a kind measures with and where its rows go. */
typedef struct tb_bench_run {
    tb_ctx *ctx; /* the thread's current one */
    int threads;
    double core_to_core_ns; /* one way between the first two cores; NaN where there is one */
    tb_dtype dtype;
    const char *peer;     /* or NULL */
    const char *only;     /* the one op that is wanted; NULL: all of the kind */
    tb_bench_shape shape; /* n = 0 where the kind takes none */
    tb_bench_row *rows;   /* grows; the caller frees it */
    int n_rows;
    /* Called with every pair of blocks, times of one run; peer_ns NaN: no peer. May be NULL. */
    void (*pair)(void *arg, int64_t i, double ours_ns, double peer_ns);
    void *pair_arg;
} tb_bench_run;

/* One side of a comparison: does its work `times` times. *ns is 0 and stays so, or becomes the time by the
 * side's own clock (a peer in another process). */
typedef struct tb_bench_side {
    tb_status (*run)(void *self, int64_t times, double *ns);
    void *self;
} tb_bench_side;

typedef struct tb_bench_case {
    const char *op;
    char shape[64];
    const char *kernel;
    tb_isa isa;
    tb_bench_side ours, peer;            /* peer.run NULL: none */
    tb_status (*check)(void *self);      /* ours.self after one run; TB_ERR_PARITY when wrong */
    tb_status (*peer_check)(void *self); /* peer.self after one run; a wrong peer is void; or NULL */
    const char *peer_detail;             /* version, kernel, settings */
    double peer_known_percent;           /* of peak, that the peer is known to reach; 0: not known */
    double flops;                        /* of one run; 0: does not apply */
    double bytes;                        /* of one run, where memory may bind it; else 0 */
    double operand_bytes;                /* of one run that computes: each operand once, for the roofline; 0: none */
    int64_t most_times;                  /* runs in a block, at most; 0: as many as time asks for */
} tb_bench_case;

/* Check, measure, one more row: the last of run->rows, for more numbers. */
TB_MUST_USE tb_status tb_bench_measure(tb_bench_run *run, const tb_bench_case *c);
void tb_bench_extra_add(tb_bench_run *run, const char *name, double value);
bool tb_bench_wants(const tb_bench_run *run, const char *op);
/* A row that a kind measured itself; zeroed and named, to be filled. NULL: no memory, in the record. */
tb_bench_row *tb_bench_row_add(tb_bench_run *run, const char *op, const char *shape);

/* Largest difference of what was computed from a plain reference, as part of what rounding allows; above 1
 * (or NaN) it is TB_ERR_PARITY with a sentence. */
TB_MUST_USE tb_status tb_bench_judge(const char *op, double worst);
/* Why a peer that reached `percent` of peak is void, or false. */
bool tb_bench_peer_is_void(double percent, double known_percent);
/* In [-1, 1), the same for the same (stream, i). */
double tb_bench_value(uint64_t stream, int64_t i);

/* ---- what the machine can do (bench_limits.c); measured on all threads of the pool, best of several blocks
 * ---- */
/* Multiply-adds counted as two, a second: f32 FMA, or u8 x s8 products summed exactly in 32 bits. 0 where the
 * processor or the program has no such instruction. */
double tb_limit_flops(tb_dtype dtype, tb_isa isa, tb_pool *pool);
/* Bytes a second that a working set of so many bytes can be read at, over and over. NaN: no memory. */
double tb_limit_read(size_t bytes, tb_isa isa, tb_pool *pool);

typedef struct tb_bench {
    const char *name, *doc;
    const char *shape_form;              /* "MxKxN"; NULL: takes no --shape */
    const char *const *shapes;           /* the default ones, NULL at the end */
    bool is_whole;                       /* has no ops that --only could choose from */
    int threads;                         /* where --threads does not say; 0: 1 */
    unsigned dtypes;                     /* 1 << TB_F32, ...; the lowest is the default */
    const char *const *peers;            /* NULL at the end; NULL: none */
    tb_status (*run)(tb_bench_run *run); /* once a shape and peer */
} tb_bench;

/* Kinds as they are typed ("train-step"); what is not known is an error that names the nearest, or all. `name` of
 * a dtype NULL: the kind's first. */
void tb_bench_spell(const tb_bench *kind, char out[TB_BENCH_NAME]);
TB_MUST_USE tb_status tb_bench_find(const char *word, const tb_bench **out);
TB_MUST_USE tb_status tb_bench_parse_shape(const tb_bench *kind, const char *word, tb_bench_shape *out);
TB_MUST_USE tb_status tb_bench_find_peer(const tb_bench *kind, const char *name, const char **out);
TB_MUST_USE tb_status tb_bench_find_dtype(const tb_bench *kind, const char *name, tb_dtype *out);

#define TB_BENCH(name_, ...)  const tb_bench tb_bench_##name_ = {.name = #name_, __VA_ARGS__}
#define TB_BENCH_ENTRY(name_) extern const tb_bench tb_bench_##name_;
#include "tb_bench_list.inc"
#undef TB_BENCH_ENTRY
