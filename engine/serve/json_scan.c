/* The scanner: one state machine for structure, one fast loop for runs of numbers in a tensor. */
#include "json_scan.h"
#include <string.h>

enum {
    WANT_VALUE,
    WANT_VALUE_OR_CLOSE,
    WANT_KEY,
    WANT_KEY_OR_CLOSE,
    WANT_COLON,
    WANT_COMMA_OR_CLOSE,
    WANT_END
};

void tbi_json_open(tbi_json *s, tbi_fault *fault, bool (*event)(void *, tbi_json_event, const char *, size_t),
                   void *arg)
{
    s->event = event;
    s->arg = arg;
    s->fault = fault;
    s->field = NULL;
    s->tensor = NULL;
    s->depth = 0;
    s->want = WANT_VALUE;
    s->escaped = false;
    s->carried = 0;
}

static bool malformed(tbi_json *s, const char *what)
{
    return tbi_fault_set(s->fault, TBI_FAULT_MALFORMED_JSON, NULL, "the body is not valid JSON: %s", what);
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
static bool is_digit(char c) { return (unsigned char)(c - '0') < 10; }
static bool is_number_char(char c)
{
    return is_digit(c) || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}
static bool is_letter(char c) { return (unsigned char)((c | 32) - 'a') < 26; }

/* ---- numbers ---- */

/* A number as digits: value = (-1)^negative * mantissa * 10^exponent, when `exact`. */
typedef struct {
    uint64_t mantissa;
    int exponent;
    bool negative, exact;
} decimal;

/* Reads the number at p; the caller has made sure that a character that belongs to no number follows it.
 * Returns the end of what the grammar takes, NULL when it is no number. */
static inline const char *read_decimal(const char *p, decimal *d)
{
    uint64_t m = 0;
    d->negative = *p == '-';
    p += d->negative;
    const char *digits = p;
    if (!is_digit(*p)) return NULL;
    if (*p == '0') p++;
    else
        while (is_digit(*p)) m = m * 10 + (uint64_t)(*p++ - '0');
    int64_t used = p - digits, fraction = 0;
    if (*p == '.') {
        const char *start = ++p;
        while (is_digit(*p)) m = m * 10 + (uint64_t)(*p++ - '0');
        fraction = p - start;
        if (fraction == 0) return NULL;
    }
    int64_t exponent = 0;
    if (*p == 'e' || *p == 'E') {
        p++;
        bool minus = *p == '-';
        if (*p == '-' || *p == '+') p++;
        if (!is_digit(*p)) return NULL;
        for (; is_digit(*p); p++)
            if (exponent < 100000) exponent = exponent * 10 + (*p - '0');
        if (minus) exponent = -exponent;
    }
    d->mantissa = m;
    d->exponent = (int)(exponent - fraction);
    d->exact = used + fraction <= 19; /* more digits may have wrapped the mantissa */
    return p;
}

static bool store_number(tbi_json *s, const decimal *d, const char *text, size_t bytes)
{
    tbi_json_tensor *t = s->tensor;
    if (t->count == t->capacity && !t->more(t->more_arg, t)) return false;
    if (t->dtype == TB_U8) {
        uint64_t v = d->mantissa;
        if (!d->exact || d->exponent != 0 || v > 255 || (d->negative && v))
            return tbi_fault_set(s->fault,
                                 d->exponent != 0 ? TBI_FAULT_DTYPE_MISMATCH : TBI_FAULT_NUMBER_RANGE,
                                 s->field, "%s: UINT8 takes whole numbers from 0 to 255", s->field);
        ((uint8_t *)t->data)[t->count++] = (uint8_t)v;
        return true;
    }
    float x;
    if (d->exact && tbi_decimal_to_f32(d->mantissa, d->exponent, &x)) {
        if (d->negative) x = -x;
    } else if (!tbi_text_to_f32(text, bytes, &x)) {
        return tbi_fault_set(s->fault, TBI_FAULT_NUMBER_RANGE, s->field, "%s: a number does not fit FP32",
                             s->field);
    }
    ((float *)t->data)[t->count++] = x;
    return true;
}

bool tbi_json_integer(const char *text, size_t bytes, int64_t min, int64_t max, int64_t *out)
{
    char copy[24];
    decimal d;
    if (bytes >= sizeof copy) return false;
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    if (memchr(copy, '.', bytes) || memchr(copy, 'e', bytes) || memchr(copy, 'E', bytes)) return false;
    if (!read_decimal(copy, &d) || !d.exact || d.mantissa > INT64_MAX) return false;
    *out = d.negative ? -(int64_t)d.mantissa : (int64_t)d.mantissa;
    return *out >= min && *out <= max;
}

/* ---- strings ---- */

/* The length of the UTF-8 sequence at p (p[0..n) readable) by Unicode's table 3-7; 0 when it is none. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
    unsigned char a = p[0], low = 0x80, high = 0xbf;
    size_t length = a < 0x80                 ? 1
                    : a >= 0xc2 && a <= 0xdf ? 2
                    : a >= 0xe0 && a <= 0xef ? 3
                    : a >= 0xf0 && a <= 0xf4 ? 4
                                             : 0;
    if (length > n) return 0;
    if (a == 0xe0) low = 0xa0;
    if (a == 0xed) high = 0x9f;
    if (a == 0xf0) low = 0x90;
    if (a == 0xf4) high = 0x8f;
    for (size_t i = 1; i < length; i++) {
        if (p[i] < low || p[i] > high) return 0;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

static bool read_hex4(const char *p, const char *end, uint32_t *out)
{
    *out = 0;
    if (end - p < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        if (is_digit(c)) *out = *out << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') *out = *out << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else return false;
    }
    return true;
}

/* Decodes the escape whose backslash p follows into out; returns the end, NULL with the fault set. */
static const char *read_escape(tbi_json *s, const char *p, const char *end, char *out, size_t *n)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *known = *p ? strchr(from, *p) : NULL;
    if (known) {
        out[(*n)++] = to[known - from];
        return p + 1;
    }
    uint32_t u, v;
    if (*p != 'u' || !read_hex4(p + 1, end, &u)) {
        malformed(s, "an unknown escape");
        return NULL;
    }
    p += 5;
    if (u >= 0xd800 && u < 0xe000) { /* a pair of surrogates, high before low */
        if (u >= 0xdc00 || end - p < 6 || p[0] != '\\' || p[1] != 'u' || !read_hex4(p + 2, end, &v) ||
            v < 0xdc00 || v > 0xdfff) {
            tbi_fault_set(s->fault, TBI_FAULT_BAD_UTF8, NULL, "a string holds half a surrogate pair");
            return NULL;
        }
        u = 0x10000 + ((u - 0xd800) << 10) + (v - 0xdc00);
        p += 6;
    }
    if (u == 0) {
        malformed(s, "NUL in a string");
        return NULL;
    }
    if (u < 0x80) out[(*n)++] = (char)u;
    else {
        int extra = u < 0x800 ? 1 : u < 0x10000 ? 2 : 3;
        out[(*n)++] = (char)((0xff00 >> (extra + 1) & 0xff) | u >> 6 * extra);
        while (extra--) out[(*n)++] = (char)(0x80 | (u >> 6 * extra & 0x3f));
    }
    return p;
}

/* text holds the quotes. */
static bool decode_string(tbi_json *s, const char *text, size_t bytes, size_t *length)
{
    const char *p = text + 1, *end = text + bytes - 1;
    size_t n = 0;
    while (p < end) {
        if (n > TBI_JSON_STRING - 4) return malformed(s, "a string is longer than 252 bytes");
        if ((unsigned char)*p < 0x20) return malformed(s, "a control character in a string");
        if (*p == '\\') {
            p = read_escape(s, p + 1, end, s->decoded, &n);
            if (!p) return false;
            continue;
        }
        size_t k = utf8_length((const unsigned char *)p, (size_t)(end - p));
        if (k == 0) return tbi_fault_set(s->fault, TBI_FAULT_BAD_UTF8, NULL, "a string is not valid UTF-8");
        memcpy(s->decoded + n, p, k);
        n += k;
        p += k;
    }
    s->decoded[n] = 0;
    *length = n;
    return true;
}

/* ---- structure ---- */

static bool irregular(tbi_json *s)
{
    return tbi_fault_set(s->fault, TBI_FAULT_SHAPE_MISMATCH, s->field,
                         "%s: nested arrays differ in length or depth", s->field);
}

/* One more element (a number, or an array that just ended) at the tensor's current level. */
static bool tensor_element(tbi_json *s, bool number)
{
    tbi_json_tensor *t = s->tensor;
    if (t->rank == 0 && number) t->rank = t->level; /* the first number says how deep all numbers lie */
    if (number != (t->level == t->rank)) return irregular(s);
    t->filled[t->level - 1]++;
    return true;
}

static bool tensor_open(tbi_json *s)
{
    tbi_json_tensor *t = s->tensor;
    if (t->rank && t->level >= t->rank) return irregular(s);
    t->filled[t->level++] = 0;
    return true;
}

static bool tensor_close(tbi_json *s)
{
    tbi_json_tensor *t = s->tensor;
    int64_t *dim = &t->dims[--t->level], n = t->filled[t->level];
    if (n == 0)
        return tbi_fault_set(s->fault, TBI_FAULT_SHAPE_MISMATCH, s->field, "%s: an empty array", s->field);
    if (*dim == 0) *dim = n;
    if (*dim != n) return irregular(s);
    return t->level == 0 || tensor_element(s, false);
}

static bool after_value(tbi_json *s)
{
    s->want = s->depth == 0 ? WANT_END : WANT_COMMA_OR_CLOSE;
    return true;
}

static bool open_container(tbi_json *s, bool object)
{
    if (s->want != WANT_VALUE && s->want != WANT_VALUE_OR_CLOSE)
        return malformed(s, "a bracket where none may stand");
    if (s->depth == TBI_JSON_DEPTH) return malformed(s, "nested deeper than 8 levels");
    s->is_object[++s->depth] = object;
    s->want = object ? WANT_KEY_OR_CLOSE : WANT_VALUE_OR_CLOSE;
    if (s->tensor) {
        if (object)
            return tbi_fault_set(s->fault, TBI_FAULT_DTYPE_MISMATCH, s->field, "%s: an object among numbers",
                                 s->field);
        return tensor_open(s);
    }
    if (!s->event(s->arg, object ? TBI_JSON_OBJECT : TBI_JSON_ARRAY, NULL, 0)) return false;
    if (s->tensor) {
        s->tensor_depth = s->depth;
        s->tensor->level = 1;
        s->tensor->rank = 0;
        memset(s->tensor->dims, 0, sizeof s->tensor->dims);
        s->tensor->filled[0] = 0;
    }
    return true;
}

static bool close_container(tbi_json *s, bool object)
{
    bool may =
        s->want == WANT_COMMA_OR_CLOSE || s->want == (object ? WANT_KEY_OR_CLOSE : WANT_VALUE_OR_CLOSE);
    if (!may || s->depth == 0 || s->is_object[s->depth] != object)
        return malformed(s, "a bracket that closes nothing");
    if (s->tensor) {
        if (!tensor_close(s)) return false;
        if (s->depth == s->tensor_depth) s->tensor = NULL;
    }
    s->depth--;
    if (!s->tensor && !s->event(s->arg, object ? TBI_JSON_OBJECT_END : TBI_JSON_ARRAY_END, NULL, 0))
        return false;
    return after_value(s);
}

static bool structural(tbi_json *s, char c)
{
    switch (c) {
    case '{': return open_container(s, true);
    case '[': return open_container(s, false);
    case '}': return close_container(s, true);
    case ']': return close_container(s, false);
    case ':':
        if (s->want != WANT_COLON) return malformed(s, "a colon where none may stand");
        s->want = WANT_VALUE;
        return true;
    default:
        if (s->want != WANT_COMMA_OR_CLOSE) return malformed(s, "a comma where none may stand");
        s->want = s->is_object[s->depth] ? WANT_KEY : WANT_VALUE;
        return true;
    }
}

/* ---- tokens ---- */

static bool number_token(tbi_json *s, const char *text, size_t bytes)
{
    char copy[TBI_NUMBER_TEXT + 1];
    decimal d;
    if (bytes > TBI_NUMBER_TEXT) return malformed(s, "a number is longer than 512 characters");
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    if (read_decimal(copy, &d) != copy + bytes) return malformed(s, "a malformed number");
    if (!s->tensor) return s->event(s->arg, TBI_JSON_NUMBER, text, bytes);
    return tensor_element(s, true) && store_number(s, &d, text, bytes);
}

static bool word_token(tbi_json *s, const char *text, size_t bytes)
{
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++)
        if (bytes == strlen(words[i]) && memcmp(text, words[i], bytes) == 0) {
            if (s->tensor)
                return tbi_fault_set(s->fault, TBI_FAULT_DTYPE_MISMATCH, s->field, "%s: %s among numbers",
                                     s->field, words[i]);
            return s->event(s->arg, (tbi_json_event)(TBI_JSON_TRUE + i), NULL, 0);
        }
    return malformed(s, "a word that JSON does not know");
}

static bool string_token(tbi_json *s, const char *text, size_t bytes)
{
    size_t n = 0;
    bool key = s->want == WANT_KEY || s->want == WANT_KEY_OR_CLOSE;
    if (!decode_string(s, text, bytes, &n)) return false;
    if (key) {
        s->want = WANT_COLON;
        return s->event(s->arg, TBI_JSON_KEY, s->decoded, n);
    }
    if (s->want != WANT_VALUE && s->want != WANT_VALUE_OR_CLOSE)
        return malformed(s, "a string where none may stand");
    if (s->tensor)
        return tbi_fault_set(s->fault, TBI_FAULT_DTYPE_MISMATCH, s->field, "%s: a string among numbers",
                             s->field);
    return s->event(s->arg, TBI_JSON_STRING_VALUE, s->decoded, n) && after_value(s);
}

static bool token(tbi_json *s, const char *text, size_t bytes)
{
    if (*text == '"') return string_token(s, text, bytes);
    if (s->want != WANT_VALUE && s->want != WANT_VALUE_OR_CLOSE)
        return malformed(s, "a value where none may stand");
    bool number = *text == '-' || is_digit(*text);
    return (number ? number_token(s, text, bytes) : word_token(s, text, bytes)) && after_value(s);
}

/* The end of the token whose first byte is `first`, scanning on from p; NULL when [p, end) does not hold it.
 */
static const char *token_end(tbi_json *s, char first, const char *p, const char *end)
{
    if (first == '"') {
        for (; p < end; p++) {
            if (s->escaped) s->escaped = false;
            else if (*p == '\\') s->escaped = true;
            else if (*p == '"') return p + 1;
        }
        return NULL;
    }
    bool number = !is_letter(first);
    while (p < end && (number ? is_number_char(*p) : is_letter(*p))) p++;
    return p < end ? p : NULL;
}

static bool carry(tbi_json *s, const char *p, size_t n)
{
    if (n > sizeof s->carry - s->carried) return malformed(s, "a string or number is too long");
    memcpy(s->carry + s->carried, p, n);
    s->carried += n;
    return true;
}

/* Pixels, the common case: digits and a comma at once, as long as both are plain; the rest is tensor_run's. The
 * tensor's first number has been read. */
static const char *byte_run(tbi_json *s, const char *p, const char *end)
{
    tbi_json_tensor *t = s->tensor;
    uint8_t *to = (uint8_t *)t->data + t->count;
    int64_t n = 0, room = t->capacity - t->count;
    while (n < room && end - p >= 4) {
        unsigned a = (unsigned)(p[0] - '0'), b = (unsigned)(p[1] - '0'), c = (unsigned)(p[2] - '0');
        unsigned value = a, length = 2;
        if (a > 9) break;
        if (p[1] != ',') {
            if (a == 0 || b > 9) break;
            value = 10 * a + b;
            length = 3;
            if (p[2] != ',') {
                value = 10 * value + c;
                length = 4;
                if (c > 9 || p[3] != ',' || value > 255) break;
            }
        }
        to[n++] = (uint8_t)value;
        p += length;
    }
    t->count += n;
    t->filled[t->level - 1] += n;
    return p;
}

/* Numbers and commas of a tensor, as far as [p, end) surely holds them whole. A number that ends before
 * `tail` is followed by a byte that belongs to no number, so that reading it needs no bounds. */
static const char *tensor_run(tbi_json *s, const char *p, const char *end)
{
    const char *tail = end;
    decimal d;
    while (tail > p && is_number_char(tail[-1])) tail--;
    while (p < tail && (*p == '-' || is_digit(*p))) {
        const char *start = p;
        if (s->want == WANT_COMMA_OR_CLOSE) return p; /* two values without a comma: token() says so */
        p = read_decimal(p, &d);
        if (!p || is_number_char(*p) || p - start > TBI_NUMBER_TEXT) {
            malformed(s, "a malformed number");
            return NULL;
        }
        if (!tensor_element(s, true) || !store_number(s, &d, start, (size_t)(p - start))) return NULL;
        s->want = WANT_COMMA_OR_CLOSE;
        while (p < tail && is_space(*p)) p++;
        if (p == tail || *p != ',') return p;
        s->want = WANT_VALUE;
        for (p++; p < tail && is_space(*p); p++) {}
        if (s->tensor->dtype == TB_U8) p = byte_run(s, p, tail);
    }
    return p;
}

bool tbi_json_feed(tbi_json *s, const char *bytes, size_t n)
{
    const char *p = bytes, *end = bytes + n;
    if (s->carried && n) {
        const char *stop = token_end(s, s->carry[0], p, end);
        if (!carry(s, p, (size_t)((stop ? stop : end) - p))) return false;
        if (!stop) return true;
        p = stop;
        size_t whole = s->carried;
        s->carried = 0;
        if (!token(s, s->carry, whole)) return false;
    }
    while (p < end) {
        char c = *p;
        if (s->tensor && (c == '-' || is_digit(c))) {
            const char *next = tensor_run(s, p, end);
            if (!next) return false;
            if (next != p) {
                p = next;
                continue;
            }
        }
        if (is_space(c)) p++;
        else if (s->want == WANT_END) return malformed(s, "something follows the value");
        else if (c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':') {
            if (!structural(s, c)) return false;
            p++;
        } else if (c == '"' || c == '-' || is_digit(c) || is_letter(c)) {
            const char *stop = token_end(s, c, p + 1, end);
            if (!stop) return carry(s, p, (size_t)(end - p));
            if (!token(s, p, (size_t)(stop - p))) return false;
            p = stop;
        } else {
            return (unsigned char)c >= 0x80 ? malformed(s, "a byte above 127 outside a string")
                                            : malformed(s, "an unexpected character");
        }
    }
    return true;
}

bool tbi_json_finish(tbi_json *s)
{
    size_t whole = s->carried;
    s->carried = 0;
    if (whole && s->carry[0] == '"') return malformed(s, "it ends inside a string");
    if (whole && !token(s, s->carry, whole)) return false;
    return s->want == WANT_END || malformed(s, "it ends too early");
}
