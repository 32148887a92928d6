/* Groups of one and groups of threads: results, order, and failures that name their cause. */
#include "thread_ranks.h"
#include "tb_cpu.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <cmocka.h>

static const int64_t ms = 1000000;

static void a_group_of_one_passes_the_battery(void **state)
{
    (void)state;
    tb_comm *c;
    assert_int_equal(tb_comm_open_world(NULL, NULL, &c), TB_OK);
    assert_string_equal(tb_comm_backend(c), "self");
    run_battery(c);
    tb_comm_close(c);
    on_ranks("self", 1, 0, run_battery);
}

static void groups_of_threads_pass_the_battery(void **state)
{
    (void)state;
    static const int sizes[] = { 1, 2, 3, 8 };
    for (int b = 0; b < BACKENDS; b++)
        for (int i = 0; i < 4; i++) on_ranks(backends[b], sizes[i], 0, run_battery);
}

/* Rank 1 never comes: rank 0 leaves in time, says what it did, in which phase, for whom it waited, and stays failed. */
static void late_peer(tb_comm *c)
{
    if (tb_comm_rank(c) == 1) {
        nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 500 * ms }, NULL);
        float x = 0;
        MUST(tb_comm_allreduce(c, &x, 1, TB_F32, TB_REDUCE_SUM, NULL, NULL) != TB_OK);
        return;
    }
    float data[2000] = { 0 };
    int64_t before = tb_now_ns();
    tb_comm_label(c, "step %d, bucket %d", 17, 3);
    MUST(tb_comm_allreduce(c, data, 2000, TB_F32, TB_REDUCE_SUM, NULL, NULL) == TB_ERR_TIMEOUT);
    MUST(tb_now_ns() - before >= 400 * ms);
    MUST(strstr(tb_error_message(), "rank 0 of 2: allreduce #"));
    MUST(strstr(tb_error_message(), "of 2000 f32 (step 17, bucket 3) waited "));
    MUST(strstr(tb_error_message(), " s for rank 1"));
    MUST(tb_comm_barrier(c) == TB_ERR_CANCELLED);
    MUST(strstr(tb_error_message(), "failed before: rank 0 of 2: allreduce"));
}

static void missing_rank_is_named_at_the_deadline(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) on_ranks(backends[b], 2, 400 * ms, late_peer);
}

/* Rank 2 aborts when it has heard from everybody, so that nobody is still opening. */
static void abort_body(tb_comm *c)
{
    char x = 0, y;
    tb_request sent = { 0 }, never = { 0 };
    if (tb_comm_rank(c) == 2) {
        for (int r = 0; r < tb_comm_size(c); r++)
            if (r != 2) MUST_OK(tb_comm_irecv(c, &x, 1, r, NULL, NULL));
        tb_comm_abort(c, 3, "loss is not a number");
        return;
    }
    int64_t before = tb_now_ns();
    MUST_OK(tb_comm_isend(c, &x, 1, 2, NULL, &sent));
    MUST_OK(tb_comm_irecv(c, &y, 1, 2, NULL, &never));
    MUST(tb_comm_wait(c, &never, 0) == TB_ERR_CANCELLED);
    MUST(tb_now_ns() - before < 5000 * ms);
    MUST(strstr(tb_error_message(), "rank 2 aborted: loss is not a number"));
}

static void an_abort_reaches_every_rank(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) on_ranks(backends[b], 4, 0, abort_body);
}

static void lengths_body(tb_comm *c)
{
    char x[8] = { 0 };
    if (tb_comm_rank(c) == 0) {
        tb_status sent = tb_comm_isend(c, x, 5, 1, NULL, NULL); /* may be over before it is looked at */
        MUST(sent == TB_OK || sent == TB_ERR_CANCELLED);
        MUST(tb_comm_barrier(c) == TB_ERR_CANCELLED);
        MUST(strstr(tb_error_message(), "rank 1 aborted"));
    } else {
        MUST(tb_comm_irecv(c, x, 8, 0, NULL, NULL) == TB_ERR_COMM);
        MUST(strstr(tb_error_message(), "expects 8 bytes from rank 0, which sends 5"));
    }
}

static void different_lengths_are_an_error_on_both_sides(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) on_ranks(backends[b], 2, 0, lengths_body);
}

static void mismatch_body(tb_comm *c)
{
    float x[64] = { 0 };
    tb_comm_label(c, "bucket %d", 3 + tb_comm_rank(c));
    if (tb_comm_rank(c) == 0) {
        tb_status st = tb_comm_allreduce(c, x, 64, TB_F32, TB_REDUCE_SUM, NULL, NULL);
        MUST(st == TB_ERR_COMM || st == TB_ERR_CANCELLED);
        if (st == TB_ERR_COMM)
            MUST(strstr(tb_error_message(),
                        "of 64 f32 (bucket 3) meets allreduce of 32 f32 on rank 1: ranks must call"));
    } else {
        MUST(tb_comm_allreduce(c, x, 32, TB_F32, TB_REDUCE_SUM, NULL, NULL) != TB_OK);
    }
}

static void different_collectives_are_an_error_on_both_sides(void **state)
{
    (void)state;
    if (BACKENDS > 1) on_ranks("shm", 2, 0, mismatch_body);
}

static void ids_of_strangers_are_refused(void **state)
{
    (void)state;
    tb_comm_id id = { 0 };
    tb_comm *c;
    assert_int_equal(tb_comm_open("thread", 0, 2, &id, NULL, &c), TB_ERR_INVALID);
    assert_int_equal(tb_comm_open("thread", 2, 2, &id, NULL, &c), TB_ERR_INVALID);
    assert_int_equal(tb_comm_open("threads", 0, 2, &id, NULL, &c), TB_ERR_NOT_FOUND);
    assert_non_null(strstr(tb_error_message(), "nearest: thread"));
    assert_int_equal(tb_comm_make_id("mpi", 2, &id), TB_ERR_UNSUPPORTED);
}

static void nothing_stays_behind(void **state)
{
    (void)state;
    for (int b = 0; b < BACKENDS; b++) {
        tb_mem_stats before, after;
        tb_heap_stats(tb_heap_process(), &before);
        on_ranks(backends[b], 3, 0, run_battery);
        tb_heap_stats(tb_heap_process(), &after);
        assert_int_equal(before.live_blocks, after.live_blocks);
        assert_int_equal(before.live_bytes, after.live_bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_of_one_passes_the_battery),
        cmocka_unit_test(groups_of_threads_pass_the_battery),
        cmocka_unit_test(missing_rank_is_named_at_the_deadline),
        cmocka_unit_test(an_abort_reaches_every_rank),
        cmocka_unit_test(different_lengths_are_an_error_on_both_sides),
        cmocka_unit_test(different_collectives_are_an_error_on_both_sides),
        cmocka_unit_test(ids_of_strangers_are_refused),
        cmocka_unit_test(nothing_stays_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
