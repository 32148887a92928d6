/* Faults at random ranks and operations, through the whole program: experiments/resilience.yaml, profile `test` (20
 * faults), with TB_TEST_FULL its profile `full` (220). Sanitizers run the short form. */
#include "struck_program.h"
#include "tb_comm.h"
#include "tb_program.h"

#ifdef __SANITIZE_ADDRESS__
static const bool is_sanitized = true;
#else
static const bool is_sanitized = false;
#endif

static void every_fault_is_named_and_everybody_leaves(void **state)
{
    (void)state;
    bool full = getenv("TB_TEST_FULL") && !is_sanitized;
    assert_int_equal(rmdir("experiments"), 0);
    assert_int_equal(symlink(TB_SOURCE_DIR "/experiments", "experiments"), 0);
    program_run run = run_program(full ? "run resilience -p full --out out" : "run resilience -p test --out out");
    expect(&run, 0, full ? "44 of 44 points ok" : "20 of 20 points ok");
}

/* A group's memory is seen while a process maps it, its maker or another, and no longer. */
static void memory_of_ranks_is_seen_until_nobody_maps_it(void **state)
{
    (void)state;
    int made[2], end[2];
    char byte = 0;
    assert_int_equal(pipe(made) | pipe(end), 0);
    pid_t maker = fork();
    if (maker == 0) {
        tb_comm_id id;
        tb_comm *c;
        bool ok = tb_comm_make_id("shm", 1, &id) == TB_OK && tb_comm_open("shm", 0, 1, &id, NULL, &c) == TB_OK;
        close(end[1]);
        pid_t stays = ok ? fork() : -1;
        if (stays != 0) _exit(stays < 0);
        if (write(made[1], &byte, 1) != 1 || read(end[0], &byte, 1) != 0) _exit(1);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(maker, &status, 0), maker);
    assert_int_equal(status, 0);
    assert_int_equal(read(made[0], &byte, 1), 1);
    assert_true(tb_struck_left_arena(maker));
    close(end[1]); /* the one that stays ends */
    for (int i = 0; i < 5000 && tb_struck_left_arena(maker); i++) usleep(1000);
    assert_false(tb_struck_left_arena(maker));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_of_ranks_is_seen_until_nobody_maps_it),
        IN_SCRATCH(every_fault_is_named_and_everybody_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
