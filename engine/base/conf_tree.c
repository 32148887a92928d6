/* Configuration trees as data: making, copying, finding, merging, and the canonical text that is hashed. */
#include "conf_internal.h"
#include "tb_alloc.h"
#include "tb_text.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

tb_conf *tbi_conf_node(tb_conf_kind kind, const char *file)
{
    tb_conf *node = tb_calloc(1, sizeof *node);
    if (!node) return NULL;
    node->kind = kind;
    if (file && !(node->file = tb_strdup(file))) {
        tb_free(node);
        return NULL;
    }
    return node;
}

tb_conf *tb_conf_scalar(const char *file, const char *text, bool quoted)
{
    tb_conf *node = tbi_conf_node(TB_CONF_SCALAR, file);
    if (node && !(node->text = tb_strdup(text))) {
        tb_conf_free(node);
        return NULL;
    }
    if (node) node->quoted = quoted;
    return node;
}

void tb_conf_free(tb_conf *node)
{
    if (!node) return;
    for (int i = 0; i < node->n_items; i++) {
        if (node->keys) tb_free(node->keys[i]);
        tb_conf_free(node->items[i]);
    }
    tb_free(node->keys);
    tb_free(node->items);
    tb_free(node->text);
    tb_free(node->file);
    tb_free(node);
}

/* Room for one more, doubling at powers of two. */
static bool grow(void **array, int n)
{
    if (n & (n - 1)) return true;
    void *larger = tb_realloc(*array, sizeof(void *) * (size_t)(n ? 2 * n : 1));
    if (larger) *array = larger;
    return larger != NULL;
}

tb_status tbi_conf_append(tb_conf *to, const char *key, tb_conf *item)
{
    void *items = to->items, *keys = to->keys;
    bool ok = grow(&items, to->n_items);
    to->items = items;
    char *name = NULL;
    if (ok && key) {
        ok = grow(&keys, to->n_items);
        to->keys = keys;
        name = ok ? tb_strdup(key) : NULL;
        ok = name != NULL;
    }
    if (!ok) {
        tb_conf_free(item);
        return TB_ERR_OOM;
    }
    if (key) to->keys[to->n_items] = name;
    to->items[to->n_items++] = item;
    return TB_OK;
}

tb_status tb_conf_clone(const tb_conf *node, tb_conf **out)
{
    *out = NULL;
    tb_conf *copy = tbi_conf_node(node->kind, node->file);
    if (!copy) return TB_ERR_OOM;
    copy->line = node->line;
    copy->column = node->column;
    copy->quoted = node->quoted;
    tb_status st = TB_OK;
    if (node->text && !(copy->text = tb_strdup(node->text))) st = TB_ERR_OOM;
    for (int i = 0; i < node->n_items && st == TB_OK; i++) {
        tb_conf *item = NULL;
        st = tb_conf_clone(node->items[i], &item);
        if (st == TB_OK) st = tbi_conf_append(copy, node->keys ? node->keys[i] : NULL, item);
    }
    if (st == TB_OK) *out = copy;
    else tb_conf_free(copy);
    return st;
}

/* The rest of `path` behind `key` and its dot: "" when they are equal, NULL when path does not start with
 * key. */
static const char *behind(const char *path, const char *key)
{
    size_t n = strlen(key);
    if (strncmp(path, key, n) != 0) return NULL;
    return path[n] == '\0' ? path + n : path[n] == '.' ? path + n + 1 : NULL;
}

tb_conf *tb_conf_find(const tb_conf *map, const char *path)
{
    if (!map || map->kind != TB_CONF_MAP) return NULL;
    for (int i = 0; i < map->n_items; i++) {
        const char *rest = behind(path, map->keys[i]);
        tb_conf *found = rest ? *rest ? tb_conf_find(map->items[i], rest) : map->items[i] : NULL;
        if (found) return found;
    }
    return NULL;
}

tb_status tb_conf_set(tb_conf *map, const char *path, tb_conf *value)
{
    if (map->kind != TB_CONF_MAP) {
        tb_status st = tb_conf_fail(map, TB_ERR_CONFIG, "'%s' cannot be set: its parent holds no keys", path);
        tb_conf_free(value);
        return st;
    }
    for (int i = 0; i < map->n_items; i++) {
        const char *rest = behind(path, map->keys[i]);
        if (rest && *rest) return tb_conf_set(map->items[i], rest, value);
        if (!rest) continue;
        tb_conf_free(map->items[i]);
        map->items[i] = value;
        return TB_OK;
    }
    const char *dot = strchr(path, '.');
    if (!dot) return tbi_conf_append(map, path, value);
    tb_conf *inner = tbi_conf_node(TB_CONF_MAP, value->file);
    char *first = inner ? tb_strndup(path, (size_t)(dot - path)) : NULL;
    if (!first) {
        tb_conf_free(inner);
        tb_conf_free(value);
        return TB_ERR_OOM;
    }
    inner->line = value->line;
    inner->column = value->column;
    tb_status st = tb_conf_set(inner, dot + 1, value);
    if (st == TB_OK) st = tbi_conf_append(map, first, inner);
    else tb_conf_free(inner);
    tb_free(first);
    return st;
}

tb_status tb_conf_merge(tb_conf *base, const tb_conf *over)
{
    for (int i = 0; i < over->n_items; i++) {
        int at = 0;
        while (at < base->n_items && strcmp(base->keys[at], over->keys[i]) != 0) at++;
        bool both_maps = at < base->n_items && base->items[at]->kind == TB_CONF_MAP &&
                         over->items[i]->kind == TB_CONF_MAP;
        if (both_maps) {
            TB_TRY(tb_conf_merge(base->items[at], over->items[i]));
            continue;
        }
        tb_conf *copy = NULL;
        TB_TRY(tb_conf_clone(over->items[i], &copy));
        if (at == base->n_items) {
            TB_TRY(tbi_conf_append(base, over->keys[i], copy));
        } else {
            tb_conf_free(base->items[at]);
            base->items[at] = copy;
        }
    }
    return TB_OK;
}

tb_status tb_conf_fail(const tb_conf *node, tb_status st, const char *fmt, ...)
{
    char message[768];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    if (!node || !node->file) return TB_FAIL(st, "%s", message);
    if (node->line == 0) return TB_FAIL(st, "%s (from %s)", message, node->file);
    return TB_FAIL(st, "%s:%d:%d: %s", node->file, node->line, node->column, message);
}

/* ---- canonical JSON ---- */

static void write_scalar(tb_json *j, const tb_conf *node)
{
    const char *text = node->text;
    char *end = NULL;
    if (node->quoted) {
        tb_json_str(j, text);
    } else if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        tb_json_raw(j, text);
    } else if (*text == '\0' || strcmp(text, "null") == 0 || strcmp(text, "~") == 0) {
        tb_json_str(j, NULL);
    } else if (text[strspn(text, "+-.eE0123456789")] != '\0' || !strpbrk(text, "0123456789")) {
        tb_json_str(j, text);
    } else {
        errno = 0;
        long long whole = strtoll(text, &end, 10);
        bool is_int = *end == '\0' && errno == 0;
        double number = strtod(text, &end);
        if (is_int) tb_json_int(j, whole);
        else if (*end == '\0' && isfinite(number)) tb_json_num(j, number);
        else tb_json_str(j, text);
    }
}

static void write_node(tb_json *j, const tb_conf *node)
{
    if (node->kind == TB_CONF_SCALAR) {
        write_scalar(j, node);
    } else if (node->kind == TB_CONF_LIST) {
        tb_json_open(j, '[');
        for (int i = 0; i < node->n_items; i++) write_node(j, node->items[i]);
        tb_json_close(j, ']');
    } else {
        tb_json_open(j, '{');
        const char *last = NULL;
        for (int n = 0; n < node->n_items; n++) { /* the next larger key each time: maps are small */
            int next = -1;
            for (int i = 0; i < node->n_items; i++)
                if ((!last || strcmp(node->keys[i], last) > 0) &&
                    (next < 0 || strcmp(node->keys[i], node->keys[next]) < 0))
                    next = i;
            last = node->keys[next];
            tb_json_key(j, last);
            write_node(j, node->items[next]);
        }
        tb_json_close(j, '}');
    }
}

void tb_conf_canonical(const tb_conf *node, tb_text *out)
{
    tb_json j = {.to = out};
    write_node(&j, node);
}
