/* What the tests of op families share: small tensors by value, comparison with golden values. */
#pragma once
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_op.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include <math.h>

#define DIMS(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}
#define F32(dims, ...) tb_tensor_from(TB_F32, dims, (float[]){__VA_ARGS__})
#define I64(dims, ...) tb_tensor_from(TB_I64, dims, (int64_t[]){__VA_ARGS__})

enum { OP_TEST_MAX = 1 << 16 };

/* The elements as f64 in one of four buffers that take turns; fails on poison. */
static inline const double *values_of(tb_tensor *t)
{
    static double out[4][OP_TEST_MAX];
    static unsigned turn;
    double *to = out[turn++ % 4];
    assert_true(tb_tensor_numel(t) <= OP_TEST_MAX);
    assert_ok(tb_tensor_read(tb_cast(t, TB_F64), to, (size_t)tb_tensor_numel(t) * sizeof *to));
    return to;
}

static inline void check_close(tb_tensor *t, int64_t n, const double *want, double tol, const char *file,
                               int line)
{
    const double *got = values_of(t);
    bool fits = tb_tensor_numel(t) == n;
    if (!fits) print_error("%lld elements, not %lld\n", (long long)tb_tensor_numel(t), (long long)n);
    for (int64_t i = 0; fits && i < n; i++) {
        fits = got[i] == want[i] || (isnan(got[i]) && isnan(want[i])) ||
               fabs(got[i] - want[i]) <= tol * (1 + fabs(want[i]));
        if (!fits) print_error("element %lld is %.9g, not %.9g\n", (long long)i, got[i], want[i]);
    }
    if (!fits) _fail(file, line);
}
/* Elements equal the listed values, or those of another tensor, within tol * (1 + |value|). */
#define assert_close(t, tol, ...)                                                                            \
    check_close((t), (int64_t)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), (double[]){__VA_ARGS__}, (tol),      \
                __FILE__, __LINE__)
#define assert_same(a, b, tol) check_close((a), tb_tensor_numel(b), values_of(b), (tol), __FILE__, __LINE__)

/* Values in [-2, 2) from a stream. */
static inline tb_tensor *randoms(tb_dtype dtype, uint64_t stream, int rank, const int64_t *dims)
{
    static double x[OP_TEST_MAX];
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    assert_true(n <= OP_TEST_MAX);
    for (int64_t i = 0; i < n; i++) x[i] = 4 * tb_random_uniform(7, stream, (uint64_t)i) - 2;
    return tb_cast(tb_tensor_from(TB_F64, rank, dims, x), dtype);
}

static inline tb_tensor *leaf_of(tb_tensor *t)
{
    assert_ok(tb_require_grad(t));
    return t;
}

/* The sum of all elements, weighted by fixed random numbers so that no gradient hides in a symmetry. */
static inline tb_tensor *weighted_sum(tb_tensor *y)
{
    tb_tensor *w = randoms(tb_tensor_dtype(y), 999, tb_tensor_rank(y), tb_tensor_dims(y));
    return tb_sum(tb_mul(y, w), 0, NULL, false);
}

/* The sum of the squared gradients of a function, to be differentiated again. */
typedef struct second_order {
    tb_scalar_fn f;
} second_order;
static inline tb_tensor *squared_gradients(void *arg, int n, tb_tensor *const *in)
{
    tb_ctx *ctx = tb_ctx_current();
    tb_tensor *grads[8], *total = tb_scalar(TB_F64, 0);
    bool mode = tb_grad_mode(ctx, true);
    for (int i = 0; i < n; i++)
        if (!tb_requires_grad(in[i])) assert_ok(tb_require_grad(in[i])); /* the one that the check moved */
    assert_ok(tb_gradients(((const second_order *)arg)->f(NULL, n, in),
                           &(tb_backward_opts){.create_graph = true}, n, in, grads));
    for (int i = 0; i < n; i++)
        if (grads[i]) total = tb_add(total, tb_sum(tb_mul(grads[i], grads[i]), 0, NULL, false));
    tb_grad_mode(ctx, mode);
    return total;
}
/* First and second derivatives of f (called with a NULL argument) agree with differences. */
#define assert_gradients(f_, n, in)                                                                          \
    do {                                                                                                     \
        assert_ok(tb_gradcheck((f_), NULL, (n), (in), 1e-6, 1e-6));                                          \
        assert_ok(tb_gradcheck(squared_gradients, &(second_order){(f_)}, (n), (in), 1e-6, 1e-5));            \
    } while (0)
