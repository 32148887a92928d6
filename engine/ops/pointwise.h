/* The pointwise family: out[i] = f(a[i], b[i], c[i]) with broadcasting. An op gives its function in f64 (floats) and,
 * where integers are defined, in i64; shape rule, reference loop and the way to the kernels are shared. */
#pragma once
#include "tb_op.h"

typedef struct tb_pointwise {
    double (*f)(double a, double b, double c, const void *attrs);
    int64_t (*i)(int64_t a, int64_t b, int64_t c, const void *attrs); /* NULL: integers go through f */
    bool to_bool;                                                     /* comparisons */
} tb_pointwise;

/* An elementwise loop reduced to runs in which every operand is contiguous (step 1) or one value (step 0). */
enum { TB_MAX_STREAMS = 12 };
typedef struct tb_runs tb_runs;
struct tb_runs {
    void (*body)(const tb_runs *r, int64_t n, void *out, const void *const *in);
    const void *what, *attrs; /* for body */
    int n_in, rank;
    int64_t dims[TB_MAX_RANK], strides[TB_MAX_STREAMS][TB_MAX_RANK];
    int64_t run, pieces;      /* length of the inner run; chunks it is cut into */
    void *out;
    const void *in[TB_MAX_STREAMS];
    int8_t step[TB_MAX_STREAMS];
    size_t in_size[TB_MAX_STREAMS], out_size;
};
/* Fills everything but body, what and attrs; operands that are strided inside the run are packed into scratch. */
tb_status tbi_runs_prepare(tb_runs *r, tb_op_call *c);
void tbi_runs_execute(const tb_runs *r, tb_op_call *c); /* over the context's pool */

tb_status tbi_pointwise_shape(tb_op_call *c);
tb_status tbi_pointwise_ref(tb_op_call *c);
tb_status tbi_pointwise_fast(tb_op_call *c);

/* The functions of a family's ops: an expression in a, b, c (double, or int64_t) and attrs. */
#define TB_F(name_, expr_)                                                                                            \
    static double name_(double a, double b, double c, const void *attrs)                                              \
    {                                                                                                                 \
        return (void)a, (void)b, (void)c, (void)attrs, (expr_);                                                       \
    }
#define TB_I(name_, expr_)                                                                                            \
    static int64_t name_(int64_t a, int64_t b, int64_t c, const void *attrs)                                          \
    {                                                                                                                 \
        return (void)a, (void)b, (void)c, (void)attrs, (expr_);                                                       \
    }

/* Samples for one or two operands in [lo, hi] (both 0: the default): same shapes, broadcasting both sides, scalars,
 * empty and size-1 dims, a prime length, one that several threads share. `attrs` may be NULL. */
void tbi_pointwise_samples1(tb_samples *to);
void tbi_pointwise_samples2(tb_samples *to);
void tbi_pointwise_samples_in(tb_samples *to, const void *attrs, int n_in, double lo, double hi);

#define TB_POINTWISE(n_, ...) TB_POINTWISE_SHAPED(n_, tbi_pointwise_shape, __VA_ARGS__)
#define TB_POINTWISE_SHAPED(n_, shape_, ...)                                                                          \
    .n_in_min = (n_), .n_in = (n_), .n_out = 1, .shape = (shape_), .ref = tbi_pointwise_ref,                          \
    .fast = tbi_pointwise_fast, .fusion = TB_FUSE_POINTWISE, .family = &(const tb_pointwise){__VA_ARGS__}
