/* Parameter sets: the named, ordered tensors that a model learns, how they start, and the buffers beside
 * them: state that a step changes and no gradient does (running averages).
 *
 * Initial values are a pure function of (seed, name, index): streams are named after the parameter, so
 * neither order, rank nor thread count changes them. Makers keep the first failure of the set
 * (tb_params_status) and then return poison, so a model is written without a check per line. */
#pragma once
#include "tb_tensor.h"

/* ---- initialisers ---- */
typedef enum tb_init_kind { TB_INIT_CONSTANT, TB_INIT_UNIFORM, TB_INIT_NORMAL } tb_init_kind;
typedef struct tb_init {
    tb_init_kind kind;
    double value; /* constant; uniform in [-value, value); normal: standard deviation */
} tb_init;

tb_init tb_init_constant(double value);
tb_init tb_init_uniform(double bound);
tb_init tb_init_normal(double std);
/* He, Zhang, Ren, Sun: "Delving Deep into Rectifiers" (2015), as in PyTorch: gain = sqrt(2 / (1 + slope^2)),
 * standard deviation gain / sqrt(fan_in). torch.nn.Linear and Conv2d start with slope sqrt(5): bound 1/sqrt(fan_in). */
tb_init tb_init_kaiming_uniform(int64_t fan_in, double slope);
tb_init tb_init_kaiming_normal(int64_t fan_in, double slope);
/* Glorot, Bengio: "Understanding the Difficulty of Training Deep Feedforward Neural Networks" (2010): standard
 * deviation gain * sqrt(2 / (fan_in + fan_out)). */
tb_init tb_init_xavier_uniform(int64_t fan_in, int64_t fan_out, double gain);
tb_init tb_init_xavier_normal(int64_t fan_in, int64_t fan_out, double gain);
/* Fills a contiguous tensor of floats from (seed, stream). */
TB_MUST_USE tb_status tb_init_fill(tb_tensor *t, tb_init init, uint64_t seed, uint64_t stream);

/* ---- the set ---- */
typedef struct tb_params tb_params;

typedef struct tb_param {
    const char *name;  /* "block.0.attn.qkv.weight" */
    tb_tensor *tensor; /* a leaf that requires a gradient, contiguous, tagged param */
    bool decays;       /* weight decay is meant for it: a matrix or filter, not a bias or a norm */
    int uses;          /* parts of the model that read it: 1, and 1 for each that shares it */
} tb_param;

TB_MUST_USE tb_status tb_params_create(tb_dtype dtype, uint64_t seed, tb_params **out);
void tb_params_destroy(tb_params *ps); /* NULL is accepted */
int tb_params_count(const tb_params *ps);
const tb_param *tb_params_at(const tb_params *ps, int index);             /* in the order they were added */
const tb_param *tb_params_find(const tb_params *ps, const char *name);    /* NULL with the record filled */
int64_t tb_params_numel(const tb_params *ps);
tb_dtype tb_params_dtype(const tb_params *ps);
int tb_params_buffer_count(const tb_params *ps);
const tb_param *tb_params_buffer_at(const tb_params *ps, int index); /* a plain tensor; decays false, uses 1 */
/* SHA-256 over names, shapes and bytes of parameters, then of buffers, in order: two runs that hold the same
 * weights have the same digits. */
TB_MUST_USE tb_status tb_params_hash(const tb_params *ps, char hex[65]);

/* One contiguous arena, tagged grad, in which every parameter's gradient is a 64-byte aligned view (zero between
 * them): what is reduced, clipped and sent is one tensor. `apart`: the uses of a shared parameter have a row each
 * (tb_grad_set_buffer), to be joined when they are sums over all ranks. Call once, when the set is complete. */
TB_MUST_USE tb_status tb_params_make_arena(tb_params *ps, bool apart);
tb_tensor *tb_params_arena(const tb_params *ps); /* NULL before tb_params_make_arena */
TB_MUST_USE tb_status tb_params_join_grads(tb_params *ps); /* tb_grad_join() of each */
void tb_params_clear_grads(tb_params *ps);

/* ---- for layers and models ---- */
/* Adds "<prefix><name>". Borrowed: the set keeps it. Poison once the set has failed. */
tb_tensor *tb_params_add(tb_params *ps, const char *name, tb_init init, int rank, const int64_t *dims);
/* The same for a buffer, in the dtype of statistics: f32, or f64 where the parameters are. */
tb_tensor *tb_params_add_buffer(tb_params *ps, const char *name, double value, int rank, const int64_t *dims);
/* A parameter that an earlier part added, by full name (a tied head). */
tb_tensor *tb_params_share(tb_params *ps, const char *name);
/* While omitting, added parameters are only noted (and returned as poison): they belong to parts of the model that
 * other ranks hold. One that a part here shares is made after all, with the values it has there. */
void tb_params_omit(tb_params *ps, bool omit);
/* Names added between enter and leave start with "<part>." ("" adds nothing); nests. Returns what leave takes. */
size_t tb_params_enter(tb_params *ps, const char *part);
void tb_params_leave(tb_params *ps, size_t mark);
TB_MUST_USE tb_status tb_params_status(const tb_params *ps); /* the first failure, its sentence in the record */
/* Dropout reads it: true while training (the default is false). Lives as long as the set. */
const bool *tb_params_training(const tb_params *ps);
void tb_params_set_training(tb_params *ps, bool training);
