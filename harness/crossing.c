/* Ways to move what a sum over ranks must move; they differ in speed alone. */
#include "crossing.h"
#include "tb_kernel.h"
#include <string.h>

enum { MOST_RANKS = 64, CHUNK = 4096, PIECE = 1 << 18 };

int64_t tb_crossing_count(int64_t n, int ranks) { return 2 * (n / ranks) * (ranks - 1); }

const char *tb_crossing_name(tb_crossing way)
{
    static const char *const names[] = {"read", "sum", "copy"};
    return names[way];
}

/* What sums `ranks` arrays into `n_out` places with exactly these instructions. */
static const tb_kernel *kernel_of(tb_isa isa, int ranks, int n_out)
{
    const tb_kernel *found[TB_ISAS];
    int n = tb_kernel_find("rank_sum", TB_F32, isa, found, TB_ISAS);
    for (int k = 0; k < n; k++)
        if (found[k]->isa == isa && found[k]->supports(&(tb_rank_sum_args){.ranks = ranks, .n_out = n_out}))
            return found[k];
    return NULL;
}

bool tb_crossing_exists(tb_crossing way, int ranks, tb_isa isa)
{
    if (ranks < 2 || ranks > MOST_RANKS) return false;
    if (way == TB_CROSSING_COPY) return isa == TB_ISA_SCALAR; /* memcpy: one way, whatever the processor */
    return kernel_of(isa, way == TB_CROSSING_READ ? 2 : ranks, way == TB_CROSSING_READ ? 1 : ranks) != NULL;
}

static void add_up(const tb_kernel *add, float *sums, const float *from, int64_t n)
{
    for (int64_t now; n > 0; n -= now, from += now) {
        now = n < CHUNK ? n : CHUNK;
        const void *in[] = {sums, from};
        void *out[] = {sums};
        add->run(&(tb_rank_sum_args){.n = now, .ranks = 2, .n_out = 1, .in = in, .out = out});
    }
}

/* Of each other rank: its values of this rank's share, and its own share, whose sums would come from it. */
static void read_others(const tb_kernel *add, float *const *data, int64_t at, int64_t share, int rank, int ranks,
                        float sums[CHUNK])
{
    for (int r = 0; r < ranks; r++) {
        if (r == rank) continue;
        add_up(add, sums, data[r] + at + rank * share, share);
        add_up(add, sums, data[r] + at + r * share, share);
    }
}

static void sum_share(const tb_kernel *sum, float *const *data, int64_t first, int64_t share, int ranks)
{
    const void *in[MOST_RANKS];
    void *out[MOST_RANKS];
    for (int r = 0; r < ranks; r++) in[r] = out[r] = data[r] + first;
    sum->run(&(tb_rank_sum_args){.n = share, .ranks = ranks, .n_out = ranks, .in = in, .out = out});
}

static void copy_share(float *const *data, int64_t first, int64_t share, int rank, int ranks)
{
    size_t bytes = (size_t)share * sizeof **data;
    for (int r = 0; r < ranks; r++)
        if (r != rank) memcpy(data[rank] + first, data[r] + first, bytes);
    for (int r = 0; r < ranks; r++)
        if (r != rank) memcpy(data[r] + first, data[rank] + first, bytes);
}

/* SUM goes over one share of the whole. The others share out piece by piece, from the end of the data to its beginning:
 * where caches do not hold all, what was written last is nearest (25 MiB by 2 ranks: 2.5 ms so became 0.8). */
void tb_cross(tb_crossing way, tb_isa isa, float *const *data, int64_t n, int rank, int ranks, double *checksum)
{
    float sums[CHUNK] = {0};
    int64_t piece = way == TB_CROSSING_SUM ? n : PIECE / ranks * ranks;
    for (int64_t at = n > 0 ? (n - 1) / piece * piece : -1; at >= 0; at -= piece) {
        int64_t share = (n - at < piece ? n - at : piece) / ranks, first = at + rank * share;
        if (way == TB_CROSSING_COPY)
            copy_share(data, first, share, rank, ranks);
        else if (way == TB_CROSSING_SUM)
            sum_share(kernel_of(isa, ranks, ranks), data, first, share, ranks);
        else
            read_others(kernel_of(isa, 2, 1), data, at, share, rank, ranks, sums);
    }
    *checksum = 0;
    for (int i = 0; i < CHUNK; i++) *checksum += (double)sums[i];
}
