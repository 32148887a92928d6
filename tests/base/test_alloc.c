/* The counted, caching heap. */
#include "tb_test.h"
#include <stdlib.h>

static int heap_setup(void **state) { return (*state = tb_heap_create()) ? 0 : -1; }
static int heap_teardown(void **state) { return tb_heap_destroy(*state) == 0 ? 0 : -1; }

static void live_bytes_are_the_requested_ones_by_purpose(void **state)
{
    tb_mem_stats s;
    void *a = tb_heap_alloc(*state, 100, TB_MEM_PARAM), *b = tb_heap_alloc(*state, 7, TB_MEM_ACT);
    tb_heap_stats(*state, &s);
    assert_int_equal(s.live_bytes, 107);
    assert_int_equal(s.live_by_tag[TB_MEM_PARAM], 100);
    assert_int_equal(s.live_by_tag[TB_MEM_ACT], 7);
    tb_heap_free(*state, a);
    tb_heap_free(*state, b);
    tb_heap_stats(*state, &s);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.peak_bytes, 107);
    assert_int_equal(s.at_peak_by_tag[TB_MEM_PARAM], 100);
}

static void blocks_are_aligned_for_every_size(void **state)
{
    for (size_t bytes = 0; bytes < 5000000; bytes = bytes * 3 / 2 + 1) {
        char *p = tb_heap_alloc(*state, bytes, TB_MEM_OTHER);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_int_equal(tb_heap_block_bytes(p), bytes);
        memset(p, 1, bytes);
        tb_heap_free(*state, p);
    }
}

static void a_freed_block_is_handed_out_again_without_the_system(void **state)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)state;
    skip();
#else
    tb_mem_stats before, after;
    for (int i = 0; i < 100; i++) {
        void *p = tb_heap_alloc(*state, 1000 + (size_t)(i % 7), TB_MEM_ACT),
             *q = tb_heap_alloc(*state, 3 << 20, TB_MEM_ACT);
        if (i == 20) tb_heap_stats(*state, &before);
        tb_heap_free(*state, p);
        tb_heap_free(*state, q);
    }
    tb_heap_stats(*state, &after);
    assert_int_equal(after.system_calls, before.system_calls);
    assert_true(after.cached_bytes >= 3 << 20);
    tb_heap_trim(*state);
    tb_heap_stats(*state, &after);
    assert_int_equal(after.cached_bytes, 0);
#endif
}

static void retagging_moves_bytes(void **state)
{
    tb_mem_stats s;
    void *p = tb_heap_alloc(*state, 10, TB_MEM_ACT);
    tb_heap_retag(*state, p, TB_MEM_GRAD);
    tb_heap_stats(*state, &s);
    assert_int_equal(s.live_by_tag[TB_MEM_ACT], 0);
    assert_int_equal(s.live_by_tag[TB_MEM_GRAD], 10);
    tb_heap_free(*state, p);
}

static void an_injected_failure_fails_once_and_says_what_was_asked(void **state)
{
    tb_heap_fail_at(*state, 2);
    void *a = tb_heap_alloc(*state, 8, TB_MEM_ACT);
    assert_non_null(a);
    assert_null(tb_heap_alloc(*state, 4321, TB_MEM_GRAD));
    assert_non_null(strstr(tb_error_message(), "4321 bytes (grad)"));
    void *b = tb_heap_alloc(*state, 8, TB_MEM_ACT);
    assert_non_null(b);
    tb_heap_free(*state, a);
    tb_heap_free(*state, b);
}

static void a_leak_is_counted(void **state)
{
    (void)state;
    tb_heap *heap = tb_heap_create();
    assert_non_null(tb_heap_alloc(heap, 5, TB_MEM_OTHER));
    assert_int_equal(tb_heap_destroy(heap), 1);
}

static void meta_blocks_count_and_hold_nothing(void **state)
{
    tb_mem_stats s;
    void *p = tb_heap_alloc_meta(*state, (size_t)1 << 40, TB_MEM_ACT);
    tb_heap_stats(*state, &s);
    assert_int_equal(s.live_bytes, (int64_t)1 << 40);
    tb_heap_free(*state, p);
}

static void overflowing_sizes_are_refused(void **state)
{
    (void)state;
    assert_null(tb_calloc(SIZE_MAX / 2, 4));
    assert_null(tb_heap_alloc(*state, SIZE_MAX / 2, TB_MEM_ACT));
}

#define heap_test(f) cmocka_unit_test_setup_teardown(f, heap_setup, heap_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        heap_test(live_bytes_are_the_requested_ones_by_purpose), heap_test(blocks_are_aligned_for_every_size),
        heap_test(a_freed_block_is_handed_out_again_without_the_system), heap_test(retagging_moves_bytes),
        heap_test(an_injected_failure_fails_once_and_says_what_was_asked), heap_test(a_leak_is_counted),
        heap_test(meta_blocks_count_and_hold_nothing), heap_test(overflowing_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
