/* Statistics for measurements: no assumption of normality, intervals that say the level they really have.
 * Sources: Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems" (SC15); David and Nagaraja,
 * "Order Statistics", 7.1 (quantile intervals); Iglewicz and Hoaglin (modified z score).
 * Arrays called `sorted` must be; NaNs are not accepted anywhere. All functions are pure and thread-safe. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct tb_interval {
    double lo, hi;
    double level; /* coverage it really has; 0 with NaN bounds when there is none */
} tb_interval;

void tb_sort(double *x, int64_t n);
double tb_quantile(const double *sorted, int64_t n, double q); /* linear interpolation (Hyndman-Fan 7); NaN if n = 0 */
double tb_median(const double *sorted, int64_t n);
double tb_mean(const double *x, int64_t n);                    /* Kahan-Neumaier sum; NaN if n = 0 */

/* Order-statistic interval of the q-quantile: sorted[r], sorted[s] with coverage P(r < Bin(n, q) <= s), the
 * narrowest in rank, symmetric in tail probability, with at least `level`. When n is too small for the level,
 * [min, max] with the lower level that it has. */
tb_interval tb_quantile_interval(const double *sorted, int64_t n, double q, double level);
/* Smallest n for which that interval reaches `level`: 6 for the median at 95 %, 8 at 99 %. */
int64_t tb_quantile_min_n(double q, double level);

/* Percentile bootstrap of any statistic, where order statistics do not apply. Deterministic in `seed`. */
typedef double (*tb_statistic)(const double *x, int64_t n, void *arg); /* x may be reordered */
TB_MUST_USE tb_status tb_bootstrap_interval(const double *x, int64_t n, tb_statistic f, void *arg, double level,
                                            int resamples, uint64_t seed, tb_interval *out);

/* Median absolute deviation, and how many |x - median| exceed `limit` deviations (14.8 = modified z of 10). flags
 * may be NULL. Nothing is removed. */
double tb_mad(const double *sorted, int64_t n);
int64_t tb_outliers(const double *x, int64_t n, double limit, bool *flags);

/* Interleaved pairs: x_i = log(head_i / base_i). The interval of the median of x (sign test), as ratios. */
typedef enum tb_verdict { TB_SAME, TB_HIGHER, TB_LOWER, TB_INCONCLUSIVE } tb_verdict;
typedef struct tb_pairs {
    int64_t n;
    double ratio;        /* exp(median x) */
    tb_interval interval; /* of the ratio */
    tb_verdict verdict;  /* against 1 +- margin */
} tb_pairs;
TB_MUST_USE tb_status tb_paired_ratio(const double *base, const double *head, int64_t n, double level, double margin,
                                      tb_pairs *out);

/* Ratio of two medians from independent launches: the smallest and largest ratio of the two intervals' ends, at
 * least level 1 - 2 (1 - level) by Bonferroni. */
tb_interval tb_ratio_of_medians(const double *base_sorted, int64_t n_base, const double *head_sorted, int64_t n_head,
                                double level);

/* Reduces values[iter * ranks + rank] over ranks. `how`: max | min | sum | mean | rank0; another name fails. */
TB_MUST_USE tb_status tb_reduce(const double *values, int64_t iters, int64_t ranks, const char *how, double *out);

double tb_lag1(const double *x, int64_t n);  /* autocorrelation at lag 1; 0 when x is constant or n < 3 */
double tb_drift(const double *x, int64_t n); /* median of the second half / of the first, - 1 */

/* Warm-up ends when >= min_iters samples and >= min_s seconds have gone by and the medians of the last three
 * windows of 10 are within max/min <= 1 + tol; it fails (not steady) after max_s. Zero-initialise .n and so on. */
typedef struct tb_warmup {
    int64_t min_iters;
    double min_s, tol, max_s;
    int64_t n;           /* samples seen */
    double elapsed_s;
    double window[30];   /* the last ones, circular */
} tb_warmup;
typedef enum tb_warmup_state { TB_WARMING, TB_STEADY, TB_NOT_STEADY } tb_warmup_state;
tb_warmup_state tb_warmup_add(tb_warmup *w, double sample, double seconds);
