/* A transformer whose linear layers quantize their input row by row: close to f32, the same bits on every ISA. */
#include "tb_test.h"
#include "tb_model.h"
#include "tb_pass.h"
#include "tb_quant.h"
#include "tb_rng.h"
#include <math.h>

enum { ROWS = 5, CONTEXT = 16, VOCAB = 256, LOGITS = ROWS * CONTEXT * VOCAB };

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    return tb_model_forward(arg, in[0]);
}

static tb_graph *capture(tb_model *m)
{
    tb_graph *g;
    assert_ok(tb_capture("gpt", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_I32, 2, {-1, CONTEXT}},
                         forward, m, &g));
    return g;
}

static void run(tb_graph *g, tb_ctx *ctx, float *logits)
{
    tb_exec *e;
    tb_session *s;
    int64_t n = ROWS;
    int32_t tokens[ROWS * CONTEXT];
    for (int i = 0; i < ROWS * CONTEXT; i++) tokens[i] = (int32_t)tb_random_below(1, 1, (uint64_t)i, VOCAB);
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    assert_ok(tb_session_run(s, &n, (const void *[]){tokens}, (void *[]){logits}));
    tb_session_free(s);
    tb_exec_free(e);
}

static void a_gpt_in_integers_stays_close_and_agrees_between_isas(void **state)
{
    static float exact[LOGITS], y[LOGITS], first[LOGITS];
    tb_model *m;
    tb_quant_report report;
    assert_ok(tb_model_create("gpt:layers=2,width=64,heads=4,context=16", TB_F32, &m));
    run(capture(m), *state, exact);
    for (int isa = TB_ISA_SCALAR; isa <= (int)tb_isa_detect(); isa++) {
        tb_ctx *ctx;
        tb_graph *g = capture(m);
        assert_ok(tb_quantize_graph_dynamic(g, NULL, &report));
        assert_int_equal(report.n_quantized, 9); /* 4 in each block, and the head */
        assert_true(report.int8_macs > 0.9 * report.macs);
        assert_ok(tb_compile(g, NULL, NULL));
        tb_text text = {0};
        tb_graph_dump(g, &text);
        assert_non_null(strstr(tb_text_str(&text), "linear_dynamic_s8"));
        assert_null(strstr(tb_text_str(&text), "gelu_tanh("));
        assert_null(strstr(tb_text_str(&text), "linear("));
        tb_text_free(&text);
        assert_ok(tb_ctx_create(&(tb_ctx_config){.threads = 2}, &ctx));
        tb_ctx_limit_kernels(ctx, (tb_isa)isa, false);
        run(g, ctx, y);
        tb_ctx_destroy(ctx);
        if (isa == TB_ISA_SCALAR) memcpy(first, y, sizeof y);
        assert_memory_equal(first, y, sizeof y);
    }
    double error = 0, size = 0;
    for (int i = 0; i < LOGITS; i++) {
        error += ((double)y[i] - (double)exact[i]) * ((double)y[i] - (double)exact[i]);
        size += (double)exact[i] * (double)exact[i];
    }
    assert_true(error > 0);
    assert_true(10 * log10(size / error) > 30); /* SQNR in dB */
    tb_model_destroy(m);
}

static void a_layer_that_is_kept_stays_f32(void **state)
{
    (void)state;
    tb_model *m;
    tb_quant_report report;
    assert_ok(tb_model_create("gpt:layers=1,width=32,heads=2,context=16", TB_F32, &m));
    tb_graph *g = capture(m);
    bool *keep = tb_calloc((size_t)g->n_nodes, sizeof *keep);
    for (int i = 0; i < g->n_nodes; i++) keep[i] = i == g->n_nodes - 1; /* the head */
    assert_ok(tb_quantize_graph_dynamic(g, keep, &report));
    assert_int_equal(report.n_quantized, 4);
    assert_string_equal(report.kept[report.n_kept - 1].reason, "it costs too much accuracy");
    tb_free(keep);
    tb_graph_free(g);
    tb_model_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(a_gpt_in_integers_stays_close_and_agrees_between_isas),
                                       ctx_test(a_layer_that_is_kept_stays_f32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
