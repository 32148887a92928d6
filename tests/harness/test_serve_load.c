/* The driver serve_load by the real program. Nothing here depends on time: open loops may be void on a busy
 * machine, and whether they are is not asked; what is asked is that every answer was right and every request
 * answered. */
#include "tb_program.h"

static const char experiment[] =
    "question: does it serve?\n"
    "driver: serve_load\n"
    "launch: {ranks: 1, threads: 1, timeout_s: 100}\n"
    "params: {train_steps: 2, seconds: 0.6, repeats: 1, rate: 100, reloads: 3, model: "
    "\"mlp:widths=784-16-10\"}\n"
    "sweep: {product: {params.scenario: [load, reload, drain, storm]}}\n"
    "measure: {launches: 1}\n"
    "valid: [\"answers.wrong == 0\", \"requests.failed == 0\", \"answers_verified > 50\"]\n";

static void every_scenario_answers_every_request_and_answers_it_right(void **state)
{
    (void)state;
    enter_scratch();
    write_file("experiments/x.yaml", experiment);
    program_run run = run_program("run x --out out");
    expect(&run, 0, "4 of 4 points ok");
    leave_scratch();
}

static void texts_come_token_by_token_as_computed_beforehand(void **state)
{
    (void)state;
    enter_scratch();
    write_file("experiments/x.yaml",
               "question: does it write?\n"
               "driver: serve_load\n"
               "launch: {ranks: 1, threads: 1, timeout_s: 100}\n"
               "params: {scenario: generate, model: \"gpt:layers=1,width=16,heads=1\", data: jargon, train_steps: 2,\n"
               "         seconds: 0.3, repeats: 1, rate: 50, connections: 20, tokens: 20}\n"
               "sweep: {product: {params.arrivals: [poisson, closed]}}\n"
               "measure: {launches: 1}\n"
               "valid: [\"answers.wrong == 0\", \"requests.failed == 0\", \"answers_verified > 5\"]\n");
    program_run run = run_program("run x --out out");
    expect(&run, 0, "2 of 2 points ok");
    run = run_program("run x -s params.server=echo --out out2");
    expect(&run, 3, "echo generates no text");
    leave_scratch();
}

static void what_a_peer_cannot_do_is_refused(void **state)
{
    (void)state;
    enter_scratch();
    write_file("experiments/x.yaml", experiment);
    program_run run =
        run_program("run x --where 'params.scenario == drain' -s params.server=fastapi-raw --out out");
    expect(&run, 3, "serves params.form predict under load and search only");
    run = run_program("run x -s params.slo=25ms --where 'params.scenario == load' --out out2");
    expect(&run, 3, "an SLO is PERCENTILE:MILLISECONDS");
    leave_scratch();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scenario_answers_every_request_and_answers_it_right),
        cmocka_unit_test(texts_come_token_by_token_as_computed_beforehand),
        cmocka_unit_test(what_a_peer_cannot_do_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
