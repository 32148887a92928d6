/* What every test program needs: CMocka with its includes, a context per test, short checks. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "tb_ctx.h"
#include "tb_tensor.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Fails with the record's sentence. */
#define assert_ok(call)                                                                                               \
    do {                                                                                                              \
        tb_status assert_status = (call);                                                                             \
        if (assert_status != TB_OK) fail_msg("%s: %s", #call, tb_error_message());                                    \
    } while (0)
/* The call fails with `status` and its sentence contains `text`. */
#define assert_fails(call, status, text)                                                                              \
    do {                                                                                                              \
        tb_status assert_status = (call);                                                                             \
        if (assert_status != (status))                                                                                \
            fail_msg("%s: expected '%s', got '%s': %s", #call, tb_status_name(status), tb_status_name(assert_status), \
                     tb_error_message());                                                                             \
        if (!strstr(tb_error_message(), (text)))                                                                      \
            fail_msg("%s: '%s' is not in: %s", #call, (text), tb_error_message());                                    \
    } while (0)

/* |a - b| <= tolerance, in double. */
#define assert_near(a, b, tolerance)                                                                                  \
    do {                                                                                                              \
        double near_a = (double)(a), near_b = (double)(b);                                                            \
        if (!(fabs(near_a - near_b) <= (double)(tolerance)))                                                          \
            fail_msg("%s = %.17g, %s = %.17g, further apart than %g", #a, near_a, #b, near_b, (double)(tolerance));    \
    } while (0)

static inline int test_setup_on(void **state, const char *device, int threads)
{
    tb_ctx *ctx;
    if (tb_ctx_create(&(tb_ctx_config){.threads = threads, .seed = 1, .device = device}, &ctx) != TB_OK)
        return tb_report(stderr);
    tb_ctx_enter(ctx);
    *state = ctx;
    return 0;
}
static inline int test_setup(void **state) { return test_setup_on(state, "cpu", 1); }
/* A test that leaves a tensor or a block alive fails here. */
static inline int test_teardown(void **state) { return tb_ctx_destroy(*state) == 0 ? 0 : -1; }
#define ctx_test(f) cmocka_unit_test_setup_teardown(f, test_setup, test_teardown)
