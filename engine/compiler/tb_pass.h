/* Passes: functions that improve a graph, and the manager that runs and checks them.
 *
 * After every pass the graph is verified; `max_rewrites` stops after so many rewrites, so that a wrong one can be
 * found by bisection. Every pass keeps the bits of the result, except those marked inexact, which `strict` leaves
 * out; of these, what sums products in another order than eager execution runs only where `fast` asks for it. */
#pragma once
#include "tb_graph.h"

typedef struct tb_pass_run tb_pass_run;

typedef struct tb_pass {
    const char *name, *doc;
    bool is_inexact; /* may change rounding */
    bool is_fast;    /* sums in another order; only with `fast` */
    bool is_fusion;  /* makes one node of several; not with `no_fusion` */
    tb_status (*run)(tb_graph *g, tb_pass_run *r);
} tb_pass;

typedef struct tb_compile_opts {
    bool strict, fast;
    bool no_fusion;         /* graph passes only (simplify, fold, plan) */
    int64_t max_rewrites;   /* 0: no limit */
    const char *dump_dir;   /* folder (made if missing) for NN-<pass>.tbir after every pass; NULL: no dumps */
    const tb_pass *also;    /* one more pass, run last: for tests of what finds a wrong rewrite; or NULL */
    tb_text *why;           /* gets a line for every edge that was not fused, with the reason; or NULL */
} tb_compile_opts;

typedef struct tb_compile_report {
    int n_passes;
    struct {
        const char *pass;
        int64_t rewrites;
        int nodes_after;
    } pass[16];
    int n_rewrites; /* kinds of them, in the order in which they were first made */
    struct {
        const char *name;
        int64_t n;
    } rewrite[16];
} tb_compile_report;

/* For passes: asks for one more rewrite of this name (a literal); false when the limit is reached. */
bool tb_pass_may_rewrite(tb_pass_run *r, const char *name);
int tb_pass_count(void);
const tb_pass *tb_pass_at(int index); /* in the order in which they run */
/* Runs all passes on `g`. `opts` and `report` may be NULL. The current context runs what is folded. */
TB_MUST_USE tb_status tb_compile(tb_graph *g, const tb_compile_opts *opts, tb_compile_report *report);
