/* Layers with a state: what a pass through them moves on. Values are held against torch.nn in tests/parity. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_nn.h"
#include "tb_ops.h"

enum { CHANNELS = 3, ROWS = 4 };

static tb_tensor *normalise(void *layer, tb_tensor *x) { return tb_nn_batch_norm_forward(layer, x); }

/* Averages and the weights' gradients behind one step. */
static void step(bool recomputes, float mean[CHANNELS], float var[CHANNELS], float grad[CHANNELS])
{
    const float x[ROWS * CHANNELS] = {1, -2, 3, 0.5f, 4, -1, 2, 2, 0, -3, 1, 5};
    tb_params *ps;
    assert_ok(tb_params_create(TB_F32, 1, &ps));
    tb_nn_batch_norm norm = tb_nn_batch_norm_make(ps, "norm", CHANNELS);
    assert_ok(tb_params_status(ps));
    tb_params_set_training(ps, true);
    tb_tensor *in = tb_tensor_from(TB_F32, 2, (int64_t[]){ROWS, CHANNELS}, x);
    tb_tensor *y = recomputes ? tb_recompute(normalise, &norm, in) : normalise(&norm, in);
    assert_false(tb_is_recomputing(tb_ctx_current()));
    assert_ok(tb_backward(tb_sum(tb_mul(y, y), 0, NULL, false)));
    assert_ok(tb_tensor_read(norm.running_mean, mean, CHANNELS * sizeof *mean));
    assert_ok(tb_tensor_read(norm.running_var, var, CHANNELS * sizeof *var));
    assert_ok(tb_tensor_read(tb_grad(norm.weight), grad, CHANNELS * sizeof *grad));
    tb_params_destroy(ps);
}

static void recomputed_batch_norm_moves_its_averages_once(void **state)
{
    (void)state;
    float mean[2][CHANNELS], var[2][CHANNELS], grad[2][CHANNELS];
    step(false, mean[0], var[0], grad[0]);
    step(true, mean[1], var[1], grad[1]);
    assert_near((double)mean[0][0], 0.1 * 0.125, 1e-6); /* a tenth of the way from 0 to the batch's mean */
    assert_memory_equal(mean[0], mean[1], sizeof *mean);
    assert_memory_equal(var[0], var[1], sizeof *var);
    assert_memory_equal(grad[0], grad[1], sizeof *grad);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(recomputed_batch_norm_moves_its_averages_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
