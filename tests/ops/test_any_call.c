/* Calls that nobody would write: every op with attributes and inputs drawn at random, half of them from its samples and
 * a little off. An op does them or says why not; what it does has the shape that meta predicts and can be read, and a
 * graph of the call has its bits. The sanitizers watch. TB_TEST_SEED draws others. */
#include "tb_test.h"
#include "tb_alloc.h"
#include "tb_exec.h"
#include "tb_op.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_rng.h"
#include <stdlib.h>

enum { CALLS = 15000, MAX_IN = 8, LARGE = 20000 /* elements: samples for threads */, ATTRS_BYTES = 1024 };

typedef struct draw {
    uint64_t seed, at;
} draw;

static int roll(draw *d, int n) { return (int)tb_random_below(d->seed, 1, d->at++, (uint64_t)n); }
static bool one_in(draw *d, int n) { return roll(d, n) == 0; }

static int64_t any_integer(draw *d)
{
    static const int64_t extremes[] = {INT64_MAX, INT64_MIN, INT64_C(1) << 40, -(INT64_C(1) << 33), INT32_MAX, 100};
    return one_in(d, 4) ? extremes[roll(d, 6)] : roll(d, 9) - 3;
}

static double any_real(draw *d)
{
    static const double extremes[] = {NAN, INFINITY, -INFINITY, -1, 0, 1e300};
    return one_in(d, 2) ? extremes[roll(d, 6)] : 2 * tb_random_uniform(d->seed, 2, d->at++) - 0.5;
}

static void draw_attr(draw *d, const tb_attr *a, char *to)
{
    if (a->type == TB_ATTR_I64)
        *(int64_t *)(void *)to = any_integer(d);
    else if (a->type == TB_ATTR_F64)
        *(double *)(void *)to = any_real(d);
    else if (a->type == TB_ATTR_BOOLEAN)
        *(bool *)to = one_in(d, 2);
    else if (a->type == TB_ATTR_DTYPE_)
        *(tb_dtype *)(void *)to = (tb_dtype)roll(d, TB_DTYPES);
    if (a->type != TB_ATTR_INTS) return;
    tb_ints *list = (tb_ints *)(void *)to;
    list->n = roll(d, 5);
    for (int i = 0; i < list->n; i++) list->at[i] = any_integer(d);
}

static void draw_dims(draw *d, int *rank, int64_t *dims)
{
    *rank = roll(d, 5);
    for (int i = 0; i < *rank; i++) dims[i] = roll(d, 5);
}

/* Elements small, now and then none that an op expects; permuted or cut now and then. */
static tb_tensor *draw_input(draw *d, tb_dtype t, int rank, const int64_t *dims)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    size_t size = tb_dtype_size(t);
    char *host = tb_calloc((size_t)n + 1, size);
    assert_non_null(host);
    for (int64_t i = 0; i < n; i++) {
        char *to = host + (size_t)i * size;
        if (!tb_dtype_is_float(t))
            tb_store_i64(t, to, t == TB_BOOL ? roll(d, 2) : roll(d, 9) - 2);
        else
            tb_store_f64(t, to, one_in(d, 20) ? any_real(d) : roll(d, 9) / 2.0 - 1);
    }
    tb_tensor *x = tb_tensor_from(t, rank, dims, host);
    tb_free(host);
    if (rank && one_in(d, 4)) x = tb_transpose(x, 0, -1);
    return rank && one_in(d, 6) ? tb_slice(x, roll(d, rank), roll(d, 2), 100, 1 + roll(d, 2)) : x;
}

typedef struct call {
    const tb_op *op;
    _Alignas(16) char attrs[ATTRS_BYTES];
    int n;
    tb_tensor *in[MAX_IN];
} call;

/* Like a sample, with a dimension, a dtype or an attribute changed here and there. */
static bool draw_like(draw *d, const tb_sample_case *s, tb_dtype dtype, call *c)
{
    c->n = s->n_in;
    if (s->attrs) memcpy(c->attrs, s->attrs, c->op->attrs_bytes);
    for (int i = 0; i < c->n; i++) {
        const tb_sample_in *in = &s->in[i];
        int64_t dims[TB_MAX_RANK], numel = 1;
        int rank = in->rank;
        memcpy(dims, in->dims, sizeof dims);
        for (int k = 0; k < rank; k++) numel *= dims[k];
        if (numel > LARGE) return false;
        if (in->absent) continue;
        if (rank && one_in(d, 8)) dims[roll(d, rank)] = roll(d, 4);
        if (one_in(d, 30)) draw_dims(d, &rank, dims);
        tb_dtype t = one_in(d, 10) ? (tb_dtype)roll(d, TB_DTYPES) : in->has_dtype ? in->dtype : dtype;
        if (in->is_stat) t = dtype == TB_F64 ? TB_F64 : TB_F32;
        c->in[i] = draw_input(d, t, rank, dims);
    }
    for (int i = 0; i < c->op->n_attrs; i++)
        if (one_in(d, 4)) draw_attr(d, &c->op->attrs[i], c->attrs + c->op->attrs[i].offset);
    return true;
}

static void draw_freely(draw *d, tb_dtype dtype, call *c)
{
    const tb_op *op = c->op;
    int rank, most = op->n_in < MAX_IN ? op->n_in : MAX_IN;
    int64_t dims[TB_MAX_RANK];
    c->n = op->n_in < 0 || one_in(d, 30) ? roll(d, 5) : op->n_in_min + roll(d, most - op->n_in_min + 1);
    draw_dims(d, &rank, dims);
    for (int i = 0; i < c->n; i++) {
        if (one_in(d, 3)) draw_dims(d, &rank, dims);
        if (one_in(d, 12)) continue;
        c->in[i] = draw_input(d, one_in(d, 8) ? (tb_dtype)roll(d, TB_DTYPES) : dtype, rank, dims);
    }
    for (int i = 0; i < op->n_attrs; i++) draw_attr(d, &op->attrs[i], c->attrs + op->attrs[i].offset);
}

static bool draw_call(draw *d, call *c)
{
    tb_dtype dtype = one_in(d, 2) ? TB_F32 : (tb_dtype)roll(d, TB_DTYPES);
    tb_samples samples;
    *c = (call){.op = tb_op_at(roll(d, TB_OP_COUNT))};
    assert_true(c->op->attrs_bytes <= ATTRS_BYTES);
    if (one_in(d, 4)) {
        draw_freely(d, dtype, c);
        return true;
    }
    assert_ok(tb_samples_of(c->op, &samples));
    bool is_small = draw_like(d, &samples.cases[roll(d, samples.n)], dtype, c);
    tb_samples_free(&samples);
    return is_small;
}

/* What the shape rule says on meta, without memory; the number of elements, or -1 where it refuses. */
static int64_t predict(tb_ctx *meta, const call *c, tb_tensor **out)
{
    tb_tensor *in[MAX_IN] = {0};
    int64_t most = -1;
    for (int i = 0; i < c->n; i++)
        if (c->in[i]) in[i] = tb_tensor_empty(c->in[i]->dtype, c->in[i]->rank, c->in[i]->dims);
    if (tb_dispatch(c->op, c->attrs, in, c->n, out) == TB_OK)
        for (int o = 0; o < c->op->n_out; o++) most = out[o]->numel > most ? out[o]->numel : most;
    if (tb_ctx_take_error(meta) != TB_OK) return -1;
    return most;
}

static void assert_readable(tb_tensor *t, const tb_tensor *predicted, const char *op, uint64_t seed)
{
    char *host = tb_calloc(tb_tensor_bytes(t) + 1, 1);
    assert_ok(tb_tensor_read(t, host, tb_tensor_bytes(t)));
    tb_free(host);
    if (strcmp(tb_shape_text(t), tb_shape_text(predicted)) != 0)
        fail_msg("call %llu, %s: %s, on meta %s", (unsigned long long)seed, op, tb_shape_text(t),
                 tb_shape_text(predicted));
}

static void an_op_answers_any_call(void **state)
{
    tb_ctx *cpu = *state, *meta;
    int done[TB_OP_COUNT] = {0}, refused = 0;
    const char *text = getenv("TB_TEST_SEED");
    uint64_t first = text ? strtoull(text, NULL, 10) * CALLS : 0;
    assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = 1, .seed = 1, .device = "meta"}, &meta));
    for (uint64_t seed = first; seed < first + CALLS; seed++) {
        draw d = {seed, 0};
        call c;
        tb_tensor *out[TB_MAX_OUT], *predicted[TB_MAX_OUT];
        tb_scope *scope = tb_scope_open();
        if (draw_call(&d, &c)) {
            assert_ok(tb_ctx_take_error(cpu));
            tb_ctx_enter(meta);
            tb_scope *there = tb_scope_open();
            int64_t most = predict(meta, &c, predicted);
            tb_ctx_enter(cpu);
            if (most <= 10 * LARGE && tb_dispatch(c.op, c.attrs, c.in, c.n, out) == TB_OK) {
                if (most < 0) fail_msg("call %llu, %s: refused on meta", (unsigned long long)seed, c.op->name);
                for (int o = 0; o < c.op->n_out; o++) assert_readable(out[o], predicted[o], c.op->name, seed);
                done[c.op->id]++;
            } else if (most <= 10 * LARGE) {
                tb_status st = tb_ctx_take_error(cpu);
                if (st == TB_OK || st == TB_ERR_INTERNAL || st == TB_ERR_UNSUPPORTED)
                    fail_msg("call %llu, %s: %s", (unsigned long long)seed, c.op->name, tb_error_message());
                refused++;
            }
            tb_scope_close(there);
        }
        tb_scope_close(scope);
    }
    for (int i = 0; i < TB_OP_COUNT; i++)
        if (!done[i]) fail_msg("no call of %s was done", tb_op_at(i)->name);
    assert_true(refused > CALLS / 10);
    assert_int_equal(tb_ctx_destroy(meta), 0);
}

/* ---- the same in a graph ---- */
static bool are_small(const tb_graph *g)
{
    for (int i = 0; i < g->n_values; i++) {
        double n = 1;
        for (int k = 0; k < g->values[i].rank; k++) n *= (double)g->values[i].dims[k].base;
        if (n > LARGE) return false;
    }
    return true;
}

/* A graph of the call alone, its inputs the graph's; NULL where graphs refuse it. */
static tb_graph *graph_of(const call *c)
{
    tb_graph *g;
    int in[MAX_IN], out[TB_MAX_OUT];
    assert_ok(tb_graph_create("call", &g));
    for (int i = 0; i < c->n; i++) {
        tb_dim dims[TB_MAX_RANK];
        char name[16];
        in[i] = TB_NO_VALUE;
        if (!c->in[i]) continue;
        for (int k = 0; k < c->in[i]->rank; k++) dims[k] = tb_dim_of(c->in[i]->dims[k]);
        snprintf(name, sizeof name, "x%d", i);
        assert_ok(tb_graph_input(g, name, c->in[i]->dtype, c->in[i]->rank, dims, &in[i]));
    }
    tb_status st = tb_graph_node(g, c->op, c->op->attrs_bytes ? c->attrs : NULL, 0, NULL, c->n, in, out);
    for (int o = 0; st == TB_OK && o < c->op->n_out - c->op->n_hidden; o++) {
        char name[16];
        snprintf(name, sizeof name, "y%d", o);
        st = tb_graph_output(g, out[o], name);
    }
    if (st == TB_OK && are_small(g) && tb_compile(g, NULL, NULL) == TB_OK) return g;
    tb_graph_free(g);
    return NULL;
}

/* Its elements in row-major order; the caller frees them. */
static char *read_out(tb_tensor *t)
{
    char *host = tb_calloc(tb_tensor_bytes(t) + 1, 1);
    assert_ok(tb_tensor_read(t, host, tb_tensor_bytes(t)));
    return host;
}

static void run_graph(tb_ctx *ctx, tb_graph *g, const call *c, tb_tensor *const *want, uint64_t seed)
{
    const void *in[MAX_IN];
    void *out[TB_MAX_OUT];
    tb_exec *e;
    tb_session *s;
    int n_in = 0, n_out = g->n_outputs;
    for (int i = 0; i < c->n; i++)
        if (c->in[i]) in[n_in++] = read_out(c->in[i]);
    for (int o = 0; o < n_out; o++) out[o] = tb_calloc(tb_tensor_bytes(want[o]) + 1, 1);
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    assert_ok(tb_session_run(s, NULL, in, out));
    for (int o = 0; o < n_out; o++) {
        char *expected = read_out(want[o]);
        if (memcmp(out[o], expected, tb_tensor_bytes(want[o])) != 0)
            fail_msg("call %llu, %s: result %d has other bits in a graph", (unsigned long long)seed, c->op->name, o);
        tb_free(expected);
        tb_free(out[o]);
    }
    for (int i = 0; i < n_in; i++) tb_free((void *)(uintptr_t)in[i]);
    tb_session_free(s);
    tb_exec_free(e);
}

/* What a graph takes it computes to the bit, whatever it is: also what passes make of it. */
static void a_graph_of_a_call_has_its_bits(void **state)
{
    const char *text = getenv("TB_TEST_SEED");
    uint64_t first = text ? strtoull(text, NULL, 10) * CALLS : 0;
    int agreed = 0;
    for (uint64_t seed = first; seed < first + CALLS / 3; seed++) {
        draw d = {seed, 0};
        call c;
        tb_tensor *out[TB_MAX_OUT];
        tb_scope *scope = tb_scope_open();
        bool is_small = draw_call(&d, &c);
        tb_graph *g = is_small ? graph_of(&c) : NULL;
        (void)!tb_ctx_take_error(*state); /* of what passes computed */
        if (g && tb_dispatch(c.op, c.attrs, c.in, c.n, out) == TB_OK) {
            run_graph(*state, g, &c, out, seed);
            agreed++;
        } else {
            tb_graph_free(g);
        }
        (void)!tb_ctx_take_error(*state);
        tb_scope_close(scope);
    }
    assert_true(agreed > CALLS / 15);
}

static int two_threads(void **state) { return test_setup_on(state, "cpu", 2); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_op_answers_any_call, two_threads, test_teardown),
        cmocka_unit_test_setup_teardown(a_graph_of_a_call_has_its_bits, two_threads, test_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
