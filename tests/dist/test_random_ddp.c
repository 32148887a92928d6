/* Data parallelism on random models: parameters read twice or under two names of a part, frozen (detached), never
 * read, or met by no gradient; several losses. Every count of ranks, bucket size and way to update must
 * leave the bits of one rank and one optimizer. Then what must be refused: graphs that differ, passes too many.
 * TB_TEST_SEED draws others. Also run under ThreadSanitizer. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_ddp.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include <pthread.h>
#include <stdlib.h>

enum { BATCH = 16, WIDTH = 6, MAX_PARTS = 7, STEPS = 3, MODELS = 25, MAX_RANKS = 4 };

typedef enum part_kind { PLAIN, SHARED, FROZEN, UNREAD, CUT_OFF, GAIN, PART_KINDS } part_kind;

typedef struct model {
    uint64_t seed;
    int n;
    part_kind kind[MAX_PARTS];
    tb_tensor *w[MAX_PARTS], *b[MAX_PARTS];
    tb_params *ps;
} model;

typedef struct plan {
    uint64_t seed;
    int ranks, micro_batches;
    int64_t bucket_bytes;
    bool fused;
    tb_optim_kind optim;
    tb_tensor *(*loss)(const model *m, int rank, int step, tb_tensor *x); /* NULL: of the whole model */
    tb_status expected;                                                   /* of the last step on one rank; OK: all */
    int failing_step, failing_rank;
    const char *sentence;
} plan;

typedef struct rank_job {
    const plan *p;
    tb_comm_id id;
    int rank;
    char hash[65];
    pthread_t thread;
} rank_job;

static int roll(uint64_t seed, uint64_t at, int n) { return (int)tb_random_below(seed, 1, at, (uint64_t)n); }

static model make_model(uint64_t seed)
{
    model m = {.seed = seed, .n = 1 + roll(seed, 0, MAX_PARTS)};
    assert_ok(tb_params_create(TB_F32, seed, &m.ps));
    for (int i = 0; i < m.n; i++) {
        char name[16];
        m.kind[i] = i ? (part_kind)roll(seed, 10 + (uint64_t)i, PART_KINDS) : PLAIN;
        size_t mark = tb_params_enter(m.ps, (snprintf(name, sizeof name, "part%d", i), name));
        if (m.kind[i] == SHARED) {
            int of = roll(seed, 30 + (uint64_t)i, i);
            bool is_matrix = m.kind[of] != SHARED && m.kind[of] != GAIN;
            snprintf(name, sizeof name, "part%d.w", is_matrix ? of : 0);
            m.w[i] = tb_params_share(m.ps, name);
        } else {
            const int64_t dims[] = {WIDTH, WIDTH};
            m.w[i] = tb_params_add(m.ps, "w", tb_init_uniform(0.5), m.kind[i] == GAIN ? 1 : 2, dims);
            if (roll(seed, 50 + (uint64_t)i, 2)) m.b[i] = tb_params_add(m.ps, "b", tb_init_uniform(0.5), 1, dims);
        }
        tb_params_leave(m.ps, mark);
    }
    assert_ok(tb_params_status(m.ps));
    return m;
}

/* A loss of all ranks' rows: each is divided by their count. */
static tb_tensor *judged(tb_tensor *h)
{
    int32_t classes[BATCH];
    for (int i = 0; i < BATCH; i++) classes[i] = i % 2; /* a rank's rows begin at an even one */
    tb_tensor *y = tb_tensor_from(TB_I32, 1, (int64_t[]){tb_tensor_dim(h, 0)}, classes);
    return tb_cross_entropy(h, y, &(tb_ce_opts){.count = tb_scalar(TB_I64, BATCH)});
}

static tb_tensor *loss_of(const model *m, tb_tensor *x)
{
    tb_tensor *h = x, *total = NULL;
    for (int i = 0; i < m->n; i++) {
        tb_tensor *w = m->w[i], *b = m->b[i], *y;
        switch (m->kind[i]) {
        case UNREAD:
            continue;
        case CUT_OFF: /* read, in a value that no gradient reaches */
            h = tb_add(h, tb_detach(tb_linear(h, w, b)));
            continue;
        case GAIN:
            y = tb_layer_norm(h, w, b, 0.1);
            break;
        case FROZEN:
            y = tb_tanh(tb_linear(h, tb_detach(w), b));
            break;
        default:
            y = tb_tanh(tb_linear(h, w, b));
        }
        h = roll(m->seed, 70 + (uint64_t)i, 2) ? y : tb_add(y, h);
        if (roll(m->seed, 90 + (uint64_t)i, 3) == 0) total = total ? tb_add(total, judged(h)) : judged(h);
    }
    return total ? tb_add(total, judged(h)) : judged(h);
}

static tb_tensor *rows_of(const plan *p, int step, int micro, int first, int rows)
{
    float x[BATCH * WIDTH];
    for (int i = 0; i < rows * WIDTH; i++)
        x[i] =
            (float)tb_random_normal(p->seed, 100 + (uint64_t)step * 8 + (uint64_t)micro, (uint64_t)(first * WIDTH + i));
    return tb_tensor_from(TB_F32, 2, (int64_t[]){rows, WIDTH}, x);
}

static tb_status step_of(const rank_job *j, const model *m, tb_optim *o, tb_ddp *d, int step)
{
    const plan *p = j->p;
    int rows = BATCH / p->ranks;
    for (int micro = 0; micro < p->micro_batches; micro++) {
        tb_scope *scope = tb_scope_open();
        tb_ddp_begin(d, micro + 1 == p->micro_batches);
        tb_tensor *x = rows_of(p, step, micro, j->rank * rows, rows);
        assert_ok(tb_backward(p->loss ? p->loss(m, j->rank, step, x) : loss_of(m, x)));
        tb_scope_close(scope);
    }
    if (p->fused) return tb_ddp_step(d);
    TB_TRY(tb_ddp_finish(d));
    return tb_optim_step(o);
}

static void *run_rank(void *arg)
{
    rank_job *j = arg;
    const plan *p = j->p;
    tb_ctx *ctx;
    tb_optim *o;
    tb_comm *c;
    tb_ddp *d;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.seed = 9}, &ctx));
    tb_ctx_enter(ctx);
    assert_ok(tb_ctx_set_batch_blocks(ctx, 8 / p->ranks));
    assert_ok(tb_comm_open(p->ranks > 1 ? "thread" : "self", j->rank, p->ranks, &j->id, NULL, &c));
    model m = make_model(p->seed);
    const tb_optim_config optim = {p->optim, .rate = 0.05, .momentum = 0.9, .decay = 0.01};
    assert_ok(tb_optim_create(m.ps, &optim, &o));
    assert_ok(tb_ddp_create(&(tb_ddp_config){m.ps, c, p->bucket_bytes, p->fused ? &optim : NULL}, &d));
    for (int step = 0; step < STEPS; step++) {
        bool is_last = p->expected && step == p->failing_step, fails = is_last && j->rank == p->failing_rank;
        if (fails)
            assert_fails(step_of(j, &m, o, d, step), p->expected, p->sentence);
        else if (is_last)
            (void)!step_of(j, &m, o, d, step); /* may find that a rank is gone */
        else
            assert_ok(step_of(j, &m, o, d, step));
        if (is_last) break;
    }
    assert_ok(tb_params_hash(m.ps, j->hash));
    tb_ddp_destroy(d);
    tb_optim_destroy(o);
    tb_params_destroy(m.ps);
    tb_comm_close(c);
    assert_int_equal(tb_ctx_destroy(ctx), 0);
    return NULL;
}

static void run(plan p, char hash[65])
{
    rank_job jobs[MAX_RANKS];
    tb_comm_id id = {0};
    if (p.ranks > 1) assert_ok(tb_comm_make_id("thread", p.ranks, &id));
    for (int r = 0; r < p.ranks; r++) {
        jobs[r] = (rank_job){.p = &p, .id = id, .rank = r};
        if (p.ranks > 1)
            pthread_create(&jobs[r].thread, NULL, run_rank, &jobs[r]);
        else
            run_rank(&jobs[r]);
    }
    for (int r = 0; r < p.ranks && p.ranks > 1; r++) pthread_join(jobs[r].thread, NULL);
    for (int r = 1; r < p.ranks && !p.expected; r++) assert_string_equal(jobs[r].hash, jobs[0].hash);
    memcpy(hash, jobs[0].hash, 65);
}

static uint64_t first_seed(void)
{
    const char *text = getenv("TB_TEST_SEED");
    return 1 + (text ? strtoull(text, NULL, 10) * 1000 : 0);
}

static void random_models_have_the_bits_of_one_rank(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + MODELS; seed++) {
        plan p = {.seed = seed,
                  .ranks = 1,
                  .micro_batches = 1 + roll(seed, 1, 2),
                  .optim = (tb_optim_kind)roll(seed, 2, TB_OPTIM_ADAMW + 1)};
        char one[65], many[65];
        for (p.ranks = 1; p.ranks <= MAX_RANKS; p.ranks *= 2)
            for (int way = 0; way < 4; way++) {
                /* a rank adds up its micro-batches before ranks are summed: then only ways are alike */
                if (way == 0 && (p.ranks == 1 || p.micro_batches > 1)) run(p, one);
                p.fused = way & 1;
                p.bucket_bytes = way & 2 ? 1 : 256;
                run(p, many);
                if (strcmp(many, one) != 0)
                    fail_msg("model %llu: %d ranks, way %d have other bits", (unsigned long long)seed, p.ranks, way);
            }
    }
}

/* ---- what is refused ---- */
static tb_tensor *of_parts(const model *m, int n, tb_tensor *x)
{
    tb_tensor *y = judged(tb_linear(x, m->w[0], NULL));
    return n > 1 ? tb_add(y, judged(tb_linear(x, m->w[1], NULL))) : y;
}

static tb_tensor *differs_by_rank(const model *m, int rank, int step, tb_tensor *x)
{
    (void)step;
    return of_parts(m, 2 - rank, x);
}

static tb_tensor *differs_by_step(const model *m, int rank, int step, tb_tensor *x)
{
    return of_parts(m, rank && step == 2 ? 1 : 2, x);
}

static tb_tensor *twice(const model *m, int rank, int step, tb_tensor *x)
{
    (void)rank, (void)step;
    assert_ok(tb_backward(of_parts(m, 2, x)));
    return of_parts(m, 2, x);
}

/* A model whose first two parts are read under their own names. */
static uint64_t plain_seed(void)
{
    for (uint64_t seed = 1;; seed++) {
        model m = {.n = 1 + roll(seed, 0, MAX_PARTS)};
        if (m.n >= 2 && roll(seed, 11, PART_KINDS) == PLAIN) return seed;
    }
}

static void graphs_that_differ_are_refused(void **state)
{
    (void)state;
    char hash[65];
    for (int fused = 0; fused < 2; fused++) {
        plan p = {.seed = plain_seed(), .ranks = 2, .micro_batches = 1, .fused = fused, .expected = TB_ERR_UNSUPPORTED};
        p.loss = differs_by_step;
        p.failing_step = 2;
        p.failing_rank = 1;
        p.sentence = "other parameters got gradients than in the step before";
        run(p, hash);
        p.loss = differs_by_rank; /* without `update` the first step's order is agreed on as the second begins */
        p.failing_step = !fused;
        p.sentence = "other parameters got gradients than on rank 0";
        run(p, hash);
    }
}

static void a_second_pass_into_a_step_that_sums_is_refused(void **state)
{
    (void)state;
    char hash[65];
    plan p = {.seed = plain_seed(),
              .ranks = 2,
              .micro_batches = 1,
              .loss = twice,
              .expected = TB_ERR_INVALID,
              .failing_step = 0,
              .failing_rank = 1,
              .sentence = "begin all passes but the last with sync = false"};
    run(p, hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_models_have_the_bits_of_one_rank),
        cmocka_unit_test(graphs_that_differ_are_refused),
        cmocka_unit_test(a_second_pass_into_a_step_that_sums_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
