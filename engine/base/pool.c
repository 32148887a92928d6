/* The thread pool: a generation counter announces a job, each worker runs its contiguous range (or draws grains from
 * a shared counter), a second counter says who is done. Waiting spins SPINS times, then parks on a futex. */
#include "tb_pool.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_topo.h"
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 20000 /* about 100 us: longer than the gap between two jobs of a step, shorter than a time slice */ };

/* A word to wait on; `parked` spares the wake-up call when nobody sleeps. */
typedef struct gate {
    _Alignas(64) _Atomic uint32_t word;
    _Atomic uint32_t parked;
} gate;

typedef struct worker {
    tb_pool *pool;
    pthread_t thread;
    int index;
    const int *bind_core; /* set during tb_pool_bind */
    tb_status bind_status;
} worker;

struct tb_pool {
    int threads;
    worker *workers; /* [threads]; entry 0 is the caller */
    tb_pool_job job;
    void *arg;
    int64_t chunks, grain; /* grain 0: static ranges */
    gate generation;
    gate pending;
    _Alignas(64) _Atomic int64_t next_chunk;
    _Atomic bool stop;
    bool running;
};

/* Returns once the word is not `value`. */
static void gate_wait(gate *g, uint32_t value)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&g->word, memory_order_acquire) != value) return;
        _mm_pause();
    }
    atomic_fetch_add(&g->parked, 1);
    while (atomic_load(&g->word) == value) syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&g->parked, 1);
}

/* After a sequentially consistent change of the word: whoever parked before it is seen here, whoever parks later
 * sees the change. */
static void gate_wake(gate *g)
{
    if (atomic_load(&g->parked)) syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

static void run_part(tb_pool *pool, int thread)
{
    if (pool->grain) {
        for (;;) {
            int64_t begin = atomic_fetch_add(&pool->next_chunk, pool->grain), end = begin + pool->grain;
            if (begin >= pool->chunks) return;
            pool->job(pool->arg, begin, end < pool->chunks ? end : pool->chunks, thread);
        }
    }
    int64_t begin = pool->chunks * thread / pool->threads, end = pool->chunks * (thread + 1) / pool->threads;
    if (begin < end) pool->job(pool->arg, begin, end, thread);
}

static void *work(void *arg)
{
    worker *self = arg;
    tb_pool *pool = self->pool;
    tb_cpu_denormals_on();
    for (uint32_t seen = 0;; seen++) {
        gate_wait(&pool->generation, seen);
        if (atomic_load(&pool->stop)) return NULL;
        run_part(pool, self->index);
        if (atomic_fetch_sub(&pool->pending.word, 1) == 1) gate_wake(&pool->pending);
    }
}

static void start(tb_pool *pool)
{
    atomic_store_explicit(&pool->pending.word, (uint32_t)pool->threads - 1, memory_order_relaxed);
    atomic_fetch_add(&pool->generation.word, 1);
    gate_wake(&pool->generation);
}

static void finish(tb_pool *pool)
{
    for (uint32_t left; (left = atomic_load_explicit(&pool->pending.word, memory_order_acquire)) != 0;)
        gate_wait(&pool->pending, left);
}

tb_status tb_pool_create(int threads, tb_pool **out)
{
    *out = NULL;
    if (threads < 1 || threads > 1024)
        return TB_FAIL(TB_ERR_INVALID, "a pool needs 1 to 1024 threads, not %d", threads);
    tb_pool *pool = tb_calloc(1, sizeof *pool);
    if (!pool) return TB_ERR_OOM;
    pool->threads = 1;
    pool->workers = tb_calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->workers) {
        tb_free(pool);
        return TB_ERR_OOM;
    }
    for (int i = 1; i < threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i};
        if (pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]) != 0) {
            tb_pool_destroy(pool);
            return TB_FAIL(TB_ERR_OOM, "cannot start thread %d of %d", i + 1, threads);
        }
        pool->threads = i + 1;
    }
    tb_cpu_denormals_on();
    *out = pool;
    return TB_OK;
}

void tb_pool_destroy(tb_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->stop, true);
    start(pool);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
    tb_free(pool->workers);
    tb_free(pool);
}

int tb_pool_threads(const tb_pool *pool) { return pool ? pool->threads : 1; }

static void run(tb_pool *pool, int64_t chunks, int64_t grain, tb_pool_job job, void *arg)
{
    if (chunks <= 0) return;
    if (!pool || pool->threads == 1 || chunks == 1 || pool->running) {
        job(arg, 0, chunks, 0);
        return;
    }
    pool->job = job;
    pool->arg = arg;
    pool->chunks = chunks;
    pool->grain = grain;
    atomic_store_explicit(&pool->next_chunk, 0, memory_order_relaxed);
    pool->running = true;
    start(pool);
    run_part(pool, 0);
    finish(pool);
    pool->running = false;
}

void tb_pool_run(tb_pool *pool, int64_t chunks, tb_pool_job job, void *arg) { run(pool, chunks, 0, job, arg); }

void tb_pool_run_dynamic(tb_pool *pool, int64_t chunks, int64_t grain, tb_pool_job job, void *arg)
{
    run(pool, chunks, grain > 0 ? grain : 1, job, arg);
}

static void bind_one(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)begin, (void)end;
    worker *self = (worker *)arg + thread;
    self->bind_status = tb_topo_bind_thread(self->bind_core, 1);
}

tb_status tb_pool_bind(tb_pool *pool, const int *cores, int n_cores)
{
    if (n_cores < 1) return TB_FAIL(TB_ERR_INVALID, "binding needs at least one core");
    for (int i = 0; i < pool->threads; i++) pool->workers[i].bind_core = &cores[i % n_cores];
    tb_pool_run(pool, pool->threads, bind_one, pool->workers);
    for (int i = 0; i < pool->threads; i++)
        if (pool->workers[i].bind_status != TB_OK)
            return TB_FAIL(pool->workers[i].bind_status, "cannot bind thread %d to core %d", i, cores[i % n_cores]);
    return TB_OK;
}
