/* Copies a tensor into another layout of its shape: merges what both walk in one stride, then copies run by run. */
#include "tb_op.h"

typedef struct strided {
    int rank;
    int64_t dims[TB_MAX_RANK], to[TB_MAX_RANK], from[TB_MAX_RANK];
} strided;

static strided merged(const int64_t *to, const tb_tensor *from)
{
    strided s = {0};
    for (int i = 0; i < from->rank; i++) {
        int64_t n = from->dims[i], t = to[i], f = from->strides[i];
        if (n == 1) continue;
        if (s.rank > 0 && s.to[s.rank - 1] == t * n && s.from[s.rank - 1] == f * n) {
            s.dims[s.rank - 1] *= n;
            s.to[s.rank - 1] = t;
            s.from[s.rank - 1] = f;
        } else {
            s.dims[s.rank] = n;
            s.to[s.rank] = t;
            s.from[s.rank++] = f;
        }
    }
    return s;
}

#define COPY_RUN(bytes)                                                                                               \
    case bytes:                                                                                                       \
        for (int64_t i = 0; i < n; i++) memcpy(to + i * to_step * (bytes), from + i * from_step * (bytes), (bytes));  \
        break

static void copy_run(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t n, size_t size)
{
    if (to_step == 1 && from_step == 1) {
        memcpy(to, from, (size_t)n * size);
        return;
    }
    switch (size) {
        COPY_RUN(1);
        COPY_RUN(2);
        COPY_RUN(4);
        COPY_RUN(8);
    }
}

void tbi_copy_elements(void *to, const int64_t *to_strides, const tb_tensor *from)
{
    int64_t index[TB_MAX_RANK] = {0}, row_major[TB_MAX_RANK], size = (int64_t)tb_dtype_size((tb_dtype)from->dtype);
    if (from->numel == 0) return;
    tbi_row_major(from->rank, from->dims, row_major);
    strided s = merged(to_strides ? to_strides : row_major, from);
    int inner = s.rank - 1;
    char *out = to;
    const char *in = tb_op_data(from);
    for (int axis = 0; axis >= 0;) {
        if (s.rank == 0) copy_run(out, 1, in, 1, 1, (size_t)size);
        else copy_run(out, s.to[inner], in, s.from[inner], s.dims[inner], (size_t)size);
        for (axis = inner - 1; axis >= 0; axis--) { /* the next run; out of axes: done */
            out += s.to[axis] * size;
            in += s.from[axis] * size;
            if (++index[axis] < s.dims[axis]) break;
            out -= s.to[axis] * s.dims[axis] * size;
            in -= s.from[axis] * s.dims[axis] * size;
            index[axis] = 0;
        }
    }
}
