/* Points on groups of the ranks of one job. */
#include "direct.h"
#include "crash.h"
#include "execute.h"
#include "flight.h"
#include "group.h"
#include "journal.h"
#include "report.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_log.h"

typedef struct direct {
    tb_experiment *experiment;
    tb_runner runner;      /* rank 0 */
    tb_group *world;
    tb_board *board;
    tb_topo topo;
    bool traced;
    int argc;
    char *const *argv;
} direct;

/* Rank 0 makes the journal; every rank of the group gets its path. */
static tb_status make_journal(const direct *d, int index, char path[4096])
{
    tb_launch_plan plan = {.experiment = d->experiment, .point = &d->experiment->points[index],
                           .folder = d->runner.folder};
    tb_status st = TB_OK;
    path[0] = '\0';
    if (tb_group_rank(d->world) == 0) {
        tb_point point = tb_launch_point(&plan);
        tb_journal *journal = NULL;
        char *name = tb_launch_journal_path(&plan);
        st = name ? tb_journal_create(name, &point, &journal) : TB_ERR_OOM;
        if (st == TB_OK)
            st = tb_journal_fact(journal, &(tb_fact){"run/mode", "direct: one launch for all points", -1});
        tb_status closed = tb_journal_close(journal);
        if (st == TB_OK) st = closed;
        if (st == TB_OK) snprintf(path, 4096, "%s", name);
        tb_free(name);
    }
    int64_t failed = st != TB_OK;
    TB_TRY(tb_group_max(d->world, &failed));
    if (failed) return st != TB_OK ? st : TB_FAIL(TB_ERR_IO, "rank 0 could not make a journal");
    return tb_group_broadcast(d->world, path, 4096);
}

static tb_status run_point(direct *d, int index)
{
    const tb_plan_point *p = &d->experiment->points[index];
    int rank = tb_group_rank(d->world), code = 0;
    char path[4096];
    tb_group *group = NULL;
    TB_TRY(make_journal(d, index, path));
    TB_TRY(tb_group_first(d->world, p->ranks, &group));
    tb_status st = TB_OK;
    if (group) {
        tb_launch_plan plan = {.experiment = d->experiment, .point = p, .folder = d->runner.folder};
        tb_point point = tb_launch_point(&plan);
        tb_execution e = {.point = &point,
                          .journal = path,
                          .group = group,
                          .board = d->board,
                          .topo = &d->topo,
                          .source_dir = d->experiment->root,
                          .traced = d->traced,
                          .argc = d->argc,
                          .argv = d->argv};
        st = tb_bind_rank(&d->topo, rank, p->ranks, p->threads);
        if (st == TB_OK) st = tb_execute(&e, &code);
        tb_group_leave(group);
    }
    if (st != TB_OK) return st;
    TB_TRY(tb_group_idle_barrier(d->world));
    if (rank == 0) {
        d->runner.done[index] = true;
        tb_flight_remove(path, p->ranks);
    }
    return TB_OK;
}

static int finish(direct *d)
{
    tb_experiment *e = d->experiment;
    tb_result **results = tb_calloc((size_t)e->n_points, sizeof(tb_result *));
    if (!results) return tb_report(stderr);
    for (int p = 0; p < e->n_points; p++)
        if (d->runner.done[p] && tb_runner_result(&d->runner, p, &results[p]) != TB_OK) tb_report(stderr);
    int code = tb_report_run(&d->runner, results);
    for (int p = 0; p < e->n_points; p++) tb_result_free(results[p]);
    tb_free(results);
    return code;
}

static tb_status share_folder(direct *d)
{
    char path[4096] = "";
    if (d->runner.folder) snprintf(path, sizeof path, "%s", d->runner.folder);
    TB_TRY(tb_group_broadcast(d->world, path, sizeof path));
    if (!d->runner.folder) d->runner.folder = tb_strdup(path);
    return d->runner.folder ? TB_OK : TB_ERR_OOM;
}

static tb_status open_run(direct *d, const char *name, const tb_experiment_options *options, tb_run_mode mode,
                          const char *out)
{
    TB_TRY(tb_experiment_load(name, options, &d->experiment));
    d->experiment->launches = 1;
    TB_TRY(tb_topo_load(&d->topo));
    TB_TRY(tb_group_start(&d->world));
    int rank = tb_group_rank(d->world);
    tb_log_set_rank(rank);
    TB_TRY(tb_board_create(NULL, tb_group_size(d->world), &d->board));
    tb_crash_handlers(rank, &d->board->slots[rank]);
    int64_t failed = rank == 0 && tb_runner_open(d->experiment, mode, out, &d->runner) != TB_OK;
    TB_TRY(tb_group_max(d->world, &failed));
    if (!failed) return share_folder(d);
    return rank == 0 ? tb_error_code() : TB_FAIL(TB_ERR_CANCELLED, "rank 0 could not open the run");
}

int tb_direct_run(const char *name, const tb_experiment_options *options, tb_run_mode mode, const char *out,
                  bool traced, const volatile int *interrupts, int argc, char *const *argv)
{
    direct d = {.runner.lock = -1, .traced = traced, .argc = argc, .argv = argv};
    bool speaks = tb_group_env_rank() == 0;
    tb_cpu_denormals_on();
    tb_status st = open_run(&d, name, options, mode, out);
    int code = 0, size = tb_group_env_size(), ran = 0;
    for (int p = 0; st == TB_OK && p < d.experiment->n_points; p++) {
        const tb_plan_point *point = &d.experiment->points[p];
        int64_t stop = *interrupts > 0, kept = speaks && d.runner.done[p];
        if (point->ranks > size) {
            if (speaks)
                fprintf(stderr, "%s: skipped, wants %d ranks of %d\n", point->label, point->ranks, size);
            continue;
        }
        st = tb_group_max(d.world, &stop);
        if (st == TB_OK) st = tb_group_max(d.world, &kept);
        if (st != TB_OK || stop) break;
        if (!kept && speaks) fprintf(stderr, "%s\n", point->label);
        if (!kept) st = run_point(&d, p);
        ran++;
    }
    if (st == TB_OK && speaks && ran == 0) fprintf(stderr, "nothing measured: no point has so few ranks\n");
    if (st == TB_OK && speaks) code = ran ? finish(&d) : 3;
    if (st != TB_OK && speaks) code = tb_report(stderr);
    else if (st != TB_OK) code = tb_status_exit_code(st);
    if (st != TB_OK && !speaks && st != TB_ERR_CANCELLED && d.world)
        fprintf(stderr, "\nrank %d failed: %s\n", tb_group_env_rank(), tb_error_message());
    if (st != TB_OK && d.world) tb_group_abort(code);
    tb_group_end(d.world);
    tb_runner_close(&d.runner);
    tb_board_close(d.board);
    tb_experiment_free(d.experiment);
    return code;
}
