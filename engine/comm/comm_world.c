/* The group that a launch forms: one process, or those of mpirun over the fastest backend that reaches them all. MPI
 * brings the processes together and hands round the id of whatever is faster. */
#include "comm_internal.h"
#include "tb_log.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NODE_NAME = 128 };

static bool under_mpirun(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
}

static void node_name(const tb_comm *c, char out[NODE_NAME])
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    const char *fake = getenv("TB_FAKE_NODES");
    int nodes = fake ? atoi(fake) : 1;
    memset(out, 0, NODE_NAME);
    snprintf(out, NODE_NAME, "%s %d", host, nodes > 1 ? c->rank * nodes / c->size : 0);
}

/* How many ranks each node has, where they are in order and a power of two of them on each; else 0. */
static int ranks_per_node(const char *all, int ranks)
{
    int per_node = 1;
    while (per_node < ranks && memcmp(all, all + (size_t)per_node * NODE_NAME, NODE_NAME) == 0) per_node++;
    for (int r = 0; r < ranks; r++) {
        const char *first = all + (size_t)(r / per_node * per_node) * NODE_NAME;
        bool starts = r > 0 && r % per_node == 0, same = memcmp(first, all + (size_t)r * NODE_NAME, NODE_NAME) == 0;
        if (!same || (starts && memcmp(first, first - NODE_NAME, NODE_NAME) == 0)) return 0;
    }
    return ranks % per_node == 0 && (per_node & (per_node - 1)) == 0 ? per_node : 0;
}

/* *other: a rank on another node than rank 0, or -1. The same on every rank. */
static tb_status find_nodes(tb_comm *c, int *other, int *per_node)
{
    char mine[NODE_NAME], *all = tb_calloc((size_t)c->size, NODE_NAME);
    if (!all) return tb_error_code();
    node_name(c, mine);
    tb_status st = tb_comm_allgather(c, mine, all, NODE_NAME, NULL, NULL);
    *other = -1;
    for (int r = c->size - 1; r > 0; r--)
        if (memcmp(all, all + (size_t)r * NODE_NAME, NODE_NAME) != 0) *other = r;
    *per_node = ranks_per_node(all, c->size);
    tb_free(all);
    return st;
}

tb_status tbi_comm_share_memory(tb_comm *mpi, const tb_comm_options *options, tb_comm **out)
{
    tb_comm_id id;
    tb_status st = mpi->rank == 0 ? tb_comm_make_id("shm", mpi->size, &id) : TB_OK;
    TB_TRY(tb_comm_agree(mpi, st));
    TB_TRY(tb_comm_bcast(mpi, &id, sizeof id, 0, NULL, NULL));
    st = tb_comm_open("shm", mpi->rank, mpi->size, &id, options, out);
    tb_status all = tb_comm_agree(mpi, st);
    if (all == TB_OK) (*out)->parent = mpi;
    else if (st == TB_OK) tb_comm_close(*out);
    return all;
}

/* Over MPI that is already open, the best (or the wanted) backend; takes `mpi` over when it succeeds. */
static tb_status choose(tb_comm *mpi, const char *wanted, const tb_comm_options *options, tb_comm **out)
{
    int other = -1, per_node = 0;
    tb_status st = TB_OK;
    if (wanted && strcmp(wanted, "mpi") == 0) {
        *out = mpi;
        return TB_OK;
    }
    TB_TRY(find_nodes(mpi, &other, &per_node));
    if (other < 0) {
        st = tbi_comm_share_memory(mpi, options, out);
        if (st == TB_OK || wanted) return st;
    } else if (wanted) {
        return TB_FAIL(TB_ERR_UNSUPPORTED, "backend shm reaches one node only; rank %d runs on another than rank 0",
                       other);
    } else if (per_node > 1) {
        st = tbi_comm_add_nodes(mpi, per_node, options);
    }
    if (st != TB_OK) tb_log_write(TB_LOG_WARN, "communication falls back to MPI: %s", tb_error_message());
    *out = mpi;
    return TB_OK;
}

tb_status tb_comm_open_world(const char *backend, const tb_comm_options *options, tb_comm **out)
{
    tb_comm *mpi = NULL;
    *out = NULL;
    bool alone = !under_mpirun() || (options && options->ranks == 1);
    if (alone && (!backend || strcmp(backend, "self") == 0))
        return tbi_comm_open_backend("self", 0, 1, NULL, options, out);
    if (backend && strcmp(backend, "mpi") != 0 && strcmp(backend, "shm") != 0)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "backend '%s' does not reach the processes of mpirun; mpi and shm do",
                       backend);
    TB_TRY(tbi_comm_open_backend("mpi", 0, options ? options->ranks : 0, NULL, options, &mpi));
    tb_status st = choose(mpi, backend, options, out);
    if (st != TB_OK) tb_comm_close(mpi);
    else tb_log_write(TB_LOG_INFO, "communication: %s, %d ranks", (*out)->name, (*out)->size);
    return st;
}
