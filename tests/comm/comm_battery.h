/* What every backend must do, run by one rank of a group; every rank calls the same. Failures end the process with a
 * sentence, since ranks may be threads. */
#pragma once
#include "tb_comm.h"
#include "tb_rng.h"
#include <stdlib.h>
#include <string.h>

#define MUST(condition)                                                                                               \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #condition, tb_error_message());          \
            exit(1);                                                                                                  \
        }                                                                                                             \
    } while (0)
#define MUST_OK(call) MUST((call) == TB_OK)

/* Element i of rank r in test `what`: any rank can compute any rank's data. */
static inline double value_of(int what, int rank, int64_t i)
{
    return tb_random_normal(5, tb_stream_index((uint64_t)what, (uint64_t)rank), (uint64_t)i);
}

static inline void round_to(tb_dtype t, double *x)
{
    char raw[8];
    tb_store_f64(t, raw, *x);
    *x = tb_load_f64(t, raw);
}

/* The definition: level by level, neighbours in rank order, in f32 for 16-bit floats, rounded at the end. */
static inline double reduced(int what, int size, int64_t i, tb_dtype t, tb_reduction kind)
{
    double x[64];
    bool whole = t == TB_I32 || t == TB_I64;
    tb_dtype work = t == TB_BF16 || t == TB_F16 ? TB_F32 : t;
    for (int r = 0; r < size; r++) {
        x[r] = whole ? (double)(int64_t)(value_of(what, r, i) * 1000) : value_of(what, r, i);
        round_to(t, &x[r]);
    }
    for (; size > 1; size = (size + 1) / 2)
        for (int k = 0; k < size; k += 2) {
            double a = x[k], b = k + 1 < size ? x[k + 1] : 0;
            x[k / 2] = k + 1 == size          ? a
                       : kind == TB_REDUCE_MAX ? (a > b ? a : b)
                       : kind == TB_REDUCE_MIN ? (a < b ? a : b)
                                               : a + b;
            round_to(work, &x[k / 2]);
        }
    round_to(t, &x[0]);
    return x[0];
}

static inline void fill(void *data, int what, int rank, int64_t count, tb_dtype t)
{
    bool whole = t == TB_I32 || t == TB_I64;
    for (int64_t i = 0; i < count; i++)
        tb_store_f64(t, (char *)data + (size_t)i * tb_dtype_size(t),
                     whole ? (double)(int64_t)(value_of(what, rank, i) * 1000) : value_of(what, rank, i));
}

static inline void reductions_follow_the_tree_to_the_bit(tb_comm *c)
{
    static const int64_t counts[] = { 0, 1, 2, 7, 100, 1023, 1025, 5000, 70001 };
    static const tb_dtype dtypes[] = { TB_F32, TB_F64, TB_BF16, TB_F16, TB_I32, TB_I64 };
    for (int d = 0; d < 6; d++)
        for (int n = 0; n < 9; n++)
            for (int kind = 0; kind < 3; kind++) {
                if (kind && n % 3) continue;
                int what = 100 * d + 10 * n + kind;
                size_t size = tb_dtype_size(dtypes[d]);
                char *data = malloc((size_t)counts[n] * size + 1);
                fill(data, what, tb_comm_rank(c), counts[n], dtypes[d]);
                MUST_OK(tb_comm_allreduce(c, data, counts[n], dtypes[d], (tb_reduction)kind, NULL, NULL));
                for (int64_t i = 0; i < counts[n]; i += 1 + counts[n] / 500)
                    MUST(tb_load_f64(dtypes[d], data + (size_t)i * size) ==
                         reduced(what, tb_comm_size(c), i, dtypes[d], (tb_reduction)kind));
                free(data);
            }
}

/* Larger than a piece of 16 MiB, and not a multiple of anything. */
static inline void large_reductions_are_cut(tb_comm *c)
{
    int64_t count = 5000011;
    float *data = malloc((size_t)count * sizeof *data);
    for (int64_t i = 0; i < count; i++) data[i] = (float)((i + 1) % 1000 * (tb_comm_rank(c) + 1));
    MUST_OK(tb_comm_allreduce(c, data, count, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    int size = tb_comm_size(c);
    for (int64_t i = 0; i < count; i++) MUST(data[i] == (float)((i + 1) % 1000 * (size * (size + 1) / 2)));
    free(data);
}

/* Buckets in the group's memory (on odd ranks some in memory of their own), all in flight, waited for in any order. */
static inline void buckets_in_flight_finish_in_any_order(tb_comm *c)
{
    enum { BUCKETS = 7 };
    int64_t counts[BUCKETS] = { 1, 600000, 3, 40000, 262144, 0, 77777 };
    float *data[BUCKETS], *own[BUCKETS];
    tb_request requests[BUCKETS];
    int rank = tb_comm_rank(c), size = tb_comm_size(c);
    for (int b = 0; b < BUCKETS; b++) {
        own[b] = rank % 2 && b % 2 ? malloc((size_t)counts[b] * sizeof(float) + 1) : NULL;
        data[b] = own[b] ? own[b] : tb_comm_alloc(c, (size_t)counts[b] * sizeof(float));
        MUST(data[b] && (own[b] || (uintptr_t)data[b] % 64 == 0));
    }
    for (int round = 0; round < 3; round++) {
        for (int b = 0; b < BUCKETS; b++) {
            bool done;
            for (int64_t i = 0; i < counts[b]; i++) data[b][i] = (float)((i % 1000 + b) * (rank + 1));
            MUST_OK(tb_comm_allreduce(c, data[b], counts[b], TB_F32, TB_REDUCE_SUM, NULL, &requests[b]));
            MUST_OK(tb_comm_poll(c, &requests[0], &done));
        }
        for (int k = 0; k < BUCKETS; k++) MUST_OK(tb_comm_wait(c, &requests[(k + 3 * rank) % BUCKETS], 0));
        for (int b = 0; b < BUCKETS; b++)
            for (int64_t i = 0; i < counts[b]; i++)
                MUST(data[b][i] == (float)((i % 1000 + b) * (size * (size + 1) / 2)));
    }
    for (int b = 0; b < BUCKETS; b++) {
        if (!own[b]) tb_comm_free(c, data[b]);
        free(own[b]);
    }
}

static inline void blocks_are_scattered_and_gathered(tb_comm *c)
{
    int rank = tb_comm_rank(c), size = tb_comm_size(c);
    for (int64_t count = 0; count < 3000; count = 3 * count + 1) {
        float *data = malloc((size_t)(size * count) * sizeof *data + 1), *out = malloc((size_t)count * sizeof *out + 1);
        fill(data, 7, rank, size * count, TB_F32);
        MUST_OK(tb_comm_reduce_scatter(c, data, out, count, TB_F32, TB_REDUCE_SUM, NULL, NULL));
        for (int64_t i = 0; i < count; i++)
            MUST((double)out[i] == reduced(7, size, rank * count + i, TB_F32, TB_REDUCE_SUM));
        MUST_OK(tb_comm_allgather(c, out, data, (size_t)count * sizeof *out, NULL, NULL));
        for (int64_t i = 0; i < size * count; i++)
            MUST((double)data[i] == reduced(7, size, i, TB_F32, TB_REDUCE_SUM));
        fill(data, 7, rank, size * count, TB_F32); /* now in place */
        MUST_OK(tb_comm_reduce_scatter(c, data, data + rank * count, count, TB_F32, TB_REDUCE_SUM, NULL, NULL));
        MUST_OK(tb_comm_allgather(c, data + rank * count, data, (size_t)count * sizeof *out, NULL, NULL));
        for (int64_t i = 0; i < size * count; i++)
            MUST((double)data[i] == reduced(7, size, i, TB_F32, TB_REDUCE_SUM));
        free(data);
        free(out);
    }
}

static inline void every_root_reaches_all(tb_comm *c)
{
    for (int root = 0; root < tb_comm_size(c); root++)
        for (size_t bytes = 0; bytes < 300000; bytes = bytes * 17 + 1) {
            unsigned char *data = malloc(bytes + 1);
            memset(data, tb_comm_rank(c) == root ? root + 1 : 0, bytes + 1);
            MUST_OK(tb_comm_bcast(c, data, bytes, root, NULL, NULL));
            for (size_t i = 0; i < bytes; i++) MUST(data[i] == root + 1);
            free(data);
        }
}

/* To every peer many messages of many sizes, all open at once, beside collectives. */
static inline void messages_arrive_in_order(tb_comm *c)
{
    enum { EACH = 100 };
    int rank = tb_comm_rank(c), size = tb_comm_size(c), n = 0;
    tb_request *requests = calloc((size_t)(2 * EACH * size), sizeof *requests);
    char **blocks = calloc((size_t)(2 * EACH * size), sizeof *blocks);
    for (int peer = 0; peer < size; peer++)
        for (int k = 0; peer != rank && k < EACH; k++) {
            size_t bytes = k % 7 == 0 ? 0 : (size_t)(k * k * 3);
            blocks[n] = malloc(bytes + 1);
            memset(blocks[n], k + rank, bytes);
            MUST_OK(tb_comm_isend(c, blocks[n], bytes, peer, NULL, &requests[n]));
            n++;
            blocks[n] = malloc(bytes + 1);
            MUST_OK(tb_comm_irecv(c, blocks[n], bytes, peer, NULL, &requests[n]));
            n++;
        }
    MUST_OK(tb_comm_barrier(c));
    bool done;
    MUST_OK(tb_comm_poll(c, NULL, &done));
    MUST_OK(tb_comm_wait_all(c, requests, n, 0));
    n = 0;
    for (int peer = 0; peer < size; peer++)
        for (int k = 0; peer != rank && k < EACH; k++, n += 2) {
            size_t bytes = k % 7 == 0 ? 0 : (size_t)(k * k * 3);
            for (size_t i = 0; i < bytes; i++) MUST(blocks[n + 1][i] == (char)(k + peer));
            free(blocks[n]);
            free(blocks[n + 1]);
        }
    free(blocks);
    free(requests);
}

/* Where ranks share memory, each sees what the others wrote before a barrier. */
static inline void shared_blocks_are_seen_by_all(tb_comm *c)
{
    int rank = tb_comm_rank(c), size = tb_comm_size(c);
    int *mine = tb_comm_alloc(c, 100 * sizeof *mine);
    void *theirs[64];
    tb_status st = tb_comm_addresses(c, mine, theirs);
    bool apart = strcmp(tb_comm_backend(c), "mpi") == 0 || strcmp(tb_comm_backend(c), "nodes") == 0;
    MUST(st == (apart ? TB_ERR_UNSUPPORTED : TB_OK));
    for (int i = 0; st == TB_OK && i < 100; i++) mine[i] = 1000 * rank + i;
    MUST_OK(tb_comm_barrier(c));
    for (int r = 0; st == TB_OK && r < size; r++)
        for (int i = 0; i < 100; i++) MUST(((int *)theirs[r])[i] == 1000 * r + i);
    MUST_OK(tb_comm_barrier(c));
    tb_comm_free(c, mine);
}

static inline void split_groups_work_apart(tb_comm *c)
{
    tb_comm *half, *none;
    int rank = tb_comm_rank(c), size = tb_comm_size(c);
    MUST_OK(tb_comm_split(c, rank % 2, &half));
    MUST(tb_comm_size(half) == (size + 1 - rank % 2) / 2 && tb_comm_rank(half) == rank / 2);
    int64_t sum = rank, wanted = 0;
    for (int r = rank % 2; r < size; r += 2) wanted += r;
    MUST_OK(tb_comm_allreduce(half, &sum, 1, TB_I64, TB_REDUCE_SUM, NULL, NULL));
    MUST(sum == wanted);
    tb_comm_close(half);
    MUST_OK(tb_comm_split(c, rank == 0 ? 0 : -1, &none));
    MUST((none != NULL) == (rank == 0));
    tb_comm_close(none);
}

static inline void one_failure_is_known_to_all(tb_comm *c)
{
    int rank = tb_comm_rank(c), last = tb_comm_size(c) - 1;
    MUST_OK(tb_comm_agree(c, TB_OK));
    tb_status mine = rank == last ? TB_FAIL(TB_ERR_IO, "disk full") : TB_OK;
    tb_status st = tb_comm_agree(c, mine);
    MUST(st == (rank == last ? TB_ERR_IO : TB_ERR_COMM));
    char who[32];
    snprintf(who, sizeof who, "rank %d of", last);
    MUST(strstr(tb_error_message(), rank == last ? "disk full" : who));
    MUST_OK(tb_comm_agree(c, TB_OK));
}

static inline void wrong_arguments_are_refused_and_harm_nothing(tb_comm *c)
{
    float x = 1;
    tb_request r = { 0 };
    MUST(tb_comm_allreduce(c, &x, -1, TB_F32, TB_REDUCE_SUM, NULL, NULL) == TB_ERR_INVALID);
    MUST(tb_comm_allreduce(c, &x, 1, TB_BOOL, TB_REDUCE_SUM, NULL, NULL) == TB_ERR_DTYPE);
    MUST(tb_comm_bcast(c, &x, 4, tb_comm_size(c), NULL, NULL) == TB_ERR_INVALID);
    MUST(tb_comm_isend(c, &x, 4, tb_comm_rank(c), NULL, &r) == TB_ERR_INVALID);
    MUST(tb_comm_irecv(c, &x, 4, -1, NULL, &r) == TB_ERR_INVALID);
    MUST_OK(tb_comm_barrier(c));
}

static inline void run_battery(tb_comm *c)
{
    reductions_follow_the_tree_to_the_bit(c);
    large_reductions_are_cut(c);
    buckets_in_flight_finish_in_any_order(c);
    blocks_are_scattered_and_gathered(c);
    every_root_reaches_all(c);
    messages_arrive_in_order(c);
    shared_blocks_are_seen_by_all(c);
    split_groups_work_apart(c);
    one_failure_is_known_to_all(c);
    wrong_arguments_are_refused_and_harm_nothing(c);
    tb_comm_stats s;
    tb_comm_get_stats(c, &s);
    MUST(s.collectives > 0 && (s.wire_bytes > 0) == (tb_comm_size(c) > 1));
}
