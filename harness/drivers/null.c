/* null: the harness measures itself. An iteration spins for `work_us` (0: an empty call, so `iter_ms` is the
 * loop's own cost); finish times what a sample record and a sync cost. It can also fail on purpose, which is
 * how the harness tests that it names the dead. */
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_driver.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EMITS = 5000, SYNCS = 20 };

static const tb_key keys[] = {
    {"work_us", TB_KEY_NUM, "us", 0, 1e7, NULL, "0", "time that each iteration spins"},
    {"fault", TB_KEY_CHOICE, "", 0, 0, "none|segv|kill|abort|exit|hang|error|wrong", "none",
     "what goes wrong on purpose; wrong: a check that fails"},
    {"fault_rank", TB_KEY_INT, "", 0, 4095, NULL, "0", "on which rank"},
    {"fault_iter", TB_KEY_INT, "", 0, 1e9, NULL, "0", "in which iteration"},
};

static const tb_metric metrics[] = {
    {.name = "emit_us", .unit = "us", .dir = "lower", .kind = "trend", .reduce = "max", .scope = "",
     .statistic = "median", .margin = 0.2},
    {.name = "sync_us", .unit = "us", .dir = "lower", .kind = "trend", .reduce = "max", .scope = "",
     .statistic = "median", .margin = 0.2},
};

typedef struct null_state {
    int64_t work_ns, iter, fault_iter; /* fault_iter -1: none on this rank */
    const char *fault;
} null_state;

static tb_status setup(const tb_run *run, void **out)
{
    null_state *s = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    s->work_ns = (int64_t)(tb_param_num(run, "work_us") * 1e3);
    s->fault = tb_param_str(run, "fault");
    bool here = tb_param_int(run, "fault_rank") == run->rank && strcmp(s->fault, "none") != 0;
    s->fault_iter = here ? tb_param_int(run, "fault_iter") : -1;
    *out = s;
    tb_emit_value(run, "work_us", "us", (double)s->work_ns * 1e-3); /* what iter_ms should come to */
    return TB_OK;
}

static tb_status check(const tb_run *run, void *state)
{
    const null_state *s = state;
    bool wrong = s->fault_iter >= 0 && strcmp(s->fault, "wrong") == 0;
    tb_emit_check(run, "parity.max_rel_err", "parity", wrong ? 1 : 0, 1e-6,
                  "an error on purpose (params.fault)");
    return TB_OK;
}

static tb_status go_wrong(const char *fault)
{
    if (strcmp(fault, "segv") == 0) raise(SIGSEGV);
    if (strcmp(fault, "kill") == 0) raise(SIGKILL);
    if (strcmp(fault, "abort") == 0) abort();
    if (strcmp(fault, "exit") == 0) _exit(7);
    while (strcmp(fault, "hang") == 0) pause();
    return TB_FAIL(TB_ERR_INTERNAL, "null: failed on purpose (params.fault)");
}

static tb_status run_once(const tb_run *run, void *state)
{
    (void)run;
    null_state *s = state;
    int64_t t0 = s->work_ns ? tb_now_ns() : 0;
    if (s->iter++ == s->fault_iter) return go_wrong(s->fault);
    while (s->work_ns && tb_now_ns() - t0 < s->work_ns) continue;
    return TB_OK;
}

/* Each sample of emit_us is what emitting the one before it took. */
static tb_status finish(const tb_run *run, void *state)
{
    (void)state;
    double last_us = 0;
    for (int i = 0; i < EMITS; i++) {
        int64_t t0 = tb_now_ns();
        tb_emit_sample(run, "emit_us", i, last_us);
        last_us = (double)(tb_now_ns() - t0) * 1e-3;
    }
    bool stop;
    for (int i = 0; i < SYNCS; i++) {
        int64_t t0 = tb_now_ns();
        TB_TRY(tb_run_sync(run, &stop));
        tb_emit_sample(run, "sync_us", i, (double)(tb_now_ns() - t0) * 1e-3);
    }
    return TB_OK;
}

static void teardown(void *state) { tb_free(state); }

/* Beside the metrics. */
static const char *const emits[] = {"work_us", "parity.max_rel_err", NULL};

TB_DRIVER(null, .version = 1, .doc = "the harness's own cost: loop, record, sync, start of a launch",
          .keys = keys, .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics,
          .n_metrics = sizeof metrics / sizeof metrics[0], .emits = emits, .setup = setup, .check = check,
          .run_once = run_once, .finish = finish, .teardown = teardown);
