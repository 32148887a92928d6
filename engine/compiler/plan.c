/* Offsets for buffers with known lifetimes. */
#include "plan.h"

static bool overlap_in_time(const buffer *a, const buffer *b) { return a->first <= b->last && b->first <= a->last; }

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static size_t end_of(const buffer *b) { return b->offset + aligned(b->bytes); }

/* The smallest gap that fits `b` between the buffers already placed (by ascending offset) that live at the same time;
 * behind all of them where none does. */
static size_t best_gap(const buffer *b, const buffer *buffers, const int *placed, int n_placed)
{
    size_t free_from = 0, best = 0, best_size = SIZE_MAX;
    for (int i = 0; i < n_placed; i++) {
        const buffer *p = &buffers[placed[i]];
        if (!overlap_in_time(b, p)) continue;
        if (p->offset >= free_from + aligned(b->bytes) && p->offset - free_from < best_size) {
            best = free_from;
            best_size = p->offset - free_from;
        }
        if (end_of(p) > free_from) free_from = end_of(p);
    }
    return best_size < SIZE_MAX ? best : free_from;
}

/* Most bytes live at one time while `b` is: at the start of some buffer, its own or a later one's. */
static size_t most_live(const buffer *b, const buffer *buffers, int n)
{
    size_t most = 0;
    for (int i = 0; i < n; i++) {
        int at = buffers[i].first;
        size_t live = 0;
        if (buffers[i].is_external || at < b->first || at > b->last) continue;
        for (int k = 0; k < n; k++)
            if (!buffers[k].is_external && buffers[k].first <= at && at <= buffers[k].last)
                live += aligned(buffers[k].bytes);
        if (live > most) most = live;
    }
    return most;
}

enum { BY_SIZE, BY_BREADTH, BY_TIME, ORDERS };

/* Fills `order` with the buffers to place, the greatest key first; equal keys: the larger, then the earlier. */
static int in_order(int kind, const buffer *buffers, const size_t *breadth, int n, int *order)
{
    int n_order = 0;
    for (int i = 0; i < n; i++) {
        const buffer *b = &buffers[i];
        int at = n_order;
        if (b->is_external) continue;
        for (; at > 0; at--) {
            const buffer *o = &buffers[order[at - 1]];
            bool before = kind == BY_TIME ? b->first < o->first
                          : kind == BY_BREADTH && breadth[i] != breadth[order[at - 1]]
                              ? breadth[i] > breadth[order[at - 1]]
                              : b->bytes > o->bytes;
            if (!before) break;
            order[at] = order[at - 1];
        }
        order[at] = i;
        n_order++;
    }
    return n_order;
}

static size_t place(buffer *buffers, const int *order, int n_order, int *placed)
{
    size_t total = 0;
    for (int i = 0; i < n_order; i++) {
        buffer *b = &buffers[order[i]];
        int at = i;
        b->offset = best_gap(b, buffers, placed, i);
        for (; at > 0 && buffers[placed[at - 1]].offset > b->offset; at--) placed[at] = placed[at - 1];
        placed[at] = order[i];
        if (end_of(b) > total) total = end_of(b);
    }
    return total;
}

tb_status tbi_plan_memory(buffer *buffers, int n, size_t *total, size_t *naive, size_t *bound)
{
    int *order = tb_calloc(2 * (size_t)n + 2, sizeof *order), n_order = 0, best = BY_SIZE;
    size_t *breadth = tb_calloc((size_t)n + 1, sizeof *breadth), all = 0, least = 0;
    if (!order || !breadth) {
        tb_free(order);
        tb_free(breadth);
        return TB_ERR_OOM;
    }
    for (int i = 0; i < n; i++) {
        if (buffers[i].is_external) continue;
        breadth[i] = most_live(&buffers[i], buffers, n);
        if (breadth[i] > least) least = breadth[i];
        all += aligned(buffers[i].bytes);
    }
    *total = SIZE_MAX;
    for (int kind = 0; kind < ORDERS && *total > least; kind++) {
        n_order = in_order(kind, buffers, breadth, n, order);
        size_t size = place(buffers, order, n_order, order + n + 1);
        if (size >= *total) continue;
        *total = size;
        best = kind;
    }
    n_order = in_order(best, buffers, breadth, n, order);
    *total = place(buffers, order, n_order, order + n + 1);
    if (naive) *naive = all;
    if (bound) *bound = least;
    tb_free(order);
    tb_free(breadth);
    return TB_OK;
}
