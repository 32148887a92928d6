/* A steady training step asks nothing of the system: no call of malloc in the whole process (the program
 * interposes it), no page that the kernel must map, with the batches prefetched by a thread. */
#include "results.h"
#include "tb_program.h"

enum { STEPS = 130, AT_LEAST = 100 };

static inline double largest(const tb_series *s)
{
    double most = 0;
    for (int64_t i = 0; i < s->n; i++)
        if (!(s->values[i] <= most)) most = s->values[i];
    return most;
}

static void a_steady_step_of_each_model_requests_no_memory(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* their allocators stand in the way */
#else
    char text[1024];
    snprintf(
        text, sizeof text,
        "driver: train\nlaunch: {threads: %d, timeout_s: 200}\nmeasure: {launches: 1}\n"
        "params: {steps: %d, batch: 16, prefetch: 2, rate: 1e-3, clip: 1, sample_bytes: 20, context: 32}\n"
        "sweep: {cases: [{params.model: mlp, params.data: fashion-mnist, params.optimizer: sgd},\n"
        "  {params.model: cnn, params.data: fashion-mnist, params.optimizer: sgd},\n"
        "  {params.model: \"gpt:layers=2,width=64,heads=4,dropout=0.1\", params.data: jargon,\n"
        "   params.optimizer: adamw}]}\n"
        "valid: ['mallocs == 0', 'page_faults == 0']\n",
        sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1, STEPS);
    write_file("experiments/x.yaml", text);
    program_run run = run_program("run x --out out");
    expect(&run, 0, "3 of 3 points ok");
    tb_results results;
    assert_int_equal(tb_results_read("out", &results), TB_OK);
    assert_int_equal(results.n, 3);
    for (int i = 0; i < results.n; i++) {
        const tb_launch *l = results.at[i]->launches[0];
        const tb_series *warm = tb_launch_series(l, "mallocs", 0, 1),
                        *steady = tb_launch_series(l, "mallocs", 0, 0);
        assert_true(warm && steady && steady->n >= AT_LEAST);
        assert_true(largest(warm) > 0); /* the counter counts */
        assert_true(largest(steady) == 0);
    }
    tb_results_free(&results);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(a_steady_step_of_each_model_requests_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
