/* rank_sum against its definition: the pairwise tree in rank order, to the bit, into one or all outputs, in place. */
#include "kernel_test.h"

static void all_kernels_add_the_tree_in_rank_order(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n_kernels = kernel_test_find("rank_sum", TB_F32, kernels, 8);
    for (int which = 0; which < n_kernels; which++)
        for (int ranks = 2; ranks <= 8; ranks *= 2)
            for (int64_t n = 0; n < 300; n = 2 * n + 1)
                for (int n_out = 1; n_out <= ranks; n_out += ranks - 1) {
                    float *data[8], want[300];
                    for (int r = 0; r < ranks; r++) data[r] = guarded_random(n, (uint64_t)r);
                    for (int64_t i = 0; i < n; i++) {
                        float x[8];
                        for (int r = 0; r < ranks; r++) x[r] = data[r][i];
                        for (int left = ranks; left > 1; left /= 2)
                            for (int r = 0; r < left / 2; r++) x[r] = x[2 * r] + x[2 * r + 1];
                        want[i] = x[0];
                    }
                    tb_rank_sum_args a = { .n = n, .ranks = ranks, .n_out = n_out, .in = (const void *const *)data,
                                           .out = (void *const *)data };
                    assert_true(kernels[which]->supports(&a));
                    kernels[which]->run(&a);
                    for (int r = 0; r < n_out; r++) assert_true(same_bits(data[r], want, n));
                    guarded_free_all();
                }
}

static void other_group_sizes_are_refused(void **state)
{
    (void)state;
    const tb_kernel *kernels[8];
    int n = kernel_test_find("rank_sum", TB_F32, kernels, 8);
    for (int k = 0; k < n; k++)
        for (int ranks = 1; ranks < 20; ranks++)
            for (int n_out = 0; n_out < 20; n_out++)
                assert_int_equal(kernels[k]->supports(&(tb_rank_sum_args){ .ranks = ranks, .n_out = n_out }),
                                 (ranks == 2 || ranks == 4 || ranks == 8) && (n_out == 1 || n_out == ranks));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_kernels_add_the_tree_in_rank_order),
        cmocka_unit_test(other_group_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
