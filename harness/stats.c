/* Statistics for measurements (stats.h). Binomial probabilities go through log-gamma, so that samples of 10^6
 * requests neither underflow nor take a table. */
#include "stats.h"
#include "tb_alloc.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const tb_interval no_interval = {NAN, NAN, 0};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void tb_sort(double *x, int64_t n) { qsort(x, (size_t)n, sizeof *x, compare); }

double tb_quantile(const double *sorted, int64_t n, double q)
{
    if (n <= 0) return NAN;
    double at = q * (double)(n - 1);
    int64_t i = (int64_t)at;
    if (i >= n - 1) return sorted[n - 1];
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

double tb_median(const double *sorted, int64_t n)
{
    if (n <= 0) return NAN;
    return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}

double tb_sample_mean(const double *x, int64_t n)
{
    if (n <= 0) return NAN;
    double sum = 0, lost = 0;
    for (int64_t i = 0; i < n; i++) {
        double t = sum + x[i];
        lost += fabs(sum) >= fabs(x[i]) ? (sum - t) + x[i] : (x[i] - t) + sum;
        sum = t;
    }
    return (sum + lost) / (double)n;
}

static double log_gamma(double x)
{
    int sign; /* lgamma() would write a global */
    return lgamma_r(x, &sign);
}

static double binomial(int64_t n, int64_t k, double q) /* P(Bin(n, q) = k), 0 < q < 1 */
{
    double m = (double)n, j = (double)k;
    return exp(log_gamma(m + 1) - log_gamma(j + 1) - log_gamma(m - j + 1) + j * log(q) + (m - j) * log1p(-q));
}

/* Largest r with P(Bin(n, q) <= r - 1) <= tail, or 0 when even r = 1 leaves more; *outside is that
 * probability. */
static int64_t lower_rank(int64_t n, double q, double tail, double *outside)
{
    int64_t r = 0;
    double below = 0;
    *outside = 0;
    while (r < n) {
        below += binomial(n, r, q);
        if (below > tail * (1 + 1e-12)) break;
        *outside = below;
        r++;
    }
    return r;
}

tb_interval tb_quantile_interval(const double *sorted, int64_t n, double q, double level)
{
    if (n < 2 || !(q > 0 && q < 1)) return no_interval;
    double tail = (1 - level) / 2, below, above;
    int64_t r = lower_rank(n, q, tail, &below);
    int64_t from_top = lower_rank(n, 1 - q, tail, &above); /* by symmetry: n - Bin(n, q) is Bin(n, 1 - q) */
    if (r == 0) {
        r = 1;
        below = binomial(n, 0, q);
    }
    if (from_top == 0) {
        from_top = 1;
        above = binomial(n, n, q);
    }
    return (tb_interval){sorted[r - 1], sorted[n - from_top], 1 - below - above};
}

double tb_mad(const double *sorted, int64_t n)
{
    if (n <= 0) return NAN;
    /* Deviations grow away from the median on both sides: merge the two sides until the middle is reached. */
    double median = tb_median(sorted, n), last = 0, before = 0;
    int64_t left = (n - 1) / 2, right = left + 1;
    for (int64_t seen = 0; seen <= n / 2; seen++) {
        double down = left >= 0 ? median - sorted[left] : HUGE_VAL;
        double up = right < n ? sorted[right] - median : HUGE_VAL;
        before = last;
        last = fmin(down, up);
        if (down <= up)
            left--;
        else
            right++;
    }
    return n % 2 ? last : 0.5 * (before + last);
}

int64_t tb_outliers(const double *x, int64_t n, double median, double mad, double limit, bool *flags)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        bool out = mad > 0 && fabs(x[i] - median) > limit * mad;
        if (flags) flags[i] = out;
        count += out;
    }
    return count;
}

static tb_verdict judge(tb_interval ratio, double level, double margin)
{
    if (ratio.level < level) return TB_INCONCLUSIVE;
    double upper = 1 + margin, lower = 1 / (1 + margin);
    if (ratio.lo > upper) return TB_HIGHER;
    if (ratio.hi < lower) return TB_LOWER;
    return ratio.lo >= lower && ratio.hi <= upper ? TB_SAME : TB_INCONCLUSIVE;
}

tb_status tb_paired_ratio(const double *base, const double *head, int64_t n, double level, double margin,
                          tb_pairs *out)
{
    *out = (tb_pairs){n, NAN, no_interval, TB_INCONCLUSIVE};
    if (n == 0) return TB_OK;
    double *x = tb_calloc((size_t)n, sizeof *x);
    if (!x) return tb_error_code();
    for (int64_t i = 0; i < n; i++) {
        if (!(base[i] > 0 && head[i] > 0)) {
            tb_status st =
                TB_FAIL(TB_ERR_INVALID, "paired ratio: pair %lld is (%g, %g); both must be positive",
                        (long long)i, base[i], head[i]);
            tb_free(x);
            return st;
        }
        x[i] = log(head[i] / base[i]);
    }
    tb_sort(x, n);
    tb_interval logs = tb_quantile_interval(x, n, 0.5, level);
    out->ratio = exp(tb_median(x, n));
    out->interval = (tb_interval){exp(logs.lo), exp(logs.hi), logs.level};
    out->verdict = judge(out->interval, level, margin);
    tb_free(x);
    return TB_OK;
}

tb_status tb_reduce(const double *values, int64_t iters, int64_t ranks, const char *how, double *out)
{
    enum { MAX, MIN, SUM, MEAN, RANK0, HOWS } h;
    static const char *const names[HOWS] = {"max", "min", "sum", "mean", "rank0"};
    for (h = 0; h < HOWS && strcmp(how, names[h]); h++) continue;
    if (h == HOWS)
        return TB_FAIL(TB_ERR_CONFIG, "reduction '%s' is not one of max, min, sum, mean, rank0", how);
    for (int64_t i = 0; i < iters; i++) {
        const double *row = values + i * ranks;
        double r = row[0];
        for (int64_t k = 1; k < ranks && h != RANK0; k++)
            r = h == MAX ? fmax(r, row[k]) : h == MIN ? fmin(r, row[k]) : r + row[k];
        out[i] = h == MEAN ? r / (double)ranks : r;
    }
    return TB_OK;
}

/* max/min of the medians of the recent windows. They are read in circular order, which leaves each window
 * whole only if it starts at the oldest sample. */
static double window_spread(const tb_warmup *w)
{
    enum { ALL = TB_WARMUP_WINDOW * TB_WARMUP_WINDOWS };
    double lo = HUGE_VAL, hi = 0;
    for (int k = 0; k < TB_WARMUP_WINDOWS; k++) {
        double one[TB_WARMUP_WINDOW];
        for (int i = 0; i < TB_WARMUP_WINDOW; i++)
            one[i] = w->recent[(w->n + k * TB_WARMUP_WINDOW + i) % ALL];
        tb_sort(one, TB_WARMUP_WINDOW);
        double median = tb_median(one, TB_WARMUP_WINDOW);
        lo = fmin(lo, median);
        hi = fmax(hi, median);
    }
    return lo > 0 ? hi / lo : HUGE_VAL;
}

tb_warmup_state tb_warmup_add(tb_warmup *w, double sample, double seconds)
{
    int64_t all = TB_WARMUP_WINDOW * TB_WARMUP_WINDOWS;
    w->recent[w->n++ % all] = sample;
    w->elapsed_s += seconds;
    if (w->n >= all && w->n >= w->min_iters && w->elapsed_s >= w->min_s && window_spread(w) <= 1 + w->tol)
        return TB_STEADY;
    return w->elapsed_s >= w->max_s ? TB_NOT_STEADY : TB_WARMING;
}
