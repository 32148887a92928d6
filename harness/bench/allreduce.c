/* allreduce: a sum over ranks in shared memory, each rank a thread on a core of its own (--threads says how
 * many), of data that every rank has just written, as gradients are. The bound is the row `move` beside it:
 * the same bytes moved between the same ranks' memory by plain copies, without a sum. The peer mpi is
 * MPI_Allreduce among as many processes, measured with both ways in which Open MPI copies: the row holds the
 * one that is better beside us. `tb run allreduce` measures our ranks as processes too. */
#include "tb_alloc.h"
#include "tb_bench.h"
#include "tb_comm.h"
#include "tb_cpu.h"
#include "tb_kernel.h"
#include "peer.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_RANKS = 64 };

typedef enum task { SUM, MOVE, LEAVE } task;

typedef struct rank_state {
    struct team *team;
    int rank;
    pthread_t thread;
    tb_comm *comm;
    float *data;
    void *theirs[MOST_RANKS];
    tb_status st;
    double ns; /* of the last task's collectives */
    char why[256];
} rank_state;

typedef struct team {
    int ranks;
    int64_t n;
    tb_comm_id id;
    pthread_barrier_t gate; /* before and after each task */
    task task;
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
    return tb_comm_addresses(r->comm, r->data, r->theirs);
}

/* This rank's share of every other rank's data to here, and as much from here to there. */
static tb_status move(rank_state *r)
{
    const team *t = r->team;
    int64_t first = t->n * r->rank / t->ranks, n = t->n * (r->rank + 1) / t->ranks - first;
    size_t bytes = (size_t)n * sizeof *r->data;
    for (int o = 0; o < t->ranks; o++)
        if (o != r->rank) memcpy(r->data + first, (float *)r->theirs[o] + first, bytes);
    for (int o = 0; o < t->ranks; o++)
        if (o != r->rank) memcpy((float *)r->theirs[o] + first, r->data + first, bytes);
    return tb_comm_barrier(r->comm);
}

static tb_status perform(rank_state *r)
{
    team *t = r->team;
    r->ns = 0;
    for (int64_t i = 0; i < t->times; i++) {
        for (int64_t k = 0; k < t->n; k++) r->data[k] = value_of(k, r->rank);
        TB_TRY(tb_comm_barrier(r->comm));
        int64_t start = tb_now_ns();
        if (t->task == MOVE)
            TB_TRY(move(r));
        else
            TB_TRY(tb_comm_allreduce(r->comm, r->data, t->n, TB_F32, TB_REDUCE_SUM, NULL, NULL));
        r->ns += (double)(tb_now_ns() - start);
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

static tb_status run_moves(void *self, int64_t times, double *ns)
{
    team *t = self;
    TB_TRY(all_perform(t, MOVE, times));
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

static tb_status measure(tb_bench_run *run, team *t)
{
    const tb_kernel *kernel = NULL;
    (void)tb_kernel_find("rank_sum", TB_F32, tb_ctx_isa(run->ctx), &kernel, 1);
    tb_bench_case moves = {.op = "move", .kernel = "memcpy", .ours = {run_moves, t}};
    tb_bench_case sums = {.op = "allreduce",
                          .kernel = kernel ? kernel->name : "plain",
                          .ours = {run_sums, t},
                          .check = check_sum,
                          .isa = kernel ? kernel->isa : TB_ISA_SCALAR};
    snprintf(moves.shape, sizeof moves.shape, "%lld KiB", (long long)run->shape.at[0]);
    snprintf(sums.shape, sizeof sums.shape, "%s", moves.shape);
    TB_TRY(tb_bench_measure(run, &moves));
    double least = run->rows[run->n_rows - 1].median_ns, bytes = (double)t->n * sizeof(float);
    tb_bench_extra_add(run, "gb_per_s", bytes / least);
    TB_TRY(measure_sums(run, &sums));
    tb_bench_row *r = &run->rows[run->n_rows - 1];
    r->pct_peak = 100 * least / r->median_ns;
    tb_bench_extra_add(run, "gb_per_s", bytes / r->median_ns);
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
         .dtypes = 1u << TB_F32, .threads = 2, .peers = peers, .run = run_allreduce);
