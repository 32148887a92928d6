/* The toy op is found, computes, differentiates, and its kernel runs where the processor has AVX2. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_kernel.h"
#include "tb_op.h"
#include "tb_ops.h"

static void cubes_and_their_gradients(void **state)
{
    (void)state;
    tb_tensor *x = tb_arange(TB_F32, 0, 11, 1);
    float y[11], g[11];
    assert_ok(tb_require_grad(x));
    tb_tensor *c = tb_toy_cube(x);
    assert_ok(tb_tensor_read(c, y, sizeof y));
    assert_ok(tb_backward(tb_sum(c, 0, NULL, false)));
    assert_ok(tb_tensor_read(tb_grad(x), g, sizeof g));
    for (int i = 0; i < 11; i++) {
        assert_near(y[i], i * i * i, 0);
        assert_near(g[i], 3 * i * i, 0);
    }
}

static void the_lists_know_op_and_kernel(void **state)
{
    (void)state;
    const tb_kernel *k[4];
    assert_non_null(tb_op_find("toy_cube"));
    assert_int_equal(tb_kernel_find("toy_cube", TB_F32, TB_ISA_AVX512VNNI, k, 4), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(cubes_and_their_gradients), ctx_test(the_lists_know_op_and_kernel)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
