/* A gpt's step as a deploy artefact: run over the caches in place, one token at a time, it gives the bits that the
 * whole row's eager forward gives, row by row, wherever the rows stand. */
#include "deploy.h"
#include "stepper.h"
#include "tb_alloc.h"
#include "tb_artefact.h"
#include "tb_autograd.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_serve_artefact.h"
#include "tb_test.h"
#include <stdlib.h>
#include <unistd.h>

enum { ROWS = 3, LENGTH = 24, VOCAB = 256 };

static tb_serve_model *served(const tb_model *m, const char *folder)
{
    char dir[128];
    tb_graph *g;
    tb_compile_report report;
    tb_serve_model *out;
    tb_artefact_info info = {.name = "gpt", .max_batch = ROWS};
    assert_ok(tb_deploy_capture_step((tb_model *)(uintptr_t)m, LENGTH, "gpt", &g));
    assert_ok(tb_compile(g, &(tb_compile_opts){0}, &report));
    snprintf(dir, sizeof dir, "%s/gpt", folder);
    assert_ok(tb_artefact_save(g, &info, 2, dir));
    tb_graph_free(g);
    assert_ok(tb_serve_artefact_open(NULL, dir, "gpt", "1", &out));
    assert_ok(out->check(out));
    return out;
}

static void a_compiled_step_has_the_bits_of_the_whole_row(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_gpt_XXXXXX", command[64];
    static int32_t tokens[ROWS * LENGTH];
    static float want[ROWS][LENGTH][VOCAB], got[ROWS][VOCAB];
    const void *in[TB_SERVE_MAX_TENSORS];
    void *out[TB_SERVE_MAX_TENSORS] = {got}, *cache[2];
    uint8_t token[ROWS];
    float place[ROWS];
    tb_model *m;
    assert_non_null(mkdtemp(folder));
    assert_ok(tb_model_create("gpt:layers=2,width=32,heads=4,context=32", TB_F32, &m));
    for (int i = 0; i < ROWS * LENGTH; i++) tokens[i] = i * 7919 % VOCAB;
    tb_tensor *x = tb_tensor_from(TB_I32, 2, (int64_t[]){ROWS, LENGTH}, tokens);
    assert_ok(tb_tensor_read(tb_model_forward(m, x), want, sizeof want));
    tb_serve_model *s = served(m, folder);
    assert_int_equal(s->n_inputs, 4);
    assert_string_equal(s->outputs[1].name, "cache.0.next");
    in[0] = token;
    in[1] = place;
    for (int i = 0; i < 2; i++) {
        cache[i] = tb_calloc((size_t)(ROWS * s->inputs[2 + i].elements), sizeof(float));
        in[2 + i] = out[1 + i] = cache[i];
    }
    for (int step = 0; step < LENGTH + ROWS - 1; step++) {
        for (int r = 0; r < ROWS; r++) {
            int at = step - r < 0 ? 0 : step - r < LENGTH ? step - r : LENGTH - 1;
            place[r] = (float)at;
            token[r] = (uint8_t)tokens[r * LENGTH + at];
        }
        assert_ok(s->run(s, ROWS, in, out, NULL));
        for (int r = 0; r < ROWS; r++) assert_memory_equal(got[r], want[r][(int)place[r]], sizeof got[r]);
    }
    for (int i = 0; i < 2; i++) tb_free(cache[i]);
    s->destroy(s);
    tb_model_destroy(m);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* Op by op and as a graph; rows are begun twice, by other numbers of them. */
static void steppers_have_the_bits_of_the_whole_row(void **state)
{
    static uint8_t text[ROWS * LENGTH];
    static float want[ROWS][LENGTH][VOCAB], got[ROWS][VOCAB];
    tb_graph *g;
    tb_exec *e;
    tb_session *session;
    tb_stepper *stepper[2];
    tb_model *m;
    assert_ok(tb_model_create("gpt:layers=2,width=32,heads=4,context=32", TB_F32, &m));
    for (int i = 0; i < ROWS * LENGTH; i++) text[i] = (uint8_t)(i * 7919 % VOCAB);
    tb_tensor *x = tb_cast(tb_tensor_from(TB_U8, 2, (int64_t[]){ROWS, LENGTH}, text), TB_I32);
    assert_ok(tb_tensor_read(tb_model_forward(m, x), want, sizeof want));
    assert_ok(tb_deploy_capture_step(m, LENGTH, "gpt", &g));
    assert_ok(tb_compile(g, NULL, NULL));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, *state, &session));
    for (int k = 0; k < 2; k++) {
        assert_ok(tb_stepper_create(m, k ? session : NULL, LENGTH, ROWS, &stepper[k]));
        for (int rows = ROWS; rows > 0; rows -= ROWS - 1)
            for (int at = 0; at < LENGTH; at++) {
                assert_ok(tb_stepper_run(stepper[k], rows, text, LENGTH, at, got[0]));
                for (int r = 0; r < rows; r++) assert_memory_equal(got[r], want[r][at], sizeof got[r]);
            }
        tb_stepper_destroy(stepper[k]);
    }
    tb_session_free(session);
    tb_exec_free(e);
    tb_model_destroy(m);
}

static void a_model_without_caches_cannot_step(void **state)
{
    (void)state;
    tb_model *m;
    tb_graph *g;
    assert_ok(tb_model_create("mlp", TB_F32, &m));
    assert_fails(tb_deploy_capture_step(m, 16, "mlp", &g), TB_ERR_UNSUPPORTED, "cannot generate");
    tb_model_destroy(m);
    assert_ok(tb_model_create("gpt:layers=1,width=32,heads=4,context=16", TB_F32, &m));
    assert_fails(tb_deploy_capture_step(m, 17, "gpt", &g), TB_ERR_INVALID, "at most 16 tokens");
    tb_model_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(a_compiled_step_has_the_bits_of_the_whole_row),
                                       ctx_test(steppers_have_the_bits_of_the_whole_row),
                                       ctx_test(a_model_without_caches_cannot_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
