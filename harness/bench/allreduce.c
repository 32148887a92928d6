/* allreduce: a sum over ranks in shared memory, each rank a thread on a core of its own (--threads says how
 * many), of data that every rank has just written, as gradients are. The bound is the fastest of the ways in which
 * the same cores can move what must cross between them (crossing.h), each taking turns with the sum: a row each, and
 * pct_peak is the least of their times over the sum's. The peer mpi is MPI_Allreduce among as many processes, measured
 * with both ways in which Open MPI copies: the row holds the one that is better beside us. `tb run allreduce` measures
 * our ranks as processes too. */
#include "crossing.h"
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_comm.h"
#include "tb_cpu.h"
#include "tb_kernel.h"
#include "peer.h"
#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { MOST_RANKS = 64 };

typedef enum task { SUM, CROSS, LEAVE } task;

typedef struct rank_state {
    struct team *team;
    int rank;
    pthread_t thread;
    tb_comm *comm;
    float *data;
    void *theirs[MOST_RANKS];
    float *all[MOST_RANKS]; /* the same, own data included */
    double checksum;        /* of what it has read: it must be read */
    tb_status st;
    int64_t took_ns; /* of one run; others read it between two barriers */
    double ns;       /* of the last task's runs */
    char why[256];
} rank_state;

typedef struct team {
    int ranks;
    int64_t n;
    tb_comm_id id;
    pthread_barrier_t gate; /* before and after each task */
    task task;
    tb_crossing way; /* of CROSS */
    tb_isa isa;
    int64_t times;
    rank_state rank[MOST_RANKS];
} team;

/* Whole numbers small enough that every order gives the same sum. */
static float value_of(int64_t i, int rank) { return (float)(i % 1000 * (rank + 1)); }

static tb_status join(rank_state *r)
{
    team *t = r->team;
    TB_TRY(tb_comm_open("shm", r->rank, t->ranks, &t->id, NULL, &r->comm));
    r->data = tb_comm_alloc(r->comm, (size_t)t->n * sizeof *r->data);
    if (!r->data) return tb_error_code();
    TB_TRY(tb_comm_addresses(r->comm, r->data, r->theirs));
    for (int o = 0; o < t->ranks; o++) r->all[o] = r->theirs[o];
    return TB_OK;
}

/* A sum is there when the last rank has done its part; a crossing too. */
static int64_t longest(const team *t)
{
    int64_t most = 0;
    for (int r = 0; r < t->ranks; r++)
        if (t->rank[r].took_ns > most) most = t->rank[r].took_ns;
    return most;
}

static tb_status perform(rank_state *r)
{
    team *t = r->team;
    r->ns = 0;
    for (int64_t i = 0; i < t->times; i++) {
        for (int64_t k = 0; k < t->n; k++) r->data[k] = value_of(k, r->rank);
        TB_TRY(tb_comm_barrier(r->comm));
        int64_t start = tb_now_ns();
        if (t->task == CROSS)
            tb_cross(t->way, t->isa, r->all, t->n, r->rank, t->ranks, &r->checksum);
        else
            TB_TRY(tb_comm_allreduce(r->comm, r->data, t->n, TB_F32, TB_REDUCE_SUM, NULL, NULL));
        r->took_ns = tb_now_ns() - start;
        if (t->task == CROSS) TB_TRY(tb_comm_barrier(r->comm)); /* the others may still be at it */
        r->ns += (double)(t->task == CROSS ? longest(t) : r->took_ns);
    }
    return TB_OK;
}

static void note(rank_state *r, tb_status st)
{
    if (st == TB_OK || r->st != TB_OK) return;
    r->st = st;
    snprintf(r->why, sizeof r->why, "%s", tb_error_message());
}

static void *live(void *arg)
{
    rank_state *r = arg;
    note(r, join(r));
    for (;;) {
        pthread_barrier_wait(&r->team->gate);
        if (r->team->task == LEAVE) break;
        if (r->st == TB_OK) note(r, perform(r));
        pthread_barrier_wait(&r->team->gate);
    }
    if (r->comm) tb_comm_free(r->comm, r->data);
    tb_comm_close(r->comm);
    return NULL;
}

/* Rank 0 is the caller. */
static tb_status all_perform(team *t, task what, int64_t times)
{
    t->task = what;
    t->times = times;
    pthread_barrier_wait(&t->gate);
    if (t->rank[0].st == TB_OK) note(&t->rank[0], perform(&t->rank[0]));
    pthread_barrier_wait(&t->gate);
    for (int i = 0; i < t->ranks; i++)
        if (t->rank[i].st != TB_OK) return TB_FAIL(t->rank[i].st, "rank %d: %s", i, t->rank[i].why);
    return TB_OK;
}

static tb_status run_sums(void *self, int64_t times, double *ns)
{
    team *t = self;
    TB_TRY(all_perform(t, SUM, times));
    *ns = t->rank[0].ns;
    return TB_OK;
}

static tb_status run_crossing(void *self, int64_t times, double *ns)
{
    team *t = self;
    TB_TRY(all_perform(t, CROSS, times));
    *ns = t->rank[0].ns;
    return TB_OK;
}

static tb_status check_sum(void *self)
{
    const team *t = self;
    int64_t wrong = 0;
    for (int r = 0; r < t->ranks; r++)
        for (int64_t i = 0; i < t->n; i++)
            wrong += t->rank[r].data[i] != value_of(i, t->ranks * (t->ranks + 1) / 2 - 1);
    return tb_bench_judge("allreduce", wrong ? INFINITY : 0);
}

/* ---- MPI ---- */
static tb_status run_mpi(void *self, int64_t times, double *ns)
{
    double ms = 0;
    TB_TRY(tb_peer_repeat(self, times, &ms));
    *ns = ms * 1e6;
    return TB_OK;
}

static tb_status measure_beside_mpi(tb_bench_run *run, const char *mechanism, tb_bench_case c)
{
    char ranks[16], kib[24], program[4096] = "", version[64], detail[96], way[16];
    char *args[] = {way, ranks, kib, program, NULL};
    tb_peer *mpi = NULL;
    snprintf(way, sizeof way, "%s", mechanism);
    snprintf(ranks, sizeof ranks, "%d", run->threads);
    snprintf(kib, sizeof kib, "%lld", (long long)run->shape.at[0]);
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return TB_FAIL(TB_ERR_IO, "bench allreduce: cannot find this program's file");
    tb_status st = tb_peer_start("mpi_allreduce.sh", args, &mpi, version);
    if (st == TB_OK) {
        snprintf(detail, sizeof detail, "%s, single copy: %s", version, mechanism);
        c.peer = (tb_bench_side){run_mpi, mpi};
        c.peer_detail = detail;
        st = tb_bench_measure(run, &c);
    }
    tb_peer_stop(mpi);
    return st;
}

/* The last row is beside the better of Open MPI's two ways. */
static tb_status measure_sums(tb_bench_run *run, const tb_bench_case *c)
{
    if (!run->peer) return tb_bench_measure(run, c);
    TB_TRY(measure_beside_mpi(run, "cma", *c));
    TB_TRY(measure_beside_mpi(run, "none", *c));
    tb_bench_row *two = &run->rows[run->n_rows - 2];
    if (two[1].ratio < two[0].ratio) two[0] = two[1];
    run->n_rows--;
    return TB_OK;
}

/* ---- the bound ---- */
/* A row for one way, and *percent: its time over that of sums that took turns with it. */
static tb_status measure_crossing(tb_bench_run *run, team *t, tb_bench_case sums, double *percent)
{
    sums.peer = (tb_bench_side){run_crossing, t};
    TB_TRY(tb_bench_measure(run, &sums));
    tb_bench_row *r = &run->rows[run->n_rows - 1];
    *percent = 100 * r->ratio;
    snprintf(r->op, sizeof r->op, "crossing");
    snprintf(r->kernel, sizeof r->kernel, "%s %s", tb_crossing_name(t->way), tb_isa_name(t->isa));
    snprintf(r->isa, sizeof r->isa, "%s", tb_isa_name(t->isa));
    r->median_ns = r->peer_median_ns;
    r->interval = (tb_interval){NAN, NAN, NAN};
    r->peer = NULL;
    r->peer_median_ns = r->ratio = NAN;
    double crossed = (double)tb_crossing_count(t->n, t->ranks) * sizeof(float);
    tb_bench_extra_add(run, "gb_per_s", crossed / r->median_ns);
    return TB_OK;
}

static tb_status measure_bound(tb_bench_run *run, team *t, const tb_bench_case *sums, double *percent)
{
    *percent = INFINITY;
    for (int way = 0; way < TB_CROSSINGS; way++)
        for (int isa = 0; isa <= (int)tb_ctx_isa(run->ctx); isa++) {
            double now;
            if (!tb_crossing_exists((tb_crossing)way, t->ranks, (tb_isa)isa)) continue;
            if (way != TB_CROSSING_COPY && isa == TB_ISA_SCALAR) continue; /* never the fastest */
            if (way == TB_CROSSING_READ && isa < (int)tb_ctx_isa(run->ctx) &&
                tb_crossing_exists(TB_CROSSING_READ, t->ranks, (tb_isa)(isa + 1)))
                continue; /* the widest loads that may be used read fastest */
            t->way = (tb_crossing)way;
            t->isa = (tb_isa)isa;
            TB_TRY(measure_crossing(run, t, *sums, &now));
            *percent = fmin(*percent, now);
        }
    return TB_OK;
}

static tb_status measure(tb_bench_run *run, team *t)
{
    const tb_kernel *kernel = NULL;
    double percent;
    (void)tb_kernel_find("rank_sum", TB_F32, tb_ctx_isa(run->ctx), &kernel, 1);
    tb_bench_case sums = {.op = "allreduce",
                          .kernel = kernel ? kernel->name : "plain",
                          .ours = {run_sums, t},
                          .check = check_sum,
                          .isa = kernel ? kernel->isa : TB_ISA_SCALAR};
    snprintf(sums.shape, sizeof sums.shape, "%lld KiB", (long long)run->shape.at[0]);
    TB_TRY(measure_bound(run, t, &sums, &percent));
    TB_TRY(measure_sums(run, &sums));
    tb_bench_row *r = &run->rows[run->n_rows - 1];
    r->pct_peak = percent;
    tb_bench_extra_add(run, "gb_per_s", (double)t->n * sizeof(float) / r->median_ns);
    return TB_OK;
}

static tb_status run_allreduce(tb_bench_run *run)
{
    if (run->threads < 2 || run->threads > MOST_RANKS)
        return TB_FAIL(TB_ERR_CONFIG, "bench allreduce: a rank is a thread here; --threads 2 to %d",
                       MOST_RANKS);
    team *t = tb_calloc(1, sizeof *t);
    if (!t) return TB_ERR_OOM;
    t->ranks = run->threads;
    t->n = run->shape.at[0] * 1024 / (int64_t)sizeof(float);
    tb_status st = tb_comm_make_id("shm", t->ranks, &t->id);
    pthread_barrier_init(&t->gate, NULL, (unsigned)t->ranks);
    int started = 1;
    for (int i = 0; i < t->ranks; i++) t->rank[i] = (rank_state){.team = t, .rank = i};
    for (; st == TB_OK && started < t->ranks; started++)
        if (pthread_create(&t->rank[started].thread, NULL, live, &t->rank[started]) != 0)
            return TB_FAIL(TB_ERR_OOM, "bench allreduce: no thread for rank %d",
                           started); /* others still use t */
    if (st == TB_OK) {
        note(&t->rank[0], join(&t->rank[0]));
        st = measure(run, t);
        t->task = LEAVE;
        pthread_barrier_wait(&t->gate);
        if (t->rank[0].comm) tb_comm_free(t->rank[0].comm, t->rank[0].data);
        tb_comm_close(t->rank[0].comm);
        for (int i = 1; i < t->ranks; i++) pthread_join(t->rank[i].thread, NULL);
    }
    pthread_barrier_destroy(&t->gate);
    tb_free(t);
    return st;
}

static const char *const shapes[] = {"256", "1024", "4096", "16384", "25600", NULL};
static const char *const peers[] = {"mpi", NULL};

TB_BENCH(allreduce, .doc = "a sum over ranks in shared memory", .shape_form = "KIB", .shapes = shapes,
         .dtypes = 1u << TB_F32, .threads = 2, .peers = peers, .is_whole = true, .run = run_allreduce);
