/* Optimizers against their closed forms, schedules, clipping. PyTorch parity: tests/parity. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_nn.h"
#include "tb_ops.h"
#include "tb_optim.h"
#include <math.h>

static tb_params *one_param(double value, int64_t n)
{
    tb_params *ps;
    assert_ok(tb_params_create(TB_F64, 1, &ps));
    tb_params_add(ps, "w", tb_init_constant(value), 2, (int64_t[]){1, n});
    assert_ok(tb_params_status(ps));
    return ps;
}

static tb_optim *make(tb_params *ps, tb_optim_config c)
{
    tb_optim *o;
    assert_ok(tb_optim_create(ps, &c, &o));
    return o;
}

static double value(const tb_params *ps, int64_t at)
{
    double x[64];
    tb_tensor *t = tb_params_at(ps, 0)->tensor;
    assert_ok(tb_tensor_read(t, x, tb_tensor_bytes(t)));
    return x[at];
}

/* A step on the loss sum(slope * w): every gradient is `slope`. */
static void step(tb_params *ps, tb_optim *o, double slope)
{
    tb_scope *s = tb_scope_open();
    tb_tensor *w = tb_params_at(ps, 0)->tensor;
    assert_ok(tb_backward(tb_sum(tb_mul(w, tb_scalar(TB_F64, slope)), 0, NULL, false)));
    assert_ok(tb_optim_step(o));
    assert_null(tb_grad(w));
    tb_scope_close(s);
}

#define assert_is(x, want) assert_true(fabs((x) - (want)) < 1e-12)

static void sgd_goes_down_the_slope(void **state)
{
    (void)state;
    tb_params *ps = one_param(2, 3);
    tb_optim *o = make(ps, (tb_optim_config){.kind = TB_OPTIM_SGD, .rate = 0.1, .decay = 0.5});
    step(ps, o, 3);
    assert_is(value(ps, 0), 2 - 0.1 * (3 + 0.5 * 2));
    assert_int_equal(tb_optim_state_count(o), 0);
    assert_int_equal(tb_optim_steps(o), 1);
    tb_optim_destroy(o);
    tb_params_destroy(ps);
}

static void momentum_sums_a_geometric_series(void **state)
{
    (void)state;
    for (int nesterov = 0; nesterov < 2; nesterov++) {
        tb_params *ps = one_param(0, 3);
        tb_optim *o =
            make(ps, (tb_optim_config){.kind = TB_OPTIM_SGD, .rate = 0.1, .momentum = 0.9, .nesterov = nesterov});
        double w = 0, b = 0;
        for (int i = 0; i < 5; i++) {
            step(ps, o, 1);
            b = 0.9 * b + 1;
            w -= 0.1 * (nesterov ? 1 + 0.9 * b : b);
            assert_is(value(ps, 2), w);
            assert_is(b, (1 - pow(0.9, i + 1)) / 0.1);
        }
        tb_optim_destroy(o);
        tb_params_destroy(ps);
    }
}

static void adam_steps_by_the_rate_under_a_constant_slope(void **state)
{
    (void)state;
    tb_params *ps = one_param(1, 3);
    tb_optim *o = make(ps, (tb_optim_config){.kind = TB_OPTIM_ADAM, .rate = 0.01});
    for (int i = 0; i < 4; i++) step(ps, o, 7); /* m / (1 - b1^t) = 7, sqrt(v / (1 - b2^t)) = 7 */
    assert_true(fabs(value(ps, 1) - (1 - 4 * 0.01)) < 1e-9);
    tb_optim_destroy(o);
    tb_params_destroy(ps);
}

static void adamw_decays_apart_from_the_moments_and_leaves_biases(void **state)
{
    (void)state;
    tb_params *ps;
    assert_ok(tb_params_create(TB_F64, 1, &ps));
    tb_nn_linear l = tb_nn_linear_make_with(ps, "fc", 2, 1, true, tb_init_constant(4));
    tb_optim *o = make(ps, (tb_optim_config){.kind = TB_OPTIM_ADAMW, .rate = 0.1, .decay = 0.5});
    double w[2], b;
    tb_scope *s = tb_scope_open();
    assert_ok(tb_backward(tb_sum(tb_nn_linear_forward(&l, tb_zeros(TB_F64, 2, (int64_t[]){3, 2})), 0, NULL, false)));
    assert_ok(tb_optim_step(o));
    tb_scope_close(s);
    assert_ok(tb_tensor_read(l.weight, w, sizeof w));
    assert_ok(tb_tensor_read(l.bias, &b, sizeof b));
    assert_is(w[0], 4 * (1 - 0.1 * 0.5)); /* a zero gradient: only the decay */
    assert_true(fabs(b + 0.1) < 1e-8);
    assert_int_equal(tb_optim_state_count(o), 4);
    assert_string_equal(tb_optim_state_name(o, 1), "fc.weight/v");
    tb_optim_destroy(o);
    tb_params_destroy(ps);
}

static void clipping_scales_to_the_global_norm(void **state)
{
    (void)state;
    tb_params *ps = one_param(0, 16);
    tb_optim *o = make(ps, (tb_optim_config){.kind = TB_OPTIM_SGD, .rate = 1, .clip_norm = 2});
    step(ps, o, 3); /* norm 12 */
    assert_is(tb_optim_grad_norm(o), 12);
    assert_is(value(ps, 5), -0.5);
    step(ps, o, 0.25); /* norm 1: untouched */
    assert_is(value(ps, 5), -0.75);
    tb_optim_destroy(o);
    tb_params_destroy(ps);
}

static void the_norm_of_half_floats_is_summed_in_f32(void **state)
{
    (void)state;
    static const tb_dtype types[] = {TB_F16, TB_BF16};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        tb_params *ps;
        double norm;
        assert_ok(tb_params_create(types[i], 1, &ps));
        tb_tensor *w = tb_params_add(ps, "w", tb_init_constant(1), 1, (int64_t[]){9});
        tb_scope *s = tb_scope_open();
        assert_ok(tb_backward(tb_sum(tb_mul(w, tb_scalar(types[i], 1000)), 0, NULL, false)));
        assert_ok(tb_grad_norm(ps, &norm));
        assert_is(norm, 3000);
        tb_scope_close(s);
        tb_params_destroy(ps);
    }
}

static void a_failed_op_stops_the_step(void **state)
{
    (void)state;
    tb_params *ps = one_param(1, 4);
    tb_optim *o = make(ps, (tb_optim_config){.kind = TB_OPTIM_SGD, .rate = 1});
    tb_matmul(tb_zeros(TB_F32, 2, (int64_t[]){2, 3}), tb_zeros(TB_F32, 2, (int64_t[]){2, 3}));
    assert_fails(tb_optim_step(o), TB_ERR_SHAPE, "inner dimensions differ");
    assert_int_equal(tb_optim_steps(o), 0);
    tb_optim_destroy(o);
    tb_params_destroy(ps);
}

static void a_scaled_step_is_the_step_and_overflow_skips_it(void **state)
{
    (void)state;
    tb_params *ps[2] = {one_param(2, 3), one_param(2, 3)};
    tb_optim_config c = {.kind = TB_OPTIM_ADAMW, .rate = 0.1, .decay = 0.1, .clip_norm = 1};
    tb_optim *plain = make(ps[0], c), *scaled = make(ps[1], c);
    static const double slopes[] = {3, NAN, 0.1, INFINITY, -2};
    bool taken;
    for (size_t i = 0; i < sizeof slopes / sizeof *slopes; i++) {
        tb_tensor *w = tb_params_at(ps[1], 0)->tensor;
        tb_scope *s = tb_scope_open();
        if (isfinite(slopes[i])) step(ps[0], plain, slopes[i]);
        assert_ok(tb_backward_with(tb_sum(tb_mul(w, tb_scalar(TB_F64, slopes[i])), 0, NULL, false),
                                   &(tb_backward_opts){.grad = tb_scalar(TB_F64, 1024)}));
        assert_ok(tb_optim_step_scaled(scaled, 1024, &taken));
        assert_int_equal(taken, isfinite(slopes[i]));
        assert_null(tb_grad(w));
        assert_int_equal(tb_optim_steps(scaled), tb_optim_steps(plain));
        assert_is(tb_optim_grad_norm(scaled), tb_optim_grad_norm(plain));
        for (int64_t k = 0; k < 3; k++) assert_true(value(ps[1], k) == value(ps[0], k));
        tb_scope_close(s);
    }
    tb_optim_destroy(plain), tb_optim_destroy(scaled);
    tb_params_destroy(ps[0]), tb_params_destroy(ps[1]);
}

static void the_loss_scale_halves_on_overflow_and_grows_after_good_steps(void **state)
{
    (void)state;
    tb_loss_scale s = {.scale = 8, .growth_steps = 3};
    static const struct {
        bool taken;
        double scale;
    } steps[] = {{true, 8}, {true, 8},  {false, 4}, {true, 4}, {true, 4},  {true, 8},
                 {true, 8}, {false, 4}, {false, 2}, {true, 2}, {false, 1}, {true, 1}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        assert_ok(tb_loss_scale_update(&s, steps[i].taken));
        assert_true(s.scale == steps[i].scale);
    }
    assert_int_equal(s.skipped, 4);
    assert_fails(tb_loss_scale_update(&s, false), TB_ERR_INVALID, "not finite at scale 1");
    tb_loss_scale fixed = {.scale = 8};
    for (int i = 0; i < 5000; i++) assert_ok(tb_loss_scale_update(&fixed, true));
    assert_true(fixed.scale == 8);
}

static void schedules_have_their_closed_forms(void **state)
{
    (void)state;
    tb_lr_schedule constant = {.rate = 0.3}, warm = {.rate = 0.4, .warmup = 4};
    assert_is(tb_lr_at(&constant, 0), 0.3);
    assert_is(tb_lr_at(&constant, 1 << 30), 0.3);
    for (int t = 0; t < 4; t++) assert_is(tb_lr_at(&warm, t), 0.1 * (t + 1));
    assert_is(tb_lr_at(&warm, 4), 0.4);
    tb_lr_schedule cosine = {TB_LR_COSINE, .rate = 1, .floor = 0.1, .warmup = 10, .steps = 110};
    assert_is(tb_lr_at(&cosine, 0), 0.1);
    assert_is(tb_lr_at(&cosine, 9), 1);
    assert_is(tb_lr_at(&cosine, 10), 1);
    assert_is(tb_lr_at(&cosine, 60), 0.55);
    assert_is(tb_lr_at(&cosine, 35), 0.1 + 0.45 * (1 + sqrt(0.5)));
    assert_is(tb_lr_at(&cosine, 110), 0.1);
    assert_is(tb_lr_at(&cosine, 1000), 0.1);
}

static void schedules_without_an_end_are_refused(void **state)
{
    (void)state;
    tb_lr_schedule s = {TB_LR_COSINE, .rate = 1, .warmup = 10, .steps = 10};
    assert_fails(tb_lr_check(&s), TB_ERR_CONFIG, "a warm-up of 10 steps");
    s.steps = 11;
    assert_ok(tb_lr_check(&s));
    s.floor = -1;
    assert_fails(tb_lr_check(&s), TB_ERR_CONFIG, "is -1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(sgd_goes_down_the_slope),
        ctx_test(momentum_sums_a_geometric_series),
        ctx_test(adam_steps_by_the_rate_under_a_constant_slope),
        ctx_test(adamw_decays_apart_from_the_moments_and_leaves_biases),
        ctx_test(clipping_scales_to_the_global_norm),
        ctx_test(the_norm_of_half_floats_is_summed_in_f32),
        ctx_test(a_failed_op_stops_the_step),
        ctx_test(a_scaled_step_is_the_step_and_overflow_skips_it),
        ctx_test(the_loss_scale_halves_on_overflow_and_grows_after_good_steps),
        ctx_test(schedules_have_their_closed_forms),
        ctx_test(schedules_without_an_end_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
