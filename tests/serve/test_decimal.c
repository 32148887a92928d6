/* Decimal text and f32: reading is strtof, writing reads back. */
#include "decimal.h"
#include "tb_rng.h"
#include "tb_test.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static float from_bits(uint32_t b)
{
    float x;
    memcpy(&x, &b, 4);
    return x;
}

static uint32_t to_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}

static void check_round_trip(float x)
{
    char text[TBI_F32_TEXT + 1];
    size_t n = tbi_f32_to_text(x, text);
    assert_true(n < TBI_F32_TEXT);
    text[n] = 0;
    if (to_bits(strtof(text, NULL)) != to_bits(x)) fail_msg("%a was written as %s", (double)x, text);
    float back;
    assert_true(tbi_text_to_f32(text, n, &back));
    assert_int_equal(to_bits(back), to_bits(x));
}

static void every_written_float_reads_back_to_its_bits(void **state)
{
    (void)state;
    static const float special[] = {
        0.0f,        -0.0f,       1.0f,          -1.0f,          0.1f,        0.5f,
        1e9f,        1e10f,       3.4028235e38f, 1.1754944e-38f, 1e-45f,      1.17549421e-38f,
        16777216.0f, 16777217.0f, 9.5e-5f,       123456789.0f,   0.00012345f, 99999.99f,
        1e-5f,       1e-4f,       999999999.0f};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) check_round_trip(special[i]);
    for (uint64_t i = 0; i < 300000; i++) {
        float x = from_bits(tb_random_u32(1, 2, i));
        if (isfinite(x)) check_round_trip(x);
        check_round_trip((float)tb_random_normal(1, 3, i));
    }
}

static void short_values_are_written_short(void **state)
{
    (void)state;
    static const struct {
        float x;
        const char *text;
    } cases[] = {{0.5f, "0.5"},
                 {100.0f, "100"},
                 {0.1f, "0.1"},
                 {-2.25f, "-2.25"},
                 {1e10f, "1e10"},
                 {1e-7f, "1e-7"},
                 {0.0f, "0"},
                 {-0.0f, "-0"},
                 {16777216.0f, "16777216"},
                 {3.4028235e38f, "3.4028235e38"},
                 {0.001f, "0.001"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[TBI_F32_TEXT + 1];
        text[tbi_f32_to_text(cases[i].x, text)] = 0;
        assert_string_equal(text, cases[i].text);
    }
}

/* The fast path either says nothing or says what strtof says, midpoints between floats included. */
static void the_fast_path_never_disagrees_with_strtof(void **state)
{
    (void)state;
    char text[64];
    int decided = 0, tried = 0;
    for (uint64_t i = 0; i < 300000; i++) {
        uint64_t m = (uint64_t)tb_random_u32(2, 1, 2 * i) << 32 | tb_random_u32(2, 1, 2 * i + 1);
        m >>= tb_random_below(2, 2, i, 64);
        if (m >= 10000000000000000000u) m /= 10;
        int k = (int)tb_random_below(2, 3, i, 70) - 46;
        float x;
        snprintf(text, sizeof text, "%llue%d", (unsigned long long)m, k);
        tried++;
        if (!tbi_decimal_to_f32(m, k, &x)) continue;
        decided++;
        if (to_bits(x) != to_bits(strtof(text, NULL))) fail_msg("%s became %a", text, (double)x);
    }
    assert_true(decided > tried / 2);
    for (uint32_t b = 0x4b800000; b < 0x4b800100;
         b++) { /* around 2^24: the next decimals are exact midpoints */
        uint64_t mid = (uint64_t)from_bits(b) + 1;
        float x;
        snprintf(text, sizeof text, "%llu", (unsigned long long)mid);
        if (tbi_decimal_to_f32(mid, 0, &x)) assert_int_equal(to_bits(x), to_bits(strtof(text, NULL)));
    }
}

static void text_beyond_f32_is_refused_and_tiny_text_is_zero(void **state)
{
    (void)state;
    float x;
    assert_false(tbi_text_to_f32("1e400", 5, &x));
    assert_false(tbi_text_to_f32("-3.5e38", 7, &x));
    assert_true(tbi_text_to_f32("1e-400", 6, &x));
    assert_true(x == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_written_float_reads_back_to_its_bits),
        cmocka_unit_test(short_values_are_written_short),
        cmocka_unit_test(the_fast_path_never_disagrees_with_strtof),
        cmocka_unit_test(text_beyond_f32_is_refused_and_tiny_text_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
