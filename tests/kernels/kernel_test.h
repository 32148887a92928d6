/* What the tests of kernels share: every kernel that can run here, operands of exactly their size, comparison. */
#pragma once
#include "tb_kernel.h"
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The kernels of a primitive and dtype: those this processor runs, and the AVX-512 ones in their emulated build where
 * it lacks that. Fails the test when there is none. */
int kernel_test_find(const char *primitive, tb_dtype dtype, const tb_kernel **out, int max);

/* Memory that ends right before an inaccessible page; filled with 0xA5. Freed by guarded_free_all (a test's end). */
void *guarded(size_t bytes);
void guarded_free_all(void);

/* Set-up and tear-down of a group of tests: its state is a pool of three threads. */
int three_threads(void **state);
int no_threads(void **state);

/* n numbers, uniform in [-1, 1) / in [lo, hi), in guarded memory; `seed` names the numbers. */
float *guarded_random(int64_t n, uint64_t seed);
float *guarded_uniform(int64_t n, uint64_t seed, float lo, float hi);

/* Distance in units of the last place of f32 at the exact value; NaN matches NaN, infinities must be equal. */
double ulp_error(float got, double exact);
bool same_bits(const float *a, const float *b, int64_t n);

/* Fails with kernel, element and values unless |got - want| <= abs_tol + rel_tol * |want| (or both are NaN). */
void assert_near(const tb_kernel *k, const char *what, int64_t index, double got, double want, double abs_tol,
                 double rel_tol);
