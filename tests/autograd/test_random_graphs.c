/* Gradients of random graphs (random_graph.h).
 *
 * In f64 the gradients must agree with central differences. In f32, where the kernels run, they must agree with those
 * in f64 and with each other however they are asked for: buffers, repeated and deferred passes, recompute, graphs of
 * gradients, two threads, guarded memory. TB_TEST_SEED draws others. */
#include "random_graph.h"
#include <stdlib.h>

enum { CHECKED = 1200, COMPARED = 900 };

static uint64_t first_seed(void)
{
    const char *text = getenv("TB_TEST_SEED");
    return text ? strtoull(text, NULL, 10) * 1000 : 0;
}

/* ---- against differences ---- */
static void gradients_agree_with_differences(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + CHECKED; seed++) {
        tb_scope *scope = tb_scope_open();
        leaves l = draw_leaves(seed, TB_F64);
        graph g = {.seed = seed};
        tb_status st = tb_gradcheck(build, &g, l.n, l.at, 1e-6, 1e-6);
        if (st != TB_OK) fail_msg("graph %llu: %s", (unsigned long long)seed, tb_error_message());
        tb_scope_close(scope);
    }
}

static tb_tensor *squared_gradients(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor *grads[MAX_LEAVES];
    bool mode = tb_grad_mode(tb_ctx_current(), true);
    for (int i = 0; i < n; i++)
        if (!tb_requires_grad(in[i])) assert_ok(tb_require_grad(in[i])); /* the one that the check moved */
    assert_ok(tb_gradients(build(arg, n, in), &(tb_backward_opts){.create_graph = true}, n, in, grads));
    tb_tensor *total = tb_mean(in[0], 0, NULL, false); /* a linear graph's gradients are constants */
    for (int i = 0; i < n; i++)
        if (grads[i]) total = tb_add(total, tb_sum(tb_mul(grads[i], grads[i]), 0, NULL, false));
    tb_grad_mode(tb_ctx_current(), mode);
    return total;
}

static void second_gradients_agree_with_differences(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + CHECKED / 3; seed++) {
        tb_scope *scope = tb_scope_open();
        leaves l = draw_leaves(seed, TB_F64);
        graph g = {.seed = seed, .is_smooth = true};
        for (int i = 0; i < l.n; i++) assert_ok(tb_require_grad(l.at[i]));
        tb_status st = tb_gradcheck(squared_gradients, &g, l.n, l.at, 1e-6, 1e-5);
        if (st != TB_OK) fail_msg("graph %llu: %s", (unsigned long long)seed, tb_error_message());
        tb_scope_close(scope);
    }
}

/* ---- against each other ---- */
typedef struct gradients {
    int n;
    bool is_there[MAX_LEAVES];
    int64_t numel[MAX_LEAVES];
    double at[MAX_LEAVES][MAX_NUMEL * 2];
} gradients;

static void note(gradients *to, int i, tb_tensor *g)
{
    to->is_there[i] = g != NULL;
    if (!g) return;
    to->numel[i] = tb_tensor_numel(g);
    assert_ok(tb_tensor_read(tb_cast(g, TB_F64), to->at[i], sizeof *to->at[i] * (size_t)to->numel[i]));
}

typedef enum way { PLAIN, BUFFERS, ROWS, TWICE, RETAINED, DEFERRED, ASKED, GRAPHED, RECOMPUTED, WAYS } way;
static const char *const way_names[WAYS] = {"plain",    "buffers", "rows",    "twice",     "retained",
                                            "deferred", "asked",   "graphed", "recomputed"};

static void run_backward(way how, tb_tensor *loss, tb_tensor *again)
{
    if (how == RETAINED) assert_ok(tb_backward_with(loss, &(tb_backward_opts){.retain_graph = true}));
    if (how == DEFERRED) {
        assert_ok(tb_backward_with(loss, &(tb_backward_opts){.defer_weights = true}));
        assert_ok(tb_backward_weights(loss));
    } else {
        assert_ok(tb_backward_with(loss, &(tb_backward_opts){.create_graph = how == GRAPHED}));
    }
    if (how == TWICE) assert_ok(tb_backward(again));
}

static gradients gradients_by(way how, uint64_t seed, tb_dtype t)
{
    tb_scope *scope = tb_scope_open();
    leaves l = draw_leaves(seed, t);
    graph g = {.seed = seed, .recomputes = how == RECOMPUTED}, second = g;
    gradients out = {.n = l.n};
    for (int i = 0; i < l.n && (how == BUFFERS || how == ROWS); i++) {
        int64_t dims[TB_MAX_RANK] = {3};
        int front = how == ROWS;
        memcpy(dims + front, l.at[i]->dims, sizeof dims[0] * l.at[i]->rank);
        if (tb_requires_grad(l.at[i]))
            assert_ok(tb_grad_set_buffer(l.at[i], tb_full(t, l.at[i]->rank + front, dims, how == BUFFERS ? 777 : 0)));
    }
    tb_tensor *loss = build(&g, l.n, l.at), *again = how == TWICE ? build(&second, l.n, l.at) : NULL;
    if (how == ASKED) {
        tb_tensor *grads[MAX_LEAVES];
        assert_ok(tb_gradients(loss, NULL, l.n, l.at, grads));
        for (int i = 0; i < l.n; i++) note(&out, i, grads[i]);
    } else {
        run_backward(how, loss, again);
        for (int i = 0; i < l.n; i++) {
            if (how == ROWS && tb_requires_grad(l.at[i])) assert_ok(tb_grad_join(l.at[i]));
            note(&out, i, tb_grad(l.at[i]));
        }
    }
    for (int i = 0; i < l.n; i++) tb_grad_clear(l.at[i]); /* a gradient with a graph holds its leaf */
    tb_scope_close(scope);
    return out;
}

static void assert_alike(const gradients *a, const gradients *b, double times, double tol, const char *what,
                         uint64_t seed)
{
    double scale = 1;
    for (int i = 0; i < a->n; i++)
        for (int64_t k = 0; a->is_there[i] && k < a->numel[i]; k++) scale = fmax(scale, fabs(a->at[i][k]));
    for (int i = 0; i < a->n; i++) {
        if (a->is_there[i] != b->is_there[i])
            fail_msg("graph %llu, %s: leaf %d has%s gradient", (unsigned long long)seed, what, i,
                     b->is_there[i] ? " a" : " no");
        for (int64_t k = 0; a->is_there[i] && k < a->numel[i]; k++)
            if (!(fabs(times * a->at[i][k] - b->at[i][k]) <= tol * scale))
                fail_msg("graph %llu, %s: leaf %d, element %lld: %.9g, not %.9g", (unsigned long long)seed, what, i,
                         (long long)k, b->at[i][k], times * a->at[i][k]);
    }
}

static void gradients_are_the_same_in_every_way(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + COMPARED; seed++) {
        gradients exact = gradients_by(PLAIN, seed, TB_F64), plain = gradients_by(PLAIN, seed, TB_F32);
        assert_alike(&exact, &plain, 1, 1e-4, "f32 against f64", seed);
        for (way how = BUFFERS; how < WAYS; how++) {
            gradients other = gradients_by(how, seed, TB_F32);
            assert_alike(&plain, &other, how == TWICE || how == RETAINED ? 2 : 1, 1e-5, way_names[how], seed);
        }
    }
}

/* The bits do not depend on threads, nor on whether memory is readable between kernels. */
static void gradients_are_the_same_bits_on_two_threads_and_in_guarded_memory(void **state)
{
    tb_ctx *two, *guarded;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = 2, .seed = 1}, &two));
    assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = 1, .device = "guard"}, &guarded));
    for (uint64_t seed = first_seed(); seed < first_seed() + COMPARED / 4; seed++) {
        tb_ctx_enter(*state);
        gradients one = gradients_by(PLAIN, seed, TB_F32), other;
        tb_ctx_enter(two);
        other = gradients_by(PLAIN, seed, TB_F32);
        assert_alike(&one, &other, 1, 0, "two threads", seed);
        tb_ctx_enter(guarded);
        other = gradients_by(PLAIN, seed, TB_F32);
        assert_alike(&one, &other, 1, 0, "guarded memory", seed);
    }
    assert_int_equal(tb_ctx_destroy(two), 0);
    assert_int_equal(tb_ctx_destroy(guarded), 0);
    tb_ctx_enter(*state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(gradients_agree_with_differences),
        ctx_test(second_gradients_agree_with_differences),
        ctx_test(gradients_are_the_same_in_every_way),
        ctx_test(gradients_are_the_same_bits_on_two_threads_and_in_guarded_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
