/* Growing text, JSON and nearest names. */
#include "tb_text.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void text_grows_over_any_size(void **state)
{
    (void)state;
    tb_text t = {0};
    assert_string_equal(tb_text_str(&t), "");
    for (int i = 0; i < 1000; i++) tb_text_add(&t, "%d,", i);
    assert_int_equal(t.size, 10 * 2 + 90 * 3 + 900 * 4);
    assert_int_equal(strncmp(tb_text_str(&t) + t.size - 8, "998,999,", 8), 0);
    tb_text_free(&t);
}

static void json_members_are_separated_and_nested(void **state)
{
    (void)state;
    tb_text t = {0};
    tb_json j = {.to = &t};
    tb_json_open(&j, '{');
    tb_json_key(&j, "a");
    tb_json_open(&j, '[');
    tb_json_int(&j, -3);
    tb_json_num(&j, 0.1);
    tb_json_num(&j, NAN);
    tb_json_bool(&j, true);
    tb_json_str(&j, NULL);
    tb_json_close(&j, ']');
    tb_json_key(&j, "b");
    tb_json_open(&j, '{');
    tb_json_close(&j, '}');
    tb_json_close(&j, '}');
    assert_string_equal(tb_text_str(&t), "{\"a\":[-3,0.1,null,true,null],\"b\":{}}");
    tb_text_free(&t);
}

static void pretty_json_is_indented(void **state)
{
    (void)state;
    tb_text t = {0};
    tb_json j = {.to = &t, .pretty = true};
    tb_json_open(&j, '[');
    tb_json_open(&j, '{');
    tb_json_put_int(&j, "k", 1);
    tb_json_close(&j, '}');
    tb_json_close(&j, ']');
    assert_string_equal(tb_text_str(&t), "[\n  {\n    \"k\": 1\n  }\n]\n");
    tb_text_free(&t);
}

static void json_strings_are_escaped_and_valid_utf8(void **state)
{
    (void)state;
    tb_text t = {0};
    tb_json j = {.to = &t};
    tb_json_str(&j, "\"\\\n\t\x01 \xc3\xa9 \xff \xc0\xaf \xed\xa0\x80");
    assert_string_equal(tb_text_str(&t),
                        "\"\\\"\\\\\\n\\t\\u0001 \xc3\xa9 \xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd "
                        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    tb_text_free(&t);
}

static void numbers_read_back_to_the_same_double(void **state)
{
    (void)state;
    const double values[] = {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, -2.5, 123456789012345680.0};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        tb_text t = {0};
        tb_json j = {.to = &t};
        tb_json_num(&j, values[i]);
        assert_true(strtod(tb_text_str(&t), NULL) == values[i]);
        tb_text_free(&t);
    }
}

static void the_nearest_name_is_found_or_none(void **state)
{
    (void)state;
    const char *const names[] = {"batch", "model", "modes", "learning_rate"};
    assert_string_equal(tb_nearest("modle", names, 4), "model");
    assert_string_equal(tb_nearest("learning-rte", names, 4), "learning_rate");
    assert_string_equal(tb_nearest("btach", names, 4), "batch");
    assert_null(tb_nearest("zzzzz", names, 4));
    assert_null(tb_nearest("x", names, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows_over_any_size),
        cmocka_unit_test(json_members_are_separated_and_nested),
        cmocka_unit_test(pretty_json_is_indented),
        cmocka_unit_test(json_strings_are_escaped_and_valid_utf8),
        cmocka_unit_test(numbers_read_back_to_the_same_double),
        cmocka_unit_test(the_nearest_name_is_found_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
