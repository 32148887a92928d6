/* A tensor seen as rows: all dimensions but the last are one. What linear, softmax, the losses and the norms
 * share, with the blocks of rows that sums over the batch are made of. */
#pragma once
#include "tb_op.h"

/* One element, `at` elements from the first. */
static inline double tbi_get(const tb_tensor *t, int64_t at)
{
    tb_dtype dtype = (tb_dtype)t->dtype;
    return tb_load_f64(dtype, (const char *)tb_op_data(t) + at * (int64_t)tb_dtype_size(dtype));
}
static inline void tbi_put(const tb_tensor *t, int64_t at, double x)
{
    tb_dtype dtype = (tb_dtype)t->dtype;
    tb_store_f64(dtype, (char *)tb_op_data(t) + at * (int64_t)tb_dtype_size(dtype), x);
}
static inline bool tbi_has_dims(const tb_tensor *t, int rank, const int64_t *dims)
{
    return t->rank == rank && memcmp(t->dims, dims, (size_t)rank * sizeof *dims) == 0;
}
/* What hidden outputs of statistics (lse, mean, rstd) are kept in: never less than f32. */
static inline tb_dtype tbi_stat_dtype(tb_dtype t) { return t == TB_F64 ? TB_F64 : TB_F32; }

static inline int64_t tbi_last_dim(const tb_tensor *t) { return t->rank ? t->dims[t->rank - 1] : 1; }
static inline int64_t tbi_last_stride(const tb_tensor *t) { return t->rank ? t->strides[t->rank - 1] : 1; }
int64_t tbi_rows(const tb_tensor *t);                    /* product of all dimensions but the last */
int64_t tbi_row_at(const tb_tensor *t, int64_t row);     /* element offset of a row's first element */
int64_t tbi_element_at(const tb_tensor *t, int64_t index); /* of the index-th element in row-major order */
/* True if all rows lie at one distance (then in *stride, elements), so that they make one matrix. */
bool tbi_rows_are_even(const tb_tensor *t, int64_t *stride);
/* Even rows with adjacent elements: what row kernels take. */
static inline bool tbi_rows_are_dense(const tb_tensor *t, int64_t *stride)
{
    return (tbi_last_stride(t) == 1 || tbi_last_dim(t) == 1) && tbi_rows_are_even(t, stride);
}

/* The kernel of a product of matrices: of bf16 products where the context asks for them and one fits. The op lists
 * TBI_GEMM_PRIMITIVES. NULL: none. */
#define TBI_GEMM_PRIMITIVES {"gemm", "gemm_bf16"}
const tb_kernel *tbi_gemm_kernel(tb_op_call *c, const tb_gemm_args *g);
/* Whether the context has products of these operands computed through f16. */
bool tbi_multiplies_f16(const tb_tensor *a, const tb_tensor *b);

/* The operand's elements in row-major order: where they lie, or a copy in the call's scratch. */
TB_MUST_USE tb_status tbi_dense(tb_op_call *c, const tb_tensor *t, const void **out);

/* The activation of an epilogue, in f64: what the ops that take one mean by it. */
double tbi_act_f64(tb_epilogue_act act, double x);

/* The tensor with one axis moved to the end, so that its rows run along that axis. */
tb_tensor tbi_axis_last(const tb_tensor *t, int axis);

/* Sums over the batch: `rows` is cut into `blocks` blocks of ceil(rows / blocks), the last ones shorter or
 * empty. */
static inline int64_t tbi_block_rows(int64_t rows, int blocks) { return (rows + blocks - 1) / blocks; }
/* The pairwise tree over `blocks` (a power of two) finished block sums of n elements each, in place: the root
 * is where the first was. */
void tbi_tree_f32(float *sums, int blocks, int64_t n);

/* ---- row kernels ---- */
/* Runs the kernel over all rows of `args` on the pool; a kernel's result does not depend on where rows are
 * cut. The extras are arrays with one element of these bytes per row (0: not per row, or absent). */
typedef struct tbi_row_extras {
    size_t extra[3], extra_in[3];
} tbi_row_extras;
void tbi_run_rows(const tb_op_call *c, const tb_kernel *kernel, const tb_row_args *args,
                  tbi_row_extras extras);
