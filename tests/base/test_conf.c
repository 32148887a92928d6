/* The strict configuration loader: what it refuses, where it says so, and that equal meaning gives equal
 * text. */
#include "tb_alloc.h"
#include "tb_conf.h"
#include "tb_text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static tb_conf *parse(const char *text)
{
    tb_conf *root = NULL;
    assert_int_equal(tb_conf_parse(text, strlen(text), "x.yaml", &root), TB_OK);
    return root;
}

static void refuses(const char *text, const char *sentence)
{
    tb_conf *root = NULL;
    assert_int_not_equal(tb_conf_parse(text, strlen(text), "x.yaml", &root), TB_OK);
    assert_null(root);
    if (!strstr(tb_error_message(), sentence)) fail_msg("wanted '%s' in '%s'", sentence, tb_error_message());
}

static void canonical_is(const char *text, const char *wanted)
{
    tb_conf *root = parse(text);
    tb_text out = {0};
    tb_conf_canonical(root, &out);
    assert_string_equal(tb_text_str(&out), wanted);
    tb_text_free(&out);
    tb_conf_free(root);
}

static void a_duplicate_key_is_named_with_both_lines(void **state)
{
    (void)state;
    refuses("a: 1\nb: 2\na: 3\n", "x.yaml:3:1: duplicate key 'a'; it stands in line 1 already");
    refuses("m:\n  k: 1\n  k: 2\n", "x.yaml:3:3: duplicate key 'k'");
    refuses("{a: 1, a: 2}", "x.yaml:1:8: duplicate key 'a'");
}

static void what_hides_values_is_refused(void **state)
{
    (void)state;
    refuses("a: &x 1\n", "x.yaml:1:4: anchors");
    refuses("a: &x {b: 1}\n", "anchors");
    refuses("a: [&x 1, *x]\n", "anchors");
    refuses("a: *x\n", "x.yaml:1:4: aliases");
    refuses("<<: {a: 1}\n", "x.yaml:1:1: merge keys");
    refuses("a: !!int 3\n", "x.yaml:1:4: tags");
    refuses("a: 1\n---\nb: 2\n", "a second document");
    refuses("? [a, b]\n: 1\n", "a key must be a plain word");
    refuses("a: \"x\\0y\"\n", "zero byte");
    refuses("", "nothing in it");
    refuses("# only a comment\n", "nothing in it");
}

static void broken_yaml_is_told_with_its_place(void **state)
{
    (void)state;
    refuses("a: [1, 2\nb: 3\n", "x.yaml:2:");
    refuses("a: 1\n\tb: 2\n", "x.yaml:2:");
    refuses("a: \"open\n", "x.yaml:");
    refuses("a: \xff\xfe\n", "x.yaml: byte 3");
}

static void deep_nesting_is_refused_not_recursed(void **state)
{
    (void)state;
    char text[512];
    memset(text, '[', 200);
    memset(text + 200, ']', 200);
    text[400] = '\0';
    refuses(text, "nested deeper than 32 levels");
}

static void a_missing_file_is_not_found(void **state)
{
    (void)state;
    tb_conf *root = NULL;
    assert_int_equal(tb_conf_load("/nonexistent/a.yaml", &root), TB_ERR_NOT_FOUND);
    assert_non_null(strstr(tb_error_message(), "/nonexistent/a.yaml"));
}

static void canonical_text_ignores_spelling_and_order(void **state)
{
    (void)state;
    canonical_is("b: 1\na: {d: 2, c: [x, 'y']}\n", "{\"a\":{\"c\":[\"x\",\"y\"],\"d\":2},\"b\":1}");
    canonical_is("{\"b\": 1.0, \"a\": 1e3}", "{\"a\":1000,\"b\":1}");
    canonical_is("[010, '010', 0.10, -0.5, true, 'true', null, ~, no, 2024-01-02, 1e999, .5]",
                 "[10,\"010\",0.1,-0.5,true,\"true\",null,null,\"no\",\"2024-01-02\",\"1e999\",0.5]");
}

static void members_know_where_they_stand(void **state)
{
    (void)state;
    tb_conf *root = parse("launch:\n  ranks: 2\nparams: {batch: 8}\n");
    const tb_conf *ranks = tb_conf_find(root, "launch.ranks"), *batch = tb_conf_find(root, "params.batch");
    assert_int_equal(ranks->line, 2);
    assert_int_equal(ranks->column, 3);
    assert_int_equal(batch->line, 3);
    assert_int_equal(batch->column, 10);
    assert_null(tb_conf_find(root, "launch.rank"));
    assert_null(tb_conf_find(root, "launch.ranks.more"));
    tb_conf_free(root);
}

static void keys_with_dots_are_found_and_set(void **state)
{
    (void)state;
    tb_conf *root = parse("product: {launch.ranks: [1, 2]}\n");
    assert_int_equal(tb_conf_find(root, "product.launch.ranks")->n_items, 2);
    assert_int_equal(tb_conf_set(root, "a.b.c", tb_conf_scalar("-s", "7", false)), TB_OK);
    assert_string_equal(tb_conf_find(root, "a.b.c")->text, "7");
    assert_int_equal(tb_conf_set(root, "a.b.c", tb_conf_scalar("-s", "8", false)), TB_OK);
    assert_string_equal(tb_conf_find(root, "a.b.c")->text, "8");
    assert_int_equal(tb_conf_set(root, "a.b.c.d", tb_conf_scalar("-s", "9", false)), TB_ERR_CONFIG);
    tb_conf_free(root);
}

static void merging_is_deep_and_the_child_wins(void **state)
{
    (void)state;
    tb_conf *base = parse("a: {x: 1, y: [1, 2]}\nb: 1\n"), *over = parse("a: {y: [3]}\nb: {c: 2}\nd: 4\n");
    assert_int_equal(tb_conf_merge(base, over), TB_OK);
    tb_text out = {0};
    tb_conf_canonical(base, &out);
    assert_string_equal(tb_text_str(&out), "{\"a\":{\"x\":1,\"y\":[3]},\"b\":{\"c\":2},\"d\":4}");
    tb_text_free(&out);
    tb_conf_free(base);
    tb_conf_free(over);
}

static void typed_reads_take_what_the_key_means(void **state)
{
    (void)state;
    tb_conf *list = parse("[010, 1e3, 1.5, 'no', no, 0x10, nan, '3', [1]]");
    int64_t i;
    double d;
    bool b;
    const char *s;
    assert_int_equal(tb_conf_int(list->items[0], "k", 0, 100, &i), TB_OK);
    assert_int_equal(i, 10);
    assert_int_equal(tb_conf_int(list->items[1], "k", 0, 5000, &i), TB_OK);
    assert_int_equal(i, 1000);
    assert_int_equal(tb_conf_int(list->items[1], "k", 0, 999, &i), TB_ERR_CONFIG);
    assert_string_equal(tb_error_message(), "x.yaml:1:7: key 'k': 1000 is outside 0 .. 999");
    assert_int_equal(tb_conf_int(list->items[2], "k", 0, 5, &i), TB_ERR_CONFIG);
    assert_int_equal(tb_conf_num(list->items[2], "k", 0, 5, &d), TB_OK);
    assert_true(d == 1.5);
    assert_int_equal(tb_conf_bool(list->items[3], "k", &b), TB_ERR_CONFIG);
    assert_int_equal(tb_conf_bool(list->items[4], "k", &b), TB_OK);
    assert_false(b);
    for (int at = 5; at <= 8; at++)
        assert_int_equal(tb_conf_num(list->items[at], "k", -1e9, 1e9, &d), TB_ERR_CONFIG);
    assert_int_equal(tb_conf_str(list->items[3], "k", &s), TB_OK);
    assert_string_equal(s, "no");
    assert_int_equal(tb_conf_str(list->items[8], "k", &s), TB_ERR_CONFIG);
    assert_int_equal(tb_conf_str(NULL, "k", &s), TB_ERR_CONFIG);
    assert_string_equal(tb_error_message(), "key 'k' is missing");
    tb_conf_free(list);
}

static const tb_key keys[] = {
    {"model", TB_KEY_STR, "", 0, 0, NULL, NULL, "which model"},
    {"batch", TB_KEY_INT, "", 1, 4096, NULL, "8", "samples a step"},
    {"lr", TB_KEY_NUM, "", 0, 10, NULL, "1e-3", "learning rate"},
    {"shuffle", TB_KEY_BOOL, "", 0, 0, NULL, "true", "new order each epoch"},
    {"optim", TB_KEY_CHOICE, "", 0, 0, "sgd|adamw", "sgd", "update rule"},
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

static void key_tables_refuse(const char *text, const char *sentence)
{
    tb_conf *map = parse(text);
    assert_int_equal(tb_conf_apply_keys(map, "params.", keys, N_KEYS), TB_ERR_CONFIG);
    if (!strstr(tb_error_message(), sentence)) fail_msg("wanted '%s' in '%s'", sentence, tb_error_message());
    tb_conf_free(map);
}

static void key_tables_name_the_nearest_key(void **state)
{
    (void)state;
    key_tables_refuse("modle: gpt\n", "x.yaml:1:1: unknown key 'params.modle'; nearest: 'params.model'");
    key_tables_refuse("model: gpt\nzzzzzzzz: 1\n", "x.yaml:2:1: unknown key 'params.zzzzzzzz'");
    key_tables_refuse("batch: 8\n", "key 'params.model' is missing and has no default");
    key_tables_refuse("{model: a, batch: 0}", "key 'params.batch': 0 is outside 1 .. 4096");
    key_tables_refuse("{model: a, optim: adam}", "key 'params.optim': 'adam' is none of sgd|adamw");
    key_tables_refuse("{model: a, optim: 'sgd|adamw'}", "is none of");
    key_tables_refuse("{model: [a]}", "key 'params.model': one value wanted, not a list");
    key_tables_refuse("[1]", "must be a map of keys");
}

static void key_tables_complete_and_respell(void **state)
{
    (void)state;
    tb_conf *map = parse("{model: 010, batch: 1e2, shuffle: no}");
    assert_int_equal(tb_conf_apply_keys(map, "params.", keys, N_KEYS), TB_OK);
    tb_text out = {0};
    tb_conf_canonical(map, &out);
    assert_string_equal(tb_text_str(&out), "{\"batch\":100,\"lr\":0.001,\"model\":\"010\",\"optim\":\"sgd\","
                                           "\"shuffle\":false}");
    tb_text_free(&out);
    tb_conf_free(map);
}

static void a_failed_parse_leaks_nothing(void **state)
{
    (void)state;
    tb_mem_stats before, after;
    tb_heap_stats(tb_heap_process(), &before);
    refuses("a: {b: [1, 2, {c: d}], b: 3}\n", "duplicate");
    tb_heap_stats(tb_heap_process(), &after);
    assert_int_equal(before.live_blocks, after.live_blocks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_duplicate_key_is_named_with_both_lines),
        cmocka_unit_test(what_hides_values_is_refused),
        cmocka_unit_test(broken_yaml_is_told_with_its_place),
        cmocka_unit_test(deep_nesting_is_refused_not_recursed),
        cmocka_unit_test(a_missing_file_is_not_found),
        cmocka_unit_test(canonical_text_ignores_spelling_and_order),
        cmocka_unit_test(members_know_where_they_stand),
        cmocka_unit_test(keys_with_dots_are_found_and_set),
        cmocka_unit_test(merging_is_deep_and_the_child_wins),
        cmocka_unit_test(typed_reads_take_what_the_key_means),
        cmocka_unit_test(key_tables_name_the_nearest_key),
        cmocka_unit_test(key_tables_complete_and_respell),
        cmocka_unit_test(a_failed_parse_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
