/* Does a graph compute after the passes what it computed before?
 *
 * Whole: the captured and the compiled graph run on the same rows; their outputs may differ by `limit`, relative
 * to the largest output: 1e-4, or 0 where opts->strict. Groups: every node of the compiled graph is computed again from
 * its real operands by its op's reference, plain loops with sums in f64 (of a fused op: the separate steps); exact ops
 * must have its bits, others may be 64 rounding errors (of their dtype) of the largest result off, times the root of
 * the terms of a sum. Where the whole is wrong, the number of rewrites is bisected until one is left that makes it so.
 */
#pragma once
#include "tb_pass.h"

typedef struct tb_verify_group {
    int node; /* of the compiled graph */
    const char *op;
    char kernel[64];
    double max_abs, sqnr_db; /* difference; signal over its noise, infinite where there is none */
    double worst;            /* the largest difference in units of what is allowed: above 1 is wrong */
} tb_verify_group;

typedef struct tb_verify_report {
    double difference, limit; /* of the whole */
    int n_groups;
    tb_verify_group *groups; /* in the order of the compiled graph */
    int n_wrong;             /* groups */
    int64_t culprit;         /* the rewrite that makes the whole wrong, from 1; 0: none does */
    const char *culprit_pass;
    tb_text culprit_change; /* ops that it took away and put in: "-relu +neg" */
} tb_verify_report;

/* `g` (unchanged) as captured; sizes and in as for tb_session_run. Runs in ctx, the current one, which from here on is
 * limited to kernels up to `isa` (tb_ctx_limit_kernels: to try several, begin with the highest). TB_ERR_PARITY where
 * the whole or a group is wrong; the report is filled then too. tb_verify_report_free() in every case. */
TB_MUST_USE tb_status tb_verify_graph(const tb_graph *g, const tb_compile_opts *opts, tb_ctx *ctx, tb_isa isa,
                                      const int64_t *sizes, const void *const *in, tb_verify_report *out);
void tb_verify_report_free(tb_verify_report *r);

/* A graph of one input "x" f32 [N, 6] with one or two outputs: diamonds, values used several times, dead branches,
 * broadcasts of either operand and of both, constants of no dimension. The same for the same seed. */
enum { TB_RANDOM_GRAPH_WIDTH = 6 };
TB_MUST_USE tb_status tb_random_graph(uint64_t seed, tb_graph **out);
