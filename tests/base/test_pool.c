/* The thread pool; also run under ThreadSanitizer. */
#include "tb_test.h"
#include "tb_pool.h"
#include <stdatomic.h>
#include <unistd.h>

typedef struct tally {
    atomic_int seen[1000];
    atomic_int threads_used;
    int64_t sum[1000]; /* written without atomics: each chunk belongs to one thread */
} tally;

static void count_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    tally *t = arg;
    atomic_fetch_or(&t->threads_used, 1 << thread);
    for (int64_t i = begin; i < end; i++) {
        atomic_fetch_add(&t->seen[i], 1);
        t->sum[i] += i;
    }
}

static void every_chunk_runs_exactly_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        tb_pool *pool;
        assert_ok(tb_pool_create(threads, &pool));
        for (int chunks = 0; chunks <= 1000; chunks += chunks < 10 ? 1 : 97) {
            tally t = {0};
            tb_pool_run(pool, chunks, count_chunks, &t);
            tb_pool_run_dynamic(pool, chunks, 3, count_chunks, &t);
            for (int i = 0; i < 1000; i++) assert_int_equal(t.seen[i], i < chunks ? 2 : 0);
            for (int i = 0; i < chunks; i++) assert_int_equal(t.sum[i], 2 * i);
        }
        tb_pool_destroy(pool);
    }
}

static void parked_threads_wake_for_the_next_job(void **state)
{
    (void)state;
    tb_pool *pool;
    assert_ok(tb_pool_create(3, &pool));
    for (int round = 0; round < 5; round++) {
        tally t = {0};
        usleep(20000); /* longer than they spin */
        tb_pool_run(pool, 3, count_chunks, &t);
        assert_int_equal(t.threads_used, 7);
    }
    tb_pool_destroy(pool);
}

static void run_nested(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        tally t = {0};
        tb_pool_run(arg, 1, count_chunks, &t);
        assert_int_equal(t.seen[0], 1);
    }
}

static void nested_runs_are_inline(void **state)
{
    (void)state;
    tb_pool *pool;
    assert_ok(tb_pool_create(2, &pool));
    tb_pool_run(pool, 8, run_nested, pool);
    tb_pool_destroy(pool);
}

static void an_absent_pool_is_one_thread(void **state)
{
    (void)state;
    tally t = {0};
    assert_int_equal(tb_pool_threads(NULL), 1);
    tb_pool_run(NULL, 10, count_chunks, &t);
    assert_int_equal(t.seen[9], 1);
    tb_pool *pool;
    assert_fails(tb_pool_create(0, &pool), TB_ERR_INVALID, "1 to 1024 threads");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_runs_exactly_once), cmocka_unit_test(parked_threads_wake_for_the_next_job),
        cmocka_unit_test(nested_runs_are_inline), cmocka_unit_test(an_absent_pool_is_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
