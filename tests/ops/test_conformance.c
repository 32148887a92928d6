/* Every op of the list, on its own samples: complete descriptor, reference against every kernel that this machine
 * runs, cpu and guard device, strided and aliased inputs, shapes on meta, bits at two threads, failing allocations,
 * gradients and gradients of gradients. At the end planted bugs show that the checks see them. TB_EVERY=n looks at each
 * n-th sample only, for sanitizers. */
#include "tb_test.h"
#include "ops/conformance.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static board all;

static int open_board(void **state)
{
    (void)state;
    return board_open(&all) == TB_OK ? 0 : tb_report(stderr);
}

static int close_board(void **state)
{
    (void)state;
    return board_close(&all) == 0 ? 0 : -1;
}

/* Goes through all ops, prints the first violation of each, fails on any and on having run nothing. */
static void check_all(sample_check check)
{
    int failed = 0, every = getenv("TB_EVERY") ? atoi(getenv("TB_EVERY")) : 1;
    all.cases = all.seen = 0;
    all.every = every > 1 ? every : 0;
    for (int i = 0; i < TB_OP_COUNT; i++)
        if (for_samples(&all, tb_op_at(i), check) != TB_OK) {
            print_error("%s\n", tb_error_message());
            failed++;
        }
    print_message("%lld cases\n", (long long)all.cases);
    all.every = 0;
    assert_true(all.cases * every > TB_OP_COUNT);
    assert_int_equal(failed, 0);
}

static void every_descriptor_is_complete(void **state)
{
    (void)state;
    int failed = 0;
    for (int i = 0; i < TB_OP_COUNT; i++)
        if (check_descriptor(tb_op_at(i)) != TB_OK) {
            print_error("%s\n", tb_error_message());
            failed++;
        }
    assert_int_equal(failed, 0);
}

static void strides_change_neither_bits_nor_whether_a_kernel_runs(void **state)
{
    (void)state;
    check_all(check_strides);
}

static void every_kernel_agrees_with_exact_arithmetic(void **state)
{
    (void)state;
    check_all(check_values);
}

static void meta_gives_the_same_shapes(void **state)
{
    (void)state;
    check_all(check_meta);
}

static void two_threads_give_the_same_bits(void **state)
{
    (void)state;
    check_all(check_threads);
}

static void a_failed_allocation_is_poison_and_leaks_nothing(void **state)
{
    (void)state;
    check_all(check_out_of_memory);
}

static void a_failed_allocation_of_a_backward_pass_is_told_and_leaks_nothing(void **state)
{
    (void)state;
    check_all(check_backward_out_of_memory);
}

static void gradients_and_their_gradients_agree_with_differences(void **state)
{
    (void)state;
    check_all(check_gradients);
}

/* ---- planted bugs: toy ops with one defect each ---- */
static void toy_samples(tb_samples *to)
{
    tb_sample(to, NULL, 1, &(tb_sample_in){TB_SHAPE(3, 5)});
    tb_sample(to, NULL, 1, &(tb_sample_in){TB_SHAPE(1, 0)});
}

static tb_status toy_shape(tb_op_call *c)
{
    tb_out_like(c, 0, c->in[0]);
    return TB_OK;
}

static tb_status double_ref(tb_op_call *c)
{
    const tb_tensor *x = c->in[0];
    tb_dtype t = (tb_dtype)x->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    tb_walk w;
    tb_walk_init(&w, x->rank, x->dims);
    tb_walk_add(&w, x);
    TB_WALK(&w)
    {
        double value = tb_load_f64(t, (char *)tb_op_data(x) + w.at[0] * size);
        tb_store_f64(t, (char *)tb_op_data(c->out[0]) + w.flat * size, 2 * value);
    }
    return TB_OK;
}

static tb_status overrun_fast(tb_op_call *c) /* right values, and one byte too many */
{
    TB_TRY(double_ref(c));
    char *end = (char *)tb_op_data(c->out[0]) + tb_tensor_bytes(c->out[0]);
    if (!c->ctx->device->always_open) *end = 1;
    return TB_OK;
}

static tb_status inexact_fast(tb_op_call *c) /* f32 is off by ten times what is allowed */
{
    TB_TRY(double_ref(c));
    float *y = tb_op_data(c->out[0]);
    for (int64_t i = 0; c->out[0]->dtype == TB_F32 && i < c->out[0]->numel; i++) y[i] *= 1 + 10 * 0x1p-23f;
    return TB_OK;
}

static tb_status transposing_fast(tb_op_call *c) /* takes every input for a contiguous one */
{
    const char *in = tb_op_data(c->in[0]);
    tb_dtype t = (tb_dtype)c->in[0]->dtype;
    int64_t size = (int64_t)tb_dtype_size(t);
    for (int64_t i = 0; i < c->out[0]->numel; i++)
        tb_store_f64(t, (char *)tb_op_data(c->out[0]) + i * size, 2 * tb_load_f64(t, in + i * size));
    return TB_OK;
}

static tb_status hopeful_fast(tb_op_call *c) /* goes on without its scratch */
{
    (void)tb_op_scratch(c, 64);
    return double_ref(c);
}

static void double_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_mul_number(c->grad[0], 2)); }
static void hopeful_grad(tb_grad_call *c) /* a factor that it could not make is 1 */
{
    tb_tensor *two = tb_scalar((tb_dtype)c->in_spec[0].dtype, 2);
    bool is_made = tb_ctx_take_error(c->ctx) == TB_OK;
    tb_grad_set(c, 0, is_made ? tb_mul(c->grad[0], two) : c->grad[0]);
}
static void wrong_grad(tb_grad_call *c) { tb_grad_set(c, 0, tb_mul_number(c->grad[0], 2.001)); }

static tb_op toy(tb_status (*fast)(tb_op_call *c), void (*grad)(tb_grad_call *c))
{
    return (tb_op){.name = "toy", .doc = "2 x", .n_in_min = 1, .n_in = 1, .n_out = 1, .dtypes = TB_FLOATS,
                   .dtypes_reason = "a toy", .shape = toy_shape, .ref = double_ref, .fast = fast, .grad = grad,
                   .samples = toy_samples, .tol = TB_TOL(1)};
}

#define assert_caught(op, check, text)                                                                                \
    do {                                                                                                              \
        tb_op caught_op = (op);                                                                                       \
        if (for_samples(&all, &caught_op, check) == TB_OK) fail_msg("%s: not caught", #op);                           \
        if (!strstr(tb_error_message(), text)) fail_msg("'%s' is not in: %s", text, tb_error_message());              \
    } while (0)

static void a_sound_toy_passes(void **state)
{
    (void)state;
    const tb_op op = toy(NULL, double_grad);
    static const sample_check checks[] = {check_values,        check_meta,
                                          check_threads,       check_out_of_memory,
                                          check_gradients,     check_backward_out_of_memory};
    assert_ok(check_descriptor(&op));
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) assert_ok(for_samples(&all, &op, checks[i]));
}

static void wrong_values_are_caught(void **state)
{
    (void)state;
    assert_caught(toy(inexact_fast, double_grad), check_values, "tolerance");
    assert_caught(toy(transposing_fast, double_grad), check_values, "permuted");
}

static void a_write_outside_an_operand_is_caught(void **state)
{
    (void)state;
    assert_caught(toy(overrun_fast, double_grad), check_values, "wrote outside its block");
}

static void a_wrong_gradient_is_caught(void **state)
{
    (void)state;
    assert_caught(toy(NULL, wrong_grad), check_gradients, "gradient of input 0");
}

static void going_on_without_memory_is_caught(void **state)
{
    (void)state;
    assert_caught(toy(hopeful_fast, double_grad), check_out_of_memory, "goes on");
    assert_caught(toy(NULL, hopeful_grad), check_backward_out_of_memory, "goes on");
}

static void an_incomplete_descriptor_is_caught(void **state)
{
    (void)state;
    tb_op op = toy(NULL, NULL);
    assert_fails(check_descriptor(&op), TB_ERR_INVALID, "needs a gradient");
    op = toy(NULL, double_grad);
    op.samples = NULL;
    assert_fails(check_descriptor(&op), TB_ERR_INVALID, "no samples");
    op = toy(NULL, double_grad);
    op.dtypes_reason = NULL;
    assert_fails(check_descriptor(&op), TB_ERR_INVALID, "why it lacks dtypes");
}

static void a_host_read_of_guarded_memory_is_a_segmentation_fault(void **state)
{
    (void)state;
    tb_ctx *guard = all.on[all.n - 1], *before = tb_ctx_enter(guard);
    tb_scope *scope = tb_scope_open();
    const tb_tensor *t = tb_zeros(TB_F32, 1, (int64_t[]){4});
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        volatile float seen = *(const volatile float *)tbi_data(t);
        (void)seen;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    tb_scope_close(scope);
    tb_ctx_enter(before);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_descriptor_is_complete),
        cmocka_unit_test(strides_change_neither_bits_nor_whether_a_kernel_runs),
        cmocka_unit_test(every_kernel_agrees_with_exact_arithmetic),
        cmocka_unit_test(meta_gives_the_same_shapes),
        cmocka_unit_test(two_threads_give_the_same_bits),
        cmocka_unit_test(a_failed_allocation_is_poison_and_leaks_nothing),
        cmocka_unit_test(a_failed_allocation_of_a_backward_pass_is_told_and_leaks_nothing),
        cmocka_unit_test(gradients_and_their_gradients_agree_with_differences),
        cmocka_unit_test(a_sound_toy_passes),
        cmocka_unit_test(wrong_values_are_caught),
        cmocka_unit_test(a_write_outside_an_operand_is_caught),
        cmocka_unit_test(a_wrong_gradient_is_caught),
        cmocka_unit_test(going_on_without_memory_is_caught),
        cmocka_unit_test(an_incomplete_descriptor_is_caught),
        cmocka_unit_test(a_host_read_of_guarded_memory_is_a_segmentation_fault),
    };
    return cmocka_run_group_tests(tests, open_board, close_board);
}
