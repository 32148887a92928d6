/* Growing text, JSON output and the nearest-name search that error sentences use. */
#include "tb_alloc.h"
#include "tb_text.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

bool tb_text_reserve(tb_text *t, size_t more)
{
    if (t->failed) return false;
    size_t need = t->size + more + 1;
    if (need <= t->capacity) return true;
    size_t capacity = t->capacity ? t->capacity : 128;
    while (capacity < need) capacity *= 2;
    char *data = tb_realloc(t->data, capacity);
    if (!data) {
        t->failed = true;
        return false;
    }
    t->data = data;
    t->capacity = capacity;
    return true;
}

void tb_text_add_bytes(tb_text *t, const void *data, size_t bytes)
{
    if (!tb_text_reserve(t, bytes)) return;
    if (bytes) memcpy(t->data + t->size, data, bytes);
    t->size += bytes;
    t->data[t->size] = '\0';
}

void tb_text_add(tb_text *t, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int bytes = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (bytes >= 0 && tb_text_reserve(t, (size_t)bytes)) {
        vsnprintf(t->data + t->size, (size_t)bytes + 1, fmt, again);
        t->size += (size_t)bytes;
    }
    va_end(again);
}

void tb_text_free(tb_text *t)
{
    tb_free(t->data);
    *t = (tb_text){0};
}

const char *tb_text_str(const tb_text *t) { return t->data ? t->data : ""; }

/* ---- JSON ---- */

static void new_line(tb_json *j)
{
    if (!j->pretty) return;
    tb_text_add_bytes(j->to, "\n", 1);
    for (int i = 0; i < j->depth; i++) tb_text_add_bytes(j->to, "  ", 2);
}

/* What stands between the previous member and the next one. */
static void before_member(tb_json *j)
{
    if (j->after_key) {
        j->after_key = false;
        return;
    }
    if (j->depth == 0) return;
    if (j->has_member[j->depth]) tb_text_add_bytes(j->to, ",", 1);
    j->has_member[j->depth] = true;
    new_line(j);
}

void tb_json_open(tb_json *j, char bracket)
{
    before_member(j);
    tb_text_add_bytes(j->to, &bracket, 1);
    if (j->depth + 1 == (int)(sizeof j->has_member / sizeof j->has_member[0])) {
        j->to->failed = true; /* deeper than any reader of ours goes */
        return;
    }
    j->has_member[++j->depth] = false;
}

void tb_json_close(tb_json *j, char bracket)
{
    if (j->depth == 0) {
        j->to->failed = true;
        return;
    }
    bool had_members = j->has_member[j->depth--];
    if (had_members) new_line(j);
    tb_text_add_bytes(j->to, &bracket, 1);
    if (j->depth == 0 && j->pretty) tb_text_add_bytes(j->to, "\n", 1);
}

/* Bytes of the well-formed UTF-8 sequence at `s` (RFC 3629), 0 if there is none. */
static int utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80) return 1;
    int n = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4) return 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xED && s[1] > 0x9F;
    bool too_large = s[0] == 0xF4 && s[1] > 0x8F;
    return overlong || surrogate || too_large ? 0 : n;
}

/* Controls and non-characters: valid UTF-8 that JSON allows as it is, but YAML readers do not. 0: none. */
static unsigned unprintable(const unsigned char *s, int n)
{
    if (n == 1) return *s < 0x20 || *s == 0x7F ? *s : 0;
    if (n == 2) return s[0] == 0xC2 && s[1] < 0xA0 ? s[1] : 0;
    unsigned code = n == 3 ? (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu) : 0;
    return code == 0xFEFF || code >= 0xFFFE ? code : 0;
}

static void quote(tb_text *to, const char *value)
{
    tb_text_add_bytes(to, "\"", 1);
    for (const unsigned char *s = (const unsigned char *)value; *s;) {
        int n = utf8_length(s);
        if (*s == '"' || *s == '\\') tb_text_add(to, "\\%c", *s);
        else if (*s == '\n') tb_text_add_bytes(to, "\\n", 2);
        else if (*s == '\t') tb_text_add_bytes(to, "\\t", 2);
        else if (unprintable(s, n)) tb_text_add(to, "\\u%04x", unprintable(s, n));
        else if (n == 0)
            tb_text_add_bytes(to, "\xEF\xBF\xBD", 3); /* U+FFFD stands for a byte that is no UTF-8 */
        else tb_text_add_bytes(to, s, (size_t)n);
        s += n ? n : 1;
    }
    tb_text_add_bytes(to, "\"", 1);
}

void tb_json_key(tb_json *j, const char *key)
{
    before_member(j);
    quote(j->to, key);
    tb_text_add_bytes(j->to, ": ", j->pretty ? 2 : 1);
    j->after_key = true;
}

void tb_json_raw(tb_json *j, const char *json)
{
    before_member(j);
    tb_text_add_bytes(j->to, json, strlen(json));
}

void tb_json_str(tb_json *j, const char *value)
{
    if (!value) {
        tb_json_raw(j, "null");
        return;
    }
    before_member(j);
    quote(j->to, value);
}

void tb_json_num(tb_json *j, double value)
{
    char digits[32] = "null";
    for (int precision = 15; isfinite(value) && precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    tb_json_raw(j, digits);
}

void tb_json_int(tb_json *j, int64_t value)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%lld", (long long)value);
    tb_json_raw(j, digits);
}

void tb_json_bool(tb_json *j, bool value) { tb_json_raw(j, value ? "true" : "false"); }

void tb_json_put_str(tb_json *j, const char *key, const char *value)
{
    tb_json_key(j, key);
    tb_json_str(j, value);
}

void tb_json_put_num(tb_json *j, const char *key, double value)
{
    tb_json_key(j, key);
    tb_json_num(j, value);
}

void tb_json_put_int(tb_json *j, const char *key, int64_t value)
{
    tb_json_key(j, key);
    tb_json_int(j, value);
}

void tb_json_put_bool(tb_json *j, const char *key, bool value)
{
    tb_json_key(j, key);
    tb_json_bool(j, value);
}

void tb_json_put_raw(tb_json *j, const char *key, const char *json)
{
    tb_json_key(j, key);
    tb_json_raw(j, json);
}

/* ---- the nearest name ---- */

enum { WORD_MAX = 96 };

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap of neighbours) that turn a into b; both at most WORD_MAX long. */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][WORD_MAX + 1];
    int n = (int)strlen(b);
    for (int j = 0; j <= n; j++) rows[0][j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int *now = rows[i % 3];
        const int *last = rows[(i + 2) % 3], *before_last = rows[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before_last[j - 2] + 1 < now[j]) now[j] = before_last[j - 2] + 1;
        }
    }
    return rows[strlen(a) % 3][n];
}

const char *tb_nearest(const char *word, const char *const *candidates, int n)
{
    size_t length = strlen(word);
    if (length > WORD_MAX) return NULL;
    int limit = length / 2 > 2 ? (int)(length / 2) : 2;
    const char *best = NULL;
    for (int i = 0; i < n; i++) {
        if (strlen(candidates[i]) > WORD_MAX) continue;
        int distance = edit_distance(word, candidates[i]);
        if (distance > limit) continue;
        if (distance < limit || !best) best = candidates[i];
        limit = distance;
    }
    return best;
}
