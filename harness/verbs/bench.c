/* tb bench: microbenchmarks of kernels and paths of the engine, each beside what the machine can do and,
 * where one is asked for, a peer that does the same work in the same run. */
#include "noise.h"
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_tensor.h"
#include "tb_text.h"
#include "tb_topo.h"
#include "tb_verb.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SHAPES = 64, MOST_PEERS = 8 };

typedef struct request {
    const tb_bench *kind;
    tb_dtype dtype;
    int threads, n_shapes, n_peers;
    double core_to_core_ns;
    tb_bench_shape shapes[MOST_SHAPES];
    const char *peers[MOST_PEERS]; /* the kind's own names */
} request;

/* ---- the command line ---- */
static tb_status add_shape(request *r, const char *word)
{
    if (r->n_shapes == MOST_SHAPES) return TB_FAIL(TB_ERR_CONFIG, "bench: at most %d shapes", MOST_SHAPES);
    return tb_bench_parse_shape(r->kind, word, &r->shapes[r->n_shapes++]);
}

static tb_status parse_shapes(request *r, const tb_args *args)
{
    for (int i = 0; i < args->n_options; i++)
        if (strcmp(args->verb->options[args->option_at[i]].name, "shape") == 0)
            TB_TRY(add_shape(r, args->values[i]));
    for (int i = 1; i < args->n_words; i++) TB_TRY(add_shape(r, args->words[i]));
    for (int i = 0; r->n_shapes == i && r->kind->shapes && r->kind->shapes[i]; i++)
        TB_TRY(add_shape(r, r->kind->shapes[i]));
    if (!r->kind->shape_form) r->n_shapes = 1; /* one call without a shape */
    return TB_OK;
}

static tb_status parse_peers(request *r, const tb_args *args)
{
    const char *list = tb_args_get(args, "peer");
    while (list) {
        char name[TB_BENCH_NAME];
        size_t n = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), list);
        if (r->n_peers == MOST_PEERS) return TB_FAIL(TB_ERR_CONFIG, "bench: at most %d peers", MOST_PEERS);
        TB_TRY(tb_bench_find_peer(r->kind, name, &r->peers[r->n_peers++]));
        list = list[n] == ',' ? list + n + 1 : NULL;
    }
    return TB_OK;
}

/* Looked at before the process is bound; neighbours on the host can move the cores apart. */
static tb_status core_to_core(request *r)
{
    tb_noise noise;
    TB_TRY(tb_noise_measure(&noise));
    r->core_to_core_ns = noise.core_to_core_ns;
    return TB_OK;
}

/* Both sides run on the first `threads` cores, peers' threads and processes included: they inherit the set.
 */
static tb_status parse_threads(request *r, const tb_args *args)
{
    const char *word = tb_args_get(args, "threads");
    char *end = NULL;
    long n = word ? strtol(word, &end, 10) : r->kind->threads ? r->kind->threads : 1;
    tb_topo *topo = tb_calloc(1, sizeof *topo);
    if (!topo) return TB_ERR_OOM;
    tb_status st = tb_topo_load(topo);
    if (st == TB_OK && ((end && *end) || n < 1 || n > topo->n_cores))
        st = TB_FAIL(TB_ERR_CONFIG, "bench: --threads %s: this process may use 1 to %d cores", word ? word : "2",
                     topo->n_cores);
    if (st == TB_OK) st = core_to_core(r);
    if (st == TB_OK) st = tb_topo_bind_thread(topo->cores, (int)n);
    r->threads = (int)n;
    tb_free(topo);
    return st;
}

static tb_status parse(const tb_args *args, request *r)
{
    *r = (request){0};
    TB_TRY(tb_bench_find(args->words[0], &r->kind));
    TB_TRY(tb_bench_find_dtype(r->kind, tb_args_get(args, "dtype"), &r->dtype));
    TB_TRY(parse_shapes(r, args));
    TB_TRY(parse_peers(r, args));
    return parse_threads(r, args);
}

/* ---- JSON ---- */
static void put_row(tb_json *j, const tb_bench_row *r)
{
    const struct {
        const char *key, *text;
    } texts[] = {
        {"op", r->op}, {"shape", r->shape}, {"dtype", r->dtype}, {"isa", r->isa}, {"kernel", r->kernel}};
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"median_ns", r->median_ns}, {"gflops", r->gflops}, {"pct_peak", r->pct_peak}};
    tb_json_open(j, '{');
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tb_json_put_str(j, texts[i].key, texts[i].text);
    }
    tb_json_put_int(j, "threads", r->threads);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        tb_json_put_num(j, numbers[i].key, numbers[i].value);
    }
    tb_json_put_str(j, "peer", r->peer);
    tb_json_put_num(j, "peer_median_ns", r->peer_median_ns);
    tb_json_put_num(j, "ratio", r->ratio);
    for (int i = 0; i < r->n_extra; i++) {
        tb_json_put_num(j, r->extra[i].name, r->extra[i].value);
    }
    if (r->peer) {
        tb_json_put_str(j, "peer_detail", r->peer_detail);
    }
    tb_json_close(j, '}');
}

static int print_json(const tb_bench_row *rows, int n)
{
    tb_text text = {0};
    tb_json j = {.to = &text, .pretty = true};
    tb_json_open(&j, '[');
    for (int i = 0; i < n; i++) put_row(&j, &rows[i]);
    tb_json_close(&j, ']');
    printf("%s", tb_text_str(&text));
    int code = text.failed ? tb_report(stderr) : 0;
    tb_text_free(&text);
    return code;
}

/* ---- the table ---- */
static void format_time(double ns, char out[24])
{
    if (isnan(ns))
        snprintf(out, 24, "-");
    else if (ns < 1e3)
        snprintf(out, 24, "%.1f ns", ns);
    else if (ns < 1e6)
        snprintf(out, 24, "%.2f us", ns * 1e-3);
    else
        snprintf(out, 24, "%.2f ms", ns * 1e-6);
}

static void print_row(const tb_bench_row *r)
{
    char median[24], peer[24];
    format_time(r->median_ns, median);
    printf("%-16s %-18s %-22s %11s", r->op, r->shape, r->kernel, median);
    if (r->interval.level > 0)
        printf("  %+.0f/%+.0f %%", 100 * (r->interval.lo / r->median_ns - 1),
               100 * (r->interval.hi / r->median_ns - 1));
    if (!isnan(r->gflops)) printf("  %.1f GFLOP/s", r->gflops);
    if (!isnan(r->pct_peak)) printf("  %.1f %%", r->pct_peak);
    for (int i = 0; i < r->n_extra; i++)
        if (!isnan(r->extra[i].value)) printf("  %s %.4g", r->extra[i].name, r->extra[i].value);
    printf("\n");
    if (!r->peer) return;
    format_time(r->peer_median_ns, peer);
    printf("%16s %-41s %11s  ", "", r->peer, peer);
    if (!isnan(r->ratio))
        printf("ratio %.3f [%.3f, %.3f]  ", r->ratio, r->ratio_interval.lo, r->ratio_interval.hi);
    printf("(%s)\n", r->peer_detail);
}

static void print_table(const request *r, const tb_bench_row *rows, int n)
{
    char name[TB_BENCH_NAME];
    tb_bench_spell(r->kind, name);
    printf("bench %s: %s, %s, %d thread%s\n", name, r->kind->doc, tb_dtype_name(r->dtype), r->threads,
           r->threads > 1 ? "s" : "");
    printf("medians; beside them the ends of their %d %% intervals; percent of what this machine could do, "
           "measured before and after%s\n\n",
           TB_BENCH_LEVEL_PERCENT, r->n_peers ? "; ratio: peer's time / ours, of pairs" : "");
    for (int i = 0; i < n; i++) print_row(&rows[i]);
}

/* ---- running ---- */
static tb_status run_all(const request *r, tb_bench_run *run)
{
    for (int s = 0; s < r->n_shapes; s++)
        for (int p = 0; p < (r->n_peers ? r->n_peers : 1); p++) {
            run->shape = r->shapes[s];
            run->peer = r->n_peers ? r->peers[p] : NULL;
            tb_scope *scope = tb_scope_open();
            tb_status st = r->kind->run(run);
            tb_scope_close(scope);
            TB_TRY(st);
        }
    if (run->n_rows > 0) return TB_OK;
    return run->only ? TB_FAIL(TB_ERR_CONFIG, "bench %s: no op '%s' in this kind", r->kind->name, run->only)
                     : TB_FAIL(TB_ERR_UNSUPPORTED, "bench %s: nothing was measured", r->kind->name);
}

static int bench(const tb_args *args)
{
    request r;
    tb_bench_run run = {0};
    const char *only = tb_args_get(args, "only");
    if (parse(args, &r) != TB_OK) return tb_report(stderr);
    if (only && r.kind->is_whole) {
        fprintf(stderr, "bench %s: --only %s: this kind has no ops to choose from\n", r.kind->name, only);
        return 2;
    }
    tb_status st = tb_ctx_create(&(tb_ctx_config){.threads = r.threads, .seed = 1}, &run.ctx);
    if (st != TB_OK) return tb_report(stderr);
    tb_ctx_enter(run.ctx);
    run.threads = r.threads;
    run.dtype = r.dtype;
    run.only = only;
    run.core_to_core_ns = r.core_to_core_ns;
    st = run_all(&r, &run);
    int code = st != TB_OK ? tb_report(stderr) : 0;
    if (code == 0 && tb_args_has(args, "json"))
        code = print_json(run.rows, run.n_rows);
    else if (code == 0)
        print_table(&r, run.rows, run.n_rows);
    tb_free(run.rows);
    tb_ctx_destroy(run.ctx);
    return code;
}

static const tb_option options[] = {
    {"dtype", 0, "f32|bf16|i8", "what to compute in (default: the kind's first)"},
    {"threads", 0, "N", "on the first N cores (default 1; allreduce 2, its ranks)"},
    {"shape", 0, "MxKxN", "instead of the usual ones; may be given again"},
    {"only", 0, "OP", "of a kind with several ops: this one"},
    {"peer", 0, "NAME,...",
     "beside these: onednn, openblas, torch, own_f32, eager, mpi, free_order, as the kind allows"},
    {"json", 0, NULL, "rows as JSON"},
};

static const char help[] =
    "KIND is one of limits, gemm, conv, attention, elementwise, chain, norm, optimizer, dispatch, order,\n"
    "allreduce, train-step. Results are checked against plain references before anything is timed; a peer's ratio is\n"
    "left out where the peer itself does not reach what it is known for.";

TB_VERB(bench, .group = TB_VERB_MACHINE, .args = "KIND [SHAPE...]", .min_args = 1, .max_args = MOST_SHAPES,
        .doc = "Time kernels and paths of the engine against this machine's limits and against peers",
        .help = help, .options = options, .n_options = sizeof options / sizeof *options, .run = bench);
