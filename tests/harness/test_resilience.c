/* Faults at random ranks and operations, through the whole program: experiments/resilience.yaml, profile `test` (20
 * faults), with TB_TEST_FULL its profile `full` (220). Sanitizers run the short form. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {IN_SCRATCH(every_fault_is_named_and_everybody_leaves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
