/* The grid of valid schedules that the schedule tests share. */
#pragma once
#include "tb_schedule.h"
#include <string.h>

typedef struct grid_point {
    const char *name;
    int ranks, microbatches, chunks;
} grid_point;

static inline tb_status try_make(const char *name, int ranks, int microbatches, int chunks, tb_schedule **out)
{
    tb_schedule_config c = { .ranks = ranks, .microbatches = microbatches, .chunks = chunks };
    return tb_schedule_make(name, &c, out);
}

/* Point i of all (generator, ranks, micro-batches, chunks) of the given limits that exist; false: past the end. */
static inline bool grid_at(int index, int max_ranks, int max_microbatches, grid_point *out)
{
    static const int ranks[] = { 1, 2, 3, 4, 5, 8, 16, 32 }, micro[] = { 1, 2, 3, 4, 5, 8, 16, 31, 32, 64, 128 };
    static const int chunks[] = { 1, 2, 4 };
    for (int g = 0; tb_schedule_name_at(g); g++)
        for (int p = 0; p < 8 && ranks[p] <= max_ranks; p++)
            for (int m = 0; m < 11 && micro[m] <= max_microbatches; m++)
                for (int v = 0; v < 3; v++) {
                    const char *name = tb_schedule_name_at(g);
                    bool interleaved = strcmp(name, "interleaved_1f1b") == 0;
                    bool accumulate = strcmp(name, "accumulate") == 0;
                    if (accumulate && p > 0) continue;
                    if (chunks[v] > 1 && !interleaved && !accumulate) continue;
                    if (interleaved && micro[m] % ranks[p]) continue;
                    if (index-- > 0) continue;
                    *out = (grid_point){ name, ranks[p], micro[m], chunks[v] };
                    return true;
                }
    return false;
}
