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

static void the_cnn_is_two_convolutions_and_two_layers(void **state)
{
    (void)state;
    tb_model *m = make("cnn");
    assert_int_equal(tb_model_blocks(m), 4);
    const tb_block *b = tb_model_block_at(m, 1);
    assert_string_equal(b->name, "conv2");
    assert_int_equal(b->in.dims[1], 32);
    assert_int_equal(b->in.dims[2], 12);
    assert_int_equal(b->out.dims[1], 64);
    assert_int_equal(b->out.dims[3], 4);
    assert_int_equal(tb_params_numel(tb_model_params(m)),
                     25 * 32 + 32 + 32 * 25 * 64 + 64 + 1024 * 512 + 512 + 5120 + 10);
    tb_model_destroy(m);
    m = make("cnn:size=16,width=8,classes=3");
    tb_tensor *y = tb_model_forward(m, tb_zeros(TB_F32, 4, (int64_t[]){2, 1, 16, 16}));
    assert_string_equal(tb_shape_text(y), "[2, 3]");
    tb_model_destroy(m);
}

static void the_resnet_is_that_of_the_paper(void **state)
{
    (void)state;
    tb_model *m = make("resnet:channels=3,size=32");
    assert_int_equal(tb_model_blocks(m), 1 + 9 + 2);
    const tb_block *b = tb_model_block_at(m, 7);
    assert_string_equal(b->name, "stage3.0");
    assert_int_equal(b->out.dims[1], 64);
    assert_int_equal(b->out.dims[2], 8);
    /* He and others' 0.27 million, and two 1x1 shortcuts with their norms */
    assert_int_equal(tb_params_numel(tb_model_params(m)), 269722 + 16 * 32 + 64 + 32 * 64 + 128);
    tb_model_destroy(m);
    assert_fails(tb_model_create("resnet:depth=18", TB_F32, &m), TB_ERR_CONFIG, "depth 18 is not 6 n + 2");
    m = make("resnet:depth=8");
    tb_tensor *y = tb_model_forward(m, tb_zeros(TB_F32, 4, (int64_t[]){2, 1, 28, 28}));
    assert_string_equal(tb_shape_text(y), "[2, 10]");
    tb_model_destroy(m);
}

static void the_dscnn_and_the_vit_fit_their_images(void **state)
{
    (void)state;
    tb_model *m = make("dscnn");
    assert_int_equal(tb_params_numel(tb_model_params(m)), 9 * 64 + 4 * (9 * 64 + 64 * 64) + 9 * 128 + 650);
    tb_tensor *x = tb_zeros(TB_F32, 4, (int64_t[]){2, 1, 28, 28});
    assert_string_equal(tb_shape_text(tb_model_forward(m, x)), "[2, 10]");
    tb_model_destroy(m);
    m = make("vit:patch=4");
    assert_int_equal(tb_model_block_at(m, 1)->in.dims[1], 49);
    assert_string_equal(tb_shape_text(tb_model_forward(m, x)), "[2, 10]");
    tb_model_destroy(m);
    assert_fails(tb_model_create("vit:patch=5", TB_F32, &m), TB_ERR_CONFIG,
                 "28 pixels are not cut into patches of 5");
}

/* A norm's averages are buffers: training moves them, evaluation reads them, the optimizer does not see them.
 */
static void training_moves_the_averages_that_evaluation_takes(void **state)
{
    (void)state;
    tb_model *m = make("resnet:depth=8,size=8,width=4");
    tb_params *ps = tb_model_params(m);
    const tb_param *mean = tb_params_buffer_at(ps, 0);
    assert_string_equal(mean->name, "stem.norm.running_mean");
    assert_int_equal(tb_params_buffer_count(ps), 2 * 9);
    float x[8 * 64], before[4], after[4], first[80], second[80];
    for (int i = 0; i < 8 * 64; i++) x[i] = (float)(i * 7919 % 97) / 50 + (float)i / 200;
    tb_tensor *images = tb_tensor_from(TB_F32, 4, (int64_t[]){8, 1, 8, 8}, x);
    assert_ok(tb_tensor_read(mean->tensor, before, sizeof before));
    assert_ok(tb_tensor_read(tb_model_forward(m, images), first, sizeof first));
    tb_model_set_training(m, true);
    for (int i = 0; i < 3; i++) assert_ok(tb_backward(tb_sum(tb_model_forward(m, images), 0, NULL, false)));
    tb_model_set_training(m, false);
    assert_ok(tb_tensor_read(mean->tensor, after, sizeof after));
    assert_ok(tb_tensor_read(tb_model_forward(m, images), second, sizeof second));
    assert_true(memcmp(before, after, sizeof before) != 0);
    assert_true(memcmp(first, second, sizeof first) != 0);
    tb_model_destroy(m);
}

static const char small_gpt[] = "gpt:layers=2,width=32,heads=4,context=16";

static tb_tensor *tokens(int64_t batch, int64_t length)
{
    int32_t x[64 * 16];
    for (int i = 0; i < 64 * 16; i++) x[i] = i * 7919 % 256;
    return tb_tensor_from(TB_I32, 2, (int64_t[]){batch, length}, x);
}

static void the_gpt_ties_its_head(void **state)
{
    (void)state;
    tb_model *m = make("gpt");
    tb_params *ps = tb_model_params(m);
    assert_string_equal(tb_model_spec(m),
                        "gpt:layers=4,width=256,heads=8,context=128,vocab=256,tie=true,dropout=0");
    assert_int_equal(tb_model_blocks(m), 6);
    assert_string_equal(tb_model_block_at(m, 4)->name, "block.3");
    assert_string_equal(tb_model_block_at(m, 4)->type->name, "transformer_block");
    assert_int_equal(tb_model_block_at(m, 5)->n_params, 2); /* its norm; the matrix is the embedding's */
    int64_t block = 3 * 256 * 256 + 3 * 256 + 256 * 256 + 256 + 8 * 256 * 256 + 4 * 256 + 256 + 4 * 256;
    assert_int_equal(tb_params_numel(ps), 4 * block + (256 + 128) * 256 + 512);
    assert_non_null(tb_params_find(ps, "block.2.attn.qkv.weight"));
    tb_model_destroy(m);
    m = make("gpt:tie=false");
    assert_int_equal(tb_params_numel(tb_model_params(m)), 4 * block + (256 + 128) * 256 + 512 + 256 * 256);
    assert_non_null(tb_params_find(tb_model_params(m), "head.weight"));
    tb_model_destroy(m);
    tb_model *bad;
    assert_fails(tb_model_create("gpt:width=30", TB_F32, &bad), TB_ERR_CONFIG, "width 30 cannot be shared by 8 heads");
}

static bool is_odd(void *arg, int block)
{
    (void)arg;
    return block % 2 == 1;
}

/* Of embed, block.0, block.1, head: block.0 and head, which takes the embedding's matrix along. */
static void a_part_of_a_model_has_the_values_of_the_whole(void **state)
{
    (void)state;
    tb_model *whole = make("gpt:layers=2,width=16,heads=2"), *part;
    assert_ok(tb_model_create_part("gpt:layers=2,width=16,heads=2", TB_F32, is_odd, NULL, &part));
    tb_params *all = tb_model_params(whole), *some = tb_model_params(part);
    assert_int_equal(tb_model_blocks(part), 4);
    assert_int_equal(tb_params_count(some), tb_model_block_at(whole, 1)->n_params + 3);
    assert_null(tb_params_find(some, "block.1.attn.qkv.weight"));
    const char *const names[] = {"embed.token.weight", "block.0.attn.qkv.weight"};
    for (int i = 0; i < 2; i++) {
        float a[256 * 16], b[256 * 16];
        tb_tensor *of_part = tb_params_find(some, names[i])->tensor;
        assert_ok(tb_tensor_read(tb_params_find(all, names[i])->tensor, a, tb_tensor_bytes(of_part)));
        assert_ok(tb_tensor_read(of_part, b, tb_tensor_bytes(of_part)));
        assert_memory_equal(a, b, tb_tensor_bytes(of_part));
    }
    tb_model_destroy(part);
    tb_model_destroy(whole);
}

static void a_later_byte_changes_no_earlier_prediction(void **state)
{
    (void)state;
    tb_model *m = make(small_gpt);
    static float whole[16 * 256], part[9 * 256];
    tb_tensor *x = tokens(1, 16);
    assert_ok(tb_tensor_read(tb_model_forward(m, x), whole, sizeof whole));
    assert_ok(tb_tensor_read(tb_model_forward(m, tb_slice(x, 1, 0, 9, 1)), part, sizeof part));
    for (int i = 0; i < 9 * 256; i++) assert_near(whole[i], part[i], 1e-6);
    tb_model_destroy(m);
}

static void a_row_of_gpt_has_the_same_bits_in_any_batch_at_any_thread_count(void **state)
{
    static float want[64 * 16 * 256], got[64 * 16 * 256];
    static const int64_t batches[] = {64, 1, 2, 7};
    for (int threads = 1; threads <= 2; threads++) {
        tb_ctx *ctx;
        assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = threads, .seed = 1}, &ctx));
        tb_ctx_enter(ctx);
        tb_model *m = make(small_gpt);
        for (int i = 0; i < 4; i++) {
            tb_tensor *y = tb_model_forward(m, tokens(batches[i], 16));
            assert_ok(tb_tensor_read(y, got, tb_tensor_bytes(y)));
            if (threads == 1 && i == 0) memcpy(want, got, sizeof want);
            assert_memory_equal(got, want, tb_tensor_bytes(y));
        }
        tb_model_destroy(m);
        tb_ctx_destroy(ctx);
    }
    tb_ctx_enter(*state);
}

/* The mean of squares of logits before and after one backward pass: every parameter must get a gradient. */
static void every_parameter_of_every_model_learns(void **state)
{
    (void)state;
    static const char *const specs[] = {"mlp:widths=256-8-4,act=gelu", "cnn:size=16,width=8,classes=3", small_gpt};
    for (int i = 0; i < 3; i++) {
        tb_model *m = make(specs[i]);
        tb_scope *s = tb_scope_open();
        tb_tensor *x = i == 2 ? tokens(3, 16) : tb_rand(tb_next_key(), TB_F32, 4, (int64_t[]){3, 1, 16, 16});
        tb_tensor *y = tb_model_forward(m, x);
        tb_model_set_training(m, true);
        assert_ok(tb_backward(tb_mean(tb_mul(y, y), 0, NULL, false)));
        const tb_params *ps = tb_model_params(m);
        for (int k = 0; k < tb_params_count(ps); k++) {
            tb_tensor *g = tb_grad(tb_params_at(ps, k)->tensor);
            double most = 0;
            if (!g) fail_msg("%s: no gradient for %s", specs[i], tb_params_at(ps, k)->name);
            assert_ok(tb_item_f64(tb_max(tb_mul(g, g), 0, NULL, false), &most));
            if (!(most > 0)) fail_msg("%s: a zero gradient for %s", specs[i], tb_params_at(ps, k)->name);
        }
        tb_scope_close(s);
        tb_model_destroy(m);
    }
}

static void dropout_acts_in_training_alone_and_follows_its_stream(void **state)
{
    tb_model *m = make("gpt:layers=1,width=16,heads=2,context=16,dropout=0.5");
    static float a[2 * 16 * 256], b[2 * 16 * 256];
    tb_tensor *x = tokens(2, 16);
    assert_ok(tb_tensor_read(tb_model_forward(m, x), a, sizeof a));
    assert_ok(tb_tensor_read(tb_model_forward(m, x), b, sizeof b));
    assert_memory_equal(a, b, sizeof a);
    tb_model_set_training(m, true);
    tb_ctx_set_stream(*state, 7, 0);
    assert_ok(tb_tensor_read(tb_model_forward(m, x), a, sizeof a));
    assert_memory_not_equal(a, b, sizeof a);
    tb_ctx_set_stream(*state, 7, 0);
    assert_ok(tb_tensor_read(tb_model_forward(m, x), b, sizeof b));
    assert_memory_equal(a, b, sizeof a);
    tb_ctx_set_stream(*state, 7, 1); /* the second row of that batch, drawn by another rank */
    assert_ok(tb_tensor_read(tb_model_forward(m, tb_slice(x, 0, 1, 2, 1)), b, sizeof b / 2));
    assert_memory_equal(a + 16 * 256, b, sizeof b / 2);
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

/* Three rows of other lengths, one token at a time, each beginning at another moment: the logits of every place are
 * those of the whole row's forward, to the last bit. */
static void steps_have_the_bits_of_the_whole_row(void **state)
{
    enum { ROWS = 3, LENGTH = 16 };
    (void)state;
    tb_model *m = make(small_gpt);
    tb_tensor *x = tokens(ROWS, LENGTH), *whole = tb_model_forward(m, x), *cache[2];
    assert_int_equal(tb_model_caches(m), 2);
    for (int i = 0; i < 2; i++) {
        int64_t dims[1 + TB_MAX_RANK] = {ROWS};
        int rank = 1 + tb_model_cache_dims(m, i, LENGTH, dims + 1);
        cache[i] = tb_full(TB_F32, rank, dims, 1e30); /* what no step may read */
    }
    for (int step = 0; step < LENGTH + ROWS; step++) {
        int64_t place[ROWS];
        for (int r = 0; r < ROWS; r++) place[r] = step - r < 0 ? 0 : step - r < LENGTH ? step - r : LENGTH - 1;
        tb_tensor *at = tb_tensor_from(TB_I64, 1, (int64_t[]){ROWS}, place);
        tb_tensor *token = tb_gather(x, 1, tb_reshape(at, 2, (int64_t[]){ROWS, 1}));
        tb_tensor *y = tb_model_step(m, token, &(tb_step){at, LENGTH}, cache);
        for (int r = 0; r < ROWS; r++) {
            float got[256], want[256];
            tb_tensor *row = tb_slice(whole, 0, r, r + 1, 1);
            assert_ok(tb_tensor_read(tb_slice(y, 0, r, r + 1, 1), got, sizeof got));
            assert_ok(tb_tensor_read(tb_slice(row, 1, place[r], place[r] + 1, 1), want, sizeof want));
            assert_memory_equal(got, want, sizeof want);
        }
    }
    tb_model_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(the_mlp_is_784_512_256_10),
        ctx_test(the_cnn_is_two_convolutions_and_two_layers),
        ctx_test(the_resnet_is_that_of_the_paper),
        ctx_test(the_dscnn_and_the_vit_fit_their_images),
        ctx_test(training_moves_the_averages_that_evaluation_takes),
        ctx_test(the_gpt_ties_its_head),
        ctx_test(a_part_of_a_model_has_the_values_of_the_whole),
        ctx_test(a_later_byte_changes_no_earlier_prediction),
        ctx_test(a_row_of_gpt_has_the_same_bits_in_any_batch_at_any_thread_count),
        ctx_test(steps_have_the_bits_of_the_whole_row),
        ctx_test(every_parameter_of_every_model_learns),
        ctx_test(dropout_acts_in_training_alone_and_follows_its_stream),
        ctx_test(wrong_specs_are_told),
        ctx_test(a_failing_op_names_its_block),
        ctx_test(out_of_memory_anywhere_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
