/* Every failed allocation in the life of a training run, a compiled graph and a deploy artefact is one error: nothing
 * crashes, nothing leaks, nothing is left pending, and the next life is as the first. TB_TEST_FULL fails each request,
 * else later ones are thinned out. */
#include "tb_test.h"
#include "tb_artefact.h"
#include "tb_file.h"
#include "tb_pass.h"
#include "tb_train.h"
#include <stdlib.h>
#include <unistd.h>

enum { SIDE = 6, ROWS = 24, PIXELS = SIDE * SIDE, BATCH = 8 };

static const char images[] = "idx:test_allocation_images.tmp,test_allocation_labels.tmp";
static const char text[] = "text:test_allocation_images.tmp";
static const char checkpoint[] = "test_allocation.safetensors", folder[] = "test_allocation.model";

static int make_files(void **state)
{
    static uint8_t x[16 + ROWS * PIXELS] = {0, 0, 8, 3, 0, 0, 0, ROWS, 0, 0, 0, SIDE, 0, 0, 0, SIDE};
    static uint8_t y[8 + ROWS] = {0, 0, 8, 1, 0, 0, 0, ROWS};
    (void)state;
    for (int i = 0; i < ROWS; i++) {
        y[8 + i] = (uint8_t)(i % SIDE);
        for (int k = 0; k < PIXELS; k++) x[16 + i * PIXELS + k] = (uint8_t)(i * k % 251);
    }
    assert_ok(tb_file_save("test_allocation_images.tmp", x, sizeof x));
    assert_ok(tb_file_save("test_allocation_labels.tmp", y, sizeof y));
    return 0;
}

static int remove_files(void **state)
{
    static const char *const in_folder[] = {"graph.tbir", "weights.safetensors", "golden.safetensors", "model.yaml"};
    (void)state;
    unlink("test_allocation_images.tmp");
    unlink("test_allocation_labels.tmp");
    unlink(checkpoint);
    for (int i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", folder, in_folder[i]);
        unlink(path);
    }
    rmdir(folder);
    return 0;
}

/* ---- lives ---- */
static tb_status train(const char *spec)
{
    tb_dataset *data = NULL;
    tb_model *m = NULL;
    tb_trainer *t = NULL;
    double loss;
    tb_status st = TB_OK;
    TB_GO(tb_dataset_open(strncmp(spec, "gpt", 3) == 0 ? text : images, &data));
    TB_GO(tb_model_create(spec, TB_F32, &m));
    TB_GO(tb_trainer_create(&(tb_trainer_config){.model = m,
                                                 .data = data,
                                                 .batch = BATCH,
                                                 .microbatches = 2,
                                                 .context = 5,
                                                 .seed = 1,
                                                 .optim = {TB_OPTIM_ADAMW, .rate = 0.01, .clip_norm = 1},
                                                 .schedule = {.rate = 0.01}},
                            &t));
    TB_GO(tb_trainer_step(t, &loss));
    TB_GO(tb_trainer_save(t, checkpoint));
    TB_GO(tb_trainer_load(t, checkpoint));
    TB_GO(tb_trainer_step(t, &loss));
cleanup:
    tb_trainer_destroy(t);
    tb_model_destroy(m);
    tb_dataset_close(data);
    return st;
}

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    return tb_model_forward(arg, in[0]);
}

static tb_status captured(const tb_model *m, tb_graph **g)
{
    const tb_boundary *in = &tb_model_block_at(m, 0)->in;
    tb_capture_input input = {.name = "x", .dtype = in->dtype, .rank = in->rank};
    for (int i = 0; i < in->rank; i++)
        input.dims[i] = in->dims[i] == TB_DIM_BATCH ? -1 : in->dims[i] == TB_DIM_TIME ? 5 : in->dims[i];
    return tb_capture("model", 1, (const char *[]){"N"}, 1, &input, forward, (void *)(uintptr_t)m, g);
}

static tb_status deploy(const char *spec)
{
    tb_model *m = NULL;
    tb_graph *g = NULL;
    tb_artefact *a = NULL;
    tb_session *s = NULL;
    tb_status st = TB_OK;
    TB_GO(tb_model_create(spec, TB_F32, &m));
    TB_GO(captured(m, &g));
    TB_GO(tb_compile(g, NULL, NULL));
    TB_GO(tb_artefact_save(g, &(tb_artefact_info){.name = "m", .max_batch = 4}, 3, folder));
    TB_GO(tb_artefact_load(folder, &a));
    TB_GO(tb_session_create(tb_artefact_exec(a), tb_ctx_current(), &s));
    TB_GO(tb_artefact_check(a, s));
cleanup:
    tb_session_free(s);
    tb_artefact_free(a);
    tb_graph_free(g);
    tb_model_destroy(m);
    return st;
}

/* ---- with each allocation failing in turn ---- */
typedef tb_status (*life)(const char *spec);

static tb_status live(life l, const char *spec)
{
    tb_scope *scope = tb_scope_open();
    tb_status st = l(spec);
    tb_scope_close(scope);
    return st;
}

static void fail_each(tb_ctx *ctx, life l, const char *spec)
{
    tb_heap *const heaps[] = {tb_ctx_heap(ctx), tb_heap_process()};
    tb_mem_stats before[2], after;
    assert_ok(live(l, spec)); /* what is made once is made */
    for (int h = 0; h < 2; h++) tb_heap_stats(heaps[h], &before[h]);
    for (int h = 0; h < 2; h++) {
        tb_status st = TB_ERR_OOM;
        int failures = 0;
        for (int n = 1; st != TB_OK; n += getenv("TB_TEST_FULL") ? 1 : 1 + n / 8, failures++) {
            tb_scope *scope = tb_scope_open(); /* there even where the next one fails to open */
            tb_heap_fail_at(heaps[h], n);
            st = live(l, spec);
            tb_heap_fail_at(heaps[h], 0);
            tb_scope_close(scope);
            if (st != TB_OK && st != TB_ERR_OOM)
                fail_msg("%s, request %d of heap %d: %s", spec, n, h, tb_error_message());
            assert_ok(tb_ctx_take_error(ctx));
            assert_int_equal(tb_ctx_live_tensors(ctx), 0);
            for (int k = 0; k < 2; k++) {
                tb_heap_stats(heaps[k], &after);
                if (after.live_blocks != before[k].live_blocks)
                    fail_msg("%s, request %d of heap %d: %lld blocks of heap %d stay", spec, n, h,
                             (long long)(after.live_blocks - before[k].live_blocks), k);
            }
        }
        assert_true(failures > 20);
    }
}

static void a_training_run_survives_every_failed_allocation(void **state)
{
    fail_each(*state, train, "mlp:widths=36-5-6");
    fail_each(*state, train, "gpt:layers=1,width=8,heads=2,context=5");
}

static void an_artefact_survives_every_failed_allocation(void **state)
{
    fail_each(*state, deploy, "mlp:widths=36-5-6");
    fail_each(*state, deploy, "gpt:layers=1,width=8,heads=2,context=5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(a_training_run_survives_every_failed_allocation),
        ctx_test(an_artefact_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
