/* Parts of a graph in slices of the batch: the bits of the whole batch at once. */
#include "tb_test.h"
#include "plan.h"
#include "tb_exec.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include "tb_verify.h"

enum { MOST_ROWS = 48, WIDE = 16, MOST_FLOATS = MOST_ROWS * 1024 };

static void fill(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)tb_random_normal(seed, 1, (uint64_t)i);
}

/* Runs g at `rows` of the batch with at most `bytes` a slice; returns the slab. */
static size_t run(tb_exec *e, tb_ctx *ctx, int64_t rows, int64_t bytes, const float *x, float *const *y)
{
    tb_session *s;
    tb_plan_stats stats;
    assert_ok(tb_session_create(e, ctx, &s));
    tbi_session_slice(s, bytes);
    for (int i = 0; i < 2; i++) /* what is kept between runs must not matter */
        assert_ok(tb_session_run(s, &rows, (const void *[]){x}, (void *const *)y));
    assert_ok(tb_session_plan_stats(s, &rows, &stats));
    tb_session_free(s);
    return stats.planned_bytes;
}

static void random_graphs_have_the_bits_of_the_whole_batch(void **state)
{
    static float x[MOST_ROWS * TB_RANDOM_GRAPH_WIDTH], whole[2][MOST_FLOATS], sliced[2][MOST_FLOATS];
    int n_sliced = 0;
    fill(x, MOST_ROWS * TB_RANDOM_GRAPH_WIDTH, 1);
    for (uint64_t seed = 0; seed < 400; seed++) {
        tb_graph *g;
        tb_exec *e;
        slice found[64];
        int64_t rows = 1 + (int64_t)tb_random_below(seed, 9, 0, MOST_ROWS),
                bytes = 50 + (int64_t)tb_random_below(seed, 9, 1, 500);
        assert_ok(tb_random_graph(seed, &g));
        if (seed % 2) assert_ok(tb_compile(g, NULL, NULL));
        assert_true(g->n_nodes <= 64);
        n_sliced += tbi_find_slices(*state, g, &rows, bytes, found) > 0;
        assert_ok(tb_exec_create(g, &e));
        for (int o = 0; o < 2; o++) memset(sliced[o], 0, sizeof sliced[o]), memset(whole[o], 0, sizeof whole[o]);
        run(e, *state, rows, 1 << 30, x, (float *[]){whole[0], whole[1]});
        run(e, *state, rows, bytes, x, (float *[]){sliced[0], sliced[1]});
        for (int o = 0; o < 2; o++)
            if (memcmp(whole[o], sliced[o], sizeof whole[o]) != 0)
                fail_msg("graph %llu, %lld rows, %lld bytes: output %d differs", (unsigned long long)seed,
                         (long long)rows, (long long)bytes, o);
        tb_exec_free(e);
    }
    assert_true(n_sliced > 200);
}

/* Views between, a value that is used before and after the end of the part, a step over the batch in the middle. */
static tb_tensor *mixed(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    int64_t rows = tb_tensor_dim(in[0], 0);
    tb_tensor *x = tb_reshape(tb_tanh(in[0]), 3, (int64_t[]){rows, 4, WIDE / 4});
    tb_tensor *turned = tb_permute(x, 3, (int64_t[]){0, 2, 1});
    tb_tensor *y = tb_mul(tb_exp(turned), tb_softmax(turned, -1));
    tb_tensor *over_rows = tb_softmax(y, 0);
    tb_tensor *z = tb_add(tb_mul(over_rows, y), tb_slice(tb_relu(turned), 1, 1, 2, 1));
    return tb_reshape(tb_mul(z, tb_neg(z)), 2, (int64_t[]){rows, WIDE});
}

/* [T, N] turned to [N, T]: rows lie scattered, and so does the result that is wanted whole. */
static tb_tensor *turned(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    tb_tensor *x = tb_transpose(in[0], 0, 1);
    tb_tensor *y = tb_neg(tb_exp(x));
    return tb_softmax(tb_add(y, x), 0);
}

static void captured_functions_have_the_bits_of_eager_execution(void **state)
{
    static const struct {
        tb_captured f;
        int64_t dims[2];
    } cases[] = {{mixed, {-1, WIDE}}, {turned, {WIDE, -1}}};
    static float x[MOST_ROWS * WIDE], eager[MOST_ROWS * WIDE], got[MOST_ROWS * WIDE];
    fill(x, MOST_ROWS * WIDE, 2);
    for (int i = 0; i < 2; i++)
        for (int64_t rows = 1; rows < MOST_ROWS; rows += 5) {
            tb_capture_input in = {"x", TB_F32, 2, {cases[i].dims[0], cases[i].dims[1]}};
            int64_t dims[] = {i ? WIDE : rows, i ? rows : WIDE};
            tb_graph *g;
            tb_exec *e;
            tb_scope *scope = tb_scope_open();
            tb_tensor *t = tb_tensor_from(TB_F32, 2, dims, x);
            assert_ok(tb_tensor_read(cases[i].f(NULL, 1, &t), eager, (size_t)(rows * WIDE) * sizeof *eager));
            assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &in, cases[i].f, NULL, &g));
            assert_ok(tb_exec_create(g, &e));
            run(e, *state, rows, 300, x, (float *[]){got});
            assert_memory_equal(got, eager, (size_t)(rows * WIDE) * sizeof *eager);
            tb_exec_free(e);
            tb_scope_close(scope);
        }
}

static tb_tensor *chain(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_softmax(tb_softmax(tb_softmax(tb_exp(in[0]), -1), -1), -1);
}

static void slices_need_less_memory(void **state)
{
    static float x[MOST_ROWS * WIDE], y[MOST_ROWS * WIDE];
    tb_capture_input in = {"x", TB_F32, 2, {-1, WIDE}};
    tb_graph *g;
    tb_exec *e;
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &in, chain, NULL, &g));
    assert_ok(tb_exec_create(g, &e));
    size_t sliced = run(e, *state, MOST_ROWS, 300, x, (float *[]){y});
    assert_true(sliced < run(e, *state, MOST_ROWS, 1 << 30, x, (float *[]){y}));
    tb_exec_free(e);
}

static void count_rows(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    int64_t *rows = arg;
    (void)node, (void)ns;
    rows[0]++;
    rows[1] += call->out[0]->dims[0];
}

/* Whoever counts values sees each row of each of the four nodes once. */
static void a_session_can_be_kept_whole(void **state)
{
    enum { NODES = 4 };
    static float x[MOST_ROWS * WIDE], y[MOST_ROWS * WIDE];
    tb_capture_input in = {"x", TB_F32, 2, {-1, WIDE}};
    int64_t rows = MOST_ROWS - 1, sliced[2] = {0}, whole[2] = {0};
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &in, chain, NULL, &g));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, *state, &s));
    tbi_session_slice(s, 300);
    tb_session_observe(s, count_rows, sliced);
    assert_ok(tb_session_run(s, &rows, (const void *[]){x}, (void *[]){y}));
    assert_true(sliced[0] > NODES);
    tb_session_keep_whole(s);
    tb_session_observe(s, count_rows, whole);
    assert_ok(tb_session_run(s, &rows, (const void *[]){x}, (void *[]){y}));
    assert_int_equal(whole[0], NODES);
    assert_int_equal(whole[1], NODES * rows);
    tb_session_free(s);
    tb_exec_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(random_graphs_have_the_bits_of_the_whole_batch),
        ctx_test(captured_functions_have_the_bits_of_eager_execution),
        ctx_test(slices_need_less_memory),
        ctx_test(a_session_can_be_kept_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
