/* What a training run must be: resumable to the bit, independent of threads, frugal, honest in its failures.
 * Also run under ThreadSanitizer. */
#include "tb_test.h"
#include "tb_file.h"
#include "tb_ops.h"
#include "tb_safetensors.h"
#include "tb_train.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static const char checkpoint[] = "test_trainer.safetensors";
static const char images[] = "idx:test_trainer_images.tmp,test_trainer_labels.tmp";
static const char text[] = "text:test_trainer_images.tmp"; /* any bytes are one */

enum { ROWS = 200, SIDE = 6, PIXELS = SIDE * SIDE };

/* Stripes, whose place is the label, under noise. */
static int make_files(void **state)
{
    static uint8_t x[16 + ROWS * PIXELS] = {0, 0, 8, 3, 0, 0, 0, ROWS, 0, 0, 0, SIDE, 0, 0, 0, SIDE};
    static uint8_t y[8 + ROWS] = {0, 0, 8, 1, 0, 0, 0, ROWS};
    unsigned noise = 1;
    for (int i = 0; i < ROWS; i++) {
        y[8 + i] = (uint8_t)(i * 7 % SIDE);
        for (int k = 0; k < PIXELS; k++)
            x[16 + i * PIXELS + k] =
                (uint8_t)((noise = noise * 1664525 + 1013904223) >> 25) + 100 * (k % SIDE == y[8 + i]);
    }
    assert_ok(tb_file_save("test_trainer_images.tmp", x, sizeof x));
    assert_ok(tb_file_save("test_trainer_labels.tmp", y, sizeof y));
    (void)state;
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink("test_trainer_images.tmp");
    unlink("test_trainer_labels.tmp");
    unlink(checkpoint);
    return 0;
}

/* A run in a context of its own. */
typedef struct run {
    tb_ctx *ctx;
    tb_dataset *data;
    tb_model *model;
    tb_trainer *trainer;
} run;

static run start(const char *spec, int threads, tb_trainer_config c)
{
    run r = {0};
    assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = threads, .seed = c.seed}, &r.ctx));
    tb_ctx_enter(r.ctx);
    assert_ok(tb_dataset_open(strncmp(spec, "gpt", 3) == 0 ? text : images, &r.data));
    assert_ok(tb_model_create(spec, TB_F32, &r.model));
    c.model = r.model;
    c.data = r.data;
    assert_ok(tb_trainer_create(&c, &r.trainer));
    return r;
}

static double go(run *r, int steps)
{
    double loss = 0;
    tb_ctx_enter(r->ctx);
    for (int i = 0; i < steps; i++) assert_ok(tb_trainer_step(r->trainer, &loss));
    return loss;
}

static void end(run *r, char hash[65])
{
    tb_ctx_enter(r->ctx);
    assert_ok(tb_params_hash(tb_model_params(r->model), hash));
    tb_trainer_destroy(r->trainer);
    tb_model_destroy(r->model);
    tb_dataset_close(r->data);
    assert_int_equal(tb_ctx_destroy(r->ctx), 0);
}

static const char mlp[] = "mlp:widths=36-24-6";
static const char tied_gpt[] = "gpt:layers=1,width=16,heads=2,context=8";
static const tb_trainer_config adamw = {
    .batch = 32, .seed = 4, .optim = {.kind = TB_OPTIM_ADAMW, .decay = 0.1, .clip_norm = 1},
    .schedule = {TB_LR_COSINE, .rate = 0.01, .floor = 0.001, .warmup = 3, .steps = 40}, .ahead = 1};

static void resuming_gives_the_bits_of_never_having_stopped(void **state)
{
    (void)state;
    char straight[65], resumed[65];
    run a = start(mlp, 1, adamw);
    double last = go(&a, 17);
    end(&a, straight);
    run b = start(mlp, 1, adamw);
    go(&b, 8);
    assert_ok(tb_trainer_save(b.trainer, checkpoint));
    end(&b, resumed);
    assert_string_not_equal(straight, resumed);
    run c = start(mlp, 1, adamw);
    go(&c, 2); /* what it did before does not count */
    assert_ok(tb_trainer_load(c.trainer, checkpoint));
    assert_int_equal(tb_trainer_steps(c.trainer), 8);
    assert_true(go(&c, 9) == last);
    end(&c, resumed);
    assert_string_equal(straight, resumed);
}

static void threads_and_prefetching_do_not_change_a_bit(void **state)
{
    (void)state;
    char one[65], two[65];
    run a = start(mlp, 1, adamw);
    double last = go(&a, 10);
    end(&a, one);
    tb_trainer_config c = adamw;
    c.ahead = 0;
    run b = start(mlp, 2, c);
    assert_true(go(&b, 10) == last);
    end(&b, two);
    assert_string_equal(one, two);
}

/* The first scale overflows f16 for certain: steps are skipped, counted, and the scale falls to one that trains. */
static void products_of_f16_train_with_a_scaled_loss(void **state)
{
    (void)state;
    char straight[65], resumed[65];
    tb_trainer_config c = adamw;
    c.loss_scale = 0x1p30;
    c.scale_growth = 20;
    run a = start(mlp, 1, c);
    tb_ctx_set_f16_products(a.ctx, true);
    const tb_loss_scale *scaling = tb_trainer_loss_scale(a.trainer);
    double first = go(&a, 1);
    assert_int_equal(scaling->skipped, 1);
    assert_true(scaling->scale == 0x1p29);
    go(&a, 16);
    int64_t skipped = scaling->skipped;
    assert_in_range(skipped, 2, 16);
    assert_true(scaling->scale == ldexp(1, 30 - (int)skipped));
    assert_int_equal(tb_optim_steps(tb_trainer_optim(a.trainer)), 17 - skipped);
    assert_int_equal(tb_trainer_steps(a.trainer), 17);
    assert_ok(tb_trainer_save(a.trainer, checkpoint));
    double last = go(&a, 43);
    assert_true(last < first / 2);
    assert_true(scaling->scale > ldexp(1, 30 - (int)scaling->skipped)); /* it grew */
    end(&a, straight);
    run b = start(mlp, 1, c);
    tb_ctx_set_f16_products(b.ctx, true);
    assert_ok(tb_trainer_load(b.trainer, checkpoint));
    assert_int_equal(tb_trainer_steps(b.trainer), 17);
    assert_int_equal(tb_trainer_loss_scale(b.trainer)->skipped, skipped);
    assert_true(go(&b, 43) == last);
    end(&b, resumed);
    assert_string_equal(straight, resumed);
}

static void a_loss_scale_is_a_power_of_two(void **state)
{
    (void)state;
    tb_trainer_config c = adamw;
    run r = start(mlp, 1, c);
    c.model = r.model;
    c.data = r.data;
    c.loss_scale = 1000;
    tb_trainer *trainer;
    assert_fails(tb_trainer_create(&c, &trainer), TB_ERR_CONFIG, "a power of two from 1 to 2^40, not at 1000");
    c.loss_scale = 0x1p63; /* more than a checkpoint's count holds */
    assert_fails(tb_trainer_create(&c, &trainer), TB_ERR_CONFIG, "a power of two from 1 to 2^40, not at 9.2");
    assert_null(trainer);
    char hash[65];
    end(&r, hash);
}

static void another_seed_is_another_run(void **state)
{
    (void)state;
    char one[65], two[65];
    run a = start(mlp, 1, adamw);
    go(&a, 3);
    end(&a, one);
    tb_trainer_config c = adamw;
    c.seed = 5;
    run b = start(mlp, 1, c);
    go(&b, 3);
    end(&b, two);
    assert_string_not_equal(one, two);
}

/* ---- ranks are threads ---- */
enum { MOST_RANKS = 4, RANK_STEPS = 6 };

typedef struct rank_arg {
    const tb_comm_id *id;
    const char *model;
    int rank, ranks;
    double losses[RANK_STEPS];
    tb_evaluation evaluation;
    char hash[65];
} rank_arg;

static void *run_rank(void *arg)
{
    rank_arg *a = arg;
    tb_comm *comm;
    assert_ok(tb_comm_open("thread", a->rank, a->ranks, a->id, NULL, &comm));
    tb_trainer_config c = adamw;
    c.comm = comm;
    c.context = 8;
    run r = start(a->model, 1, c);
    for (int i = 0; i < RANK_STEPS; i++) a->losses[i] = go(&r, 1);
    assert_ok(tb_evaluate(r.model, r.data, TB_SPLIT_TEST, 7, 8, comm, &a->evaluation));
    end(&r, a->hash);
    tb_comm_close(comm);
    return NULL;
}

static void compare_ranks(const char *model)
{
    static rank_arg a[MOST_RANKS + 1][MOST_RANKS];
    for (int ranks = 1; ranks <= MOST_RANKS; ranks *= 2) {
        pthread_t threads[MOST_RANKS];
        tb_comm_id id;
        assert_ok(tb_comm_make_id("thread", ranks, &id));
        for (int r = 0; r < ranks; r++) {
            a[ranks][r] = (rank_arg){.id = &id, .model = model, .rank = r, .ranks = ranks};
            assert_int_equal(pthread_create(&threads[r], NULL, run_rank, &a[ranks][r]), 0);
        }
        for (int r = 0; r < ranks; r++) pthread_join(threads[r], NULL);
        for (int r = 0; r < ranks; r++) {
            assert_string_equal(a[ranks][r].hash, a[1][0].hash);
            for (int i = 0; i < RANK_STEPS; i++) assert_near(a[ranks][r].losses[i], a[1][0].losses[i], 1e-6);
            assert_true(a[ranks][r].evaluation.targets == (model == mlp ? 20 : a[1][0].evaluation.targets));
            assert_true(a[ranks][r].evaluation.accuracy == a[1][0].evaluation.accuracy);
        }
    }
}

static void two_and_four_ranks_have_the_bits_of_one(void **state)
{
    (void)state;
    compare_ranks(mlp);
    compare_ranks(tied_gpt);
}

/* Sums in another order: equal up to rounding. */
static void accumulation_follows_the_whole_batch(void **state)
{
    (void)state;
    char hash[65];
    run a = start(mlp, 1, adamw);
    tb_trainer_config c = adamw;
    c.microbatches = 4;
    run b = start(mlp, 1, c);
    for (int i = 0; i < 10; i++) {
        double x = go(&a, 1), y = go(&b, 1);
        if (x - y > 1e-5 * x || y - x > 1e-5 * x) fail_msg("step %d: %.9g, accumulated %.9g", i, x, y);
    }
    end(&b, hash);
    end(&a, hash);
}

static void a_small_run_learns(void **state)
{
    (void)state;
    char hash[65];
    tb_evaluation e;
    run a = start(mlp, 1, adamw);
    go(&a, 40);
    assert_ok(tb_evaluate(a.model, a.data, TB_SPLIT_TEST, 7, 0, NULL, &e));
    assert_int_equal(e.targets, 20);
    assert_true(e.accuracy > 0.9 && e.loss < 0.7);
    end(&a, hash);
}

static void evaluation_does_not_depend_on_its_batch(void **state)
{
    (void)state;
    char hash[65];
    tb_evaluation e[2];
    run a = start(mlp, 1, adamw);
    go(&a, 5);
    assert_ok(tb_evaluate(a.model, a.data, TB_SPLIT_TRAIN, 180, 0, NULL, &e[0]));
    assert_ok(tb_evaluate(a.model, a.data, TB_SPLIT_TRAIN, 13, 0, NULL, &e[1]));
    assert_true(e[0].accuracy == e[1].accuracy);
    assert_true(e[0].loss - e[1].loss < 1e-6 && e[1].loss - e[0].loss < 1e-6);
    end(&a, hash);
}

static void impossible_counts_are_refused(void **state)
{
    (void)state;
    static const tb_safetensors_pair bad[][5] = {
        {{"steps", "3"}, {"position", "0"}, {"loss_scale", "0"}, {"loss_scale_good", "0"}, {"steps_skipped", "4"}},
        {{"steps", "3"}, {"position", "0"}, {"loss_scale", "12"}, {"loss_scale_good", "0"}, {"steps_skipped", "1"}},
        {{"steps", "9"},
         {"position", "99999999999999999999"},
         {"loss_scale", "0"},
         {"loss_scale_good", "0"},
         {"steps_skipped", "0"}}};
    char before[65], after[65];
    run r = start(mlp, 1, adamw);
    assert_ok(tb_params_hash(tb_model_params(r.model), before));
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_ok(tb_safetensors_save(checkpoint, 0, NULL, 5, bad[k]));
        assert_fails(tb_trainer_load(r.trainer, checkpoint), TB_ERR_PARSE, "this is no training checkpoint (");
        assert_int_equal(tb_trainer_steps(r.trainer), 0);
    }
    end(&r, after);
    assert_string_equal(before, after);
}

static void a_checkpoint_of_another_run_is_refused(void **state)
{
    (void)state;
    char hash[65];
    run a = start(mlp, 1, adamw);
    assert_ok(tb_trainer_save(a.trainer, checkpoint));
    end(&a, hash);
    tb_trainer_config c = adamw;
    c.batch = 16;
    run b = start(mlp, 1, c);
    assert_fails(tb_trainer_load(b.trainer, checkpoint), TB_ERR_CONFIG,
                 "its batch is '32 in 1, context 0', this run's is '16 in 1, context 0'");
    end(&b, hash);
    b = start("mlp:widths=36-12-6", 1, adamw);
    assert_fails(tb_trainer_load(b.trainer, checkpoint), TB_ERR_CONFIG, "its model is 'mlp:widths=36-24-6,act=relu'");
    assert_fails(tb_model_load(b.model, checkpoint), TB_ERR_SHAPE,
                 "'fc1.weight' is f32 [24, 36], wanted is f32 [12, 36]");
    end(&b, hash);
}

/* The last parameter is missing, or has another type or shape: those before it stay as they were. */
static void a_file_that_does_not_fit_changes_nothing(void **state)
{
    (void)state;
    static const struct {
        tb_dtype dtype;
        int64_t size;
        tb_status status;
        const char *message;
    } cases[] = {{TB_F32, 0, TB_ERR_NOT_FOUND, "holds no tensor 'fc2.bias'"},
                 {TB_F64, 6, TB_ERR_SHAPE, "'fc2.bias' is f64 [6], wanted is f32 [6]"},
                 {TB_F32, 5, TB_ERR_SHAPE, "'fc2.bias' is f32 [5], wanted is f32 [6]"}};
    char before[65], after[65];
    run r = start(mlp, 1, adamw);
    tb_params *ps = tb_model_params(r.model);
    int n = tb_params_count(ps);
    assert_string_equal(tb_params_at(ps, n - 1)->name, "fc2.bias");
    assert_ok(tb_params_hash(ps, before));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        tb_safetensors_item items[16];
        tb_scope *s = tb_scope_open();
        for (int i = 0; i < n; i++) {
            const tb_param *p = tb_params_at(ps, i);
            tb_tensor *other = i == n - 1 ? tb_full(cases[k].dtype, 1, &cases[k].size, 7)
                                          : tb_full(TB_F32, tb_tensor_rank(p->tensor), tb_tensor_dims(p->tensor), 7);
            items[i] = (tb_safetensors_item){p->name, other};
        }
        assert_ok(tb_safetensors_save(checkpoint, n - (cases[k].size == 0), items, 0, NULL));
        tb_scope_close(s);
        assert_fails(tb_model_load(r.model, checkpoint), cases[k].status, cases[k].message);
        assert_ok(tb_params_hash(ps, after));
        assert_string_equal(before, after);
    }
    end(&r, after);
}

static void weights_alone_can_be_saved_and_loaded(void **state)
{
    (void)state;
    char one[65], two[65];
    run a = start(mlp, 1, adamw);
    go(&a, 2);
    assert_ok(tb_model_save(a.model, checkpoint));
    end(&a, one);
    run b = start(mlp, 1, adamw);
    assert_fails(tb_trainer_load(b.trainer, checkpoint), TB_ERR_PARSE, "no training checkpoint");
    assert_ok(tb_model_load(b.model, checkpoint));
    end(&b, two);
    assert_string_equal(one, two);
}

static void a_wrong_model_fails_with_its_sentence_and_the_step(void **state)
{
    (void)state;
    char hash[65];
    double loss;
    run a = start("mlp:widths=35-24-6", 1, adamw);
    assert_fails(tb_trainer_step(a.trainer, &loss), TB_ERR_SHAPE, "(block fc1)");
    assert_non_null(strstr(tb_error_message(), "(step 0)"));
    assert_int_equal(tb_trainer_steps(a.trainer), 0);
    end(&a, hash);
}

static void a_steady_step_takes_nothing_from_the_system(void **state)
{
    (void)state;
    char hash[65];
    tb_mem_stats before, after, process_before, process_after;
    run a = start(mlp, 2, adamw);
    go(&a, 10);
    tb_heap_stats(tb_ctx_heap(a.ctx), &before);
    tb_heap_stats(tb_heap_process(), &process_before);
    int64_t tensors = tb_ctx_live_tensors(a.ctx);
    go(&a, 20);
    tb_heap_stats(tb_ctx_heap(a.ctx), &after);
    tb_heap_stats(tb_heap_process(), &process_after);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_int_equal(before.system_calls, after.system_calls);
#endif
    assert_int_equal(process_before.requests, process_after.requests);
    assert_int_equal(before.live_blocks, after.live_blocks);
    assert_int_equal(tensors, tb_ctx_live_tensors(a.ctx));
    assert_int_equal(after.live_by_tag[TB_MEM_OPT], 2 * after.live_by_tag[TB_MEM_PARAM]);
    end(&a, hash);
}

enum { MOST_ROWS = 64 };

/* The outputs of the first 1, 2, 7, 64 of the same rows, at 1 and 2 threads. */
static void compare_rows(const char *spec, tb_dtype dtype, int64_t columns, const void *rows)
{
    static const int64_t batches[] = {MOST_ROWS, 1, 2, 7};
    char *want = NULL;
    for (int threads = 1; threads <= 2; threads++) {
        tb_ctx *ctx;
        tb_model *m;
        assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = threads, .seed = 1}, &ctx));
        tb_ctx_enter(ctx);
        assert_ok(tb_model_create(spec, TB_F32, &m));
        for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
            tb_scope *scope = tb_scope_open();
            tb_tensor *y =
                tb_model_forward(m, tb_tensor_from(dtype, 2, (int64_t[]){batches[i], columns}, rows));
            size_t bytes = tb_tensor_bytes(y);
            char *got = malloc(bytes);
            assert_non_null(got);
            assert_true(bytes > 0);
            assert_ok(tb_tensor_read(y, got, bytes));
            if (want && memcmp(got, want, bytes) != 0)
                fail_msg("%s: %lld rows at %d threads have other bits", spec, (long long)batches[i], threads);
            if (want)
                free(got);
            else
                want = got;
            tb_scope_close(scope);
        }
        tb_model_destroy(m);
        assert_int_equal(tb_ctx_destroy(ctx), 0);
    }
    free(want);
}

static void a_row_has_the_same_bits_in_any_batch_at_any_thread_count(void **state)
{
    (void)state;
    static float pixels[MOST_ROWS * 784];
    static int32_t bytes[MOST_ROWS * 128];
    for (int i = 0; i < MOST_ROWS * 784; i++) pixels[i] = (float)(i * 7919 % 1000) / 500 - 1;
    for (int i = 0; i < MOST_ROWS * 128; i++) bytes[i] = i * 7919 % 251;
    compare_rows("mlp", TB_F32, 784, pixels);
    compare_rows("gpt", TB_I32, 128, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resuming_gives_the_bits_of_never_having_stopped),
        cmocka_unit_test(threads_and_prefetching_do_not_change_a_bit),
        cmocka_unit_test(another_seed_is_another_run),
        cmocka_unit_test(two_and_four_ranks_have_the_bits_of_one),
        cmocka_unit_test(products_of_f16_train_with_a_scaled_loss),
        cmocka_unit_test(a_loss_scale_is_a_power_of_two),
        cmocka_unit_test(accumulation_follows_the_whole_batch),
        cmocka_unit_test(a_small_run_learns),
        cmocka_unit_test(evaluation_does_not_depend_on_its_batch),
        cmocka_unit_test(a_checkpoint_of_another_run_is_refused),
        cmocka_unit_test(impossible_counts_are_refused),
        cmocka_unit_test(a_file_that_does_not_fit_changes_nothing),
        cmocka_unit_test(weights_alone_can_be_saved_and_loaded),
        cmocka_unit_test(a_wrong_model_fails_with_its_sentence_and_the_step),
        cmocka_unit_test(a_steady_step_takes_nothing_from_the_system),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_batch_at_any_thread_count),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
