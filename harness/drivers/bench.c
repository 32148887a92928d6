/* bench: one row of `tb bench` as a point, so that kernels are measured over several launches, kept and plotted. The
 * harness's loop is not used: a kind checks, warms up and times pairs of blocks itself (bench/tb_bench.h).
 *
 * A peer that is not at its best voids the launch. `floor` and `aim` are what the ratio is held against in plots;
 * they decide nothing. */
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_driver.h"
#include "tb_tensor.h"
#include <math.h>
#include <string.h>

static const tb_key keys[] = {
    {"kind", TB_KEY_STR, "", 0, 0, NULL, "gemm", "a kind of tb bench"},
    {"op", TB_KEY_STR, "", 0, 0, NULL, "", "of a kind with several ops: this one"},
    {"shape", TB_KEY_STR, "", 0, 0, NULL, "", "as tb bench takes it; empty: the kind takes none"},
    {"dtype", TB_KEY_CHOICE, "", 0, 0, "f32|bf16|f16|i8", "f32", ""},
    {"peer", TB_KEY_STR, "", 0, 0, NULL, "none", "what runs beside, or none"},
    {"isa", TB_KEY_CHOICE, "", 0, 0, "best|scalar|avx2|avx512|avx512vnni", "best", "the highest that kernels may use"},
    {"floor", TB_KEY_NUM, "", 0, 1e6, NULL, "0", "of the ratio; drawn beside it"},
    {"aim", TB_KEY_NUM, "", 0, 1e6, NULL, "0", "of the ratio; drawn beside it"},
};

#define RATIO .kind = "ratio", .scope = "", .statistic = "median", .margin = 0.05
static const tb_metric metrics[] = {
    {.name = "time_us", .unit = "us", .dir = "lower", .reduce = "max", RATIO},
    {.name = "peer_us", .unit = "us", .dir = "none", .reduce = "max", RATIO},
    {.name = "ratio", .unit = "", .dir = "higher", .reduce = "min", RATIO},
    {.name = "gflop_per_s", .unit = "GFLOP/s", .dir = "higher", .reduce = "min", RATIO},
    {.name = "pct_peak", .unit = "%", .dir = "higher", .reduce = "min", RATIO},
};

typedef struct pair {
    double ours_ns, peer_ns;
} pair;

typedef struct bench_state {
    const tb_bench *kind;
    tb_bench_run bench;
    pair *pairs;
    int64_t n_pairs, room;
    bool failed; /* no memory for a pair */
} bench_state;

static void keep_pair(void *arg, int64_t i, double ours_ns, double peer_ns)
{
    bench_state *s = arg;
    if (i >= s->room) {
        int64_t room = 2 * i + 64;
        pair *more = tb_realloc(s->pairs, (size_t)room * sizeof *more);
        if (!more) {
            s->failed = true;
            return;
        }
        s->pairs = more;
        s->room = room;
    }
    s->pairs[i] = (pair){ours_ns, peer_ns};
    s->n_pairs = i + 1;
}

static tb_status setup(const tb_run *run, void **out)
{
    bench_state *s = *out = tb_calloc(1, sizeof *s);
    if (!s) return TB_ERR_OOM;
    const char *isa = tb_param_str(run, "isa"), *shape = tb_param_str(run, "shape"), *op = tb_param_str(run, "op"),
               *peer = tb_param_str(run, "peer");
    if (run->ranks != 1) return TB_FAIL(TB_ERR_CONFIG, "bench: kernels run on one rank; set launch.ranks to 1");
    TB_TRY(tb_bench_find(tb_param_str(run, "kind"), &s->kind));
    TB_TRY(tb_bench_find_dtype(s->kind, tb_param_str(run, "dtype"), &s->bench.dtype));
    if (*shape) TB_TRY(tb_bench_parse_shape(s->kind, shape, &s->bench.shape));
    else if (s->kind->shape_form)
        return TB_FAIL(TB_ERR_CONFIG, "bench %s: params.shape is missing (%s)", s->kind->name, s->kind->shape_form);
    if (strcmp(peer, "none") != 0) TB_TRY(tb_bench_find_peer(s->kind, peer, &s->bench.peer));
    tb_ctx_config c = {.threads = run->threads, .seed = run->seed}; /* bound when peers have their threads */
    TB_TRY(tb_ctx_create(&c, &s->bench.ctx));
    tb_ctx_enter(s->bench.ctx);
    if (strcmp(isa, "best") != 0) {
        tb_isa level;
        TB_TRY(tb_isa_parse(isa, &level));
        tb_ctx_limit_kernels(s->bench.ctx, level, false);
    }
    s->bench.threads = run->threads;
    s->bench.core_to_core_ns = NAN; /* the launch's noise has it */
    s->bench.only = *op ? op : NULL;
    s->bench.pair = keep_pair;
    s->bench.pair_arg = s;
    return TB_OK;
}

static void emit_pairs(const tb_run *run, const bench_state *s, const tb_bench_row *r)
{
    for (int64_t i = 0; i < s->n_pairs; i++) {
        const pair *p = &s->pairs[i];
        double part = r->median_ns / p->ours_ns; /* of the median's speed */
        tb_emit_sample(run, "time_us", i, p->ours_ns * 1e-3);
        if (!isnan(r->gflops)) tb_emit_sample(run, "gflop_per_s", i, r->gflops * part);
        if (!isnan(r->pct_peak)) tb_emit_sample(run, "pct_peak", i, r->pct_peak * part);
        if (!isnan(p->peer_ns)) tb_emit_sample(run, "peer_us", i, p->peer_ns * 1e-3);
        if (!isnan(r->ratio)) tb_emit_sample(run, "ratio", i, p->peer_ns / p->ours_ns);
    }
}

static void emit_row(const tb_run *run, const bench_state *s, const tb_bench_row *r)
{
    emit_pairs(run, s, r);
    tb_emit_fact(run, "kernel", r->kernel);
    tb_emit_fact(run, "isa", r->isa);
    for (int i = 0; i < r->n_extra; i++)
        if (!isnan(r->extra[i].value)) tb_emit_value(run, r->extra[i].name, "", r->extra[i].value);
    if (!isnan(r->roofline.flop)) {
        tb_emit_value(run, "roofline.flop", "FLOP", r->roofline.flop);
        tb_emit_value(run, "roofline.bytes", "B", r->roofline.bytes);
        tb_emit_value(run, "roofline.peak_gflops", "GFLOP/s", r->roofline.peak_gflops);
        tb_emit_value(run, "roofline.peak_gb_per_s", "GB/s", r->roofline.peak_gb_per_s);
    }
    tb_emit_value(run, "floor", "", tb_param_num(run, "floor"));
    tb_emit_value(run, "aim", "", tb_param_num(run, "aim"));
    if (!s->bench.peer) return;
    tb_emit_fact(run, "peer", r->peer_detail);
    tb_emit_check(run, "baseline.peer_is_void", "baseline", isnan(r->ratio), 0, r->peer_detail);
}

static tb_status run_kind(const tb_run *run, void *state)
{
    bench_state *s = state;
    bool stop;
    tb_run_phase(run, "measuring", 0, 1);
    tb_scope *scope = tb_scope_open();
    tb_status st = s->kind->run(&s->bench);
    tb_scope_close(scope);
    if (st != TB_OK) return st;
    if (s->failed) return TB_ERR_OOM;
    if (s->bench.n_rows != 1)
        return TB_FAIL(TB_ERR_CONFIG, "bench %s: params.op must name one op of the kind (%d rows came)", s->kind->name,
                       s->bench.n_rows);
    emit_row(run, s, &s->bench.rows[0]);
    return tb_run_sync(run, &stop);
}

static void teardown(void *state)
{
    bench_state *s = state;
    if (!s) return;
    tb_free(s->pairs);
    tb_free(s->bench.rows);
    tb_ctx_destroy(s->bench.ctx);
    tb_free(s);
}

/* Beside the metrics. */
static const char *const emits[] = {"floor",
                                    "aim",
                                    "baseline.peer_is_void",
                                    "gb_per_s",
                                    "core_to_core_ns",
                                    "mallocs_per_step",
                                    "page_faults_per_step",
                                    "roofline.flop",
                                    "roofline.bytes",
                                    "roofline.peak_gflops",
                                    "roofline.peak_gb_per_s",
                                    "cost_pct",
                                    NULL};

TB_DRIVER(bench, .version = 1, .doc = "One row of tb bench: a kernel or path beside its bound and a peer", .keys = keys,
          .n_keys = sizeof keys / sizeof keys[0], .metrics = metrics, .n_metrics = sizeof metrics / sizeof metrics[0],
          .emits = emits, .needs_pair = true, .setup = setup, .run = run_kind, .teardown = teardown);
