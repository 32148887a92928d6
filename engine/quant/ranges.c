/* Ranges by observation: extremes, their moving average over the runs, percentiles of a histogram. */
#include "quant_internal.h"
#include <math.h>

enum { BINS = 2048 };

/* Counts of |x| between 0 and `top`, which doubles (neighbouring bins merge) when something larger comes. */
struct tb_histogram {
    double top;
    int64_t count[BINS];
};

tb_status tb_ranges_create(const tb_graph *g, tb_observer_kind kind, tb_ranges *out)
{
    size_t n = (size_t)g->n_nodes + 1;
    *out = (tb_ranges){.n_nodes = g->n_nodes, .kind = kind};
    out->lo = tb_calloc(n, sizeof *out->lo);
    out->hi = tb_calloc(n, sizeof *out->hi);
    out->runs = tb_calloc(n, sizeof *out->runs);
    if (kind == TB_OBSERVE_PERCENTILE) out->histogram = tb_calloc(2 * n, sizeof *out->histogram);
    if (out->lo && out->hi && out->runs && (out->histogram || kind != TB_OBSERVE_PERCENTILE)) return TB_OK;
    tb_ranges_free(out);
    return TB_ERR_OOM;
}

void tb_ranges_free(tb_ranges *r)
{
    for (int i = 0; r->histogram && i < 2 * r->n_nodes; i++) tb_free(r->histogram[i]);
    tb_free(r->histogram);
    tb_free(r->lo);
    tb_free(r->hi);
    tb_free(r->runs);
    *r = (tb_ranges){0};
}

static void count(struct tb_histogram *h, double x)
{
    if (h->top == 0) h->top = x > 0 ? x : 1;
    while (x > h->top) {
        for (int i = 0; i < BINS; i++) h->count[i] = i < BINS / 2 ? h->count[2 * i] + h->count[2 * i + 1] : 0;
        h->top *= 2;
    }
    int bin = (int)(x / h->top * BINS);
    h->count[bin < BINS ? bin : BINS - 1]++;
}

/* Below it lie all but a share of 1 - TB_OBSERVE_SHARE of `total` values, of which the histogram holds the upper
 * ones. */
static double percentile(const struct tb_histogram *h, int64_t total)
{
    double beyond = (1 - TB_OBSERVE_SHARE) * (double)total;
    int64_t above = 0;
    for (int i = BINS - 1; i >= 0; i--) {
        above += h->count[i];
        if ((double)above > beyond) return (i + 1) * h->top / BINS;
    }
    return 0;
}

static tb_status count_all(tb_ranges *r, int node, const float *x, int64_t n)
{
    for (int side = 0; side < 2; side++)
        if (!r->histogram[2 * node + side]) {
            r->histogram[2 * node + side] = tb_calloc(1, sizeof(struct tb_histogram));
            if (!r->histogram[2 * node + side]) return TB_ERR_OOM;
        }
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]) && x[i] != 0) count(r->histogram[2 * node + (x[i] > 0)], fabs((double)x[i]));
    int64_t total = 0;
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < BINS; i++) total += r->histogram[2 * node + side]->count[i];
    r->lo[node] = (float)-percentile(r->histogram[2 * node], total);
    r->hi[node] = (float)percentile(r->histogram[2 * node + 1], total);
    return TB_OK;
}

const float *tbi_observed(const tb_tensor *t)
{
    int64_t span = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->strides[i] < 1 && t->dims[i] > 1) return NULL;
        span += (t->dims[i] - 1) * t->strides[i];
    }
    return t->dtype == TB_F32 && t->numel > 0 && (t->is_contiguous || span == t->numel) ? tb_op_data(t) : NULL;
}

static void note(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    tb_ranges *r = arg;
    const tb_tensor *t = call->out[0];
    const float *x = tbi_observed(t);
    (void)ns;
    if (r->status != TB_OK || !x) return;
    float lo = x[0], hi = x[0];
    for (int64_t i = 0; i < t->numel; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    bool is_first = r->runs[node]++ == 0;
    if (r->kind == TB_OBSERVE_PERCENTILE) {
        r->status = count_all(r, node, x, t->numel);
    } else if (r->kind == TB_OBSERVE_MOVING_AVERAGE && !is_first) {
        r->lo[node] += (float)TB_OBSERVE_WEIGHT * (lo - r->lo[node]);
        r->hi[node] += (float)TB_OBSERVE_WEIGHT * (hi - r->hi[node]);
    } else {
        r->lo[node] = is_first || lo < r->lo[node] ? lo : r->lo[node];
        r->hi[node] = is_first || hi > r->hi[node] ? hi : r->hi[node];
    }
}

void tb_ranges_observe(tb_ranges *r, tb_session *s)
{
    tb_session_keep_whole(s); /* what slices repeat would count twice */
    tb_session_observe(s, note, r);
}
