/* The program from end to end: a run, its files, errors, dead ranks, Ctrl-C, resume. */
#include "journal.h"
#include "results.h"
#include "tb_program.h"
#include <dirent.h>
#include <sys/resource.h>

#define QUICK "measure: {launches: 2, min_iters: 20, min_s: 0.05, warmup_s: 0.02}\nlaunch: {timeout_s: 60}\n"

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), s = strlen(suffix);
    return n > s && strcmp(name + n - s, suffix) == 0;
}

static int count_files(const char *folder, const char *suffix)
{
    DIR *dir = opendir(folder);
    int n = 0;
    for (const struct dirent *entry; dir && (entry = readdir(dir));) n += ends_with(entry->d_name, suffix);
    if (dir) closedir(dir);
    return n;
}

/* The newest modification time of any file of a kind, to see what was written again. */
static struct timespec newest_change(const char *folder, const char *suffix)
{
    struct timespec newest = {0};
    DIR *dir = opendir(folder);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[512];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (!ends_with(entry->d_name, suffix) || stat(path, &info) < 0) continue;
        bool newer = info.st_mtim.tv_sec > newest.tv_sec ||
                     (info.st_mtim.tv_sec == newest.tv_sec && info.st_mtim.tv_nsec > newest.tv_nsec);
        if (newer) newest = info.st_mtim;
    }
    if (dir) closedir(dir);
    return newest;
}

static void a_run_ends_with_a_table_and_one_file_a_point(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\n" QUICK "params: {work_us: 50}\nsweep: {product: {launch.ranks: [1, 2]}}\n"
               "valid: ['parity.max_rel_err <= 1e-6', 'iter_ms >= 0.05']\n");
    program_run run = run_program("run x --out out");
    expect(&run, 0, "2 of 2 points ok");
    assert_int_equal(count_files("out", ".h5"), 2);
    assert_int_equal(count_files("out", ".journal"), 0);
    tb_results results;
    assert_int_equal(tb_results_read("out", &results), TB_OK);
    assert_int_equal(results.n, 2);
    for (int i = 0; i < 2; i++) {
        const tb_result *r = results.at[i];
        assert_int_equal(r->n_launches, 2);
        const tb_launch *l = r->launches[1];
        const tb_summary *s = tb_result_summary(r, "iter_ms");
        assert_true(s && s->value >= 0.05 && s->n_launches == 2);
        for (int64_t rank = 0; rank < l->point.ranks; rank++) {
            const tb_series *warm = tb_launch_series(l, "iter_ms", rank, 1);
            const tb_series *timed = tb_launch_series(l, "iter_ms", rank, 0);
            assert_true(warm && timed && timed->n >= 20);
            assert_int_equal(timed->steps[0], warm->n);
        }
        assert_true(*tb_launch_fact(l, "build/compiler") && *tb_launch_fact(l, "host/cpu"));
        assert_non_null(tb_launch_value(l, "noise.before.calib_cv", -1));
    }
    tb_results_free(&results);
}

static void wrong_use_ends_with_2_and_the_right_sentence(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\n" QUICK);
    program_run run = run_program("run x -s params.wrok_us=3");
    expect(
        &run, 2,
        "x: unknown key 'params.wrok_us' (from -s); nearest: 'params.work_us'.  tb show x --keys lists all");
    run = run_program("run nowhere");
    expect(&run, 2, "no experiment 'nowhere' (./experiments/nowhere.yaml); tb list shows what there is");
    write_file("experiments/train.yaml", "driver: 'null'\n");
    run = run_program("run trian");
    expect(&run, 2,
           "no experiment 'trian' (./experiments/trian.yaml); nearest: train; tb list shows what there is");
    run = run_program("rnu x");
    expect(&run, 2, "no verb 'rnu'; nearest: run");
    run = run_program("run x --wher true");
    expect(&run, 2, "unknown option --wher; nearest: --where");
    run = run_program("run x --resume --force");
    expect(&run, 2, "give one of them");
    run = run_program("run x --out");
    expect(&run, 2, "--out wants a value");
    run = run_program("run");
    expect(&run, 2, "usage: tb run EXPERIMENT");
    run = run_program("show nothing-here.h5");
    expect(&run, 2, "nothing-here.h5: No such file or directory");
    run = run_program("show nothing-here.journal");
    expect(&run, 2, "nothing-here.journal: No such file or directory");
    write_file("rubbish.h5", "rubbish");
    run = run_program("show rubbish.h5");
    expect(&run, 2, "rubbish.h5: not HDF5, or cut off");
    run = run_program("run x --out rubbish.h5");
    expect(&run, 2, "rubbish.h5: not a folder");
    if (strstr(run.output, "nothing measured")) fail_msg("a table of a run that could not begin:\n%s", run.output);
    write_file("experiments/x.yaml", "driver: 'null'\ndriver: 'null'\n");
    run = run_program("run x");
    expect(&run, 2, "experiments/x.yaml:2:1: duplicate key 'driver'; it stands in line 1 already");
    assert_int_equal(access("results", F_OK), -1); /* nothing was begun */
}

static void a_dry_run_measures_nothing(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\n" QUICK "sweep: {product: {launch.ranks: [1, 2]}}\n");
    program_run run = run_program("run x --dry-run");
    expect(&run, 0, "2 points x 2 launches");
    expect(&run, 0, "2 point(s) never measured: at most");
    assert_int_equal(access("results", F_OK), -1);
    run = run_program("run x --out results/runs/x/first");
    expect(&run, 0, "");
    run = run_program("run x --dry-run");
    expect(&run, 0, "for 2 point(s), from earlier runs");
    assert_int_equal(system("mkdir -p results/headline && mv results/runs/x/first results/headline/x"), 0);
    run = run_program("run x --dry-run");
    expect(&run, 0, "for 2 point(s), from the recorded results");
}

static void dead_ranks_are_named_and_the_sweep_goes_on(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 1, min_iters: 20, min_s: 0, warmup_s: 0, order: given}\n"
               "params: {work_us: 100, fault_rank: 1, fault_iter: 25}\nlaunch: {ranks: 2}\n"
               "sweep: {product: {params.fault: [segv, kill, abort, exit, error, none]}}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 3, "1 of 6 points ok");
    expect(&run, 3, "segv, launch 1: failed: rank 1 died: SIGSEGV in step ");
    expect(&run, 3, "kill, launch 1: failed: rank 1 died: SIGKILL in step ");
    expect(&run, 3, "abort, launch 1: failed: rank 1 died: SIGABRT in step ");
    expect(&run, 3, "exit, launch 1: failed: rank 1 ended by itself with exit code 7 in step ");
    expect(&run, 3, "error, launch 1: failed: rank 1 failed: null: failed on purpose");
    expect(&run, 3, "goes on from here");
    assert_int_equal(count_files("out", ".h5"), 1);
    assert_int_equal(count_files("out", ".journal"), 5);
}

static void a_launch_that_hangs_is_ended_in_time(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 1, min_iters: 10, min_s: 0, warmup_s: 0}\n"
               "params: {fault: hang, fault_iter: 25, work_us: 100}\nlaunch: {timeout_s: 3}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 3, "timeout: timed out after");
    expect(&run, 3, "rank 0 was in step");
}

static void a_failed_check_prints_no_number(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\n" QUICK "params: {fault: wrong}\nmetrics: {iter_ms: {}}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 1, "invalid: a check failed before anything was timed");
    expect(&run, 1, "parity.max_rel_err: 1, limit 1e-06: an error on purpose");
    tb_results results;
    assert_int_equal(tb_results_read("out", &results), TB_OK);
    assert_null(tb_result_summary(results.at[0], "iter_ms"));
    tb_results_free(&results);
}

static void what_is_not_valid_ends_with_3(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\n" QUICK "valid: ['iter_ms >= 1000']\n");
    program_run run = run_program("run x --out out");
    expect(&run, 3, "invalid: iter_ms >= 1000");
    write_file("experiments/x.yaml", "driver: 'null'\n" QUICK "valid:\n  - 'iter_m >= 1000'\n");
    run = run_program("run x --out out2");
    expect(&run, 2, "experiments/x.yaml:5:5: valid: 'iter_m >= 1000': unknown name 'iter_m'; nearest: 'iter_ms'");
}

static void checks_over_the_sweep_decide(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 1, min_iters: 20, min_s: 0, warmup_s: 0}\n"
               "sweep: {product: {params.work_us: [200, 2000], params.fault_iter: [1, 2]}}\n"
               "checks: ['work_us equal over params.fault_iter', 'iter_ms first 5 within 0.5 over "
               "params.work_us']\n");
    program_run run = run_program("run x --out out");
    expect(&run, 1, "check  work_us equal over params.fault_iter: pass (");
    expect(&run, 1, "check  iter_ms first 5 within 0.5 over params.work_us: FAIL (work_us=200 fault_iter=1 | "
                    "work_us=2000 fault_iter=1: step 0:");
}

static void means_are_over_the_named_points_or_left_out(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 1, min_iters: 20, min_s: 0, warmup_s: 0}\n"
               "sweep: {product: {params.work_us: [200, 800], launch.threads: [1]}}\nplots:\n"
               "  - {kind: geomean, metric: [iter_ms], series: launch.threads, of: [{params.work_us: 200}, "
               "{params.work_us: 800}]}\n"
               "  - {kind: geomean, metric: [iter_ms], of: [{params.work_us: 200}, {params.work_us: 5}]}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 0, "geomean  iter_ms over 2 points, launch.threads 1: 0.");
    expect(&run, 0,
           "geomean  1 of 2 means left out: a point is missing, not ok, or several "
           "(first: point 2 of iter_ms)");
    assert_null(strstr(strstr(run.output, "geomean  1 of 2") + 1, "geomean"));
}

static void a_reason_that_launches_share_is_given_once(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 3}\n");
    assert_int_equal(system("PATH=/none " TB_BINARY_DIR "/tb run x --out out > told 2>&1"), 3 << 8);
    assert_int_equal(system("grep -qx '  and 2 more launches for the same reason' told"), 0);
    assert_int_equal(system("grep -q 'mpirun: No such file or directory; the Debian package' told"), 0);
    assert_int_equal(system("env -i " TB_BINARY_DIR "/tb run x --out bare -s measure.launches=1 > told 2>&1"), 0);
}

/* An mpirun that ends before what it started, which does not end when it is asked to. */
static void what_outlives_mpirun_is_ended(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 1}\n");
    assert_int_equal(mkdir("bin", 0755), 0);
    write_file("bin/mpirun", "#!/bin/sh\n(trap '' TERM; exec sleep 50 >/dev/null 2>&1) &\necho $! >left\nexit 1\n");
    assert_int_equal(chmod("bin/mpirun", 0755), 0);
    assert_int_equal(system("PATH=$PWD/bin:$PATH " TB_BINARY_DIR "/tb run x --out out > told 2>&1"), 3 << 8);
    assert_int_equal(system("test -s left && ! kill -0 $(cat left) 2>/dev/null"), 0);
}

static void a_busy_machine_is_told(void **state)
{
    (void)state;
    pid_t busy[2];
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 1, min_iters: 10, min_s: 1.5, warmup_s: 0}\n"
                                     "params: {work_us: 500}\nsweep: {product: {launch.ranks: [1, 2]}}\n");
    for (int i = 0; i < 2; i++) {
        if ((busy[i] = fork()) > 0) continue;
        alarm(60); /* should the test end before it */
        for (volatile int n = 0;;) n++;
    }
    program_run run = run_program("run x --out out");
    for (int i = 0; i < 2; i++) {
        kill(busy[i], SIGKILL);
        waitpid(busy[i], NULL, 0);
    }
    expect(&run, 0, "  busy machine during: ranks=1 (");
    expect(&run, 0, "%), ranks=2 (");
    expect(&run, 0, "2 of 2 points ok");
    run = run_program("show out");
    expect(&run, 0, "  busy machine during: ");
    run = run_program("show out/ranks-2-*.h5");
    expect(&run, 0, "  busy machine: other processes took up to ");
    expect(&run, 0, "noise.others_percent ");
}

static void results_are_not_overwritten_unasked(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 1, min_iters: 10, min_s: 0, warmup_s: 0}\n");
    program_run run = run_program("run x --out out");
    expect(&run, 0, "1 of 1 points ok");
    run = run_program("run x --out out");
    expect(&run, 2, "out holds results: --resume goes on with them, --force starts them again");
    struct timespec before = newest_change("out", ".h5");
    run = run_program("run x --out out --resume");
    expect(&run, 0, "what was complete was kept");
    struct timespec resumed = newest_change("out", ".h5");
    assert_true(before.tv_sec == resumed.tv_sec && before.tv_nsec == resumed.tv_nsec);
    run = run_program("run x --out out --force");
    expect(&run, 0, "1 of 1 points ok");
    struct timespec forced = newest_change("out", ".h5");
    assert_true(forced.tv_sec != before.tv_sec || forced.tv_nsec != before.tv_nsec);
    assert_int_equal(count_files("out", ".h5.aside-1"), 1); /* what gave way is kept */
    run = run_program("run x --out out --resume -s measure.launches=2");
    expect(&run, 0, "1 of 1 points ok");
    assert_int_equal(count_files("out", ".h5.aside-2"), 1);
}

/* Here a limit on the size of a file; a full disk takes the same way. */
static void a_full_disk_is_told_and_nothing_before_it_is_lost(void **state)
{
    (void)state;
    struct rlimit was, small;
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 1, min_iters: 30000, min_s: 0, warmup_s: 0}\n"
                                     "sweep: {product: {launch.ranks: [1, 2]}}\n");
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small = (struct rlimit){.rlim_cur = 100 << 10, .rlim_max = was.rlim_max};
    setenv("OMPI_MCA_btl", "self,tcp", 1); /* else MPI makes files of some MiB */
    setenv("PMIX_MCA_gds", "hash", 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    program_run run = run_program("run x --out out --where 'launch.ranks == 1'");
    program_run two = run_program("run x --out two --where 'launch.ranks == 2' -s measure.min_iters=15000");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    unsetenv("OMPI_MCA_btl");
    unsetenv("PMIX_MCA_gds");
    expect(&run, 3, "File too large; make room and use --resume, all that was written before is kept");
    expect(&two, 3, "File too large; make room and use --resume, all that was written before is kept");
    run = run_program("show out");
    expect(&run, 0, "kept: ");
    run = run_program("run x --out out --resume --where 'launch.ranks == 1'");
    expect(&run, 0, "1 of 1 points ok");
}

static void a_folder_has_one_run_at_a_time(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 1, min_iters: 10, min_s: 3, warmup_s: 0}\n");
    program_run run = run_program("run x --out out --resume");
    expect(&run, 2, "out: no such run to go on with");
    pid_t child = start_program("run x --out out");
    for (int i = 0; i < 200 && count_files("out", ".journal") == 0; i++) sleep_ms(50);
    assert_int_equal(system(TB_BINARY_DIR "/tb run x --out out --resume > second 2>&1"), 2 << 8);
    assert_int_equal(system("grep -q 'out: another tb run writes here; wait for it' second"), 0);
    run = wait_program(child);
    expect(&run, 0, "1 of 1 points ok");
}

/* Of the first journal in the folder: the samples of iter_ms, warm-up included; -1 while there is none. */
static int64_t samples_kept(const char *folder, char *status, size_t bytes)
{
    tb_results results;
    int64_t n = -1;
    if (count_files(folder, ".journal") == 0 || tb_results_read(folder, &results) != TB_OK) return n;
    const tb_launch *l = results.at[0]->launches[0];
    snprintf(status, bytes, "%s", l->end.status);
    n = 0;
    for (int warm = 0; warm < 2; warm++) {
        const tb_series *s = tb_launch_series(l, "iter_ms", 0, warm);
        n += s ? s->n : 0;
    }
    tb_results_free(&results);
    return n;
}

static void ctrl_c_keeps_what_was_measured_and_resume_goes_on(void **state)
{
    (void)state;
    char status[32] = "";
    write_file("experiments/x.yaml",
               "driver: 'null'\nmeasure: {launches: 2, min_iters: 10, min_s: 3, warmup_s: 0}\n"
               "params: {work_us: 200}\n");
    pid_t child = start_program("run x --out out");
    for (int i = 0; i < 200 && samples_kept("out", status, sizeof status) < 20; i++) sleep_ms(100);
    kill(-child, SIGINT); /* as a terminal does: to the foreground process group */
    program_run run = wait_program(child);
    expect(&run, 3, "interrupted: stopped by the user");
    expect(&run, 3, "tb run x --resume --out out   goes on from here");
    assert_true(samples_kept("out", status, sizeof status) >= 20);
    assert_string_equal(status, "interrupted");
    run = run_program("run x --out out --resume -s measure.min_s=3");
    expect(&run, 0, "1 of 1 points ok");
    assert_int_equal(count_files("out", ".aside-1"),
                     1); /* the interrupted launch is kept beside the new one */
}

static void launches_of_another_build_are_not_mixed_in(void **state)
{
    (void)state;
    write_file("experiments/x.yaml", "driver: 'null'\nmeasure: {launches: 2, min_iters: 10, min_s: 1, warmup_s: 0}\n");
    pid_t child = start_program("run x --out out");
    for (int i = 0; i < 200 && count_files("out", ".1.journal") == 0; i++) sleep_ms(50);
    kill(-child, SIGINT);
    program_run run = wait_program(child);
    expect(&run, 3, "goes on from here");
    assert_int_equal(system("cp " TB_BINARY_DIR "/tb tb && echo >> tb"), 0); /* the same program with another hash */
    assert_int_equal(system("./tb run x --out out --resume > second 2>&1"), 0);
    assert_int_equal(system("grep -q 'out: 1 complete launches are of another build of tb' second"), 0);
    assert_int_equal(count_files("out", ".aside-1"), 2);
}

static void direct_mode_runs_what_fits_in_one_launch(void **state)
{
    (void)state;
    write_file("experiments/x.yaml",
               "driver: 'null'\n" QUICK "sweep: {product: {launch.ranks: [1, 2, 3]}}\n");
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    char command[1024];
    snprintf(command, sizeof command,
             "mpirun --oversubscribe --bind-to none -n 2 %s/tb run x --out out > output 2>&1", TB_BINARY_DIR);
    int status = system(command);
    unsetenv("OMPI_ALLOW_RUN_AS_ROOT");
    unsetenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
    FILE *file = fopen("output", "r");
    program_run run = {.exit_code = WEXITSTATUS(status)};
    run.output[fread(run.output, 1, sizeof run.output - 1, file)] = '\0';
    fclose(file);
    expect(&run, 3, "ranks=3: skipped, wants 3 ranks of 2");
    expect(&run, 3, "2 of 3 points ok");
    assert_int_equal(count_files("out", ".h5"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(a_run_ends_with_a_table_and_one_file_a_point),
        IN_SCRATCH(wrong_use_ends_with_2_and_the_right_sentence),
        IN_SCRATCH(a_dry_run_measures_nothing),
        IN_SCRATCH(dead_ranks_are_named_and_the_sweep_goes_on),
        IN_SCRATCH(a_launch_that_hangs_is_ended_in_time),
        IN_SCRATCH(a_failed_check_prints_no_number),
        IN_SCRATCH(what_is_not_valid_ends_with_3),
        IN_SCRATCH(checks_over_the_sweep_decide),
        IN_SCRATCH(means_are_over_the_named_points_or_left_out),
        IN_SCRATCH(a_reason_that_launches_share_is_given_once),
        IN_SCRATCH(what_outlives_mpirun_is_ended),
        IN_SCRATCH(a_busy_machine_is_told),
        IN_SCRATCH(results_are_not_overwritten_unasked),
        IN_SCRATCH(a_folder_has_one_run_at_a_time),
        IN_SCRATCH(launches_of_another_build_are_not_mixed_in),
        IN_SCRATCH(a_full_disk_is_told_and_nothing_before_it_is_lost),
        IN_SCRATCH(ctrl_c_keeps_what_was_measured_and_resume_goes_on),
        IN_SCRATCH(direct_mode_runs_what_fits_in_one_launch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
