/* Log lines. Each goes out in one write, so lines of several threads and ranks never mix. */
#include "tb_log.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static _Thread_local int thread_rank = -1;

void tb_log_set_rank(int rank) { thread_rank = rank; }

/* Read each time: logging is rare, and a test or a debugger may change the variable. */
static tb_log_level wanted_level(void)
{
    const char *name = getenv("TB_LOG");
    for (int i = 0; name && i <= TB_LOG_DEBUG; i++)
        if (strcmp(name, level_names[i]) == 0) return (tb_log_level)i;
    return TB_LOG_WARN;
}

void tb_log_write(tb_log_level level, const char *fmt, ...)
{
    if (level > wanted_level()) return;
    char line[2048];
    int n = thread_rank < 0
                ? snprintf(line, sizeof line, "tb %s: ", level_names[level])
                : snprintf(line, sizeof line, "tb[rank %d] %s: ", thread_rank, level_names[level]);
    va_list args;
    va_start(args, fmt);
    int more = vsnprintf(line + n, sizeof line - (size_t)n, fmt, args);
    va_end(args);
    if (more < 0) return;
    n += more;
    if (n > (int)sizeof line - 2) n = (int)sizeof line - 2;
    line[n++] = '\n';
    fwrite(line, 1, (size_t)n, stderr);
}
