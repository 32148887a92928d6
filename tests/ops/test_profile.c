/* The profiler: every call once, its kernel and shape, time not counted twice, a bounded buffer, a trace that
 * parses. */
#include "tb_cpu.h"
#include "tb_ops.h"
#include "tb_profile.h"
#include "tb_test.h"
#include <jansson.h>

static void work(void)
{
    tb_tensor *a = tb_full(TB_F32, 2, (int64_t[]){8, 16}, 1), *b = tb_full(TB_F32, 2, (int64_t[]){16, 4}, 2);
    tb_relu(tb_matmul(a, b));
}

static void every_call_is_an_event_of_a_trace_that_parses(void **state)
{
    tb_profile *p;
    tb_text text = {0};
    json_error_t error;
    assert_ok(tb_profile_create(*state, 100, &p));
    work(); /* switched off: unseen */
    tb_profile_on(p, true);
    int64_t start = tb_now_ns();
    work();
    tb_profile_span(p, "step", start, tb_now_ns());
    tb_profile_on(p, false);
    work();
    assert_int_equal(tb_profile_events(p), 5);
    tb_profile_trace(p, 3, &text);
    json_t *root = json_loads(tb_text_str(&text), 0, &error), *events = json_object_get(root, "traceEvents");
    static const char *const names[] = {"full", "full", "matmul", "relu", "step"};
    assert_int_equal(json_array_size(events), 5);
    for (size_t i = 0; i < 5; i++) {
        json_t *e = json_array_get(events, i);
        assert_string_equal(json_string_value(json_object_get(e, "name")), names[i]);
        assert_int_equal(json_integer_value(json_object_get(e, "pid")), 3);
        assert_true(json_number_value(json_object_get(e, "ts")) >= 0);
    }
    json_t *product = json_object_get(json_array_get(events, 2), "args");
    assert_string_equal(json_string_value(json_object_get(product, "result")), "f32[8, 4]");
    assert_true(json_number_value(json_object_get(product, "flops")) == 2.0 * 8 * 16 * 4);
    json_decref(root);
    tb_text_free(&text);
    tb_profile_destroy(p);
}

static void the_table_sums_calls_of_one_op_and_kernel(void **state)
{
    tb_profile *p;
    tb_text text = {0};
    assert_ok(tb_profile_create(*state, 100, &p));
    tb_profile_on(p, true);
    for (int i = 0; i < 7; i++) work();
    assert_ok(tb_profile_table(p, &text));
    const char *line = strstr(tb_text_str(&text), "\nrelu ");
    char kernel[64];
    long long calls;
    assert_non_null(line);
    assert_int_equal(sscanf(line, "\nrelu %63s %lld", kernel, &calls), 2);
    assert_int_equal(calls, 7);
    line = strstr(tb_text_str(&text), "\nfull ");
    assert_int_equal(sscanf(line, "\nfull %63s %lld", kernel, &calls), 2);
    assert_int_equal(calls, 14);
    tb_text_free(&text);
    tb_profile_destroy(p);
}

static void a_full_buffer_drops_and_says_so(void **state)
{
    tb_profile *p;
    tb_text text = {0};
    assert_ok(tb_profile_create(*state, 3, &p));
    assert_fails(tb_profile_create(*state, 0, &(tb_profile *){NULL}), TB_ERR_INVALID, "at least 1");
    tb_profile_on(p, true);
    work();
    assert_int_equal(tb_profile_events(p), 3);
    assert_int_equal(tb_profile_dropped(p), 1);
    assert_ok(tb_profile_table(p, &text));
    assert_non_null(strstr(tb_text_str(&text), "1 further calls found no room"));
    tb_text_free(&text);
    tb_profile_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(every_call_is_an_event_of_a_trace_that_parses),
        ctx_test(the_table_sums_calls_of_one_op_and_kernel),
        ctx_test(a_full_buffer_drops_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
