/* Tensors seen as rows: where they lie, kernels over them, trees over their blocks. */
#include "rows.h"

int64_t tbi_rows(const tb_tensor *t)
{
    int64_t rows = 1;
    for (int i = 0; i < t->rank - 1; i++) rows *= t->dims[i];
    return rows;
}

static int64_t offset_of(const tb_tensor *t, int axis, int64_t index)
{
    int64_t at = 0;
    for (; axis >= 0; axis--) {
        at += index % t->dims[axis] * t->strides[axis];
        index /= t->dims[axis];
    }
    return at;
}

int64_t tbi_row_at(const tb_tensor *t, int64_t row) { return offset_of(t, t->rank - 2, row); }

int64_t tbi_element_at(const tb_tensor *t, int64_t index) { return offset_of(t, t->rank - 1, index); }

bool tbi_rows_are_even(const tb_tensor *t, int64_t *stride)
{
    int64_t step = 0, rows = 1; /* distance of neighbours, number of rows so far, from the innermost out */
    for (int i = t->rank - 2; i >= 0; i--) {
        if (t->dims[i] == 1) continue;
        if (rows > 1 && t->strides[i] != step * rows) return false;
        if (rows == 1) step = t->strides[i];
        rows *= t->dims[i];
    }
    *stride = rows > 1 ? step : tbi_last_dim(t);
    return true;
}

tb_tensor tbi_axis_last(const tb_tensor *t, int axis)
{
    tb_tensor moved = *t;
    for (int i = axis; i < t->rank - 1; i++) {
        moved.dims[i] = t->dims[i + 1];
        moved.strides[i] = t->strides[i + 1];
    }
    moved.dims[t->rank - 1] = t->dims[axis];
    moved.strides[t->rank - 1] = t->strides[axis];
    return moved;
}

tb_status tbi_dense(tb_op_call *c, const tb_tensor *t, const void **out)
{
    *out = tb_op_data(t);
    if (t->is_contiguous) return TB_OK;
    void *copy = tb_op_scratch(c, tb_tensor_bytes(t));
    if (!copy) return TB_ERR_OOM;
    tbi_copy_elements(copy, NULL, t);
    *out = copy;
    return TB_OK;
}

void tbi_tree_f32(float *sums, int blocks, int64_t n)
{
    for (int step = 1; step < blocks; step *= 2)
        for (int b = 0; b < blocks; b += 2 * step) {
            float *to = sums + b * n;
            const float *from = sums + (b + step) * n;
            for (int64_t i = 0; i < n; i++) to[i] += from[i];
        }
}

/* ---- row kernels ---- */
enum { ROWS_INLINE = 16384 /* elements: less work than waking a thread */ };

typedef struct row_job {
    const tb_kernel *kernel;
    const tb_row_args *args;
    tbi_row_extras extras;
    size_t size; /* of an element */
} row_job;

static const void *later_in(const void *p, int64_t rows, int64_t stride, size_t size)
{
    return p ? (const char *)p + rows * stride * (int64_t)size : NULL;
}

static void *later(void *p, int64_t rows, int64_t stride, size_t size)
{
    return p ? (char *)p + rows * stride * (int64_t)size : NULL;
}

static void run_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const row_job *j = arg;
    tb_row_args a = *j->args;
    a.rows = end - begin;
    a.in = later_in(a.in, begin, a.in_stride, j->size);
    a.in2 = later_in(a.in2, begin, a.in2_stride, j->size);
    a.in3 = later_in(a.in3, begin, a.in3_stride, j->size);
    a.out = later(a.out, begin, a.out_stride, j->size);
    for (int i = 0; i < 3; i++) {
        a.extra[i] = later(a.extra[i], begin, 1, j->extras.extra[i]);
        a.extra_in[i] = later_in(a.extra_in[i], begin, 1, j->extras.extra_in[i]);
    }
    j->kernel->run(&a);
}

void tbi_run_rows(const tb_op_call *c, const tb_kernel *kernel, const tb_row_args *args,
                  tbi_row_extras extras)
{
    row_job j = {kernel, args, extras, tb_dtype_size(kernel->dtype)};
    if (args->rows * args->n <= ROWS_INLINE) run_rows(&j, 0, args->rows, 0);
    else tb_pool_run(c->ctx->pool, args->rows, run_rows, &j);
}
