/* One trained model of images or of text, four ways to run it:
 *
 *   e0  eager, op by op, with the best kernels
 *   e1  the captured graph: simplified, folded, planned; the bits of e0
 *   e2  e1 with batch norm in the weights, and fusion; is_fast: and passes that sum in another order
 *   e3  e2 with integer layers: images by calibrated ranges, rows of text quantized on the spot
 *
 * All take raw bytes (pixels, or characters) and give logits. */
#pragma once
#include "layer_times.h"
#include "tb_ctx.h"

enum { TB_ARMS = 4, TB_ARM_FUSED = 2, TB_ARM_INT8 = 3, TB_ARMS_CHECK_BATCH = 200 };

typedef struct tb_arms_config {
    tb_ctx *ctx;              /* current, and stays so */
    const char *model, *data; /* specification of the model; name of a data set */
    int64_t context;          /* text: bytes of a row; 0: only images are wanted */
    bool is_stepped;          /* text: a call reads the next byte of each row, not whole rows (stepper.h) */
    bool is_fast;             /* e2, e3: compiled with `fast` (tb_pass.h) */
    int64_t batch;            /* rows of a call */
    int64_t train_steps, train_batch;
    double rate;         /* highest of the training: 100 steps (or a tenth of them) up, then a cosine to 0 */
    double decay;        /* of weights */
    bool adamw;          /* false: SGD with momentum 0.9 and look-ahead */
    const char *weights; /* file that points share (weights.h); NULL: train here */
    uint64_t seed;
    void (*progress)(void *arg, int64_t step, int64_t steps); /* of the training */
    void *arg;
} tb_arms_config;

typedef struct tb_arms_facts {
    const char *model_spec, *test_sha256;
    double train_loss;
    double accuracy_f32,
        accuracy_int8;          /* on all test images, or bytes of the first windows of the test text */
    double loss_f32, loss_int8; /* nats, there */
    double drop_low, drop_high; /* 95 % interval of the accuracies' difference, paired: by answer */
    double difference; /* largest between e0 and e1; 0: the same bits. Stepped: of both from whole rows op by op */
    double fused_difference; /* largest between e0 and e2, relative to the largest logit */
    double int8_mac_share;              /* of the multiply-adds of linear and convolution layers */
    double plan_bytes, plan_bound_bytes, plan_naive_bytes; /* of e2 at `batch` */
} tb_arms_facts;

typedef struct tb_arms tb_arms;

/* Trains, captures, compiles, calibrates on training rows, quantizes. */
TB_MUST_USE tb_status tb_arms_create(const tb_arms_config *config, tb_arms **out);
void tb_arms_destroy(tb_arms *a); /* NULL is accepted */
TB_MUST_USE tb_status tb_arms_check(tb_arms *a, tb_arms_facts *out);
/* One call of an arm on the `turn`-th window of test rows; stepped: `context` turns read one, from place 0 on. */
TB_MUST_USE tb_status tb_arms_run(tb_arms *a, int arm, int64_t turn);
/* Of arm 1 to 3, at `batch`. */
TB_MUST_USE tb_status tb_arms_layer_times(tb_arms *a, int arm, tb_layer_times *out);
/* What a call of an arm does: operations of the products (two a multiply-add), and bytes of every node's operands and
 * results, each once; views have none. e0: as e1, whose graph is what e0 does op by op. */
typedef struct tb_arms_work {
    double flop, bytes;
} tb_arms_work;
tb_arms_work tb_arms_work_of(const tb_arms *a, int arm);
int64_t tb_arms_tokens(const tb_arms *a); /* bytes of text that a call reads; 0: images */
/* The graph of arms 1 to 3 as text; the caller frees it with tb_free. */
char *tb_arms_text(const tb_arms *a, int arm);

/* ---- for serving ---- */
/* Writes arm 1, 2 or 3 as a deploy artefact. */
TB_MUST_USE tb_status tb_arms_export(const tb_arms *a, int arm, const char *name, int64_t max_batch, const char *dir);
/* Test images, [*n, *pixels] bytes, borrowed; and what an arm answers for the first `n` of them, computed here:
 * logits[n * classes]. */
const uint8_t *tb_arms_images(const tb_arms *a, int64_t *n, int64_t *pixels);
TB_MUST_USE tb_status tb_arms_answers(tb_arms *a, int arm, int64_t n, float *logits);
/* Stepped: the `tokens` bytes that an arm 1 to 3 finds most likely behind the `bytes` at the start of text[bytes +
 * tokens], written there; together at most `context` + 1. */
TB_MUST_USE tb_status tb_arms_continue(tb_arms *a, int arm, int64_t bytes, int64_t tokens, uint8_t *text);
/* The test text, borrowed. */
const uint8_t *tb_arms_test_text(const tb_arms *a, int64_t *bytes);

/* ---- for peers ---- */
/* One safetensors file: the weights and buffers, the first test rows ("rows", [n, bytes] u8), what e0 answers
 * for them
 * ("logits", [n * answers, classes] f32), and the notes "model", "scale", "shift": x = byte * scale - shift, and
 * "form": "whole", or "step" where a call reads a byte of each row. */
TB_MUST_USE tb_status tb_arms_save(tb_arms *a, const char *path);
