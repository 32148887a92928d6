/* Finding and removing what killed runs left (leftovers.h). */
#include "leftovers.h"
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OLD_S = 10 };

bool tb_leftovers_is_mapped(const char *path)
{
    DIR *dir = opendir("/proc");
    bool found = false;
    for (const struct dirent *e; dir && !found && (e = readdir(dir));) {
        char line[1024], maps[300];
        if (!isdigit((unsigned char)e->d_name[0])) continue;
        snprintf(maps, sizeof maps, "/proc/%s/maps", e->d_name);
        FILE *f = fopen(maps, "r");
        while (f && !found && fgets(line, sizeof line, f)) found = strstr(line, path) != NULL;
        if (f) fclose(f);
    }
    if (dir) closedir(dir);
    return found;
}

void tb_leftovers_remove(const char *folder)
{
    char host[64] = "", prefix[128];
    gethostname(host, sizeof host - 1);
    int n = snprintf(prefix, sizeof prefix, "vader_segment.%s.", host);
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        char path[512];
        struct stat info;
        if (strncmp(e->d_name, prefix, (size_t)n) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        bool old = stat(path, &info) == 0 && info.st_uid == geteuid() && time(NULL) - info.st_mtime >= OLD_S;
        if (old && !tb_leftovers_is_mapped(path)) unlink(path);
    }
    if (dir) closedir(dir);
}
