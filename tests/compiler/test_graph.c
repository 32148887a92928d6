/* Capture, text, plan and execution of graphs. */
#include "tb_test.h"
#include "plan.h"
#include "tb_artefact.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include <math.h>
#include <stdlib.h>

static tb_tensor *weight(const char *name, int64_t rows, int64_t cols)
{
    float *x = tb_calloc((size_t)(rows * cols), sizeof *x);
    for (int64_t i = 0; i < rows * cols; i++) x[i] = (float)tb_random_normal(3, (uint64_t)rows, (uint64_t)i);
    tb_tensor *t =
        cols > 1 ? tb_tensor_from(TB_F32, 2, (int64_t[]){rows, cols}, x) : tb_tensor_from(TB_F32, 1, &rows, x);
    tb_free(x);
    tb_tensor_set_name(t, name);
    return t;
}

/* A layer, a branch that is used twice, a reshape whose size depends on the batch, a broadcast, a row sum. */
typedef struct net {
    tb_tensor *w, *b, *v;
} net;

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    const net *p = arg;
    tb_tensor *h = tb_linear(in[0], p->w, p->b);
    tb_tensor *g = tb_add(tb_mul(h, h), tb_neg(h));
    tb_tensor *f = tb_reshape(g, 2, (int64_t[]){tb_tensor_dim(g, 0) * 4, 2});
    tb_tensor *s = tb_reshape(tb_sum_axis(f, -1, false), 2, (int64_t[]){tb_tensor_dim(g, 0), 4});
    return tb_matmul(tb_add(s, tb_scalar(TB_F32, 0.5)), tb_transpose(p->v, 0, 1));
}

static net make_net(void) { return (net){weight("w", 8, 5), weight("b", 8, 1), weight("v", 3, 4)}; }

static tb_graph *capture(net *p)
{
    tb_graph *g;
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1,
                         &(tb_capture_input){"x", TB_F32, 2, {-1, 5}}, forward, p, &g));
    return g;
}

static void remove_folder(const char *dir)
{
    for (const char *const *f =
             (const char *const[]){"graph.tbir", "weights.safetensors", "golden.safetensors", "model.yaml", NULL};
         *f; f++) {
        char *path = tb_asprintf("%s/%s", dir, *f);
        remove(path);
        tb_free(path);
    }
    remove(dir);
}

static void the_text_parses_back_to_the_same_bytes(void **state)
{
    (void)state;
    net p = make_net();
    tb_graph *g = capture(&p), *again;
    char dir[] = "/tmp/tb_graph_XXXXXX";
    assert_non_null(mkdtemp(dir));
    assert_ok(tb_graph_save(g, dir));
    assert_ok(tb_graph_load(dir, &again));
    tb_text a = {0}, b = {0};
    tb_graph_dump(g, &a);
    tb_graph_dump(again, &b);
    assert_string_equal(tb_text_str(&a), tb_text_str(&b));
    assert_non_null(strstr(a.data, "f32[N, 8] = linear(%0, "));
    assert_non_null(strstr(a.data, "dims=[4*N, 2]"));
    tb_text_free(&a);
    tb_text_free(&b);
    tb_graph_free(g);
    tb_graph_free(again);
    remove_folder(dir);
}

static void runs_at_any_batch_give_the_bits_of_eager_execution(void **state)
{
    net p = make_net();
    tb_exec *e;
    tb_session *s;
    assert_ok(tb_exec_create(capture(&p), &e));
    assert_ok(tb_session_create(e, *state, &s));
    for (int64_t n = 0; n < 40; n += n < 3 ? 1 : 9) {
        float x[64 * 5], y[64 * 3], z[64 * 3];
        for (int64_t i = 0; i < n * 5; i++) x[i] = (float)tb_random_normal(1, 1, (uint64_t)i);
        assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){y}));
        tb_tensor *in = tb_tensor_from(TB_F32, 2, (int64_t[]){n, 5}, x);
        assert_ok(tb_tensor_read(forward(&p, 1, &in), z, sizeof *z * (size_t)n * 3));
        assert_memory_equal(y, z, sizeof *z * (size_t)n * 3);
    }
    tb_session_free(s);
    tb_exec_free(e);
}

static void a_planned_run_allocates_nothing(void **state)
{
    net p = make_net();
    tb_exec *e;
    tb_session *s;
    tb_mem_stats before, after;
    int64_t n = 33;
    float x[33 * 5] = {0}, y[33 * 3];
    assert_ok(tb_exec_create(capture(&p), &e));
    assert_ok(tb_session_create(e, *state, &s));
    tb_plan_stats stats;
    assert_ok(tb_session_plan_stats(s, &n, &stats));
    tb_heap_stats(tb_ctx_heap(*state), &before);
    for (int i = 0; i < 3; i++) assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){y}));
    tb_heap_stats(tb_ctx_heap(*state), &after);
    assert_int_equal(after.requests, before.requests);
    tb_session_free(s);
    tb_exec_free(e);
}

static void an_artefact_runs_from_its_folder_and_checks_itself(void **state)
{
    net p = make_net();
    tb_graph *g = capture(&p);
    char dir[] = "/tmp/tb_artefact_XXXXXX";
    tb_artefact *a;
    tb_session *s;
    tb_artefact_info info = {.name = "net", .max_batch = 64, .n_labels = 3,
                             .labels = (const char *[]){"a", "b: \"c\"", ""},
                             .n_facts = 1, .facts = (const char *[]){"data", "none"}};
    assert_non_null(mkdtemp(dir));
    assert_ok(tb_artefact_save(g, &info, 16, dir));
    tb_graph_free(g);
    assert_ok(tb_artefact_load(dir, &a));
    assert_string_equal(tb_artefact_info_of(a)->labels[1], "b: \"c\"");
    assert_int_equal(tb_artefact_info_of(a)->max_batch, 64);
    assert_ok(tb_session_create(tb_artefact_exec(a), *state, &s));
    assert_ok(tb_artefact_check(a, s));
    tb_tensor *w = tb_exec_graph(tb_artefact_exec(a))->values[1].constant; /* a weight goes bad */
    float *data = tb_tensor_host(w);
    data[0] += 100;
    tb_tensor_touch(w);
    assert_fails(tb_artefact_check(a, s), TB_ERR_PARITY, "differs from the stored answers");
    tb_session_free(s);
    tb_artefact_free(a);
    remove_folder(dir);
}

/* What model.yaml says must be what the graph is. */
static void a_description_of_another_graph_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *edit, *message;
    } wrong[] = {
        {"s/f32\\[N, 5\\]/f32[N, 6]/", "inputs: 'x' is f32[N, 6] here, but graph.tbir has 'x', f32[N, 5]"},
        {"s/\"y\":/\"z\":/", "outputs: 'z' is f32[N, 3] here, but graph.tbir has 'y', f32[N, 3]"},
        {"s/\"outputs\"/\"others\"/", "'outputs' must be a map of the graph's 1"},
        {"s/\"a\",//", "2 labels, but output 'y' has 3 classes"},
    };
    net p = make_net();
    tb_graph *g = capture(&p);
    tb_artefact *a;
    tb_artefact_info info = {
        .name = "net", .max_batch = 1, .vocabulary = "bytes", .n_labels = 2, .labels = (const char *[]){"a", "b", "c"}};
    char dir[] = "/tmp/tb_artefact_XXXXXX", command[256];
    assert_non_null(mkdtemp(dir));
    assert_fails(tb_artefact_save(g, &info, 2, dir), TB_ERR_CONFIG, "2 labels, but output 'y' has 3 classes");
    info.n_labels = 3;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_ok(tb_artefact_save(g, &info, 2, dir));
        assert_ok(tb_artefact_load(dir, &a));
        assert_string_equal(tb_artefact_info_of(a)->vocabulary, "bytes");
        tb_artefact_free(a);
        snprintf(command, sizeof command, "sed -i '%s' %s/model.yaml", wrong[i].edit, dir);
        assert_int_equal(system(command), 0);
        assert_fails(tb_artefact_load(dir, &a), TB_ERR_CONFIG, wrong[i].message);
    }
    tb_graph_free(g);
    remove_folder(dir);
}

enum { STEPS = 3, HEADS = 2, WIDTH = 4 };

/* Attention over heads that lie as [N, T, H, D] leaves its result as its operands lie. */
static tb_tensor *attended(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    tb_tensor *heads = tb_permute(in[0], 4, (int64_t[]){0, 2, 1, 3});
    return tb_scaled_dot_product_attention(heads, heads, heads, NULL);
}

static void an_output_that_lies_in_another_order_is_put_in_order(void **state)
{
    enum { N = 2, SIZE = N * STEPS * HEADS * WIDTH };
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    float x[SIZE], eager[SIZE], got[SIZE];
    for (int i = 0; i < SIZE; i++) x[i] = (float)tb_random_normal(8, 1, (uint64_t)i);
    tb_tensor *in = tb_tensor_from(TB_F32, 4, (int64_t[]){N, STEPS, HEADS, WIDTH}, x);
    assert_ok(tb_tensor_read(attended(NULL, 1, &in), eager, sizeof eager));
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1,
                         &(tb_capture_input){"x", TB_F32, 4, {-1, STEPS, HEADS, WIDTH}}, attended, NULL, &g));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, *state, &s));
    assert_ok(tb_session_run(s, &(int64_t){N}, (const void *[]){x}, (void *[]){got}));
    assert_memory_equal(got, eager, sizeof got);
    tb_session_free(s);
    tb_exec_free(e);
}

static tb_tensor *pooled(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_max_pool2d(in[0], &(tb_pool2d_opts){.kernel = {2, 2}});
}

/* Eager pooling keeps where the maxima were, for a gradient; the graph does not, and gives the same maxima. */
static void hidden_results_that_nobody_reads_are_left_out(void **state)
{
    enum { N = 3, SIDE = 37, POOLED = SIDE / 2, SIZE = N * SIDE * SIDE };
    static float x[SIZE], eager[N * POOLED * POOLED], got[N * POOLED * POOLED];
    const float odd[] = {NAN, -0.0f, 0.0f, INFINITY, -INFINITY};
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    tb_plan_stats stats;
    for (int i = 0; i < SIZE; i++)
        x[i] = i % 3 ? (float)tb_random_normal(8, 2, (uint64_t)i) : odd[tb_random_below(8, 3, (uint64_t)i, 5)];
    tb_tensor *in = tb_tensor_from(TB_F32, 4, (int64_t[]){N, 1, SIDE, SIDE}, x);
    assert_ok(tb_tensor_read(pooled(NULL, 1, &in), eager, sizeof eager));
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 4, {-1, 1, SIDE, SIDE}},
                         pooled, NULL, &g));
    assert_ok(tb_exec_create(g, &e));
    for (int isa = (int)tb_isa_detect(); isa >= TB_ISA_SCALAR; isa--) {
        tb_ctx_limit_kernels(*state, (tb_isa)isa, false);
        assert_ok(tb_session_create(e, *state, &s));
        assert_ok(tb_session_run(s, &(int64_t){N}, (const void *[]){x}, (void *[]){got}));
        assert_memory_equal(got, eager, sizeof got);
        assert_ok(tb_session_plan_stats(s, &(int64_t){N}, &stats));
        assert_int_equal(stats.planned_bytes, 0);
        tb_session_free(s);
    }
    tb_exec_free(e);
}

static tb_tensor *peeks(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    float x;
    tb_status st = tb_item_f32(tb_sum(in[0], 0, NULL, false), &x);
    return st == TB_OK ? tb_mul(in[0], tb_scalar(TB_F32, (double)x)) : tb_poison();
}

static tb_tensor *branches(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_tensor_dim(in[0], 0) > 10 ? tb_neg(in[0]) : tb_mul(in[0], in[0]);
}

static tb_tensor *clamps_by_size(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_clamp(in[0], 0, 1.0 / (double)tb_tensor_dim(in[0], 0));
}

static tb_tensor *shows_a_half(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    const int64_t dims[] = {tb_tensor_dim(in[0], 0), 2};
    return tb_neg(tbi_tensor_view(in[0], TB_F32, 2, dims, in[0]->strides, 0));
}

static void what_a_graph_cannot_hold_is_refused(void **state)
{
    (void)state;
    tb_graph *g;
    tb_capture_input x = {"x", TB_F32, 2, {-1, 5}};
    assert_int_not_equal(tb_capture("g", 1, (const char *[]){"N"}, 1, &x, peeks, NULL, &g), TB_OK);
    assert_non_null(strstr(tb_error_message(), "the value of the result of sum"));
    assert_fails(tb_capture("g", 1, (const char *[]){"N"}, 1, &x, branches, NULL, &g), TB_ERR_UNSUPPORTED,
                 "other ops at another size");
    assert_fails(tb_capture("g", 1, (const char *[]){"N"}, 1, &x, clamps_by_size, NULL, &g), TB_ERR_UNSUPPORTED,
                 "hi of clamp changes with the size");
    assert_int_not_equal(tb_capture("g", 1, (const char *[]){"N"}, 1, &x, shows_a_half, NULL, &g), TB_OK);
    assert_non_null(strstr(tb_error_message(), "in a way that no op made"));
}

static tb_tensor *cuts_rows(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_neg(tb_slice(in[0], 0, 0, 20, 1));
}

/* Below 20 rows the slice is all of them, as it was where the graph was captured. */
static void a_size_at_which_types_do_not_hold_is_refused(void **state)
{
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    float x[30] = {0}, y[30];
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 1, {-1}}, cuts_rows, NULL,
                         &g));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, *state, &s));
    assert_ok(tb_session_run(s, &(int64_t){20}, (const void *[]){x}, (void *[]){y}));
    assert_fails(tb_session_run(s, &(int64_t){30}, (const void *[]){x}, (void *[]){y}), TB_ERR_SHAPE,
                 "slice makes [20], which is not its type");
    tb_session_free(s);
    tb_exec_free(e);
}


/* A new plan is tried on zeros, from which nothing can be drawn. */
static void ops_that_refuse_zeros_run_on_what_they_take(void **state)
{
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    float p[3] = {0, 1, 0};
    int64_t y[1] = {7};
    tb_tensor *key = tb_tensor_from(TB_I64, 1, (int64_t[]){3}, (int64_t[]){1, 2, 0});
    assert_ok(tb_graph_create("g", &g));
    int in[2], out[TB_MAX_OUT];
    assert_ok(tb_graph_constant(g, "key", key, &in[0]));
    assert_ok(tb_graph_input(g, "p", TB_F32, 2, (tb_dim[]){tb_dim_of(1), tb_dim_of(3)}, &in[1]));
    assert_ok(tb_graph_node(g, tb_op_find("multinomial"), &(int64_t){1}, 0, NULL, 2, in, out));
    assert_ok(tb_graph_output(g, out[0], "y"));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, *state, &s));
    assert_ok(tb_session_run(s, NULL, (const void *[]){p}, (void *[]){y}));
    assert_int_equal(y[0], 1);
    tb_session_free(s);
    tb_exec_free(e);
}

/* tb_detach makes no call: its result must not become a constant. */
static tb_tensor *detaches(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    return tb_detach(tb_add(tb_detach(in[0]), tb_detach(tb_neg(tb_mul(in[0], in[0])))));
}

static void what_is_detached_stays_a_value(void **state)
{
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    float x[5] = {1, 2, 3, 4, 5}, y[5];
    assert_ok(tb_capture("g", 0, NULL, 1, &(tb_capture_input){"x", TB_F32, 1, {5}}, detaches, NULL, &g));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, *state, &s));
    assert_ok(tb_session_run(s, NULL, (const void *[]){x}, (void *[]){y}));
    for (int i = 0; i < 5; i++) assert_near(y[i], x[i] - x[i] * x[i], 0);
    tb_session_free(s);
    tb_exec_free(e);
}

/* What a larger batch could not get, a smaller one gets back; and every failed allocation is one error. */
static void a_session_survives_every_failed_allocation(void **state)
{
    net p = make_net();
    tb_exec *e;
    tb_session *s;
    float *x = tb_calloc(5 * 4096, sizeof *x), *y = tb_calloc(3 * 4096, sizeof *y), first[6], again[6];
    for (int i = 0; i < 10; i++) x[i] = (float)i / 7;
    assert_ok(tb_exec_create(capture(&p), &e));
    assert_ok(tb_session_create(e, *state, &s));
    assert_ok(tb_session_run(s, &(int64_t){2}, (const void *[]){x}, (void *[]){first}));
    tb_status st = TB_ERR_OOM;
    int n = 0;
    for (; st != TB_OK; n++) {
        tb_heap_fail_at(tb_ctx_heap(*state), n + 1);
        st = tb_session_run(s, &(int64_t){4096}, (const void *[]){x}, (void *[]){y});
        tb_heap_fail_at(tb_ctx_heap(*state), 0);
        if (st != TB_OK) assert_int_equal(st, TB_ERR_OOM);
        assert_ok(tb_session_run(s, &(int64_t){2}, (const void *[]){x}, (void *[]){again}));
        assert_memory_equal(again, first, sizeof first);
    }
    assert_true(n > 3);
    tb_free(x);
    tb_free(y);
    tb_session_free(s);
    tb_exec_free(e);
}

static tb_tensor *no_constants(void *arg, const char *name)
{
    (void)arg, (void)name;
    return tb_zeros(TB_F32, 2, (int64_t[]){3, 4});
}

static void broken_texts_are_refused_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } broken[] = {
        {"graph g(N) {\n  %0 : f32[N] = input \"x\"\n  %1 : f32[N] = nge(%0)\n  output %1 \"y\"\n}\n",
         "nearest: 'neg'"},
        {"graph g(N) {\n  %0 : f32[N] = input \"x\"\n  %1 : f32[M] = neg(%0)\n}\n", ":3:"},
        {"graph g(N) {\n  %0 : f32[N] = input \"x\"\n  %1 : f32[4] = neg(%0)\n  output %1 \"y\"\n}\n",
         "'neg' is written as f32[4], but makes f32[N]"},
        {"graph g() {\n  %0 : f32[2] = neg(%0)\n}\n", "before it is made"},
        {"graph g() {\n  %0 : f32[2] = const \"c\"\n  output %0 \"y\"\n}\n",
         "'c' is written as f32[2], but the weights hold f32[3, 4]"},
        {"graph g() {\n", "ends inside"},
        {"graph g() {\n  %0 : f32[2] = input \"x\"\n  %1 : i64[2] = input \"i\"\n  %2 : i64[2] = add(%0, %1)\n}\n",
         "cast them"},
        {"graph g() {\n  %0 : i64[2] = input \"x\"\n  %1 : i64[2] = exp(%0)\n}\n", "cast them"},
        {"graph g() {\n  %0 : f32[2] = input \"x\"\n  %1 : f32[2] = accumulate(%0, %0) {overwrite=false}\n}\n",
         "writes in place"},
        {"graph g() {\n  %0 : f32[2] = input \"x\"\n  %1 : f32[2] = add(%0)\n}\n", "another number of operands"},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        tb_graph *g;
        assert_int_not_equal(tb_graph_parse(broken[i].text, strlen(broken[i].text), "t", no_constants, NULL, &g),
                             TB_OK);
        if (!strstr(tb_error_message(), broken[i].message)) fail_msg("%zu: %s", i, tb_error_message());
    }
}

static void plans_never_overlap_and_stay_near_the_bound(void **state)
{
    (void)state;
    for (uint64_t trial = 0; trial < 300; trial++) {
        buffer b[24];
        int n = 1 + (int)tb_random_below(trial, 1, 0, 24);
        for (int i = 0; i < n; i++) {
            int first = (int)tb_random_below(trial, 2, (uint64_t)i, 30);
            b[i] = (buffer){.bytes = 1 + tb_random_below(trial, 3, (uint64_t)i, 5000), .first = first,
                            .last = first + (int)tb_random_below(trial, 4, (uint64_t)i, 8)};
        }
        size_t total, naive, bound;
        assert_ok(tbi_plan_memory(b, n, &total, &naive, &bound));
        assert_true(bound <= total && total <= naive);
        for (int i = 0; i < n; i++)
            for (int k = 0; k < i; k++)
                if (b[i].first <= b[k].last && b[k].first <= b[i].last)
                    assert_true(b[i].offset + b[i].bytes <= b[k].offset || b[k].offset + b[k].bytes <= b[i].offset);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(the_text_parses_back_to_the_same_bytes),
        ctx_test(runs_at_any_batch_give_the_bits_of_eager_execution),
        ctx_test(a_planned_run_allocates_nothing),
        ctx_test(an_output_that_lies_in_another_order_is_put_in_order),
        ctx_test(hidden_results_that_nobody_reads_are_left_out),
        ctx_test(an_artefact_runs_from_its_folder_and_checks_itself),
        ctx_test(a_description_of_another_graph_is_refused),
        ctx_test(what_a_graph_cannot_hold_is_refused),
        ctx_test(what_is_detached_stays_a_value),
        ctx_test(a_size_at_which_types_do_not_hold_is_refused),
        ctx_test(ops_that_refuse_zeros_run_on_what_they_take),
        ctx_test(a_session_survives_every_failed_allocation),
        ctx_test(broken_texts_are_refused_with_their_line),
        ctx_test(plans_never_overlap_and_stay_near_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
