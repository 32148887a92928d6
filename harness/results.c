/* Finding and reading results. */
#include "results.h"
#include "h5.h"
#include "tb_alloc.h"
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct names {
    char **at;
    int n;
} names;

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), s = strlen(suffix);
    return n > s && strcmp(name + n - s, suffix) == 0;
}

static tb_status add(tb_results *results, tb_result *result)
{
    tb_result **more = tb_realloc(results->at, sizeof(tb_result *) * (size_t)(results->n + 1));
    if (!more) {
        tb_result_free(result);
        return TB_ERR_OOM;
    }
    results->at = more;
    results->at[results->n++] = result;
    return TB_OK;
}

static tb_status read_h5(const char *path, tb_results *out)
{
    tb_result *result = NULL;
    TB_TRY(tb_h5_read(path, &result));
    return add(out, result);
}

static tb_status read_journals(char *const *paths, int n, tb_results *out)
{
    tb_result *result = NULL;
    TB_TRY(tb_result_from_journals((const char *const *)paths, n, &result));
    tb_status st = tb_result_summarise(result, 0.95);
    if (st == TB_OK) return add(out, result);
    tb_result_free(result);
    return st;
}

static tb_status list_folder(const char *folder, names *out)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, NULL, alphasort);
    if (n < 0) return TB_FAIL(TB_ERR_IO, "%s: %s", folder, strerror(errno));
    out->at = tb_calloc((size_t)n + 1, sizeof *out->at);
    for (int i = 0; i < n; i++) {
        bool wanted = ends_with(entries[i]->d_name, ".h5") || ends_with(entries[i]->d_name, ".journal");
        if (out->at && wanted && (out->at[out->n] = tb_asprintf("%s/%s", folder, entries[i]->d_name)))
            out->n++;
        free(entries[i]);
    }
    free(entries);
    return out->at ? TB_OK : TB_ERR_OOM;
}

/* Length of "folder/stem" in "folder/stem.3.journal". */
static size_t stem_length(const char *path)
{
    size_t n = strlen(path) - strlen(".journal");
    while (n > 0 && path[n - 1] != '.') n--;
    return n;
}

static tb_status read_folder(const char *folder, tb_results *out)
{
    names files = {0};
    tb_status st = list_folder(folder, &files);
    for (int i = 0, next; st == TB_OK && i < files.n; i = next) {
        next = i + 1;
        bool is_journal = ends_with(files.at[i], ".journal");
        size_t stem = is_journal ? stem_length(files.at[i]) : 0;
        while (is_journal && next < files.n && ends_with(files.at[next], ".journal") &&
               stem_length(files.at[next]) == stem && strncmp(files.at[i], files.at[next], stem) == 0)
            next++;
        tb_status one = is_journal ? read_journals(files.at + i, next - i, out) : read_h5(files.at[i], out);
        if (one != TB_OK) fprintf(stderr, "left out: %s\n", tb_error_message());
    }
    for (int i = 0; i < files.n; i++) tb_free(files.at[i]);
    tb_free(files.at);
    return st;
}

tb_status tb_results_read(const char *path, tb_results *out)
{
    *out = (tb_results){0};
    struct stat info;
    if (stat(path, &info) < 0) return TB_FAIL(TB_ERR_NOT_FOUND, "%s: %s", path, strerror(errno));
    tb_status st;
    char *copy = NULL;
    if (S_ISDIR(info.st_mode)) st = read_folder(path, out);
    else if (ends_with(path, ".h5")) st = read_h5(path, out);
    else if (!(copy = tb_strdup(path))) st = TB_ERR_OOM;
    else st = read_journals(&copy, 1, out);
    tb_free(copy);
    if (st == TB_OK && out->n == 0) st = TB_FAIL(TB_ERR_NOT_FOUND, "%s: no results in this folder", path);
    if (st != TB_OK) tb_results_free(out);
    return st;
}

void tb_results_free(tb_results *results)
{
    for (int i = 0; i < results->n; i++) tb_result_free(results->at[i]);
    tb_free(results->at);
    *results = (tb_results){0};
}
