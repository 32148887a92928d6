/* Data parallelism: every rank has the whole model and a share of the batch; gradients are summed over the ranks while
 * the backward pass still runs.
 *
 * All gradients are views into one arena, in the order in which the backward pass completes them (seen in the first
 * step, as rank 0 saw it), cut into buckets. A hook on each parameter counts its bucket down; a full bucket's sum
 * starts at once, in the order of buckets, and earlier ones are helped along at every hook. So nothing is copied and
 * ranks call the same collectives in the same order, whatever their timing. (Li et al., "PyTorch Distributed", 2020.)
 *
 * A sum over ranks is a pairwise tree in rank order per element, so bucket size, backend and timing never change a
 * bit; with tb_ctx_set_batch_blocks(ctx, 8 / ranks) the sums are those of one rank with the whole batch. A parameter
 * that several parts share (a tied head) has a sum over the ranks for each, joined at the end, because one rank too
 * first finishes each sum over the batch and then adds them.
 *
 * With `update` a rank also makes the optimizer's step of the share that it sums, so optimizer state is shared out
 * among the ranks and what they get back are parameters, in one pass over memory (Rajbhandari et al., "ZeRO: Memory
 * Optimizations Toward Training Trillion Parameter Models", 2020: stage 1). Steps of elements are independent, so the
 * bits stay the same. Parameters with several uses are summed as before and updated by every rank.
 *
 * Refused: models with buffers (running averages of batch_norm) on several ranks; graphs that differ between ranks or
 * between steps in which parameters get gradients; a parameter that never gets one counts as zero. One context and
 * thread; collective. */
#pragma once
#include "tb_comm.h"
#include "tb_optim.h"

typedef struct tb_ddp tb_ddp;

typedef struct tb_ddp_config {
    tb_params *params;    /* borrowed; takes over their gradients' memory */
    tb_comm *comm;        /* borrowed */
    int64_t bucket_bytes; /* 0: 1 MiB */
    const tb_optim_config *update; /* NULL: an optimizer of the caller's takes the step. f32; no clipping, whose norm
                                      would need all sums before the first update */
} tb_ddp_config;

TB_MUST_USE tb_status tb_ddp_create(const tb_ddp_config *config, tb_ddp **out);
/* The parameters' gradients have their own memory again, empty. NULL is accepted. */
void tb_ddp_destroy(tb_ddp *d);
/* Before a backward pass. `sync` false: its gradients only accumulate here (all but the last micro-batch of a step). */
void tb_ddp_begin(tb_ddp *d, bool sync);
/* Behind the backward pass that was begun with sync: gradients are the sums over all ranks when it returns. */
TB_MUST_USE tb_status tb_ddp_finish(tb_ddp *d);
/* With `update`, instead of finish and an optimizer's step: parameters are updated, gradients forgotten. */
TB_MUST_USE tb_status tb_ddp_step(tb_ddp *d);
void tb_ddp_set_rate(tb_ddp *d, double rate);     /* of later steps */
int64_t tb_ddp_steps(const tb_ddp *d);            /* taken so far, those of a checkpoint included */
int64_t tb_ddp_state_bytes(const tb_ddp *d);      /* optimizer state on this rank; known once the first step is done */
int64_t tb_ddp_sum_ns(const tb_ddp *d); /* of the last step: time in posting, helping along and awaiting sums */
int tb_ddp_buckets(const tb_ddp *d);
int64_t tb_ddp_bytes(const tb_ddp *d); /* of the arena: what a step sums */

/* ---- checkpoints of parameters, buffers and an optimizer that is shared out (`update`): a folder with one safetensors
 * file a rank, its state under "optim/<parameter>/<state>/<first element>", and manifest.safetensors ---- */
/* Collective, between steps, after the first. The folder holds the last whole checkpoint at any time. */
TB_MUST_USE tb_status tb_ddp_save(const tb_ddp *d, const char *folder);
/* Collective, before the first step, on any number of ranks and with any size of buckets: the steps that follow have
 * the bits that they would have had. CONFIG: of another model or optimizer; PARSE: a shard is not the manifest's. After
 * a failure `d` can only be destroyed. */
TB_MUST_USE tb_status tb_ddp_load(tb_ddp *d, const char *folder);
