/* How long a run would take: from the newest earlier run of the experiment here, else from its recorded one. */
#include "h5.h"
#include "report.h"
#include "tb_alloc.h"
#include <dirent.h>
#include <string.h>

static double launch_seconds(const tb_launch *l) { return (double)(l->end.utc_ns - l->point.utc_ns) * 1e-9; }

/* The mean of the launches of this point in `folder`; 0 when there are none. */
static double point_seconds(const char *folder, const tb_plan_point *p)
{
    char *path = tb_asprintf("%s/%s.h5", folder, p->stem);
    tb_result *result = NULL;
    double sum = 0;
    int n = 0;
    if (path && tb_h5_read(path, &result) == TB_OK)
        for (; n < result->n_launches; n++) sum += launch_seconds(result->launches[n]);
    tb_result_free(result);
    tb_free(path);
    return n ? sum / n : 0;
}

static double recorded_seconds(const tb_experiment *e, const tb_plan_point *p)
{
    char *folder = tb_asprintf("%s/results/headline/%s", e->root, e->name);
    double seconds = folder ? point_seconds(folder, p) : 0;
    tb_free(folder);
    return seconds;
}

/* The newest run in which the point was measured. */
static double newest_seconds(const tb_experiment *e, const tb_plan_point *p)
{
    char newest[256] = "";
    double seconds = 0;
    char *parent = tb_asprintf("%s/results/runs/%s", e->root, e->name);
    DIR *dir = parent ? opendir(parent) : NULL;
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, newest) < 0) continue;
        char *folder = tb_asprintf("%s/%s", parent, entry->d_name);
        double found = folder ? point_seconds(folder, p) : 0;
        tb_free(folder);
        if (found <= 0) continue;
        seconds = found;
        snprintf(newest, sizeof newest, "%s", entry->d_name);
    }
    if (dir) closedir(dir);
    tb_free(parent);
    return seconds;
}

void tb_report_estimate(const tb_experiment *e)
{
    double known = 0;
    int n_known = 0, n_recorded = 0;
    for (int p = 0; p < e->n_points; p++) {
        double here = newest_seconds(e, &e->points[p]), seconds = here > 0 ? here : recorded_seconds(e, &e->points[p]);
        known += seconds * (double)e->launches;
        n_known += seconds > 0;
        n_recorded += seconds > here;
    }
    tb_error_clear();
    int n_unknown = e->n_points - n_known;
    double at_most = n_unknown * e->timeout_s * (double)e->launches;
    if (n_known > 0)
        printf("about %d:%02d for %d point(s), from %s", (int)known / 60, (int)known % 60, n_known,
               n_recorded == n_known ? "the recorded results"
               : n_recorded > 0      ? "earlier runs and the recorded results"
                                     : "earlier runs");
    if (n_known > 0 && n_unknown > 0) printf("; ");
    if (n_unknown > 0) printf("%d point(s) never measured: at most %.0f min (timeouts)", n_unknown, at_most / 60);
    printf("\n");
}
