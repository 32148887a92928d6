/* Offsets for buffers with known lifetimes. */
#include "plan.h"

static bool overlap_in_time(const buffer *a, const buffer *b) { return a->first <= b->last && b->first <= a->last; }

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* The lowest offset at which `b` fits between the buffers already placed that live at the same time. */
static size_t lowest_gap(const buffer *b, const buffer *buffers, const int *placed, int n_placed)
{
    size_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < n_placed; i++) {
            const buffer *p = &buffers[placed[i]];
            if (!overlap_in_time(b, p) || at >= p->offset + aligned(p->bytes) || at + aligned(b->bytes) <= p->offset) continue;
            at = p->offset + aligned(p->bytes);
            moved = true;
        }
    }
    return at;
}

static size_t most_live(const buffer *buffers, int n)
{
    size_t most = 0;
    for (int i = 0; i < n; i++) {
        size_t live = 0;
        for (int k = 0; k < n; k++)
            if (!buffers[k].is_external && buffers[k].first <= buffers[i].first && buffers[i].first <= buffers[k].last)
                live += aligned(buffers[k].bytes);
        if (live > most) most = live;
    }
    return most;
}

tb_status tbi_plan_memory(buffer *buffers, int n, size_t *total, size_t *naive, size_t *bound)
{
    int *placed = tb_calloc((size_t)n + 1, sizeof *placed), n_placed = 0;
    if (!placed) return TB_ERR_OOM;
    *total = 0;
    if (naive) *naive = 0;
    for (;;) {
        int next = -1;
        for (int i = 0; i < n; i++) {
            bool is_done = buffers[i].is_external;
            for (int k = 0; k < n_placed && !is_done; k++) is_done = placed[k] == i;
            if (!is_done && (next < 0 || buffers[i].bytes > buffers[next].bytes)) next = i;
        }
        if (next < 0) break;
        buffer *b = &buffers[next];
        b->offset = lowest_gap(b, buffers, placed, n_placed);
        placed[n_placed++] = next;
        if (b->offset + aligned(b->bytes) > *total) *total = b->offset + aligned(b->bytes);
        if (naive) *naive += aligned(b->bytes);
    }
    tb_free(placed);
    if (bound) *bound = most_live(buffers, n);
    return TB_OK;
}
