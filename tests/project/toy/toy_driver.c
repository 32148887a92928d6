/* toy_driver: the sum of the cubes of `n` twos, timed by the harness; the answer is checked first. */
#include "tb_ctx.h"
#include "tb_driver.h"
#include "tb_ops.h"

static const tb_key keys[] = {{"n", TB_KEY_INT, "", 1, 1e6, NULL, "64", "numbers of an iteration"}};

static tb_status setup(const tb_run *run, void **state)
{
    tb_ctx *ctx;
    TB_TRY(tb_ctx_create(&(tb_ctx_config){.threads = run->threads}, &ctx));
    tb_ctx_enter(ctx);
    *state = ctx;
    return TB_OK;
}

static tb_status sum_of_cubes(const tb_run *run, double *out)
{
    tb_scope *scope = tb_scope_open();
    tb_tensor *twos = tb_full(TB_F64, 1, (int64_t[]){tb_param_int(run, "n")}, 2);
    tb_status st = tb_item_f64(tb_sum(tb_toy_cube(twos), 0, NULL, false), out);
    tb_scope_close(scope);
    return st;
}

static tb_status check(const tb_run *run, void *state)
{
    (void)state;
    double sum;
    TB_TRY(sum_of_cubes(run, &sum));
    double wrong = sum - 8 * (double)tb_param_int(run, "n");
    tb_emit_check(run, "parity.cubes", "parity", wrong < 0 ? -wrong : wrong, 0, "the cube of 2 is not 8");
    return TB_OK;
}

static tb_status run_once(const tb_run *run, void *state)
{
    (void)state;
    double sum;
    return sum_of_cubes(run, &sum);
}

static void teardown(void *state) { tb_ctx_destroy(state); }

static const char *const emits[] = {"parity.cubes", NULL};

TB_DRIVER(toy_driver, .version = 1, .doc = "cubes of a vector", .keys = keys, .n_keys = 1, .emits = emits,
          .setup = setup, .check = check, .run_once = run_once, .teardown = teardown);
