/* Status codes and the error record.
 *
 * Every function that can fail returns a tb_status that the caller must use. The sentence that explains the
 * failure (what, where, how to mend it) lies in a record that belongs to the calling thread; it holds the last
 * failure until the next one or tb_error_clear(). Nothing in engine/ or kernels/ ends the process. */
#pragma once
#include <stdio.h>

#define TB_MUST_USE __attribute__((warn_unused_result))
#define TB_PRINTF(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))

/* code, name, exit status of a program that ends with it (0 ok, 1 parity, 2 usage or config, 3 invalid or crashed) */
#define TB_STATUS_MAP(X)                                                                                              \
    X(OK, "ok", 0)                                                                                                    \
    X(INVALID, "invalid argument", 2)                                                                                 \
    X(SHAPE, "shape error", 2)                                                                                        \
    X(DTYPE, "dtype error", 2)                                                                                        \
    X(UNSUPPORTED, "unsupported", 3)                                                                                  \
    X(NOT_FOUND, "not found", 2)                                                                                      \
    X(OOM, "out of memory", 3)                                                                                        \
    X(IO, "input/output error", 3)                                                                                    \
    X(PARSE, "parse error", 2)                                                                                        \
    X(CONFIG, "configuration error", 2)                                                                               \
    X(COMM, "communication error", 3)                                                                                 \
    X(TIMEOUT, "timed out", 3)                                                                                        \
    X(CANCELLED, "cancelled", 3)                                                                                      \
    X(PARITY, "results differ", 1)                                                                                    \
    X(INTERNAL, "internal error", 3)

typedef enum tb_status {
#define TB_STATUS_ENUM(name, text, exit_code) TB_STATUS_##name,
    TB_STATUS_MAP(TB_STATUS_ENUM)
#undef TB_STATUS_ENUM
} tb_status;

#define TB_OK TB_STATUS_OK
#define TB_ERR_INVALID TB_STATUS_INVALID
#define TB_ERR_SHAPE TB_STATUS_SHAPE
#define TB_ERR_DTYPE TB_STATUS_DTYPE
#define TB_ERR_UNSUPPORTED TB_STATUS_UNSUPPORTED
#define TB_ERR_NOT_FOUND TB_STATUS_NOT_FOUND
#define TB_ERR_OOM TB_STATUS_OOM
#define TB_ERR_IO TB_STATUS_IO
#define TB_ERR_PARSE TB_STATUS_PARSE
#define TB_ERR_CONFIG TB_STATUS_CONFIG
#define TB_ERR_COMM TB_STATUS_COMM
#define TB_ERR_TIMEOUT TB_STATUS_TIMEOUT
#define TB_ERR_CANCELLED TB_STATUS_CANCELLED
#define TB_ERR_PARITY TB_STATUS_PARITY
#define TB_ERR_INTERNAL TB_STATUS_INTERNAL

const char *tb_status_name(tb_status st);   /* "out of memory"; never NULL */
int tb_status_exit_code(tb_status st);      /* see TB_STATUS_MAP */

tb_status tb_error_code(void);              /* of this thread's record; TB_OK when it is empty */
const char *tb_error_message(void);         /* "" when empty; valid until this thread's next failure */
void tb_error_clear(void);
void tb_error_set(tb_status st, const char *message); /* overwrites the record: to carry a failure between threads */
void tb_error_add(const char *fmt, ...) TB_PRINTF(1, 2); /* appends " (...)" to the sentence: layer, rank, file */
int tb_report(FILE *to);                    /* prints the record as one line; returns the exit code for main() */

/* Fills the record and returns `st`: `return TB_FAIL(TB_ERR_SHAPE, "...", ...)`. */
#define TB_FAIL(st, ...) tb_fail((st), __FILE__, __LINE__, __VA_ARGS__)
tb_status tb_fail(tb_status st, const char *file, int line, const char *fmt, ...) TB_PRINTF(4, 5);

/* Hands a failure on unchanged. */
#define TB_TRY(call)                                                                                                  \
    do {                                                                                                              \
        tb_status try_status = (call);                                                                                \
        if (try_status != TB_OK) return try_status;                                                                   \
    } while (0)
/* The same towards the one label `cleanup:`, with the status in a local `st`. */
#define TB_GO(call)                                                                                                   \
    do {                                                                                                              \
        st = (call);                                                                                                  \
        if (st != TB_OK) goto cleanup;                                                                                \
    } while (0)
