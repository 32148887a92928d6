/* Provenance and noise: the facts that make a number checkable are there and true. */
#include "journal_fixture.h"
#include "noise.h"
#include "provenance.h"
#include "tb_conf.h"
#include "tb_hash.h"
#include <math.h>
#include <sched.h>

static tb_launch *facts_of_this_process(void)
{
    static char program[] = "tb", verb[] = "run";
    char *argv[] = {program, verb, NULL}, path[64];
    tb_journal *j;
    tb_point point = sample_point(0);
    tb_launch *l;
    unlink(temporary(path, "facts"));
    assert_ok(tb_journal_create(path, &point, &j));
    assert_ok(tb_provenance_write(j, &(tb_provenance){2, argv, "Some MPI 1.0", TB_SOURCE_DIR}));
    assert_ok(tb_provenance_write_rank(j, 1));
    assert_ok(tb_journal_close(j));
    assert_ok(tb_journal_read(path, &l));
    return l;
}

static void every_group_of_facts_is_there(void **state)
{
    (void)state;
    setenv("OMP_NUM_THREADS", "3", 1);
    setenv("SECRET_TOKEN", "never", 1);
    tb_launch *l = facts_of_this_process();
    static const char *const keys[] = {
        "build/git_sha", "build/compiler", "build/flags", "build/binary_sha256", "source/git_sha", "host/cpu",
        "host/kernel",   "host/governor",  "host/thp",    "host/cgroup_cpu_max", "lib/hdf5",       "run/utc",
        "rank/pid"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!tb_launch_fact(l, keys[i])[0]) fail_msg("%s is missing", keys[i]);
    assert_string_equal(tb_launch_fact(l, "run/argv"), "tb run");
    assert_string_equal(tb_launch_fact(l, "mpi/library"), "Some MPI 1.0");
    assert_string_equal(tb_launch_fact(l, "env/OMP_NUM_THREADS"), "3");
    assert_string_equal(tb_launch_fact(l, "env/SECRET_TOKEN"), ""); /* only what is allowed */
    assert_non_null(strstr(tb_launch_artefact(l, "hwloc_xml", -1), "<topology"));
    tb_launch_free(l);
}

static void the_binary_is_named_by_its_own_hash(void **state)
{
    (void)state;
    char hash[TB_SHA256_HEX];
    tb_launch *l = facts_of_this_process();
    assert_ok(tb_sha256_of_file("/proc/self/exe", hash));
    assert_string_equal(tb_launch_fact(l, "build/binary_sha256"), hash);
    tb_launch_free(l);
}

static void libraries_are_named_by_the_version_that_runs(void **state)
{
    (void)state;
    tb_launch *l = facts_of_this_process();
    int versioned = 0;
    for (int i = 0; i < l->n_facts; i++)
        versioned +=
            !strncmp(l->facts[i].key, "lib/libhwloc", 12) && strstr(l->facts[i].value, ".so.15.") != NULL;
    assert_int_equal(versioned, 1);
    tb_launch_free(l);
}

static void a_rank_states_its_binding(void **state)
{
    (void)state;
    cpu_set_t before, one;
    char first[16];
    int core = 0;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    while (!CPU_ISSET(core, &before)) core++;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    tb_launch *l = facts_of_this_process();
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    snprintf(first, sizeof first, "%d", core);
    assert_string_equal(tb_launch_fact(l, "rank/cpuset"), first);
    tb_launch_free(l);
}

static void the_printed_json_is_json(void **state)
{
    (void)state;
    char path[64];
    size_t bytes;
    FILE *f = fopen(temporary(path, "info.json"), "w");
    assert_non_null(f);
    assert_ok(tb_provenance_print(&(tb_provenance){0}, true, f));
    fclose(f);
    char *text = read_bytes(path, &bytes);
    tb_conf *tree;
    assert_ok(tb_conf_parse(text, bytes, path, &tree)); /* which also refuses duplicate keys */
    assert_true(tree->n_items > 20);
    tb_conf_free(tree);
    free(text);
}

static void noise_is_measured_and_recorded(void **state)
{
    (void)state;
    tb_noise n;
    cpu_set_t before, after;
    sched_getaffinity(0, sizeof before, &before);
    assert_ok(tb_noise_measure(&n));
    sched_getaffinity(0, sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after)); /* the caller's binding is left alone */
    assert_true(n.calib_median_ns > 1000 && n.calib_cv >= 0 && n.calib_p99_over_p50 >= 1);
    assert_true(n.timer_ns >= 1 && n.timer_ns < 1e6);
    if (CPU_COUNT(&before) > 1 && !isnan(n.core_to_core_ns)) assert_true(n.core_to_core_ns > 1);
    tb_journal *j;
    char path[64];
    tb_point point = sample_point(0);
    tb_launch *l;
    n.psi_some_percent = (double)NAN;
    assert_ok(tb_journal_create(temporary(path, "noise"), &point, &j));
    assert_ok(tb_noise_write(j, "before", &n));
    assert_ok(tb_journal_close(j));
    assert_ok(tb_journal_read(path, &l));
    assert_true(tb_launch_value(l, "noise.before.calib_cv", -1)->value == n.calib_cv);
    assert_null(tb_launch_value(l, "noise.before.psi_some_percent", -1)); /* NaN: left out */
    tb_launch_free(l);
}

static void cores_have_moved_when_a_line_takes_another_way(void **state)
{
    (void)state;
    assert_false(tb_noise_cores_moved(20, 60)); /* one core's threads, two cores of an L3 */
    assert_false(tb_noise_cores_moved(79, 46));
    assert_true(tb_noise_cores_moved(79, 249));
    assert_true(tb_noise_cores_moved(305, 25));
    assert_false(tb_noise_cores_moved(249, 305));
    assert_false(tb_noise_cores_moved(600, 710)); /* sockets apart, both times */
    assert_false(tb_noise_cores_moved((double)NAN, 60) || tb_noise_cores_moved(60, (double)NAN));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_group_of_facts_is_there),
        cmocka_unit_test(the_binary_is_named_by_its_own_hash),
        cmocka_unit_test(libraries_are_named_by_the_version_that_runs),
        cmocka_unit_test(a_rank_states_its_binding),
        cmocka_unit_test(the_printed_json_is_json),
        cmocka_unit_test(noise_is_measured_and_recorded),
        cmocka_unit_test(cores_have_moved_when_a_line_takes_another_way),
    };
    return cmocka_run_group_tests(tests, NULL, remove_temporaries);
}
