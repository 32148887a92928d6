/* A deploy artefact behind the server's model interface. */
#include "tb_artefact.h"
#include "tb_ops.h"
#include "tb_rng.h"
#include "tb_serve_artefact.h"
#include "tb_serve_model.h"
#include "tb_test.h"
#include <stdlib.h>
#include <unistd.h>

enum { WIDE = 12, OUT = 3, MOST = 48 };

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    return tb_softmax(tb_linear(in[0], arg, NULL), -1);
}

/* Writes the artefact to FOLDER/net/1, where nothing is yet. */
static void write_artefact(const char *folder)
{
    float w[OUT * WIDE];
    char dir[96];
    tb_graph *g;
    tb_capture_input input = {.name = "x", .dtype = TB_F32, .rank = 2, .dims = {-1, WIDE}};
    tb_artefact_info info = {.name = "net", .max_batch = MOST};
    for (int i = 0; i < OUT * WIDE; i++) w[i] = (float)tb_random_normal(1, 2, (uint64_t)i);
    tb_tensor *weight = tb_tensor_from(TB_F32, 2, (int64_t[]){OUT, WIDE}, w);
    tb_tensor_set_name(weight, "w");
    assert_ok(tb_capture("net", 1, (const char *[]){"N"}, 1, &input, forward, weight, &g));
    snprintf(dir, sizeof dir, "%s/net//1", folder);
    assert_ok(tb_artefact_save(g, &info, 4, dir));
    tb_graph_free(g);
}

static void no_batch_size_allocates_and_a_row_is_the_same_in_all(void **state)
{
    (void)state;
    char folder[] = "/tmp/tb_served_XXXXXX", dir[96], command[64];
    static float x[MOST * WIDE], y[MOST * OUT], first[OUT];
    const void *in[] = {x};
    void *out[] = {y};
    tb_serve_model *m;
    tb_mem_stats before, after;
    assert_non_null(mkdtemp(folder));
    write_artefact(folder);
    snprintf(dir, sizeof dir, "%s/net/1", folder);
    assert_ok(tb_serve_artefact_open(NULL, dir, "net", "1", &m));
    assert_int_equal(m->max_batch, MOST);
    assert_int_equal(m->inputs[0].elements, WIDE);
    assert_ok(m->check(m));
    for (int i = 0; i < MOST * WIDE; i++) x[i] = (float)tb_random_normal(3, 4, (uint64_t)i);
    assert_ok(m->run(m, MOST, in, out, NULL)); /* the largest batch needs the most memory */
    memcpy(first, y, sizeof first);
    tb_heap_stats(tb_heap_process(), &before);
    for (int n = MOST; n >= 1; n--) {
        assert_ok(m->run(m, n, in, out, NULL));
        assert_memory_equal(y, first, sizeof first);
    }
    tb_heap_stats(tb_heap_process(), &after);
    assert_int_equal(after.requests, before.requests);
    m->destroy(m);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(no_batch_size_allocates_and_a_row_is_the_same_in_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
