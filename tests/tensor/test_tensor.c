/* Tensors and scopes: shapes, ownership, reading, errors. */
#include "tb_test.h"
#include "tb_ops.h"
#include <unistd.h>

static void empty_and_0d_tensors_exist(void **state)
{
    (void)state;
    tb_tensor *e = tb_tensor_empty(TB_F32, 3, (int64_t[]){2, 0, 3}), *s = tb_scalar(TB_BF16, 1.5);
    double x;
    assert_int_equal(tb_tensor_numel(e), 0);
    assert_ok(tb_tensor_read(e, NULL, 0));
    assert_int_equal(tb_tensor_rank(s), 0);
    assert_ok(tb_item_f64(s, &x));
    assert_near(x, 1.5, 0);
}

static void impossible_shapes_are_refused_with_the_shape(void **state)
{
    assert_true(tb_is_poison(tb_tensor_empty(TB_F32, 2, (int64_t[]){2, -1})));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "[2, -1]");
    assert_true(tb_is_poison(tb_tensor_empty(TB_F64, 3, (int64_t[]){1 << 30, 1 << 30, 1 << 30})));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "overflows");
    assert_true(tb_is_poison(tb_tensor_empty(TB_F32, 9, (int64_t[9]){1})));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "at most 8 dimensions");
}

static void getters_survive_poison(void **state)
{
    (void)state;
    tb_tensor *p = tb_poison();
    assert_int_equal(tb_tensor_dtype(p), TB_F32);
    assert_int_equal(tb_tensor_rank(p), 0);
    assert_int_equal(tb_tensor_dim(p, 0), 0);
    assert_null(tb_tensor_host(p));
    assert_string_equal(tb_shape_text(p), "(failed)");
    tb_release(tb_retain(p));
    tb_tensor_set_name(p, "x");
    assert_string_equal(tb_tensor_name(p), "");
}

static void the_first_failure_stays_the_cause(void **state)
{
    tb_tensor *bad = tb_matmul(tb_zeros(TB_F32, 2, (int64_t[]){2, 3}), tb_zeros(TB_F32, 2, (int64_t[]){4, 5}));
    tb_tensor *worse = tb_tensor_empty(TB_F32, 1, (int64_t[]){-5});
    assert_true(tb_is_poison(tb_add(bad, worse)));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "inner dimensions differ");
    assert_ok(tb_ctx_take_error(*state));
}

static void retained_tensors_outlive_their_scope_and_views_their_source(void **state)
{
    tb_scope *s = tb_scope_open();
    tb_tensor *x = tb_arange(TB_F32, 0, 6, 1), *v = tb_retain(tb_slice(x, 0, 2, 4, 1));
    tb_scope_close(s);
    float y[2];
    assert_ok(tb_tensor_read(v, y, sizeof y));
    assert_memory_equal(y, ((float[]){2, 3}), sizeof y);
    tb_release(v);
    assert_int_equal(tb_ctx_live_tensors(*state), 0);
}

/* Two micro-batches in flight: each one's results belong to its scope, whichever was opened last. */
static void scopes_take_turns(void **state)
{
    tb_scope *first = tb_scope_open(), *second = tb_scope_open();
    assert_ptr_equal(tb_scope_switch(first), second);
    tb_tensor *a = tb_zeros(TB_F32, 1, (int64_t[]){2});
    assert_ptr_equal(tb_scope_switch(second), first);
    (void)tb_zeros(TB_F32, 1, (int64_t[]){3});
    assert_int_equal(tb_ctx_live_tensors(*state), 2);
    tb_scope_close(second);
    assert_int_equal(tb_ctx_live_tensors(*state), 1);
    assert_int_equal(tb_tensor_dim(a, 0), 2);
    tb_scope_close(first);
    assert_int_equal(tb_ctx_live_tensors(*state), 0);
}

/* What destroying a context says on stderr when `leak` has left something behind in it; "" in release builds. */
static int64_t report_of(void (*leak)(void), char *said, size_t room)
{
    tb_ctx *ctx, *before = tb_ctx_current();
    assert_ok(tb_ctx_create(&(tb_ctx_config){0}, &ctx));
    tb_ctx_enter(ctx);
    leak();
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    int64_t alive = tb_ctx_destroy(ctx);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    said[fread(said, 1, room - 1, file)] = '\0';
    fclose(file);
    tb_ctx_enter(before);
    return alive;
}

static void leak_nothing(void) { tb_scope_close(tb_scope_open()); }
static void leak_tensor(void) { tb_retain(tb_zeros(TB_F32, 1, (int64_t[]){3})); }
static void leak_scope(void)
{
    (void)tb_scope_open();
    (void)tb_zeros(TB_F32, 1, (int64_t[]){3});
}

/* Onto a view of itself; away from its own memory, and back to it. */
static void rebase_onto_its_own_memory(void)
{
    const float x[4] = {1, 2, 3, 4};
    float got[4];
    tb_tensor *t = tb_retain(tb_tensor_from(TB_F32, 1, (int64_t[]){4}, x)), *view = tb_slice(t, 0, 0, 4, 1);
    assert_ok(tb_tensor_rebase(t, view));
    assert_ok(tb_tensor_read(t, got, sizeof got));
    assert_memory_equal(got, x, sizeof x);
    assert_ok(tb_tensor_rebase(t, tb_zeros(TB_F32, 1, (int64_t[]){4})));
    assert_ok(tb_tensor_rebase(t, view));
    assert_ok(tb_tensor_read(t, got, sizeof got));
    assert_memory_equal(got, x, sizeof x);
    tb_release(t);
}

static void a_tensor_rebased_onto_its_own_memory_leaks_nothing(void **state)
{
    (void)state;
    char said[512];
    assert_int_equal(report_of(rebase_onto_its_own_memory, said, sizeof said), 0);
    assert_string_equal(said, "");
}

static void a_leaked_scope_or_tensor_is_reported(void **state)
{
    (void)state;
    char said[512];
    assert_int_equal(report_of(leak_nothing, said, sizeof said), 0);
    assert_string_equal(said, "");
    assert_true(report_of(leak_tensor, said, sizeof said) > 0);
#ifdef TB_DEBUG
    assert_non_null(strstr(said, "0 scopes open, 1 tensors and "));
#endif
    assert_int_equal(report_of(leak_scope, said, sizeof said), 1);
#ifdef TB_DEBUG
    assert_non_null(strstr(said, "destroyed with 1 scopes open, 0 tensors and 0 blocks still alive"));
#endif
}

static void reading_with_the_wrong_size_says_both_sizes(void **state)
{
    (void)state;
    float y[2];
    assert_fails(tb_tensor_read(tb_zeros(TB_F32, 1, (int64_t[]){3}), y, sizeof y), TB_ERR_SHAPE,
                 "has 12 bytes, the buffer 8");
    assert_fails(tb_item_f32(tb_zeros(TB_F32, 1, (int64_t[]){3}), y), TB_ERR_SHAPE, "is not one number");
}

static void memory_is_accounted_by_tag_and_wrapped_memory_is_not(void **state)
{
    tb_mem_stats s;
    static float arena[16] __attribute__((aligned(64)));
    tb_ctx_set_tag(*state, TB_MEM_PARAM);
    tb_tensor *p = tb_zeros(TB_F32, 1, (int64_t[]){10});
    tb_ctx_set_tag(*state, TB_MEM_ACT);
    tb_tensor_wrap(TB_F32, 1, (int64_t[]){16}, arena);
    tb_heap_stats(tb_ctx_heap(*state), &s);
    assert_int_equal(s.live_by_tag[TB_MEM_PARAM], 40);
    assert_int_equal(s.live_by_tag[TB_MEM_ACT], 0);
    tb_tensor_set_tag(p, TB_MEM_OPT);
    tb_heap_stats(tb_ctx_heap(*state), &s);
    assert_int_equal(s.live_by_tag[TB_MEM_OPT], 40);
    assert_true(tb_is_poison(tb_tensor_wrap(TB_F32, 1, (int64_t[]){1}, arena + 1)));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_INVALID, "64-byte aligned");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(empty_and_0d_tensors_exist),
        ctx_test(impossible_shapes_are_refused_with_the_shape),
        ctx_test(getters_survive_poison),
        ctx_test(the_first_failure_stays_the_cause),
        ctx_test(retained_tensors_outlive_their_scope_and_views_their_source),
        ctx_test(scopes_take_turns),
        ctx_test(a_tensor_rebased_onto_its_own_memory_leaks_nothing),
        ctx_test(a_leaked_scope_or_tensor_is_reported),
        ctx_test(reading_with_the_wrong_size_says_both_sizes),
        ctx_test(memory_is_accounted_by_tag_and_wrapped_memory_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
