/* tb bench: its rows, its errors, and what it refuses to print. Nothing here looks at how long something
 * took. */
#include "harness/tb_program.h"
#include "tb_bench.h"
#include "tb_tensor.h"
#include <math.h>

/* ---- the program ---- */
static void a_row_has_exactly_the_promised_keys(void **state)
{
    static const char *const keys[] = {"op",        "shape",  "dtype",    "isa",  "kernel",         "threads",
                                       "median_ns", "gflops", "pct_peak", "peer", "peer_median_ns", "ratio"};
    (void)state;
    program_run run = run_program("bench gemm --shape 17x33x19 --threads 1 --json");
    expect(&run, 0, "\"op\": \"gemm\"");
    expect(&run, 0, "\"shape\": \"17x33x19\"");
    expect(&run, 0, "\"peer\": null,\n    \"peer_median_ns\": null,\n    \"ratio\": null\n  }\n]");
    char *at = strchr(run.output, '{');
    assert_non_null(at);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) { /* in this order, and nothing between */
        char wanted[32];
        snprintf(wanted, sizeof wanted, "\n    \"%s\": ", keys[i]);
        at = strchr(at, '\n');
        if (!at || strncmp(at, wanted, strlen(wanted)) != 0)
            fail_msg("no %s where expected in:\n%s", keys[i], run.output);
        at++;
    }
    char *median = strstr(run.output, "\"median_ns\": "), *percent = strstr(run.output, "\"pct_peak\": ");
    assert_true(strtod(median + 13, NULL) > 0);
    assert_true(strtod(percent + 12, NULL) > 0);
}

static void each_shape_has_a_row_in_each_dtype(void **state)
{
    (void)state;
    program_run run = run_program("bench gemm --dtype i8 --shape 5x7x9 3x130x20 --json");
    expect(&run, 0, "\"shape\": \"5x7x9\"");
    expect(&run, 0, "\"shape\": \"3x130x20\"");
    expect(&run, 0, "\"dtype\": \"i8\"");
    run = run_program("bench gemm --shape 5x7x9");
    expect(&run, 0, "5x7x9");
    expect(&run, 0, "GFLOP/s");
}

static void the_kernel_follows_the_instruction_set(void **state)
{
    (void)state;
    setenv("TB_ISA", "scalar", 1);
    program_run run = run_program("bench gemm --shape 8x8x8 --json");
    unsetenv("TB_ISA");
    expect(&run, 0, "\"isa\": \"scalar\",\n    \"kernel\": \"gemm_f32_scalar\"");
}

static void a_bad_command_line_is_one_sentence_and_2(void **state)
{
    static const char *const cases[][2] = {
        {"bench gem", "nearest: gemm"},
        {"bench gemm --shape 3x4", "is not MxKxN"},
        {"bench gemm --shape 3x4x5x6", "is not MxKxN"},
        {"bench gemm --shape 3x0x5", "is not MxKxN"},
        {"bench gemm --shape 3x-4x5", "is not MxKxN"},
        {"bench gemm --shape ''", "is not MxKxN"},
        {"bench gemm --dtype f16", "nothing to measure in f16"},
        {"bench gemm --peer mkl", "no peer 'mkl'"},
        {"bench norm --shape 2x2 --only softmaxx", "no op 'softmaxx'"},
        {"bench allreduce --threads 1 --shape 4", "--threads 2 to 64"},
        {"bench gemm --threads 0", "this process may use 1 to"},
        {"bench gemm --threads 100000", "this process may use 1 to"},
        {"bench gemm --threads two", "this process may use 1 to"},
        {"bench gemm --dtype i8 --shape 1x70000x1", "could overflow 32 bits"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        program_run run = run_program(cases[i][0]);
        expect(&run, 2, cases[i][1]);
        char *end = strchr(run.output, '\n');
        if (!end || end[1]) fail_msg("%s said more than one line:\n%s", cases[i][0], run.output);
    }
}

static void every_kind_measures_its_ops(void **state)
{
    static const char *const cases[][3] = {
        {"bench elementwise --shape 100 --json", "\"op\": \"add\"", "\"op\": \"gelu_tanh\""},
        {"bench chain --shape 3001 --peer eager --json", "\"kernel\": \"tile_interpreter\"", "\"peer\": \"eager\""},
        {"bench norm --shape 3x40 --json", "\"op\": \"softmax\"", "\"op\": \"layer_norm_train\""},
        {"bench optimizer --shape 77 --json", "\"op\": \"sgd\"", "\"op\": \"adamw\""},
        {"bench attention --shape 1x2x9x8 --json", "\"op\": \"attention\"", "\"op\": \"attention_train\""},
        {"bench conv --shape 2x4x9x8x6x3x2x2 --json", "\"op\": \"conv2d_train\"", "\"shape\": \"2x4x9x8x6x3x2x2\""},
        {"bench order --shape 9x7x5 --json", "\"op\": \"weight_grad\"", "\"op\": \"batch_norm\""},
        {"bench order --shape 9x7x5 --dtype bf16 --json", "\"peer\": \"free_order\"", "\"cost_pct\": "},
        {"bench limits --json", "\"op\": \"multiply_add\"", "\"op\": \"read\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        program_run run = run_program(cases[i][0]);
        expect(&run, 0, cases[i][1]);
        expect(&run, 0, cases[i][2]);
    }
}

static void allreduce_starts_its_ranks_and_mpi(void **state)
{
    (void)state;
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2) skip();
    assert_int_equal(symlink(TB_SOURCE_DIR "/scripts", "scripts"), 0);
    program_run run = run_program("bench allreduce --shape 4 --peer mpi --json");
    expect(&run, 0, "\"op\": \"crossing\"");
    expect(&run, 0, "\"op\": \"allreduce\"");
    expect(&run, 0, "\"core_to_core_ns\": ");
    expect(&run, 0, "\"peer\": \"mpi\"");
    expect(&run, 0, "single copy: ");
}

static void a_steady_step_requests_no_memory(void **state)
{
    (void)state;
    program_run run = run_program("bench train-step --only mlp --json");
    expect(&run, 0, "\"op\": \"mlp\"");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    expect(&run, 0, "\"mallocs_per_step\": 0,");
#endif
    expect(&run, 0, "\"page_faults_per_step\": ");
}

static void the_kernel_of_an_op_is_the_one_that_ran(void **state)
{
    (void)state;
    setenv("TB_ISA", "scalar", 1);
    program_run run = run_program("bench norm --shape 3x40 --json");
    unsetenv("TB_ISA");
    expect(&run, 0, "\"kernel\": \"row_softmax_f32_scalar\"");
}

/* ---- peers in a process of their own ---- */
static void plant_torch(const char *script)
{
    assert_int_equal(mkdir("scripts", 0755), 0);
    assert_int_equal(mkdir("scripts/peers", 0755), 0);
    write_file("scripts/peers/torch_bench.py", script);
    assert_int_equal(chmod("scripts/peers/torch_bench.py", 0755), 0);
}

static void a_peer_answers_for_so_many_iterations(void **state)
{
    (void)state;
    plant_torch("#!/bin/sh\necho ready planted-1\nwhile read n; do echo $n; done\n"); /* 1 ms each */
    program_run run = run_program("bench dispatch --peer torch --json");
    expect(&run, 0, "\"peer\": \"torch\",\n    \"peer_median_ns\": 1000000,");
    expect(&run, 0, "\"op\": \"add_recorded\"");
    expect(&run, 0, "\"op\": \"tiny_train_step\"");
    expect(&run, 0, "\"peer_detail\": \"planted-1\"");
}

static void a_peer_that_ends_is_named(void **state)
{
    (void)state;
    plant_torch("#!/bin/sh\nexit 1\n");
    program_run run = run_program("bench dispatch --peer torch --json");
    expect(&run, 2, "peer torch_bench.py ended");
    if (strchr(run.output, '[')) fail_msg("it printed rows:\n%s", run.output);
}

static void a_library_that_is_not_there_is_named(void **state)
{
    (void)state;
    setenv("TB_PEERS", "/nowhere", 1);
    program_run run = run_program("bench gemm --shape 8x8x8 --peer onednn");
    unsetenv("TB_PEERS");
    expect(&run, 2, "peer onednn: /nowhere/tb_peer_onednn.so");
    expect(&run, 2, "libdnnl-dev");
}

/* ---- the rules of measuring ---- */
typedef struct planted {
    int runs;
    double worst; /* of the result, as part of what is allowed */
} planted;

static tb_status run_planted(void *self, int64_t times, double *ns)
{
    planted *p = self;
    p->runs += (int)times;
    *ns = 1e6 * (double)times;
    return TB_OK;
}

static tb_status check_planted(void *self) { return tb_bench_judge("planted", ((planted *)self)->worst); }

static tb_status measure(planted *ours, planted *peer, double known_percent, tb_bench_run *run)
{
    tb_bench_case c = {.op = "planted",
                       .kernel = "none",
                       .isa = TB_ISA_SCALAR,
                       .ours = {run_planted, ours},
                       .check = check_planted,
                       .flops = 1,
                       .most_times = 1};
    if (peer) {
        c.peer = (tb_bench_side){run_planted, peer};
        c.peer_check = check_planted;
        c.peer_detail = "1.0";
        c.peer_known_percent = known_percent;
        run->peer = "planted";
    }
    run->dtype = TB_F32;
    run->threads = 1;
    assert_int_equal(tb_ctx_create(&(tb_ctx_config){.threads = 1}, &run->ctx), TB_OK);
    tb_ctx_enter(run->ctx);
    tb_status st = tb_bench_measure(run, &c);
    tb_ctx_enter(NULL);
    tb_ctx_destroy(run->ctx);
    return st;
}

static void a_wrong_answer_gives_no_number(void **state)
{
    (void)state;
    double wrong[] = {1.5, (double)NAN, (double)INFINITY};
    for (int i = 0; i < 3; i++) {
        tb_bench_run run = {0};
        planted ours = {.worst = wrong[i]};
        assert_int_equal(measure(&ours, NULL, 0, &run), TB_ERR_PARITY);
        assert_non_null(strstr(tb_error_message(), "nothing was timed"));
        assert_int_equal(ours.runs, 1);
        assert_int_equal(run.n_rows, 0);
    }
}

static void a_wrong_peer_is_void(void **state)
{
    (void)state;
    tb_bench_run run = {0};
    planted ours = {0}, peer = {.worst = 2};
    assert_int_equal(measure(&ours, &peer, 0, &run), TB_OK);
    assert_int_equal(peer.runs, 1);
    assert_string_equal(run.rows[0].peer, "planted");
    assert_true(isnan(run.rows[0].ratio) && isnan(run.rows[0].peer_median_ns));
    assert_non_null(strstr(run.rows[0].peer_detail, "void: wrong results"));
    tb_free(run.rows);
}

static void a_peer_below_what_it_is_known_for_is_void(void **state)
{
    (void)state;
    tb_bench_run run = {0};
    planted ours = {0}, peer = {0};
    assert_int_equal(measure(&ours, &peer, 95, &run), TB_OK);
    assert_int_equal(run.n_rows, 1);
    assert_string_equal(run.rows[0].peer, "planted");
    assert_true(isnan(run.rows[0].ratio));
    assert_non_null(strstr(run.rows[0].peer_detail, "void"));
    tb_free(run.rows);
    assert_false(tb_bench_peer_is_void(86, 95));
    assert_true(tb_bench_peer_is_void(85, 95));
    assert_true(tb_bench_peer_is_void((double)NAN, 95));
}

static void equal_sides_have_the_ratio_1(void **state)
{
    (void)state;
    tb_bench_run run = {0};
    planted ours = {0}, peer = {0};
    assert_int_equal(measure(&ours, &peer, 0, &run), TB_OK);
    assert_true(fabs(run.rows[0].ratio - 1) < 1e-12);
    assert_true(fabs(run.rows[0].median_ns - 1e6) < 1e-3);
    assert_true(fabs(run.rows[0].peer_median_ns - 1e6) < 1e-3);
    tb_free(run.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_SCRATCH(a_row_has_exactly_the_promised_keys),
        IN_SCRATCH(each_shape_has_a_row_in_each_dtype),
        IN_SCRATCH(the_kernel_follows_the_instruction_set),
        IN_SCRATCH(every_kind_measures_its_ops),
        IN_SCRATCH(allreduce_starts_its_ranks_and_mpi),
        IN_SCRATCH(a_steady_step_requests_no_memory),
        IN_SCRATCH(the_kernel_of_an_op_is_the_one_that_ran),
        IN_SCRATCH(a_bad_command_line_is_one_sentence_and_2),
        IN_SCRATCH(a_peer_answers_for_so_many_iterations),
        IN_SCRATCH(a_peer_that_ends_is_named),
        IN_SCRATCH(a_library_that_is_not_there_is_named),
        cmocka_unit_test(a_wrong_answer_gives_no_number),
        cmocka_unit_test(a_wrong_peer_is_void),
        cmocka_unit_test(a_peer_below_what_it_is_known_for_is_void),
        cmocka_unit_test(equal_sides_have_the_ratio_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
