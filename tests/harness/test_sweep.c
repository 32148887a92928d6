/* From an experiment's file to its points. */
#include "experiment.h"
#include "runner.h"
#include "tb_program.h"

static tb_experiment *load_with(const char *yaml, const tb_experiment_options *options)
{
    tb_experiment *e = NULL;
    write_file("experiments/x.yaml", yaml);
    if (tb_experiment_load("x", options, &e) != TB_OK) fail_msg("%s", tb_error_message());
    return e;
}

static tb_experiment *load(const char *yaml) { return load_with(yaml, &(tb_experiment_options){0}); }

static void refuses_with(const char *yaml, const tb_experiment_options *options, const char *sentence)
{
    tb_experiment *e = NULL;
    write_file("experiments/x.yaml", yaml);
    assert_int_not_equal(tb_experiment_load("x", options, &e), TB_OK);
    assert_null(e);
    assert_int_equal(tb_status_exit_code(tb_error_code()), 2);
    if (!strstr(tb_error_message(), sentence)) fail_msg("wanted '%s' in '%s'", sentence, tb_error_message());
}

static void refuses(const char *yaml, const char *sentence)
{
    refuses_with(yaml, &(tb_experiment_options){0}, sentence);
}

static void the_last_key_of_a_product_changes_fastest(void **state)
{
    (void)state;
    tb_experiment *e =
        load("driver: 'null'\nsweep: {product: {params.work_us: [1, 2], launch.ranks: [1, 2]}}\n");
    assert_int_equal(e->n_points, 4);
    assert_string_equal(e->points[0].label, "work_us=1 ranks=1");
    assert_string_equal(e->points[1].label, "work_us=1 ranks=2");
    assert_string_equal(e->points[2].label, "work_us=2 ranks=1");
    assert_int_equal(e->points[3].ranks, 2);
    tb_experiment_free(e);
}

static void zip_changes_its_keys_together(void **state)
{
    (void)state;
    tb_experiment *e =
        load("driver: 'null'\nsweep:\n  zip: {params.work_us: [1, 2, 3], params.fault_iter: [7, 8, 9]}\n"
             "  product: {launch.ranks: [1, 2]}\n  exclude: ['params.work_us == 2 && launch.ranks == 1']\n");
    assert_int_equal(e->n_points, 5);
    assert_string_equal(e->points[0].label, "ranks=1 work_us=1 fault_iter=7");
    assert_string_equal(e->points[1].label, "ranks=1 work_us=3 fault_iter=9");
    assert_string_equal(e->points[3].label, "ranks=2 work_us=2 fault_iter=8");
    tb_experiment_free(e);
}

static void a_case_sets_its_keys_and_leaves_the_others(void **state)
{
    (void)state;
    tb_experiment *e =
        load("driver: 'null'\nparams: {work_us: 5}\nsweep:\n  cases:\n    - {params.work_us: 1, launch.ranks: 2}\n"
             "    - {launch: {ranks: 3}}\n  product: {params.fault_iter: [7, 8]}\n");
    assert_int_equal(e->n_points, 4);
    assert_string_equal(e->points[0].label, "work_us=1 ranks=2 fault_iter=7");
    assert_string_equal(e->points[1].label, "work_us=1 ranks=2 fault_iter=8");
    assert_string_equal(e->points[2].label, "ranks=3 fault_iter=7");
    assert_string_equal(tb_conf_find(e->points[3].config, "params.work_us")->text, "5");
    tb_experiment_free(e);
    const char *set[] = {"launch.ranks=1"};
    refuses_with("driver: 'null'\nsweep: {cases: [{launch.ranks: 2}]}\n",
                 &(tb_experiment_options){.set = set, .n_set = 1}, "varied by sweep.cases");
    refuses("driver: 'null'\nsweep: {cases: [{params.wrk_us: 2}]}\n", "nearest: 'params.work_us'");
    refuses("driver: 'null'\nsweep: {cases: {launch.ranks: 2}}\n", "a list of maps");
    refuses("driver: 'null'\nsweep: {cases: [2]}\n", "each is a map");
    refuses("driver: 'null'\nsweep: {cases: [{measure.launches: 2}]}\n", "plans the run");
}

static void where_and_set_narrow_a_sweep_and_keep_names(void **state)
{
    (void)state;
    const char *yaml = "driver: 'null'\nsweep: {product: {params.work_us: [1, 2], launch.ranks: [1, 2]}}\n";
    const char *set[] = {"params.work_us=2"};
    tb_experiment *all = load(yaml);
    tb_experiment *one =
        load_with(yaml, &(tb_experiment_options){.where = "launch.ranks == 2", .set = set, .n_set = 1});
    assert_int_equal(one->n_points, 1);
    assert_string_equal(one->points[0].stem, all->points[3].stem);
    assert_string_equal(one->points[0].hash, all->points[3].hash);
    tb_experiment_free(all);
    tb_experiment_free(one);
}

static void a_list_on_the_command_line_is_a_dimension(void **state)
{
    (void)state;
    const char *set[] = {"launch.ranks=[1, 2, 3]"};
    tb_experiment *e = load_with("driver: 'null'\n", &(tb_experiment_options){.set = set, .n_set = 1});
    assert_int_equal(e->n_points, 3);
    assert_int_equal(e->points[2].ranks, 3);
    tb_experiment_free(e);
}

static void one_value_on_the_command_line_keeps_its_commas(void **state)
{
    (void)state;
    const char *set[] = {"params.model=gpt:layers=8,width=64"};
    tb_experiment *e = load_with("driver: train\n", &(tb_experiment_options){.set = set, .n_set = 1});
    assert_int_equal(e->n_points, 1);
    assert_string_equal(tb_conf_find(e->points[0].config, "params.model")->text, "gpt:layers=8,width=64");
    tb_experiment_free(e);
    set[0] = "params.model=['gpt:layers=8,width=64', mlp]";
    e = load_with("driver: train\n", &(tb_experiment_options){.set = set, .n_set = 1});
    assert_int_equal(e->n_points, 2);
    assert_string_equal(tb_conf_find(e->points[0].config, "params.model")->text, "gpt:layers=8,width=64");
    tb_experiment_free(e);
    set[0] = "launch.ranks=1,2";
    refuses_with("driver: 'null'\n", &(tb_experiment_options){.set = set, .n_set = 1},
                 "-s launch.ranks=1,2: several values are written 'launch.ranks=[1,2]'");
}

static void spelling_does_not_change_the_hash_but_meaning_does(void **state)
{
    (void)state;
    tb_experiment *a = load("driver: 'null'\nparams: {work_us: 1e1}\nlaunch: {ranks: 1}\n");
    tb_experiment *b =
        load("launch: {threads: 1}\nparams: {fault: none, work_us: 10}\ndriver: 'null'\nquestion: why?\n");
    tb_experiment *c = load("driver: 'null'\nparams: {work_us: 11}\n");
    assert_string_equal(a->points[0].hash, b->points[0].hash);
    assert_string_not_equal(a->points[0].hash, c->points[0].hash);
    tb_experiment_free(a);
    tb_experiment_free(b);
    tb_experiment_free(c);
}

static void planning_keys_do_not_change_the_hash(void **state)
{
    (void)state;
    tb_experiment *a = load("driver: 'null'\nmeasure: {launches: 2, order: given}\nlaunch: {timeout_s: 9}\n");
    tb_experiment *b = load("driver: 'null'\nmeasure: {launches: 7}\n");
    assert_string_equal(a->points[0].hash, b->points[0].hash);
    assert_int_equal(a->launches, 2);
    assert_int_equal(b->launches, 7);
    assert_true(a->timeout_s == 9);
    tb_experiment_free(a);
    tb_experiment_free(b);
    refuses("driver: 'null'\nsweep: {product: {measure.launches: [1, 2]}}\n",
            "plans the run and cannot be varied");
    refuses("driver: 'null'\nsweep: {product: {params.work_us: [1, 1e0]}}\n", "are one and the same");
}

static void a_profile_changes_what_it_names(void **state)
{
    (void)state;
    const char *yaml = "driver: 'null'\nsweep: {product: {launch.ranks: [1, 2]}}\n"
                       "profiles: {smoke: {measure.launches: 2, sweep.product.launch.ranks: [1]}}\n";
    tb_experiment *e = load_with(yaml, &(tb_experiment_options){.profile = "smoke"});
    assert_int_equal(e->launches, 2);
    assert_int_equal(e->n_points, 1);
    tb_experiment_free(e);
    refuses_with(yaml, &(tb_experiment_options){.profile = "smok"}, "x: no profile 'smok'; there is: smoke");
}

static void extends_lets_the_child_win(void **state)
{
    (void)state;
    mkdir("experiments/common", 0755);
    write_file("experiments/common/base.yaml", "driver: 'null'\nparams: {work_us: 5, fault_iter: 3}\n");
    tb_experiment *e = load("extends: common/base.yaml\nparams: {work_us: 6}\n");
    assert_non_null(strstr(e->points[0].json, "\"work_us\":6"));
    assert_non_null(strstr(e->points[0].json, "\"fault_iter\":3"));
    tb_experiment_free(e);
    refuses("extends: common/none.yaml\ndriver: 'null'\n", "experiments/x.yaml:1:1: extends: no file");
    refuses("extends: x.yaml\n", "goes in a circle");
}

static void every_wrong_key_is_named_with_its_place(void **state)
{
    (void)state;
    refuses("driver: 'null'\nparms: {}\n", "experiments/x.yaml:2:1: unknown key 'parms'; nearest: 'params'");
    refuses("driver: 'null'\nparams: {work: 1}\n", "experiments/x.yaml:2:10: unknown key 'params.work'");
    refuses("driver: 'null'\nparams: {work_us: fast}\n", "key 'params.work_us': a number wanted, got 'fast'");
    refuses("driver: 'null'\nparams: {work_us: -1}\n", "is outside 0 .. 1e+07");
    refuses("driver: 'null'\nparams: {fault: crash}\n", "'crash' is none of none|segv");
    refuses("driver: 'null'\nsweep: {product: {params.wrk_us: [1]}}\n",
            "unknown key 'params.wrk_us'; nearest: 'params.work_us'");
    refuses("driver: 'null'\nsweep: {produkt: {}}\n", "unknown key 'sweep.produkt'");
    refuses("driver: 'null'\nsweep: {product: {launch.ranks: 2}}\n", "wants a list of values");
    refuses("driver: 'null'\nsweep: {zip: {launch.ranks: [1, 2], params.work_us: [1]}}\n",
            "has 1 values, 'launch.ranks' has 2");
    refuses("driver: 'null'\nprofiles: {p: {measure.launch: 1}}\n",
            "unknown key 'measure.launch'; nearest: 'measure.launches'");
    refuses("driver: 'null'\nmetrics: {iter_m: {dir: lower}}\n",
            "driver 'null' has no metric 'iter_m'; nearest: iter_ms");
    refuses("driver: 'null'\nmetrics: {iter_ms: {dir: down}}\n", "'down' is none of lower|higher|none");
    refuses("driver: 'null'\nchecks: ['iter_ms same over launch.ranks']\n", "is none of: NAME");
    refuses("driver: 'null'\nchecks: ['iter_ms equal over launch.rank']\n", "unknown key 'launch.rank'");
    refuses("driver: 'null'\nchecks: ['work_su equal over launch.ranks']\n",
            "experiments/x.yaml:2:10: checks: driver 'null' emits no 'work_su'; nearest: work_us");
    refuses("driver: 'null'\nplots: [{kind: throughput, x: launch.rank}]\n", "unknown key 'launch.rank'");
    refuses("driver: 'null'\nplots: [{kind: ratio, base: {params.wrk_us: 1}}]\n",
            "unknown key 'params.wrk_us'; nearest: 'params.work_us'");
    refuses("driver: 'null'\nplots: [{kind: ratio, series: [launch.ranks, launch.x]}]\n",
            "unknown key 'launch.x'");
    refuses("driver: 'null'\nplots: [{kind: geomean, metric: [emit_us]}]\n", "a geomean has lists metric");
    refuses("driver: 'null'\nplots: [{kind: geomean, metric: [x_ms], of: [{params.work_us: 1}]}]\n", "emits no 'x_ms'");
    refuses("driver: 'null'\nplots: [{x: launch.ranks}]\n", "each is a map with a 'kind'");
    refuses("driver: nul\n", "no driver 'nul'; nearest: null");
    refuses("question: why?\n", "key 'driver' is missing");
    refuses("driver: 'null'\nlaunch: {threads: 1000}\n",
            "launch.threads: 1000 threads, but this process may use");
    refuses("driver: 'null'\nsweep: {exclude: ['launch.ranks == 1']}\n", "sweep.exclude takes all");
}

static void every_wrong_condition_is_named_with_its_place(void **state)
{
    (void)state;
    refuses("driver: 'null'\nvalid: [iter_ms <= 3, itr_ms >= 1]\n",
            "experiments/x.yaml:2:23: valid: 'itr_ms >= 1': unknown name 'itr_ms'; nearest: 'iter_ms'");
    refuses("driver: 'null'\nvalid: ['noise.befor.psi == 0']\n", "unknown key 'noise.befor.psi'");
    refuses("driver: 'null'\nvalid: ['params.wrk_us == 1']\n", "nearest: 'params.work_us'");
    refuses("driver: 'null'\nvalid: ['iter_ms <= 3 &&']\n", "it ends where a value is wanted");
    refuses("driver: 'null'\nvalid: ['params.fault < 3']\n", "compare two numbers");
    refuses("driver: train\nvalid: ['mallcos == 0']\n", "unknown name 'mallcos'; nearest: 'mallocs'");
    tb_experiment *e =
        load("driver: train\nvalid: ['peak_bytes.act < 1e9 && ranks_differ == 0',\n"
             "  'weights_hash != abc', 'params.model != cnn || test_accuracy >= 0.9', 'noise.before.calib_cv < 1']\n");
    assert_int_equal(e->n_points, 1);
    tb_experiment_free(e);
}

static void every_wrong_option_is_named(void **state)
{
    (void)state;
    const char *bad_key[] = {"params.wrok_us=1"}, *no_value[] = {"params.work_us"},
               *bad_value[] = {"params.work_us=x"};
    refuses_with(
        "driver: 'null'\n", &(tb_experiment_options){.set = bad_key, .n_set = 1},
        "x: unknown key 'params.wrok_us' (from -s); nearest: 'params.work_us'.  tb show x --keys lists all");
    refuses_with("driver: 'null'\n", &(tb_experiment_options){.set = no_value, .n_set = 1},
                 "write -s key=value");
    refuses_with("driver: 'null'\n", &(tb_experiment_options){.set = bad_value, .n_set = 1},
                 "key 'params.work_us': a number wanted, got 'x' (from -s)");
    refuses_with("driver: 'null'\n", &(tb_experiment_options){.where = "launch.rank == 1"},
                 "unknown key 'launch.rank'; nearest: 'launch.ranks'");
    refuses_with("driver: 'null'\n", &(tb_experiment_options){.where = "launch.ranks == 9"},
                 "no point is left of 1");
}

static void more_ranks_than_cores_are_labelled(void **state)
{
    (void)state;
    tb_experiment *e = load("driver: 'null'\nsweep: {product: {launch.ranks: [1, 4000]}}\n");
    assert_string_equal(e->points[0].scope, "measured");
    assert_string_equal(e->points[1].scope, "oversubscribed");
    tb_experiment_free(e);
}

static void rounds_hold_every_point_once_in_seeded_order(void **state)
{
    (void)state;
    const char *yaml = "driver: 'null'\nmeasure: {launches: 4, seed: 3}\nsweep: {product: {params.work_us: "
                       "[1, 2, 3, 4, 5]}}\n";
    tb_experiment *e = load(yaml);
    tb_runner r, again;
    int order[20], same[20], seen = 0;
    bool shuffled = false;
    assert_int_equal(tb_runner_open(e, TB_RUN_NEW, "run", &r), TB_OK);
    assert_int_equal(tb_runner_open(e, TB_RUN_NEW, "again", &again), TB_OK);
    assert_int_equal(tb_runner_order(&r, order), 20);
    assert_int_equal(tb_runner_order(&again, same), 20);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(order[i], same[i]);
        assert_int_equal(order[i] % 4, i / 5); /* launch i / 5 of some point */
        seen |= 1 << order[i];
        shuffled |= order[i] / 4 != i % 5;
    }
    assert_int_equal(seen, (1 << 20) - 1);
    assert_true(shuffled);
    tb_runner_close(&r);
    tb_runner_close(&again);
    tb_experiment_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(the_last_key_of_a_product_changes_fastest),
        IN_SCRATCH(zip_changes_its_keys_together),
        IN_SCRATCH(a_case_sets_its_keys_and_leaves_the_others),
        IN_SCRATCH(where_and_set_narrow_a_sweep_and_keep_names),
        IN_SCRATCH(a_list_on_the_command_line_is_a_dimension),
        IN_SCRATCH(one_value_on_the_command_line_keeps_its_commas),
        IN_SCRATCH(spelling_does_not_change_the_hash_but_meaning_does),
        IN_SCRATCH(planning_keys_do_not_change_the_hash),
        IN_SCRATCH(a_profile_changes_what_it_names),
        IN_SCRATCH(extends_lets_the_child_win),
        IN_SCRATCH(every_wrong_key_is_named_with_its_place),
        IN_SCRATCH(every_wrong_condition_is_named_with_its_place),
        IN_SCRATCH(every_wrong_option_is_named),
        IN_SCRATCH(more_ranks_than_cores_are_labelled),
        IN_SCRATCH(rounds_hold_every_point_once_in_seeded_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
