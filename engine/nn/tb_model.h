/* Models: lists of blocks {name, type, parameters, forward, boundaries}, found by name.
 *
 * A model is one file in engine/nn/models/ with a line `TB_MODEL(name) = {...};` found at build time. Its build
 * function adds blocks in order; each block gets what the one before gives (its boundary), so the list can be cut
 * anywhere into pipeline stages, recomputed, captured and printed. */
#pragma once
#include "tb_conf.h"
#include "tb_params.h"

enum { TB_DIM_BATCH = -1, TB_DIM_TIME = -2 }; /* dimensions that only a batch decides */

/* What passes from a block to the next. */
typedef struct tb_boundary {
    tb_dtype dtype;
    int rank;
    int64_t dims[TB_MAX_RANK]; /* sizes, or TB_DIM_* */
} tb_boundary;

typedef struct tb_model tb_model;
typedef struct tb_model_builder tb_model_builder;

/* Where the tokens of a step stand. */
typedef struct tb_step {
    tb_tensor *place; /* i64 [B], 0 <= place < capacity */
    int64_t capacity; /* tokens of a row at most */
} tb_step;

typedef struct tb_block_type {
    const char *name;
    size_t bytes; /* of the block's structure */
    /* Adds the parameters (under the block's name), fills the zeroed structure and *out. `in`: what arrives. Failures
     * go to the set (tb_params_status). */
    void (*make)(tb_params *ps, void *block, const void *config, const tb_boundary *in, tb_boundary *out);
    tb_tensor *(*forward)(const void *block, tb_tensor *x);
    /* Models that generate only; NULL where forward does for one token too. `step` as tb_model_step says, with the
     * block's own cache, whose row has the dimensions dims[0 .. the result) (`cache` NULL: it keeps none). */
    tb_tensor *(*step)(const void *block, tb_tensor *x, const tb_step *at, tb_tensor **cache);
    int (*cache)(const void *block, int64_t capacity, int64_t dims[TB_MAX_RANK]);
} tb_block_type;

typedef struct tb_block {
    const char *name; /* "block.3" */
    const tb_block_type *type;
    void *block;
    tb_boundary in, out;
    int first_param, n_params; /* its own, as indices into the model's set */
} tb_block;

/* ---- using models ---- */
/* spec: "mlp", or with options "gpt:layers=2,width=64". Parameters are made in the current context, seeded with its
 * seed. Errors name the unknown model or option and the nearest one. */
TB_MUST_USE tb_status tb_model_create(const char *spec, tb_dtype dtype, tb_model **out);
/* The same with the parameters of some blocks only: a rank of a pipeline. Blocks for which `holds` is false keep their
 * place in the list and must not be run. */
TB_MUST_USE tb_status tb_model_create_part(const char *spec, tb_dtype dtype, bool (*holds)(void *arg, int block),
                                           void *arg, tb_model **out);
void tb_model_destroy(tb_model *m); /* NULL is accepted */
const char *tb_model_spec(const tb_model *m); /* with every option spelled out: makes the same model again */
tb_params *tb_model_params(const tb_model *m);
void tb_model_set_training(tb_model *m, bool training); /* switches dropout; models start in evaluation */
int tb_model_blocks(const tb_model *m);
const tb_block *tb_model_block_at(const tb_model *m, int index);
/* x: a batch as the model's first boundary says. Returns logits [.., classes]; poison when an op failed. */
tb_tensor *tb_model_forward(const tb_model *m, tb_tensor *x);
/* Blocks first .. first + n - 1: a pipeline stage. */
tb_tensor *tb_model_forward_blocks(const tb_model *m, int first, int n, tb_tensor *x);
/* ---- generation: one token of every row at a time ---- */
int tb_model_caches(const tb_model *m); /* blocks that keep something of earlier tokens; 0: the model cannot step */
/* The rank and dimensions of a row of cache `index`, the batch left out. */
int tb_model_cache_dims(const tb_model *m, int index, int64_t capacity, int64_t dims[TB_MAX_RANK]);
/* tokens [B, 1] -> logits [B, 1, classes], the bits of the whole row's forward at that place. cache[tb_model_caches]:
 * f32 [B, ..], replaced by what they become. What a cache holds behind a row's place is never read. */
tb_tensor *tb_model_step(const tb_model *m, tb_tensor *tokens, const tb_step *at, tb_tensor **cache);

/* ---- writing models ---- */
typedef struct tb_model_type {
    const char *name, *doc;
    const tb_key *keys; /* its options */
    int n_keys;
    tb_status (*build)(tb_model_builder *b);
} tb_model_type;

#define TB_MODEL(name_) const tb_model_type tb_model_##name_
int tb_model_type_count(void);
const tb_model_type *tb_model_type_at(int index);

/* Options were checked against the keys, so that reads cannot fail; an unknown key is the model's bug (asserted). */
int64_t tb_model_int(const tb_model_builder *b, const char *key);
double tb_model_num(const tb_model_builder *b, const char *key);
const char *tb_model_str(const tb_model_builder *b, const char *key);
void tb_model_input(tb_model_builder *b, tb_dtype dtype, int rank, const int64_t *dims); /* before the first block */
tb_dtype tb_model_dtype(const tb_model_builder *b);                                     /* of parameters */
/* Adds a block; `name` is a format. The first failure stays; later calls then do nothing and return it. */
tb_status tb_model_block(tb_model_builder *b, const char *name, const tb_block_type *type, const void *config, ...)
    TB_PRINTF(2, 5);
