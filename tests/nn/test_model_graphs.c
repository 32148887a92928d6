/* Every model of the zoo as a compiled graph: the bits of eager execution, a plan near the bound, no allocation once a
 * size is planned. */
#include "tb_test.h"
#include <math.h>
#include "tb_autograd.h"
#include "tb_exec.h"
#include "tb_model.h"
#include "tb_ops.h"
#include "tb_pass.h"
#include "tb_rng.h"

enum { MOST_BYTES = 1 << 22, CONTEXT = 24 };

static tb_tensor *forward(void *arg, int n, tb_tensor *const *in)
{
    (void)n;
    return tb_model_forward(arg, in[0]);
}

static tb_graph *capture(tb_model *m)
{
    const tb_boundary *in = &tb_model_block_at(m, 0)->in;
    tb_capture_input input = {.name = "x", .dtype = in->dtype, .rank = in->rank};
    tb_graph *g;
    for (int i = 0; i < in->rank; i++)
        input.dims[i] = in->dims[i] == TB_DIM_BATCH ? -1 : in->dims[i] == TB_DIM_TIME ? CONTEXT : in->dims[i];
    assert_ok(tb_capture("model", 1, (const char *[]){"N"}, 1, &input, forward, m, &g));
    return g;
}

static void assert_close(const float *a, const float *b, int64_t n)
{
    float difference = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        difference = fmaxf(difference, fabsf(a[i] - b[i]));
        largest = fmaxf(largest, fabsf(a[i]));
    }
    assert_true(difference <= 1e-5f * largest);
}

static tb_tensor *random_input(const tb_model *m, int64_t n)
{
    const tb_boundary *in = &tb_model_block_at(m, 0)->in;
    int64_t dims[TB_MAX_RANK];
    for (int i = 0; i < in->rank; i++)
        dims[i] = in->dims[i] == TB_DIM_BATCH ? n : in->dims[i] == TB_DIM_TIME ? CONTEXT : in->dims[i];
    tb_tensor *t = tb_tensor_empty(in->dtype, in->rank, dims);
    for (int64_t i = 0; i < tb_tensor_numel(t); i++) {
        double x = tb_dtype_is_float(in->dtype) ? tb_random_normal(1, 2, (uint64_t)i)
                                                : (double)tb_random_below(1, 2, (uint64_t)i, 200);
        tb_store_f64(in->dtype, (char *)tb_tensor_host(t) + i * (int64_t)tb_dtype_size(in->dtype), x);
    }
    return t;
}

/* Strict graphs have eager's bits; where batch norm moved into weights, its rounding is another. */
static void check_model(tb_ctx *ctx, const char *spec, bool strict)
{
    static _Alignas(64) char eager[MOST_BYTES], compiled[MOST_BYTES];
    tb_model *m;
    tb_exec *e;
    tb_session *s;
    assert_ok(tb_model_create(spec, TB_F32, &m));
    bool mode = tb_grad_mode(ctx, false);
    tb_graph *g = capture(m);
    assert_ok(tb_compile(g, &(tb_compile_opts){.strict = strict}, NULL));
    assert_ok(tb_exec_create(g, &e));
    assert_ok(tb_session_create(e, ctx, &s));
    for (int64_t n = 1; n <= 33; n += 16) {
        tb_scope *scope = tb_scope_open();
        tb_plan_stats plan;
        tb_mem_stats before, after;
        assert_ok(tb_session_plan_stats(s, &n, &plan));
        tb_tensor *x = random_input(m, n), *y = tb_model_forward(m, x);
        assert_true(tb_tensor_bytes(y) <= MOST_BYTES);
        assert_ok(tb_tensor_read(y, eager, tb_tensor_bytes(y)));
        tb_heap_stats(tb_ctx_heap(ctx), &before);
        assert_ok(tb_session_run(s, &n, (const void *[]){tb_tensor_host(x)}, (void *[]){compiled}));
        tb_heap_stats(tb_ctx_heap(ctx), &after);
        print_message("%s%s, N = %lld: plan %zu, bound %zu, naive %zu\n", spec, strict ? ", strict" : "", (long long)n,
                      plan.planned_bytes, plan.bound_bytes, plan.naive_bytes);
        assert_int_equal(after.requests, before.requests);
        if (strict) assert_memory_equal(eager, compiled, tb_tensor_bytes(y));
        else
            assert_close((const float *)(const void *)eager, (const float *)(const void *)compiled, tb_tensor_numel(y));
        assert_true((double)plan.planned_bytes <= 1.15 * (double)plan.bound_bytes);
        tb_scope_close(scope);
    }
    tb_grad_mode(ctx, mode);
    tb_session_free(s);
    tb_exec_free(e);
    tb_model_destroy(m);
}

static void every_model_compiles_to_its_bits_in_a_tight_plan(void **state)
{
    for (int i = 0; i < tb_model_type_count(); i++)
        for (int strict = 0; strict < 2; strict++) check_model(*state, tb_model_type_at(i)->name, strict);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ctx_test(every_model_compiles_to_its_bits_in_a_tight_plan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
