/* Models: found by name, options, blocks, errors with the block's name, rows independent of the batch. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_model.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include <stdlib.h>

static tb_model *make(const char *spec)
{
    tb_model *m;
    assert_ok(tb_model_create(spec, TB_F32, &m));
    return m;
}

static void the_mlp_is_784_512_256_10(void **state)
{
    (void)state;
    tb_model *m = make("mlp");
    assert_string_equal(tb_model_spec(m), "mlp:widths=784-512-256-10,act=relu");
    assert_int_equal(tb_model_blocks(m), 3);
    const tb_block *b = tb_model_block_at(m, 1);
    assert_string_equal(b->name, "fc2");
    assert_int_equal(b->in.dims[1], 512);
    assert_int_equal(b->out.dims[1], 256);
    assert_int_equal(b->out.dims[0], TB_DIM_BATCH);
    assert_int_equal(b->first_param, 2);
    assert_int_equal(b->n_params, 2);
    assert_int_equal(tb_params_numel(tb_model_params(m)), 784 * 512 + 512 + 512 * 256 + 256 + 2560 + 10);
    tb_tensor *y = tb_model_forward(m, tb_zeros(TB_F32, 4, (int64_t[]){7, 1, 28, 28}));
    assert_string_equal(tb_shape_text(y), "[7, 10]");
    tb_model_destroy(m);
}

static void wrong_specs_are_told(void **state)
{
    (void)state;
    tb_model *m;
    assert_fails(tb_model_create("mpl", TB_F32, &m), TB_ERR_NOT_FOUND, "no model 'mpl'; nearest: 'mlp'");
    assert_fails(tb_model_create("mlp:widhts=3-4", TB_F32, &m), TB_ERR_CONFIG, "nearest: 'mlp:widths'");
    assert_fails(tb_model_create("mlp:widths", TB_F32, &m), TB_ERR_CONFIG, "'widths' is no option; write key=value");
    assert_fails(tb_model_create("mlp:act=relu,act=tanh", TB_F32, &m), TB_ERR_CONFIG, "'act' is given twice");
    assert_fails(tb_model_create("mlp:act=rleu", TB_F32, &m), TB_ERR_CONFIG, "act");
    assert_fails(tb_model_create("mlp:widths=784-0-10", TB_F32, &m), TB_ERR_CONFIG, "widths '784-0-10'");
    assert_fails(tb_model_create("mlp:widths=784", TB_F32, &m), TB_ERR_CONFIG, "widths '784'");
    assert_fails(tb_model_create("mlp", TB_I32, &m), TB_ERR_DTYPE, "parameters are floats");
    assert_null(m);
}

static void a_failing_op_names_its_block(void **state)
{
    tb_model *m = make("mlp:widths=6-4-2");
    tb_tensor *x = tb_zeros(TB_F32, 2, (int64_t[]){3, 5});
    assert_true(tb_is_poison(tb_model_forward(m, x)));
    assert_fails(tb_ctx_take_error(*state), TB_ERR_SHAPE, "(block fc1)");
    tb_model_destroy(m);
}

static void out_of_memory_anywhere_leaks_nothing(void **state)
{
    tb_model *m = NULL;
    int failures = 0;
    for (int n = 1; n < 400; n++) {
        tb_heap *heap = n % 2 ? tb_heap_process() : tb_ctx_heap(*state);
        tb_mem_stats before, after;
        tb_heap_stats(tb_heap_process(), &before);
        tb_scope *scope = tb_scope_open(); /* catches what the model's own scope could not, had it failed to open */
        tb_heap_fail_at(heap, n / 2 + 1);
        tb_status st = tb_model_create("mlp:widths=6-4-2", TB_F32, &m);
        tb_heap_fail_at(heap, 0);
        if (st == TB_OK) tb_model_destroy(m);
        else failures++;
        assert_true(st == TB_OK || st == TB_ERR_OOM);
        tb_scope_close(scope);
        tb_heap_stats(tb_heap_process(), &after);
        assert_int_equal(before.live_blocks, after.live_blocks);
        assert_int_equal(tb_ctx_live_tensors(*state), 0);
    }
    assert_true(failures > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(the_mlp_is_784_512_256_10), ctx_test(wrong_specs_are_told), ctx_test(a_failing_op_names_its_block),
        ctx_test(out_of_memory_anywhere_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
