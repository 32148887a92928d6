/* The pointwise family: out[i] = f(a[i], b[i], c[i]) with broadcasting. An op gives its function in f64 (floats) and,
 * where integers are defined, in i64; shape rule, reference loop and the way to the kernels are shared. */
#pragma once
#include "tb_op.h"

typedef struct tb_pointwise {
    double (*f)(double a, double b, double c, const void *attrs);
    int64_t (*i)(int64_t a, int64_t b, int64_t c, const void *attrs); /* NULL: integers go through f */
    bool to_bool;                                                     /* comparisons */
} tb_pointwise;

tb_status tbi_pointwise_shape(tb_op_call *c);
tb_status tbi_pointwise_ref(tb_op_call *c);
tb_status tbi_pointwise_fast(tb_op_call *c);

/* Samples: same shapes, broadcasting both sides, scalars, empty and size-1 dims, a prime length. */
void tbi_pointwise_samples1(tb_samples *to);
void tbi_pointwise_samples2(tb_samples *to);

#define TB_POINTWISE(...)                                                                                             \
    .shape = tbi_pointwise_shape, .ref = tbi_pointwise_ref, .fast = tbi_pointwise_fast, .fusion = TB_FUSE_POINTWISE,  \
    .n_out = 1, .family = &(const tb_pointwise){__VA_ARGS__}
