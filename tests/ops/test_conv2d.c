/* conv2d and its gradients. */
#include "op_test.h"

static void values_are_those_of_the_definition(void **state)
{
    (void)state;
    tb_tensor *x = F32(DIMS(1, 1, 3, 3), 1, 2, 3, 4, 5, 6, 7, 8, 9), *w = F32(DIMS(1, 1, 2, 2), 1, 0, 0, -1);
    assert_close(tb_conv2d(x, w, NULL, NULL), 0, -4, -4, -4, -4);
    assert_close(tb_conv2d(x, w, F32(DIMS(1), 10), &(tb_conv2d_opts){.pad = {1, 1}, .stride = {2, 2}}), 0, 9,
                 7, 3, 6);
    assert_close(tb_conv2d(x, w, NULL, &(tb_conv2d_opts){.dilation = {2, 2}}), 0, -8);
}

/* The definition as a matrix product over patches, built with other ops: for every window element a strided
 * slice of the padded input. */
static tb_tensor *by_patches(tb_tensor *x, tb_tensor *w, const tb_conv2d_opts *o, int64_t h, int64_t width)
{
    int64_t n = tb_tensor_dim(x, 0), c = tb_tensor_dim(x, 1), hi = tb_tensor_dim(x, 2),
            wi = tb_tensor_dim(x, 3);
    tb_tensor *big = tb_zeros(TB_F64, DIMS(n, c, hi + 2 * o->pad[0], wi + 2 * o->pad[1])), *sum = NULL;
    double *p = tb_tensor_host(big);
    const double *v = values_of(x);
    for (int64_t i = 0; i < n * c; i++)
        for (int64_t y = 0; y < hi; y++)
            memcpy(p + (i * (hi + 2 * o->pad[0]) + y + o->pad[0]) * (wi + 2 * o->pad[1]) + o->pad[1],
                   v + (i * hi + y) * wi, (size_t)wi * sizeof *p);
    for (int64_t i = 0; i < tb_tensor_dim(w, 2); i++)
        for (int64_t j = 0; j < tb_tensor_dim(w, 3); j++) {
            int64_t y = i * o->dilation[0], z = j * o->dilation[1];
            tb_tensor *patch = tb_slice(tb_slice(big, 2, y, y + (h - 1) * o->stride[0] + 1, o->stride[0]), 3,
                                        z, z + (width - 1) * o->stride[1] + 1, o->stride[1]);
            tb_tensor *tap = tb_slice(tb_slice(w, 2, i, i + 1, 1), 3, j, j + 1, 1);
            tb_tensor *rows = tb_reshape(patch, DIMS(n, c, h * width));
            tb_tensor *part = tb_matmul(tb_reshape(tap, DIMS(tb_tensor_dim(w, 0), c)), rows);
            sum = sum ? tb_add(sum, part) : part;
        }
    return tb_reshape(sum, DIMS(n, tb_tensor_dim(w, 0), h, width));
}

static void convolution_is_a_product_over_patches(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F64, 1, DIMS(2, 3, 9, 8)), *w = randoms(TB_F64, 2, DIMS(4, 3, 3, 2));
    static const tb_conv2d_opts opts[] = {
        {.stride = {1, 1}, .dilation = {1, 1}},
        {.stride = {2, 1}, .pad = {1, 2}, .dilation = {1, 1}},
        {.stride = {1, 3}, .pad = {2, 0}, .dilation = {2, 3}},
    };
    for (int i = 0; i < 3; i++) {
        tb_tensor *y = tb_conv2d(x, w, NULL, &opts[i]);
        assert_same(y, by_patches(x, w, &opts[i], tb_tensor_dim(y, 2), tb_tensor_dim(y, 3)), 1e-14);
    }
}

static void groups_are_convolutions_side_by_side(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F64, 1, DIMS(2, 4, 5, 5)), *w = randoms(TB_F64, 2, DIMS(6, 2, 3, 3));
    tb_tensor *y = tb_conv2d(x, w, NULL, &(tb_conv2d_opts){.groups = 2});
    for (int64_t g = 0; g < 2; g++) {
        tb_tensor *alone =
            tb_conv2d(tb_slice(x, 1, 2 * g, 2 * g + 2, 1), tb_slice(w, 0, 3 * g, 3 * g + 3, 1), NULL, NULL);
        assert_same(tb_slice(y, 1, 3 * g, 3 * g + 3, 1), alone, 0);
    }
}

/* <g, conv(x, w)> is linear in x and in w, so the gradients give it back. */
static void gradients_are_the_adjoints(void **state)
{
    (void)state;
    tb_conv2d_opts opts = {.stride = {2, 1}, .pad = {1, 2}, .dilation = {1, 2}, .groups = 2};
    tb_tensor *x = leaf_of(randoms(TB_F64, 1, DIMS(3, 4, 6, 7))),
              *w = leaf_of(randoms(TB_F64, 2, DIMS(2, 2, 3, 3)));
    tb_tensor *y = weighted_sum(tb_conv2d(x, w, NULL, &opts));
    assert_ok(tb_backward(y));
    assert_same(tb_sum(tb_mul(tb_grad(x), x), 0, NULL, false), y, 1e-12);
    assert_same(tb_sum(tb_mul(tb_grad(w), w), 0, NULL, false), y, 1e-12);
}

static tb_tensor *weight_gradient(tb_tensor *x, tb_tensor *g, int64_t from, int64_t to)
{
    tb_tensor *w = leaf_of(tb_zeros(TB_F32, DIMS(4, 2, 3, 3)));
    tb_tensor *y = tb_conv2d(tb_slice(x, 0, from, to, 1), w, NULL, NULL);
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = tb_slice(g, 0, from, to, 1)}));
    return tb_grad(w);
}

/* Ranks that hold whole blocks of the batch add up to the bits of one rank. */
static void a_weight_gradient_is_the_tree_of_its_shards(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(16, 2, 8, 7)), *g = randoms(TB_F32, 2, DIMS(16, 4, 6, 5));
    tb_tensor *whole = weight_gradient(x, g, 0, 16), *half[2];
    assert_ok(tb_ctx_set_batch_blocks(*state, 4));
    for (int i = 0; i < 2; i++) half[i] = weight_gradient(x, g, 8 * i, 8 * i + 8);
    assert_same(tb_add(half[0], half[1]), whole, 0);
}

static void the_bias_gets_the_sum_over_batch_and_places(void **state)
{
    (void)state;
    tb_tensor *x = randoms(TB_F32, 1, DIMS(2, 1, 3, 3)), *w = randoms(TB_F32, 2, DIMS(2, 1, 2, 2)),
              *b = leaf_of(F32(DIMS(2), 1, 2));
    tb_tensor *y = tb_conv2d(x, w, b, NULL);
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = tb_ones_like(y)}));
    assert_close(tb_grad(b), 0, 8, 8);
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    tb_tensor *x = randoms(TB_F32, 1, DIMS(1, 3, 4, 4)), *w = randoms(TB_F32, 1, DIMS(2, 3, 5, 5));
    assert_fails((tb_conv2d(x, w, NULL, NULL), tb_ctx_take_error(*state)), TB_ERR_SHAPE,
                 "a window of [5, 5] (dilation [1, 1]) does not fit into input [1, 3, 4, 4] with pad [0, 0]");
    assert_fails((tb_conv2d(x, w, NULL, &(tb_conv2d_opts){.groups = 3}), tb_ctx_take_error(*state)),
                 TB_ERR_SHAPE, "do not fit with 3 groups");
    assert_fails(
        (tb_conv2d(x, w, F32(DIMS(3), 1, 2, 3), &(tb_conv2d_opts){.pad = {1, 1}}), tb_ctx_take_error(*state)),
        TB_ERR_SHAPE, "bias must be f32 [2]");
    assert_fails((tb_conv2d(x, w, NULL, &(tb_conv2d_opts){.pad = {-1, 1}}), tb_ctx_take_error(*state)),
                 TB_ERR_INVALID, "pad");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(values_are_those_of_the_definition), ctx_test(convolution_is_a_product_over_patches),
        ctx_test(groups_are_convolutions_side_by_side), ctx_test(gradients_are_the_adjoints),
        ctx_test(a_weight_gradient_is_the_tree_of_its_shards),
        ctx_test(the_bias_gets_the_sum_over_batch_and_places), ctx_test(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
