/* INT8 quantization of a captured graph after training.
 *
 * Calibration runs the f32 graph on real rows and notes the range of every value; the rewrite then turns
 * linear layers and convolutions with constant weights into integer ones (engine/ops/quantized.c has the
 * scheme). A chain of layers, relu, max pooling, residual sums, averages and flattening stays in u8, images
 * with their channels last; bytes of an input that are only scaled and shifted are taken as they are. What
 * stays f32 is counted: the share of multiply-adds that became integer is part of every report. */
#pragma once
#include "tb_exec.h"

/* What becomes of the values that calibration sees. */
typedef enum tb_observer_kind {
    TB_OBSERVE_MINMAX,         /* the extremes of all runs */
    /* extremes of a run, averaged over the runs with weight TB_OBSERVE_WEIGHT for the last */
    TB_OBSERVE_MOVING_AVERAGE,
    TB_OBSERVE_PERCENTILE      /* what holds the share TB_OBSERVE_SHARE of the values that are not 0 */
} tb_observer_kind;
#define TB_OBSERVE_WEIGHT 0.1
#define TB_OBSERVE_SHARE 0.9999

/* Ranges of the first result of every node of one graph. */
typedef struct tb_ranges {
    tb_observer_kind kind;
    int n_nodes;
    float *lo, *hi;
    int64_t *runs;                   /* that showed the node's result; 0: it has no range */
    struct tb_histogram **histogram; /* percentile: of negative and of positive values, per node */
    tb_status status;                /* of the observation: TB_ERR_OOM makes the ranges useless */
} tb_ranges;

TB_MUST_USE tb_status tb_ranges_create(const tb_graph *g, tb_observer_kind kind, tb_ranges *out);
void tb_ranges_free(tb_ranges *r);
/* Every later run of `s` counts (all f32 results), until
 * tb_session_observe(s, NULL, NULL). `r` must outlive that. */
void tb_ranges_observe(tb_ranges *r, tb_session *s);

/* What u8 with these ranges makes of the values of later runs: per node of the calibrated graph. SQNR is
 * 10 log10(signal / noise) dB. */
typedef struct tb_quant_tensor {
    int64_t n, clipped;   /* values seen; outside of the range */
    int64_t saturated;    /* at the highest integer, or at the lowest where that is not 0 itself */
    double signal, noise; /* sums of squares of the values, of their errors */
    int64_t ns;           /* time of the node */
} tb_quant_tensor;
typedef struct tb_quant_measure {
    const tb_ranges *ranges; /* borrowed */
    tb_quant_tensor *at;     /* [ranges->n_nodes] */
} tb_quant_measure;
TB_MUST_USE tb_status tb_quant_measure_create(const tb_ranges *ranges, tb_quant_measure *out);
void tb_quant_measure_free(tb_quant_measure *m);
void tb_quant_measure_observe(tb_quant_measure *m, tb_session *s);

typedef struct tb_quant_report {
    int n_layers, n_quantized;
    double macs, int8_macs; /* multiply-adds of all products (layers, attention) at N = 1; the integer ones */
    int n_kept;             /* products left f32, with the reason */
    struct {
        char layer[64];
        const char *reason;
    } kept[64];
} tb_quant_report;

/* Multiply-adds of a node at N = 1; 0 of what is no product. */
double tb_quant_macs(const tb_graph *g, int node);
typedef struct tb_quant_opts {
    const bool *keep; /* keep[n]: node n stays f32; NULL: none */
    bool islands;     /* also convolutions whose image comes and goes in f32, which do not pay: for sensitivities */
} tb_quant_opts;

/* `g` must be the graph that was calibrated (same values); `opts` may be NULL. Verified afterwards. */
TB_MUST_USE tb_status tb_quantize_graph(tb_graph *g, const tb_ranges *r, const tb_quant_opts *opts,
                                        tb_quant_report *report);
/* Linear layers, but for those of keep[], with inputs that are quantized on the spot, row by row
 * (engine/ops/linear_dynamic_s8.c): no calibration, for transformers. */
TB_MUST_USE tb_status tb_quantize_graph_dynamic(tb_graph *g, const bool *keep, tb_quant_report *report);
