/* The trained networks of the tree in integers, each quantized once: the same logits, bit for bit, on every instruction
 * set, by kernels of its own. */
#include "arms.h"
#include "tb_artefact.h"
#include "tb_test.h"
#include "tb_text.h"
#include <stdlib.h>
#include <unistd.h>

static const struct network {
    const char *model, *weights;
    int64_t train_steps;
    double rate, decay; /* what the weights were trained with */
    int64_t rows;       /* of the test images; plain loops take their time */
    int n_layers;       /* products in integers */
} networks[] = {
    {"mlp:widths=784-512-512-10", "mlp", 3000, 0.05, 0.0001, 1000, 3},
    {"cnn", "cnn", 2600, 0.05, 0.0005, 100, 4},
    {"resnet", "resnet", 4700, 0.1, 0.0005, 40, 22},
};
enum { CLASSES = 10 };

typedef struct ran {
    tb_text kernels; /* of all nodes, in order */
    int n_products, n_seen;
} ran;

static void note_kernel(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    ran *r = arg;
    (void)ns;
    if (node < r->n_seen) return; /* another slice of the batch */
    r->n_seen = node + 1;
    tb_text_add(&r->kernels, "%s ", call->kernel);
    r->n_products += strcmp(call->op->name, "conv2d_u8s8") == 0 || strcmp(call->op->name, "linear_u8s8") == 0;
}

/* Runs the artefact in `dir` by the kernels up to one instruction set. */
static void answers_of(const char *dir, tb_isa isa, const uint8_t *images, int64_t rows, float *logits, ran *r)
{
    tb_ctx *ctx;
    tb_graph *g;
    tb_exec *e;
    tb_session *s;
    assert_ok(tb_ctx_create(&(tb_ctx_config){0}, &ctx));
    tb_ctx *before = tb_ctx_enter(ctx);
    tb_ctx_limit_kernels(ctx, isa, false);
    assert_ok(tb_graph_load(dir, &g));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    tb_session_observe(s, note_kernel, r);
    assert_ok(tb_session_run(s, &rows, (const void *[]){images}, (void *[]){logits}));
    tb_session_free(s);
    tb_exec_free(e);
    tb_ctx_enter(before);
    tb_ctx_destroy(ctx);
}

static void check(tb_ctx *ctx, const struct network *n)
{
    static float first[1000 * CLASSES], logits[1000 * CLASSES];
    char weights[512], folder[] = "/tmp/tb_integers_XXXXXX", dir[64], command[64];
    ran by[TB_ISA_AVX512VNNI + 1] = {0};
    tb_arms *a;
    int64_t images, pixels;
    snprintf(weights, sizeof weights, "%s/results/weights/%s.safetensors", TB_SOURCE_DIR, n->weights);
    const tb_arms_config config = {.ctx = ctx,
                                   .model = n->model,
                                   .data = "fashion-mnist",
                                   .batch = 1,
                                   .train_steps = n->train_steps,
                                   .train_batch = 64,
                                   .rate = n->rate,
                                   .decay = n->decay,
                                   .weights = weights,
                                   .seed = 1};
    assert_int_equal(access(weights, R_OK), 0); /* nothing is trained here */
    assert_ok(tb_arms_create(&config, &a));
    assert_non_null(mkdtemp(folder));
    snprintf(dir, sizeof dir, "%s/1", folder);
    assert_ok(tb_arms_export(a, TB_ARM_INT8, n->weights, 1, dir));
    const uint8_t *rows = tb_arms_images(a, &images, &pixels);
    for (int isa = TB_ISA_SCALAR; isa <= TB_ISA_AVX512VNNI && isa <= (int)tb_isa_detect(); isa++) {
        answers_of(dir, (tb_isa)isa, rows, n->rows, logits, &by[isa]);
        assert_int_equal(by[isa].n_products, n->n_layers);
        assert_null(strstr(tb_text_str(&by[isa].kernels), "ref"));
        print_message("%s, %s: %s\n", n->weights, tb_isa_name((tb_isa)isa), tb_text_str(&by[isa].kernels));
        if (isa == TB_ISA_SCALAR) memcpy(first, logits, sizeof first);
        assert_memory_equal(first, logits, sizeof *logits * (size_t)(n->rows * CLASSES));
        for (int other = TB_ISA_SCALAR; other < isa; other++)
            assert_string_not_equal(tb_text_str(&by[isa].kernels), tb_text_str(&by[other].kernels));
    }
    for (int isa = TB_ISA_SCALAR; isa <= TB_ISA_AVX512VNNI; isa++) tb_text_free(&by[isa].kernels);
    tb_arms_destroy(a);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void mlp_has_the_same_logits_on_every_isa(void **state) { check(*state, &networks[0]); }
static void cnn_has_the_same_logits_on_every_isa(void **state) { check(*state, &networks[1]); }
static void resnet_has_the_same_logits_on_every_isa(void **state) { check(*state, &networks[2]); }

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(mlp_has_the_same_logits_on_every_isa),
                                       ctx_test(cnn_has_the_same_logits_on_every_isa),
                                       ctx_test(resnet_has_the_same_logits_on_every_isa)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
