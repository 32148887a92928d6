/* The language of conditions. */
#include "expr.h"
#include "experiment.h"
#include "tb_conf.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static const char *const point =
    "{params: {model: 'gpt', batch: 8, bucket: '64', overlap: true}, launch: {ranks: 2}}";

static bool test(const char *text)
{
    tb_conf *tree = NULL;
    bool holds = false;
    assert_int_equal(tb_conf_parse(point, strlen(point), "point", &tree), TB_OK);
    if (tb_expr_test(text, tb_conf_lookup, tree, &holds) != TB_OK) fail_msg("%s", tb_error_message());
    tb_conf_free(tree);
    return holds;
}

static void refuses(const char *text, const char *sentence)
{
    tb_conf *tree = NULL;
    bool holds;
    assert_int_equal(tb_conf_parse(point, strlen(point), "point", &tree), TB_OK);
    assert_int_equal(tb_expr_test(text, tb_conf_lookup, tree, &holds), TB_ERR_CONFIG);
    if (!strstr(tb_error_message(), sentence)) fail_msg("wanted '%s' in '%s'", sentence, tb_error_message());
    tb_conf_free(tree);
}

static void comparisons_read_keys_numbers_and_words(void **state)
{
    (void)state;
    assert_true(test("params.model == gpt"));
    assert_true(test("params.model == 'gpt'"));
    assert_false(test("params.model != \"gpt\""));
    assert_true(test("params.batch >= 8"));
    assert_false(test("params.batch < 8"));
    assert_true(test("params.batch <= 8.5"));
    assert_true(test("params.batch == 0.8e1"));
    assert_true(test("params.overlap"));
    assert_true(test("params.overlap == true"));
    assert_true(test("-1 < launch.ranks"));
}

static void and_binds_stronger_than_or(void **state)
{
    (void)state;
    assert_true(test("true || false && false"));
    assert_false(test("(true || false) && false"));
    assert_true(test("!params.overlap || launch.ranks == 2"));
    assert_false(test("!(params.overlap || false)"));
}

static void unequal_types_are_unequal_but_a_number_may_be_written_as_text(void **state)
{
    (void)state;
    assert_false(test("params.model == 8"));
    assert_false(test("params.overlap == 1"));
    assert_true(test("params.bucket == 64"));
    assert_true(test("params.bucket != 65"));
    assert_true(test("'8' == params.batch"));
}

static void a_bare_word_stands_for_text_beside_text_alone(void **state)
{
    (void)state;
    assert_true(test("params.bucket != auto"));
    refuses("params.batch != auto", "unknown name 'auto'");
    refuses("bacth == 8", "unknown name 'bacth'");
    refuses("bacth >= 8", "unknown name 'bacth'");
    refuses("modle == gpt", "unknown name 'modle'");
    refuses("params.overlap == yes", "unknown name 'yes'");
}

static void misspelt_keys_are_errors_wherever_they_stand(void **state)
{
    (void)state;
    refuses("params.modle == gpt", "unknown key 'params.modle'; nearest: 'params.model'");
    refuses("true || params.batc == 8", "nearest: 'params.batch'");
    refuses("a.b == 1", "unknown key 'a.b'");
}

static void broken_conditions_are_told_with_their_column(void **state)
{
    (void)state;
    refuses("params.batch ==", "it ends where a value is wanted");
    refuses("params.batch == 8 )", "column 19: nothing more wanted here");
    refuses("(true", "')' wanted here");
    refuses("params.batch", "a condition wanted, not a value");
    refuses("params.model < 3", "compare two numbers");
    refuses("params.batch && true", "&& and || join conditions");
    refuses("params.model == 'gpt", "this quote is not closed");
    refuses("!params.batch", "! wants a condition");
    refuses("params.batch = 8", "nothing more wanted here");
    refuses("", "it ends");
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    char text[300];
    memset(text, '(', 200);
    snprintf(text + 200, 100, "true");
    refuses(text, "nested too deeply");
    memset(text, '!', 200);
    refuses(text, "nested too deeply");
}

static void sides_of_a_comparison_are_told(void **state)
{
    (void)state;
    tb_conf *tree = NULL;
    double left = 0, right = 0;
    assert_int_equal(tb_conf_parse(point, strlen(point), "point", &tree), TB_OK);
    assert_true(tb_expr_sides("params.batch <= 1e2", tb_conf_lookup, tree, &left, &right));
    assert_true(left == 8 && right == 100);
    assert_false(tb_expr_sides("params.model == gpt", tb_conf_lookup, tree, &left, &right));
    tb_conf_free(tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comparisons_read_keys_numbers_and_words),
        cmocka_unit_test(and_binds_stronger_than_or),
        cmocka_unit_test(unequal_types_are_unequal_but_a_number_may_be_written_as_text),
        cmocka_unit_test(a_bare_word_stands_for_text_beside_text_alone),
        cmocka_unit_test(misspelt_keys_are_errors_wherever_they_stand),
        cmocka_unit_test(broken_conditions_are_told_with_their_column),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(sides_of_a_comparison_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
