/* Folder, order and bookkeeping of a run. */
#include "runner.h"
#include "h5.h"
#include "journal.h"
#include "leftovers.h"
#include "noise.h"
#include "progress.h"
#include "tb_alloc.h"
#include "tb_file.h"
#include "tb_log.h"
#include "tb_rng.h"
#include "tb_text.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* The newest run folder of the experiment: names are UTC times, so it is the last by name. */
static char *newest_folder(const tb_experiment *e)
{
    char newest[256] = "";
    char *parent = tb_asprintf("%s/results/runs/%s", e->root, e->name);
    DIR *dir = parent ? opendir(parent) : NULL;
    for (const struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%s", entry->d_name);
    if (dir) closedir(dir);
    char *path = newest[0] ? tb_asprintf("%s/%s", parent, newest) : NULL;
    tb_free(parent);
    return path;
}

static char *new_folder(const tb_experiment *e)
{
    char utc[32];
    time_t now = time(NULL);
    struct tm parts;
    strftime(utc, sizeof utc, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &parts));
    char *path = tb_asprintf("%s/results/runs/%s/%s", e->root, e->name, utc);
    for (int i = 2; path && access(path, F_OK) == 0; i++) { /* a run of the same second */
        tb_free(path);
        path = tb_asprintf("%s/results/runs/%s/%s-%d", e->root, e->name, utc, i);
    }
    return path;
}

static char *h5_path(const tb_runner *r, int point)
{
    return tb_asprintf("%s/%s.h5", r->folder, r->experiment->points[point].stem);
}

static tb_launch_plan plan_of(tb_runner *r, int index)
{
    int launches = (int)r->experiment->launches;
    return (tb_launch_plan){.experiment = r->experiment,
                            .point = &r->experiment->points[index / launches],
                            .launch = index % launches,
                            .folder = r->folder,
                            .traced = r->traced,
                            .told = &r->told,
                            .interrupts = r->interrupts};
}

static bool is_final(const char *status)
{
    return strcmp(status, "ok") == 0 || strcmp(status, "invalid") == 0;
}

/* Nothing that was measured is deleted: a file that gives way is renamed. */
static tb_status set_aside(const char *path)
{
    char *aside = NULL;
    for (int n = 1; (aside = tb_asprintf("%s.aside-%d", path, n)) && access(aside, F_OK) == 0; n++)
        tb_free(aside);
    if (!aside) return TB_ERR_OOM;
    tb_status st = TB_OK;
    if (rename(path, aside) < 0) st = TB_FAIL(TB_ERR_IO, "%s: cannot set aside: %s", path, strerror(errno));
    tb_free(aside);
    return st;
}

/* Launches of one point are of one build, else their interval says nothing. */
static bool is_own(tb_runner *r, const tb_launch *launch)
{
    char build[TB_BUILD_ROOM];
    tb_provenance_build_of(launch, build);
    bool same = strcmp(build, r->build) == 0;
    r->n_foreign += !same;
    return same;
}

/* Is there a complete launch of this point in the folder? One that is incomplete, or of another build, is set aside, to
 * be launched again. */
static tb_status look_at_journal(tb_runner *r, int index)
{
    tb_launch_plan plan = plan_of(r, index);
    char *path = tb_launch_journal_path(&plan);
    tb_launch *launch = NULL;
    if (!path) return TB_ERR_OOM;
    tb_status st = TB_OK;
    if (access(path, F_OK) == 0) {
        bool readable = tb_journal_read(path, &launch) == TB_OK;
        r->done[index] = r->mode == TB_RUN_RESUME && readable && is_final(launch->end.status) && is_own(r, launch);
        if (!r->done[index]) st = set_aside(path);
        tb_launch_free(launch);
    }
    tb_free(path);
    return st;
}

static tb_status look_at_point(tb_runner *r, int point)
{
    int launches = (int)r->experiment->launches;
    char *path = h5_path(r, point);
    tb_result *result = NULL;
    tb_status st = TB_OK;
    if (!path) return TB_ERR_OOM;
    bool complete = r->mode == TB_RUN_RESUME && access(path, F_OK) == 0 &&
                    tb_h5_read(path, &result) == TB_OK && result->n_launches >= launches;
    for (int l = 0; l < launches && complete; l++) complete = is_final(result->launches[l]->end.status);
    for (int l = 0; l < launches && complete; l++) (void)is_own(r, result->launches[l]);
    tb_result_free(result);
    if (!complete && access(path, F_OK) == 0) st = set_aside(path);
    tb_free(path);
    for (int l = 0; l < launches && st == TB_OK; l++) {
        if (complete) r->done[point * launches + l] = true;
        else st = look_at_journal(r, point * launches + l);
        r->n_done += r->done[point * launches + l];
    }
    return st;
}

static bool has_results(const char *folder)
{
    DIR *dir = opendir(folder);
    bool found = false;
    for (const struct dirent *entry; dir && (entry = readdir(dir));)
        found |= strstr(entry->d_name, ".journal") || strstr(entry->d_name, ".h5");
    if (dir) closedir(dir);
    return found;
}

/* One run at a time in a folder: a second would set aside what the first is writing. Ends with the process. */
static tb_status lock_folder(tb_runner *r)
{
    r->lock = open(r->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->lock < 0) return TB_FAIL(TB_ERR_IO, "%s: cannot open this folder: %s", r->folder, strerror(errno));
    if (flock(r->lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return TB_OK; /* or has none */
    return TB_FAIL(TB_ERR_INVALID, "%s: another tb run writes here; wait for it, or name another folder with --out",
                   r->folder);
}

tb_status tb_runner_open(const tb_experiment *e, tb_run_mode mode, const char *out, tb_runner *r)
{
    *r = (tb_runner){.experiment = e, .mode = mode, .lock = -1};
    r->folder = out ? tb_strdup(out) : mode == TB_RUN_NEW ? new_folder(e) : newest_folder(e);
    if (!r->folder && mode != TB_RUN_NEW)
        return TB_FAIL(TB_ERR_NOT_FOUND, "%s: no earlier run in %s/results/runs/%s", e->name, e->root,
                       e->name);
    r->done = tb_calloc((size_t)(e->n_points * e->launches), sizeof *r->done);
    if (!r->folder || !r->done) return TB_ERR_OOM;
    if (mode == TB_RUN_RESUME && access(r->folder, F_OK) != 0)
        return TB_FAIL(TB_ERR_NOT_FOUND, "%s: no such run to go on with; without --resume a new one starts there",
                       r->folder);
    TB_TRY(tb_file_make_folder(r->folder));
    TB_TRY(lock_folder(r));
    if (mode == TB_RUN_NEW && has_results(r->folder))
        return TB_FAIL(TB_ERR_INVALID, "%s holds results: --resume goes on with them, --force starts them again",
                       r->folder);
    TB_TRY(tb_provenance_build(r->build));
    for (int p = 0; p < e->n_points; p++) TB_TRY(look_at_point(r, p));
    if (r->n_foreign)
        tb_log_write(TB_LOG_WARN,
                     "%s: %d complete launches are of another build of tb; those of complete points are kept, "
                     "the others measured again (--force measures all)",
                     r->folder, r->n_foreign);
    r->n_kept = r->n_done;
    return TB_OK;
}

void tb_runner_close(tb_runner *r)
{
    if (r->lock >= 0) close(r->lock);
    r->lock = -1;
    tb_free(r->folder);
    tb_free(r->done);
    tb_text_free(&r->told);
    r->folder = NULL;
    r->done = NULL;
}

int tb_runner_order(const tb_runner *r, int *order)
{
    const tb_experiment *e = r->experiment;
    int n = 0, launches = (int)e->launches;
    if (!e->interleaved) {
        for (int i = 0; i < e->n_points * launches; i++)
            if (!r->done[i]) order[n++] = i;
        return n;
    }
    int64_t *points = tb_calloc((size_t)e->n_points, sizeof *points);
    for (int l = 0; l < launches && points;
         l++) { /* every round all points once, each round in its own order */
        tb_random_permutation(e->seed, tb_stream_index(tb_stream_name(0, "order"), (uint64_t)l), e->n_points,
                              points);
        for (int p = 0; p < e->n_points; p++) {
            int index = (int)points[p] * launches + l;
            if (!r->done[index]) order[n++] = index;
        }
    }
    tb_free(points);
    return n;
}

/* What a launch's two looks at the machine say of its cores; NAN: nothing. */
static tb_status read_core_to_core(const tb_launch_plan *plan, double *before, double *after)
{
    tb_launch *launch = NULL;
    char *path = tb_launch_journal_path(plan);
    *before = *after = NAN;
    if (!path) return TB_ERR_OOM;
    tb_status st = tb_journal_read(path, &launch);
    const tb_value *first = st == TB_OK ? tb_launch_value(launch, "noise.before.core_to_core_ns", -1) : NULL;
    const tb_value *last = st == TB_OK ? tb_launch_value(launch, "noise.after.core_to_core_ns", -1) : NULL;
    if (first && last) *before = first->value, *after = last->value;
    tb_launch_free(launch);
    tb_free(path);
    return st;
}

static tb_status launch_again(const tb_launch_plan *plan, tb_outcome *outcome)
{
    char *path = tb_launch_journal_path(plan);
    tb_status st = path ? set_aside(path) : TB_ERR_OOM;
    tb_free(path);
    return st == TB_OK ? tb_launch_run(plan, outcome) : st;
}

/* On virtual machines two cores may find themselves on another pair of real ones. Where the driver says that this
 * decides its figures, a launch on two cores in which they moved, or on a pair unlike that of the launches before, is
 * measured again: up to twice, and no more than every fourth of a run. A pair that stays is what later launches are
 * held against; each file has its values. */
static tb_status repeat_if_cores_moved(tb_runner *r, const tb_launch_plan *plan, const tb_progress *p,
                                       tb_outcome *outcome)
{
    enum { TRIES = 2, SHARE = 4 };
    int most = (int)(r->experiment->n_points * r->experiment->launches) / SHARE + 1;
    if (!r->experiment->driver->needs_pair || plan->point->ranks * plan->point->threads < 2) return TB_OK;
    for (int tries = 0; strcmp(outcome->status, "ok") == 0; tries++) {
        double before, after;
        TB_TRY(read_core_to_core(plan, &before, &after));
        bool moved = tb_noise_cores_moved(before, after);
        bool same = r->core_to_core_ns == 0 || !tb_noise_cores_moved(after, r->core_to_core_ns);
        bool last = tries == TRIES || r->n_repeated == most;
        if ((!moved && same) || last) {
            if (!moved && !isnan(after)) r->core_to_core_ns = after;
            return TB_OK;
        }
        if (moved)
            tb_progress_note(p, "core to core went from %.0f to %.0f ns: measured again", before, after);
        else
            tb_progress_note(p, "core to core is %.0f ns, %.0f ns in launches before: measured again", after,
                             r->core_to_core_ns);
        r->n_repeated++;
        TB_TRY(launch_again(plan, outcome));
    }
    return TB_OK;
}

static tb_status run_one(tb_runner *r, int index, tb_progress *progress)
{
    tb_launch_plan plan = plan_of(r, index);
    tb_outcome outcome;
    plan.tick = tb_progress_tick;
    plan.tick_arg = progress;
    tb_progress_begin(progress, plan.point, plan.launch);
    TB_TRY(tb_launch_run(&plan, &outcome));
    TB_TRY(repeat_if_cores_moved(r, &plan, progress, &outcome));
    tb_progress_end(progress, &outcome);
    r->interrupted |= strcmp(outcome.status, "interrupted") == 0;
    r->done[index] = is_final(outcome.status);
    r->n_done += r->done[index];
    r->n_failed += !r->done[index] && !r->interrupted;
    r->launch_seconds += outcome.seconds;
    r->n_launched++;
    return TB_OK;
}

tb_status tb_runner_run(tb_runner *r)
{
    int total = (int)(r->experiment->n_points * r->experiment->launches);
    int *order = tb_calloc((size_t)total, sizeof *order);
    if (!order) return TB_ERR_OOM;
    int n = tb_runner_order(r, order);
    tb_progress progress;
    tb_progress_open(&progress, r->experiment, n);
    tb_leftovers_remove("/dev/shm");
    tb_status st = TB_OK;
    for (int i = 0; i < n && st == TB_OK && !r->interrupted && !*r->interrupts; i++)
        st = run_one(r, order[i], &progress);
    r->n_failed += st != TB_OK;
    r->interrupted |= *r->interrupts > 0;
    tb_free(order);
    return st;
}

static tb_status read_journals(tb_runner *r, int point, tb_result **out)
{
    int launches = (int)r->experiment->launches, n = 0;
    char **paths = tb_calloc((size_t)launches, sizeof *paths);
    if (!paths) return TB_ERR_OOM;
    for (int l = 0; l < launches; l++) {
        tb_launch_plan plan = plan_of(r, point * launches + l);
        char *path = tb_launch_journal_path(&plan);
        if (path && access(path, R_OK) == 0) paths[n++] = path;
        else tb_free(path);
    }
    tb_status st = n ? tb_result_from_journals((const char *const *)paths, n, out) : TB_OK;
    if (st == TB_OK && *out) st = tb_result_summarise(*out, r->experiment->level);
    for (int i = 0; i < n; i++) tb_free(paths[i]);
    tb_free(paths);
    return st;
}

tb_status tb_runner_result(tb_runner *r, int point, tb_result **out)
{
    *out = NULL;
    int launches = (int)r->experiment->launches;
    char *path = h5_path(r, point);
    if (!path) return TB_ERR_OOM;
    tb_status st = TB_OK;
    if (access(path, R_OK) == 0) {
        st = tb_h5_read(path, out);
        tb_free(path);
        return st;
    }
    bool complete = true;
    for (int l = 0; l < launches; l++) complete &= r->done[point * launches + l];
    st = read_journals(r, point, out);
    if (st == TB_OK && complete && *out) {
        st = tb_h5_write(path, *out);
        for (int l = 0; l < launches && st == TB_OK; l++) {
            tb_launch_plan plan = plan_of(r, point * launches + l);
            char *journal = tb_launch_journal_path(&plan);
            if (journal) unlink(journal);
            tb_free(journal);
        }
    }
    tb_free(path);
    return st;
}
