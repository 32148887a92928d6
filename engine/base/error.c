/* The status table and the thread's error record. */
#include "tb_status.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local struct {
    tb_status code;
    char message[MESSAGE_BYTES];
} record;

static const struct {
    const char *text;
    int exit_code;
} status_table[] = {
#define ROW(name, text, exit_code) [TB_STATUS_##name] = {text, exit_code},
    TB_STATUS_MAP(ROW)
#undef ROW
};

static int is_known(tb_status st)
{
    return (unsigned)st < sizeof status_table / sizeof status_table[0];
}

const char *tb_status_name(tb_status st) { return is_known(st) ? status_table[st].text : "unknown status"; }

int tb_status_exit_code(tb_status st) { return is_known(st) ? status_table[st].exit_code : 3; }

tb_status tb_error_code(void) { return record.code; }

const char *tb_error_message(void) { return record.message; }

void tb_error_clear(void)
{
    record.code = TB_OK;
    record.message[0] = 0;
}

void tb_error_set(tb_status st, const char *message)
{
    record.code = st;
    snprintf(record.message, sizeof record.message, "%s", message);
}

void tb_error_add(const char *fmt, ...)
{
    size_t used = strlen(record.message);
    if (used + 5 >= MESSAGE_BYTES) return;
    va_list ap;
    va_start(ap, fmt);
    used += (size_t)snprintf(record.message + used, MESSAGE_BYTES - used, " (");
    int n = vsnprintf(record.message + used, MESSAGE_BYTES - used, fmt, ap);
    va_end(ap);
    used += n > 0 ? (size_t)n : 0;
    if (used > MESSAGE_BYTES - 2) used = MESSAGE_BYTES - 2;
    memcpy(record.message + used, ")", 2);
}

tb_status tb_fail(tb_status st, const char *file, int line, const char *fmt, ...)
{
    char message[MESSAGE_BYTES]; /* the arguments may point into the record: a cause that is wrapped */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    memcpy(record.message, message, sizeof message);
    record.code = st;
    const char *trace = getenv("TB_LOG");
    if (trace && strcmp(trace, "debug") == 0) fprintf(stderr, "%s:%d: %s\n", file, line, record.message);
    return st;
}

int tb_report(FILE *to)
{
    if (record.code == TB_OK) return 0;
    fprintf(to, "%s\n", record.message[0] ? record.message : tb_status_name(record.code));
    return tb_status_exit_code(record.code);
}
