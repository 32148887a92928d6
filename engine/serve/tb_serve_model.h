/* What the server needs of a model: a function over rows. Whoever can run a model (a compiled graph, a test's
 * plain loops) fills this structure; the server knows nothing else about it.
 *
 * The contract that batching rests on: row r of every output depends on row r of the inputs alone, to the
 * last bit, whatever n is and whatever the other rows hold. The server checks it when it loads a model. */
#pragma once
#include "tb_dtype.h"
#include "tb_status.h"
#include <stddef.h>
#include <stdint.h>

enum { TB_SERVE_MAX_RANK = 6, TB_SERVE_MAX_TENSORS = 32, TB_SERVE_MAX_NAME = 63 };

/* A model that generates text steps: inputs "token" u8 [], "place" f32 [] (how many tokens stand before it) and states,
 * each an input S beside an output "S.next" of the same type and shape [.., tokens, width]; output "logits" f32 [<=
 * 256]. The server hands S.next back as S, in one buffer: `run` must bear in[S] == out[S.next]. What a state holds
 * behind `place` must not count. */

/* One input or output. `shape` leaves the batch dimension out; `elements` is its product, >= 1. */
typedef struct tb_serve_tensor {
    char name[TB_SERVE_MAX_NAME + 1];
    tb_dtype dtype; /* TB_F32 or TB_U8 */
    int rank;
    int64_t shape[TB_SERVE_MAX_RANK];
    int64_t elements;
} tb_serve_tensor;

typedef struct tb_serve_model tb_serve_model;
struct tb_serve_model {
    char name[TB_SERVE_MAX_NAME + 1];    /* letters, digits, '_', '-', '.' */
    char version[TB_SERVE_MAX_NAME + 1];
    int n_inputs, n_outputs;
    tb_serve_tensor inputs[TB_SERVE_MAX_TENSORS], outputs[TB_SERVE_MAX_TENSORS];
    int max_batch;                       /* rows of the largest batch that run takes, >= 1 */
    size_t weight_bytes;                 /* for listings */
    size_t scratch_bytes;                /* what run needs; 64-byte aligned, contents free between calls */

    /* in[i] is the row-major matrix [n, inputs[i].elements], out[o] likewise; 64-byte aligned; 1 <= n <=
     * max_batch. May be called from several threads at once, each with its own scratch and outputs. Allocates
     * nothing. */
    tb_status (*run)(const tb_serve_model *model, int n, const void *const *in, void *const *out,
                     void *scratch);

    /* Optional: compares the model with answers that were stored beside it; called once, before it serves. */
    tb_status (*check)(const tb_serve_model *model);
    void (*destroy)(tb_serve_model *model);
};

/* Opens the version folder `dir` (DIR/<name>/<version>) and fills *out, which the caller ends with
 * (*out)->destroy(*out). The server calls it from its loading thread. */
typedef tb_status (*tb_serve_model_opener)(void *arg, const char *dir, const char *name, const char *version,
                                           tb_serve_model **out);
