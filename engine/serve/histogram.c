/* Bins: index = value below 2 * STEPS; then octave o holds STEPS bins of width 2^o each. */
#include "tb_histogram.h"
#include <math.h>
#include <string.h>

static int bin_of(int64_t ns)
{
    if (ns < 2 * TB_HISTOGRAM_STEPS) return ns < 0 ? 0 : (int)ns;
    int octave = 63 - __builtin_clzll((uint64_t)ns) - 10;
    int bin = octave * TB_HISTOGRAM_STEPS + (int)(ns >> octave);
    return bin < TB_HISTOGRAM_BINS ? bin : TB_HISTOGRAM_BINS - 1;
}

static int64_t highest_in(int bin)
{
    if (bin < 2 * TB_HISTOGRAM_STEPS) return bin;
    int octave = bin / TB_HISTOGRAM_STEPS - 1;
    int64_t step = bin % TB_HISTOGRAM_STEPS + TB_HISTOGRAM_STEPS;
    return ((step + 1) << octave) - 1;
}

void tb_histogram_clear(tb_histogram *h)
{
    memset(h, 0, sizeof *h);
    h->min = INT64_MAX;
}

void tb_histogram_add(tb_histogram *h, int64_t ns)
{
    h->bins[bin_of(ns)]++;
    h->count++;
    h->sum += ns;
    if (ns < h->min) h->min = ns;
    if (ns > h->max) h->max = ns;
}

void tb_histogram_merge(tb_histogram *into, const tb_histogram *from)
{
    for (int i = 0; i < TB_HISTOGRAM_BINS; i++) into->bins[i] += from->bins[i];
    into->count += from->count;
    into->sum += from->sum;
    if (from->min < into->min) into->min = from->min;
    if (from->max > into->max) into->max = from->max;
}

int64_t tb_histogram_quantile(const tb_histogram *h, double q)
{
    if (h->count == 0) return 0;
    uint64_t rank = (uint64_t)ceil(q * (double)h->count - 1e-6), seen = 0; /* 0.009 * 1000 is above 9 */
    if (rank < 1) rank = 1;
    for (int i = 0; i < TB_HISTOGRAM_BINS; i++) {
        seen += h->bins[i];
        if (seen >= rank) return highest_in(i) < h->max && i < TB_HISTOGRAM_BINS - 1 ? highest_in(i) : h->max;
    }
    return h->max;
}
