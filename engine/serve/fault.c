/* The table of faults and the error body. */
#include "fault.h"
#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *name;
    int status;
} table[TBI_FAULTS] = {
#define ROW(name, text, status) [TBI_FAULT_##name] = {text, status},
    TBI_FAULT_MAP(ROW)
#undef ROW
};

const char *tbi_fault_name(tbi_fault_code code) { return table[code].name; }
int tbi_fault_status(tbi_fault_code code) { return table[code].status; }

bool tbi_fault_set(tbi_fault *f, tbi_fault_code code, const char *field, const char *fmt, ...)
{
    if (f->code != TBI_FAULT_NONE) return false;
    va_list args;
    va_start(args, fmt);
    f->code = code;
    vsnprintf(f->message, sizeof f->message, fmt, args);
    va_end(args);
    snprintf(f->field, sizeof f->field, "%s", field ? field : "");
    return false;
}

void tbi_fault_write(const tbi_fault *f, const char *request_id, tb_text *out)
{
    tb_json j = {.to = out};
    tb_json_open(&j, '{');
    tb_json_put_str(&j, "error", f->message);
    tb_json_put_str(&j, "code", tbi_fault_name(f->code));
    tb_json_put_int(&j, "status", tbi_fault_status(f->code));
    tb_json_put_str(&j, "request_id", request_id && *request_id ? request_id : NULL);
    tb_json_put_str(&j, "field", *f->field ? f->field : NULL);
    tb_json_key(&j, "retry_after_s");
    if (f->retry_after_s > 0) tb_json_int(&j, f->retry_after_s);
    else tb_json_str(&j, NULL);
    tb_json_close(&j, '}');
}
