/* A two-layer network in integers: close to f32, the same bits on every ISA, u8 between the layers. */
#include "tb_test.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_quant.h"
#include "tb_rng.h"

enum { IN = 37, HIDDEN = 50, OUT = 10, ROWS = 64 };

static tb_tensor *random_tensor(const char *name, int rank, const int64_t *dims, double size)
{
    float x[HIDDEN * HIDDEN];
    int64_t n = rank == 2 ? dims[0] * dims[1] : dims[0];
    for (int64_t i = 0; i < n; i++) x[i] = (float)(size * tb_random_normal(2, (uint64_t)name[0] * 256 + (uint64_t)name[1], (uint64_t)i));
    tb_tensor *t = tb_tensor_from(TB_F32, rank, dims, x);
    tb_tensor_set_name(t, name);
    return t;
}

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    (void)n;
    tb_tensor *x = tb_mul(in[0], tb_scalar(TB_F32, 2));
    return tb_linear(tb_relu(tb_linear(x, p[0], p[1])), p[2], p[3]);
}

static tb_graph *capture(tb_tensor **p)
{
    tb_graph *g;
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 2, {-1, IN}}, forward, p, &g));
    return g;
}

static void run(tb_graph *g, tb_ctx *ctx, const float *x, float *y, tb_ranges *ranges)
{
    tb_exec *e;
    tb_session *s;
    int64_t n = ROWS;
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    if (ranges) {
        assert_ok(tb_ranges_create(g, ranges));
        tb_ranges_observe(ranges, s);
    }
    assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){y}));
    tb_session_free(s);
    tb_exec_free(e);
}

static void integers_stay_close_and_agree_between_isas(void **state)
{
    (void)state;
    tb_tensor *p[4] = {random_tensor("w1", 2, (int64_t[]){HIDDEN, IN}, 0.2), random_tensor("b1", 1, (int64_t[]){HIDDEN}, 0.5),
                       random_tensor("w2", 2, (int64_t[]){OUT, HIDDEN}, 0.2), random_tensor("b2", 1, (int64_t[]){OUT}, 0.5)};
    static float x[ROWS * IN], exact[ROWS * OUT], first[ROWS * OUT], y[ROWS * OUT];
    tb_ranges ranges;
    tb_quant_report report;
    for (int i = 0; i < ROWS * IN; i++) x[i] = (float)tb_random_normal(1, 1, (uint64_t)i);
    run(capture(p), *state, x, exact, &ranges);
    for (int isa = TB_ISA_SCALAR; isa <= (int)tb_isa_detect(); isa++) {
        tb_ctx *ctx;
        tb_graph *g = capture(p);
        assert_ok(tb_quantize_graph(g, &ranges, &report));
        assert_int_equal(report.n_quantized, 2);
        assert_near(report.int8_macs / report.macs, 1, 0);
        tb_text text = {0};
        tb_graph_dump(g, &text);
        assert_non_null(strstr(tb_text_str(&text), "u8[N, 50] = linear_u8s8("));
        assert_non_null(strstr(tb_text_str(&text), "f32[N, 10] = linear_u8s8("));
        assert_null(strstr(tb_text_str(&text), "relu"));
        tb_text_free(&text);
        assert_ok(tb_ctx_create(&(tb_ctx_config){0}, &ctx));
        tb_ctx_limit_kernels(ctx, (tb_isa)isa, false);
        run(g, ctx, x, y, NULL);
        tb_ctx_destroy(ctx);
        if (isa == TB_ISA_SCALAR) memcpy(first, y, sizeof y);
        assert_memory_equal(first, y, sizeof y);
    }
    double error = 0, size = 0;
    for (int i = 0; i < ROWS * OUT; i++) {
        error += ((double)y[i] - (double)exact[i]) * ((double)y[i] - (double)exact[i]);
        size += (double)exact[i] * (double)exact[i];
    }
    assert_true(error > 0);
    assert_true(10 * log10(size / error) > 30); /* SQNR in dB: 8 bits twice */
    tb_ranges_free(&ranges);
}

static void other_graphs_are_refused(void **state)
{
    (void)state;
    tb_tensor *p[4] = {random_tensor("w1", 2, (int64_t[]){HIDDEN, IN}, 1), NULL, random_tensor("w2", 2, (int64_t[]){OUT, HIDDEN}, 1), NULL};
    tb_graph *g = capture(p);
    tb_ranges ranges;
    tb_quant_report report;
    assert_ok(tb_ranges_create(g, &ranges));
    ranges.n_nodes--;
    assert_fails(tb_quantize_graph(g, &ranges, &report), TB_ERR_INVALID, "calibrate the same graph");
    tb_ranges_free(&ranges);
    tb_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(integers_stay_close_and_agree_between_isas), ctx_test(other_graphs_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
