/* INT8 quantization of a captured graph after training.
 *
 * Calibration runs the f32 graph on real rows and notes the range of every value; the rewrite then turns
 * linear layers and convolutions with constant weights into integer ones (engine/ops/quantized.c has the scheme). A chain
 * of layers, relu, max pooling and flattening stays in u8, images with their channels last; bytes of an input that are only
 * scaled and shifted are taken as they are. What stays f32 is counted: the share of multiply-adds that became integer is
 * part of every report. */
#pragma once
#include "tb_exec.h"

/* Ranges of the first result of every node of one graph. */
typedef struct tb_ranges {
    int n_nodes;
    float *lo, *hi;
    bool *seen;
} tb_ranges;

TB_MUST_USE tb_status tb_ranges_create(const tb_graph *g, tb_ranges *out);
void tb_ranges_free(tb_ranges *r);
/* Every later run of `s` widens the ranges (minimum and maximum of all f32 results), until
 * tb_session_observe(s, NULL, NULL). `r` must outlive that. */
void tb_ranges_observe(tb_ranges *r, tb_session *s);

typedef struct tb_quant_report {
    int n_layers, n_quantized;
    double macs, int8_macs; /* multiply-adds of linear and convolution layers at N = 1; the integer ones */
    int n_kept;             /* layers left f32, with the reason */
    struct {
        char layer[64];
        const char *reason;
    } kept[64];
} tb_quant_report;

/* `g` must be the graph that was calibrated (same values). Verified afterwards. */
TB_MUST_USE tb_status tb_quantize_graph(tb_graph *g, const tb_ranges *r, tb_quant_report *report);
