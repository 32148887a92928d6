/* The scanner against RFC 8259 and against jansson: what one accepts the other accepts, in any cut. */
#include "json_scan.h"
#include "tb_rng.h"
#include "tb_test.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static bool ignore(void *arg, tbi_json_event e, const char *text, size_t bytes)
{
    (void)arg;
    (void)e;
    (void)text;
    (void)bytes;
    return true;
}

/* Feeds the text in pieces of at most `piece` bytes (0: whole), each in its own exactly sized block. */
static tbi_fault_code scan(const char *text, size_t n, size_t piece, tbi_fault *fault)
{
    tbi_json s;
    *fault = (tbi_fault){0};
    tbi_json_open(&s, fault, ignore, NULL);
    for (size_t at = 0; at < n;) {
        size_t k = piece && piece < n - at ? piece : n - at;
        char *block = malloc(k);
        memcpy(block, text + at, k);
        bool more = tbi_json_feed(&s, block, k);
        free(block);
        at += k;
        if (!more) return fault->code;
    }
    tbi_json_finish(&s);
    return fault->code;
}

static tbi_fault_code scan_str(const char *text)
{
    tbi_fault f;
    return scan(text, strlen(text), 0, &f);
}

static void valid_texts_are_accepted_in_any_cut(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        "[]",
        " [ 1 , -0.5e+10 , 0 , 1E5, 1e-400 ] ",
        "{\"a\":{\"b\":[true,false,null,\"\\u00e9\\ud83d\\ude00\\n\"]}}",
        "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
        "123",
        "-0",
        "null",
        "[[[[[[[[1]]]]]]]]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (size_t piece = 0; piece < 9; piece++) {
            tbi_fault f;
            if (scan(texts[i], strlen(texts[i]), piece, &f))
                fail_msg("%s in pieces of %zu: %s", texts[i], piece, f.message);
        }
}

static void invalid_texts_are_refused_in_any_cut(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "[",
        "]",
        "}",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "[1 2]",
        "[1}",
        "{\"a\":1]",
        "1 1",
        "[] []",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "1.e5",
        "--1",
        "1-1",
        "NaN",
        "Infinity",
        "-Infinity",
        "nul",
        "nulll",
        "True",
        "tru e",
        "/*c*/1",
        "//c\n1",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u0000\"",
        "\"\n\"",
        "'a'",
        "\xef\xbb\xbf[]",
        "[1]\x01",
        "\"\xc0\xaf\"",
        "\"\xed\xa0\x80\"",
        "\"\xf4\x90\x80\x80\"",
        "\"\xe2\x82\"",
        "\"\xff\"",
        "\"\x80\"",
        "\xc3\xa9",
        "[[[[[[[[[1]]]]]]]]]",
        "[1,\"a]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (size_t piece = 0; piece < 7; piece++) {
            tbi_fault f;
            if (!scan(texts[i], strlen(texts[i]), piece, &f)) fail_msg("accepted: %s", texts[i]);
        }
    assert_int_equal(scan_str("\"\xed\xa0\x80\""), TBI_FAULT_BAD_UTF8);
    assert_int_equal(scan_str("\"\\ud800\""), TBI_FAULT_BAD_UTF8);
    assert_int_equal(scan_str("[1,]"), TBI_FAULT_MALFORMED_JSON);
}

static void limits_hold_for_depth_strings_and_numbers(void **state)
{
    (void)state;
    tbi_fault f;
    size_t n = 1 << 20;
    char *big = malloc(n);
    memset(big, '[', n);
    assert_int_equal(scan(big, 100000, 0, &f), TBI_FAULT_MALFORMED_JSON);
    memset(big, 'a', n);
    big[0] = '"';
    big[n - 1] = '"';
    for (size_t piece = 0; piece < 5000; piece += 1500)
        assert_int_equal(scan(big, n, piece, &f), TBI_FAULT_MALFORMED_JSON);
    memset(big, '1', n);
    for (size_t piece = 0; piece < 5000; piece += 1500)
        assert_int_equal(scan(big, n, piece, &f), TBI_FAULT_MALFORMED_JSON);
    assert_int_equal(scan(big, 400, 0, &f),
                     TBI_FAULT_NONE); /* 400 digits are a number; a tensor refuses them */
    free(big);
}

/* ---- numbers of a tensor ---- */

typedef struct {
    tbi_json_tensor tensor;
    tbi_json s;
    float values[4096];
} sink;

static bool full(void *arg, tbi_json_tensor *t)
{
    (void)t;
    return tbi_fault_set(arg, TBI_FAULT_SHAPE_MISMATCH, NULL, "full");
}

static bool into_tensor(void *arg, tbi_json_event e, const char *text, size_t bytes)
{
    sink *k = arg;
    (void)text;
    (void)bytes;
    if (e == TBI_JSON_ARRAY) k->s.tensor = &k->tensor;
    return true;
}

static tbi_fault_code scan_tensor_of(tb_dtype dtype, sink *k, const char *text, size_t n, size_t piece,
                                     tbi_fault *fault)
{
    *fault = (tbi_fault){0};
    k->tensor = (tbi_json_tensor){.dtype = dtype, .data = k->values, .capacity = 4096, .more = full, .more_arg = fault};
    tbi_json_open(&k->s, fault, into_tensor, k);
    k->s.field = "data";
    for (size_t at = 0; at < n;) {
        size_t m = piece && piece < n - at ? piece : n - at;
        char *block = malloc(m);
        memcpy(block, text + at, m);
        bool more = tbi_json_feed(&k->s, block, m);
        free(block);
        at += m;
        if (!more) return fault->code;
    }
    tbi_json_finish(&k->s);
    return fault->code;
}

static tbi_fault_code scan_tensor(sink *k, const char *text, size_t n, size_t piece, tbi_fault *fault)
{
    return scan_tensor_of(TB_F32, k, text, n, piece, fault);
}

static void tensors_are_the_nearest_floats_in_any_cut(void **state)
{
    (void)state;
    static sink k;
    static char text[200000];
    float expected[600];
    size_t n = 0;
    tbi_fault f;
    text[n++] = '[';
    for (int i = 0; i < 600; i++) {
        double x = tb_random_normal(3, 1, (uint64_t)i) * (i % 5 ? 1 : 1e20);
        if (i % 3 == 0) x = 0;
        char number[128];
        switch (i % 4) {
        case 0: snprintf(number, sizeof number, "%.*g", 3 + i % 23, x); break;
        case 1: snprintf(number, sizeof number, "%.*f", i % 41, x); break;
        case 2: snprintf(number, sizeof number, "%.*e", i % 20, x); break;
        default: snprintf(number, sizeof number, "%.17g", x); break;
        }
        expected[i] = strtof(number, NULL);
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s%s", i ? "," : "", i % 11 ? "" : " \n", number);
    }
    text[n++] = ']';
    for (size_t piece = 0; piece < 60; piece++) {
        if (scan_tensor(&k, text, n, piece, &f)) fail_msg("pieces of %zu: %s", piece, f.message);
        assert_int_equal(k.tensor.count, 600);
        assert_int_equal(k.tensor.rank, 1);
        assert_memory_equal(k.values, expected, sizeof expected);
    }
}

static void nesting_must_be_regular(void **state)
{
    (void)state;
    static sink k;
    static const struct {
        const char *text;
        tbi_fault_code code;
        int rank;
    } cases[] = {
        {"[1,2,3]", TBI_FAULT_NONE, 1},
        {"[[1,2],[3,4],[5,6]]", TBI_FAULT_NONE, 2},
        {"[[[1],[2]]]", TBI_FAULT_NONE, 3},
        {"[[1,2],[3]]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[1,[2]]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[[1],2]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[[[1]],[2]]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[[],[]]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[[1],[]]", TBI_FAULT_SHAPE_MISMATCH, 0},
        {"[1,null]", TBI_FAULT_DTYPE_MISMATCH, 0},
        {"[true]", TBI_FAULT_DTYPE_MISMATCH, 0},
        {"[\"1\"]", TBI_FAULT_DTYPE_MISMATCH, 0},
        {"[{}]", TBI_FAULT_DTYPE_MISMATCH, 0},
        {"[1e400]", TBI_FAULT_NUMBER_RANGE, 0},
        {"[1,01]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1 2]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1,2 3]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1,NaN]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1,,2]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[-]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1.5.2]", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1,2", TBI_FAULT_MALFORMED_JSON, 0},
        {"[1-2]", TBI_FAULT_MALFORMED_JSON, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t piece = 0; piece < 6; piece++) {
            tbi_fault f;
            tbi_fault_code code = scan_tensor(&k, cases[i].text, strlen(cases[i].text), piece, &f);
            if (code != cases[i].code) fail_msg("%s: %s %s", cases[i].text, tbi_fault_name(code), f.message);
            if (!code) assert_int_equal(k.tensor.rank, cases[i].rank);
        }
}

/* ---- jansson as oracle over mutated texts ---- */

static const char *const seeds[] = {
    "{\"id\":\"a\\u00e9\",\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,-2."
    "5e3,0.125,4]}]}",
    "[[0,1.5,-2e-3],[true,false,null],{\"k\":\"v\\n\\\"\",\"\":{}}]",
    "{\"data\":[0,0,0,0.12,1,17,255,1e10,-1E-10,0.000001],\"s\":\"\xc3\xa9\xf0\x9f\x98\x80\\ud83d\\ude00\"}",
    "[1,2,3,[4,5,[6,7,[8]]],\"x\",{}]",
};

static size_t mutate(char *text, size_t n, size_t room, uint64_t round)
{
    static const char alphabet[] = "{}[],:\"\\0123456789-+.eEtfnu \n\x80\xc3\xed\xff/a";
    int edits = 1 + (int)tb_random_below(9, 1, round, 4);
    for (int e = 0; e < edits && n > 0; e++) {
        uint64_t at = tb_random_below(9, 2, round * 8 + (uint64_t)e, n);
        char c = alphabet[tb_random_below(9, 3, round * 8 + (uint64_t)e, sizeof alphabet - 1)];
        switch (tb_random_below(9, 4, round * 8 + (uint64_t)e, 4)) {
        case 0: text[at] = c; break;
        case 1: memmove(text + at, text + at + 1, n - at - 1); n--; break;
        case 2:
            if (n == room) break;
            memmove(text + at + 1, text + at, n - at);
            text[at] = c;
            n++;
            break;
        default: n = at; break;
        }
    }
    return n;
}

static void agrees_with_jansson_on_mutated_texts(void **state)
{
    (void)state;
    int rounds = getenv("TB_TEST_FULL") ? 3000000 : 150000, accepted = 0;
    for (int i = 0; i < rounds; i++) {
        char text[512];
        const char *seed = seeds[i % 4];
        tbi_fault f, cut;
        memcpy(text, seed, strlen(seed));
        size_t n = mutate(text, strlen(seed), sizeof text, (uint64_t)i);
        tbi_fault_code ours = scan(text, n, 0, &f);
        tbi_fault_code ours_cut = scan(text, n, 1 + tb_random_below(9, 5, (uint64_t)i, 7), &cut);
        if (!ours != !ours_cut) fail_msg("a cut changed the verdict on %.*s", (int)n, text);
        json_error_t error;
        json_t *oracle = json_loadb(text, n, JSON_DECODE_ANY, &error);
        bool theirs = oracle != NULL;
        if (!theirs && json_error_code(&error) == json_error_numeric_overflow)
            continue; /* its limit, not RFC 8259's */
        if (ours && strstr(f.message, "deeper than")) theirs = false;                    /* our limit */
        if (theirs != !ours)
            fail_msg("jansson %s, we say '%s': %.*s", theirs ? "accepts" : error.text, f.message, (int)n,
                     text);
        accepted += theirs;
        json_decref(oracle);
    }
    assert_true(accepted > rounds / 50); /* both verdicts were really exercised */
}

/* 1: a row of bytes, which `want` gets; 0: not one; -1: no array, or numbers that JSON writes in more than one way. */
static int bytes_by_oracle(const char *text, size_t n, uint8_t *want, size_t *count)
{
    json_error_t error;
    json_t *j = json_loadb(text, n, JSON_DECODE_ANY, &error), *item;
    int verdict = j && json_is_array(j) && json_array_size(j) > 0;
    size_t i;
    *count = 0;
    if (j ? !json_is_array(j) : json_error_code(&error) == json_error_numeric_overflow) verdict = -1;
    if (verdict == 1) json_array_foreach(j, i, item)
        {
            json_int_t v = json_is_integer(item) ? json_integer_value(item) : -1;
            if (json_is_real(item)) verdict = -1;
            if (verdict == 1 && (v < 0 || v > 255)) verdict = 0;
            want[(*count)++] = (uint8_t)v;
        }
    json_decref(j);
    return verdict;
}

static void rows_of_bytes_agree_with_jansson(void **state)
{
    (void)state;
    static sink k;
    int rounds = getenv("TB_TEST_FULL") ? 1000000 : 50000, accepted = 0;
    for (int i = 0; i < rounds; i++) {
        char text[512];
        uint8_t want[512];
        tbi_fault f, cut;
        size_t n = 0, count;
        text[n++] = '[';
        for (int e = 0; e < 24; e++) { /* of one, two and three digits, some above 255 */
            uint64_t below = (uint64_t[]){1, 10, 100, 260}[tb_random_below(11, 1, (uint64_t)(32 * i + e), 4)];
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%llu", e ? "," : "",
                                  (unsigned long long)tb_random_below(11, 2, (uint64_t)(32 * i + e), below));
        }
        text[n++] = ']';
        if (i % 3) n = mutate(text, n, sizeof text, (uint64_t)i);
        tbi_fault_code ours = scan_tensor_of(TB_U8, &k, text, n, 0, &f);
        int64_t got = k.tensor.count;
        int verdict = bytes_by_oracle(text, n, want, &count);
        if (verdict >= 0 && verdict != !ours) fail_msg("%s: %.*s", ours ? f.message : "accepted", (int)n, text);
        if (verdict == 1) {
            assert_int_equal(got, count);
            assert_memory_equal(k.values, want, count);
            accepted++;
        }
        tbi_fault_code ours_cut = scan_tensor_of(TB_U8, &k, text, n, 1 + tb_random_below(11, 3, (uint64_t)i, 9), &cut);
        if (!ours != !ours_cut) fail_msg("a cut changed the verdict on %.*s", (int)n, text);
        if (verdict == 1) assert_memory_equal(k.values, want, count);
    }
    assert_true(accepted > rounds / 10 && accepted < rounds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_texts_are_accepted_in_any_cut),
        cmocka_unit_test(invalid_texts_are_refused_in_any_cut),
        cmocka_unit_test(limits_hold_for_depth_strings_and_numbers),
        cmocka_unit_test(tensors_are_the_nearest_floats_in_any_cut),
        cmocka_unit_test(nesting_must_be_regular),
        cmocka_unit_test(rows_of_bytes_agree_with_jansson),
        cmocka_unit_test(agrees_with_jansson_on_mutated_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
