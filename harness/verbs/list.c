/* tb list: the experiments that can be run, and the newest run of each. */
#include "experiment.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include "tb_verb.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

/* Name of the newest run's folder, "" when there is none. */
static void newest_run(const char *root, const char *experiment, char *out, size_t bytes)
{
    out[0] = '\0';
    char *path = tb_asprintf("%s/results/runs/%s", root, experiment);
    DIR *dir = path ? opendir(path) : NULL;
    for (const struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, out) > 0)
            snprintf(out, bytes, "%s", entry->d_name);
    if (dir) closedir(dir);
    tb_free(path);
}

static void put_experiment(const char *path, tb_json *json)
{
    tb_experiment *e = NULL;
    char run[256] = "", trouble[512] = "";
    if (tb_experiment_load(path, &(tb_experiment_options){0}, &e) != TB_OK)
        snprintf(trouble, sizeof trouble, "%s", tb_error_message());
    else newest_run(e->root, e->name, run, sizeof run);
    if (!json) {
        if (e)
            printf("%-20s %3d point%s  %s\n", e->name, e->n_points, e->n_points == 1 ? " " : "s",
                   e->question);
        else printf("%s\n", trouble);
        if (run[0]) printf("%-20s            newest run: %s\n", "", run);
    } else {
        tb_json_open(json, '{');
        tb_json_put_str(json, "name", e ? e->name : path);
        tb_json_put_str(json, "question", e ? e->question : NULL);
        tb_json_put_str(json, "driver", e ? e->driver->name : NULL);
        tb_json_put_int(json, "points", e ? e->n_points : 0);
        tb_json_put_str(json, "newest_run", run[0] ? run : NULL);
        tb_json_put_str(json, "error", trouble[0] ? trouble : NULL);
        tb_json_close(json, '}');
    }
    tb_experiment_free(e);
}

static int list(const tb_args *args)
{
    char *root = NULL, *folder = NULL;
    struct dirent **entries = NULL;
    if (tb_experiment_root(&root) != TB_OK) return tb_report(stderr);
    folder = tb_asprintf("%s/experiments", root);
    int n = folder ? scandir(folder, &entries, NULL, alphasort) : -1;
    tb_text text = {0};
    tb_json json = {.to = &text, .pretty = true};
    bool as_json = tb_args_has(args, "json");
    if (as_json) tb_json_open(&json, '[');
    int listed = 0;
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(entries[i]->d_name, '.');
        char *path =
            dot && strcmp(dot, ".yaml") == 0 ? tb_asprintf("%s/%s", folder, entries[i]->d_name) : NULL;
        if (path) put_experiment(path, as_json ? &json : NULL);
        listed += path != NULL;
        tb_free(path);
        free(entries[i]);
    }
    free(entries);
    if (as_json) tb_json_close(&json, ']');
    if (as_json) printf("%s", tb_text_str(&text));
    else if (!listed)
        printf("no experiments (*.yaml) in %s\n", folder ? folder : "experiments");
    tb_text_free(&text);
    tb_free(folder);
    tb_free(root);
    return 0;
}

static const tb_option options[] = {{"json", 0, NULL, "as JSON"}};

TB_VERB(list, .group = TB_VERB_EXPERIMENT, .args = "", .min_args = 0, .max_args = 0,
        .doc = "The experiments, what they ask, and their newest runs", .options = options, .n_options = 1,
        .run = list);
