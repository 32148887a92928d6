/* Typed reads of configuration scalars, and the key tables by which everything that reads configuration
 * checks, completes and documents its keys. */
#include "tb_alloc.h"
#include "tb_conf.h"
#include "tb_text.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[] = {"a value", "a list", "a map"};
static const double exact_max = 9007199254740992.0; /* 2^53: every whole double up to here is one integer */

static tb_status expect_scalar(const tb_conf *node, const char *key)
{
    if (!node) return TB_FAIL(TB_ERR_CONFIG, "key '%s' is missing", key);
    if (node->kind != TB_CONF_SCALAR)
        return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': one value wanted, not %s", key,
                            kind_names[node->kind]);
    return TB_OK;
}

/* Decimal only: no hexadecimal, no "inf", no "nan", nothing in quotes. */
static bool parse_number(const tb_conf *node, double *out)
{
    const char *text = node->text;
    if (node->quoted || text[strspn(text, "+-.eE0123456789")] != '\0' || !strpbrk(text, "0123456789"))
        return false;
    char *end;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

tb_status tb_conf_num(const tb_conf *node, const char *key, double min, double max, double *out)
{
    TB_TRY(expect_scalar(node, key));
    double value;
    if (!parse_number(node, &value))
        return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': a number wanted, got '%s'", key, node->text);
    if (value < min || value > max)
        return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': %g is outside %g .. %g", key, value, min, max);
    *out = value;
    return TB_OK;
}

tb_status tb_conf_int(const tb_conf *node, const char *key, int64_t min, int64_t max, int64_t *out)
{
    TB_TRY(expect_scalar(node, key));
    double value;
    if (!parse_number(node, &value) || value != floor(value) || fabs(value) > exact_max)
        return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': a whole number wanted, got '%s'", key,
                            node->text);
    int64_t whole = (int64_t)value;
    if (whole < min || whole > max)
        return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': %lld is outside %lld .. %lld", key,
                            (long long)whole, (long long)min, (long long)max);
    *out = whole;
    return TB_OK;
}

tb_status tb_conf_bool(const tb_conf *node, const char *key, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    TB_TRY(expect_scalar(node, key));
    for (int i = 0; i < 6 && !node->quoted; i++) {
        if (strcmp(node->text, words[i]) != 0) continue;
        *out = i % 2 == 1;
        return TB_OK;
    }
    return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': true or false wanted, got '%s'", key, node->text);
}

tb_status tb_conf_str(const tb_conf *node, const char *key, const char **out)
{
    TB_TRY(expect_scalar(node, key));
    *out = node->text;
    return TB_OK;
}

/* ---- key tables ---- */

static bool is_choice(const char *choices, const char *word)
{
    size_t n = strlen(word);
    if (strchr(word, '|')) return false;
    for (const char *at = choices; at; at = strchr(at, '|')) {
        if (*at == '|') at++;
        if (strncmp(at, word, n) == 0 && (at[n] == '|' || at[n] == '\0') && n > 0) return true;
    }
    return false;
}

static tb_status check_choice(const tb_conf *node, const char *name, const tb_key *key)
{
    const char *word;
    TB_TRY(tb_conf_str(node, name, &word));
    if (is_choice(key->choices, word)) return TB_OK;
    return tb_conf_fail(node, TB_ERR_CONFIG, "key '%s': '%s' is none of %s", name, word, key->choices);
}

static tb_status respell(tb_conf *node, const char *spelling)
{
    char *text = tb_strdup(spelling);
    if (!text) return TB_ERR_OOM;
    tb_free(node->text);
    node->text = text;
    return TB_OK;
}

/* One spelling per value, so that equal configurations have equal hashes. */
static tb_status check_value(tb_conf *node, const char *name, const tb_key *key)
{
    tb_text spelling = {0};
    tb_json j = {.to = &spelling};
    int64_t whole;
    double number;
    bool flag;
    const char *word;
    bool bounded = key->min != 0 || key->max != 0;
    double min = bounded ? key->min : -DBL_MAX, max = bounded ? key->max : DBL_MAX;
    switch (key->type) {
    case TB_KEY_INT:
        TB_TRY(
            tb_conf_int(node, name, (int64_t)fmax(min, -exact_max), (int64_t)fmin(max, exact_max), &whole));
        tb_json_int(&j, whole);
        break;
    case TB_KEY_NUM:
        TB_TRY(tb_conf_num(node, name, min, max, &number));
        tb_json_num(&j, number);
        break;
    case TB_KEY_BOOL:
        TB_TRY(tb_conf_bool(node, name, &flag));
        tb_json_bool(&j, flag);
        break;
    case TB_KEY_CHOICE:
        TB_TRY(check_choice(node, name, key));
        node->quoted = true;
        return TB_OK;
    case TB_KEY_STR:
        TB_TRY(tb_conf_str(node, name, &word));
        node->quoted = true;
        return TB_OK;
    }
    tb_status st = spelling.failed ? TB_ERR_OOM : respell(node, tb_text_str(&spelling));
    tb_text_free(&spelling);
    return st;
}

static const tb_key *find_key(const tb_key *keys, int n_keys, const char *name)
{
    for (int i = 0; i < n_keys; i++)
        if (strcmp(keys[i].name, name) == 0) return &keys[i];
    return NULL;
}

static tb_status fail_unknown(const tb_conf *map, int at, const char *prefix, const tb_key *keys, int n_keys)
{
    enum { SHOWN_MAX = 256 };
    const char *names[SHOWN_MAX];
    int n = n_keys < SHOWN_MAX ? n_keys : SHOWN_MAX;
    for (int i = 0; i < n; i++) names[i] = keys[i].name;
    const char *near = tb_nearest(map->keys[at], names, n);
    if (near)
        return tb_conf_fail(map->items[at], TB_ERR_CONFIG, "unknown key '%s%s'; nearest: '%s%s'", prefix,
                            map->keys[at], prefix, near);
    return tb_conf_fail(map->items[at], TB_ERR_CONFIG, "unknown key '%s%s'", prefix, map->keys[at]);
}

static tb_status add_default(tb_conf *map, const char *name, const tb_key *key)
{
    if (!key->default_text)
        return tb_conf_fail(map, TB_ERR_CONFIG, "key '%s' is missing and has no default", name);
    bool is_text = key->type == TB_KEY_STR || key->type == TB_KEY_CHOICE;
    tb_conf *value = tb_conf_scalar(NULL, key->default_text, is_text);
    if (!value) return TB_ERR_OOM;
    TB_TRY(tb_conf_set(map, key->name, value));
    return check_value(value, name, key); /* fails where the default breaks its own rule: the table's bug */
}

tb_status tb_conf_apply_keys(tb_conf *map, const char *prefix, const tb_key *keys, int n_keys)
{
    if (map->kind != TB_CONF_MAP)
        return tb_conf_fail(map, TB_ERR_CONFIG, "'%.*s' must be a map of keys, not %s",
                            (int)strcspn(prefix, "."), prefix, kind_names[map->kind]);
    char name[256];
    for (int i = 0; i < map->n_items; i++) {
        const tb_key *key = find_key(keys, n_keys, map->keys[i]);
        if (!key) return fail_unknown(map, i, prefix, keys, n_keys);
        snprintf(name, sizeof name, "%s%s", prefix, key->name);
        TB_TRY(check_value(map->items[i], name, key));
    }
    for (int i = 0; i < n_keys; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, keys[i].name);
        if (!tb_conf_find(map, keys[i].name)) TB_TRY(add_default(map, name, &keys[i]));
    }
    return TB_OK;
}
