/* Optimizers against a loop in f64: random parameters, gradients that add up over micro-batches, clipping, schedules,
 * skipped steps; a run that another optimizer takes over from a file goes on with the same bits. */
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_optim.h"
#include "tb_rng.h"
#include "tb_safetensors.h"
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { RUNS = 40, STEPS = 9, MAX_PARAMS = 5, MAX_ELEMENTS = 20011 };
static const char path[] = "test_random_steps.safetensors";

typedef struct run {
    uint64_t seed, drawn;
    tb_dtype dtype;
    tb_optim_config cfg;
    tb_lr_schedule schedule;
    int n, microbatches;
    int64_t numel[MAX_PARAMS];
    double *p[MAX_PARAMS], *g[MAX_PARAMS], *m[MAX_PARAMS], *v[MAX_PARAMS]; /* the loop's */
    int64_t taken;
} run;

static int64_t draw(run *r, int64_t below) { return (int64_t)tb_random_below(3, r->seed, r->drawn++, (uint64_t)below); }
static double draw_one(run *r, const double *of, int64_t n) { return of[draw(r, n)]; }
#define DRAW_OF(r, ...) draw_one(r, (double[]){__VA_ARGS__}, sizeof((double[]){__VA_ARGS__}) / sizeof(double))

static void draw_run(run *r, uint64_t seed)
{
    static const int64_t sizes[] = {0, 1, 2, 7, 16, 31, 257, 1021, 16384, 16385, MAX_ELEMENTS};
    *r = (run){.seed = seed};
    r->dtype = draw(r, 3) ? TB_F32 : TB_F64;
    r->cfg.kind = (tb_optim_kind)draw(r, 3);
    r->cfg.decay = DRAW_OF(r, 0, 0.01, 0.3);
    r->cfg.momentum = DRAW_OF(r, 0, 0.5, 0.9);
    r->cfg.nesterov = draw(r, 2);
    r->cfg.clip_norm = DRAW_OF(r, 0, 0.1, 1, 1000);
    if (draw(r, 2)) r->cfg.beta1 = DRAW_OF(r, 0, 0.5, 0.95), r->cfg.beta2 = 0.98, r->cfg.eps = DRAW_OF(r, 1e-6, 1e-3);
    r->schedule = (tb_lr_schedule){.kind = (tb_lr_kind)draw(r, 2),
                                   .rate = DRAW_OF(r, 0.3, 0.01),
                                   .floor = DRAW_OF(r, 0, 0.001),
                                   .warmup = draw(r, 5),
                                   .steps = 5 + draw(r, 6)};
    assert_ok(tb_lr_check(&r->schedule));
    r->n = 1 + (int)draw(r, MAX_PARAMS);
    r->microbatches = 1 + (int)draw(r, 3);
    for (int i = 0; i < r->n; i++) r->numel[i] = sizes[draw(r, sizeof sizes / sizeof *sizes)];
}

/* Names, ranks that decay (a matrix) and that do not (a vector), first values. */
static tb_params *make_params(const run *r)
{
    tb_params *ps;
    assert_ok(tb_params_create(r->dtype, r->seed, &ps));
    for (int i = 0; i < r->n; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%d", i);
        tb_params_add(ps, name, tb_init_normal(1), 1 + i % 2, i % 2 ? (int64_t[]){r->numel[i], 1} : &r->numel[i]);
    }
    assert_ok(tb_params_status(ps));
    return ps;
}

static double element(tb_dtype t, const void *at, int64_t i)
{
    return t == TB_F32 ? (double)((const float *)at)[i] : ((const double *)at)[i];
}

static void read_into(double *to, tb_tensor *t)
{
    static char bytes[MAX_ELEMENTS * sizeof(double)];
    assert_ok(tb_tensor_read(t, bytes, tb_tensor_bytes(t)));
    for (int64_t i = 0; i < tb_tensor_numel(t); i++) to[i] = element(tb_tensor_dtype(t), bytes, i);
}

/* The gradient of one micro-batch, as numbers of the run's dtype. */
static tb_tensor *draw_gradient(const run *r, int64_t step, int micro, int i, double size, tb_tensor *like)
{
    static double x[MAX_ELEMENTS];
    static float narrow[MAX_ELEMENTS];
    uint64_t stream = (uint64_t)((step * 8 + micro) * MAX_PARAMS + i);
    for (int64_t k = 0; k < r->numel[i]; k++) {
        x[k] = size * tb_random_normal(r->seed, stream, (uint64_t)k);
        narrow[k] = (float)x[k];
    }
    const void *numbers = r->dtype == TB_F32 ? (const void *)narrow : x;
    return tb_tensor_from(r->dtype, tb_tensor_rank(like), tb_tensor_dims(like), numbers);
}

/* ---- the loop ---- */
static double rate_at(const tb_lr_schedule *s, int64_t t)
{
    if (t < s->warmup) return s->rate * (double)(t + 1) / (double)s->warmup;
    if (s->kind == TB_LR_CONSTANT) return s->rate;
    double share = fmin((double)(t - s->warmup) / (double)(s->steps - s->warmup), 1);
    return s->floor + (s->rate - s->floor) * (1 + cos(acos(-1) * share)) / 2;
}

static void loop_step(run *r, int64_t step)
{
    tb_optim_config c = r->cfg;
    double squares = 0, rate = rate_at(&r->schedule, step), t = (double)++r->taken;
    if (c.beta1 == 0 && c.beta2 == 0 && c.eps == 0) c.beta1 = 0.9, c.beta2 = 0.999, c.eps = 1e-8;
    for (int i = 0; i < r->n; i++)
        for (int64_t k = 0; k < r->numel[i]; k++) squares += r->g[i][k] * r->g[i][k];
    double shrink = c.clip_norm > 0 && sqrt(squares) > c.clip_norm ? c.clip_norm / sqrt(squares) : 1;
    for (int i = 0; i < r->n; i++) {
        double decay = i % 2 ? c.decay : 0;
        for (int64_t k = 0; k < r->numel[i]; k++) {
            double *p = &r->p[i][k], *m = &r->m[i][k], *v = &r->v[i][k], g = shrink * r->g[i][k];
            if (c.kind != TB_OPTIM_ADAMW) g += decay * *p;
            if (c.kind == TB_OPTIM_SGD) {
                *m = c.momentum * *m + g;
                *p -= rate * (c.momentum == 0 ? g : c.nesterov ? g + c.momentum * *m : *m);
                continue;
            }
            *m = c.beta1 * *m + (1 - c.beta1) * g;
            *v = c.beta2 * *v + (1 - c.beta2) * g * g;
            double adam = *m / (1 - pow(c.beta1, t)) / (sqrt(*v / (1 - pow(c.beta2, t))) + c.eps);
            *p -= rate * (adam + (c.kind == TB_OPTIM_ADAMW ? decay * *p : 0));
        }
    }
}

/* ---- the optimizer ---- */
static void step_once(run *r, tb_params *ps, tb_optim *o, int64_t step, bool counts)
{
    bool overflows = step == 4, taken; /* an infinite gradient: nothing happens */
    double scale = 1024, size = step % 3 ? 0.01 : 2;
    tb_scope *s = tb_scope_open();
    for (int i = 0; counts && i < r->n; i++) memset(r->g[i], 0, (size_t)r->numel[i] * sizeof(double));
    for (int micro = 0; micro < r->microbatches; micro++)
        for (int i = 0; i < r->n; i++) {
            static double x[MAX_ELEMENTS];
            tb_tensor *w = tb_params_at(ps, i)->tensor, *g = draw_gradient(r, step, micro, i, size, w);
            tb_tensor *loss = tb_sum(tb_mul(w, g), 0, NULL, false);
            if (overflows) loss = tb_mul(loss, tb_scalar(r->dtype, INFINITY));
            assert_ok(tb_backward_with(loss, &(tb_backward_opts){.grad = tb_scalar(r->dtype, scale)}));
            read_into(x, g);
            for (int64_t k = 0; counts && k < r->numel[i]; k++) r->g[i][k] += x[k];
        }
    bool is_empty = true;
    for (int i = 0; i < r->n; i++) is_empty = is_empty && r->numel[i] == 0;
    tb_optim_set_rate(o, tb_lr_at(&r->schedule, step));
    assert_ok(tb_optim_step_scaled(o, scale, &taken));
    assert_int_equal(taken, !overflows || is_empty);
    if (counts && taken) loop_step(r, step);
    tb_scope_close(s);
}

static void compare(const run *r, const double *wanted, tb_tensor *t, int64_t step, const char *name)
{
    static double x[MAX_ELEMENTS];
    double tol = r->dtype == TB_F64 ? 1e-11 : 2e-4;
    read_into(x, t);
    for (int64_t k = 0; k < tb_tensor_numel(t); k++)
        if (!(fabs(x[k] - wanted[k]) <= tol * (fabs(wanted[k]) + 0.05)))
            fail_msg("run %llu, step %lld, %s[%lld]: %.17g, not %.17g", (unsigned long long)r->seed, (long long)step,
                     name, (long long)k, x[k], wanted[k]);
}

static int items_of(tb_params *ps, tb_optim *o, tb_safetensors_item *items)
{
    int n = 0;
    for (int i = 0; i < tb_params_count(ps); i++, n++)
        items[n] = (tb_safetensors_item){tb_params_at(ps, i)->name, tb_params_at(ps, i)->tensor};
    for (int i = 0; i < tb_optim_state_count(o); i++, n++)
        items[n] = (tb_safetensors_item){tb_optim_state_name(o, i), tb_optim_state(o, i)};
    return n;
}

static void take_over(run *r, tb_params *from, tb_optim *o, tb_params **ps, tb_optim **next)
{
    tb_safetensors_item items[3 * MAX_PARAMS];
    tb_safetensors *f;
    run other = *r;
    other.seed += 1000; /* other first values */
    assert_ok(tb_safetensors_save(path, items_of(from, o, items), items, 0, NULL));
    *ps = make_params(&other);
    assert_ok(tb_optim_create(*ps, &r->cfg, next));
    assert_ok(tb_safetensors_open(path, &f));
    for (int i = 0, n = items_of(*ps, *next, items); i < n; i++)
        assert_ok(tb_safetensors_load(f, items[i].name, items[i].tensor));
    tb_optim_set_steps(*next, tb_optim_steps(o));
    tb_safetensors_close(f);
}

static void same_bits(tb_params *a, tb_optim *oa, tb_params *b, tb_optim *ob)
{
    static char bytes[2][MAX_ELEMENTS * sizeof(double)];
    tb_safetensors_item one[3 * MAX_PARAMS], two[3 * MAX_PARAMS];
    int n = items_of(a, oa, one);
    assert_int_equal(items_of(b, ob, two), n);
    for (int i = 0; i < n; i++) {
        size_t size = tb_tensor_bytes(one[i].tensor);
        assert_ok(tb_tensor_read(one[i].tensor, bytes[0], size));
        assert_ok(tb_tensor_read(two[i].tensor, bytes[1], size));
        assert_true(memcmp(bytes[0], bytes[1], size) == 0);
    }
}

static void go(run *r)
{
    tb_params *ps = make_params(r), *others = NULL;
    tb_optim *o, *next = NULL;
    assert_ok(tb_optim_create(ps, &r->cfg, &o));
    for (int i = 0; i < r->n; i++) {
        double **of[] = {&r->p[i], &r->g[i], &r->m[i], &r->v[i]};
        for (int k = 0; k < 4; k++) *of[k] = calloc((size_t)r->numel[i] + 1, sizeof(double));
        read_into(r->p[i], tb_params_at(ps, i)->tensor);
    }
    int64_t middle = 1 + draw(r, STEPS - 2);
    for (int64_t step = 0; step < STEPS; step++) {
        step_once(r, ps, o, step, true);
        if (step == middle) take_over(r, ps, o, &others, &next);
        if (step > middle) step_once(r, others, next, step, false);
        assert_int_equal(tb_optim_steps(o), r->taken);
        for (int i = 0; i < r->n; i++) {
            int states = tb_optim_states(&r->cfg);
            compare(r, r->p[i], tb_params_at(ps, i)->tensor, step, "parameter");
            if (states > 0) compare(r, r->m[i], tb_optim_state(o, i * states), step, "first state");
            if (states > 1) compare(r, r->v[i], tb_optim_state(o, i * states + 1), step, "second state");
        }
    }
    same_bits(ps, o, others, next);
    tb_optim_destroy(o), tb_optim_destroy(next);
    tb_params_destroy(ps), tb_params_destroy(others);
    for (int i = 0; i < r->n; i++) free(r->p[i]), free(r->g[i]), free(r->m[i]), free(r->v[i]);
}

static void steps_are_those_of_a_loop_in_f64(void **state)
{
    const char *n = getenv("TB_TEST_RUNS");
    for (uint64_t seed = 0; seed < (n ? strtoull(n, NULL, 10) : RUNS); seed++) {
        run r;
        draw_run(&r, seed);
        tb_ctx_limit_kernels(*state, seed % 4 ? tb_isa_detect() : (tb_isa)(seed / 4 % 3), false);
        go(&r);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(steps_are_those_of_a_loop_in_f64)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
