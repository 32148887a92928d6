/* Tensors seen as rows. */
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
    int64_t step = 0, rows = 1; /* distance of neighbours and number of rows so far, from the innermost dimension */
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
