/* Threads that share one rank's work. The caller is thread 0; the others spin for a bounded time and then park on a
 * futex, so a neighbour that takes a core costs a wake-up, not a time slice. A pool runs one job at a time.
 *
 * Work is cut into chunks; which thread runs which chunk never changes a result, since no kernel's order of
 * arithmetic depends on it (engine/README.md, "One canonical order"). */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct tb_pool tb_pool;

/* A job gets the half-open range of chunks that it runs and the index of its thread. It must not fail. */
typedef void (*tb_pool_job)(void *arg, int64_t begin, int64_t end, int thread);

TB_MUST_USE tb_status tb_pool_create(int threads, tb_pool **out); /* threads >= 1 */
void tb_pool_destroy(tb_pool *pool);                              /* NULL is accepted */
int tb_pool_threads(const tb_pool *pool);                         /* 1 for NULL */
/* Binds thread i of the pool (0 = the caller) to the i-th core of `cores`, wrapping round. */
TB_MUST_USE tb_status tb_pool_bind(tb_pool *pool, const int *cores, int n_cores);

/* Runs job over [0, chunks), split into at most tb_pool_threads() contiguous ranges, and returns when all are done.
 * With one thread, one chunk or a NULL pool it is a plain call. Nested calls run inline. */
void tb_pool_run(tb_pool *pool, int64_t chunks, tb_pool_job job, void *arg);
/* The same with ranges handed out one `grain` at a time, for chunks of unequal cost. */
void tb_pool_run_dynamic(tb_pool *pool, int64_t chunks, int64_t grain, tb_pool_job job, void *arg);
