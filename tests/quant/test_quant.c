/* Networks in integers: close to f32, the same bits on every ISA, u8 between the layers. */
#include "tb_test.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_quant.h"
#include "tb_rng.h"

enum { IN = 37, HIDDEN = 50, OUT = 10, ROWS = 64 };

static tb_tensor *random_tensor(const char *name, int rank, const int64_t *dims, double size)
{
    float x[HIDDEN * HIDDEN];
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(size * tb_random_normal(2, (uint64_t)name[0] * 256 + (uint64_t)name[1], (uint64_t)i));
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
    assert_ok(
        tb_capture("net", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 2, {-1, IN}}, forward, p, &g));
    return g;
}

static void run(tb_graph *g, tb_ctx *ctx, int64_t n, const void *x, float *y, tb_ranges *ranges)
{
    tb_exec *e;
    tb_session *s;
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    if (ranges) {
        assert_ok(tb_ranges_create(g, TB_OBSERVE_MINMAX, ranges));
        tb_ranges_observe(ranges, s);
    }
    assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){y}));
    tb_session_free(s);
    tb_exec_free(e);
}

/* Signal to noise of the integers, dB: above 30, as 8 bits allow in every layer. */
static double sqnr(const float *y, const float *exact, int n)
{
    double error = 0, size = 0;
    for (int i = 0; i < n; i++) {
        error += ((double)y[i] - (double)exact[i]) * ((double)y[i] - (double)exact[i]);
        size += (double)exact[i] * (double)exact[i];
    }
    assert_true(error > 0);
    return 10 * log10(size / error);
}

static void integers_stay_close_and_agree_between_isas(void **state)
{
    (void)state;
    tb_tensor *p[4] = {
        random_tensor("w1", 2, (int64_t[]){HIDDEN, IN}, 0.2), random_tensor("b1", 1, (int64_t[]){HIDDEN}, 0.5),
        random_tensor("w2", 2, (int64_t[]){OUT, HIDDEN}, 0.2), random_tensor("b2", 1, (int64_t[]){OUT}, 0.5)};
    static float x[ROWS * IN], exact[ROWS * OUT], first[ROWS * OUT], y[ROWS * OUT];
    tb_ranges ranges;
    tb_quant_report report;
    for (int i = 0; i < ROWS * IN; i++) x[i] = (float)tb_random_normal(1, 1, (uint64_t)i);
    run(capture(p), *state, ROWS, x, exact, &ranges);
    for (int isa = TB_ISA_SCALAR; isa <= (int)tb_isa_detect(); isa++) {
        tb_ctx *ctx;
        tb_graph *g = capture(p);
        assert_ok(tb_quantize_graph(g, &ranges, NULL, &report));
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
        run(g, ctx, ROWS, x, y, NULL);
        tb_ctx_destroy(ctx);
        if (isa == TB_ISA_SCALAR) memcpy(first, y, sizeof y);
        assert_memory_equal(first, y, sizeof y);
    }
    assert_true(sqnr(y, exact, ROWS * OUT) > 30);
    tb_ranges_free(&ranges);
}

/* A channel whose weights have died away keeps its bias; values too small for a step that f32 can divide by are 0. */
static void dead_channels_keep_their_bias(void **state)
{
    static const float sizes[] = {1e-5f, 1e-12f, 1e-30f, 1e-39f};
    static float x[ROWS * IN], tiny[ROWS * IN], exact[ROWS * OUT], y[ROWS * OUT];
    for (int i = 0; i < ROWS * IN; i++) {
        x[i] = (float)tb_random_normal(1, 1, (uint64_t)i);
        tiny[i] = x[i] * 1e-40f;
    }
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int small_x = 0; small_x < 2; small_x++) {
            tb_tensor *p[4] = {
                random_tensor("w1", 2, (int64_t[]){HIDDEN, IN}, 0.2), random_tensor("b1", 1, (int64_t[]){HIDDEN}, 0.5),
                random_tensor("w2", 2, (int64_t[]){OUT, HIDDEN}, 0.2), random_tensor("b2", 1, (int64_t[]){OUT}, 0.5)};
            float *w[2] = {tb_tensor_host(p[0]), tb_tensor_host(p[2])};
            for (int j = 0; j < HIDDEN; j += 3)
                for (int i = 0; i < IN; i++) w[0][j * IN + i] *= sizes[k];
            for (int j = 0; j < OUT; j += 3)
                for (int i = 0; i < HIDDEN; i++) w[1][j * HIDDEN + i] *= sizes[k];
            tb_ranges ranges;
            tb_quant_report report;
            run(capture(p), *state, ROWS, small_x ? tiny : x, exact, &ranges);
            tb_graph *g = capture(p);
            assert_ok(tb_quantize_graph(g, &ranges, NULL, &report));
            assert_int_equal(report.n_quantized, 2);
            run(g, *state, ROWS, small_x ? tiny : x, y, NULL);
            assert_true(sqnr(y, exact, ROWS * OUT) > 30);
            tb_ranges_free(&ranges);
        }
}

/* ---- a convolutional network from bytes of images ---- */
enum { SIDE = 12, PIXELS = 2 * SIDE * SIDE, IMAGES = 16 };

static tb_tensor *image_forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    const tb_conv2d_opts padded = {.pad = {1, 1}};
    (void)n;
    int64_t rows = tb_tensor_dim(in[0], 0);
    tb_tensor *x = tb_sub(tb_mul(tb_cast(in[0], TB_F32), tb_scalar(TB_F32, 0.02)), tb_scalar(TB_F32, 1.3));
    x = tb_reshape(x, 4, (int64_t[]){rows, 2, SIDE, SIDE});
    x = tb_max_pool2d(tb_relu(tb_conv2d(x, p[0], p[1], &padded)), &(tb_pool2d_opts){.kernel = {2, 2}});
    x = tb_relu(tb_conv2d(x, p[2], NULL, NULL));
    return tb_linear(tb_reshape(x, 2, (int64_t[]){rows, -1}), p[3], NULL);
}

static tb_graph *capture_images(tb_tensor **p)
{
    tb_graph *g;
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_U8, 2, {-1, PIXELS}},
                         image_forward, p, &g));
    return g;
}

static void a_convolutional_network_stays_in_integers(void **state)
{
    tb_tensor *p[4] = {
        random_tensor("w1", 4, (int64_t[]){20, 2, 3, 3}, 0.2), random_tensor("b1", 1, (int64_t[]){20}, 0.5),
        random_tensor("w2", 4, (int64_t[]){7, 20, 3, 3}, 0.1), random_tensor("w3", 2, (int64_t[]){OUT, 7 * 16}, 0.2)};
    static uint8_t x[IMAGES * PIXELS];
    static float exact[IMAGES * OUT], first[IMAGES * OUT], y[IMAGES * OUT];
    static const char *const nodes[] = {"u8[N, 12, 12, 20] = conv2d_u8s8(", "u8[N, 6, 6, 20] = max_pool2d_u8(",
                                        "u8[N, 4, 4, 7] = conv2d_u8s8(", "f32[N, 10] = linear_u8s8("};
    static const char *const gone[] = {"= quantize", "= relu", "= cast", "= mul", "= max_pool2d("};
    tb_ranges ranges;
    tb_quant_report report;
    for (int i = 0; i < IMAGES * PIXELS; i++) x[i] = (uint8_t)tb_random_below(1, 2, (uint64_t)i, 256);
    run(capture_images(p), *state, IMAGES, x, exact, &ranges);
    for (int isa = TB_ISA_SCALAR; isa <= (int)tb_isa_detect(); isa++) {
        tb_ctx *ctx;
        tb_graph *g = capture_images(p);
        assert_ok(tb_quantize_graph(g, &ranges, NULL, &report));
        assert_int_equal(report.n_quantized, 3);
        assert_int_equal(report.n_layers, 3);
        assert_near(report.int8_macs / report.macs, 1, 0);
        tb_text text = {0};
        tb_graph_dump(g, &text);
        for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
            assert_non_null(strstr(tb_text_str(&text), nodes[i]));
        for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) assert_null(strstr(tb_text_str(&text), gone[i]));
        tb_text_free(&text);
        assert_ok(tb_ctx_create(&(tb_ctx_config){0}, &ctx));
        tb_ctx_limit_kernels(ctx, (tb_isa)isa, false);
        run(g, ctx, IMAGES, x, y, NULL);
        tb_ctx_destroy(ctx);
        if (isa == TB_ISA_SCALAR) memcpy(first, y, sizeof y);
        assert_memory_equal(first, y, sizeof y);
    }
    assert_true(sqnr(y, exact, IMAGES * OUT) > 30);
    tb_ranges_free(&ranges);
}

/* ---- a residual network with depthwise convolutions and averages: nothing but the logits is f32 ---- */
enum { CHANNELS = 24 };

static tb_tensor *residual_forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    const tb_conv2d_opts padded = {.pad = {1, 1}}, depthwise = {.pad = {1, 1}, .groups = CHANNELS},
                         half = {.stride = {2, 2}};
    (void)n;
    int64_t rows = tb_tensor_dim(in[0], 0);
    tb_tensor *x = tb_sub(tb_mul(tb_cast(in[0], TB_F32), tb_scalar(TB_F32, 0.02)), tb_scalar(TB_F32, 1.3));
    x = tb_relu(tb_conv2d(tb_reshape(x, 4, (int64_t[]){rows, 2, SIDE, SIDE}), p[0], p[1], &padded));
    x = tb_relu(tb_add(tb_conv2d(tb_relu(tb_conv2d(x, p[2], NULL, &depthwise)), p[3], NULL, NULL), x));
    x = tb_add(tb_conv2d(x, p[4], NULL, &half),
               tb_conv2d(tb_max_pool2d(x, &(tb_pool2d_opts){.kernel = {2, 2}}), p[5], NULL, NULL));
    return tb_linear(tb_mean(x, 2, (int64_t[]){-1, -2}, false), p[6], NULL);
}

static tb_graph *capture_residual(tb_tensor **p)
{
    tb_graph *g;
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_U8, 2, {-1, PIXELS}},
                         residual_forward, p, &g));
    return g;
}

/* The kernels that ran, in order. */
static void note_kernel(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    (void)node;
    (void)ns;
    tb_text_add(arg, "%s ", call->kernel);
}

static void residual_networks_stay_in_integers(void **state)
{
    tb_tensor *p[7] = {random_tensor("w1", 4, (int64_t[]){CHANNELS, 2, 3, 3}, 0.2),
                       random_tensor("b1", 1, (int64_t[]){CHANNELS}, 0.5),
                       random_tensor("w2", 4, (int64_t[]){CHANNELS, 1, 3, 3}, 0.4),
                       random_tensor("w3", 4, (int64_t[]){CHANNELS, CHANNELS, 1, 1}, 0.2),
                       random_tensor("w4", 4, (int64_t[]){CHANNELS, CHANNELS, 1, 1}, 0.2),
                       random_tensor("w5", 4, (int64_t[]){CHANNELS, CHANNELS, 1, 1}, 0.1),
                       random_tensor("w6", 2, (int64_t[]){OUT, CHANNELS}, 0.5)};
    static uint8_t x[IMAGES * PIXELS];
    static float exact[IMAGES * OUT], first[IMAGES * OUT], y[IMAGES * OUT];
    static const char *const nodes[] = {
        "u8[N, 12, 12, 24] = conv2d_u8s8(", "u8[N, 12, 12, 24] = add_u8(", "u8[N, 6, 6, 24] = max_pool2d_u8(",
        "u8[N, 6, 6, 24] = add_u8(",        "u8[N, 24] = mean_u8(",        "f32[N, 10] = linear_u8s8("};
    static const char *const gone[] = {"= quantize", "= relu", "= cast", "= add(", "= sum(", "= conv2d("};
    tb_ranges ranges;
    tb_quant_report report;
    tb_text ran[TB_ISA_AVX512VNNI + 1] = {0};
    for (int i = 0; i < IMAGES * PIXELS; i++) x[i] = (uint8_t)tb_random_below(1, 2, (uint64_t)i, 256);
    run(capture_residual(p), *state, IMAGES, x, exact, &ranges);
    for (int isa = TB_ISA_SCALAR; isa <= TB_ISA_AVX512VNNI && isa <= (int)tb_isa_detect(); isa++) {
        tb_ctx *ctx;
        tb_exec *e;
        tb_session *s;
        int64_t n = IMAGES;
        tb_graph *g = capture_residual(p);
        assert_ok(tb_quantize_graph(g, &ranges, NULL, &report));
        assert_int_equal(report.n_quantized, 6);
        assert_near(report.int8_macs / report.macs, 1, 0);
        tb_text text = {0};
        tb_graph_dump(g, &text);
        for (size_t i = 0; i < sizeof nodes / sizeof nodes[0]; i++)
            assert_non_null(strstr(tb_text_str(&text), nodes[i]));
        for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++)
            assert_null(strstr(tb_text_str(&text), gone[i]));
        tb_text_free(&text);
        assert_ok(tb_ctx_create(&(tb_ctx_config){0}, &ctx));
        tb_ctx_limit_kernels(ctx, (tb_isa)isa, false);
        assert_ok(tb_exec_create(g, &e));
        assert_ok(tb_session_create(e, ctx, &s));
        tb_session_observe(s, note_kernel, &ran[isa]);
        assert_ok(tb_session_run(s, &n, (const void *[]){x}, (void *[]){y}));
        tb_session_free(s);
        tb_exec_free(e);
        tb_ctx_destroy(ctx);
        if (isa == TB_ISA_SCALAR) memcpy(first, y, sizeof y);
        assert_memory_equal(first, y, sizeof y);
        assert_null(strstr(tb_text_str(&ran[isa]), "ref"));
        for (int other = TB_ISA_SCALAR; other < isa; other++)
            assert_string_not_equal(tb_text_str(&ran[isa]), tb_text_str(&ran[other]));
    }
    for (int isa = TB_ISA_SCALAR; isa <= TB_ISA_AVX512VNNI; isa++) tb_text_free(&ran[isa]);
    assert_true(sqnr(y, exact, IMAGES * OUT) > 20);
    tb_ranges_free(&ranges);
}

/* conv -> sigmoid -> conv -> sigmoid: in the middle an image comes and goes in f32. */
static tb_tensor *island_forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    (void)n;
    tb_tensor *x = tb_sigmoid(tb_conv2d(in[0], p[0], NULL, NULL));
    x = tb_conv2d(tb_conv2d(tb_sigmoid(tb_conv2d(x, p[1], NULL, NULL)), p[2], NULL, NULL), p[3], NULL, NULL);
    return tb_mean(x, 2, (int64_t[]){2, 3}, false);
}

static void a_convolution_between_f32_images_stays_f32(void **state)
{
    tb_tensor *p[4] = {random_tensor("w1", 4, (int64_t[]){3, 2, 3, 3}, 0.2),
                       random_tensor("w2", 4, (int64_t[]){3, 3, 1, 1}, 0.5),
                       random_tensor("w3", 4, (int64_t[]){3, 3, 1, 1}, 0.5),
                       random_tensor("w4", 4, (int64_t[]){3, 3, 1, 1}, 0.5)};
    static float x[IMAGES * PIXELS], y[IMAGES * 3], exact[IMAGES * 3];
    tb_ranges ranges;
    tb_quant_report report;
    tb_graph *g[2];
    for (int i = 0; i < IMAGES * PIXELS; i++) x[i] = (float)tb_random_normal(1, 3, (uint64_t)i);
    for (int i = 0; i < 2; i++)
        assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1,
                             &(tb_capture_input){"x", TB_F32, 4, {-1, 2, SIDE, SIDE}}, island_forward, p,
                             &g[i]));
    run(g[0], *state, IMAGES, x, exact, &ranges);
    assert_ok(tb_quantize_graph(g[1], &ranges, NULL, &report));
    assert_int_equal(report.n_quantized, 2); /* the pair at the end: its image changes once on either side */
    assert_int_equal(report.n_kept, 2);
    assert_string_equal(report.kept[0].reason, "its input has no range");
    assert_string_equal(report.kept[1].reason, "its image comes and goes in f32");
    run(g[1], *state, IMAGES, x, y, NULL);
    assert_true(sqnr(y, exact, IMAGES * 3) > 20);
    tb_ranges_free(&ranges);
}

/* Attention leaves its heads side by side, in another order than the dimensions of its result say. */
enum { HEADS = 2, STEPS = 3, HEAD = 5, WIDTH = HEADS * HEAD };
static tb_tensor *attended_forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    (void)n;
    int64_t rows = tb_tensor_dim(in[0], 0);
    tb_tensor *heads =
        tb_permute(tb_reshape(in[0], 4, (int64_t[]){rows, STEPS, HEADS, HEAD}), 4, (int64_t[]){0, 2, 1, 3});
    tb_tensor *y = tb_permute(tb_scaled_dot_product_attention(heads, heads, heads, NULL), 4, (int64_t[]){0, 2, 1, 3});
    return tb_linear(tb_reshape(y, 3, (int64_t[]){rows, STEPS, WIDTH}), p[0], NULL);
}

static void what_lies_in_another_order_has_a_range(void **state)
{
    tb_tensor *p[] = {random_tensor("w1", 2, (int64_t[]){OUT, WIDTH}, 0.3)};
    static float x[ROWS * STEPS * WIDTH], exact[ROWS * STEPS * OUT], y[ROWS * STEPS * OUT];
    tb_ranges ranges;
    tb_quant_report report;
    tb_graph *g[2];
    for (int i = 0; i < ROWS * STEPS * WIDTH; i++) x[i] = (float)tb_random_normal(1, 6, (uint64_t)i);
    for (int i = 0; i < 2; i++)
        assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1,
                             &(tb_capture_input){"x", TB_F32, 3, {-1, STEPS, WIDTH}}, attended_forward, p, &g[i]));
    run(g[0], *state, ROWS, x, exact, &ranges);
    assert_ok(tb_quantize_graph(g[1], &ranges, NULL, &report));
    assert_int_equal(report.n_quantized, 1);
    run(g[1], *state, ROWS, x, y, NULL);
    assert_true(sqnr(y, exact, ROWS * STEPS * OUT) > 30);
    tb_ranges_free(&ranges);
}

/* Two convolutions, then two linear layers, that share one weight each; their inputs have ranges of their own. */
static tb_tensor *shared_forward(void *arg, int n, tb_tensor *const *in)
{
    tb_tensor **p = arg;
    const tb_conv2d_opts padded = {.pad = {1, 1}};
    (void)n;
    tb_tensor *x = tb_relu(tb_conv2d(tb_relu(in[0]), p[0], p[1], &padded));
    x = tb_mean(tb_relu(tb_conv2d(x, p[0], p[1], &padded)), 2, (int64_t[]){2, 3}, false);
    return tb_linear(tb_relu(tb_linear(x, p[2], NULL)), p[2], NULL);
}

static void layers_may_share_their_weights(void **state)
{
    tb_tensor *p[3] = {random_tensor("w1", 4, (int64_t[]){8, 8, 3, 3}, 0.2),
                       random_tensor("b1", 1, (int64_t[]){8}, 0.5), random_tensor("w2", 2, (int64_t[]){8, 8}, 0.4)};
    static float x[4 * 8 * 36], y[4 * 8], exact[4 * 8];
    static const char *const names[] = {"w1.s8", "w1.offset", "w1.factor.2", "w2.s8", "w2.factor.2"}, *const once[] = {
                                                                                                          "w1.s8.2",
                                                                                                          "w2.s8.2"};
    tb_ranges ranges;
    tb_quant_report report;
    tb_graph *g[3];
    for (int i = 0; i < 4 * 8 * 36; i++) x[i] = (float)tb_random_normal(1, 4, (uint64_t)i);
    for (int i = 0; i < 3; i++)
        assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1, &(tb_capture_input){"x", TB_F32, 4, {-1, 8, 6, 6}},
                             shared_forward, p, &g[i]));
    run(g[0], *state, 4, x, exact, &ranges);
    assert_ok(tb_quantize_graph(g[1], &ranges, NULL, &report));
    assert_int_equal(report.n_quantized, 4);
    tb_text text = {0};
    tb_graph_dump(g[1], &text);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) assert_non_null(strstr(tb_text_str(&text), names[i]));
    for (size_t i = 0; i < sizeof once / sizeof once[0]; i++) assert_null(strstr(tb_text_str(&text), once[i]));
    tb_text_free(&text);
    run(g[1], *state, 4, x, y, NULL);
    assert_true(sqnr(y, exact, 4 * 8) > 20);
    assert_ok(tb_quantize_graph_dynamic(g[2], NULL, &report));
    assert_int_equal(report.n_quantized, 2);
    run(g[2], *state, 4, x, y, NULL);
    assert_true(sqnr(y, exact, 4 * 8) > 30);
    tb_ranges_free(&ranges);
}

static void other_graphs_are_refused(void **state)
{
    (void)state;
    tb_tensor *p[4] = {random_tensor("w1", 2, (int64_t[]){HIDDEN, IN}, 1), NULL,
                       random_tensor("w2", 2, (int64_t[]){OUT, HIDDEN}, 1), NULL};
    tb_graph *g = capture(p);
    tb_ranges ranges;
    tb_quant_report report;
    assert_ok(tb_ranges_create(g, TB_OBSERVE_MINMAX, &ranges));
    ranges.n_nodes--;
    assert_fails(tb_quantize_graph(g, &ranges, NULL, &report), TB_ERR_INVALID, "calibrate the same graph");
    tb_ranges_free(&ranges);
    tb_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(integers_stay_close_and_agree_between_isas),
                                       ctx_test(dead_channels_keep_their_bias),
                                       ctx_test(a_convolutional_network_stays_in_integers),
                                       ctx_test(residual_networks_stay_in_integers),
                                       ctx_test(a_convolution_between_f32_images_stays_f32),
                                       ctx_test(what_lies_in_another_order_has_a_range),
                                       ctx_test(layers_may_share_their_weights),
                                       ctx_test(other_graphs_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
