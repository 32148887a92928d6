/* Conditions, evaluated while they are read: recursive descent, no tree is kept. Both sides of && and || are
 * always evaluated, so that a misspelt key fails wherever it stands. */
#include "expr.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { NESTING_MAX = 32 };

typedef struct reader {
    const char *text, *at;
    tb_expr_lookup lookup;
    const void *arg;
    int depth;
} reader;

static tb_status read_or(reader *r, tb_expr_value *out);

static tb_status fail(const reader *r, const char *what)
{
    return TB_FAIL(TB_ERR_CONFIG, "'%s', column %d: %s", r->text, (int)(r->at - r->text) + 1, what);
}

static bool take(reader *r, const char *sign)
{
    r->at += strspn(r->at, " \t\n");
    size_t n = strlen(sign);
    if (strncmp(r->at, sign, n) != 0) return false;
    r->at += n;
    return true;
}

static tb_status fail_unknown(const reader *r, const char *what, const char *word, const char *near)
{
    return TB_FAIL(TB_ERR_CONFIG, "'%s': unknown %s '%s'%s%s%s", r->text, what, word,
                   near[0] ? "; nearest: '" : "", near, near[0] ? "'" : "");
}

static tb_status read_quoted(reader *r, char quote, tb_expr_value *out)
{
    const char *end = strchr(r->at + 1, quote);
    if (!end) return fail(r, "this quote is not closed");
    if (end - r->at > (int)sizeof out->text) return fail(r, "text longer than 255 bytes");
    *out = (tb_expr_value){.type = TB_EXPR_TEXT};
    memcpy(out->text, r->at + 1, (size_t)(end - r->at - 1));
    r->at = end + 1;
    return TB_OK;
}

static tb_status read_number(reader *r, tb_expr_value *out)
{
    char *end;
    *out = (tb_expr_value){.type = TB_EXPR_NUM, .number = strtod(r->at, &end)};
    if (end == r->at || isalpha((unsigned char)*end) || *end == '_') return fail(r, "not a number");
    r->at = end;
    return TB_OK;
}

static tb_status read_word(reader *r, tb_expr_value *out)
{
    char word[256] = "", near[256] = "";
    size_t n = 0;
    while (isalnum((unsigned char)r->at[n]) || (r->at[n] && strchr("_./-", r->at[n]))) n++;
    if (n == 0)
        return fail(r, *r->at ? "a key, number or text wanted here" : "it ends where a value is wanted");
    if (n >= sizeof word) return fail(r, "word longer than 255 bytes");
    memcpy(word, r->at, n);
    *out = (tb_expr_value){.type = TB_EXPR_BOOL, .flag = strcmp(word, "true") == 0};
    if (strcmp(word, "true") != 0 && strcmp(word, "false") != 0 && !r->lookup(r->arg, word, out, near)) {
        if (strchr(word, '.')) return fail_unknown(r, "key", word, near);
        *out = (tb_expr_value){.type = TB_EXPR_TEXT, .is_unknown = true};
        memcpy(out->text, word, sizeof word);
        snprintf(out->near, sizeof out->near, "%.63s", near);
    }
    r->at += n;
    return TB_OK;
}

static tb_status read_primary(reader *r, tb_expr_value *out)
{
    if (r->depth > NESTING_MAX) return fail(r, "nested too deeply");
    if (take(r, "!")) {
        r->depth++;
        TB_TRY(read_primary(r, out));
        r->depth--;
        if (out->type != TB_EXPR_BOOL) return fail(r, "! wants a condition");
        out->flag = !out->flag;
        return TB_OK;
    }
    if (take(r, "(")) {
        r->depth++;
        TB_TRY(read_or(r, out));
        r->depth--;
        return take(r, ")") ? TB_OK : fail(r, "')' wanted here");
    }
    if (*r->at == '\'' || *r->at == '"') return read_quoted(r, *r->at, out);
    if (isdigit((unsigned char)*r->at) || (*r->at && strchr("+-.", *r->at))) return read_number(r, out);
    return read_word(r, out);
}

static bool equal(const tb_expr_value *a, const tb_expr_value *b)
{
    if (a->type == TB_EXPR_TEXT && b->type == TB_EXPR_NUM) return equal(b, a);
    if (a->type == TB_EXPR_NUM && b->type == TB_EXPR_TEXT) {
        char *end;
        double number = strtod(b->text, &end);
        return end != b->text && !*end && number == a->number;
    }
    if (a->type != b->type) return false;
    if (a->type == TB_EXPR_NUM) return a->number == b->number;
    return a->type == TB_EXPR_BOOL ? a->flag == b->flag : strcmp(a->text, b->text) == 0;
}

static const char *const comparisons[] = {"==", "!=", "<=", ">=", "<", ">"};

static bool holds(int comparison, const tb_expr_value *a, const tb_expr_value *b)
{
    switch (comparison) {
    case 0: return equal(a, b);
    case 1: return !equal(a, b);
    case 2: return a->number <= b->number;
    case 3: return a->number >= b->number;
    case 4: return a->number < b->number;
    default: return a->number > b->number;
    }
}

/* An unknown word stands for itself beside text alone; elsewhere nothing could ever equal it. */
static tb_status check_words(const reader *r, const tb_expr_value *a, const tb_expr_value *b)
{
    const tb_expr_value *word = a->is_unknown ? a : b, *other = a->is_unknown ? b : a;
    bool is_text = other->type == TB_EXPR_TEXT && !other->is_unknown;
    if (!word->is_unknown || is_text || other->type == TB_EXPR_ANY) return TB_OK;
    return fail_unknown(r, "name", word->text, word->near);
}

static bool is_number(const tb_expr_value *v) { return v->type == TB_EXPR_NUM || v->type == TB_EXPR_ANY; }

static tb_status read_comparison(reader *r, tb_expr_value *out)
{
    TB_TRY(read_primary(r, out));
    for (int i = 0; i < 6; i++) {
        if (!take(r, comparisons[i])) continue;
        tb_expr_value right;
        TB_TRY(read_primary(r, &right));
        TB_TRY(check_words(r, out, &right));
        if (i >= 2 && !(is_number(out) && is_number(&right)))
            return fail(r, "< <= > >= compare two numbers");
        *out = (tb_expr_value){.type = TB_EXPR_BOOL, .flag = holds(i, out, &right)};
        return TB_OK;
    }
    return TB_OK;
}

static tb_status read_chain(reader *r, const char *sign, tb_status (*inner)(reader *, tb_expr_value *),
                            tb_expr_value *out)
{
    TB_TRY(inner(r, out));
    while (take(r, sign)) {
        tb_expr_value right;
        TB_TRY(inner(r, &right));
        if (out->type != TB_EXPR_BOOL || right.type != TB_EXPR_BOOL)
            return fail(r, "&& and || join conditions");
        out->flag = *sign == '&' ? out->flag && right.flag : out->flag || right.flag;
    }
    return TB_OK;
}

static tb_status read_and(reader *r, tb_expr_value *out) { return read_chain(r, "&&", read_comparison, out); }

static tb_status read_or(reader *r, tb_expr_value *out) { return read_chain(r, "||", read_and, out); }

tb_status tb_expr_test(const char *text, tb_expr_lookup lookup, const void *arg, bool *out)
{
    reader r = {.text = text, .at = text, .lookup = lookup, .arg = arg};
    tb_expr_value value;
    TB_TRY(read_or(&r, &value));
    r.at += strspn(r.at, " \t\n");
    if (*r.at) return fail(&r, "nothing more wanted here");
    if (value.type != TB_EXPR_BOOL) return fail(&r, "a condition wanted, not a value");
    *out = value.flag;
    return TB_OK;
}

bool tb_expr_sides(const char *text, tb_expr_lookup lookup, const void *arg, double *left, double *right)
{
    reader r = {.text = text, .at = text, .lookup = lookup, .arg = arg};
    tb_expr_value a, b;
    if (read_primary(&r, &a) != TB_OK) return false;
    bool compared = false;
    for (int i = 0; i < 6 && !compared; i++) compared = take(&r, comparisons[i]);
    if (!compared || read_primary(&r, &b) != TB_OK || a.type != TB_EXPR_NUM || b.type != TB_EXPR_NUM)
        return false;
    *left = a.number;
    *right = b.number;
    return true;
}
