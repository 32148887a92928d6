/* Training: the state of a run, its step, evaluation, sampling, checkpoints.
 *
 * A step is a pure function of (weights, optimizer state, step number): batches come from (seed, position), random
 * streams from (seed, step, micro-batch). So a run that stopped and resumed has the bits of one that never stopped,
 * and 1, 2, 4 or 8 ranks have the same bits where the micro-batch is a multiple of 8 and nothing is accumulated (other
 * rank counts differ in rounding; with accumulation each rank first adds its own micro-batches). */
#pragma once
#include "tb_comm.h"
#include "tb_data.h"
#include "tb_model.h"
#include "tb_optim.h"

typedef struct tb_trainer_config {
    tb_model *model;        /* borrowed, as all below; the trainer switches it to training */
    const tb_dataset *data;
    tb_optim_config optim;  /* its rate is the schedule's */
    tb_lr_schedule schedule;
    int64_t batch;          /* rows of a step, over all ranks and micro-batches */
    int microbatches;       /* a step accumulates this many; 0 means 1; divides batch */
    int64_t context;        /* text: tokens of a row */
    uint64_t seed;          /* of order and dropout */
    int ahead;              /* micro-batches prefetched by a thread; 0: none */
    double loss_scale;      /* dynamic loss scaling starts here, a power of two (for products of f16); 0: none */
    int64_t scale_growth;   /* good steps until it doubles; 0 means 2000 */
    tb_comm *comm;          /* data parallelism: each rank computes its share of every micro-batch; NULL: one rank */
} tb_trainer_config;

typedef struct tb_trainer tb_trainer;

/* In the current context, which must stay current for all calls. Makes the model's gradient arena and sets the
 * context's batch blocks. Collective, as steps are; ranks start from the same weights since those follow from the
 * seed. */
TB_MUST_USE tb_status tb_trainer_create(const tb_trainer_config *config, tb_trainer **out);
void tb_trainer_destroy(tb_trainer *t); /* NULL is accepted */
/* One optimizer step. *loss: the mean over the global batch before the step, the same on every rank. A failure leaves
 * the optimizer's step undone. With loss scaling, so does overflow of a gradient: the step is counted and skipped. */
TB_MUST_USE tb_status tb_trainer_step(tb_trainer *t, double *loss);
int64_t tb_trainer_steps(const tb_trainer *t);
int64_t tb_trainer_steps_per_epoch(const tb_trainer *t);
const tb_optim *tb_trainer_optim(const tb_trainer *t);
const tb_loss_scale *tb_trainer_loss_scale(const tb_trainer *t); /* NULL: none */

/* ---- checkpoints: one safetensors file; parameters and buffers under their names, optimizer state as
 * "optim/<name>/m" ---- */
/* Ranks hold the same state: one of them saves, all load. */
TB_MUST_USE tb_status tb_trainer_save(const tb_trainer *t, const char *path);
/* Fails, with both values in the sentence, where model, data, seed, batch or optimizer are not those of the file. */
TB_MUST_USE tb_status tb_trainer_load(tb_trainer *t, const char *path);
/* Parameters and buffers alone, from a checkpoint or any file that holds their names. A file in which one of them is
 * missing, or is of another dtype or shape, changes none. */
TB_MUST_USE tb_status tb_model_load(tb_model *m, const char *path);
TB_MUST_USE tb_status tb_model_save(const tb_model *m, const char *path);

/* ---- evaluation ---- */
typedef struct tb_evaluation {
    int64_t targets;  /* images, or predicted bytes */
    double loss;      /* mean negative log-likelihood in nats (text: per byte) */
    double accuracy;  /* of the most likely class */
} tb_evaluation;
/* Every row of the part once, `batch` at a time, in evaluation mode, recording nothing. Text: windows of `context`
 * bytes side by side, each byte predicted from those before it in its window. Ranks of `comm` (NULL: one) share the
 * rows and get the same result. */
TB_MUST_USE tb_status tb_evaluate(tb_model *m, const tb_dataset *data, tb_split split, int64_t batch, int64_t context,
                                  tb_comm *comm, tb_evaluation *out);

/* ---- sampling from a language model over bytes ---- */
typedef struct tb_sampling {
    double temperature; /* logits are divided by it; 0: the most likely byte */
    int64_t context;    /* bytes that the model sees at most */
    uint64_t seed;
} tb_sampling;
/* Continues `prompt` (n_prompt >= 1 bytes) by n bytes, written to out. */
TB_MUST_USE tb_status tb_sample_text(tb_model *m, const tb_sampling *how, const uint8_t *prompt, int64_t n_prompt,
                                     int64_t n, uint8_t *out);
