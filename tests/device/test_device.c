/* Devices: what guard catches, what meta counts. */
#include "tb_test.h"
#include "tb_ops.h"
#include "tensor_internal.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int guard_setup(void **state) { return test_setup_on(state, "guard", 1); }
static int meta_setup(void **state) { return test_setup_on(state, "meta", 1); }

/* The signal that ends a child which runs f(t); 0 when it lives. */
static int signal_of(void (*f)(tb_tensor *), tb_tensor *t)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer would report and exit instead */
        f(t);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void read_closed(tb_tensor *t) { (void)*(volatile float *)t->storage->mem.data; }
static void write_far(tb_tensor *t)
{
    tbi_open(t);
    ((volatile char *)t->storage->mem.data)[64] = 1;
}

static void a_host_read_of_guard_memory_is_a_fault(void **state)
{
    (void)state;
    tb_tensor *t = tb_full(TB_F32, 1, (int64_t[]){16}, 3);
    assert_int_equal(signal_of(read_closed, t), SIGSEGV);
    assert_null(tb_tensor_host(t));
}

static void a_write_past_the_end_is_a_fault_and_one_in_the_slack_is_reported(void **state)
{
    (void)state;
    tb_tensor *t = tb_full(TB_F32, 1, (int64_t[]){16}, 3), *odd = tb_full(TB_F32, 1, (int64_t[]){3}, 3);
    assert_int_equal(signal_of(write_far, t), SIGSEGV);
    tbi_open(odd);
    ((char *)odd->storage->mem.data)[12] = 1;
    assert_fails(tbi_close(odd), TB_ERR_INTERNAL, "wrote outside its block of 12 bytes");
}

static void ops_run_on_guard_memory(void **state)
{
    (void)state;
    float y[4];
    tb_tensor *a = tb_reshape(tb_arange(TB_F32, 0, 4, 1), 2, (int64_t[]){2, 2});
    assert_ok(tb_tensor_read(tb_matmul(a, tb_transpose(a, 0, 1)), y, sizeof y));
    assert_memory_equal(y, ((float[]){1, 3, 3, 13}), sizeof y);
}

static void meta_tensors_have_shapes_and_counted_bytes_only(void **state)
{
    tb_tensor *a = tb_zeros(TB_F32, 2, (int64_t[]){1 << 20, 1 << 20}), *b = tb_matmul(a, a);
    tb_mem_stats s;
    tb_heap_stats(tb_ctx_heap(*state), &s);
    assert_int_equal(tb_tensor_dim(b, 1), 1 << 20);
    assert_true(s.live_by_tag[TB_MEM_ACT] == (int64_t)2 << 42);
}

static void unknown_devices_are_named(void **state)
{
    (void)state;
    tb_ctx *ctx;
    assert_fails(tb_ctx_create(&(tb_ctx_config){.device = "cud"}, &ctx), TB_ERR_NOT_FOUND, "no device 'cud'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_host_read_of_guard_memory_is_a_fault, guard_setup, test_teardown),
        cmocka_unit_test_setup_teardown(a_write_past_the_end_is_a_fault_and_one_in_the_slack_is_reported, guard_setup,
                                        test_teardown),
        cmocka_unit_test_setup_teardown(ops_run_on_guard_memory, guard_setup, test_teardown),
        cmocka_unit_test_setup_teardown(meta_tensors_have_shapes_and_counted_bytes_only, meta_setup, test_teardown),
        cmocka_unit_test(unknown_devices_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
