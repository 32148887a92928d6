/* Check, then time, then judge: what every kind shares. */
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_cpu.h"
#include "tb_pool.h"
#include "tb_rng.h"
#include "tb_topo.h"
#include <math.h>
#include <string.h>
#include <time.h>

enum { MOST_PAIRS = 41, FEWEST_PAIRS = 9, BLOCK_NS = 2000000, WARMUP_NS = 60000000, BUDGET_NS = 1500000000 };

static const double level = TB_BENCH_LEVEL_PERCENT / 100.0, peer_part_wanted = 0.9;

double tb_bench_value(uint64_t stream, int64_t i)
{
    return 2.0 * (double)tb_random_below(1, stream, (uint64_t)i, 1u << 24) / (1u << 24) - 1;
}

tb_status tb_bench_judge(const char *op, double worst)
{
    if (worst <= 1) return TB_OK;
    return TB_FAIL(TB_ERR_PARITY,
                   "%s: the result is off the plain reference by %.3g times what rounding allows; "
                   "nothing was timed",
                   op, worst);
}

bool tb_bench_peer_is_void(double percent, double known_percent)
{
    return known_percent > 0 && !(percent >= peer_part_wanted * known_percent);
}

static tb_status run_block(const tb_bench_side *side, int64_t times, double *ns_each)
{
    double own = 0;
    int64_t start = tb_now_ns();
    TB_TRY(side->run(side->self, times, &own));
    double ns = own > 0 ? own : (double)(tb_now_ns() - start);
    *ns_each = ns / (double)times;
    return TB_OK;
}

/* Warms a side up and says how many runs make a block. */
static tb_status warm_up(const tb_bench_side *side, int64_t most, int64_t *times)
{
    double each = 0, least = INFINITY; /* one slow block must not make all blocks short */
    *times = 1;
    for (int64_t start = tb_now_ns(); tb_now_ns() - start < WARMUP_NS;) {
        TB_TRY(run_block(side, *times, &each));
        least = fmin(least, each);
        double wanted = ceil(BLOCK_NS / fmax(least, 0.01));
        *times = wanted > 4.0 * (double)*times ? 4 * *times : (int64_t)fmax(wanted, 1);
        if (most > 0 && *times > most) *times = most;
    }
    return TB_OK;
}

/* A peer's threads may still spin after its block (OpenBLAS's for 2^26 clocks), as ours do. */
static tb_status settled_block(const tb_bench_side *side, bool has_pools, int64_t times, double *ns_each)
{
    if (has_pools) {
        nanosleep(&(struct timespec){.tv_nsec = 25000000}, NULL);
        TB_TRY(run_block(side, 1, ns_each));
    }
    return run_block(side, times, ns_each);
}

typedef struct samples {
    int n;
    double ours[MOST_PAIRS], peer[MOST_PAIRS];
} samples;

/* The caller and our pool's threads, each on a core of its own: the system would wake a parked thread on the caller's.
 * Peers have started their threads by then, on all of the cores; they would inherit one. Undone: the caller has all. */
static tb_status pin_threads(const tb_bench_run *run, bool pinned)
{
    if (run->threads == 1) return TB_OK;
    tb_topo *topo = tb_calloc(1, sizeof *topo);
    if (!topo) return TB_ERR_OOM;
    tb_status st = tb_topo_load(topo);
    if (st == TB_OK && pinned) st = tb_pool_bind(tb_ctx_pool(run->ctx), topo->cores, run->threads);
    if (st == TB_OK && !pinned) st = tb_topo_bind_thread(topo->cores, run->threads);
    tb_free(topo);
    return st;
}

static tb_status take_samples(const tb_bench_run *run, const tb_bench_case *c, samples *s)
{
    int64_t times[2] = {1, 1};
    bool has_peer = c->peer.run != NULL, has_pools = has_peer && run->threads > 1;
    int64_t start = tb_now_ns();
    TB_TRY(warm_up(&c->ours, c->most_times, &times[0]));
    if (has_peer) TB_TRY(warm_up(&c->peer, c->most_times, &times[1]));
    for (s->n = 0; s->n < MOST_PAIRS; s->n++) {
        if (s->n >= FEWEST_PAIRS && tb_now_ns() - start > BUDGET_NS) break;
        for (int turn = 0; turn < 1 + has_peer; turn++) {
            bool is_peer = has_peer && (turn ^ (s->n & 1));
            TB_TRY(settled_block(is_peer ? &c->peer : &c->ours, has_pools, times[is_peer],
                                 is_peer ? &s->peer[s->n] : &s->ours[s->n]));
        }
        if (run->pair) run->pair(run->pair_arg, s->n, s->ours[s->n], has_peer ? s->peer[s->n] : (double)NAN);
    }
    return TB_OK;
}

/* The least time that the machine's limits allow one run; 0: no limit is known. */
static double bound_ns(const tb_bench_run *run, const tb_bench_case *c)
{
    tb_pool *pool = tb_ctx_pool(run->ctx);
    double compute = c->flops > 0 ? tb_limit_flops(run->dtype, c->isa, pool) : 0;
    double read = c->bytes > 0 ? tb_limit_read((size_t)c->bytes, tb_isa_detect(), pool) : 0;
    double ns = compute > 0 ? c->flops / compute * 1e9 : 0;
    return read > 0 ? fmax(ns, c->bytes / read * 1e9) : ns;
}

static tb_roofline roofline_of(const tb_bench_run *run, const tb_bench_case *c, double compute_ns)
{
    double read = tb_limit_read((size_t)c->operand_bytes, tb_isa_detect(), tb_ctx_pool(run->ctx));
    return (tb_roofline){c->flops, c->operand_bytes, c->flops / compute_ns, read * 1e-9};
}

/* ---- rows ---- */
bool tb_bench_wants(const tb_bench_run *run, const char *op)
{
    return !run->only || strcmp(run->only, op) == 0;
}

tb_bench_row *tb_bench_row_add(tb_bench_run *run, const char *op, const char *shape)
{
    tb_bench_row *rows = tb_realloc(run->rows, sizeof *rows * (size_t)(run->n_rows + 1));
    if (!rows) return NULL;
    run->rows = rows;
    tb_bench_row *r = &rows[run->n_rows++];
    *r = (tb_bench_row){.dtype = tb_dtype_name(run->dtype),
                        .threads = run->threads,
                        .median_ns = NAN,
                        .gflops = NAN,
                        .pct_peak = NAN,
                        .peer_median_ns = NAN,
                        .ratio = NAN,
                        .roofline = {NAN, NAN, NAN, NAN}};
    snprintf(r->op, sizeof r->op, "%s", op);
    snprintf(r->shape, sizeof r->shape, "%s", shape);
    snprintf(r->isa, sizeof r->isa, "%s", tb_isa_name(tb_ctx_isa(run->ctx)));
    return r;
}

void tb_bench_extra_add(tb_bench_run *run, const char *name, double value)
{
    tb_bench_row *r = &run->rows[run->n_rows - 1];
    if (r->n_extra < TB_BENCH_EXTRAS) r->extra[r->n_extra++] = (tb_bench_extra){name, value};
}

static tb_status fill_peer(tb_bench_row *r, const char *name, const tb_bench_case *c, const samples *s,
                           double bound)
{
    tb_pairs pairs;
    double sorted[MOST_PAIRS];
    TB_TRY(tb_paired_ratio(s->ours, s->peer, s->n, level, 0.05, &pairs));
    memcpy(sorted, s->peer, sizeof sorted);
    tb_sort(sorted, s->n);
    r->peer = name;
    r->peer_median_ns = tb_median(sorted, s->n);
    r->ratio = pairs.ratio;
    r->ratio_interval = pairs.interval;
    double percent = bound > 0 ? 100 * bound / r->peer_median_ns : 0;
    if (tb_bench_peer_is_void(percent, c->peer_known_percent)) {
        r->ratio = NAN;
        snprintf(r->peer_detail, sizeof r->peer_detail, "void: %.0f %% of peak, known to reach %.0f; %s",
                 percent, c->peer_known_percent, c->peer_detail ? c->peer_detail : "");
    } else {
        snprintf(r->peer_detail, sizeof r->peer_detail, "%s", c->peer_detail ? c->peer_detail : "");
    }
    return TB_OK;
}

static tb_status checked(const tb_bench_side *side, tb_status (*check)(void *self))
{
    double ns = 0;
    TB_TRY(side->run(side->self, 1, &ns));
    return check ? check(side->self) : TB_OK;
}

/* A wrong peer is void: our row stands, without it. */
static tb_status check_peer(const tb_bench_case *c, bool *is_void)
{
    tb_status st = c->peer.run ? checked(&c->peer, c->peer_check) : TB_OK;
    *is_void = st == TB_ERR_PARITY;
    return *is_void ? TB_OK : st;
}

tb_status tb_bench_measure(tb_bench_run *run, const tb_bench_case *given)
{
    samples s;
    bool wrong_peer;
    tb_bench_case c = *given;
    TB_TRY(checked(&c.ours, c.check));
    TB_TRY(check_peer(&c, &wrong_peer));
    if (wrong_peer) c.peer.run = NULL;
    double before = bound_ns(run, &c);
    TB_TRY(pin_threads(run, true));
    tb_status taken = take_samples(run, &c, &s), freed = pin_threads(run, false);
    TB_TRY(taken);
    TB_TRY(freed);
    double after = bound_ns(run, &c), bound = fmin(before, after); /* a neighbour can only lengthen it */
    tb_bench_row *r = tb_bench_row_add(run, c.op, c.shape);
    if (!r) return TB_ERR_OOM;
    snprintf(r->kernel, sizeof r->kernel, "%s", c.kernel);
    snprintf(r->isa, sizeof r->isa, "%s", tb_isa_name(c.isa));
    if (c.peer.run) TB_TRY(fill_peer(r, run->peer, &c, &s, bound));
    if (wrong_peer) {
        r->peer = run->peer;
        snprintf(r->peer_detail, sizeof r->peer_detail, "void: wrong results; %s",
                 c.peer_detail ? c.peer_detail : "");
    }
    tb_sort(s.ours, s.n);
    r->median_ns = tb_median(s.ours, s.n);
    r->interval = tb_quantile_interval(s.ours, s.n, 0.5, level);
    if (c.flops > 0) r->gflops = c.flops / r->median_ns;
    if (bound > 0) r->pct_peak = 100 * bound / r->median_ns;
    if (bound > 0 && c.operand_bytes > 0) r->roofline = roofline_of(run, &c, bound);
    if (c.bytes > 0) tb_bench_extra_add(run, "gb_per_s", c.bytes / r->median_ns);
    if (run->threads > 1) tb_bench_extra_add(run, "core_to_core_ns", run->core_to_core_ns);
    return TB_OK;
}
