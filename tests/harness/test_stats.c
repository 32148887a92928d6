/* Statistics against closed forms and values from SciPy 1.10 (the call is named beside each constant). */
#include "stats.h"
#include "tb_rng.h"
#include "tb_test.h"
#include <math.h>

static void quantiles_interpolate_like_hyndman_fan_7(void **state)
{
    (void)state;
    const double x[] = {1, 2, 4, 8, 16};
    assert_near(tb_quantile(x, 5, 0.0), 1, 0);
    assert_near(tb_quantile(x, 5, 0.3), 2.4, 1e-15); /* numpy.quantile(x, 0.3) */
    assert_near(tb_quantile(x, 5, 0.95), 14.4, 1e-14);
    assert_near(tb_quantile(x, 5, 1.0), 16, 0);
    assert_near(tb_median(x, 5), 4, 0);
    assert_near(tb_median(x, 4), 3, 0);
    assert_true(isnan(tb_median(x, 0)));
}

static void a_median_interval_needs_6_samples_at_95_and_8_at_99_percent(void **state)
{
    (void)state;
    const double x[] = {1, 2, 3, 4, 5, 6, 7, 8};
    tb_interval i = tb_quantile_interval(x, 6, 0.5, 0.95);
    assert_near(i.lo, 1, 0);
    assert_near(i.hi, 6, 0);
    assert_near(i.level, 1 - 2 / 64.0, 1e-12);
    i = tb_quantile_interval(x, 8, 0.5, 0.99);
    assert_near(i.level, 1 - 2 / 256.0, 1e-12);
}

static void too_few_samples_give_the_range_with_the_level_it_has(void **state)
{
    (void)state;
    const double x[] = {3, 5, 9};
    tb_interval i = tb_quantile_interval(x, 3, 0.5, 0.99);
    assert_near(i.lo, 3, 0);
    assert_near(i.hi, 9, 0);
    assert_near(i.level, 0.75, 1e-12);
    i = tb_quantile_interval(x, 1, 0.5, 0.99);
    assert_true(isnan(i.lo) && isnan(i.hi) && i.level == 0);
}

static void ranks_are_those_of_the_binomial_distribution(void **state)
{
    (void)state;
    double x[10000];
    for (int i = 0; i < 10000; i++) x[i] = i + 1;
    /* n = 30, median, 99 %: binom.cdf(7, 30, .5) = 0.00261 <= 0.005 < binom.cdf(8, 30, .5): ranks 8 and 23 */
    tb_interval i = tb_quantile_interval(x, 30, 0.5, 0.99);
    assert_near(i.lo, 8, 0);
    assert_near(i.hi, 23, 0);
    assert_near(i.level, 1 - 2 * 0.0026114396750926976, 1e-12); /* 2 * binom.cdf(7, 30, .5) */
    /* p95 of 10,000 samples at 99 %: ranks within [0.944, 0.956] */
    i = tb_quantile_interval(x, 10000, 0.95, 0.99);
    assert_near(i.lo, 9443, 0);
    assert_near(i.hi, 9556, 0);
    assert_near(i.level, 0.9904794075181588, 1e-9);
}

/* The promise itself: over many samples of a skewed distribution the interval holds the true median at least
 * as often as it says. 2,000 trials of an exact 97.9 % interval miss 62 times or more with odds below 1 in
 * 1,000. */
static void intervals_cover_a_skewed_distribution_as_often_as_they_say(void **state)
{
    (void)state;
    int missed = 0;
    for (uint64_t trial = 0; trial < 2000; trial++) {
        double x[10];
        for (uint64_t k = 0; k < 10; k++) x[k] = -log(1 - tb_random_uniform(7, trial, k)); /* exponential */
        tb_sort(x, 10);
        tb_interval i = tb_quantile_interval(x, 10, 0.5, 0.95);
        assert_near(i.level, 1 - 2 * 11 / 1024.0, 1e-12);
        missed += log(2) < i.lo || log(2) > i.hi;
    }
    assert_in_range(missed, 20, 66);
}

static void the_mean_loses_no_small_terms(void **state)
{
    (void)state;
    const double x[] = {1e100, 1, -1e100, 1};
    assert_near(tb_sample_mean(x, 4), 0.5, 0);
}

static void the_mad_is_the_median_of_deviations(void **state)
{
    (void)state;
    const double odd[] = {1, 1, 2, 2, 4, 6, 9};
    assert_near(tb_mad(odd, 7), 1, 0); /* the textbook example; scipy.stats.median_abs_deviation agrees */
    const double even[] = {1, 2, 3, 10};
    assert_near(tb_mad(even, 4), 1, 0);
    const double one[] = {5};
    assert_near(tb_mad(one, 1), 0, 0);
    double x[101], deviation[101];
    for (int n = 1; n <= 101; n++) {
        for (int i = 0; i < n; i++) x[i] = tb_random_uniform(3, (uint64_t)n, (uint64_t)i);
        tb_sort(x, n);
        for (int i = 0; i < n; i++) deviation[i] = fabs(x[i] - tb_median(x, n));
        tb_sort(deviation, n);
        assert_near(tb_mad(x, n), tb_median(deviation, n), 1e-16);
    }
}

static void outliers_are_flagged_and_stay(void **state)
{
    (void)state;
    const double x[] = {10, 11, 9, 10.5, 9.5, 40};
    bool flags[6];
    double sorted[6];
    memcpy(sorted, x, sizeof x);
    tb_sort(sorted, 6);
    assert_int_equal(tb_outliers(x, 6, tb_median(sorted, 6), tb_mad(sorted, 6), 14.8, flags), 1);
    assert_true(flags[5] && !flags[0]);
    assert_int_equal(tb_outliers(x, 6, 10, 0, 14.8, NULL), 0); /* quantised values are not all outliers */
}

static void pairs_tell_a_real_change_from_none(void **state)
{
    (void)state;
    double base[60], same[60], slower[60];
    for (uint64_t i = 0; i < 60; i++) { /* drift common to a pair is what pairing takes away */
        double drift = 1 + 0.5 * sin(0.2 * (double)i);
        base[i] = drift * (1 + 0.02 * tb_random_normal(1, 0, i));
        same[i] = drift * (1 + 0.02 * tb_random_normal(1, 1, i));
        slower[i] = 1.1 * drift * (1 + 0.02 * tb_random_normal(1, 2, i));
    }
    tb_pairs p;
    assert_int_equal(tb_paired_ratio(base, same, 60, 0.99, 0.05, &p), TB_OK);
    assert_int_equal(p.verdict, TB_SAME);
    assert_int_equal(tb_paired_ratio(base, slower, 60, 0.99, 0.05, &p), TB_OK);
    assert_int_equal(p.verdict, TB_HIGHER);
    assert_near(p.ratio, 1.1, 0.02);
    assert_int_equal(tb_paired_ratio(slower, base, 60, 0.99, 0.05, &p), TB_OK);
    assert_int_equal(p.verdict, TB_LOWER);
    assert_int_equal(tb_paired_ratio(base, slower, 60, 0.99, 0.10, &p), TB_OK);
    assert_int_equal(p.verdict, TB_INCONCLUSIVE); /* 10 % against a margin of 10 % */
    assert_int_equal(tb_paired_ratio(base, same, 5, 0.99, 0.5, &p), TB_OK);
    assert_int_equal(p.verdict, TB_INCONCLUSIVE); /* five pairs prove nothing at 99 % */
    base[3] = 0;
    assert_int_equal(tb_paired_ratio(base, same, 60, 0.99, 0.05, &p), TB_ERR_INVALID);
}

static void ranks_are_reduced_as_named(void **state)
{
    (void)state;
    const double x[] = {1, 5, 3, 2, 2, 8};
    double out[2];
    static const struct {
        const char *how;
        double first, second;
    } cases[] = {{"max", 5, 8}, {"min", 1, 2}, {"sum", 9, 12}, {"mean", 3, 4}, {"rank0", 1, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(tb_reduce(x, 2, 3, cases[i].how, out), TB_OK);
        assert_near(out[0], cases[i].first, 0);
        assert_near(out[1], cases[i].second, 0);
    }
    assert_int_equal(tb_reduce(x, 2, 3, "average", out), TB_ERR_CONFIG);
}

static void warm_up_ends_when_the_windows_agree(void **state)
{
    (void)state;
    tb_warmup w = {.min_iters = 10, .min_s = 0.5, .tol = 0.1, .max_s = 20};
    int n = 0;
    tb_warmup_state at = TB_WARMING;
    while (at == TB_WARMING) at = tb_warmup_add(&w, n++ < 20 ? 5.0 : 1.0, 0.01);
    assert_int_equal(at, TB_STEADY);
    assert_in_range(n, 46, 50); /* the first window is half fast at sample 45 (20 slow, then 25 of 30 fast) */
    w = (tb_warmup){.min_iters = 10, .min_s = 0.5, .tol = 0.1, .max_s = 2};
    at = TB_WARMING;
    for (n = 0; at == TB_WARMING; n++) at = tb_warmup_add(&w, exp(0.05 * n), 0.01);
    assert_int_equal(at, TB_NOT_STEADY);
    assert_int_equal(n, 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_interpolate_like_hyndman_fan_7),
        cmocka_unit_test(a_median_interval_needs_6_samples_at_95_and_8_at_99_percent),
        cmocka_unit_test(too_few_samples_give_the_range_with_the_level_it_has),
        cmocka_unit_test(ranks_are_those_of_the_binomial_distribution),
        cmocka_unit_test(intervals_cover_a_skewed_distribution_as_often_as_they_say),
        cmocka_unit_test(the_mean_loses_no_small_terms),
        cmocka_unit_test(the_mad_is_the_median_of_deviations),
        cmocka_unit_test(outliers_are_flagged_and_stay),
        cmocka_unit_test(pairs_tell_a_real_change_from_none),
        cmocka_unit_test(ranks_are_reduced_as_named),
        cmocka_unit_test(warm_up_ends_when_the_windows_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
