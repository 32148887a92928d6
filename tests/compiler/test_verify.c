/* Verification finds a planted wrong rewrite, by its number, pass and change, and a wrong group; right graphs pass. */
#include "tb_test.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include "tb_verify.h"

enum { WIDTH = TB_RANDOM_GRAPH_WIDTH, ROWS = 33 };
static float x[ROWS * WIDTH];

static void fill(void)
{
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)tb_random_normal(11, 1, (uint64_t)i);
}

static void random_graphs_verify_on_every_isa(void **state)
{
    fill();
    for (int isa = (int)tb_ctx_isa(*state); isa >= (int)TB_ISA_SCALAR; isa--) /* a context's limit only goes down */
        for (uint64_t seed = 0; seed < 100; seed++) {
            tb_graph *g;
            tb_verify_report r;
            int64_t n = (int64_t[]){1, 7, ROWS, 0}[seed % 4];
            assert_ok(tb_random_graph(20000 + seed, &g));
            assert_ok(tb_verify_graph(g, &(tb_compile_opts){.strict = true}, *state, (tb_isa)isa, &n,
                                      (const void *[]){x}, &r));
            assert_true(r.difference == 0 && r.culprit == 0);
            tb_verify_report_free(&r);
            tb_graph_free(g);
        }
}

/* Every sub becomes add, with its operands as they were: wrong wherever b is not 0. */
static tb_status sub_to_add(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        int out[TB_MAX_OUT], in[2];
        if (g->nodes[i].op != &tb_op_sub) continue;
        if (!tb_pass_may_rewrite(r, "sub to add")) return TB_OK;
        memcpy(in, g->nodes[i].in, sizeof in);
        TB_TRY(tb_graph_node(g, &tb_op_add, NULL, 0, NULL, 2, in, out));
        tb_graph_replace(g, g->nodes[i].out[0], out[0]);
    }
    return TB_OK;
}

static tb_tensor *formula(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    tb_tensor *dead = tb_sub(in[0], tb_scalar(TB_F32, 0)); /* adding nothing is right */
    return tb_softmax(tb_sub(tb_softmax(tb_add(dead, in[0]), -1), tb_softmax(in[0], 0)), -1);
}

static void a_planted_wrong_rewrite_is_named(void **state)
{
    static const tb_pass wrong = {.name = "sub_to_add", .doc = "a bug", .run = sub_to_add};
    fill();
    tb_graph *g;
    tb_verify_report r;
    int64_t n = ROWS;
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 2, {-1, WIDTH}}, formula,
                         NULL, &g));
    assert_ok(tb_verify_graph(g, NULL, *state, tb_ctx_isa(*state), &n, (const void *[]){x}, &r));
    tb_verify_report_free(&r);
    assert_fails(
        tb_verify_graph(g, &(tb_compile_opts){.also = &wrong}, *state, tb_ctx_isa(*state), &n, (const void *[]){x}, &r),
        TB_ERR_PARITY, "of pass sub_to_add (-sub +add)");
    assert_string_equal(r.culprit_pass, "sub_to_add");
    assert_true(r.culprit > 0 && r.difference > r.limit);
    tb_verify_report_free(&r);
    tb_graph_free(g);
}

enum { DEEP = 160 };
static tb_tensor *deep(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    tb_tensor *y = in[0];
    for (int i = 0; i < DEEP; i++) y = i % 2 ? tb_tanh(y) : tb_softmax(y, -1);
    return y;
}

static void graphs_of_more_nodes_than_a_node_has_operands_verify(void **state)
{
    tb_graph *g;
    tb_verify_report r;
    int64_t n = ROWS;
    fill();
    assert_ok(
        tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 2, {-1, WIDTH}}, deep, NULL, &g));
    assert_ok(tb_verify_graph(g, NULL, *state, tb_ctx_isa(*state), &n, (const void *[]){x}, &r));
    assert_int_equal(r.n_groups, DEEP);
    tb_verify_report_free(&r);
    tb_graph_free(g);
}

static tb_tensor *halves(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    tb_tensor *half = tb_cast(in[0], TB_F16);
    return tb_relu(tb_linear(tb_tanh(half), arg, NULL));
}

static tb_status more_relu(tb_graph *g, tb_pass_run *r)
{
    for (int i = 0, n = g->n_nodes; i < n; i++) {
        int out[TB_MAX_OUT];
        if (g->nodes[i].op != &tb_op_tanh) continue;
        if (!tb_pass_may_rewrite(r, "wrong shape")) return TB_OK;
        TB_TRY(tb_graph_node(g, &tb_op_relu, NULL, 0, NULL, 1, g->nodes[i].in, out));
        tb_graph_replace(g, g->nodes[i].out[0], out[0]);
    }
    return TB_OK;
}

static void results_of_f16_are_compared(void **state)
{
    static const tb_pass wrong = {.name = "more_relu", .doc = "a bug", .run = more_relu};
    float w[4 * WIDTH];
    tb_graph *g;
    tb_verify_report r;
    int64_t n = ROWS;
    fill();
    for (int i = 0; i < 4 * WIDTH; i++) w[i] = (float)tb_random_normal(11, 2, (uint64_t)i);
    tb_tensor *weight = tb_cast(tb_tensor_from(TB_F32, 2, (int64_t[]){4, WIDTH}, w), TB_F16);
    assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 2, {-1, WIDTH}}, halves,
                         weight, &g));
    assert_ok(tb_verify_graph(g, NULL, *state, tb_ctx_isa(*state), &n, (const void *[]){x}, &r));
    assert_true(r.n_groups >= 3 && r.n_wrong == 0);
    tb_verify_report_free(&r);
    assert_fails(
        tb_verify_graph(g, &(tb_compile_opts){.also = &wrong}, *state, tb_ctx_isa(*state), &n, (const void *[]){x}, &r),
        TB_ERR_PARITY, "of pass more_relu (-tanh +relu)");
    tb_verify_report_free(&r);
    tb_graph_free(g);
}

/* Every row looks at all rows. */
static tb_tensor *attending(void *arg, int n, tb_tensor *const *in)
{
    (void)arg, (void)n;
    tb_tensor *scores = tb_div(tb_matmul(in[0], tb_transpose(in[0], 0, 1)), tb_scalar(TB_F32, 2));
    return tb_matmul(tb_softmax(scores, -1), tb_tanh(in[0]));
}

static void attention_written_out_verifies_on_every_isa(void **state)
{
    fill();
    for (int isa = (int)tb_ctx_isa(*state); isa >= (int)TB_ISA_SCALAR; isa--) {
        tb_graph *g;
        tb_verify_report r;
        int64_t n = ROWS;
        bool is_one_op = false;
        assert_ok(tb_capture("g", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 2, {-1, WIDTH}},
                             attending, NULL, &g));
        assert_ok(tb_verify_graph(g, NULL, *state, (tb_isa)isa, &n, (const void *[]){x}, &r));
        for (int i = 0; i < r.n_groups; i++) is_one_op |= strcmp(r.groups[i].op, "scaled_dot_product_attention") == 0;
        assert_true(is_one_op && r.difference > 0);
        tb_verify_report_free(&r);
        tb_graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ctx_test(graphs_of_more_nodes_than_a_node_has_operands_verify),
        ctx_test(results_of_f16_are_compared),
        ctx_test(random_graphs_verify_on_every_isa),
        ctx_test(attention_written_out_verifies_on_every_isa),
        ctx_test(a_planted_wrong_rewrite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
