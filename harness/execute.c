/* A launch on every rank: bind, record where the numbers come from, set up, check, measure, finish, judge. */
#include "execute.h"
#include "crash.h"
#include "experiment.h"
#include "flight.h"
#include "loop.h"
#include "noise.h"
#include "provenance.h"
#include "recorder.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_text.h"
#include "tb_topo.h"
#include <math.h>
#include <string.h>
#include <time.h>

typedef struct launch {
    const tb_execution *e;
    tb_run run;
    const tb_driver *driver;
    tb_conf *config;
    tb_journal *journal;
    tb_recorder *recorder;
    void *state;
    bool steady, stopped;
    char why_invalid[512];
    char *flight;
    int64_t watched_ns;   /* when the driver's part began, */
    double busy_s, own_s; /* and what everybody on the rank's cores, and the rank, had used by then */
} launch;

static int64_t utc_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* The processors of one rank: its own share while ranks x threads fit, else NULL: all are shared. */
static const int *cores_of(const tb_topo *topo, int rank, int ranks, int threads)
{
    return (int64_t)ranks * threads <= topo->n_cores ? topo->cores + rank * threads : NULL;
}

tb_status tb_bind_rank(const tb_topo *topo, int rank, int ranks, int threads)
{
    const int *cores = cores_of(topo, rank, ranks, threads);
    return cores ? tb_topo_bind_thread(cores, threads) : tb_topo_bind_thread(topo->cores, topo->n_cores);
}

/* ---- start ---- */

static tb_status declare_metrics(launch *l)
{
    const tb_conf *refined = tb_conf_find(l->config, "metrics");
    for (int i = 0; i < tb_driver_metric_count(l->driver); i++) {
        tb_metric m = *tb_driver_metric_at(l->driver, i);
        const tb_conf *by = tb_conf_find(refined, m.name);
        if (by) {
            TB_TRY(tb_conf_str(tb_conf_find(by, "dir"), "dir", &m.dir));
            TB_TRY(tb_conf_str(tb_conf_find(by, "class"), "class", &m.kind));
            TB_TRY(tb_conf_str(tb_conf_find(by, "reduce"), "reduce", &m.reduce));
            TB_TRY(tb_conf_str(tb_conf_find(by, "statistic"), "statistic", &m.statistic));
            TB_TRY(tb_conf_str(tb_conf_find(by, "scope"), "scope", &m.scope));
            TB_TRY(tb_conf_num(tb_conf_find(by, "margin"), "margin", 0, 10, &m.margin));
        }
        if (m.scope && strcmp(m.scope, "point") == 0) m.scope = "";
        TB_TRY(tb_recorder_metric(l->recorder, &m));
    }
    return TB_OK;
}

static tb_status open_launch(launch *l)
{
    const tb_execution *e = l->e;
    l->driver = tb_driver_find(e->point->driver);
    if (!l->driver) return TB_FAIL(TB_ERR_CONFIG, "no driver '%s' in this program", e->point->driver);
    TB_TRY(tb_conf_parse(e->point->config, strlen(e->point->config), "the point", &l->config));
    l->run = (tb_run){.experiment = e->point->experiment,
                      .label = e->point->label,
                      .device = "cpu",
                      .rank = tb_group_rank(e->group),
                      .ranks = tb_group_size(e->group),
                      .threads = (int)e->point->threads,
                      .seed = (uint64_t)e->point->seed,
                      .traced = e->traced,
                      .config = l->config,
                      .group = e->group};
    TB_TRY(tb_conf_str(tb_conf_find(l->config, "launch.device"), "launch.device", &l->run.device));
    TB_TRY(l->run.rank == 0 ? tb_journal_open(e->journal, &l->journal) : tb_journal_memory(&l->journal));
    TB_TRY(tb_recorder_create(l->journal, l->run.rank, e->board, &l->recorder));
    l->run.recorder = l->recorder;
    if (!(l->flight = tb_flight_prefix(e->journal))) return TB_ERR_OOM;
    l->run.flight = l->flight;
    l->run.cores = cores_of(e->topo, l->run.rank, l->run.ranks, l->run.threads);
    l->run.n_cores = l->run.cores ? l->run.threads : 0;
    return declare_metrics(l);
}

/* What is told of the machine, not of a rank: rank 0 looks, on all cores of the process, while the others
 * sleep. */
static tb_status look_at_machine(launch *l, const char *when)
{
    const tb_execution *e = l->e;
    tb_run_phase(&l->run, "noise", -1, 0);
    if (l->run.rank == 0) {
        tb_provenance in = {
            .argc = e->argc, .argv = e->argv, .mpi_library = tb_group_library(), .source_dir = e->source_dir};
        tb_noise noise;
        TB_TRY(tb_topo_bind_thread(e->topo->cores, e->topo->n_cores));
        if (strcmp(when, "before") == 0) TB_TRY(tb_provenance_write(l->journal, &in));
        TB_TRY(tb_noise_measure(&noise));
        TB_TRY(tb_noise_write(l->journal, when, &noise));
        TB_TRY(tb_bind_rank(e->topo, l->run.rank, l->run.ranks, l->run.threads));
    }
    return tb_group_idle_barrier(e->group);
}

/* What the processors did while a rank was watched. */
typedef struct watched {
    double own_s, busy_s, cores_s; /* of this rank; of everybody on its cores; what these had to give */
    int64_t first_core;            /* ranks may share their cores, or be bound apart by mpirun */
} watched;

static void start_watch(launch *l)
{
    l->watched_ns = tb_now_ns();
    l->own_s = tb_noise_own_s();
    l->busy_s = tb_noise_busy_s(l->e->topo->cores, l->e->topo->n_cores);
}

/* What other processes took of the cores since start_watch(). The kernel counts ticks of 10 ms: of less than half a
 * second nothing is said. */
static tb_status end_watch(const launch *l)
{
    const tb_topo *topo = l->e->topo;
    watched mine = {.own_s = tb_noise_own_s() - l->own_s,
                    .busy_s = tb_noise_busy_s(topo->cores, topo->n_cores) - l->busy_s,
                    .cores_s = (double)(tb_now_ns() - l->watched_ns) * 1e-9 * topo->n_cores,
                    .first_core = topo->cores[0]};
    void *all = NULL;
    size_t bytes = 0;
    double others_s = 0, cores_s = 0;
    TB_TRY(tb_group_gather(l->e->group, &mine, sizeof mine, &all, &bytes));
    const watched *w = all;
    for (size_t i = 0; l->run.rank == 0 && i < bytes / sizeof *w; i++) {
        bool seen = false;
        for (size_t k = 0; k < i; k++) seen |= w[k].first_core == w[i].first_core;
        others_s += (seen ? 0 : w[i].busy_s) - w[i].own_s;
        cores_s += seen ? 0 : w[i].cores_s;
    }
    tb_free(all);
    if (l->run.rank > 0 || isnan(others_s) || mine.cores_s < 0.5 * topo->n_cores) return TB_OK;
    double percent = fmax(100 * others_s / cores_s, 0);
    return tb_journal_value(l->journal, &(tb_value){"noise.others_percent", "%", -1, percent});
}

/* ---- the driver's part ---- */

static void say_invalid(launch *l, const char *why)
{
    if (!l->why_invalid[0]) snprintf(l->why_invalid, sizeof l->why_invalid, "%s", why);
}

/* Correct before fast: a check that failed on any rank stops the launch before anything is timed. */
static tb_status check_first(launch *l, bool *correct)
{
    *correct = true;
    if (!l->driver->check) return TB_OK;
    tb_run_phase(&l->run, "check", -1, 0);
    TB_TRY(l->driver->check(&l->run, l->state));
    int64_t failed = tb_recorder_failed_checks(l->recorder);
    TB_TRY(tb_group_max(l->e->group, &failed));
    *correct = failed == 0;
    if (failed) say_invalid(l, "a check failed before anything was timed");
    return TB_OK;
}

/* Ranks are set up at their own pace until they meet, here or in tb_run_open_comm(): from then on none may be later
 * than the deadline, until one of them looks at the machine while the others wait. */
static tb_status start_deadline(const launch *l)
{
    double deadline_s = 0;
    TB_TRY(tb_conf_num(tb_conf_find(l->config, "launch.deadline_s"), "launch.deadline_s", 0, 1e6, &deadline_s));
    TB_TRY(tb_group_idle_barrier(l->e->group));
    tb_group_set_deadline(l->e->group, (int64_t)(deadline_s * 1e9));
    return TB_OK;
}

static tb_status drive(launch *l)
{
    const tb_driver *d = l->driver;
    int64_t t0 = tb_now_ns();
    bool correct, stop;
    tb_run_phase(&l->run, "setup", -1, 0);
    if (l->run.rank == 0) tb_emit_value(&l->run, "launch_s", "s", (double)(utc_ns() - l->e->point->utc_ns) * 1e-9);
    if (d->setup) TB_TRY(d->setup(&l->run, &l->state));
    tb_emit_value(&l->run, "setup_s", "s", (double)(tb_now_ns() - t0) * 1e-9);
    TB_TRY(start_deadline(l));
    TB_TRY(check_first(l, &correct));
    if (correct && d->run_once) TB_TRY(tb_loop_run(&l->run, d, l->state, &l->steady, &l->stopped));
    if (correct && d->run) TB_TRY(d->run(&l->run, l->state));
    tb_run_phase(&l->run, "finish", -1, 0);
    TB_TRY(tb_run_sync(&l->run, &stop));
    l->stopped |= stop;
    if (correct && d->finish) TB_TRY(d->finish(&l->run, l->state));
    TB_TRY(tb_group_idle_barrier(l->e->group));
    tb_group_set_deadline(l->e->group, 0);
    return TB_OK;
}

/* ---- judging ---- */

typedef struct findings {
    const tb_conf *config;
    const tb_result *result;
} findings;

/* A name in `valid`: a key of the point, a metric, a value, a check's value, or a text of rank 0. */
static bool look_up(const void *arg, const char *name, tb_expr_value *out, char *near)
{
    const findings *f = arg;
    const tb_launch *l = f->result->launches[0];
    const tb_summary *summary = tb_result_summary(f->result, name);
    const tb_value *value = tb_launch_value(l, name, 0);
    if (!value) value = tb_launch_value(l, name, -1);
    const char *text = tb_launch_artefact(l, name, 0);
    *out = (tb_expr_value){.type = TB_EXPR_NUM};
    if (summary || value) {
        out->number = summary ? summary->value : value->value;
        return true;
    }
    for (int i = 0; i < l->n_checks; i++) {
        if (strcmp(l->checks[i].name, name) != 0) continue;
        out->number = l->checks[i].value;
        return true;
    }
    if (*text) {
        out->type = TB_EXPR_TEXT;
        snprintf(out->text, sizeof out->text, "%s", text);
        return true;
    }
    return tb_conf_lookup(f->config, name, out, near);
}

static tb_status judge_one(launch *l, const char *condition, findings *f)
{
    bool holds = false;
    tb_check check = {.name = condition, .kind = "valid", .message = ""};
    if (tb_expr_test(condition, look_up, f, &holds) != TB_OK)
        check.message = tb_error_message();
    else if (!holds)
        check.message = "the condition does not hold";
    tb_expr_sides(condition, look_up, f, &check.value, &check.limit);
    check.pass = holds;
    if (!holds) say_invalid(l, tb_error_code() != TB_OK ? check.message : condition);
    return tb_journal_check(l->journal, &check);
}

/* Rank 0 reads its own journal back, so that what is judged is what was recorded. */
static tb_status judge(launch *l)
{
    const tb_conf *valid = tb_conf_find(l->config, "valid");
    if (!valid || valid->n_items == 0) return TB_OK;
    tb_result *result = NULL;
    TB_TRY(tb_result_from_journals(&l->e->journal, 1, &result));
    findings f = {l->config, result};
    tb_status st = tb_result_summarise(result, 0.95);
    for (int i = 0; i < valid->n_items && st == TB_OK; i++) {
        tb_error_clear();
        st = judge_one(l, valid->items[i]->text, &f);
    }
    tb_result_free(result);
    return st;
}

static tb_status write_end(launch *l, tb_status st)
{
    tb_end end = {.status = "ok", .reason = "", .failed_rank = -1, .utc_ns = utc_ns()};
    char reason[600];
    snprintf(reason, sizeof reason, "%s", st != TB_OK ? tb_error_message() : l->why_invalid);
    end.reason = reason;
    end.exit_code = st == TB_OK ? 0 : tb_status_exit_code(st);
    if (st != TB_OK) {
        end.status = "failed";
        end.failed_rank = l->run.rank;
    } else if (l->stopped) {
        end.status = "interrupted";
        end.reason = "stopped by the user";
    } else if (l->why_invalid[0]) {
        end.status = "invalid";
    }
    return tb_journal_end(l->journal, &end);
}

static tb_status run_launch(launch *l)
{
    TB_TRY(open_launch(l));
    TB_TRY(look_at_machine(l, "before"));
    TB_TRY(tb_provenance_write_rank(l->journal, l->run.rank));
    start_watch(l);
    TB_TRY(drive(l));
    TB_TRY(end_watch(l));
    TB_TRY(look_at_machine(l, "after"));
    bool stop;
    TB_TRY(tb_run_sync(&l->run, &stop));
    if (l->run.rank > 0) return TB_OK;
    if (l->driver->run_once && !l->steady && !l->stopped && !l->why_invalid[0])
        TB_TRY(tb_journal_value(l->journal, &(tb_value){"not_steady", "", 0, 1}));
    return l->stopped ? TB_OK : judge(l);
}

tb_status tb_execute(const tb_execution *e, int *exit_code)
{
    launch l = {.e = e};
    tb_status st = run_launch(&l);
    if (st == TB_ERR_TIMEOUT || st == TB_ERR_CANCELLED) tb_crash_excuse();
    char message[1024];
    snprintf(message, sizeof message, "%s", tb_error_message());
    tb_status recorded = TB_OK;
    if (l.journal && l.run.rank == 0) recorded = write_end(&l, st);
    bool leaves_alone = st != TB_OK && l.run.ranks > 1; /* the others may wait for this rank: it ends the job */
    if (l.driver && l.driver->teardown && !leaves_alone) l.driver->teardown(l.state);
    if (l.journal && tb_journal_close(l.journal) != TB_OK && recorded == TB_OK) recorded = tb_error_code();
    tb_recorder_free(l.recorder);
    tb_conf_free(l.config);
    tb_free(l.flight);
    *exit_code = l.why_invalid[0] ? 3 : 0;
    if (st != TB_OK) tb_error_set(st, message);
    return st != TB_OK ? st : recorded;
}
