/* Recording and backward: values, accumulation, lifetimes, hooks, second gradients, recompute, deferral. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_op.h"
#include "tb_ops.h"

static tb_tensor *leaf(tb_dtype t, int n, const double *x)
{
    tb_tensor *p = tb_cast(tb_tensor_from(TB_F64, 1, (int64_t[]){n}, x), t);
    assert_ok(tb_require_grad(p));
    return p;
}

static void assert_grad(tb_tensor *p, const double *expected, int n)
{
    double got[8];
    assert_non_null(tb_grad(p));
    assert_ok(tb_tensor_read(tb_cast(tb_grad(p), TB_F64), got, sizeof *got * (size_t)n));
    for (int i = 0; i < n; i++) assert_near(got[i], expected[i], 1e-6);
}

static void gradients_of_a_product_are_the_other_factor(void **state)
{
    (void)state;
    tb_tensor *a = leaf(TB_F32, 2, (double[]){2, 3}), *b = leaf(TB_F32, 2, (double[]){5, 7});
    assert_ok(tb_backward(tb_sum(tb_mul(a, b), 0, NULL, false)));
    assert_grad(a, (double[]){5, 7}, 2);
    assert_grad(b, (double[]){2, 3}, 2);
}

static void gradients_accumulate_until_cleared(void **state)
{
    (void)state;
    tb_tensor *a = leaf(TB_F32, 1, (double[]){2});
    for (int i = 0; i < 3; i++) assert_ok(tb_backward(tb_sum(tb_mul(a, a), 0, NULL, false)));
    assert_grad(a, (double[]){12}, 1);
    tb_grad_clear(a);
    assert_null(tb_grad(a));
}

static void broadcast_operands_get_summed_gradients(void **state)
{
    (void)state;
    tb_tensor *bias = leaf(TB_F32, 2, (double[]){1, 2}), *x = tb_full(TB_F32, 2, (int64_t[]){3, 2}, 1);
    assert_ok(tb_backward(tb_sum(tb_add(x, bias), 0, NULL, false)));
    assert_grad(bias, (double[]){3, 3}, 2);
}

/* Each of h's uses hands on the gradient that it got, or a view of it: what arrives has the same storage. */
static void uses_that_pass_their_gradient_on_are_summed(void **state)
{
    (void)state;
    const int64_t square[] = {2, 2}, flat[] = {4};
    for (int way = 0; way < 5; way++) {
        tb_tensor *x = leaf(TB_F32, 4, (double[]){1, 2, 3, 4}), *h = tb_reshape(tb_relu(x), 2, square), *y;
        tb_tensor *w = tb_tensor_from(TB_F32, 2, square, (float[]){1, 10, 100, 1000});
        if (way == 0)
            y = tb_add(h, h);
        else if (way == 1)
            y = tb_add(h, tb_permute(h, 2, (int64_t[]){1, 0}));
        else if (way == 2)
            y = tb_add(tb_reshape(tb_reshape(h, 1, flat), 2, square), h);
        else if (way == 3)
            y = tb_add(tb_add(h, h), tb_add(h, h));
        else
            y = tb_sub(tb_add(h, h), h);
        assert_ok(tb_backward(tb_sum(tb_mul(y, w), 0, NULL, false)));
        const double times = way == 3 ? 4 : way == 4 ? 1 : 2;
        const double expected[] = {times * 1, way == 1 ? 110 : times * 10, way == 1 ? 110 : times * 100, times * 1000};
        assert_grad(x, expected, 4);
    }
}

static void a_given_buffer_receives_the_gradient_in_place(void **state)
{
    (void)state;
    float arena[64] __attribute__((aligned(64))) = {9, 9};
    tb_tensor *a = leaf(TB_F32, 2, (double[]){2, 3}), *buffer = tb_tensor_wrap(TB_F32, 1, (int64_t[]){2}, arena);
    assert_ok(tb_grad_set_buffer(a, buffer));
    for (int i = 1; i <= 2; i++) {
        assert_ok(tb_backward(tb_sum(tb_mul(a, a), 0, NULL, false)));
        assert_near(arena[0], 4.0 * i, 0);
        assert_near(arena[1], 6.0 * i, 0);
    }
}

static void rows_of_a_buffer_keep_the_uses_apart_until_they_are_joined(void **state)
{
    (void)state;
    float arena[64] __attribute__((aligned(64))) = {0};
    tb_tensor *a = leaf(TB_F32, 2, (double[]){2, 3}), *rows = tb_tensor_wrap(TB_F32, 2, (int64_t[]){2, 2}, arena);
    tb_tensor *x = tb_full(TB_F32, 1, (int64_t[]){2}, 5);
    assert_ok(tb_grad_set_buffer(a, rows));
    for (int pass = 1; pass <= 2; pass++) { /* sub is newer than mul: its use comes first */
        assert_ok(tb_backward(tb_sum(tb_sub(tb_mul(a, x), a), 0, NULL, false)));
        assert_memory_equal(arena, ((float[]){-pass, -pass, 5 * pass, 5 * pass}), 16);
    }
    assert_ok(tb_grad_join(a));
    assert_grad(a, (double[]){8, 8}, 2);
    assert_memory_equal(arena, ((float[]){8, 8, 0, 0}), 16);
    tb_grad_clear(a);
    assert_ok(tb_backward(tb_sum(tb_mul(a, x), 0, NULL, false)));
    assert_ok(tb_grad_join(a));
    assert_grad(a, (double[]){5, 5}, 2);
    tb_grad_clear(a);
    assert_ok(tb_backward(tb_sum(tb_sub(tb_mul(a, x), a), 0, NULL, false)));
    tb_grad_clear(a); /* a step that is discarded: what its second use left does not count later */
    assert_ok(tb_backward(tb_sum(tb_mul(a, x), 0, NULL, false)));
    assert_ok(tb_grad_join(a));
    assert_grad(a, (double[]){5, 5}, 2);
}

static int calls_seen;
static void count_call(tb_tensor *t, void *arg)
{
    assert_non_null(tb_grad(t));
    *(int *)arg = ++calls_seen;
}

static void hooks_run_once_when_all_uses_have_contributed(void **state)
{
    (void)state;
    tb_tensor *a = leaf(TB_F32, 1, (double[]){2}), *b = leaf(TB_F32, 1, (double[]){3});
    int when_a = 0, when_b = 0;
    calls_seen = 0;
    assert_ok(tb_grad_set_hook(a, count_call, &when_a));
    assert_ok(tb_grad_set_hook(b, count_call, &when_b));
    tb_tensor *y = tb_mul(tb_mul(a, a), a); /* a is used three times, the last time by the oldest node */
    assert_ok(tb_backward(tb_sum(tb_mul(y, b), 0, NULL, false)));
    assert_int_equal(calls_seen, 2);
    assert_int_equal(when_b, 1);
    assert_int_equal(when_a, 2);
    assert_grad(a, (double[]){36}, 1);
}

static void gradients_have_gradients(void **state)
{
    (void)state;
    tb_tensor *x = leaf(TB_F64, 1, (double[]){3}), *g, *gg;
    tb_tensor *y = tb_sum(tb_div(tb_mul(tb_mul(x, x), x), tb_scalar(TB_F64, 1)), 0, NULL, false);
    assert_ok(tb_gradients(y, &(tb_backward_opts){.create_graph = true}, 1, &x, &g));
    assert_ok(tb_gradients(g, NULL, 1, &x, &gg));
    double v;
    assert_ok(tb_item_f64(gg, &v));
    assert_near(v, 18, 1e-12);
}

/* A planted op without gradient, and one whose gradient rule uses it. */
static tb_status same_shape(tb_op_call *c)
{
    tb_out_like(c, 0, c->in[0]);
    return TB_OK;
}

static tb_status copy_ref(tb_op_call *c)
{
    memcpy(tb_op_data(c->out[0]), tb_op_data(c->in[0]), (size_t)tb_tensor_bytes(c->out[0]));
    return TB_OK;
}

static const tb_op blind = {.name = "blind", .doc = "y = x", .n_in_min = 1, .n_in = 1, .n_out = 1,
                            .dtypes = TB_FLOATS, .shape = same_shape, .ref = copy_ref, .no_grad = "planted"};

static void seeing_grad(tb_grad_call *c)
{
    tb_tensor *slope = tb_call(&blind, NULL, TB_IN(c->in[0]));
    tb_grad_set(c, 0, tb_mul(c->grad[0], slope));
}

static const tb_op seeing = {.name = "seeing", .doc = "y = x", .n_in_min = 1, .n_in = 1, .n_out = 1,
                             .dtypes = TB_FLOATS, .shape = same_shape, .ref = copy_ref, .grad = seeing_grad,
                             .saves = TB_SAVE_IN(0)};

static void an_op_without_gradient_below_a_second_gradient_is_named(void **state)
{
    (void)state;
    tb_tensor *x = leaf(TB_F64, 1, (double[]){3}), *g;
    tb_tensor *y = tb_sum(tb_call(&seeing, NULL, TB_IN(x)), 0, NULL, false);
    assert_fails(tb_gradients(y, &(tb_backward_opts){.create_graph = true}, 1, &x, &g), TB_ERR_UNSUPPORTED,
                 "the gradient of seeing goes through blind, which has no gradient (planted)");
    assert_ok(tb_backward(tb_sum(tb_call(&seeing, NULL, TB_IN(x)), 0, NULL, false)));
    assert_grad(x, (double[]){3}, 1);
}

static void a_buffer_cannot_keep_the_graph_of_a_gradient(void **state)
{
    (void)state;
    tb_tensor *x = leaf(TB_F64, 1, (double[]){3});
    assert_ok(tb_grad_set_buffer(x, tb_zeros(TB_F64, 1, (int64_t[]){1})));
    tb_tensor *y = tb_sum(tb_mul(x, x), 0, NULL, false);
    assert_fails(tb_backward_with(y, &(tb_backward_opts){.create_graph = true}), TB_ERR_UNSUPPORTED,
                 "take it with tb_gradients()");
}

/* And leaves nothing behind in the graph. */
static void asking_for_what_the_root_does_not_depend_on_gives_nothing(void **state)
{
    (void)state;
    tb_tensor *a = leaf(TB_F32, 2, (double[]){2, 3}), *b = leaf(TB_F32, 1, (double[]){1}), *g;
    tb_tensor *y = tb_sum(tb_mul(a, a), 0, NULL, false);
    assert_ok(tb_gradients(y, NULL, 1, &b, &g));
    assert_null(g);
    assert_ok(tb_backward(y));
    assert_grad(a, (double[]){4, 6}, 2);
}

static void inner_values_and_the_root_itself_have_gradients(void **state)
{
    (void)state;
    tb_tensor *a = leaf(TB_F32, 2, (double[]){1, 2}), *h = tb_mul(a, a), *g[4];
    tb_tensor *y = tb_sum(tb_mul(tb_neg(h), h), 0, NULL, false); /* -a^4 */
    assert_ok(tb_gradients(y, NULL, 4, (tb_tensor *[]){h, a, h, y}, g));
    const double expected[4][2] = {{-2, -8}, {-4, -32}, {-2, -8}, {1}};
    for (int i = 0; i < 4; i++) {
        float got[2];
        assert_ok(tb_tensor_read(g[i], got, tb_tensor_bytes(g[i])));
        for (int k = 0; k < (i < 3 ? 2 : 1); k++) assert_near(got[k], expected[i][k], 0);
    }
}

static void the_gradient_of_a_root_has_its_shape_and_takes_its_dtype(void **state)
{
    (void)state;
    const int64_t square[] = {2, 2};
    tb_tensor *a = leaf(TB_F32, 4, (double[]){1, 2, 3, 4}), *y = tb_reshape(tb_mul(a, a), 2, square);
    tb_tensor *flat = tb_full(TB_F32, 1, (int64_t[]){4}, 1), *wide = tb_full(TB_F64, 2, square, 0.5);
    assert_fails(tb_backward_with(y, &(tb_backward_opts){.grad = flat}), TB_ERR_SHAPE, "[4] is not its root's, [2, 2]");
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.grad = wide}));
    assert_grad(a, (double[]){1, 2, 3, 4}, 4);
}

static void several_graphs_go_backward_in_any_order(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2}), *loss[3];
    for (int i = 0; i < 3; i++) loss[i] = tb_sum(tb_mul(tb_mul(w, w), tb_scalar(TB_F32, i + 1)), 0, NULL, false);
    assert_ok(tb_backward(loss[1]));
    assert_ok(tb_backward(loss[2]));
    assert_ok(tb_backward(loss[0]));
    assert_grad(w, (double[]){24}, 1);
}

static void a_second_backward_says_that_the_graph_is_freed(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2}), *y = tb_sum(tb_mul(w, w), 0, NULL, false);
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.retain_graph = true}));
    assert_ok(tb_backward(y));
    assert_grad(w, (double[]){8}, 1);
    assert_fails(tb_backward(y), TB_ERR_INVALID, "retain_graph");
}

static void a_saved_tensor_changed_in_place_is_found(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2}), *x = tb_full(TB_F32, 1, (int64_t[]){1}, 1);
    tb_tensor *y = tb_sum(tb_mul(w, x), 0, NULL, false);
    tb_accumulate(x, x, false);
    assert_fails(tb_backward(y), TB_ERR_INVALID, "changed in place");
}

static void nothing_is_recorded_when_the_mode_is_off(void **state)
{
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2});
    tb_grad_mode(*state, false);
    assert_fails(tb_backward(tb_mul(w, w)), TB_ERR_INVALID, "no recorded op");
    tb_grad_mode(*state, true);
    assert_false(tb_requires_grad(tb_detach(tb_mul(w, w))));
}

static void closing_the_scope_keeps_what_the_graph_needs_and_no_more(void **state)
{
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2});
    int64_t before = tb_ctx_live_tensors(*state);
    tb_scope *s = tb_scope_open();
    tb_tensor *y = tb_scope_escape(s, tb_sum(tb_mul(tb_neg(w), tb_neg(tb_neg(w))), 0, NULL, false));
    assert_int_equal(tb_ctx_live_tensors(*state), before + 3); /* y and the two factors that mul saved */
    assert_ok(tb_backward(y));
    assert_int_equal(tb_ctx_live_tensors(*state), before + 2); /* y and the gradient */
    assert_grad(w, (double[]){-4}, 1);
}

static void a_graph_of_many_nodes_needs_no_stack(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F32, 1, (double[]){1}), *y = w;
    tb_retain(y);
    for (int i = 0; i < 100000; i++) {
        tb_scope *s = tb_scope_open();
        tb_tensor *next = tb_retain(tb_neg(y));
        tb_scope_close(s);
        tb_release(y);
        y = next;
    }
    assert_ok(tb_backward(y));
    assert_grad(w, (double[]){1}, 1);
    tb_release(y);
}

static void count_when_complete(tb_tensor *t, void *arg)
{
    double g;
    assert_ok(tb_item_f64(tb_grad(t), &g));
    assert_near(g, 13500, 1e-9);
    *(int *)arg += 1;
}

static tb_tensor *cube(void *arg, tb_tensor *x) { return tb_mul(tb_mul(x, x), tb_mul(x, (tb_tensor *)arg)); }

static void recomputed_segments_give_the_same_gradients(void **state)
{
    (void)state;
    double expected_w[1] = {0}, expected_x[1] = {0};
    for (int pass = 0; pass < 2; pass++) {
        tb_tensor *x = leaf(TB_F64, 1, (double[]){3}), *w = leaf(TB_F64, 1, (double[]){5});
        int hooked = 0;
        calls_seen = 0;
        assert_ok(tb_grad_set_hook(w, count_call, &hooked));
        tb_tensor *h = tb_mul(x, w);
        tb_tensor *y = pass ? tb_recompute(cube, w, h) : cube(w, h);
        assert_ok(tb_backward(tb_sum(tb_mul(y, w), 0, NULL, false)));
        double gw[1], gx[1];
        assert_ok(tb_tensor_read(tb_grad(w), gw, sizeof gw));
        assert_ok(tb_tensor_read(tb_grad(x), gx, sizeof gx));
        if (pass) {
            assert_near(gw[0], expected_w[0], 1e-9);
            assert_near(gx[0], expected_x[0], 1e-9);
        }
        expected_w[0] = gw[0];
        expected_x[0] = gx[0];
        assert_int_equal(calls_seen, 1);
    }
}

/* A tied head: recomputed on its own, its embedding used again below it. */
static void a_hook_waits_for_uses_outside_of_a_recomputed_segment(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F64, 1, (double[]){5}), *x = leaf(TB_F64, 1, (double[]){3});
    int hooked = 0;
    tb_tensor *y = tb_recompute(cube, w, tb_mul(x, w)); /* (x w)^3 w: 4 x^3 w^3 */
    assert_ok(tb_grad_set_hook(w, count_when_complete, &hooked));
    assert_ok(tb_backward(tb_sum(y, 0, NULL, false)));
    assert_int_equal(hooked, 1);
    assert_grad(w, (double[]){13500}, 1);
}

static void deferred_weight_gradients_arrive_in_the_second_half(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2}), *v = leaf(TB_F32, 1, (double[]){3});
    tb_tensor *x = leaf(TB_F32, 1, (double[]){5});
    tb_tensor *y = tb_sum(tb_mul(tb_mul(x, w), v), 0, NULL, false);
    assert_ok(tb_backward_with(y, &(tb_backward_opts){.defer_weights = true, .input = x}));
    assert_grad(x, (double[]){6}, 1); /* what the stage before waits for */
    assert_null(tb_grad(w));
    assert_null(tb_grad(v));
    assert_ok(tb_backward_weights(y));
    assert_grad(w, (double[]){15}, 1);
    assert_grad(v, (double[]){10}, 1);
}

/* What waits in a node is of one pass: another one's gradients must not be added to it. */
static void a_pass_through_weights_that_wait_is_refused(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F32, 1, (double[]){2}), *x = leaf(TB_F32, 1, (double[]){5}), *g;
    tb_tensor *h = tb_mul(x, w), *one = tb_sum(h, 0, NULL, false), *two = tb_sum(tb_mul(h, h), 0, NULL, false);
    const tb_backward_opts defer = {.defer_weights = true, .retain_graph = true, .input = x};
    assert_ok(tb_backward_with(one, &defer));
    assert_fails(tb_backward_with(two, &defer), TB_ERR_INVALID, "wait for tb_backward_weights()");
    assert_fails(tb_backward(two), TB_ERR_INVALID, "through mul");
    assert_fails(tb_gradients(two, NULL, 1, &x, &g), TB_ERR_INVALID, "through mul");
    assert_ok(tb_backward_weights(one));
    assert_grad(x, (double[]){2}, 1);
    assert_grad(w, (double[]){5}, 1);
    tb_tensor *y = tb_sum(tb_mul(x, w), 0, NULL, false);
    tb_accumulate(x, x, false); /* the first half fails: nothing waits for the second */
    assert_fails(tb_backward_with(y, &defer), TB_ERR_INVALID, "changed in place");
    assert_ok(tb_backward_weights(y));
    assert_grad(w, (double[]){5}, 1);
}

static tb_tensor *times(void *arg, tb_tensor *x) { return tb_mul(x, (tb_tensor *)arg); }

/* Its second run would walk the graph of what it reads, in which other gradients may still be on their way. */
static void a_recomputed_segment_reads_no_other_results(void **state)
{
    tb_tensor *w = leaf(TB_F64, 1, (double[]){2}), *x = leaf(TB_F64, 1, (double[]){3}), *h = tb_mul(w, w);
    tb_tensor *later = tb_mul(h, h);
    assert_true(tb_is_poison(tb_recompute(times, h, x)));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_UNSUPPORTED, "tb_detach() it");
    assert_ok(tb_backward(tb_sum(tb_add(later, tb_recompute(times, tb_detach(h), x)), 0, NULL, false)));
    assert_grad(w, (double[]){32}, 1);
    assert_grad(x, (double[]){4}, 1);
}

static void a_parameter_of_a_recomputed_segment_changed_in_place_is_found(void **state)
{
    (void)state;
    tb_tensor *w = leaf(TB_F64, 1, (double[]){2}), *x = leaf(TB_F64, 1, (double[]){3});
    tb_tensor *y = tb_sum(tb_recompute(times, w, x), 0, NULL, false);
    tb_tensor_set_name(w, "w");
    tb_accumulate(w, tb_detach(x), false);
    assert_fails(tb_backward(y), TB_ERR_INVALID, "the parameter w of a recomputed segment was changed in place");
}

static void anomaly_mode_names_the_op_that_made_the_nan(void **state)
{
    assert_ok(tb_anomaly_mode(*state, true));
    tb_tensor *zero = tb_full(TB_F32, 1, (int64_t[]){2}, 0);
    tb_tensor *y = tb_neg(tb_add(tb_div(zero, zero), zero));
    assert_true(tb_is_poison(y));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_INVALID, "op div made the first NaN");
}

static void anomaly_mode_names_the_gradient_that_made_the_nan(void **state)
{
    tb_tensor *x = leaf(TB_F32, 2, (double[]){0, 1}), *zero = tb_full(TB_F32, 1, (int64_t[]){2}, 0);
    tb_tensor *y = tb_sum(tb_mul(tb_sqrt(x), zero), 0, NULL, false); /* 0 times an infinite slope */
    assert_ok(tb_anomaly_mode(*state, true));
    assert_fails(tb_backward(y), TB_ERR_INVALID, "in the gradient of sqrt");
    assert_ok(tb_anomaly_mode(*state, false));
    assert_ok(tb_backward(tb_sum(tb_mul(tb_sqrt(x), zero), 0, NULL, false)));
}

static tb_tensor *wrong_square(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_sum(tb_mul(in[0], tb_detach(in[0])), 0, NULL, false); /* half of the gradient is missing */
}

static void the_gradient_check_finds_a_wrong_gradient(void **state)
{
    (void)state;
    tb_tensor *x = leaf(TB_F64, 2, (double[]){1, 2});
    assert_fails(tb_gradcheck(wrong_square, NULL, 1, &x, 1e-4, 1e-6), TB_ERR_PARITY, "gradient of input 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(gradients_of_a_product_are_the_other_factor),
        ctx_test(gradients_accumulate_until_cleared),
        ctx_test(broadcast_operands_get_summed_gradients),
        ctx_test(uses_that_pass_their_gradient_on_are_summed),
        ctx_test(a_given_buffer_receives_the_gradient_in_place),
        ctx_test(rows_of_a_buffer_keep_the_uses_apart_until_they_are_joined),
        ctx_test(a_hook_waits_for_uses_outside_of_a_recomputed_segment),
        ctx_test(hooks_run_once_when_all_uses_have_contributed),
        ctx_test(gradients_have_gradients),
        ctx_test(an_op_without_gradient_below_a_second_gradient_is_named),
        ctx_test(a_buffer_cannot_keep_the_graph_of_a_gradient),
        ctx_test(asking_for_what_the_root_does_not_depend_on_gives_nothing),
        ctx_test(inner_values_and_the_root_itself_have_gradients),
        ctx_test(the_gradient_of_a_root_has_its_shape_and_takes_its_dtype),
        ctx_test(several_graphs_go_backward_in_any_order),
        ctx_test(a_second_backward_says_that_the_graph_is_freed),
        ctx_test(a_saved_tensor_changed_in_place_is_found),
        ctx_test(nothing_is_recorded_when_the_mode_is_off),
        ctx_test(closing_the_scope_keeps_what_the_graph_needs_and_no_more),
        ctx_test(a_graph_of_many_nodes_needs_no_stack),
        ctx_test(recomputed_segments_give_the_same_gradients),
        ctx_test(deferred_weight_gradients_arrive_in_the_second_half),
        ctx_test(a_pass_through_weights_that_wait_is_refused),
        ctx_test(a_recomputed_segment_reads_no_other_results),
        ctx_test(a_parameter_of_a_recomputed_segment_changed_in_place_is_found),
        ctx_test(anomaly_mode_names_the_op_that_made_the_nan),
        ctx_test(anomaly_mode_names_the_gradient_that_made_the_nan),
        ctx_test(the_gradient_check_finds_a_wrong_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
