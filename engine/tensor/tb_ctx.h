/* The context: everything mutable that a rank or a server worker has. Several contexts live in one process; a
 * context is used by one thread at a time, and the calling thread's current context keeps calls short. */
#pragma once
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_device.h"
#include "tb_pool.h"

typedef struct tb_ctx tb_ctx;

typedef struct tb_ctx_config {
    int threads;        /* intra-op threads; 0 means 1 */
    uint64_t seed;      /* root of all random streams */
    const char *device; /* NULL means "cpu" */
    const int *cores;   /* threads are bound to these; NULL leaves them where they are */
    int n_cores;
} tb_ctx_config;

TB_MUST_USE tb_status tb_ctx_create(const tb_ctx_config *config, tb_ctx **out);
/* Closes what is open. Debug builds report on stderr what was left open or is still alive; returns how many scopes and
 * tensors or blocks that were. NULL: 0. */
int64_t tb_ctx_destroy(tb_ctx *ctx);
tb_ctx *tb_ctx_enter(tb_ctx *ctx); /* becomes the thread's current context; returns the one before (or NULL) */
tb_ctx *tb_ctx_current(void);      /* NULL when the thread has none */

tb_heap *tb_ctx_heap(tb_ctx *ctx);
tb_pool *tb_ctx_pool(tb_ctx *ctx);
const tb_device *tb_ctx_device(const tb_ctx *ctx);
tb_isa tb_ctx_isa(const tb_ctx *ctx);
/* Kernels of a higher ISA, or any kernel at all (ref_only), are not used from here on: for tests and ablations. */
void tb_ctx_limit_kernels(tb_ctx *ctx, tb_isa isa, bool ref_only);

/* What new tensors are accounted as; returns the tag before. Ops make TB_MEM_ACT unless told otherwise. */
tb_mem_tag tb_ctx_set_tag(tb_ctx *ctx, tb_mem_tag tag);

/* Sums over the batch are a pairwise tree over 8 equal blocks of the global batch. A rank that holds 1/p of it
 * computes its 8/p blocks; communication finishes the tree. Default 8 (one rank holds all). Powers of two up to 8. */
TB_MUST_USE tb_status tb_ctx_set_batch_blocks(tb_ctx *ctx, int blocks);
int tb_ctx_batch_blocks(const tb_ctx *ctx);

/* Mixed precision: linear layers and matrix products of f32, and their gradients, round their operands to bf16 and sum
 * in f32. Weights, activations, gradients and every other op stay f32. Off by default; where no such kernel fits, and
 * in ref, products are f32. */
void tb_ctx_set_bf16_products(tb_ctx *ctx, bool on);
bool tb_ctx_bf16_products(const tb_ctx *ctx);
/* The same through f16: operands become f16 tensors (which the tape keeps), sums are f32, results are rounded to f16
 * and widened again; gradients of operands alike, so small ones vanish and large ones overflow where the loss is not
 * scaled (tb_loss_scale). A bias is added in f32. Off by default. */
void tb_ctx_set_f16_products(tb_ctx *ctx, bool on);
bool tb_ctx_f16_products(const tb_ctx *ctx);

/* Random streams: keyed by what is computed (step, micro-batch, use), never by rank. `stream` restarts the count of
 * uses; `first_sample` is the global index of row 0 of this rank's batch, so that per-sample draws do not depend on
 * how the batch was sharded. */
void tb_ctx_set_stream(tb_ctx *ctx, uint64_t stream, int64_t first_sample);
uint64_t tb_ctx_seed(const tb_ctx *ctx);

/* The first failure of an op since it was last taken: moves it to the thread's record and returns its status; TB_OK
 * when there was none. Status-returning calls do this for the caller. */
TB_MUST_USE tb_status tb_ctx_take_error(tb_ctx *ctx);
/* Appends " (...)" to its sentence, where one is pending: the layer that a poison came from. */
void tb_ctx_add_error(tb_ctx *ctx, const char *fmt, ...) TB_PRINTF(2, 3);

int64_t tb_ctx_live_tensors(const tb_ctx *ctx);
