/* Strict configuration trees: YAML (and so JSON) by libyaml; the only user of it.
 *
 * Every node remembers file, line and column. Scalars stay text until a typed getter reads them, so `no`, `010` and
 * `1e3` mean what the reader of the key says they mean. Duplicate keys, merge keys (`<<`), anchors, aliases, tags
 * and several documents in a file are errors. A tree is owned by its root; nodes are borrowed from it. */
#pragma once
#include "tb_status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tb_conf_kind { TB_CONF_SCALAR, TB_CONF_LIST, TB_CONF_MAP } tb_conf_kind;

typedef struct tb_conf {
    tb_conf_kind kind;
    char *file;             /* path, or "-s" for a value from the command line */
    int line, column;       /* 1-based, of a map's member: where its key stands; 0 where the value came from no file */
    bool quoted;            /* scalar: it stood in quotes */
    char *text;             /* scalar */
    char **keys;            /* map: keys[i] belongs to items[i], in file order */
    struct tb_conf **items; /* list and map */
    int n_items;
} tb_conf;

TB_MUST_USE tb_status tb_conf_load(const char *path, tb_conf **out);
TB_MUST_USE tb_status tb_conf_parse(const char *text, size_t bytes, const char *name, tb_conf **out);
TB_MUST_USE tb_status tb_conf_clone(const tb_conf *node, tb_conf **out);
void tb_conf_free(tb_conf *root); /* NULL is accepted */

tb_conf *tb_conf_scalar(const char *file, const char *text, bool quoted); /* NULL: no memory, record filled */

/* Lookup by dotted path ("params.batch"); NULL when absent. A key may itself hold dots ("launch.ranks" in a sweep). */
tb_conf *tb_conf_find(const tb_conf *map, const char *path);
/* Sets a dotted path, making maps on the way; takes ownership of `value` also when it fails. */
TB_MUST_USE tb_status tb_conf_set(tb_conf *map, const char *path, tb_conf *value);
/* Deep merge: maps merge key by key, anything else in `over` replaces. `base` changes, `over` stays as it is. */
TB_MUST_USE tb_status tb_conf_merge(tb_conf *base, const tb_conf *over);

/* Typed reads of plain (for str: any) scalars; a NULL node fails as missing. On failure the sentence starts
 * "file:line:column: key 'x': ...". Integers are decimal, and 1e6 is one. true/yes/on and false/no/off are bool. */
TB_MUST_USE tb_status tb_conf_int(const tb_conf *node, const char *key, int64_t min, int64_t max, int64_t *out);
TB_MUST_USE tb_status tb_conf_num(const tb_conf *node, const char *key, double min, double max, double *out);
TB_MUST_USE tb_status tb_conf_bool(const tb_conf *node, const char *key, bool *out);
TB_MUST_USE tb_status tb_conf_str(const tb_conf *node, const char *key, const char **out);
/* Fails with "file:line:column: <fmt...>"; a value without a file: "<fmt...> (from -s)". NULL node: "<fmt...>". */
tb_status tb_conf_fail(const tb_conf *node, tb_status st, const char *fmt, ...) TB_PRINTF(3, 4);

/* Canonical JSON: keys sorted, scalars typed (int, number, bool, null, else string), no blanks. For hashing. */
struct tb_text;
void tb_conf_canonical(const tb_conf *node, struct tb_text *out);

/* A table of keys that something reads: the one source for checking, help and defaults. */
typedef enum tb_key_type { TB_KEY_INT, TB_KEY_NUM, TB_KEY_BOOL, TB_KEY_STR, TB_KEY_CHOICE } tb_key_type;
typedef struct tb_key {
    const char *name;         /* "batch" */
    tb_key_type type;
    const char *unit;         /* "", "KiB", "s" */
    double min, max;          /* INT and NUM; both 0: no bound */
    const char *choices;      /* CHOICE: "sgd|adamw" */
    const char *default_text; /* NULL: required */
    const char *doc;
} tb_key;

/* Checks that every member of `map` is in the table and well typed (unknown: nearest name in the sentence), rewrites
 * values to one spelling ("yes" to true, 1e3 to 1000), and adds the defaults of those that are missing. `prefix` is put
 * before key names in messages ("params."). */
TB_MUST_USE tb_status tb_conf_apply_keys(tb_conf *map, const char *prefix, const tb_key *keys, int n_keys);
