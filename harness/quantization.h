/* A trained model in integers: calibration, which layers stay f32, and the report of what that cost and gave. */
#pragma once
#include "deploy.h"
#include "tb_quant.h"

typedef struct tb_quantization_config {
    tb_model *model;
    const tb_dataset *data;
    const char *name;
    int64_t context;           /* text: tokens of a row */
    int64_t calibration_rows;  /* first rows of the training part (text: windows) */
    int64_t batch;             /* rows of a calibration run and of an evaluation run */
    tb_observer_kind observer;
    bool is_dynamic;           /* rows quantized on the spot: no calibration (text, transformers) */
    double budget;             /* share of right answers that may be lost */
} tb_quantization_config;

typedef struct tb_quantized_layer {
    char name[64];
    int node;                  /* of the f32 graph */
    double macs_share;
    bool is_int8;
    const char *reason;        /* of what stays f32 */
    double sqnr_db;            /* of its input, held against f32 on rows that calibration did not see; NAN: dynamic */
    int64_t values, clipped, saturated; /* of its input, there: all, outside of the range, at the end of it */
    double alone_db;           /* SQNR of the logits when this layer alone is in integers */
    double f32_us, int8_us;    /* of one run of `batch` rows; with what is fused to it */
} tb_quantized_layer;

enum { TB_QUANTIZED_LAYERS = 64 };

typedef struct tb_quantization {
    tb_graph *graph;           /* in integers, compiled */
    tb_quant_report rewrite;
    int n_layers;
    tb_quantized_layer layer[TB_QUANTIZED_LAYERS];
    double validation_drop;    /* on the rows by which layers went back to f32 */
    int64_t answers;           /* of the test part: images, or tokens that were to be guessed */
    double accuracy_f32, accuracy_int8;
    double drop, drop_low, drop_high; /* paired, 95 % */
} tb_quantization;

TB_MUST_USE tb_status tb_quantize_model(const tb_quantization_config *config, tb_quantization *out);
void tb_quantization_free(tb_quantization *q);
void tb_quantization_json(const tb_quantization_config *config, const tb_quantization *q, tb_text *to);
void tb_quantization_print(const tb_quantization_config *config, const tb_quantization *q);
