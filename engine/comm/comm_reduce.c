/* The one order of reductions over ranks: neighbours are combined pairwise, level by level, in rank order:
 * ((r0 r1) (r2 r3)) ((r4 r5) (r6 r7)); an odd one out waits for the next level. 2, 4 and 8 ranks thus continue the
 * pairwise tree of the batch blocks that each rank has summed. 16-bit floats are summed in f32 and rounded once;
 * integer sums wrap. */
#include "comm_internal.h"
#include "tb_kernel.h"
#include <string.h>

enum { CHUNK = 512 }; /* elements at a time: partial results of all levels stay in the first-level cache */

void tbi_shard(int64_t count, size_t size, int rank, int ranks, int64_t *first, int64_t *n)
{
    int64_t line = 64 / (int64_t)size, lines = (count + line - 1) / line;
    int64_t end = lines * (rank + 1) / ranks * line;
    *first = lines * rank / ranks * line;
    if (*first > count) *first = count;
    *n = (end < count ? end : count) - *first;
}

bool tbi_can_reduce(tb_dtype t)
{
    return t == TB_F32 || t == TB_F64 || t == TB_BF16 || t == TB_F16 || t == TB_I32 || t == TB_I64;
}

/* out[i] = a[i] (.) b[i]; out may be a or b. Sums are taken in `sum_type`. */
#define COMBINE(name, type, sum_type)                                                                                 \
    static void combine_##name(const void *pa, const void *pb, void *pout, int64_t n, tb_reduction kind)              \
    {                                                                                                                 \
        const type *a = pa, *b = pb;                                                                                  \
        type *out = pout;                                                                                             \
        if (kind == TB_REDUCE_SUM)                                                                                    \
            for (int64_t i = 0; i < n; i++) out[i] = (type)((sum_type)a[i] + (sum_type)b[i]);                         \
        else if (kind == TB_REDUCE_MAX)                                                                               \
            for (int64_t i = 0; i < n; i++) out[i] = a[i] > b[i] ? a[i] : b[i];                                       \
        else                                                                                                          \
            for (int64_t i = 0; i < n; i++) out[i] = a[i] < b[i] ? a[i] : b[i];                                       \
    }
COMBINE(f32, float, float)
COMBINE(f64, double, double)
COMBINE(i32, int32_t, uint32_t)
COMBINE(i64, int64_t, uint64_t)
#undef COMBINE

typedef struct tree {
    const void *const *in;
    tb_dtype dtype;
    size_t size;        /* of an element in memory */
    void (*combine)(const void *a, const void *b, void *out, int64_t n, tb_reduction kind);
    tb_reduction kind;
} tree;

static bool is_half(tb_dtype t) { return t == TB_BF16 || t == TB_F16; }

static void load(const tree *t, int rank, int64_t at, int64_t n, void *out)
{
    const char *from = (const char *)t->in[rank] + (size_t)at * t->size;
    if (!is_half(t->dtype)) {
        memcpy(out, from, (size_t)n * t->size);
        return;
    }
    const uint16_t *half = (const void *)from;
    for (int64_t i = 0; i < n; i++)
        ((float *)out)[i] = t->dtype == TB_BF16 ? tb_bf16_to_f32(half[i]) : tb_f16_to_f32(half[i]);
}

static void store(const tree *t, const void *from, int64_t n, void *out)
{
    if (!is_half(t->dtype)) {
        memcpy(out, from, (size_t)n * t->size);
        return;
    }
    const float *f = from;
    for (int64_t i = 0; i < n; i++)
        ((uint16_t *)out)[i] = t->dtype == TB_BF16 ? tb_f32_to_bf16(f[i]) : tb_f32_to_f16(f[i]);
}

/* Ranks [first, first + ranks), elements [at, at + n). The left half is the largest power of two below `ranks`: the
 * same tree as combining level by level. */
static void reduce_chunk(const tree *t, int first, int ranks, int64_t at, int64_t n, void *out)
{
    double right[CHUNK]; /* room and alignment for the widest type */
    if (ranks == 1) {
        load(t, first, at, n, out);
        return;
    }
    int left = 1;
    while (2 * left < ranks) left *= 2;
    reduce_chunk(t, first, left, at, n, out);
    reduce_chunk(t, first + left, ranks - left, at, n, right);
    t->combine(out, right, out, n, t->kind);
}

void tbi_reduce_tree(const void *const *in, int n, void *out, int64_t count, tb_dtype dtype, tb_reduction kind)
{
    tree t = { .in = in, .dtype = dtype, .size = tb_dtype_size(dtype), .kind = kind };
    t.combine = dtype == TB_F64   ? combine_f64
                : dtype == TB_I32 ? combine_i32
                : dtype == TB_I64 ? combine_i64
                                  : combine_f32;
    if (n == 2 && !is_half(dtype)) {
        t.combine(in[0], in[1], out, count, kind);
        return;
    }
    double result[CHUNK];
    for (int64_t at = 0; at < count; at += CHUNK) {
        int64_t now = count - at < CHUNK ? count - at : CHUNK;
        reduce_chunk(&t, 0, n, at, now, result);
        store(&t, result, now, (char *)out + (size_t)at * t.size);
    }
}

const tb_kernel *tbi_reduce_kernel(int n, int n_out, tb_dtype dtype, tb_reduction kind, tb_isa isa)
{
    tb_rank_sum_args a = {.ranks = n, .n_out = n_out};
    const tb_kernel *kernels[TB_ISAS];
    int found = kind == TB_REDUCE_SUM ? tb_kernel_find("rank_sum", dtype, isa, kernels, TB_ISAS) : 0;
    for (int k = 0; k < found; k++)
        if (kernels[k]->supports(&a)) return kernels[k];
    return NULL;
}

void tbi_reduce_to(const void *const *in, int n, void *const *out, int n_out, int64_t count, tb_dtype dtype,
                   tb_reduction kind, const tb_kernel *kernel)
{
    if (kernel) {
        kernel->run(&(tb_rank_sum_args){.n = count, .ranks = n, .n_out = n_out, .in = in, .out = out});
        return;
    }
    size_t bytes = (size_t)count * tb_dtype_size(dtype);
    tbi_reduce_tree(in, n, out[0], count, dtype, kind);
    for (int k = 1; k < n_out; k++) memcpy(out[k], out[0], bytes);
}
