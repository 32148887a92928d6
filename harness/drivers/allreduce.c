/* allreduce: one sum over ranks, timed, of data that each rank has just written (as gradients are). The bound beside
 * it are the engines `read`, `sum` and `copy`: what must cross between the ranks' cores, moved in three ways without a
 * word about who is ready (crossing.h). `engine: mpi_native` is MPI_Allreduce, `mpi` ours over MPI's messages. */
#include "crossing.h"
#include "tb_alloc.h"
#include "tb_comm.h"
#include "tb_cpu.h"
#include "tb_driver.h"
#include <stdio.h>
#include <string.h>

static const tb_key keys[] = {
    {"engine", TB_KEY_CHOICE, "", 0, 0, "auto|shm|mpi|mpi_native|read|sum|copy", "auto", "what moves the bytes"},
    {"kib", TB_KEY_INT, "KiB", 1, 1 << 22, NULL, "4096", "of f32 on each rank"},
    {"fresh", TB_KEY_BOOL, "", 0, 0, NULL, "true", "each rank writes its data anew before each sum"},
};

static const tb_metric metrics[] = {
    {.name = "allreduce_us", .unit = "us", .dir = "lower", .kind = "ratio", .reduce = "max", .scope = "",
     .statistic = "median", .margin = 0.05},
    {.name = "gb_per_s", .unit = "GB/s", .dir = "higher", .kind = "ratio", .reduce = "min", .scope = "",
     .statistic = "median", .margin = 0.05},
    {.name = "wire_bytes", .unit = "B", .dir = "lower", .kind = "exact", .reduce = "sum", .scope = "measured",
     .statistic = "median", .deterministic = 1},
};

enum { RANKS_MAX = 256 };

typedef struct allreduce_state {
    tb_comm *comm;
    float *data;
    float *all[RANKS_MAX]; /* of a crossing: every rank's data */
    int64_t n, step;
    int way;    /* a tb_crossing; TB_CROSSINGS: a sum */
    tb_isa isa; /* of the crossing */
    double checksum;
    bool fresh, counted; /* counted: its bytes are known to us */
} allreduce_state;

/* The best instructions there are for that way. */
static tb_status open_crossing(const tb_run *run, allreduce_state *s)
{
    void *theirs[RANKS_MAX];
    bool found = false;
    if (s->n % run->ranks)
        return TB_FAIL(TB_ERR_CONFIG, "allreduce: params.kib cannot be shared among %d ranks", run->ranks);
    for (int isa = 0; isa <= (int)tb_isa_detect(); isa++) {
        if (!tb_crossing_exists((tb_crossing)s->way, run->ranks, (tb_isa)isa)) continue;
        s->isa = (tb_isa)isa;
        found = true;
    }
    if (!found)
        return TB_FAIL(TB_ERR_CONFIG, "allreduce: params.engine %s is there for 2, 4 and 8 ranks, not %d",
                       tb_crossing_name((tb_crossing)s->way), run->ranks);
    TB_TRY(tb_comm_addresses(s->comm, s->data, theirs));
    for (int r = 0; r < run->ranks; r++) s->all[r] = theirs[r];
    return TB_OK;
}

static tb_status setup(const tb_run *run, void **out)
{
    const char *engine = tb_param_str(run, "engine");
    allreduce_state *s = tb_calloc(1, sizeof *s);
    *out = s;
    if (!s) return TB_ERR_OOM;
    if (run->ranks > RANKS_MAX) return TB_FAIL(TB_ERR_CONFIG, "allreduce: at most %d ranks", RANKS_MAX);
    while (s->way < TB_CROSSINGS && strcmp(engine, tb_crossing_name((tb_crossing)s->way)) != 0) s->way++;
    bool crosses = s->way < TB_CROSSINGS;
    s->counted = !crosses && strcmp(engine, "mpi_native") != 0;
    s->fresh = tb_param_bool(run, "fresh");
    s->n = tb_param_int(run, "kib") * 1024 / (int64_t)sizeof *s->data;
    tb_comm_options options = {.ranks = run->ranks, .native = strcmp(engine, "mpi_native") == 0};
    const char *backend = strcmp(engine, "auto") == 0 || run->ranks == 1 ? NULL
                          : options.native                               ? "mpi"
                          : crosses                                      ? "shm"
                                                                         : engine;
    TB_TRY(tb_comm_open_world(backend, &options, &s->comm));
    s->data = tb_comm_alloc(s->comm, (size_t)s->n * sizeof *s->data);
    if (!s->data) return tb_error_code();
    tb_emit_fact(run, "comm/backend", tb_comm_backend(s->comm));
    return crosses ? open_crossing(run, s) : TB_OK;
}

static float value_of(int64_t i, int rank) { return (float)(i % 1000 * (rank + 1)); }

static void fill(allreduce_state *s, int rank)
{
    for (int64_t i = 0; i < s->n; i++) s->data[i] = value_of(i, rank);
}

/* Whole numbers small enough that every order gives the same sum. */
static tb_status check(const tb_run *run, void *state)
{
    allreduce_state *s = state;
    int64_t wrong = 0;
    fill(s, run->rank);
    TB_TRY(tb_comm_allreduce(s->comm, s->data, s->n, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    for (int64_t i = 0; i < s->n; i++) wrong += s->data[i] != value_of(i, run->ranks * (run->ranks + 1) / 2 - 1);
    tb_emit_check(run, "parity.wrong_sums", "parity", (double)wrong, 0, "sums over ranks are not what they must be");
    return TB_OK;
}

static tb_status run_once(const tb_run *run, void *state)
{
    allreduce_state *s = state;
    tb_comm_stats before, after;
    if (s->fresh) fill(s, run->rank);
    TB_TRY(tb_comm_barrier(s->comm));
    tb_comm_get_stats(s->comm, &before);
    int64_t t0 = tb_now_ns();
    if (s->way < TB_CROSSINGS)
        tb_cross((tb_crossing)s->way, s->isa, s->all, s->n, run->rank, run->ranks, &s->checksum);
    else
        TB_TRY(tb_comm_allreduce(s->comm, s->data, s->n, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    double ns = (double)(tb_now_ns() - t0);
    if (s->way < TB_CROSSINGS) TB_TRY(tb_comm_barrier(s->comm)); /* the others may still be at it */
    tb_comm_get_stats(s->comm, &after);
    tb_emit_sample(run, "allreduce_us", s->step, ns * 1e-3);
    tb_emit_sample(run, "gb_per_s", s->step, (double)s->n * sizeof *s->data / ns);
    if (s->counted) tb_emit_sample(run, "wire_bytes", s->step, (double)(after.wire_bytes - before.wire_bytes));
    s->step++;
    return TB_OK;
}

static void teardown(void *state)
{
    allreduce_state *s = state;
    if (s && s->comm) {
        tb_comm_free(s->comm, s->data);
        tb_comm_close(s->comm);
    }
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"parity.wrong_sums", NULL};

TB_DRIVER(allreduce, .version = 1, .doc = "one sum over ranks of data they have just written", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics, .n_metrics = sizeof metrics / sizeof metrics[0],
          .emits = emits, .needs_pair = true, .setup = setup, .check = check, .run_once = run_once,
          .teardown = teardown);
