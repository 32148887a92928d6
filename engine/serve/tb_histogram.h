/* A log-linear histogram of durations: values up to 2^11 ns exactly, above that 1024 steps per power of two,
 * so a reported value is at most 0.1 % above the recorded one. Fixed memory, no allocation, merging loses
 * nothing. One writer at a time. Source of the layout: HdrHistogram (Tene). */
#pragma once
#include <stdint.h>

enum {
    TB_HISTOGRAM_STEPS = 1024,
    TB_HISTOGRAM_OCTAVES = 28,
    TB_HISTOGRAM_BINS = TB_HISTOGRAM_STEPS * TB_HISTOGRAM_OCTAVES
};

typedef struct tb_histogram {
    uint64_t count;
    int64_t sum, min, max; /* min and max are exact; min is INT64_MAX while empty */
    uint32_t bins[TB_HISTOGRAM_BINS];
} tb_histogram;

void tb_histogram_clear(tb_histogram *h);
void tb_histogram_add(tb_histogram *h, int64_t ns); /* negative counts as 0, above 2^37 ns (137 s) as the last bin */
void tb_histogram_merge(tb_histogram *into, const tb_histogram *from);
/* The smallest recorded value v such that at least the fraction q of all values is <= v (nearest rank); 0 if
 * empty. */
int64_t tb_histogram_quantile(const tb_histogram *h, double q);
