/* tb run: an experiment from its file to a table. */
#include "crash.h"
#include "direct.h"
#include "experiment.h"
#include "group.h"
#include "report.h"
#include "runner.h"
#include "tb_alloc.h"
#include "tb_verb.h"
#include <signal.h>

static volatile int interrupts; /* counted by the handler: the one thing that a signal may touch */

static void count_interrupt(int signal)
{
    if (signal != SIGINT) tb_crash_excuse();
    interrupts++;
}

static void print_plan(const tb_experiment *e)
{
    printf("%s: %d point%s x %lld launch%s, driver %s%s%s\n", e->name, e->n_points,
           e->n_points == 1 ? "" : "s", (long long)e->launches, e->launches == 1 ? "" : "es", e->driver->name,
           *e->profile ? ", profile " : "", e->profile);
    for (int p = 0; p < e->n_points; p++)
        printf("  %.12s  %-40s %d rank%s x %d thread%s  %s\n", e->points[p].hash, e->points[p].label,
               e->points[p].ranks, e->points[p].ranks == 1 ? "" : "s", e->points[p].threads,
               e->points[p].threads == 1 ? "" : "s", e->points[p].scope);
    tb_report_estimate(e);
}

static int measure(tb_runner *r)
{
    const tb_experiment *e = r->experiment;
    tb_result **results = tb_calloc((size_t)e->n_points, sizeof(tb_result *));
    if (!results) return tb_report(stderr);
    tb_status st = tb_runner_run(r);
    int code = st != TB_OK ? tb_report(stderr) : 0;
    for (int p = 0; p < e->n_points; p++)
        if (tb_runner_result(r, p, &results[p]) != TB_OK) code = tb_report(stderr);
    int reported = tb_report_run(r, results);
    for (int p = 0; p < e->n_points; p++) tb_result_free(results[p]);
    tb_free(results);
    return code ? code : reported;
}

static int run(const tb_args *args)
{
    enum { SETTINGS_MAX = 64 };
    const char *set[SETTINGS_MAX];
    int n_set = 0;
    for (int i = 0; i < args->n_options; i++) {
        if (args->verb->options[args->option_at[i]].letter != 's') continue;
        if (n_set == SETTINGS_MAX) {
            fprintf(stderr, "tb run: more than %d times -s; write an experiment that extends this one\n",
                    SETTINGS_MAX);
            return 2;
        }
        set[n_set++] = args->values[i];
    }
    if (tb_args_has(args, "force") && tb_args_has(args, "resume")) {
        fprintf(stderr, "run: --resume keeps what is complete, --force measures it again: give one of them\n");
        return 2;
    }
    tb_experiment_options options = {.profile = tb_args_get(args, "profile"),
                                     .where = tb_args_get(args, "where"),
                                     .set = set,
                                     .n_set = n_set};
    tb_run_mode mode = tb_args_has(args, "force")    ? TB_RUN_FORCE
                       : tb_args_has(args, "resume") ? TB_RUN_RESUME
                                                     : TB_RUN_NEW;
    const char *out = tb_args_get(args, "out");
    bool traced = tb_args_has(args, "trace"), dry = tb_args_has(args, "dry-run");
    struct sigaction action = {.sa_handler = count_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (signal(SIGHUP, SIG_IGN) != SIG_IGN) sigaction(SIGHUP, &action, NULL); /* nohup's stays ignored */
    if (tb_group_env_size() > 0 && !dry)
        return tb_direct_run(args->words[0], &options, mode, out, traced, &interrupts, args->argc,
                             args->argv);
    tb_experiment *e = NULL;
    tb_runner r = {.lock = -1};
    int code = 0;
    if (tb_experiment_load(args->words[0], &options, &e) != TB_OK) return tb_report(stderr);
    if (dry) {
        print_plan(e);
    } else if (tb_runner_open(e, mode, out, &r) != TB_OK) {
        code = tb_report(stderr);
    } else {
        r.traced = traced;
        r.interrupts = &interrupts;
        code = measure(&r);
    }
    tb_runner_close(&r);
    tb_experiment_free(e);
    return code;
}

static const tb_option options[] = {
    {"set", 's', "KEY=VALUE", "another value; a list [a,b] becomes a dimension of the sweep"},
    {"profile", 'p', "NAME", "one of the experiment's profiles"},
    {"where", 0, "EXPR", "only the points for which it holds: 'params.model == gpt && launch.ranks <= 2'"},
    {"resume", 0, NULL, "go on with the newest run (or --out): keep the launches that are complete"},
    {"force", 0, NULL, "the same folder, but measure everything again"},
    {"out", 0, "DIR", "folder of this run; default: a new one in results/runs/EXPERIMENT"},
    {"dry-run", 0, NULL, "show the points and how long they would take"},
    {"trace", 0, NULL, "also write a profile of operations (drivers that have one)"},
};

TB_VERB(run, .group = TB_VERB_EXPERIMENT, .args = "EXPERIMENT", .min_args = 1, .max_args = 1,
        .doc = "Run an experiment: every point of its sweep, launch by launch",
        .help = "EXPERIMENT is the name of a file in experiments/, or a path. Each launch is one mpirun; a "
                "rank that dies\n"
                "costs one launch, never the sweep. Ctrl-C keeps what was measured; --resume goes on.\n"
                "mpirun -n N tb run EXPERIMENT carries all points with at most N ranks in one launch.",
        .options = options, .n_options = sizeof options / sizeof options[0], .run = run);
