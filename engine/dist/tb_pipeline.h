/* Pipeline parallelism: a rank runs its list of a schedule over real tensors.
 *
 * Stage s is blocks cuts[s] .. cuts[s+1]-1 of a model. F runs the stage on a micro-batch whose graph then stays alive
 * until B (or I and W) has walked it; what crosses to the next stage is a leaf there, and its gradient comes back the
 * same way. An output is let go when it has been sent: only the graph stays, not the bytes at its end.
 *
 * A stage's weight gradients are added over the micro-batches in ascending order (the checker demands it), and losses
 * likewise; so every schedule, however many ranks it has, gives the weights of plain accumulation to the last bit.
 * Random streams are keyed by (step, micro-batch, block): they do not depend on the cuts either.
 *
 * Several pipelines may share a step's batch (a grid: data x stages). Each has its own micro-batches; REDUCE then sums
 * a stage's gradients over the ranks that hold it. So two orders are named: a fold over the micro-batches of a
 * pipeline, and tb_comm.h's pairwise tree over the pipelines; any grid with as many pipelines gives the same bits, and
 * one rank gives them that folds each pipeline's share by itself and adds the sums by the tree.
 *
 * Memory: between two actions a rank holds what tb_schedule_peaks() says, exactly, for the stage bytes that
 * tb_pipeline_stage_bytes() counts on any device, `meta` included: before the first step. Held bytes are those of
 * tensors' elements; the graphs' own structures (tag `other`) are counted apart.
 *
 * Refused: recomputation with a split backward (a recomputed segment gives both gradients at once). A parameter on
 * two ranks (a tied head). Not known to any rank: the global norm, so the optimizer must not clip by it. All calls in
 * one context, which must be current; they are collective over the ranks. */
#pragma once
#include "tb_comm.h"
#include "tb_model.h"
#include "tb_optim.h"
#include "tb_schedule.h"

/* Where micro-batches come from. Results belong to the current scope. Recomputation asks again, so both are functions
 * of their arguments alone. */
typedef struct tb_pipeline_source {
    tb_tensor *(*input)(void *arg, int64_t step, int64_t microbatch);                    /* on the first stage's rank */
    tb_tensor *(*loss)(void *arg, int64_t step, int64_t microbatch, tb_tensor *output);  /* on the last stage's rank:
                                  one f32, divided so that the sum over the micro-batches is the loss of the step */
    void *arg;
} tb_pipeline_source;

typedef struct tb_pipeline_config {
    const tb_schedule *schedule; /* borrowed, as all below; checked once more */
    tb_model *model;             /* at least the blocks of this rank's stages */
    const int *cuts;             /* [stages + 1]: 0, ..., number of blocks, ascending */
    int64_t rows, time;          /* of a micro-batch: TB_DIM_BATCH and TB_DIM_TIME of the boundaries */
    bool recompute;              /* F keeps the blocks' inputs alone; B runs each block once more */
    tb_pipeline_source source;
    tb_optim *optim;             /* over the model's parameters; NULL: OPT does nothing and gradients stay (with
                                    replicas the caller clears them before the next step) */
    tb_comm *comm;               /* ranks of the schedule; NULL: one */
    tb_comm *replicas;           /* ranks of other pipelines with the same stages; NULL: one pipeline */
    int64_t first_microbatch;    /* of this pipeline in the step: its own are numbered from it for the source and for
                                    random streams */
    /* Called after each action, with what is held above the static bytes. NULL: nobody listens. */
    void (*on_action)(void *arg, const tb_action *a, int64_t t0_ns, int64_t t1_ns, int64_t held_bytes);
    void *on_action_arg;
} tb_pipeline_config;

typedef struct tb_pipeline tb_pipeline;

/* INVALID: the schedule or the cuts are not sound; the sentence says where. */
TB_MUST_USE tb_status tb_pipeline_create(const tb_pipeline_config *config, tb_pipeline **out);
void tb_pipeline_destroy(tb_pipeline *p); /* NULL is accepted */
/* One step. *loss: of the whole batch before the update, of all pipelines, the same on every rank. */
TB_MUST_USE tb_status tb_pipeline_step(tb_pipeline *p, double *loss);

typedef struct tb_pipeline_memory {
    int64_t static_bytes;                /* live when a step begins: parameters, gradients, optimizer state */
    int64_t held_bytes;                  /* most that was held above that between two actions */
    int64_t act_bytes;                   /* the same without boundary tensors on their way */
    int64_t peak_bytes;                  /* most that existed at any time, static bytes and transients included */
    int64_t held_by_tag[TB_MEM_TAGS];    /* what held_bytes is made of; [TB_MEM_OTHER]: graph structures beside it */
} tb_pipeline_memory;
/* Of the last step. Reads the heap's peak, which each step starts anew. */
void tb_pipeline_get_memory(const tb_pipeline *p, tb_pipeline_memory *out);

/* Bytes of each stage, by running one micro-batch through all of them here. c->model has all blocks; c->comm and
 * c->optim are not used. bytes[stages]; `rebuilt` stays 0: transients are not predicted. */
TB_MUST_USE tb_status tb_pipeline_stage_bytes(const tb_pipeline_config *c, tb_stage_bytes *bytes);
/* Cuts blocks with these costs into `stages` consecutive groups of which the dearest is as cheap as possible:
 * cuts[stages + 1]. INVALID: fewer blocks than stages. */
TB_MUST_USE tb_status tb_pipeline_cut(int blocks, const double *cost, int stages, int *cuts);
/* SHA-256 over the parameters of all ranks, by name: the same digits for the same weights, however they are spread. */
TB_MUST_USE tb_status tb_pipeline_weights_hash(const tb_pipeline *p, char hex[65]);
