/* Fault injection: one rank does one wrong thing at one operation, so that what the others then do can be tested. */
#include "comm_internal.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef enum fault_kind { KILL, STOP, EXIT, SLOW, HANG, MISMATCH, CORRUPT, KINDS } fault_kind;
static const char *const kind_names[KINDS] = { "kill", "stop", "exit", "slow", "hang", "mismatch", "corrupt" };

typedef struct fault {
    fault_kind kind;
    int rank;
    int64_t at, ms;
    int64_t operations; /* so far */
} fault;

static tb_status parse(const char *spec, fault *out)
{
    char name[16], end;
    int rank, n;
    long long at, ms = 0;
    n = sscanf(spec, "%15[a-z]@%d:%lld:%lld%c", name, &rank, &at, &ms, &end);
    bool form = n == 4 || (n == 3 && sscanf(spec, "%15[a-z]@%d:%lld%c", name, &rank, &at, &end) == 3);
    for (int k = 0; form && rank >= 0 && at > 0 && ms >= 0 && k < KINDS; k++) {
        if (strcmp(name, kind_names[k]) != 0) continue;
        *out = (fault){ .kind = (fault_kind)k, .rank = rank, .at = at, .ms = ms };
        return TB_OK;
    }
    return TB_FAIL(TB_ERR_INVALID,
                   "fault '%s' is not kind@rank:operation[:ms] with kind one of kill, stop, exit, slow, "
                   "hang, mismatch, corrupt",
                   spec);
}

static void sleep_ms(int64_t ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

static bool strikes(tb_comm *c)
{
    fault *f = c->state;
    return f->rank == c->rank && ++f->operations == f->at;
}

/* The kinds that need no data. */
static void strike(const fault *f)
{
    if (f->kind == KILL) raise(SIGKILL);
    if (f->kind == STOP) raise(SIGSTOP);
    if (f->kind == EXIT) _exit(3);
    if (f->kind == SLOW) sleep_ms(f->ms);
    while (f->kind == HANG) sleep_ms(1000);
}

/* The number behind " of " in what the rank says it does: its sentences tell what it really does. */
static void say_count(tb_comm *c, int64_t count, const char *unit)
{
    char *of = strstr(c->doing, " of ");
    if (of) snprintf(of, sizeof c->doing - (size_t)(of - c->doing), " of %lld %s", (long long)count, unit);
}

/* What needs data, of a message: its length. */
static void strike_message(tb_comm *c, size_t *bytes)
{
    const fault *f = c->state;
    if (!strikes(c)) return;
    strike(f);
    if (f->kind != MISMATCH || *bytes == 0) return;
    *bytes -= 1;
    say_count(c, (int64_t)*bytes, "bytes");
}

static tb_status fault_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    strike_message(c, &bytes);
    return tbi_pass_send(c, lane, data, bytes, peer, out);
}

static tb_status fault_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    strike_message(c, &bytes);
    return tbi_pass_recv(c, lane, data, bytes, peer, out);
}

static tb_status fault_collective(tb_comm *c, const tbi_collective *what, tb_request *out)
{
    tbi_collective now = *what;
    const fault *f = c->state;
    if (strikes(c)) {
        strike(f);
        if (f->kind == MISMATCH && now.count > 0)
            say_count(c, --now.count, now.dtype == TB_U8 ? "bytes" : tb_dtype_name(now.dtype));
        if (f->kind == CORRUPT && now.kind == TBI_ALLREDUCE && now.count > 0)
            ((unsigned char *)now.out)[tb_dtype_size(now.dtype) - 2] ^= 0x40; /* high enough to survive rounding */
    }
    return tbi_pass_collective(c, &now, out);
}

static void fault_close(tb_comm *c)
{
    fault *f = c->state;
    tbi_comm_unwrap(c);
    tb_free(f);
}

tb_status tb_comm_add_fault(tb_comm *c, const char *spec)
{
    static const tbi_comm_backend faulty = {
        .close = fault_close,
        .send = fault_send,
        .recv = fault_recv,
        .poll = tbi_pass_poll,
        .missing = tbi_pass_missing,
        .abort = tbi_pass_abort,
        .collective = fault_collective,
        .alloc = tbi_pass_alloc,
        .free = tbi_pass_free,
    };
    fault *f = tb_calloc(1, sizeof *f);
    if (!f) return tb_error_code();
    tb_status st = parse(spec, f);
    if (st == TB_OK) st = tbi_comm_wrap(c, &faulty, f);
    if (st != TB_OK) tb_free(f);
    return st;
}
