/* The harness's group on 2 ranks: what its operations give, and that a wait that was given up leaves no memory to MPI.
 */
#include "group.h"
#include "tb_alloc.h"
#include "tb_test.h"
#include <mpi.h>
#include <string.h>
#include <time.h>

static tb_group *world;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void operations_reach_all_ranks(void **state)
{
    (void)state;
    int rank = tb_group_rank(world);
    int64_t value = 10 + rank;
    char word[8] = "";
    void *all;
    size_t bytes;
    if (rank == 0) snprintf(word, sizeof word, "here");
    assert_ok(tb_group_barrier(world));
    assert_ok(tb_group_idle_barrier(world));
    assert_ok(tb_group_broadcast(world, word, sizeof word));
    assert_string_equal(word, "here");
    assert_ok(tb_group_max(world, &value));
    assert_int_equal(value, 11);
    assert_ok(tb_group_gather(world, "01234" + rank, (size_t)(5 - rank), &all, &bytes));
    if (rank > 0)
        assert_null(all);
    else {
        assert_int_equal(bytes, 9);
        assert_memory_equal(all, "012341234", 9);
    }
    tb_free(all);
}

/* Rank 0 comes late; what it sends then must not reach memory that rank 1 has taken back. */
static void a_wait_that_was_given_up_writes_nothing(void **state)
{
    (void)state;
    tb_group *group;
    char data[64];
    int flag;
    assert_ok(tb_group_first(world, 2, &group));
    memset(data, 7 + tb_group_rank(group), sizeof data);
    if (tb_group_rank(group) == 0) {
        sleep_ms(400);
        assert_ok(tb_group_broadcast(group, data, sizeof data));
    } else {
        tb_group_set_deadline(group, 100000000);
        assert_int_equal(tb_group_broadcast(group, data, sizeof data), TB_ERR_TIMEOUT);
        assert_non_null(strstr(tb_error_message(), "rank 1 of 2 waited 0.1 s for another rank"));
        assert_int_equal(tb_group_barrier(group), TB_ERR_CANCELLED);
        for (int i = 0; i < 600; i++, sleep_ms(1))
            assert_int_equal(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE), 0);
        for (size_t i = 0; i < sizeof data; i++) assert_int_equal(data[i], 8);
    }
    assert_ok(tb_group_barrier(world));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_reach_all_ranks),
        cmocka_unit_test(a_wait_that_was_given_up_writes_nothing),
    };
    if (tb_group_start(&world) != TB_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tb_group_end(world);
    return failed;
}
