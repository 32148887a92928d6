/* Passes on random graphs: the text form round-trips, the verifier agrees, and the compiled graph gives the bits of
 * the captured one at several batch sizes; every pass fires at least 100 times. */
#include "tb_test.h"
#include "tb_exec.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_rng.h"
#include "tb_verify.h"
#include <math.h>

enum { WIDTH = TB_RANDOM_GRAPH_WIDTH };

static tb_graph *random_graph(uint64_t seed)
{
    tb_graph *g;
    assert_ok(tb_random_graph(seed, &g));
    return g;
}

static int add_matrix(tb_graph *g)
{
    float x[WIDTH * WIDTH];
    int id;
    for (int i = 0; i < WIDTH * WIDTH; i++) x[i] = (float)tb_random_normal(1, 8, (uint64_t)i);
    tb_scope *s = tb_scope_open();
    assert_ok(tb_graph_constant(g, "w", tb_tensor_from(TB_F32, 2, (int64_t[]){WIDTH, WIDTH}, x), &id));
    tb_scope_close(s);
    return id;
}

static int add_node(tb_graph *g, const tb_op *op, const void *attrs, int n_in, const int *in)
{
    int out[TB_MAX_OUT];
    assert_ok(tb_graph_node(g, op, attrs, 0, NULL, n_in, in, out));
    return out[0];
}

static const tb_graph *constants_of;
static tb_tensor *lookup(void *arg, const char *name)
{
    (void)arg;
    for (int i = 0; i < constants_of->n_values; i++)
        if (constants_of->values[i].constant && strcmp(constants_of->values[i].name, name) == 0)
            return constants_of->values[i].constant;
    return tb_poison();
}

static tb_graph *round_trip(const tb_graph *g)
{
    tb_text a = {0}, b = {0};
    tb_graph *again;
    constants_of = g;
    tb_graph_dump(g, &a);
    assert_ok(tb_graph_parse(tb_text_str(&a), a.size, "dump", lookup, NULL, &again));
    tb_graph_dump(again, &b);
    assert_string_equal(tb_text_str(&a), tb_text_str(&b));
    tb_text_free(&a);
    tb_text_free(&b);
    return again;
}

static void run(tb_graph *g, tb_ctx *ctx, int64_t n, const float *x, float (*out)[64 * WIDTH], int n_out)
{
    tb_exec *e;
    tb_session *s;
    void *to[2] = {out[0], out[1]};
    assert_int_equal(g->n_outputs, n_out);
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    assert_ok(tb_session_run(s, &n, (const void *[]){x}, to));
    tb_session_free(s);
    tb_exec_free(e);
}

/* How often each rewrite was made, over many graphs. */
typedef struct fired {
    tb_compile_report of;
} fired;

static void add_fired(fired *f, const tb_compile_report *r)
{
    for (int i = 0; i < r->n_rewrites; i++) {
        int k = 0;
        while (k < f->of.n_rewrites && strcmp(f->of.rewrite[k].name, r->rewrite[i].name) != 0) k++;
        if (k == f->of.n_rewrites) f->of.rewrite[f->of.n_rewrites++].name = r->rewrite[i].name;
        f->of.rewrite[k].n += r->rewrite[i].n;
    }
}

static void must_have_fired(const fired *f, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t times = 0;
        for (int k = 0; k < f->of.n_rewrites; k++)
            if (strcmp(f->of.rewrite[k].name, names[i]) == 0) times = f->of.rewrite[k].n;
        if (times < 100) fail_msg("'%s' fired %lld times", names[i], (long long)times);
    }
}

static void compiled_graphs_keep_the_bits(void **state)
{
    fired made = {0};
    enum { TRIALS = 10000 };
    tb_compile_report report = {0};
    for (int trial = 0; trial < TRIALS; trial++) {
        static float x[64 * WIDTH], y[2][64 * WIDTH], z[2][64 * WIDTH];
        int64_t n = (int64_t[]){1, 2, 7, 33, 0}[trial % 5];
        tb_graph *g = random_graph((uint64_t)trial), *compiled = round_trip(g);
        int n_out = g->n_outputs;
        for (int64_t i = 0; i < n * WIDTH; i++) x[i] = (float)tb_random_normal(1, (uint64_t)trial, (uint64_t)i);
        assert_ok(tb_compile(compiled, &(tb_compile_opts){.strict = true}, &report));
        add_fired(&made, &report);
        tb_graph *again = round_trip(compiled);
        tb_graph_free(compiled);
        run(g, *state, n, x, y, n_out);
        run(again, *state, n, x, z, n_out);
        for (int o = 0; o < n_out; o++)
            if (memcmp(y[o], z[o], sizeof(float) * (size_t)n * WIDTH) != 0)
                fail_msg("graph %d, output %d differs", trial, o);
    }
    static const char *const exact[] = {
        "drop what changes nothing", "merge reshapes",       "drop double negation", "fold",
        "merge equal nodes",         "sum into absent bias", "add residual",         "activate",
        "pointwise program"};
    must_have_fired(&made, exact, sizeof exact / sizeof exact[0]);
}

static void the_rewrite_limit_stops_the_passes(void **state)
{
    (void)state;
    tb_compile_report report;
    tb_graph *g = random_graph(4);
    assert_ok(tb_compile(g, &(tb_compile_opts){.max_rewrites = 2}, &report));
    int64_t total = 0;
    for (int p = 0; p < report.n_passes; p++) total += report.pass[p].rewrites;
    assert_true(total <= 2);
    tb_graph_free(g);
}

static void a_value_with_two_uses_is_not_fused_and_says_why(void **state)
{
    (void)state;
    tb_graph *g;
    tb_text why = {0};
    int x, h, y, w;
    assert_ok(tb_graph_create("g", &g));
    assert_ok(tb_graph_input(g, "x", TB_F32, 2, (tb_dim[]){{.base = 3}, {.base = WIDTH}}, &x));
    w = add_matrix(g);
    h = add_node(g, &tb_op_linear, NULL, 3, (int[]){x, w, TB_NO_VALUE});
    y = add_node(g, &tb_op_relu, NULL, 1, (int[]){h});
    assert_ok(tb_graph_output(g, add_node(g, &tb_op_matmul, &(bool){false}, 2, (int[]){y, w}), "y"));
    assert_ok(tb_graph_output(g, h, "h"));
    assert_ok(tb_compile(g, &(tb_compile_opts){.why = &why}, NULL));
    assert_string_equal(tb_text_str(&why),
                        "%2 linear -> %3 relu: not fused: its result has other uses\n"
                        "%3 relu -> %4 matmul: not fused: a product reads its operands by itself: nothing moves in "
                        "before it\n");
    tb_text_free(&why);
    tb_graph_free(g);
}

/* conv -> norm, and conv -> relu -> norm, which cannot move. */
static tb_tensor *normed(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    (void)n;
    tb_tensor *x = tb_batch_norm_eval(tb_conv2d(in[0], p[0], NULL, NULL), p[1], p[2], p[3], p[4], 1e-3);
    x = tb_relu(tb_conv2d(x, p[5], p[1], NULL));
    return tb_batch_norm_eval(x, p[1], p[2], NULL, NULL, 1e-3);
}

static void batch_norm_moves_into_the_convolution(void **state)
{
    enum { C = 3, IMAGE = C * 5 * 5, RESULT = C * 3 * 3, N = 4 };
    static const int64_t shapes[6][5] = {{4, C, C, 2, 2}, {1, C}, {1, C}, {1, C}, {1, C}, {4, C, C, 2, 2}};
    tb_tensor *p[6];
    static float x[N * IMAGE], y[N * RESULT], z[N * RESULT];
    int64_t n = N;
    float most = 0, size = 0;
    for (int i = 0; i < N * IMAGE; i++) x[i] = (float)tb_random_normal(3, 1, (uint64_t)i);
    for (int k = 0; k < 6; k++) {
        float v[C * C * 4];
        for (int i = 0; i < C * C * 4; i++) v[i] = (float)tb_random_normal(3, 2 + (uint64_t)k, (uint64_t)i);
        for (int i = 0; k == 2 && i < C; i++) v[i] = fabsf(v[i]) + 0.1f;
        p[k] = tb_tensor_from(TB_F32, (int)shapes[k][0], shapes[k] + 1, v);
    }
    for (int strict = 0; strict < 2; strict++) {
        tb_graph *g;
        tb_exec *e;
        tb_session *s;
        tb_text text = {0};
        assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1,
                             &(tb_capture_input){"x", TB_F32, 4, {-1, C, 5, 5}}, normed, p, &g));
        assert_ok(tb_compile(g, &(tb_compile_opts){.strict = strict}, NULL));
        tb_graph_dump(g, &text);
        const char *first = strstr(tb_text_str(&text), "batch_norm_eval");
        assert_non_null(first);
        assert_int_equal(strstr(first + 1, "batch_norm_eval") != NULL, strict);
        tb_text_free(&text);
        assert_ok(tb_exec_create(g, &e));
        assert_ok(tb_session_create(e, *state, &s));
        assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){strict ? y : z}));
        tb_session_free(s);
        tb_exec_free(e);
    }
    for (int i = 0; i < N * RESULT; i++) {
        most = fmaxf(most, fabsf(y[i] - z[i]));
        size = fmaxf(size, fabsf(y[i]));
    }
    assert_true(size > 0.1f && most < 1e-5f * size);
}

enum { FILTERS = 18, CHANNELS = 9, SIDE = 11 };

/* conv -> relu -> pool; conv, whose result has two uses, -> pool. */
static tb_tensor *filtered(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    (void)n;
    const tb_pool2d_opts window = {.kernel = {2, 2}};
    tb_tensor *x = tb_max_pool2d(tb_relu(tb_conv2d(in[0], p[0], p[1], &(tb_conv2d_opts){.pad = {1, 1}})), &window);
    x = tb_conv2d(x, p[2], NULL, &(tb_conv2d_opts){.pad = {2, 2}});
    return tb_add(tb_max_pool2d(x, &window), tb_slice(tb_slice(x, 2, 0, 2, 1), 3, 0, 2, 1));
}

static void run_filtered(tb_graph *g, tb_ctx *ctx, int64_t n, const float *x, float *y)
{
    tb_exec *e;
    tb_session *s;
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){y}));
    tb_session_free(s);
    tb_exec_free(e);
}

static void convolutions_filter_minimally_with_their_pooling(void **state)
{
    enum { N = 5, IMAGE = CHANNELS * SIDE * SIDE, RESULT = CHANNELS * 2 * 2 };
    static const int64_t shapes[3][5] = {{4, FILTERS, CHANNELS, 3, 3}, {1, FILTERS}, {4, CHANNELS, FILTERS, 5, 5}};
    static float x[N * IMAGE], v[FILTERS * CHANNELS * 25], y[3][N * RESULT];
    tb_tensor *p[3];
    float most = 0, size = 0;
    for (int i = 0; i < N * IMAGE; i++) x[i] = (float)tb_random_normal(4, 1, (uint64_t)i);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < FILTERS * CHANNELS * 25; i++)
            v[i] = (float)tb_random_normal(4, 2 + (uint64_t)k, (uint64_t)i);
        p[k] = tb_tensor_from(TB_F32, (int)shapes[k][0], shapes[k] + 1, v);
    }
    for (int way = 0; way < 3; way++) { /* as it is; fast: all images at once; one after the other */
        tb_graph *g;
        tb_text text = {0};
        assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1,
                             &(tb_capture_input){"x", TB_F32, 4, {-1, CHANNELS, SIDE, SIDE}}, filtered, p, &g));
        assert_ok(tb_compile(g, &(tb_compile_opts){.fast = way != 0}, NULL));
        tb_graph_dump(g, &text);
        assert_int_equal(strstr(tb_text_str(&text), "conv2d_winograd") != NULL, way != 0);
        assert_int_equal(strstr(tb_text_str(&text), "is_pooled=true") != NULL, way != 0);
        assert_non_null(strstr(tb_text_str(&text), "= max_pool2d(")); /* behind the result with two uses */
        tb_text_free(&text);
        if (way < 2) run_filtered(g, *state, N, x, y[way]);
        if (way < 2) continue;
        tb_exec *e;
        tb_session *s;
        assert_ok(tb_exec_create(g, &e));
        assert_ok(tb_session_create(e, *state, &s));
        for (int i = 0; i < N; i++)
            assert_ok(tb_session_run(s, &(int64_t){1}, (const void *[]){x + i * IMAGE}, (void *[]){y[2] + i * RESULT}));
        tb_session_free(s);
        tb_exec_free(e);
    }
    assert_memory_equal(y[1], y[2], sizeof y[1]);
    for (int i = 0; i < N * RESULT; i++) {
        most = fmaxf(most, fabsf(y[0][i] - y[1][i]));
        size = fmaxf(size, fabsf(y[0][i]));
    }
    assert_true(size > 1 && most < 1e-5f * size);
}

/* conv [-> norm] [-> factor] [-> sum] [-> relu] -> pool [-> linear -> divisor -> difference]: a seed says which. */
typedef struct network {
    uint64_t seed, at;
    int64_t channels, side, filters, kernel;
    bool has_bias, has_norm, has_factor, has_sum, has_relu, has_tail;
} network;
enum { TAIL = 5 };

static tb_tensor *drawn(network *w, int rank, const int64_t *dims, float shift)
{
    static float v[16 * 16 * 25];
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    for (int64_t i = 0; i < n; i++) {
        float x = (float)tb_random_normal(w->seed, ++w->at, (uint64_t)i);
        v[i] = shift > 0 ? fabsf(x) + shift : x;
    }
    return tb_tensor_from(TB_F32, rank, dims, v);
}

static tb_tensor *network_forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    (void)n;
    tb_tensor *x = tb_conv2d(in[0], p[0], p[1], &(tb_conv2d_opts){.pad = {1, 1}});
    if (p[2]) x = tb_batch_norm_eval(x, p[2], p[3], p[4], p[5], 1e-3);
    if (p[6]) x = tb_mul(p[6], x);
    if (p[7]) x = tb_add(x, p[7]);
    if (p[8]) x = tb_relu(x);
    x = tb_max_pool2d(x, &(tb_pool2d_opts){.kernel = {2, 2}});
    return p[9] ? tb_sub(p[11], tb_div(tb_linear(x, p[9], NULL), p[10])) : x;
}

/* What rounds otherwise: batch norm, factors and sums in the weights, minimal filtering, pooling with it. */
static void random_networks_stay_close_where_rounding_may_change(void **state)
{
    enum { TRIALS = 300, N = 2, MOST = N * 16 * 16 * 16 };
    static const char *const inexact[] = {"norm into weights", "factor into weights", "sum into bias",
                                          "filter minimally", "pool in tiles"};
    static float x[MOST], y[2][MOST], eager[MOST];
    fired made = {0};
    for (uint64_t seed = 0; seed < TRIALS; seed++) {
        network w = {.seed = 700 + seed,
                     .channels = 8 + (int64_t)tb_random_below(seed, 1, 0, 8),
                     .filters = 8 + (int64_t)tb_random_below(seed, 1, 1, 8),
                     .side = 8 + (int64_t)tb_random_below(seed, 1, 2, 8),
                     .kernel = tb_random_below(seed, 1, 3, 2) ? 3 : 5,
                     .has_norm = tb_random_below(seed, 1, 4, 2),
                     .has_relu = tb_random_below(seed, 1, 5, 2),
                     .has_factor = tb_random_below(seed, 1, 6, 2),
                     .has_sum = tb_random_below(seed, 1, 7, 3),
                     .has_tail = tb_random_below(seed, 1, 8, 2),
                     .has_bias = tb_random_below(seed, 1, 9, 2)};
        tb_scope *scope = tb_scope_open();
        int64_t pooled = (w.side + 3 - w.kernel) / 2, result = N * w.filters * pooled * (w.has_tail ? TAIL : pooled),
                each[3] = {w.filters, 1, 1}, width = TAIL;
        tb_tensor *p[12] = {drawn(&w, 4, (int64_t[]){w.filters, w.channels, w.kernel, w.kernel}, 0),
                            w.has_bias ? drawn(&w, 1, &w.filters, 0) : NULL};
        for (int k = 2; k < 6 && w.has_norm; k++) p[k] = drawn(&w, 1, &w.filters, k == 3 ? 0.1f : 0);
        if (w.has_factor) p[6] = drawn(&w, 3, each, 0);
        if (w.has_sum) p[7] = drawn(&w, 3, each, 0);
        p[8] = w.has_relu ? p[0] : NULL;
        if (w.has_tail) {
            p[9] = drawn(&w, 2, (int64_t[]){TAIL, pooled}, 0);
            p[10] = drawn(&w, 1, &width, 0.5f);
            p[11] = drawn(&w, 1, &width, 0);
        }
        for (int i = 0; i < MOST; i++) x[i] = (float)tb_random_normal(seed, 2, (uint64_t)i);
        for (int fast = 0; fast < 2; fast++) {
            tb_graph *g;
            tb_compile_report report;
            assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1,
                                 &(tb_capture_input){"x", TB_F32, 4, {-1, w.channels, w.side, w.side}}, network_forward,
                                 p, &g));
            assert_ok(tb_compile(g, &(tb_compile_opts){.strict = !fast, .fast = fast}, &report));
            if (fast) add_fired(&made, &report);
            run_filtered(g, *state, N, x, y[fast]);
        }
        tb_tensor *in = tb_tensor_from(TB_F32, 4, (int64_t[]){N, w.channels, w.side, w.side}, x);
        assert_ok(tb_tensor_read(network_forward(p, 1, &in), eager, sizeof *eager * (size_t)result));
        tb_scope_close(scope);
        assert_memory_equal(eager, y[0], sizeof *eager * (size_t)result);
        float most = 0, size = 0;
        for (int64_t i = 0; i < result; i++) {
            most = fmaxf(most, fabsf(y[0][i] - y[1][i]));
            size = fmaxf(size, fabsf(y[0][i]));
        }
        if (!(size > 0.1f && most < 1e-5f * size))
            fail_msg("network %d: %g of %g", (int)seed, (double)most, (double)size);
    }
    must_have_fired(&made, inexact, sizeof inexact / sizeof inexact[0]);
}

/* p: two layers with one weight, each with a factor; a sum behind a convolution; what cannot move. */
static tb_tensor *with_constants(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg, *x = in[0];
    (void)n;
    x = tb_mul(tb_linear(x, p[0], NULL), p[1]);
    x = tb_sub(p[1], tb_mul(tb_scalar(TB_F32, 2), tb_linear(x, p[0], p[1])));
    x = tb_add(tb_conv2d(x, p[2], NULL, NULL), p[3]);
    tb_tensor *y = tb_linear(x, p[0], NULL);
    return tb_mul(tb_mul(y, p[4]), tb_tanh(y)); /* two uses; and a factor for every row */
}

static void constants_move_into_the_layer_before_them(void **state)
{
    (void)state;
    network w = {.seed = 5};
    tb_tensor *p[5] = {drawn(&w, 2, (int64_t[]){2, 2}, 0), drawn(&w, 1, (int64_t[]){2}, 0),
                       drawn(&w, 4, (int64_t[]){3, 3, 1, 1}, 0), drawn(&w, 3, (int64_t[]){3, 1, 1}, 0),
                       drawn(&w, 2, (int64_t[]){2, 1}, 0)};
    static const char *const want[2] = {
        "graph g(N) {\n"
        "  %0 : f32[N, 3, 2, 2] = input \"x\"\n"
        "  %1 : f32[2, 2] = const \"c0.normed\"\n"
        "  %2 : f32[N, 3, 2, 2] = linear(%0, %1)\n"
        "  %3 : f32[2, 2] = const \"c0.normed1.normed\"\n"
        "  %4 : f32[2] = const \"c0.normed1.shift\"\n"
        "  %5 : f32[N, 3, 2, 2] = linear(%2, %3, %4)\n"
        "  %6 : f32[3, 3, 1, 1] = const \"c3\"\n"
        "  %7 : f32[3] = const \"c3.shift\"\n"
        "  %8 : f32[N, 3, 2, 2] = conv2d(%5, %6, %7) {stride=[1, 1], pad=[0, 0], dilation=[1, 1], groups=1}\n"
        "  %9 : f32[2, 2] = const \"c0\"\n"
        "  %10 : f32[N, 3, 2, 2] = linear(%8, %9, _)\n"
        "  %11 : f32[2, 1] = const \"c5\"\n"
        "  %12 : f32[N, 3, 2, 2] = mul(%10, %11)\n"
        "  %13 : f32[N, 3, 2, 2] = tanh(%10)\n"
        "  %14 : f32[N, 3, 2, 2] = mul(%12, %13)\n"
        "  output %14 \"y\"\n"
        "}\n",
        "graph g(N) {\n"
        "  %0 : f32[N, 3, 2, 2] = input \"x\"\n"
        "  %1 : f32[2, 2] = const \"c0\"\n"
        "  %2 : f32[N, 3, 2, 2] = linear(%0, %1, _)\n"
        "  %3 : f32[2] = const \"c1\"\n"
        "  %4 : f32[N, 3, 2, 2] = mul(%2, %3)\n"
        "  %5 : f32[N, 3, 2, 2] = linear(%4, %1, %3)\n"
        "  %6 : f32[] = const \"c2\"\n"
        "  %7 : f32[N, 3, 2, 2] = mul(%6, %5)\n"
        "  %8 : f32[N, 3, 2, 2] = sub(%3, %7)\n"
        "  %9 : f32[3, 3, 1, 1] = const \"c3\"\n"
        "  %10 : f32[3] = const \"c3.shift\"\n"
        "  %11 : f32[N, 3, 2, 2] = conv2d(%8, %9, %10) {stride=[1, 1], pad=[0, 0], dilation=[1, 1], groups=1}\n"
        "  %12 : f32[N, 3, 2, 2] = linear(%11, %1, _)\n"
        "  %13 : f32[2, 1] = const \"c5\"\n"
        "  %14 : f32[N, 3, 2, 2] = mul(%12, %13)\n"
        "  %15 : f32[N, 3, 2, 2] = tanh(%12)\n"
        "  %16 : f32[N, 3, 2, 2] = mul(%14, %15)\n"
        "  output %16 \"y\"\n"
        "}\n"};
    for (int strict = 0; strict < 2; strict++) {
        tb_graph *g;
        tb_text text = {0};
        assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 4, {-1, 3, 2, 2}},
                             with_constants, p, &g));
        assert_ok(tb_compile(g, &(tb_compile_opts){.strict = strict, .no_fusion = true}, NULL));
        tb_graph_dump(g, &text);
        assert_string_equal(tb_text_str(&text), want[strict]);
        tb_text_free(&text);
        tb_graph_free(g);
    }
}

/* Attention written out, of a kind that a seed says. */
typedef enum mask_form { NO_MASK, ADDED, CHOSEN, CHOSEN_INVERSE, MASK_FORMS } mask_form;
typedef struct written_out {
    int rank;
    int64_t heads, queries, keys, width, v_width;
    int factor; /* 0: none; 1: multiplied; 2: divided by; 3: after the mask */
    mask_form mask;
    bool is_permuted; /* heads come out of [batch, length, heads, width] */
    /* what keeps it from becoming one op */
    bool uses_scores, other_axis, keeps_keys, one_v, banded;
} written_out;

/* As the form wants it: -inf where a score is hidden; or a choice. */
static tb_tensor *mask_of(const written_out *w)
{
    static float m[208 * 208];
    for (int64_t i = 0; i < w->queries; i++)
        for (int64_t j = 0; j < w->keys; j++) {
            bool is_hidden = j > i + w->keys - w->queries || (w->banded && j == 0);
            m[i * w->keys + j] = w->mask == ADDED ? (is_hidden ? -INFINITY : 0) : is_hidden == (w->mask == CHOSEN);
        }
    tb_tensor *t = tb_tensor_from(TB_F32, 2, (int64_t[]){w->queries, w->keys}, m);
    return w->mask == ADDED ? t : tb_gt(t, tb_scalar(TB_F32, 0));
}

static tb_tensor *masked(const written_out *w, tb_tensor *scores, tb_tensor *mask)
{
    tb_tensor *never = tb_scalar(TB_F32, -1e30);
    return w->mask == ADDED    ? tb_add(mask, scores)
           : w->mask == CHOSEN ? tb_where(mask, never, scores)
                               : tb_where(mask, scores, never);
}

static tb_tensor *as_heads(const written_out *w, tb_tensor *x)
{
    return w->is_permuted ? tb_permute(x, 4, (int64_t[]){0, 2, 1, 3}) : x;
}

typedef struct attention_call {
    const written_out *w;
    tb_tensor *mask;
} attention_call;

static tb_tensor *attention_forward(void *arg, int n, tb_tensor *const *in)
{
    const attention_call *c = arg;
    const written_out *w = c->w;
    (void)n;
    tb_tensor *k = as_heads(w, in[1]), *v = as_heads(w, in[2]), *number = tb_scalar(TB_F32, w->factor == 2 ? 3 : 0.4);
    if (w->one_v) v = tb_slice(v, 0, 0, 1, 1);
    tb_tensor *s = tb_matmul(as_heads(w, in[0]), w->keeps_keys ? k : tb_transpose(k, -1, -2));
    if (w->factor == 1) s = tb_mul(number, s);
    if (w->factor == 2) s = tb_div(s, number);
    if (w->mask != NO_MASK) s = masked(w, s, c->mask);
    if (w->factor == 3) s = tb_mul(s, number);
    tb_tensor *y = tb_matmul(tb_softmax(s, w->other_axis ? -2 : -1), v);
    return w->uses_scores ? tb_mul(y, tb_sum_axis(s, -1, true)) : y;
}

/* Of q, k and v; the batch is free where `is_free`. */
static void capture_attention(attention_call *c, bool is_free, tb_graph **out)
{
    const written_out *w = c->w;
    const int64_t length[3] = {w->queries, w->keys, w->keys}, width[3] = {w->width, w->width, w->v_width};
    tb_capture_input in[3] = {{.name = "q"}, {.name = "k"}, {.name = "v"}};
    for (int i = 0; i < 3; i++) {
        int n = 0;
        in[i].rank = w->rank;
        if (w->rank > 2) in[i].dims[n++] = is_free ? -1 : 2;
        if (w->rank > 3 && !w->is_permuted) in[i].dims[n++] = w->heads;
        in[i].dims[n++] = length[i];
        if (w->is_permuted) in[i].dims[n++] = w->heads;
        in[i].dims[n++] = width[i];
    }
    assert_ok(tb_capture("g", is_free, (const char *[]){"N"}, 3, in, attention_forward, c, out));
}

static void attention_written_out_becomes_one_op(void **state)
{
    (void)state;
    const written_out w = {.rank = 4,
                           .heads = 3,
                           .queries = 128,
                           .keys = 128,
                           .width = 8,
                           .v_width = 6,
                           .factor = 1,
                           .mask = CHOSEN,
                           .is_permuted = true};
    attention_call c = {&w, mask_of(&w)};
#define HEADS                                                                                                          \
    "graph g(N) {\n"                                                                                                   \
    "  %0 : f32[N, 128, 3, 8] = input \"q\"\n"                                                                         \
    "  %1 : f32[N, 128, 3, 8] = input \"k\"\n"                                                                         \
    "  %2 : f32[N, 128, 3, 6] = input \"v\"\n"
    static const char *const want[2] = {
        HEADS "  %3 : f32[N, 3, 128, 8] = permute(%0) {dims=[0, 2, 1, 3]}\n"
              "  %4 : f32[N, 3, 128, 8] = permute(%1) {dims=[0, 2, 1, 3]}\n"
              "  %5 : f32[N, 3, 128, 6] = permute(%2) {dims=[0, 2, 1, 3]}\n"
              "  %6, %7 : f32[N, 3, 128, 6], f32[N, 3, 128] = scaled_dot_product_attention(%3, %4, %5) "
              "{causal=true, scale=0.40000000596046448}\n"
              "  output %6 \"y\"\n}\n",
        HEADS "  %3 : f32[N, 3, 128, 8] = permute(%0) {dims=[0, 2, 1, 3]}\n"
              "  %4 : f32[N, 3, 128, 8] = permute(%1) {dims=[0, 2, 1, 3]}\n"
              "  %5 : f32[N, 3, 8, 128] = permute(%4) {dims=[0, 1, 3, 2]}\n"
              "  %6 : f32[N, 3, 128, 128] = matmul(%3, %5) {batch_tree=false}\n"
              "  %7 : f32[] = const \"c0\"\n"
              "  %8 : f32[N, 3, 128, 128] = mul(%7, %6)\n"
              "  %9 : bool[128, 128] = const \"c1\"\n"
              "  %10 : f32[] = const \"c2\"\n"
              "  %11 : f32[N, 3, 128, 128] = where(%9, %10, %8)\n"
              "  %12 : f32[N, 3, 128, 128] = softmax(%11) {axis=-1}\n"
              "  %13 : f32[N, 3, 128, 6] = permute(%2) {dims=[0, 2, 1, 3]}\n"
              "  %14 : f32[N, 3, 128, 6] = matmul(%12, %13) {batch_tree=false}\n"
              "  output %14 \"y\"\n}\n"};
#undef HEADS
    for (int strict = 0; strict < 2; strict++) {
        tb_graph *g;
        tb_text text = {0};
        capture_attention(&c, true, &g);
        assert_ok(tb_compile(g, &(tb_compile_opts){.strict = strict}, NULL));
        tb_graph_dump(g, &text);
        assert_string_equal(tb_text_str(&text), want[strict]);
        tb_text_free(&text);
        tb_graph_free(g);
    }
}

static void attention_that_does_more_stays_and_says_why(void **state)
{
    (void)state;
    static const struct {
        written_out w;
        const char *reason;
    } cases[] = {
        {{.uses_scores = true}, "its scores have other uses"},
        {{.other_axis = true}, "it runs over another axis than the last"},
        {{.one_v = true}, "q, k and v differ in batch or heads"},
        {{.keeps_keys = true}, "its keys are not transposed"},
        {{.mask = CHOSEN, .banded = true}, "its mask is not causal"},
        {{.mask = ADDED, .factor = 1, .banded = true}, "its scores go through a pointwise program"},
        {{.queries = 1}, "so few queries or keys cost less written out"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        written_out w = cases[i].w;
        w.rank = 4, w.heads = 2, w.width = w.v_width = w.keys = 128;
        if (!w.queries) w.queries = w.keys;
        attention_call c = {&w, mask_of(&w)};
        tb_graph *g;
        tb_text why = {0}, text = {0};
        capture_attention(&c, false, &g);
        assert_ok(tb_compile(g, &(tb_compile_opts){.why = &why}, NULL));
        tb_graph_dump(g, &text);
        assert_null(strstr(tb_text_str(&text), "attention"));
        const char *edge = strstr(tb_text_str(&why), " softmax -> ");
        if (!edge || !strstr(edge, cases[i].reason))
            fail_msg("'%s' is not in:\n%s", cases[i].reason, tb_text_str(&why));
        tb_text_free(&why);
        tb_text_free(&text);
        tb_graph_free(g);
    }
}

static int64_t below(uint64_t seed, uint64_t draw, uint64_t n) { return (int64_t)tb_random_below(seed, 3, draw, n); }

static written_out drawn_attention(uint64_t seed)
{
    written_out w = {.rank = 2 + (int)below(seed, 0, 3),
                     .heads = 1 + below(seed, 1, 3),
                     .width = 1 + below(seed, 2, 40),
                     .v_width = 1 + below(seed, 3, 40),
                     .factor = (int)below(seed, 4, 4),
                     .mask = (mask_form)below(seed, 5, MASK_FORMS)};
    w.queries = 128 + below(seed, 6, below(seed, 7, 2) ? 72 : 8);
    w.keys = w.queries + below(seed, 8, 8);
    w.is_permuted = w.rank == 4 && below(seed, 9, 2);
    return w;
}

static void random_attention_stays_close_to_what_was_written_out(void **state)
{
    enum { TRIALS = 150, N = 3, MOST = N * 3 * 208 * 40 };
    static float x[3][MOST], y[2][MOST], eager[MOST];
    fired made = {0};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < MOST; k++) x[i][k] = (float)tb_random_normal(6, (uint64_t)i, (uint64_t)k);
    for (uint64_t seed = 0; seed < TRIALS; seed++) {
        const written_out w = drawn_attention(seed);
        tb_scope *scope = tb_scope_open();
        attention_call c = {&w, mask_of(&w)};
        int64_t result = 0, n = N;
        tb_tensor *in[3];
        for (int one = 0; one < 2; one++) {
            tb_graph *g;
            tb_exec *e;
            tb_session *s;
            tb_compile_report report;
            capture_attention(&c, w.rank > 2, &g);
            for (int i = 0; i < 3; i++) {
                const tb_value *v = &g->values[g->inputs[i]];
                int64_t dims[TB_MAX_RANK];
                for (int k = 0; k < v->rank; k++) dims[k] = tb_dim_at(v->dims[k], &n);
                in[i] = tb_tensor_from(TB_F32, v->rank, dims, x[i]);
            }
            assert_ok(tb_compile(g, &(tb_compile_opts){.strict = !one}, &report));
            if (one) add_fired(&made, &report);
            assert_ok(tb_exec_create(g, &e));
            assert_ok(tb_session_create(e, *state, &s));
            assert_ok(tb_session_run(s, &n, (const void *[]){x[0], x[1], x[2]}, (void *[]){y[one]}));
            tb_session_free(s);
            tb_exec_free(e);
        }
        tb_tensor *out = tb_contiguous(attention_forward(&c, 3, in));
        result = tb_tensor_numel(out);
        assert_ok(tb_tensor_read(out, eager, sizeof(float) * (size_t)result));
        tb_scope_close(scope);
        assert_memory_equal(eager, y[0], sizeof(float) * (size_t)result);
        float most = 0, size = 0;
        for (int64_t i = 0; i < result; i++) {
            most = fmaxf(most, fabsf(y[0][i] - y[1][i]));
            size = fmaxf(size, fabsf(y[0][i]));
        }
        if (!(size > 0 && most < 1e-5f * size))
            fail_msg("attention %d: %g of %g", (int)seed, (double)most, (double)size);
    }
    must_have_fired(&made, (const char *[]){"attend"}, 1);
    for (int i = 0; i < made.of.n_rewrites; i++)
        if (strcmp(made.of.rewrite[i].name, "attend") == 0) assert_int_equal(made.of.rewrite[i].n, TRIALS);
}

/* Pointwise nodes without end: `leaves` rows of the input are joined in pairs drawn at random, or all to the left. */
typedef struct tree {
    uint64_t seed;
    int leaves, unaries; /* unaries: after each joint */
    bool is_left;
} tree;

enum { ROW = 9, MOST_LEAVES = 64 };

static tb_tensor *joined(void *arg, int n, tb_tensor *const *in)
{
    static tb_tensor *(*const join[])(tb_tensor *, tb_tensor *) = {tb_add, tb_sub, tb_maximum};
    static tb_tensor *(*const then[])(tb_tensor *) = {tb_neg, tb_tanh, tb_relu, tb_abs};
    const tree *t = arg;
    tb_tensor *open[MOST_LEAVES];
    uint64_t at = 0;
    (void)n;
    for (int i = 0; i < t->leaves; i++) open[i] = tb_mul(tb_slice(in[0], 0, i, i + 1, 1), tb_scalar(TB_F32, 0.5 + i));
    for (int left = t->leaves; left > 1; left--) {
        int a = t->is_left ? 0 : (int)tb_random_below(t->seed, 1, at++, (uint64_t)left);
        tb_tensor *x = open[a];
        open[a] = open[left - 1];
        int b = t->is_left ? left - 2 : (int)tb_random_below(t->seed, 1, at++, (uint64_t)left - 1);
        tb_tensor *y = t->is_left ? open[0] : open[b];
        x = join[tb_random_below(t->seed, 2, at++, 3)](x, y);
        for (int i = 0; i < t->unaries; i++) x = then[tb_random_below(t->seed, 3, at++, 4)](x);
        open[t->is_left ? 0 : b] = x;
    }
    return open[0];
}

static void programs_have_an_end(void **state)
{
    static float x[MOST_LEAVES * ROW], want[ROW], got[1][64 * WIDTH];
    for (int i = 0; i < MOST_LEAVES * ROW; i++) x[i] = (float)tb_random_normal(4, 1, (uint64_t)i);
    for (uint64_t seed = 0; seed < 120; seed++) {
        tree t = {seed, 1 + (int)tb_random_below(seed, 9, 0, MOST_LEAVES), (int)tb_random_below(seed, 9, 1, 3),
                  seed % 2};
        if (seed % 8 == 0) t.leaves = 2, t.unaries = 150;
        tb_graph *g;
        tb_scope *scope = tb_scope_open();
        tb_tensor *in = tb_tensor_from(TB_F32, 2, (int64_t[]){MOST_LEAVES, ROW}, x);
        assert_ok(tb_tensor_read(joined(&t, 1, &in), want, sizeof want));
        const tb_capture_input input = {"x", TB_F32, 2, {MOST_LEAVES, ROW}};
        assert_ok(tb_capture("tree", 0, NULL, 1, &input, joined, &t, &g));
        tb_scope_close(scope);
        assert_ok(tb_compile(g, NULL, NULL));
        run(g, *state, 1, x, got, 1);
        assert_memory_equal(got, want, sizeof want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(compiled_graphs_keep_the_bits),
        ctx_test(programs_have_an_end),
        ctx_test(the_rewrite_limit_stops_the_passes),
        ctx_test(a_value_with_two_uses_is_not_fused_and_says_why),
        ctx_test(batch_norm_moves_into_the_convolution),
        ctx_test(convolutions_filter_minimally_with_their_pooling),
        ctx_test(random_networks_stay_close_where_rounding_may_change),
        ctx_test(constants_move_into_the_layer_before_them),
        ctx_test(attention_written_out_becomes_one_op),
        ctx_test(attention_that_does_more_stays_and_says_why),
        ctx_test(random_attention_stays_close_to_what_was_written_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
