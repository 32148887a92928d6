/* What can be put around a communicator: comparison before data moves, the flight recorder, faults; and what a group
 * of processes does when one of them is struck. Also run under ThreadSanitizer. */
#include "comm_flight.h"
#include "thread_ranks.h"
#include "tb_cpu.h"
#include "tb_text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static const int64_t second = 1000000000;
static char folder[] = "/tmp/tb_comm_tools_XXXXXX";

static void prefix_of(const char *name, char out[64]) { snprintf(out, 64, "%s/%s", folder, name); }

/* ---- check ---- */
static void checked_battery(tb_comm *c)
{
    MUST_OK(tb_comm_add_check(c));
    run_battery(c);
}

static void a_checked_group_passes_the_battery(void **state)
{
    (void)state;
    on_ranks("thread", 3, 0, checked_battery);
}

static void checked_mismatch(tb_comm *c)
{
    float x[64] = { 0 };
    int rank = tb_comm_rank(c);
    MUST_OK(tb_comm_add_check(c));
    MUST_OK(tb_comm_barrier(c));
    tb_comm_label(c, "bucket %d", rank);
    tb_status st = rank == 2 ? tb_comm_bcast(c, x, 8, 0, NULL, NULL)
                             : tb_comm_allreduce(c, x, 64, TB_F32, TB_REDUCE_SUM, NULL, NULL);
    MUST(st == TB_ERR_COMM || st == TB_ERR_CANCELLED); /* CANCELLED: another rank saw it first and left */
    MUST(strstr(tb_error_message(),
                "rank 0 calls allreduce of 64 f32 (bucket 0) where rank 2 calls bcast of 8 u8 (bucket 2)"));
}

static void every_rank_learns_of_a_mismatch_before_data_moves(void **state)
{
    (void)state;
    on_ranks("thread", 4, 0, checked_mismatch);
}

static void recorded_mismatch(tb_comm *c)
{
    char prefix[64];
    float x[64] = {0};
    prefix_of("odd", prefix);
    MUST_OK(tb_comm_add_check(c));
    MUST_OK(tb_comm_add_fault(c, "mismatch@2:3"));
    MUST_OK(tb_comm_add_recorder(c, prefix));
    for (int i = 0; i < 2; i++) MUST_OK(tb_comm_allreduce(c, x, 64, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    tb_comm_label(c, "step 2, bucket 0");
    MUST(tb_comm_allreduce(c, x, 64, TB_F32, TB_REDUCE_SUM, NULL, NULL) != TB_OK);
}

/* Of four ranks the one that says something else is wrong; of two either may be. */
static void the_record_names_the_odd_one(void **state)
{
    (void)state;
    char prefix[64];
    tb_text report = {0};
    tb_culprit culprit;
    prefix_of("odd", prefix);
    for (int b = 0; b < BACKENDS; b++) {
        on_ranks(backends[b], 4, 0, recorded_mismatch);
        assert_int_equal(tb_comm_read_flight(prefix, &report, &culprit), TB_OK);
        assert_int_equal(culprit.rank, 2);
        assert_int_equal(culprit.other, -1);
        assert_true(culprit.inside);
        assert_non_null(strstr(culprit.doing, " f32 (step 2, bucket 0)"));
    }
    tb_text_free(&report);
}

/* ---- recorder ---- */
static void recorded(tb_comm *c)
{
    char prefix[64];
    prefix_of("battery", prefix);
    MUST_OK(tb_comm_add_recorder(c, prefix));
    run_battery(c);
    for (int i = 0; i < 5000; i++) MUST_OK(tb_comm_barrier(c)); /* more than the ring holds */
}

static void a_recorded_group_passes_the_battery_and_closes_in_order(void **state)
{
    (void)state;
    char prefix[64];
    tb_text report = { 0 };
    tb_culprit culprit;
    prefix_of("battery", prefix);
    on_ranks("shm", 2, 0, recorded);
    assert_int_equal(tb_comm_read_flight(prefix, &report, &culprit), TB_OK);
    assert_int_equal(culprit.rank, -1);
    assert_non_null(strstr(tb_text_str(&report), "rank 1 (process "));
    assert_non_null(strstr(tb_text_str(&report), "closed in order; last done: barrier #"));
    tb_text_free(&report);
}

static void stuck_outside(tb_comm *c)
{
    char prefix[64];
    float x[10] = { 0 };
    prefix_of("stuck", prefix);
    MUST_OK(tb_comm_add_recorder(c, prefix));
    tb_comm_label(c, "step 4, bucket 1");
    MUST_OK(tb_comm_allreduce(c, x, 10, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    tb_comm_label(c, "step 4, bucket 2");
    if (tb_comm_rank(c) != 1) {
        MUST(tb_comm_allreduce(c, x, 10, TB_F32, TB_REDUCE_SUM, NULL, NULL) == TB_ERR_TIMEOUT);
        return;
    }
    usleep(900000);
    MUST(tb_comm_allreduce(c, x, 10, TB_F32, TB_REDUCE_SUM, NULL, NULL) != TB_OK);
}

static void the_record_names_the_rank_that_others_wait_for(void **state)
{
    (void)state;
    char prefix[64];
    tb_text report = { 0 };
    tb_culprit culprit;
    prefix_of("stuck", prefix);
    on_ranks("thread", 2, second / 2, stuck_outside);
    assert_int_equal(tb_comm_read_flight(prefix, &report, &culprit), TB_OK);
    assert_int_equal(culprit.rank, 1);
    assert_non_null(strstr(tb_text_str(&report), "failed in allreduce #"));
    assert_non_null(strstr(tb_text_str(&report), "of 10 f32 (step 4, bucket 2) for 0."));
    assert_non_null(strstr(tb_text_str(&report), "last done: allreduce #"));
    tb_text_free(&report);
    assert_int_equal(tb_comm_read_flight("/tmp/no such record", &report, &culprit), TB_ERR_IO);
}

/* A record of four ranks by hand: the last operations of each, where they were, and when the rank was ended from
 * outside. */
static void write_record(const char *prefix, int rank, int n, const flight_entry *last, int64_t excused_ns)
{
    char path[80];
    flight *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->head = (flight_head){.magic = flight_magic, .rank = rank, .size = 4, .posted = n, .excused_ns = excused_ns};
    for (int i = 0; i < n; i++) {
        memcpy(&f->entries[i + 1], &last[i], sizeof *last);
        f->entries[i + 1].number = i + 1;
    }
    snprintf(path, sizeof path, "%s.%d", prefix, rank);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(f, sizeof *f, 1, file), 1);
    assert_int_equal(fclose(file), 0);
    free(f);
}

/* Rank 0 gave up first, and took the job with it; 1 gave up behind 2, which had been ended while it waited for 3; and 3
 * had not posted what it should, or did so when it was ended. */
static void follow_to_three(int its_state, int64_t slept_ns)
{
    char prefix[64];
    tb_text report = {0};
    tb_culprit culprit;
    prefix_of("chain", prefix);
    for (int r = 0; r < 4; r++) {
        flight_entry e = {
            .posted_ns = 100 - r, .open_ns = 101, .peer = r < 3 ? r + 1 : 2, .blamed = -1, .state = FLIGHT_OPEN};
        if (r < 2) {
            e.state = FLIGHT_FAILED;
            e.ended_ns = r ? 202 : 200;
            e.blamed = r + 1;
        }
        if (r == 3) {
            e.state = its_state;
            e.open_ns = e.posted_ns + slept_ns;
        }
        write_record(prefix, r, 1, &e, r == 1 ? 0 : 201);
    }
    assert_int_equal(tb_comm_read_flight(prefix, &report, &culprit), TB_OK);
    assert_int_equal(culprit.rank, 3);
    assert_int_equal(culprit.other, -1);
    tb_text_free(&report);
}

/* Rank 0 gave up a wait for 1 in which 1 stood still in the posting of its first message; 1 had another message open
 * with 2, from before or, woken when all were ended, begun since. Ranks 2 and 3 wait for 1. */
static void stand_still(const flight_entry messages[2])
{
    char prefix[64];
    tb_text report = {0};
    tb_culprit culprit;
    prefix_of("still", prefix);
    for (int r = 0; r < 4; r++) {
        flight_entry e[2] = {
            {.posted_ns = 0, .open_ns = 1, .peer = 1, .blamed = -1, .state = FLIGHT_OPEN, .what = "receive"}};
        if (r == 0) {
            e[0].state = FLIGHT_FAILED;
            e[0].ended_ns = second;
            e[0].blamed = 1;
        }
        if (r == 1) memcpy(e, messages, sizeof e);
        write_record(prefix, r, r == 1 ? 2 : 1, e, r == 0 ? 0 : second + 3000000);
    }
    assert_int_equal(tb_comm_read_flight(prefix, &report, &culprit), TB_OK);
    assert_int_equal(culprit.rank, 1);
    assert_true(culprit.inside);
    assert_non_null(strstr(culprit.doing, "stood"));
    tb_text_free(&report);
}

static void the_record_names_where_a_rank_stood_still(void **state)
{
    (void)state;
    const flight_entry before = {.posted_ns = 1000, .open_ns = 2000, .peer = 2, .blamed = -1, .state = FLIGHT_OPEN},
                       asleep = {.posted_ns = 3000, .peer = 0, .blamed = -1, .state = FLIGHT_POSTING, .what = "stood"},
                       woken = {.posted_ns = 3000, .open_ns = second + 1000000, .ended_ns = second + 1000001,
                                .peer = 0, .blamed = -1, .state = FLIGHT_DONE, .what = "stood"},
                       since = {.posted_ns = second + 2000000, .open_ns = second + 2000001, .peer = 2, .blamed = -1,
                                .state = FLIGHT_OPEN};
    stand_still((const flight_entry[]){before, asleep});
    stand_still((const flight_entry[]){woken, since});
}

static void the_record_follows_who_waited_for_whom(void **state)
{
    (void)state;
    follow_to_three(FLIGHT_POSTING, 0);
    follow_to_three(FLIGHT_OPEN, second);
}

/* ---- faults ---- */
static void faults_are_spelled_strictly(void **state)
{
    (void)state;
    tb_comm *c;
    static const char *const bad[] = {"",          "kill",     "kill@0",      "kill@0:0",
                                      "kill@-1:3", "melt@0:1", "slow@0:1:5x", "kill@0:1x"};
    assert_int_equal(tb_comm_open_world("self", NULL, &c), TB_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(tb_comm_add_fault(c, bad[i]), TB_ERR_INVALID);
    assert_int_equal(tb_comm_add_fault(c, "slow@0:1:5"), TB_OK);
    int64_t before = tb_now_ns();
    assert_int_equal(tb_comm_barrier(c), TB_OK);
    assert_true(tb_now_ns() - before >= 5000000);
    tb_comm_close(c);
}

static void corrupted(tb_comm *c)
{
    float x = 1;
    MUST_OK(tb_comm_add_fault(c, "corrupt@1:2"));
    MUST_OK(tb_comm_allreduce(c, &x, 1, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    MUST(x == 2.0f);
    MUST_OK(tb_comm_allreduce(c, &x, 1, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    MUST(x != 4.0f);
}

static void a_turned_bit_changes_the_sum(void **state)
{
    (void)state;
    on_ranks("thread", 2, 0, corrupted);
}

/* Three processes over shared memory train until one is struck; the others must leave, naming it, before `deadline`. */
enum { RANKS = 3, VICTIM = 1 };
static void process_main(const tb_comm_id *id, int rank, const char *fault, const char *prefix)
{
    tb_comm *c;
    float x[5000] = { 0 };
    MUST_OK(tb_comm_open("shm", rank, RANKS, id, &(tb_comm_options){ .deadline_ns = 2 * second }, &c));
    MUST_OK(tb_comm_add_fault(c, fault));
    MUST_OK(tb_comm_add_recorder(c, prefix));
    for (int step = 0; step < 1000; step++) {
        tb_comm_label(c, "step %d", step);
        if (tb_comm_allreduce(c, x, 5000, TB_F32, TB_REDUCE_SUM, NULL, NULL) == TB_OK) continue;
        bool named = strstr(tb_error_message(), "rank 1") != NULL;
        bool told = strstr(tb_error_message(), "aborted") != NULL; /* by a rank that left for the same reason */
        tb_comm_close(c); /* tells the others why */
        _exit(named || told ? 40 + named : 50);
    }
    _exit(0);
}

static void struck(const char *fault, int victim_status, int expect_culprit)
{
    char prefix[64];
    pid_t pids[RANKS];
    int status[RANKS], left = RANKS;
    tb_culprit culprit;
    tb_comm_id id;
    prefix_of(fault, prefix);
    assert_int_equal(tb_comm_make_id("shm", RANKS, &id), TB_OK);
    for (int r = 0; r < RANKS; r++) {
        pids[r] = fork();
        if (pids[r] == 0) process_main(&id, r, fault, prefix);
    }
    int64_t start = tb_now_ns();
    while (left > 0) {
        int st;
        pid_t gone = waitpid(-1, &st, WNOHANG);
        for (int r = 0; gone > 0 && r < RANKS; r++)
            if (pids[r] == gone) status[r] = st, left--;
        if (left == 1 && victim_status < 0) kill(pids[VICTIM], SIGKILL); /* stopped or hanging: its launcher's work */
        assert_true(tb_now_ns() - start < 60 * second);
        usleep(1000);
    }
    for (int r = 0; r < RANKS; r++) {
        if (r == VICTIM) {
            if (victim_status > 0) assert_int_equal(status[r], victim_status);
            continue;
        }
        assert_true(WIFEXITED(status[r]));
        assert_in_range(WEXITSTATUS(status[r]), 40, 41);
    }
    tb_text report = { 0 };
    assert_int_equal(tb_comm_read_flight(prefix, &report, &culprit), TB_OK);
    if (expect_culprit >= 0 && culprit.rank != expect_culprit)
        fail_msg("%s: culprit %d\n%s", fault, culprit.rank, tb_text_str(&report));
    tb_text_free(&report);
}

static void a_killed_rank_is_named(void **state)
{
    (void)state;
    struck("kill@1:17", SIGKILL, VICTIM);
}

static void a_rank_that_exits_is_named(void **state)
{
    (void)state;
    struck("exit@1:40", 3 << 8, VICTIM);
}

static void a_stopped_rank_is_named_at_the_deadline(void **state)
{
    (void)state;
    struck("stop@1:5", -1, VICTIM);
}

static void a_hanging_rank_is_named_at_the_deadline(void **state)
{
    (void)state;
    struck("hang@1:9", -1, VICTIM);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_checked_group_passes_the_battery),
        cmocka_unit_test(every_rank_learns_of_a_mismatch_before_data_moves),
        cmocka_unit_test(the_record_names_the_odd_one),
        cmocka_unit_test(a_recorded_group_passes_the_battery_and_closes_in_order),
        cmocka_unit_test(the_record_names_the_rank_that_others_wait_for),
        cmocka_unit_test(the_record_follows_who_waited_for_whom),
        cmocka_unit_test(the_record_names_where_a_rank_stood_still),
        cmocka_unit_test(faults_are_spelled_strictly),
        cmocka_unit_test(a_turned_bit_changes_the_sum),
        cmocka_unit_test(a_killed_rank_is_named),
        cmocka_unit_test(a_rank_that_exits_is_named),
        cmocka_unit_test(a_stopped_rank_is_named_at_the_deadline),
        cmocka_unit_test(a_hanging_rank_is_named_at_the_deadline),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
