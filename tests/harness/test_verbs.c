/* The verbs that look: list, show, diff, info, doctor, help; what they print as JSON is JSON. */
#include "tb_conf.h"
#include "tb_program.h"

static tb_conf *json_of(const program_run *run)
{
    tb_conf *root = NULL;
    assert_int_equal(run->exit_code, 0);
    if (tb_conf_parse(run->output, strlen(run->output), "output", &root) != TB_OK)
        fail_msg("%s in:\n%s", tb_error_message(), run->output);
    return root;
}

static void help_lists_every_verb_and_each_explains_itself(void **state)
{
    (void)state;
    static const char *const verbs[] = {"run", "list", "show", "diff", "doctor", "info"};
    program_run all = run_program("help");
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        char command[64], heading[64];
        snprintf(heading, sizeof heading, "\n  %-9s ", verbs[i]);
        expect(&all, 0, heading);
        snprintf(command, sizeof command, "%s --help", verbs[i]);
        snprintf(heading, sizeof heading, "tb %s", verbs[i]);
        program_run one = run_program(command);
        expect(&one, 0, heading);
    }
    assert_null(strstr(all.output, "worker"));
}

static void output_that_is_lost_is_told(void **state)
{
    (void)state;
    write_file("experiments/good.yaml", "question: 'How much?'\ndriver: 'null'\n");
    program_run run = run_program("list > /dev/full");
    expect(&run, 3, "tb list: the output is not complete");
}

static void list_tells_what_an_experiment_asks(void **state)
{
    (void)state;
    program_run none = run_program("list");
    expect(&none, 0, "no experiments (*.yaml) in ./experiments");
    write_file("experiments/good.yaml", "question: 'How much?'\ndriver: 'null'\n");
    write_file("experiments/wrong.yaml", "driver: 'null'\nparms: {}\n");
    program_run run = run_program("list");
    expect(&run, 0, "How much?");
    expect(&run, 0, "./experiments/wrong.yaml:2:1: unknown key 'parms'");
    run = run_program("list --json");
    tb_conf *root = json_of(&run);
    assert_int_equal(root->n_items, 2);
    assert_string_equal(tb_conf_find(root->items[0], "question")->text, "How much?");
    assert_string_equal(tb_conf_find(root->items[1], "driver")->text, "null");
    tb_conf_free(root);
}

static void keys_are_shown_from_the_tables_that_check_them(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\n");
    program_run run = run_program("show x --keys");
    expect(&run, 0, "params.work_us");
    expect(&run, 0, "measure.launches");
    expect(&run, 0, "launch.timeout_s");
    expect(&run, 0, "iter_ms");
    expect(&run, 0, "also for valid and checks: work_us parity.max_rel_err");
}

static void an_experiment_is_shown_as_json(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "question: 'Twice?'\ndriver: 'null'\nsweep: {product: {params.work_us: [1, 2]}}\n"
                                     "plots: [{kind: throughput}]\n");
    program_run run = run_program("show x --json");
    tb_conf *root = json_of(&run);
    assert_string_equal(tb_conf_find(root, "question")->text, "Twice?");
    assert_string_equal(tb_conf_find(tb_conf_find(root, "plots")->items[0], "kind")->text, "throughput");
    const tb_conf *points = tb_conf_find(root, "points");
    assert_int_equal(points->n_items, 2);
    assert_string_equal(tb_conf_find(points->items[1], "config.params.work_us")->text, "2");
    assert_int_equal(strlen(tb_conf_find(points->items[1], "hash")->text), 64);
    tb_conf_free(root);
    assert_int_equal(mkdir("x", 0755), 0); /* of the same name: the experiment is meant, ./x is the folder */
    run = run_program("show x");
    expect(&run, 0, "Twice?");
    run = run_program("show ./x");
    expect(&run, 2, "no results in this folder");
}

static void a_run_can_be_shown_and_compared(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 2, min_iters: 20, min_s: 0, warmup_s: 0}\n"
               "params: {work_us: 100}\n");
    program_run run = run_program("run x --out a");
    expect(&run, 0, "1 of 1 points ok");
    run = run_program("run x --out b");
    expect(&run, 0, "1 of 1 points ok");
    run = run_program("show a --json");
    tb_conf *root = json_of(&run);
    const tb_conf *point = root->items[0];
    double value = 0;
    assert_string_equal(tb_conf_find(point, "status")->text, "ok");
    assert_string_equal(tb_conf_find(point, "config.params.work_us")->text, "100");
    assert_int_equal(tb_conf_num(tb_conf_find(point, "metrics.iter_ms.value"), "value", 0, 1e9, &value),
                     TB_OK);
    assert_true(value >= 0.1);
    assert_int_equal(tb_conf_find(point, "launches")->n_items, 2);
    tb_conf_free(root);
    run = run_program("show a/*.h5 --facts");
    expect(&run, 0, "launch 2: ok");
    expect(&run, 0, "build/compiler");
    run = run_program("diff a b --why");
    expect(&run, 0, "iter_ms");
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 2, min_iters: 20, min_s: 0, warmup_s: 0}\n"
                                     "params: {work_us: 100}\nmetrics: {iter_ms: {margin: 0.25}}\n");
    run = run_program("run x --out c");
    expect(&run, 0, "1 of 1 points ok");
    run = run_program("diff a c --why");
    expect(&run, 0, "metrics.iter_ms.margin           (absent) -> 0.25");
    run = run_program("diff c a --why");
    expect(&run, 0, "metrics.iter_ms.margin           0.25 -> (absent)");
    run = run_program("diff a missing");
    expect(&run, 2, "missing: No such file or directory");
}

static void random_graphs_verify(void **state)
{
    (void)state;
    program_run run = run_program("verify --random 5 --json");
    tb_conf *root = json_of(&run);
    assert_string_equal(tb_conf_find(root, "is_right")->text, "true");
    assert_string_equal(tb_conf_find(root, "random_graphs")->text, "5");
    tb_conf_free(root);
    run = run_program("verify");
    expect(&run, 2, "name a checkpoint, or --random N graphs");
}

static void wrong_options_end_in_one_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *command, *sentence;
    } wrong[] = {
        {"bench gemm --only foo", "bench gemm: --only foo: this kind has no ops to choose from"},
        {"serve --repo . --port 99999", "--port takes a whole number from 0 to 65535, not '99999'"},
        {"serve --repo . --workers 0", "--workers takes a whole number from 1 to 1024, not '0'"},
        {"load http://127.0.0.1:1 --rate 0", "--rate takes a number of at least 0.001, not '0'"},
        {"load http://127.0.0.1:1 --connections x", "--connections takes a number of at least 1, not 'x'"},
        {"compile x --out d --max-batch 1e30", "--max-batch takes a whole number from 1 to 1048576, not '1e30'"},
        {"compile x --out d --name a/b", "'a/b' is no name of a model"},
        {"quantize x --out d --budget five", "--budget takes points of accuracy from 0 to 100, not 'five'"},
        {"verify --random x", "--random takes a whole number from 0 to 2147483647, not 'x'"},
        {"verify " TB_SOURCE_DIR "/results/weights/mlp.safetensors --data jargon", "but 'jargon' holds text"},
        {"verify " TB_SOURCE_DIR "/results/weights/gpt.safetensors --context 129", "--context 129: rows of model gpt:"},
        {"compile " TB_SOURCE_DIR "/results/weights/gpt.safetensors --generate --context 200 --out d",
         "--context 200: rows"},
        {"compile no.safetensors --out d", "no.safetensors: No such file"},
        {"verify .", ". is a folder; a checkpoint is a file"},
        {"show x --text profile", "--text takes a text from what a run measured"},
        {"show no.h5", "no.h5: No such file"},
        {"show damaged.h5", "damaged.h5: not HDF5, or cut off"},
        {"show damaged.journal", "damaged.journal: not a journal, or cut off"},
        {"serve --repo repo --bind foo", "'foo' is not an IPv4 address"},
        {"serve --repo repo/m/1", "repo/m/1 is itself a model; --repo takes the DIR of"},
        {"serve --repo nowhere", "cannot read the repository 'nowhere' (No such file or directory)"},
        {"serve --repo experiments", "no model in experiments; they are folders DIR/<name>/<version>/"},
        {"list a", "usage: tb list.  tb list --help tells more"},
    };
    assert_int_equal(system("mkdir -p repo/m/1 && touch repo/m/1/model.yaml"), 0);
    write_file("experiments/x.yaml", "driver: 'null'\n");
    write_file("damaged.h5", "text");
    write_file("damaged.journal", "text");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        program_run run = run_program(wrong[i].command);
        expect(&run, 2, wrong[i].sentence);
        if (strchr(run.output, '\n') != strrchr(run.output, '\n')) fail_msg("more than a line:\n%s", run.output);
    }
}

static void an_instruction_set_that_is_none_stops_every_verb(void **state)
{
    (void)state;
    static const char *const verbs[] = {"info", "list", "run x"};
    write_file("experiments/x.yaml", "driver: 'null'\n");
    setenv("TB_ISA", "nonsense", 1);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        program_run run = run_program(verbs[i]);
        expect(&run, 2, "unknown instruction set 'nonsense'; known: scalar avx2");
        expect(&run, 2, "(the environment's TB_ISA)");
    }
    unsetenv("TB_ISA");
}

static void committed_weights_can_be_deployed(void **state)
{
    (void)state;
    program_run run = run_program("compile " TB_SOURCE_DIR "/results/weights/mlp.safetensors --out d");
    expect(&run, 0, "accuracy");
    run = run_program("compile " TB_SOURCE_DIR "/results/weights/gpt.safetensors --out text"); /* reads its own data */
    expect(&run, 0, "wrote      text");
}

static void a_traced_run_shows_its_profile(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: train\nparams: {model: 'gpt:layers=1,width=32', data: 'text:words', context: 16,"
               " steps: 20, batch: 2}\n");
    char words[8192];
    for (size_t i = 0; i < sizeof words; i++) words[i] = "a few words "[i % 12];
    words[sizeof words - 1] = '\0';
    write_file("words", words);
    program_run run = run_program("run x --out a --trace");
    expect(&run, 0, "1 of 1 points ok");
    run = run_program("show a --text profile");
    expect(&run, 0, "\ncross_entropy ");
    run = run_program("show a --text trace | head -c 40");
    expect(&run, 0, "{\"displayTimeUnit\":");
    run = run_program("show a --text nothing");
    expect(&run, 2, "a holds no text 'nothing'");
}

static void info_and_doctor_know_this_machine(void **state)
{
    (void)state;
    program_run run = run_program("info --json");
    tb_conf *root = json_of(&run);
    assert_true(tb_conf_find(root, "cores")->n_items >= 1);
    assert_non_null(tb_conf_find(root, "kernels.scalar"));
    assert_non_null(tb_conf_find(root, "facts.host/cpu"));
    tb_conf_free(root);
    run = run_program("doctor --json");
    root = json_of(&run);
    assert_string_equal(tb_conf_find(root->items[0], "name")->text, "mpirun");
    assert_string_equal(tb_conf_find(root->items[0], "good")->text, "true");
    assert_true(root->n_items >= 8);
    tb_conf_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(help_lists_every_verb_and_each_explains_itself),
        IN_SCRATCH(output_that_is_lost_is_told),
        IN_SCRATCH(list_tells_what_an_experiment_asks),
        IN_SCRATCH(keys_are_shown_from_the_tables_that_check_them),
        IN_SCRATCH(an_experiment_is_shown_as_json),
        IN_SCRATCH(a_run_can_be_shown_and_compared),
        IN_SCRATCH(random_graphs_verify),
        IN_SCRATCH(wrong_options_end_in_one_sentence),
        IN_SCRATCH(an_instruction_set_that_is_none_stops_every_verb),
        IN_SCRATCH(committed_weights_can_be_deployed),
        IN_SCRATCH(a_traced_run_shows_its_profile),
        IN_SCRATCH(info_and_doctor_know_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
