/* Element types: every bf16 and f16 value survives the way through f32 and f64; rounding is to nearest even. */
#include "tb_test.h"
#include <math.h>

static void every_16_bit_float_round_trips(void **state)
{
    (void)state;
    for (unsigned u = 0; u < 65536; u++) {
        float b = tb_bf16_to_f32((uint16_t)u), h = tb_f16_to_f32((uint16_t)u);
        if (isnan(b)) assert_true(isnan(tb_bf16_to_f32(tb_f32_to_bf16(b))));
        else assert_int_equal(tb_f32_to_bf16(b), u);
        if (isnan(h)) assert_true(isnan(tb_f16_to_f32(tb_f32_to_f16(h))));
        else assert_int_equal(tb_f32_to_f16(h), u);
        if (!isnan(b)) assert_int_equal(tb_f64_to_bf16((double)b), u);
        if (!isnan(h)) assert_int_equal(tb_f64_to_f16((double)h), u);
    }
}

static void f16_agrees_with_the_compiler_between_values(void **state)
{
    (void)state;
    for (unsigned u = 0; u < 0x7bff; u++) {
        double lo = (double)tb_f16_to_f32((uint16_t)u), hi = (double)tb_f16_to_f32((uint16_t)(u + 1));
        double mid = (lo + hi) / 2; /* a tie: even wins */
        assert_int_equal(tb_f64_to_f16(mid), u + (u & 1));
        assert_int_equal(tb_f64_to_f16(nextafter(mid, HUGE_VAL)), u + 1);
        assert_int_equal(tb_f64_to_f16(nextafter(mid, 0)), u);
    }
    assert_int_equal(tb_f64_to_f16(65519.99), 0x7bff);
    assert_int_equal(tb_f64_to_f16(65520), 0x7c00);
    assert_int_equal(tb_f64_to_f16(-1e300), 0xfc00);
}

static void promotion_is_symmetric_and_as_torch_has_it(void **state)
{
    (void)state;
    for (int a = 0; a < TB_DTYPES; a++)
        for (int b = 0; b < TB_DTYPES; b++)
            assert_int_equal(tb_dtype_promote((tb_dtype)a, (tb_dtype)b), tb_dtype_promote((tb_dtype)b, (tb_dtype)a));
    assert_int_equal(tb_dtype_promote(TB_BF16, TB_F16), TB_F32);
    assert_int_equal(tb_dtype_promote(TB_I64, TB_F16), TB_F16);
    assert_int_equal(tb_dtype_promote(TB_BOOL, TB_U8), TB_U8);
    assert_int_equal(tb_dtype_promote(TB_I8, TB_I64), TB_I64);
}

static void integers_round_once(void **state)
{
    (void)state;
    float x;
    /* an f64 would lose the 1, and leave a tie */
    tb_store_i64(TB_F32, &x, (INT64_C(1) << 54) + (INT64_C(1) << 30) + 1);
    assert_true(x == 0x1p54f + 0x1p31f);
}

static void stores_saturate_nothing_silently(void **state)
{
    (void)state;
    uint8_t u;
    int64_t i;
    tb_store_f64(TB_BOOL, &u, 0.5);
    assert_int_equal(u, 1);
    tb_store_f64(TB_I64, &i, NAN);
    assert_true(i == INT64_MIN);
    tb_store_f64(TB_I64, &i, -2.9);
    assert_int_equal(i, -2);
    tb_dtype t;
    assert_true(tb_dtype_parse("bf16", &t) && t == TB_BF16);
    assert_false(tb_dtype_parse("float", &t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_16_bit_float_round_trips),
        cmocka_unit_test(f16_agrees_with_the_compiler_between_values),
        cmocka_unit_test(promotion_is_symmetric_and_as_torch_has_it),
        cmocka_unit_test(integers_round_once), cmocka_unit_test(stores_saturate_nothing_silently),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
