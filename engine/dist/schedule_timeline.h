/* The memory of one simulated rank over time. Its two streams report changes each in its own order of time, one ahead
 * of the other; the timeline merges them and applies a change once neither stream can come before it. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct tbi_change {
    double at;
    int64_t bytes; /* > 0 taken, < 0 given back */
} tbi_change;

typedef struct tbi_changes { /* a queue: changes [head, n) are open */
    tbi_change *at;
    int64_t head, n, capacity;
} tbi_changes;

typedef struct tbi_timeline {
    tbi_changes streams[2]; /* work, comm */
    int64_t held, peak_bytes;
    double peak_at;
    int rank;
    void (*on_memory)(void *arg, int rank, double at_ns, int64_t held_bytes);
    void *arg;
} tbi_timeline;

TB_MUST_USE tb_status tbi_timeline_add(tbi_timeline *t, bool comm, double at, int64_t bytes);
/* work_free, comm_free: no later change of that stream is before it. */
void tbi_timeline_settle(tbi_timeline *t, double work_free, double comm_free);
void tbi_timeline_close(tbi_timeline *t);
