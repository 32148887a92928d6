/* Children of all threads, from /proc (children.h). */
#include "children.h"
#include <dirent.h>
#include <stdio.h>

int tb_children(pid_t *out, int most)
{
    int n = 0;
    DIR *threads = opendir("/proc/self/task");
    for (const struct dirent *thread; threads && (thread = readdir(threads));) {
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/children", thread->d_name);
        FILE *f = fopen(path, "re");
        while (f && n < most && fscanf(f, "%d", &out[n]) == 1) n++;
        if (f) fclose(f);
    }
    if (threads) closedir(threads);
    return n;
}
