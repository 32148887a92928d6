/* The JSON header of a safetensors file: a strict reader of exactly this grammar (an object of objects), so that a
 * hostile file meets bounds checks and not a general parser. Refuses duplicate names, unknown members, dtypes the
 * engine does not have, sizes that contradict shapes, and data with gaps or overlaps. */
#include "safetensors_internal.h"
#include "tb_alloc.h"
#include <stdlib.h>
#include <string.h>

static const char *const dtype_names[TB_DTYPES] = {
    [TB_F32] = "F32", [TB_F64] = "F64", [TB_BF16] = "BF16", [TB_F16] = "F16",  [TB_I8] = "I8",
    [TB_U8] = "U8",   [TB_I32] = "I32", [TB_I64] = "I64",   [TB_BOOL] = "BOOL"};

const char *tbi_st_dtype(tb_dtype t) { return dtype_names[t]; }

typedef struct reader {
    const char *at, *end, *start, *path;
} reader;

static tb_status bad(const reader *r, const char *what)
{
    return TB_FAIL(TB_ERR_PARSE, "%s: safetensors header, byte %zu: %s", r->path, (size_t)(r->at - r->start), what);
}

static void skip_blanks(reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
}

static bool take(reader *r, char c)
{
    skip_blanks(r);
    if (r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

static tb_status need(reader *r, char c)
{
    char what[] = "'?' is missing";
    what[1] = c;
    return take(r, c) ? TB_OK : bad(r, what);
}

/* ---- strings: RFC 8259, escapes decoded to UTF-8 ---- */
static bool hex4(reader *r, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = r->at < r->end && *r->at ? strchr(digits, *r->at | (*r->at > '9' ? 0x20 : 0)) : NULL;
        if (!digit) return false;
        *code = *code << 4 | (uint32_t)(digit - digits);
    }
    return true;
}

static char *put_utf8(char *to, uint32_t code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 63));
        *to++ = (char)(0x80 | (code >> 6 & 63));
        *to++ = (char)(0x80 | (code & 63));
    }
    return to;
}

static tb_status escape(reader *r, char **to)
{
    static const char from_letter[] = "\"\\/bfnrt", to_char[] = "\"\\/\b\f\n\r\t";
    char c = r->at < r->end ? *r->at++ : 0;
    const char *known = c ? strchr(from_letter, c) : NULL;
    if (known) {
        *(*to)++ = to_char[known - from_letter];
        return TB_OK;
    }
    uint32_t code, low;
    if (c != 'u' || !hex4(r, &code)) return bad(r, "a broken escape");
    if (code >= 0xd800 && code < 0xdc00) { /* the high half of a surrogate pair */
        if (r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u') return bad(r, "half a surrogate pair");
        r->at += 2;
        if (!hex4(r, &low) || low < 0xdc00 || low > 0xdfff) return bad(r, "half a surrogate pair");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code == 0 || (code >= 0xdc00 && code < 0xe000)) {
        return bad(r, "a character that no name can hold");
    }
    *to = put_utf8(*to, code);
    return TB_OK;
}

/* The caller frees *out. */
static tb_status string(reader *r, char **out)
{
    *out = NULL;
    TB_TRY(need(r, '"'));
    const char *close = r->at;
    while (close < r->end && *close != '"') close += *close == '\\' && close + 1 < r->end ? 2 : 1;
    if (close >= r->end) return bad(r, "a string without end");
    char *text = tb_calloc((size_t)(close - r->at) + 1, 1), *to = text; /* escapes only shrink */
    if (!text) return TB_ERR_OOM;
    tb_status st = TB_OK;
    while (st == TB_OK && r->at < close) {
        unsigned char c = (unsigned char)*r->at++;
        if (c == '\\') st = escape(r, &to);
        else if (c < 0x20) st = bad(r, "a control character in a string");
        else *to++ = (char)c;
    }
    if (st != TB_OK) {
        tb_free(text);
        return st;
    }
    r->at = close + 1;
    *out = text;
    return TB_OK;
}

/* ---- the grammar ---- */
static tb_status integer(reader *r, uint64_t *out)
{
    uint64_t x = 0;
    int digits = 0;
    skip_blanks(r);
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++, digits++)
        if (__builtin_mul_overflow(x, 10u, &x) || __builtin_add_overflow(x, (uint64_t)(*r->at - '0'), &x))
            return bad(r, "a number too large");
    if (!digits) return bad(r, "a whole number is missing");
    *out = x;
    return TB_OK;
}

static tb_status shape(reader *r, tb_safetensors_entry *e)
{
    TB_TRY(need(r, '['));
    if (take(r, ']')) return TB_OK;
    do {
        uint64_t dim;
        if (e->rank == TB_MAX_RANK) return bad(r, "more than 8 dimensions");
        TB_TRY(integer(r, &dim));
        if (dim > INT64_MAX) return bad(r, "a dimension too large");
        e->dims[e->rank++] = (int64_t)dim;
    } while (take(r, ','));
    return need(r, ']');
}

static tb_status dtype(reader *r, tb_safetensors_entry *e)
{
    char *name;
    TB_TRY(string(r, &name));
    int t = 0;
    while (t < TB_DTYPES && strcmp(dtype_names[t], name) != 0) t++;
    e->dtype = (tb_dtype)t;
    tb_status st = t < TB_DTYPES
                       ? TB_OK
                       : TB_FAIL(TB_ERR_DTYPE, "%s: tensor '%s' is of dtype %s, which the engine does not have",
                                 r->path, e->name, name);
    tb_free(name);
    return st;
}

static tb_status offsets(reader *r, tb_safetensors_entry *e)
{
    uint64_t begin, end;
    TB_TRY(need(r, '['));
    TB_TRY(integer(r, &begin));
    TB_TRY(need(r, ','));
    TB_TRY(integer(r, &end));
    e->begin = begin;
    e->end = end;
    return need(r, ']');
}

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4 };

static tb_status member(reader *r, tb_safetensors_entry *e, unsigned *seen)
{
    char *key;
    TB_TRY(string(r, &key));
    unsigned which = strcmp(key, "dtype") == 0          ? HAS_DTYPE
                     : strcmp(key, "shape") == 0        ? HAS_SHAPE
                     : strcmp(key, "data_offsets") == 0 ? HAS_OFFSETS
                                                        : 0;
    tb_free(key);
    if (!which || *seen & which) return bad(r, "an unknown or repeated member of a tensor");
    *seen |= which;
    TB_TRY(need(r, ':'));
    return which == HAS_DTYPE ? dtype(r, e) : which == HAS_SHAPE ? shape(r, e) : offsets(r, e);
}

static tb_status entry(reader *r, tb_safetensors_entry *e)
{
    unsigned seen = 0;
    TB_TRY(need(r, '{'));
    do TB_TRY(member(r, e, &seen));
    while (take(r, ','));
    TB_TRY(need(r, '}'));
    return seen == (HAS_DTYPE | HAS_SHAPE | HAS_OFFSETS) ? TB_OK
                                                         : bad(r, "a tensor without dtype, shape or data_offsets");
}

/* Grows in powers of two: `n` elements are in use. */
static void *room_for_one_more(void *array, int n, size_t size)
{
    if (n & (n - 1)) return array;
    return tb_realloc(array, (n ? 2 * (size_t)n : 1) * size);
}

static int by_key(const void *a, const void *b)
{
    const st_note *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static tb_status notes(reader *r, st_header *h)
{
    TB_TRY(need(r, '{'));
    if (take(r, '}')) return TB_OK;
    do {
        st_note *grown = room_for_one_more(h->notes, h->n_notes, sizeof *grown);
        if (!grown) return TB_ERR_OOM;
        h->notes = grown;
        st_note *note = &h->notes[h->n_notes++];
        *note = (st_note){0};
        TB_TRY(string(r, &note->key));
        TB_TRY(need(r, ':'));
        TB_TRY(string(r, &note->text));
    } while (take(r, ','));
    qsort(h->notes, (size_t)h->n_notes, sizeof *h->notes, by_key); /* neighbours: a hostile header has many */
    for (int i = 1; i < h->n_notes; i++)
        if (strcmp(h->notes[i - 1].key, h->notes[i].key) == 0)
            return bad(r, "a key of __metadata__ stands there twice");
    return need(r, '}');
}

static tb_status top(reader *r, st_header *h)
{
    bool has_notes = false;
    TB_TRY(need(r, '{'));
    if (take(r, '}')) return TB_OK;
    do {
        tb_safetensors_entry *grown = room_for_one_more(h->entries, h->n_entries, sizeof *grown);
        if (!grown) return TB_ERR_OOM;
        h->entries = grown;
        tb_safetensors_entry *e = &h->entries[h->n_entries++];
        *e = (tb_safetensors_entry){0};
        TB_TRY(string(r, &e->name));
        TB_TRY(need(r, ':'));
        if (strcmp(e->name, "__metadata__") != 0) {
            TB_TRY(entry(r, e));
            continue;
        }
        tb_free(e->name);
        h->n_entries--;
        if (has_notes) return bad(r, "__metadata__ stands there twice");
        has_notes = true;
        TB_TRY(notes(r, h));
    } while (take(r, ','));
    return need(r, '}');
}

/* ---- checks against the file ---- */
static int by_name(const void *a, const void *b)
{
    const tb_safetensors_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_begin(const void *a, const void *b)
{
    const tb_safetensors_entry *x = a, *y = b;
    return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin) : (x->end > y->end) - (x->end < y->end);
}

static tb_status check(const reader *r, st_header *h, size_t data_bytes)
{
    size_t n = (size_t)h->n_entries, at = 0;
    if (n) qsort(h->entries, n, sizeof *h->entries, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(h->entries[i - 1].name, h->entries[i].name) == 0)
            return TB_FAIL(TB_ERR_PARSE, "%s: tensor '%s' stands there twice", r->path, h->entries[i].name);
    if (n) qsort(h->entries, n, sizeof *h->entries, by_begin);
    for (size_t i = 0; i < n; i++) {
        const tb_safetensors_entry *e = &h->entries[i];
        size_t bytes = tb_dtype_size(e->dtype);
        for (int d = 0; d < e->rank; d++)
            if (__builtin_mul_overflow(bytes, (size_t)e->dims[d], &bytes))
                return TB_FAIL(TB_ERR_PARSE, "%s: tensor '%s' is too large", r->path, e->name);
        if (e->begin != at || e->end < e->begin || e->end > data_bytes || e->end - e->begin != bytes)
            return TB_FAIL(
                TB_ERR_PARSE,
                "%s: tensor '%s' of %s %s needs bytes %zu..%zu of %zu, its offsets say %zu..%zu: truncated or damaged",
                r->path, e->name, tb_dtype_name(e->dtype), tb_dims_text(e->rank, e->dims), at, at + bytes, data_bytes,
                e->begin, e->end);
        at = e->end;
    }
    return at == data_bytes
               ? TB_OK
               : TB_FAIL(TB_ERR_PARSE, "%s: %zu bytes of data belong to no tensor", r->path, data_bytes - at);
}

tb_status tbi_st_header_parse(const char *json, size_t bytes, size_t data_bytes, const char *path, st_header *h)
{
    reader r = {.at = json, .start = json, .end = json + bytes, .path = path};
    *h = (st_header){0};
    tb_status st = memchr(json, 0, bytes) ? bad(&r, "a zero byte") : top(&r, h);
    if (st == TB_OK) {
        skip_blanks(&r); /* they pad the header */
        st = r.at == r.end ? check(&r, h, data_bytes) : bad(&r, "text after the header's end");
    }
    if (st != TB_OK) tbi_st_header_free(h);
    return st;
}

void tbi_st_header_free(st_header *h)
{
    for (int i = 0; i < h->n_entries; i++) tb_free(h->entries[i].name);
    for (int i = 0; i < h->n_notes; i++) {
        tb_free(h->notes[i].key);
        tb_free(h->notes[i].text);
    }
    tb_free(h->entries);
    tb_free(h->notes);
    *h = (st_header){0};
}
