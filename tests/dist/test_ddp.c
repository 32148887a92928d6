/* What data parallelism must be: 1, 2 and 4 ranks with the same global batch learn the same bits, whatever the bucket
 * size; accumulation without sums in between is the same as with them at its end; a run that is kept and resumed on
 * other ranks is the same as one that never stopped. Also run under ThreadSanitizer. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_ddp.h"
#include "tb_model.h"
#include "tb_ops.h"
#include "tb_optim.h"
#include <pthread.h>
#include <stdlib.h>

enum { BATCH = 32, WIDTH = 20, CLASSES = 5, STEPS = 4, TIME = 6, VOCAB = 11 };

static const char mlp[] = "mlp:widths=20-33-17-5,act=gelu";
static const char normed[] = "resnet:depth=8,channels=1,size=4,width=4,classes=5";
static const char tied_gpt[] = "gpt:layers=1,width=16,heads=2,vocab=11,context=6";

typedef struct setting {
    int ranks, micro_batches;
    int64_t bucket_bytes;
    const char *model;
    bool fused;
    tb_optim_kind optim;
    const char *backend;     /* NULL: thread */
    int steps;               /* 0: STEPS; else so many over one batch, which they learn; -1: none */
    uint64_t seed;           /* 0: 9 */
    const char *load, *save; /* a checkpoint's folder; NULL: from the start, not kept */
    int until;               /* this step; 0: as `steps` says */
    tb_status refused;       /* what load says */
} setting;

typedef struct rank_job {
    const setting *s;
    tb_comm_id id;
    int rank, buckets;
    char hash[65];
    float losses[2]; /* this rank's part of the first and of the last */
    int64_t state_bytes;
    pthread_t thread;
} rank_job;

static tb_tensor *image_loss(const tb_model *m, bool is_image, int step, int micro, int first, int rows)
{
    float x[BATCH * WIDTH];
    int32_t y[BATCH];
    for (int r = 0; r < rows; r++) {
        y[r] = (first + r + step) % CLASSES;
        for (int i = 0; i < WIDTH; i++) {
            uint32_t h = (uint32_t)((first + r) * 7919 + i * 104729 + step * 31 + micro * 17) * 2654435761u;
            x[r * WIDTH + i] = (float)(h >> 8) / (float)(1 << 24) - 0.5f;
        }
    }
    const int64_t vector[] = {rows, WIDTH}, image[] = {rows, 1, 4, 4};
    tb_tensor *in = tb_tensor_from(TB_F32, is_image ? 4 : 2, is_image ? image : vector, x);
    return tb_cross_entropy(tb_model_forward(m, in), tb_tensor_from(TB_I32, 1, (int64_t[]){rows}, y),
                            &(tb_ce_opts){.count = tb_scalar(TB_I64, BATCH)});
}

/* A gpt on text: its loss is the mean over all places of all rows. */
static tb_tensor *text_loss(const tb_model *m, int step, int micro, int first, int rows)
{
    int32_t x[BATCH * TIME], y[BATCH * TIME];
    for (int i = 0; i < rows * TIME; i++) {
        uint32_t h = (uint32_t)((first * TIME + i) * 7919 + step * 31 + micro * 17) * 2654435761u;
        x[i] = (int32_t)(h >> 24) % VOCAB;
        y[i] = (x[i] * 3 + 1) % VOCAB;
    }
    const int64_t dims[] = {rows, TIME};
    tb_tensor *in = tb_tensor_from(TB_I32, 2, dims, x);
    return tb_cross_entropy(tb_model_forward(m, in), tb_tensor_from(TB_I32, 2, dims, y),
                            &(tb_ce_opts){.count = tb_scalar(TB_I64, BATCH * TIME)});
}

static void train(rank_job *j, const tb_model *m, tb_optim *o, tb_ddp *d)
{
    int rows = BATCH / j->s->ranks;
    int steps = j->s->steps < 0 ? 0 : j->s->steps ? j->s->steps : STEPS, until = j->s->until ? j->s->until : steps;
    for (int step = j->s->load ? (int)tb_ddp_steps(d) : 0; step < until; step++) {
        for (int micro = 0; micro < j->s->micro_batches; micro++) {
            tb_scope *scope = tb_scope_open();
            tb_ddp_begin(d, micro + 1 == j->s->micro_batches);
            int batch = j->s->steps ? 0 : step, first = j->rank * rows;
            tb_tensor *loss = j->s->model == tied_gpt ? text_loss(m, batch, micro, first, rows)
                                                      : image_loss(m, j->s->model == normed, batch, micro, first, rows);
            assert_ok(tb_backward(loss));
            assert_ok(tb_item_f32(loss, &j->losses[step > 0]));
            tb_scope_close(scope);
        }
        if (j->s->fused) {
            assert_ok(tb_ddp_step(d));
            continue;
        }
        assert_ok(tb_ddp_finish(d));
        assert_ok(tb_optim_step(o));
    }
}

static void *run_rank(void *arg)
{
    rank_job *j = arg;
    tb_ctx *ctx;
    tb_model *m;
    tb_optim *o;
    tb_comm *c;
    tb_ddp *d;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = j->s->seed ? j->s->seed : 9}, &ctx));
    tb_ctx_enter(ctx);
    assert_ok(tb_ctx_set_batch_blocks(ctx, 8 / j->s->ranks));
    const tb_optim_config optim = {j->s->optim, .rate = 0.1, .momentum = 0.9, .decay = 0.01};
    const char *backend = j->s->backend ? j->s->backend : "thread";
    assert_ok(tb_comm_open(j->s->ranks > 1 ? backend : "self", j->rank, j->s->ranks, &j->id, NULL, &c));
    assert_ok(tb_model_create(j->s->model, TB_F32, &m));
    assert_ok(tb_optim_create(tb_model_params(m), &optim, &o));
    assert_ok(
        tb_ddp_create(&(tb_ddp_config){tb_model_params(m), c, j->s->bucket_bytes, j->s->fused ? &optim : NULL}, &d));
    if (j->s->load) assert_int_equal(tb_ddp_load(d, j->s->load), j->s->refused);
    if (!j->s->refused) train(j, m, o, d);
    if (j->s->save) assert_ok(tb_ddp_save(d, j->s->save));
    if (j->s->fused && !j->s->refused) j->state_bytes = tb_ddp_state_bytes(d);
    j->buckets = tb_ddp_buckets(d);
    assert_ok(tb_params_hash(tb_model_params(m), j->hash));
    tb_ddp_destroy(d);
    tb_optim_destroy(o);
    tb_model_destroy(m);
    tb_comm_close(c);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
    return NULL;
}

/* Of the last run. */
static int64_t state_bytes; /* of rank 0 */
static float losses[2];     /* first and last, of all ranks */

/* All ranks end with the same weights; returns how many buckets there were. */
static int run(setting s, char hash[65])
{
    rank_job jobs[8];
    tb_comm_id id = {0};
    if (s.ranks > 1) assert_ok(tb_comm_make_id(s.backend ? s.backend : "thread", s.ranks, &id));
    for (int r = 0; r < s.ranks; r++) {
        jobs[r] = (rank_job){.s = &s, .id = id, .rank = r};
        if (s.ranks > 1)
            pthread_create(&jobs[r].thread, NULL, run_rank, &jobs[r]);
        else
            run_rank(&jobs[r]);
    }
    for (int r = 0; r < s.ranks && s.ranks > 1; r++) pthread_join(jobs[r].thread, NULL);
    for (int r = 1; r < s.ranks; r++) assert_string_equal(jobs[r].hash, jobs[0].hash);
    memcpy(hash, jobs[0].hash, 65);
    state_bytes = jobs[0].state_bytes;
    for (int i = 0; i < 2; i++) {
        losses[i] = 0;
        for (int r = 0; r < s.ranks; r++) losses[i] += jobs[r].losses[i];
    }
    return jobs[0].buckets;
}

static void ranks_and_buckets_change_no_bit(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 256, 2048, 4096, 1 << 20};
    char one[65], many[65];
    (void)run((setting){.ranks = 1, .micro_batches = 1, .bucket_bytes = 0, .model = mlp}, one);
    for (int ranks = 1; ranks <= 4; ranks *= 2)
        for (int i = 0; i < 5; i++) {
            int n = run((setting){.ranks = ranks, .micro_batches = 1, .bucket_bytes = sizes[i], .model = mlp}, many);
            assert_string_equal(many, one);
            if (i == 0) assert_int_equal(n, 6); /* one a parameter */
            if (i == 4) assert_int_equal(n, 1);
        }
}

static void fifty_steps_have_one_hash_on_all_ranks_buckets_and_backends(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 256, 2048, 4096, 1 << 20};
    const char *const backends[] = {"thread", "shm"};
    char one[65], many[65], other[65];
    setting s = {.ranks = 1, .micro_batches = 1, .model = mlp, .steps = -1};
    (void)run(s, other); /* before the first step */
    s.steps = 50;
    (void)run(s, one);
    assert_string_not_equal(one, other);
    assert_true(losses[1] < losses[0]);
    for (s.ranks = 2; s.ranks <= 8; s.ranks *= 2)
        for (int i = 0; i < 10; i++) {
            s.backend = backends[i / 5];
            s.bucket_bytes = sizes[i % 5];
            s.fused = i % 2;
            (void)run(s, many);
            assert_string_equal(many, one);
        }
    s.ranks = 1;
    s.seed = 10;
    (void)run(s, other);
    assert_string_not_equal(one, other);
}

/* The head reads the byte embedding: one gradient from two sums over the batch. */
static void a_tied_head_has_the_bits_of_one_rank(void **state)
{
    (void)state;
    char one[65], many[65];
    (void)run((setting){.ranks = 1, .micro_batches = 1, .bucket_bytes = 0, .model = tied_gpt}, one);
    for (int ranks = 1; ranks <= 4; ranks *= 2)
        for (int i = 0; i < 2; i++) {
            (void)run((setting){.ranks = ranks, .micro_batches = 1, .bucket_bytes = i ? 1 : 1 << 20, .model = tied_gpt},
                      many);
            assert_string_equal(many, one);
        }
}

static void accumulation_sums_once_and_all_ranks_agree(void **state)
{
    (void)state;
    char fine[65], coarse[65], without[65];
    (void)run((setting){.ranks = 2, .micro_batches = 3, .bucket_bytes = 1, .model = mlp}, fine);
    (void)run((setting){.ranks = 2, .micro_batches = 3, .bucket_bytes = 1 << 20, .model = mlp}, coarse);
    (void)run((setting){.ranks = 2, .micro_batches = 1, .bucket_bytes = 1, .model = mlp}, without);
    assert_string_equal(fine, coarse);
    assert_string_not_equal(fine, without);
}

/* Each rank updates what it sums; the weights are those of ranks that each have an optimizer. */
static void updates_on_sums_have_the_bits_of_an_optimizer(void **state)
{
    (void)state;
    const char *const models[] = {mlp, tied_gpt}, *const backends[] = {"thread", "shm"};
    for (int m = 0; m < 2; m++)
        for (int optim = 0; optim < 3; optim++) {
            setting s = {.ranks = 1, .micro_batches = 2, .model = models[m], .optim = (tb_optim_kind)optim};
            char one[65], many[65];
            for (; s.ranks <= 8; s.ranks *= 2) {
                s.fused = false;
                (void)run(s, one);
                s.fused = true;
                for (int i = 0; i < 4; i++) {
                    s.bucket_bytes = i & 1 ? 1 : 1 << 20;
                    s.backend = backends[i / 2];
                    (void)run(s, many);
                    assert_string_equal(many, one);
                }
            }
        }
}

static void the_state_of_an_optimizer_is_shared_out(void **state)
{
    (void)state;
    char one[65], many[65];
    setting s = {.ranks = 1, .micro_batches = 1, .bucket_bytes = 1 << 20, .model = mlp, .optim = TB_OPTIM_ADAMW};
    (void)run(s, one);
    s.fused = true;
    (void)run(s, many);
    assert_string_equal(many, one);
    int64_t whole = state_bytes;
    for (s.ranks = 2; s.ranks <= 8; s.ranks *= 2) {
        (void)run(s, many);
        assert_string_equal(many, one);
        assert_in_range(state_bytes, whole / s.ranks - 128, whole / s.ranks + 128);
    }
}

/* Trained on 2 ranks, kept, and gone on with on 1, 2 and 4, whose shares and buckets are others: the bits of an
 * unbroken run. */
static void a_checkpoint_resumes_on_other_ranks(void **state)
{
    (void)state;
    static const char *const models[] = {mlp, tied_gpt};
    static const tb_optim_kind kinds[] = {TB_OPTIM_ADAMW, TB_OPTIM_SGD};
    for (int k = 0; k < 2; k++) {
        char folder[] = "/tmp/tb_ddp_XXXXXX", unbroken[65], early[65], resumed[65], command[64];
        assert_non_null(mkdtemp(folder));
        setting s = {2, 1, 512, models[k], true, kinds[k], .until = 0};
        run(s, unbroken);
        s.until = 1;
        s.save = folder;
        run(s, early);
        s.until = 2; /* replaces it, and goes on from it */
        s.load = folder;
        run(s, early);
        s.save = NULL;
        s.until = 0;
        for (int ranks = 1; ranks <= 4; ranks *= 2) {
            s.ranks = ranks;
            s.bucket_bytes = 1024 * ranks;
            s.backend = ranks == 4 ? "shm" : NULL;
            run(s, resumed);
            assert_string_equal(resumed, unbroken);
        }
        assert_string_not_equal(early, unbroken);
        snprintf(command, sizeof command, "rm -r %s", folder);
        assert_int_equal(system(command), 0);
    }
}

/* What a step changes without a gradient: the hash has it too. */
static void a_checkpoint_has_running_averages(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_ddp_XXXXXX", unbroken[65], hash[65], command[64];
    assert_non_null(mkdtemp(folder));
    setting s = {1, 1, 512, normed, true, TB_OPTIM_ADAMW, .until = 0};
    run(s, unbroken);
    s.until = 2;
    s.save = folder;
    run(s, hash);
    assert_string_not_equal(hash, unbroken);
    s.until = 0;
    s.save = NULL;
    s.load = folder;
    run(s, hash);
    assert_string_equal(hash, unbroken);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* A shard of one checkpoint among those of another, or another model's, is no checkpoint. */
static void a_checkpoint_of_something_else_is_refused(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_ddp_XXXXXX", hash[65], command[256];
    assert_non_null(mkdtemp(folder));
    setting s = {2, 1, 512, mlp, true, TB_OPTIM_ADAMW, .save = folder, .until = 1};
    run(s, hash);
    setting other = {2, 1, 512, tied_gpt, true, TB_OPTIM_ADAMW, .load = folder, .refused = TB_ERR_CONFIG};
    run(other, hash);
    other = (setting){2, 1, 512, mlp, true, TB_OPTIM_SGD, .load = folder, .refused = TB_ERR_CONFIG};
    run(other, hash);
    snprintf(command, sizeof command, "cd %s && cp step-1-shard-0-of-2.safetensors step-1-shard-1-of-2.safetensors",
             folder);
    assert_int_equal(system(command), 0);
    other = (setting){2, 1, 512, mlp, true, TB_OPTIM_ADAMW, .load = folder, .refused = TB_ERR_PARSE};
    run(other, hash);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* Each rank would have running averages of its own rows. */
static void *create_with_buffers(void *arg)
{
    rank_job *j = arg;
    tb_ctx *ctx;
    tb_model *m;
    tb_comm *c;
    tb_ddp *d;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = 9}, &ctx));
    tb_ctx_enter(ctx);
    assert_ok(tb_comm_open("thread", j->rank, 2, &j->id, NULL, &c));
    assert_ok(tb_model_create("resnet", TB_F32, &m));
    assert_int_equal(tb_ddp_create(&(tb_ddp_config){.params = tb_model_params(m), .comm = c}, &d), TB_ERR_UNSUPPORTED);
    assert_non_null(strstr(tb_error_message(), "running_mean is a running average"));
    assert_null(d);
    tb_model_destroy(m);
    tb_comm_close(c);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
    return NULL;
}

static void running_averages_are_refused_on_several_ranks(void **state)
{
    (void)state;
    rank_job jobs[2] = {{.rank = 0}, {.rank = 1}};
    assert_ok(tb_comm_make_id("thread", 2, &jobs[0].id));
    jobs[1].id = jobs[0].id;
    for (int r = 0; r < 2; r++) pthread_create(&jobs[r].thread, NULL, create_with_buffers, &jobs[r]);
    for (int r = 0; r < 2; r++) pthread_join(jobs[r].thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_and_buckets_change_no_bit),
        cmocka_unit_test(fifty_steps_have_one_hash_on_all_ranks_buckets_and_backends),
        cmocka_unit_test(a_tied_head_has_the_bits_of_one_rank),
        cmocka_unit_test(updates_on_sums_have_the_bits_of_an_optimizer),
        cmocka_unit_test(the_state_of_an_optimizer_is_shared_out),
        cmocka_unit_test(a_checkpoint_resumes_on_other_ranks),
        cmocka_unit_test(a_checkpoint_has_running_averages),
        cmocka_unit_test(a_checkpoint_of_something_else_is_refused),
        cmocka_unit_test(accumulation_sums_once_and_all_ranks_agree),
        cmocka_unit_test(running_averages_are_refused_on_several_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
