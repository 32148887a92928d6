/* Tensors: a dtype, up to 8 dimensions, strides in elements, and a share of a storage.
 *
 * Ownership: what an op or a creation function returns belongs to the current scope and dies with it. tb_retain()
 * keeps a tensor beyond that, tb_release() gives such a claim back. Views share their storage.
 * A failed op returns the *poison* tensor: every op passes it on, every getter survives it (dtype f32, rank 0), and
 * the context keeps the cause until a status-returning call takes it. NULL always means "absent optional". */
#pragma once
#include "tb_ctx.h"
#include "tb_dtype.h"

enum { TB_MAX_RANK = 8 };

typedef struct tb_tensor tb_tensor;
typedef struct tb_scope tb_scope;

/* ---- scopes ---- */
tb_scope *tb_scope_open(void);                        /* becomes the current scope; NULL on failure (kept as cause) */
void tb_scope_close(tb_scope *scope);                 /* releases what it owns; scopes close in any order; NULL ok */
tb_tensor *tb_scope_escape(tb_scope *scope, tb_tensor *t); /* hands `t` to the parent, closes, returns `t` */
void tb_scope_keep(tb_scope *scope, tb_tensor *t);    /* hands `t` to the parent, does not close */
tb_scope *tb_scope_switch(tb_scope *scope);           /* makes it current, returns the one before; for interleaving */

/* ---- creation; results belong to the current scope ---- */
tb_tensor *tb_tensor_empty(tb_dtype dtype, int rank, const int64_t *dims);     /* contents undefined */
tb_tensor *tb_tensor_from(tb_dtype dtype, int rank, const int64_t *dims, const void *host); /* copies */
tb_tensor *tb_scalar(tb_dtype dtype, double value);                            /* 0-d */
/* A tensor over memory that somebody else owns (a shared gradient arena); cpu device only. `memory` must be 64-byte
 * aligned and outlive the tensor and its views. */
tb_tensor *tb_tensor_wrap(tb_dtype dtype, int rank, const int64_t *dims, void *memory);
tb_tensor *tb_poison(void);

tb_tensor *tb_retain(tb_tensor *t);
void tb_release(tb_tensor *t);                        /* NULL is accepted */

/* ---- getters ---- */
bool tb_is_poison(const tb_tensor *t);
tb_dtype tb_tensor_dtype(const tb_tensor *t);
int tb_tensor_rank(const tb_tensor *t);
int64_t tb_tensor_dim(const tb_tensor *t, int axis);  /* negative counts from the end; 0 when out of range */
const int64_t *tb_tensor_dims(const tb_tensor *t);
const int64_t *tb_tensor_strides(const tb_tensor *t); /* elements */
int64_t tb_tensor_numel(const tb_tensor *t);
size_t tb_tensor_bytes(const tb_tensor *t);           /* numel * element size */
bool tb_tensor_is_contiguous(const tb_tensor *t);
uint32_t tb_tensor_version(const tb_tensor *t);       /* of the storage: changes with every write in place */
void tb_tensor_set_tag(tb_tensor *t, tb_mem_tag tag); /* re-accounts its storage */
void tb_tensor_set_name(tb_tensor *t, const char *name); /* copied, cut at 47 characters; shown in errors */
const char *tb_tensor_name(const tb_tensor *t);       /* "" when it has none */

/* ---- data; status-returning, so they take pending errors ---- */
TB_MUST_USE tb_status tb_tensor_read(tb_tensor *t, void *host, size_t bytes);        /* in row-major order */
TB_MUST_USE tb_status tb_tensor_write(tb_tensor *t, const void *host, size_t bytes); /* contiguous t only */
TB_MUST_USE tb_status tb_item_f64(tb_tensor *t, double *out);                        /* exactly one element */
TB_MUST_USE tb_status tb_item_f32(tb_tensor *t, float *out);
TB_MUST_USE tb_status tb_item_i64(tb_tensor *t, int64_t *out);
/* The host address of a contiguous tensor on an always-open device (cpu), NULL elsewhere. A write through it must be
 * announced with tb_tensor_touch(). */
void *tb_tensor_host(tb_tensor *t);
void tb_tensor_touch(tb_tensor *t);
/* `t` moves to the memory of `onto` (alike, both contiguous) and holds what is there; what it held is let go. Its views
 * stay behind; no graph may have saved it. */
TB_MUST_USE tb_status tb_tensor_rebase(tb_tensor *t, const tb_tensor *onto);

/* "[32, 784]" in a buffer of the calling thread that the eighth next call reuses. */
const char *tb_shape_text(const tb_tensor *t);
const char *tb_dims_text(int rank, const int64_t *dims);
