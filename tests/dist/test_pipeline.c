/* What a pipeline over real tensors must be: equal in its weights to plain accumulation, to the last bit, whatever the
 * schedule; exact in the memory that it says it holds; frugal; honest about what it refuses. Also run under
 * ThreadSanitizer. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_pipeline.h"
#include <pthread.h>
#include <stdlib.h>

enum { ROWS = 8, TIME = 4, WIDTH = 12, CLASSES = 4, STEPS = 3, MOST_RANKS = 8, MOST_STAGES = 8 };
static const char spec[] = "mlp:widths=12-16-20-16-24-16-20-16-4,act=gelu";
/* Residual blocks: what arrives as a gradient is kept for the weights too. */
static const char gpt_spec[] = "gpt:layers=6,width=16,heads=2,context=4,vocab=12,tie=false";
static const char uniform_spec[] = "mlp:widths=12-12-12-12-12-12-12-12-4,act=relu";
static const char relu_spec[] = "mlp:widths=12-16-20-16-24-16-20-16-4,act=relu";

typedef struct job { /* one arrangement of the same training */
    const char *schedule, *model;
    int ranks, chunks, microbatches; /* of one pipeline */
    bool recompute;
    int replicas, steps; /* 0: 1 pipeline, STEPS; more steps: over one batch, which they learn */
    const char *backend; /* NULL: thread */
    bool gradients_stay; /* no optimizer */
} job;
#define ALONE 0, 0, NULL, false

static uint64_t seed = 5;
static int replicas_of(const job *j) { return j->replicas ? j->replicas : 1; }
static int steps_of(const job *j) { return j->steps ? j->steps : STEPS; }

typedef struct outcome {
    char hash[65];
    double first_loss, loss;
    tb_pipeline_memory memory[MOST_RANKS];
    int64_t live_after[MOST_RANKS];
} outcome;

typedef struct rank_job {
    const job *j;
    const tb_schedule *schedule;
    const int *cuts;
    tb_comm_id id;
    int rank, replica;
    outcome *out;
    pthread_t thread;
} rank_job;

/* ---- data: a function of (step, micro-batch) ---- */
static float value_at(int64_t step, int64_t microbatch, int i)
{
    uint32_t h = (uint32_t)(step * 7919 + microbatch * 104729 + i * 2654435761u);
    h ^= h >> 15;
    h *= 2246822519u;
    return (float)(h >> 8) / (float)(1 << 24) - 0.5f;
}

static tb_tensor *input(void *arg, int64_t step, int64_t microbatch)
{
    const job *j = arg;
    if (j->steps) step = 0;
    if (j->model == gpt_spec) {
        int32_t tokens[ROWS * TIME];
        for (int i = 0; i < ROWS * TIME; i++) tokens[i] = (int32_t)((step + 3 * microbatch + i * i) % 12);
        return tb_tensor_from(TB_I32, 2, (int64_t[]){ROWS, TIME}, tokens);
    }
    float x[ROWS * WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = value_at(step, microbatch, i);
    return tb_tensor_from(TB_F32, 2, (int64_t[]){ROWS, WIDTH}, x);
}

static tb_tensor *loss(void *arg, int64_t step, int64_t microbatch, tb_tensor *output)
{
    const job *j = arg;
    if (j->steps) step = 0;
    int32_t y[ROWS * TIME];
    int n = j->model == gpt_spec ? ROWS * TIME : ROWS;
    for (int i = 0; i < n; i++) y[i] = (int32_t)((step + microbatch + i) % CLASSES);
    tb_tensor *count = tb_scalar(TB_I64, n * j->microbatches * replicas_of(j));
    tb_tensor *labels = n == ROWS ? tb_tensor_from(TB_I32, 1, (int64_t[]){ROWS}, y)
                                  : tb_tensor_from(TB_I32, 2, (int64_t[]){ROWS, TIME}, y);
    return tb_cross_entropy(output, labels, &(tb_ce_opts){.count = count});
}

static tb_pipeline_source source_of(const job *j) { return (tb_pipeline_source){input, loss, (void *)(uintptr_t)j}; }

/* ---- running ---- */
static bool holds(void *arg, int block)
{
    const rank_job *r = arg;
    int stage = 0;
    while (r->cuts[stage + 1] <= block) stage++;
    return r->schedule->placement[stage] == r->rank;
}

/* Ranks of a grid are numbered pipeline by pipeline. */
static void open_groups(const rank_job *r, tb_comm **world, tb_comm **stages, tb_comm **replicas)
{
    int n = r->j->ranks * replicas_of(r->j), rank = r->replica * r->j->ranks + r->rank;
    *world = *stages = *replicas = NULL;
    if (n == 1) return;
    assert_ok(tb_comm_open(r->j->backend ? r->j->backend : "thread", rank, n, &r->id, NULL, world));
    assert_ok(tb_comm_split(*world, r->replica, stages));
    assert_ok(tb_comm_split(*world, r->rank, replicas));
}

static void run_rank(rank_job *r)
{
    tb_ctx *ctx;
    tb_model *model;
    tb_optim *optim;
    tb_pipeline *p;
    tb_comm *world, *stages, *replicas;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = seed}, &ctx));
    tb_ctx_enter(ctx);
    open_groups(r, &world, &stages, &replicas);
    assert_ok(tb_model_create_part(r->j->model, TB_F32, holds, r, &model));
    assert_ok(tb_params_make_arena(tb_model_params(model), false));
    assert_ok(tb_optim_create(tb_model_params(model), &(tb_optim_config){TB_OPTIM_ADAMW, .rate = 0.01, .decay = 0.1},
                              &optim));
    assert_ok(tb_pipeline_create(&(tb_pipeline_config){.schedule = r->schedule,
                                                       .model = model,
                                                       .cuts = r->cuts,
                                                       .rows = ROWS,
                                                       .time = TIME,
                                                       .recompute = r->j->recompute,
                                                       .source = source_of(r->j),
                                                       .optim = r->j->gradients_stay ? NULL : optim,
                                                       .comm = stages,
                                                       .replicas = replicas,
                                                       .first_microbatch = r->replica * r->j->microbatches},
                                 &p));
    double value;
    outcome *out = &r->out[r->replica];
    if (r->j->gradients_stay) {
        assert_ok(tb_pipeline_step(p, &value));
        assert_int_equal(tb_pipeline_step(p, &value), TB_ERR_INVALID);
        assert_non_null(strstr(tb_error_message(), "has a gradient from before this step"));
        tb_params_clear_grads(tb_model_params(model));
    }
    for (int i = 0; i < steps_of(r->j); i++) {
        assert_ok(tb_pipeline_step(p, &value));
        if (i == 0 && r->rank == 0) out->first_loss = value;
    }
    tb_pipeline_get_memory(p, &out->memory[r->rank]);
    tb_mem_stats m;
    tb_heap_stats(tb_ctx_heap(ctx), &m);
    out->live_after[r->rank] = m.live_bytes;
    char hash[65];
    assert_ok(tb_pipeline_weights_hash(p, hash));
    if (r->rank == r->j->ranks - 1) {
        memcpy(out->hash, hash, sizeof hash);
        out->loss = value;
    }
    tb_pipeline_destroy(p);
    tb_optim_destroy(optim);
    tb_model_destroy(model);
    tb_comm_close(replicas);
    tb_comm_close(stages);
    tb_comm_close(world);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
}

static void *rank_main(void *arg)
{
    run_rank(arg);
    return NULL;
}

static tb_schedule *schedule_of(const job *j)
{
    tb_schedule *s;
    assert_ok(tb_schedule_make(j->schedule, &(tb_schedule_config){.ranks = j->ranks, .microbatches = j->microbatches,
                                                                  .chunks = j->chunks}, &s));
    return s;
}

static void cuts_of(const tb_schedule *s, int blocks, int *cuts)
{
    double cost[64];
    for (int i = 0; i < blocks; i++) cost[i] = 1;
    assert_ok(tb_pipeline_cut(blocks, cost, s->stages, cuts));
}

/* out[replicas] */
static void run(const job *j, outcome *out)
{
    rank_job ranks[MOST_RANKS];
    int cuts[MOST_STAGES + 1], n = j->ranks * replicas_of(j);
    tb_comm_id id = {0};
    tb_schedule *s = schedule_of(j);
    cuts_of(s, 8, cuts);
    if (n > 1) assert_ok(tb_comm_make_id(j->backend ? j->backend : "thread", n, &id));
    for (int r = 0; r < n; r++) {
        ranks[r] = (rank_job){
            .j = j, .schedule = s, .cuts = cuts, .id = id, .rank = r % j->ranks, .replica = r / j->ranks, .out = out};
        if (n > 1)
            pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]);
        else run_rank(&ranks[r]);
    }
    for (int r = 0; r < n && n > 1; r++) pthread_join(ranks[r].thread, NULL);
    tb_schedule_free(s);
}

static const job arrangements[] = {
    {"accumulate", spec, 1, 2, 8, false, ALONE},
    {"accumulate", spec, 1, 8, 8, false, ALONE},
    {"gpipe", spec, 1, 1, 8, false, ALONE},
    {"gpipe", spec, 2, 1, 8, false, ALONE},
    {"gpipe", spec, 4, 1, 8, false, ALONE},
    {"gpipe", spec, 4, 1, 8, true, ALONE},
    {"1f1b", spec, 1, 1, 8, false, ALONE},
    {"1f1b", spec, 2, 1, 8, false, ALONE},
    {"1f1b", spec, 4, 1, 8, false, ALONE},
    {"1f1b", spec, 4, 1, 8, true, ALONE},
    {"1f1b", spec, 2, 1, 8, true, ALONE},
    {"zb_h1", spec, 1, 1, 8, false, ALONE},
    {"zb_h1", spec, 2, 1, 8, false, ALONE},
    {"zb_h1", spec, 4, 1, 8, false, ALONE},
    {"interleaved_1f1b", spec, 2, 2, 8, false, ALONE},
    {"interleaved_1f1b", spec, 2, 4, 8, false, ALONE},
    {"interleaved_1f1b", spec, 4, 2, 8, false, ALONE},
    {"interleaved_1f1b", spec, 4, 2, 8, true, ALONE},
    {"1f1b", relu_spec, 4, 1, 8, false, ALONE},
    {"zb_h1", relu_spec, 4, 1, 8, false, ALONE},
    {"gpipe", gpt_spec, 2, 1, 4, false, ALONE},
    {"1f1b", gpt_spec, 4, 1, 4, true, ALONE},
    {"zb_h1", gpt_spec, 2, 1, 4, false, ALONE},
    {"zb_h1", gpt_spec, 4, 1, 4, false, ALONE},
    {"interleaved_1f1b", gpt_spec, 2, 2, 4, false, ALONE},
    {"gpipe", spec, 8, 1, 8, false, ALONE},
    {"1f1b", spec, 8, 1, 16, false, ALONE},
    {"1f1b", spec, 8, 1, 8, true, ALONE},
    {"zb_h1", spec, 8, 1, 8, false, ALONE},
};
enum { ARRANGEMENTS = sizeof arrangements / sizeof arrangements[0] };

/* ---- what must be true ---- */
/* One pipeline's share of a step, folded over its micro-batches; returns its part of the loss. */
static float fold(const job *j, tb_model *model, int step, int replica)
{
    float sum = 0, part;
    void *arg = (void *)(uintptr_t)j;
    for (int m = replica * j->microbatches; m < (replica + 1) * j->microbatches; m++) {
        tb_scope *scope = tb_scope_open();
        tb_tensor *l = loss(arg, step, m, tb_model_forward(model, input(arg, step, m)));
        assert_ok(tb_backward(l));
        assert_ok(tb_item_f32(l, &part));
        sum += part;
        tb_scope_close(scope);
    }
    return sum;
}

/* sums[0][i] becomes the pairwise tree over sums[0 .. n-1][i]. */
static void add_tree(float **sums, int n, int64_t count)
{
    for (int step = 1; step < n; step *= 2)
        for (int r = 0; r + step < n; r += 2 * step)
            for (int64_t i = 0; i < count; i++) sums[r][i] += sums[r + step][i];
}

/* One rank: the tree over the shares of what pipelines there are. steps 0: the weights before the first. */
static void plain_accumulation(const job *j, int steps, char hash[65], double *value)
{
    tb_ctx *ctx;
    tb_model *model;
    tb_optim *optim;
    float *sums[MOST_RANKS], losses[MOST_RANKS], *of_losses[MOST_RANKS];
    int n = replicas_of(j);
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = seed}, &ctx));
    tb_ctx_enter(ctx);
    assert_ok(tb_model_create(j->model, TB_F32, &model));
    tb_params *ps = tb_model_params(model);
    assert_ok(tb_params_make_arena(ps, false));
    assert_ok(tb_optim_create(ps, &(tb_optim_config){TB_OPTIM_ADAMW, .rate = 0.01, .decay = 0.1}, &optim));
    int64_t count = tb_tensor_numel(tb_params_arena(ps));
    float *arena = tb_tensor_host(tb_params_arena(ps));
    for (int r = 0; r < n; r++) sums[r] = malloc((size_t)count * sizeof(float)), of_losses[r] = &losses[r];
    for (int step = 0; step < steps; step++) {
        for (int r = 0; r < n; r++) {
            tb_params_clear_grads(ps);
            losses[r] = fold(j, model, step, r);
            memcpy(sums[r], arena, (size_t)count * sizeof(float));
        }
        add_tree(sums, n, count);
        add_tree(of_losses, n, 1);
        memcpy(arena, sums[0], (size_t)count * sizeof(float));
        *value = (double)losses[0];
        assert_ok(tb_optim_step(optim));
    }
    for (int r = 0; r < n; r++) free(sums[r]);
    int cuts[] = {0, 8};
    tb_schedule *s = schedule_of(&(job){"accumulate", spec, 1, 1, 1, false, ALONE});
    tb_pipeline *p;
    assert_ok(tb_pipeline_create(&(tb_pipeline_config){.schedule = s, .model = model, .cuts = cuts, .rows = ROWS}, &p));
    assert_ok(tb_pipeline_weights_hash(p, hash));
    tb_pipeline_destroy(p);
    tb_schedule_free(s);
    tb_optim_destroy(optim);
    tb_model_destroy(model);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
}

static void every_schedule_gives_the_weights_of_plain_accumulation(void **state)
{
    (void)state;
    for (int i = 0; i < ARRANGEMENTS; i++) {
        const job *j = &arrangements[i];
        char wanted[65];
        double value;
        outcome out;
        plain_accumulation(j, STEPS, wanted, &value);
        run(j, &out);
        assert_string_equal(out.hash, wanted);
        assert_true(out.loss == value);
    }
}

/* Data x stages: pipelines side by side, whose gradients REDUCE adds. */
static void every_grid_gives_the_tree_over_folds(void **state)
{
    (void)state;
    static const struct {
        const char *schedule;
        int replicas, ranks, chunks;
    } grids[] = {{"1f1b", 2, 2, 1}, {"gpipe", 2, 2, 1},      {"zb_h1", 2, 2, 1},      {"interleaved_1f1b", 2, 2, 2},
                 {"1f1b", 2, 1, 1}, {"accumulate", 2, 1, 1}, {"accumulate", 4, 1, 2}, {"1f1b", 1, 2, 1}};
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++)
        for (int shm = 0; shm < 2; shm++) {
            job j = {.schedule = grids[i].schedule,
                     .model = spec,
                     .ranks = grids[i].ranks,
                     .chunks = grids[i].chunks,
                     .microbatches = 4,
                     .replicas = grids[i].replicas,
                     .steps = 50,
                     .backend = shm ? "shm" : "thread"};
            char wanted[65], before[65];
            double value = 0;
            outcome out[MOST_RANKS];
            plain_accumulation(&j, 0, before, &value);
            plain_accumulation(&j, j.steps, wanted, &value);
            assert_string_not_equal(wanted, before);
            run(&j, out);
            for (int r = 0; r < j.replicas; r++) {
                assert_string_equal(out[r].hash, wanted);
                assert_true(out[r].loss == value);
                assert_true(out[r].loss < 0.9 * out[r].first_loss);
            }
        }
}

/* Sums over the pipelines that nobody has taken would be summed again. */
static void gradients_that_stay_are_not_summed_twice(void **state)
{
    (void)state;
    job j = {.schedule = "1f1b",
             .model = spec,
             .ranks = 2,
             .chunks = 1,
             .microbatches = 2,
             .replicas = 2,
             .steps = 1,
             .gradients_stay = true};
    outcome out[2];
    run(&j, out);
}

static void another_seed_gives_other_weights(void **state)
{
    (void)state;
    job j = {.schedule = "1f1b", .model = spec, .ranks = 2, .chunks = 1, .microbatches = 4, .replicas = 2, .steps = 50};
    outcome one[2], other[2];
    run(&j, one);
    seed++;
    run(&j, other);
    seed--;
    assert_string_not_equal(one[0].hash, other[0].hash);
}

/* Predicted on the meta device, where nothing is computed. */
static void predict(const job *j, tb_rank_peak *peaks, tb_stage_bytes *bytes)
{
    tb_ctx *ctx;
    tb_model *model;
    int cuts[MOST_STAGES + 1];
    tb_schedule *s = schedule_of(j);
    cuts_of(s, 8, cuts);
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = 5, .device = "meta"}, &ctx));
    tb_ctx_enter(ctx);
    assert_ok(tb_model_create(j->model, TB_F32, &model));
    assert_ok(tb_params_make_arena(tb_model_params(model), false));
    assert_ok(tb_pipeline_stage_bytes(&(tb_pipeline_config){.schedule = s, .model = model, .cuts = cuts, .rows = ROWS,
                                                            .time = TIME,
                                      .recompute = j->recompute, .source = source_of(j)}, bytes));
    tb_schedule_peaks(s, bytes, peaks);
    tb_model_destroy(model);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
    tb_schedule_free(s);
}

static void what_is_held_is_what_was_predicted_on_meta(void **state)
{
    (void)state;
    for (int i = 0; i < ARRANGEMENTS; i++) {
        const job *j = &arrangements[i];
        tb_rank_peak peaks[MOST_RANKS];
        tb_stage_bytes bytes[MOST_STAGES];
        outcome out;
        predict(j, peaks, bytes);
        run(j, &out);
        for (int r = 0; r < j->ranks; r++) {
            assert_int_equal(out.memory[r].held_bytes, peaks[r].held_bytes);
            assert_int_equal(out.memory[r].act_bytes, peaks[r].act_bytes);
            assert_int_equal(out.live_after[r], out.memory[r].static_bytes); /* nothing stays behind a step */
        }
    }
}

static void a_rank_of_1f1b_holds_min_m_p_minus_r_microbatches(void **state)
{
    (void)state;
    for (int m = 1; m <= 8; m *= 2) {
        tb_rank_peak peaks[MOST_RANKS];
        tb_stage_bytes bytes[MOST_STAGES];
        outcome out;
        predict(&(job){"1f1b", spec, 4, 1, m, false, ALONE}, peaks, bytes);
        run(&(job){"1f1b", spec, 4, 1, m, false, ALONE}, &out);
        for (int r = 0; r < 4; r++) {
            assert_true(bytes[r].act > 0);
            assert_int_equal(out.memory[r].act_bytes, bytes[r].act * (m < 4 - r ? m : 4 - r));
        }
        run(&(job){"gpipe", spec, 4, 1, m, false, ALONE}, &out);
        for (int r = 0; r < 4; r++) assert_int_equal(out.memory[r].act_bytes, bytes[r].act * m);
    }
}

/* Eight equal blocks, one a rank; the last has the loss, so it is not one of them. */
static void on_a_uniform_stack_that_is_the_closed_form(void **state)
{
    (void)state;
    enum { P = 8 };
    for (int m = 1; m <= 16; m *= 4) {
        job j = {.schedule = "1f1b", .model = uniform_spec, .ranks = P, .chunks = 1, .microbatches = m};
        tb_rank_peak peaks[MOST_RANKS];
        tb_stage_bytes bytes[MOST_STAGES];
        outcome out;
        predict(&j, peaks, bytes);
        run(&j, &out);
        int64_t of_a_block = bytes[1].act; /* A/p */
        assert_true(of_a_block > 0);
        for (int r = 0; r < P; r++) {
            assert_int_equal(out.memory[r].act_bytes, peaks[r].act_bytes);
            if (r + 1 == P) continue;
            assert_int_equal(bytes[r].act, of_a_block);
            assert_int_equal(out.memory[r].act_bytes, of_a_block * (m < P - r ? m : P - r));
        }
    }
}

static void recomputation_holds_less_and_a_split_backward_is_refused(void **state)
{
    (void)state;
    outcome plain, again;
    run(&(job){"gpipe", spec, 2, 1, 8, false, ALONE}, &plain);
    run(&(job){"gpipe", spec, 2, 1, 8, true, ALONE}, &again);
    for (int r = 0; r < 2; r++) assert_true(again.memory[r].held_bytes < plain.memory[r].held_bytes);

    tb_schedule *s = schedule_of(&(job){"zb_h1", spec, 1, 1, 2, false, ALONE});
    tb_ctx *ctx;
    tb_model *model;
    tb_pipeline *p;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = 5}, &ctx));
    tb_ctx_enter(ctx);
    assert_ok(tb_model_create(spec, TB_F32, &model));
    tb_pipeline_config c = {.schedule = s, .model = model, .cuts = (int[]){0, 8}, .rows = ROWS, .recompute = true};
    assert_int_equal(tb_pipeline_create(&c, &p), TB_ERR_UNSUPPORTED);
    c.recompute = false;
    c.cuts = (int[]){0, 7};
    assert_int_equal(tb_pipeline_create(&c, &p), TB_ERR_INVALID);
    assert_non_null(strstr(tb_error_message(), "from block 0 to 7"));
    tb_model_destroy(model);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
    tb_schedule_free(s);
}

static void cuts_make_the_dearest_stage_as_cheap_as_possible(void **state)
{
    (void)state;
    int cuts[5];
    assert_ok(tb_pipeline_cut(10, (double[]){1, 4, 4, 4, 4, 4, 4, 4, 4, 2}, 4, cuts));
    assert_memory_equal(cuts, ((int[]){0, 3, 5, 7, 10}), sizeof cuts);
    assert_ok(tb_pipeline_cut(4, (double[]){9, 0, 0, 0}, 4, cuts));
    assert_memory_equal(cuts, ((int[]){0, 1, 2, 3, 4}), sizeof cuts);
    assert_ok(tb_pipeline_cut(5, (double[]){1, 1, 9, 1, 1}, 3, cuts));
    assert_memory_equal(cuts, ((int[]){0, 2, 3, 5}), 4 * sizeof *cuts);
    assert_int_equal(tb_pipeline_cut(3, (double[]){1, 1, 1}, 4, cuts), TB_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_gives_the_weights_of_plain_accumulation),
        cmocka_unit_test(every_grid_gives_the_tree_over_folds),
        cmocka_unit_test(gradients_that_stay_are_not_summed_twice),
        cmocka_unit_test(another_seed_gives_other_weights),
        cmocka_unit_test(what_is_held_is_what_was_predicted_on_meta),
        cmocka_unit_test(a_rank_of_1f1b_holds_min_m_p_minus_r_microbatches),
        cmocka_unit_test(on_a_uniform_stack_that_is_the_closed_form),
        cmocka_unit_test(recomputation_holds_less_and_a_split_backward_is_refused),
        cmocka_unit_test(cuts_make_the_dearest_stage_as_cheap_as_possible),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
