/* tb mpi_sums: MPI_Allreduce for `tb bench allreduce --peer mpi`, one rank of those that scripts/peers/mpi_allreduce.sh
 * starts. Rank 0 checks one sum, says "ready VERSION", then answers each number of sums on standard input with the
 * milliseconds that they took. Between questions the ranks sleep, so that the other side has the cores. */
#include "execute.h"
#include "group.h"
#include "tb_alloc.h"
#include "tb_comm.h"
#include "tb_cpu.h"
#include "tb_topo.h"
#include "tb_verb.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct sums {
    tb_comm *comm;
    int rank, ranks;
    float *data;
    int64_t n;
} sums;

/* As the other side of the bench writes it: whole numbers, so every order gives the same sum. */
static float value_of(int64_t i, int rank) { return (float)(i % 1000 * (rank + 1)); }

static tb_status sum(const sums *s, int64_t times, double *ns)
{
    *ns = 0;
    for (int64_t k = 0; k < times; k++) {
        for (int64_t i = 0; i < s->n; i++) s->data[i] = value_of(i, s->rank);
        TB_TRY(tb_comm_barrier(s->comm));
        int64_t start = tb_now_ns();
        TB_TRY(tb_comm_allreduce(s->comm, s->data, s->n, TB_F32, TB_REDUCE_SUM, NULL, NULL));
        *ns += (double)(tb_now_ns() - start);
    }
    return TB_OK;
}

static tb_status check(const sums *s)
{
    double ns;
    TB_TRY(sum(s, 1, &ns));
    for (int64_t i = 0; i < s->n; i++)
        if (s->data[i] != value_of(i, s->ranks * (s->ranks + 1) / 2 - 1))
            return TB_FAIL(TB_ERR_PARITY, "mpi_sums: rank %d of %d: element %lld is not the sum", s->rank, s->ranks,
                           (long long)i);
    return TB_OK;
}

/* Rank 0 reads the next question and hands it on; 0 at the end of the input. */
static tb_status next(const sums *s, int64_t *times)
{
    char line[32];
    tb_request request = {0};
    if (s->rank > 0) {
        TB_TRY(tb_comm_irecv(s->comm, times, sizeof *times, 0, NULL, &request));
        for (bool done = false;;) {
            TB_TRY(tb_comm_poll(s->comm, &request, &done));
            if (done) return TB_OK;
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
    }
    *times = fgets(line, sizeof line, stdin) ? strtoll(line, NULL, 10) : 0;
    for (int r = 1; r < s->ranks; r++) TB_TRY(tb_comm_isend(s->comm, times, sizeof *times, r, NULL, NULL));
    return TB_OK;
}

static tb_status serve(const sums *s)
{
    char version[64];
    int64_t times;
    double ns;
    TB_TRY(check(s));
    snprintf(version, sizeof version, "%.*s", (int)strcspn(tb_group_library(), ","), tb_group_library());
    for (char *c = version; *c; c++)
        if (*c == ' ') *c = '_';
    if (s->rank == 0) printf("ready %s\n", version);
    for (;;) {
        fflush(stdout);
        TB_TRY(next(s, &times));
        if (times <= 0) return TB_OK;
        TB_TRY(sum(s, times, &ns));
        if (s->rank == 0) printf("%.9g\n", ns * 1e-6);
    }
}

static tb_status open_sums(sums *s, const char *kib)
{
    tb_topo *topo = tb_calloc(1, sizeof *topo);
    if (!topo) return TB_ERR_OOM;
    s->rank = tb_group_env_rank() > 0 ? tb_group_env_rank() : 0;
    s->ranks = tb_group_env_size();
    tb_status st = tb_topo_load(topo);
    if (st == TB_OK) st = tb_bind_rank(topo, s->rank, s->ranks, 1);
    tb_free(topo);
    TB_TRY(st);
    TB_TRY(tb_comm_open_world("mpi", &(tb_comm_options){.native = true}, &s->comm));
    s->n = strtoll(kib, NULL, 10) * 1024 / (int64_t)sizeof *s->data;
    s->data = tb_comm_alloc(s->comm, (size_t)s->n * sizeof *s->data);
    return s->data ? TB_OK : tb_error_code();
}

static int mpi_sums(const tb_args *args)
{
    sums s = {0};
    if (tb_group_env_size() < 2) {
        fprintf(stderr, "tb mpi_sums: mpirun starts it, for tb bench allreduce --peer mpi\n");
        return 2;
    }
    tb_status st = open_sums(&s, args->words[0]);
    if (st == TB_OK) st = serve(&s);
    if (st != TB_OK) { /* the others wait for this rank: mpirun ends them */
        fprintf(stderr, "tb mpi_sums: %s\n", tb_error_message());
        return tb_status_exit_code(st);
    }
    tb_comm_free(s.comm, s.data);
    tb_comm_close(s.comm);
    return 0;
}

TB_VERB(mpi_sums, .group = TB_VERB_INTERNAL, .args = "KIB", .min_args = 1, .max_args = 1,
        .doc = "One rank of MPI_Allreduce; started by tb bench allreduce --peer mpi", .run = mpi_sums);
