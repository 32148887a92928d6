/* Growing text and JSON output (RFC 8259), plus the little string help that messages need. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise; free with tb_text_free. A failed append leaves .failed set and later appends do nothing, so a
 * writer checks once, at the end. */
typedef struct tb_text {
    char *data; /* zero-terminated once anything was added; NULL before */
    size_t size, capacity;
    bool failed;
} tb_text;

void tb_text_add(tb_text *t, const char *fmt, ...) TB_PRINTF(2, 3);
void tb_text_add_bytes(tb_text *t, const void *data, size_t bytes);
bool tb_text_reserve(tb_text *t, size_t bytes); /* so that this many can be added without asking for memory */
void tb_text_free(tb_text *t);
const char *tb_text_str(const tb_text *t); /* "" when empty */

/* JSON: commas and indentation are put in by the writer. Non-finite numbers become null. */
typedef struct tb_json {
    tb_text *to;
    int depth;
    bool pretty;            /* one member a line, two spaces a level */
    bool has_member[64];    /* per depth */
    bool after_key;
} tb_json;

void tb_json_open(tb_json *j, char bracket);        /* '{' or '[' */
void tb_json_close(tb_json *j, char bracket);       /* '}' or ']' */
void tb_json_key(tb_json *j, const char *key);
void tb_json_str(tb_json *j, const char *value);    /* NULL writes null */
void tb_json_num(tb_json *j, double value);         /* shortest text that reads back to the same double */
void tb_json_int(tb_json *j, int64_t value);
void tb_json_bool(tb_json *j, bool value);
void tb_json_raw(tb_json *j, const char *json);     /* already JSON */
/* A member: key and value. */
void tb_json_put_str(tb_json *j, const char *key, const char *value);
void tb_json_put_num(tb_json *j, const char *key, double value);
void tb_json_put_int(tb_json *j, const char *key, int64_t value);
void tb_json_put_bool(tb_json *j, const char *key, bool value);
void tb_json_put_raw(tb_json *j, const char *key, const char *json);

/* The candidate nearest to `word` by edit distance, or NULL when none is near (distance > 1/2 of its length, min 2). */
const char *tb_nearest(const char *word, const char *const *candidates, int n);
