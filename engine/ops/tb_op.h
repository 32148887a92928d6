/* What an op is, and the one way in: tb_dispatch().
 *
 * An op is one file in engine/ops/ with a line `TB_OP(name, ...);` found at build time. The descriptor holds all
 * that the engine knows of it: shape rule, reference implementation (plain loops, sums in f64: the definition of
 * correct), the fast path through kernels, gradient, cost, test samples. Nothing else in the tree lists ops. */
#pragma once
#include "tb_kernel.h"
#include "tb_tensor.h"
#include "tb_text.h"
#ifdef __cplusplus
#include "tb_tensor.h" /* declarations are all that C++ programs need: ops are written in C */
#else
#include "tensor_internal.h"
#endif

enum { TB_MAX_OUT = 4, TB_MAX_PRIMITIVES = 4 };

typedef struct tb_op tb_op;

/* ---- attributes: one table, read by IR text, YAML and the C structure alike ---- */
typedef enum tb_attr_type { TB_ATTR_I64, TB_ATTR_F64, TB_ATTR_BOOLEAN, TB_ATTR_DTYPE_, TB_ATTR_INTS,
                            TB_ATTR_CUSTOM } tb_attr_type;
/* A list of integers (axes, dims, permutation) with its length. */
typedef struct tb_ints {
    int n;
    int64_t at[TB_MAX_RANK];
} tb_ints;
typedef struct tb_attr {
    const char *name;
    tb_attr_type type;
    uint16_t offset; /* in the op's attribute structure */
    double default_value;
    const char *doc;
    /* TB_ATTR_CUSTOM: its text form; parse moves *at behind what it read */
    void (*print)(const void *attr, tb_text *to);
    tb_status (*parse)(const char **at, const char *end, void *attr);
} tb_attr;
/* Fields have these C types: int64_t, double, bool, tb_dtype, tb_ints. */
#define TB_ATTR_(s, f, type, def, doc) {#f, type, offsetof(s, f), (def), (doc), NULL, NULL}
#define TB_ATTR_INT(s, f, def, doc) TB_ATTR_(s, f, TB_ATTR_I64, def, doc)
#define TB_ATTR_REAL(s, f, def, doc) TB_ATTR_(s, f, TB_ATTR_F64, def, doc)
#define TB_ATTR_BOOL(s, f, def, doc) TB_ATTR_(s, f, TB_ATTR_BOOLEAN, def, doc)
#define TB_ATTR_DTYPE(s, f, def, doc) TB_ATTR_(s, f, TB_ATTR_DTYPE_, def, doc)
#define TB_ATTR_LIST(s, f, doc) TB_ATTR_(s, f, TB_ATTR_INTS, 0, doc)
#define TB_ATTRS(s, table) .attrs = (table), .n_attrs = sizeof(table) / sizeof((table)[0]), .attrs_bytes = sizeof(s)

/* ---- a call ---- */
typedef struct tb_out_spec {
    tb_dtype dtype;
    int rank;
    int64_t dims[TB_MAX_RANK];
    bool is_view;                 /* out shares in[view_of]'s storage with strides and offset below */
    bool is_donated;              /* out takes over in[view_of]'s storage and layout: an update in place */
    bool is_laid_out;             /* out has storage of its own, dense, with strides below */
    int view_of;
    int64_t strides[TB_MAX_RANK]; /* of a view, or as laid out */
    int64_t offset;
} tb_out_spec;

typedef struct tb_op_call {
    const tb_op *op;
    tb_ctx *ctx;
    const void *attrs;            /* the op's structure, or NULL if it has none */
    int n_in;
    tb_tensor *const *in;         /* NULL entries are absent optional inputs */
    tb_tensor *out[TB_MAX_OUT];
    tb_out_spec spec[TB_MAX_OUT]; /* filled by the shape rule */
    const char *kernel;           /* name of the kernel that ran, or "ref", "view" */
    void *scratch[4];
    int n_scratch;
    struct tb_arena *arena;       /* where scratch comes from in a planned run, or NULL */
} tb_op_call;

/* Scratch memory of a planned run. */
typedef struct tb_arena {
    char *data;
    size_t bytes, used, wanted;
} tb_arena;

/* ---- gradients ---- */
typedef struct tb_grad_call {
    const tb_op *op;
    tb_ctx *ctx;
    const void *attrs;
    int n_in, n_out;
    tb_tensor **in;               /* saved inputs; NULL where the op does not save them (or they were absent) */
    tb_tensor **out;              /* saved outputs; NULL where not saved */
    tb_tensor **grad;             /* gradient of each output; NULL: none arrived (zero) */
    const tb_out_spec *in_spec;   /* dtype, rank, dims of every input, saved or not */
    const tb_out_spec *out_spec;
    uint64_t wants;               /* bit i: input i needs a gradient now */
    tb_tensor **result;           /* per input, NULL at first */
    tb_tensor *(*given)(void *backward, int i, bool *overwrite); /* tb_grad_given */
    void *backward;
} tb_grad_call;

static inline bool tb_grad_wants(const tb_grad_call *c, int i) { return c->wants >> i & 1; }
/* Hands over the gradient of input i. It is summed over broadcast dimensions and cast to the input's shape and dtype
 * by the caller. Later calls for the same input add up. */
void tb_grad_set(tb_grad_call *c, int i, tb_tensor *g);
/* Memory that was given for the gradient of input i, of its shape and dtype, or NULL. A rule may write its result there
 * (*overwrite), or add to what is there, in place, and set the tensor that comes of it: nothing is copied then. */
static inline tb_tensor *tb_grad_given(const tb_grad_call *c, int i, bool *overwrite)
{
    return c->given(c->backward, i, overwrite);
}

#define TB_SAVE_IN(i) (UINT32_C(1) << (i))
#define TB_SAVE_OUT(i) (UINT32_C(1) << (24 + (i)))
#define TB_SAVE_ALL_IN UINT32_C(0xffffff)

/* ---- fusion kinds for the compiler (as TVM classes them) ---- */
typedef enum tb_fusion {
    TB_FUSE_OPAQUE,
    TB_FUSE_POINTWISE, /* out[i] from in[i], broadcasting allowed */
    TB_FUSE_VIEW,      /* moves or renames elements only */
    TB_FUSE_ROW,       /* reduces along rows, may keep their shape */
    TB_FUSE_ANCHOR     /* gemm, conv, attention: takes a pointwise tail */
} tb_fusion;

typedef struct tb_cost {
    double flops;
    double bytes;   /* each input and output counted once */
    int64_t k;      /* terms summed into one output element (1: none); scales the tolerance */
} tb_cost;

/* Tolerance of the op's results against exact arithmetic: c * eps(dtype) * sqrt(k) relative to the magnitude of what
 * is summed; c <= 8. `exact`: bit for bit. */
typedef struct tb_tol {
    double c;
    bool exact;
} tb_tol;
#define TB_TOL(c_) ((tb_tol){.c = (c_)})
#define TB_TOL_EXACT ((tb_tol){.exact = true})

/* ---- samples: what the conformance tests run for every op, dtype, device, kernel ---- */
typedef enum tb_fill { TB_FILL_UNIFORM, TB_FILL_INTEGER, TB_FILL_DISTINCT } tb_fill;
typedef struct tb_sample_in {
    bool absent;
    int rank;
    int64_t dims[TB_MAX_RANK];
    double lo, hi;         /* range of values; both 0 means [-2, 2] (integers: [-4, 4], unsigned [0, 8]) */
    tb_fill fill;          /* DISTINCT: a shuffled arithmetic progression, so that max and sort have no ties */
    bool has_dtype;        /* true: `dtype` always; false: the dtype under test */
    tb_dtype dtype;
    bool is_stat;          /* f64 in f64, f32 in every other dtype under test: a saved statistic (lse, mean) */
    bool no_grad;          /* the gradient check leaves this input alone (kinks, integers) */
} tb_sample_in;
typedef struct tb_sample_case {
    void *attrs; /* NULL, or a structure of the op's attribute type */
    int n_in;    /* at most 8 */
    tb_sample_in in[8];
} tb_sample_case;
typedef struct tb_samples {
    tb_sample_case *cases;
    int n, capacity;
    size_t attrs_bytes;
    bool failed;
} tb_samples;
/* The shape of a tb_sample_in: {TB_SHAPE(3, 5), .lo = 0}. */
#define TB_SHAPE(...) .rank = sizeof((int[]){__VA_ARGS__}) / sizeof(int), .dims = {__VA_ARGS__}
/* Adds a case; `attrs` (copied) may be NULL. */
void tb_sample(tb_samples *to, const void *attrs, int n_in, const tb_sample_in *in);
TB_MUST_USE tb_status tb_samples_of(const tb_op *op, tb_samples *out);
void tb_samples_free(tb_samples *s);

/* ---- the descriptor ---- */
typedef enum tb_promotion {
    TB_PROMOTE_NONE,   /* inputs of one dtype, or as the shape rule says */
    TB_PROMOTE_COMMON, /* all inputs cast to their common dtype (torch: 0-d tensors count for less) */
    TB_PROMOTE_FLOAT   /* common dtype, and integers become f32 */
} tb_promotion;

#define TB_DTYPE_BIT(t) (1u << (t))
#define TB_FLOATS (TB_DTYPE_BIT(TB_F32) | TB_DTYPE_BIT(TB_F64) | TB_DTYPE_BIT(TB_BF16) | TB_DTYPE_BIT(TB_F16))
#define TB_INTS (TB_DTYPE_BIT(TB_I8) | TB_DTYPE_BIT(TB_U8) | TB_DTYPE_BIT(TB_I32) | TB_DTYPE_BIT(TB_I64))
#define TB_NUMBERS (TB_FLOATS | TB_INTS)
#define TB_ALL_DTYPES (TB_NUMBERS | TB_DTYPE_BIT(TB_BOOL))

struct tb_op {
    const char *name;            /* set by TB_OP */
    int id;                      /* index in the generated list, set by TB_OP */
    const char *doc;             /* one line, shown by `tb ops` */
    int n_in_min, n_in;          /* inputs from n_in_min on are optional (NULL); n_in = -1: any number >= n_in_min */
    int n_out, n_hidden;         /* outputs, of which the last n_hidden are for the gradient only */
    bool hides;                  /* a graph in which nobody reads them leaves the hidden ones out: out[o] is NULL */
    const tb_attr *attrs;
    int n_attrs;
    size_t attrs_bytes;
    unsigned dtypes;             /* of input `typed_by` */
    int typed_by;                /* 0 mostly; -1, and ops without input: `dtypes` speaks of the output */
    const char *dtypes_reason;   /* why not all of TB_ALL_DTYPES, for `tb ops` */
    tb_promotion promote;
    tb_status (*shape)(tb_op_call *c);   /* fills spec[]; reads no data */
    tb_status (*ref)(tb_op_call *c);     /* NULL only for pure views */
    tb_status (*fast)(tb_op_call *c);    /* through kernels. TB_ERR_UNSUPPORTED: with row-major copies of strided inputs
                                            once more, then ref. NULL: ref only */
    const char *primitives[TB_MAX_PRIMITIVES];
    bool fast_without_kernel; /* in some cases, though it names primitives */
    void (*grad)(tb_grad_call *c);
    const char *no_grad;         /* the reason, when grad is NULL */
    uint32_t saves;
    tb_fusion fusion;
    uint32_t overwrites;         /* bit i: the result may be put where input i is, if that has its shape and is not read
                                    again (each element is read before its place is written); pointwise ops: all */
    uint32_t by_rows; /* bit i: row r (along dimension 0) of the results needs of input i row r alone, unless an
                         attribute axis or axes names dimension 0; pointwise ops: all */
    void (*cost)(const tb_op_call *c, tb_cost *out); /* NULL: pointwise (1 flop an element) */
    void (*samples)(tb_samples *to);
    tb_tol tol;
    const void *family;          /* what the files of a family share, e.g. a tb_pointwise (pointwise.h) */
    bool is_random;              /* results depend on a key; samples are compared by key, not by value */
};

/* The list of ops, generated: TB_OP_ID_<name> are consecutive numbers. */
enum {
#define TB_OP_ENTRY(name_) TB_OP_ID_##name_,
#include "tb_op_list.inc"
#undef TB_OP_ENTRY
    TB_OP_COUNT
};
#define TB_OP_ENTRY(name_) extern const tb_op tb_op_##name_;
#include "tb_op_list.inc"
#undef TB_OP_ENTRY
#define TB_OP(name_, ...) const tb_op tb_op_##name_ = {.name = #name_, .id = TB_OP_ID_##name_, __VA_ARGS__}

const tb_op *tb_op_at(int id);              /* 0 <= id < TB_OP_COUNT */
const tb_op *tb_op_find(const char *name);  /* NULL with the record filled; the nearest name is in the sentence */

/* Runs an op. Results belong to the current scope; on failure all of them are poison and the cause is kept. */
tb_status tb_dispatch(const tb_op *op, const void *attrs, tb_tensor *const *in, int n_in, tb_tensor **out);
/* The first (or only) result. */
tb_tensor *tb_call(const tb_op *op, const void *attrs, int n_in, tb_tensor *const *in);
#define TB_IN(...) (int)(sizeof((tb_tensor *[]){__VA_ARGS__}) / sizeof(tb_tensor *)), (tb_tensor *[]){__VA_ARGS__}

/* A call by name, for bindings and importers: attributes are numbers (a dtype its number, a boolean 0 or 1), those not
 * given have the table's default. Ops with an attribute that has only a text form are refused. `out` has room for the
 * op's outputs. Takes the error of an op that fails. */
typedef struct tb_named_attr {
    const char *name;
    int n; /* values: 1, or a list's length */
    double value[TB_MAX_RANK];
} tb_named_attr;
TB_MUST_USE tb_status tb_call_named(const char *op, int n_attrs, const tb_named_attr *attrs, int n_in,
                                    tb_tensor *const *in, tb_tensor **out);

/* ---- interceptors: what sees every call (tape, capture, profiler, anomaly, fault) ---- */
struct tb_interceptor {
    const char *name;
    int order; /* lower sees the call first; TB_ORDER_* */
    tb_status (*around)(tb_interceptor *self, tb_op_call *call); /* calls tb_dispatch_next() to go on, or does not */
    tb_interceptor *next;
};
enum { TB_ORDER_TRACE = 10, TB_ORDER_TAPE = 20, TB_ORDER_CAPTURE = 30, TB_ORDER_ANOMALY = 40, TB_ORDER_FAULT = 50 };
void tb_interceptor_add(tb_ctx *ctx, tb_interceptor *i);    /* `i` stays the caller's; added once */
void tb_interceptor_remove(tb_ctx *ctx, tb_interceptor *i);
tb_status tb_dispatch_next(tb_interceptor *self, tb_op_call *call); /* the rest of the chain, then the op itself */

/* Runs a call whose outputs exist: the fast path or ref. For the compiler's executor. */
tb_status tbi_op_compute(tb_op_call *c);
/* Fills c->spec, or says why the op does not take these operands as they are: nothing is promoted here. */
tb_status tbi_op_types(tb_op_call *c);

/* ---- for op files ---- */
/* The dtype that torch computes in for these inputs (NULLs left out): what TB_PROMOTE_COMMON casts to. */
tb_dtype tb_common_dtype(tb_tensor *const *in, int n_in);

/* The best kernel for one of the op's primitives that accepts `args`; NULL: none (use ref). Notes its name in the
 * call. The look-up is cached per context. */
const tb_kernel *tb_call_kernel(tb_op_call *c, int primitive, tb_dtype dtype, const void *args);

/* Shape rules. */
void tb_out_like(tb_op_call *c, int o, const tb_tensor *t);
void tb_out_set(tb_op_call *c, int o, tb_dtype dtype, int rank, const int64_t *dims);
void tb_out_view(tb_op_call *c, int o, int rank, const int64_t *dims, const int64_t *strides, int64_t offset);
/* After tb_out_set: dense, its axes in the order in memory that those of `t` (of the same rank) have. */
void tb_out_order(tb_op_call *c, int o, const tb_tensor *t);
tb_status tb_axis_check(const char *op, int64_t axis, int rank, int *out);              /* -rank..rank-1 -> 0..rank-1 */
/* Which axes a reduction over `axes` (none: all) takes; each named once. */
tb_status tbi_reduced_axes(const char *op, const tb_ints *axes, int rank, bool *is_reduced);
tb_status tb_broadcast_dims(const char *op, const tb_tensor *a, const tb_tensor *b, int *rank, int64_t *dims);

/* Raw access inside ref and fast: the address of element 0, valid only there. */
void *tb_op_scratch(tb_op_call *c, size_t bytes); /* at most three times in `fast`; freed at the end; NULL on failure */
#ifndef __cplusplus
static inline void *tb_op_data(const tb_tensor *t) { return tbi_data(t); }

/* A weight in the layout of what packs it, in *out: kept with the weight where that pays; else, where `is_needed`, made
 * for this call; else NULL. */
tb_status tbi_use_packed(tb_op_call *c, const tb_tensor *weight, tbi_layout layout,
                         void (*pack)(const void *args, void *out), const void *args, bool is_needed, const void **out);
#endif

/* Walks the elements of up to 4 operands in row-major order of `dims` with each operand's (broadcast) strides. The
 * body gets the flat index and the element offsets. */
typedef struct tb_walk {
    int rank, n;
    int64_t dims[TB_MAX_RANK], strides[4][TB_MAX_RANK], index[TB_MAX_RANK];
    int64_t at[4];   /* current element offset per operand */
    int64_t flat, total;
} tb_walk;
void tb_walk_init(tb_walk *w, int rank, const int64_t *dims);
void tb_walk_add(tb_walk *w, const tb_tensor *t); /* strides aligned to the right, 0 where broadcast */
/* Walks t with the kept axes outside and the reduced ones inside, both ascending; returns the terms of each result. */
int64_t tbi_walk_reduced(const tb_tensor *t, const bool *is_reduced, tb_walk *w);
bool tb_walk_next(tb_walk *w);                    /* false after the last element */
#define TB_WALK(w) for (bool more_ = (w)->total > 0; more_; more_ = tb_walk_next(w))

/* Copies the elements of `from` to memory with these strides (elements; NULL: row-major). No overlap. */
void tbi_copy_elements(void *to, const int64_t *to_strides, const tb_tensor *from);
