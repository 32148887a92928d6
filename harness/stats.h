/* Statistics for measurements: no assumption of normality, intervals that say the level they really have.
 * Sources: Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems" (SC15); David and
 * Nagaraja, "Order Statistics", 7.1 (quantile intervals); Iglewicz and Hoaglin (modified z score).
 * Arrays called `sorted` must be; NaNs are accepted nowhere. All functions are pure and thread-safe. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct tb_interval {
    double lo, hi;
    double level; /* coverage it really has; 0 with NaN bounds when there is no interval */
} tb_interval;

void tb_sort(double *x, int64_t n);
double tb_quantile(const double *sorted, int64_t n, double q); /* linear (Hyndman-Fan 7); NaN if n is 0 */
double tb_median(const double *sorted, int64_t n);
double tb_sample_mean(const double *x, int64_t n); /* Neumaier's compensated sum; NaN if n is 0 */

/* Interval of the q-quantile between two order statistics x_(r), x_(s), 1-based: it covers with probability
 * P(r <= Bin(n, q) <= s - 1) whatever the distribution. r is the largest and s the smallest rank that leave at
 * most (1 - level)/2 outside on their side. Where n is too small for that, the end is the minimum or maximum and
 * .level says what is left. */
tb_interval tb_quantile_interval(const double *sorted, int64_t n, double q, double level);

double tb_mad(const double *sorted, int64_t n); /* median absolute deviation from the median */
/* How many |x - median| exceed `limit` * mad (14.8: modified z score 10); none when mad is 0. flags: NULL or
 * [n]. Outliers are marked and counted, never removed. */
int64_t tb_outliers(const double *x, int64_t n, double median, double mad, double limit, bool *flags);

/* Interleaved pairs: the sign-test interval of the median of log(head_i / base_i), as a ratio. Values must be
 * positive. HIGHER or LOWER only when the whole interval lies beyond 1 + margin or 1 / (1 + margin), SAME only
 * when it lies within; below the wanted level always INCONCLUSIVE. */
typedef enum tb_verdict { TB_SAME, TB_HIGHER, TB_LOWER, TB_INCONCLUSIVE } tb_verdict;
typedef struct tb_pairs {
    int64_t n;
    double ratio; /* exp of the median log ratio */
    tb_interval interval;
    tb_verdict verdict;
} tb_pairs;
TB_MUST_USE tb_status tb_paired_ratio(const double *base, const double *head, int64_t n, double level,
                                      double margin, tb_pairs *out);

/* values[iter * ranks + rank] over ranks into out[iters]. how: max | min | sum | mean | rank0, else it fails. */
TB_MUST_USE tb_status tb_reduce(const double *values, int64_t iters, int64_t ranks, const char *how, double *out);

/* Warm-up is over when min_iters samples and min_s seconds have gone by and the medians of the last three windows
 * of 10 samples are within max/min <= 1 + tol; after max_s without that it is not steady.
 * Set the first four members, zero the rest. */
enum { TB_WARMUP_WINDOW = 10, TB_WARMUP_WINDOWS = 3 };
typedef struct tb_warmup {
    int64_t min_iters;
    double min_s, tol, max_s;
    int64_t n; /* samples seen */
    double elapsed_s;
    double recent[TB_WARMUP_WINDOW * TB_WARMUP_WINDOWS]; /* circular */
} tb_warmup;
typedef enum tb_warmup_state { TB_WARMING, TB_STEADY, TB_NOT_STEADY } tb_warmup_state;
tb_warmup_state tb_warmup_add(tb_warmup *w, double sample, double seconds);
