/* Several nodes: put around a group over MPI, it sums in each node's shared memory before anything goes between nodes.
 * An allreduce is three steps: the ranks of a node sum all of the data; each then sums its shard over the nodes with
 * the ranks of its place there, so that a byte crosses once per node, not once per rank; and takes the other shards
 * from its neighbours. With a power of two of ranks on every node, in order, that is the one tree over all ranks
 * (comm_reduce.c), to the bit. 16-bit floats, which are rounded once, sums that their owner maps, and everything else
 * go over MPI as they are. */
#include "comm_internal.h"
#include <string.h>

typedef struct nodes {
    tb_comm *node;    /* shm: the ranks of this node */
    tb_comm *between; /* mpi: the ranks of this place on all nodes */
} nodes;

static tb_status keep(tb_comm *c, const tb_comm *group, tb_status st)
{
    const nodes *n = c->state;
    int blamed = tbi_comm_accuser(group)->blamed;
    if (st == TB_OK) return st;
    if (blamed >= 0)
        c->blamed = group == n->node ? c->rank / n->node->size * n->node->size + blamed
                                     : blamed * n->node->size + n->node->rank;
    tb_error_add("a part of what rank %d of %d was in: %s; there rank %d is rank %d of all", c->rank, c->size, c->doing,
                 blamed, c->blamed);
    return st;
}

/* Ends a collective of the node. Messages over MPI go on meanwhile: a peer may need one before it comes here. */
static tb_status finish(tb_comm *c, tb_request *request)
{
    const nodes *n = c->state;
    bool done = false, unused;
    unsigned turns = 0;
    for (int64_t until = tb_now_ns() + c->deadline_ns; !done && tb_now_ns() < until; tbi_relax(&turns)) {
        TB_TRY(keep(c, n->node, tb_comm_poll(n->node, request, &done)));
        TB_TRY(tbi_pass_poll(c, NULL, &unused));
    }
    return done ? TB_OK : keep(c, n->node, tb_comm_wait(n->node, request, 1));
}

static tb_status gather_shards(tb_comm *c, char *data, int64_t count, size_t size)
{
    const nodes *n = c->state;
    for (int r = 0; r < n->node->size; r++) {
        tb_request request = {0};
        int64_t first, mine;
        tbi_shard(count, size, r, n->node->size, &first, &mine);
        if (mine <= 0) continue;
        TB_TRY(keep(c, n->node,
                    tb_comm_bcast(n->node, data + (size_t)first * size, (size_t)mine * size, r, NULL, &request)));
        TB_TRY(finish(c, &request));
    }
    return TB_OK;
}

static tb_status allreduce(tb_comm *c, const tbi_collective *w)
{
    const nodes *n = c->state;
    size_t size = tb_dtype_size(w->dtype);
    tb_request request = {0};
    int64_t first, mine;
    tbi_shard(w->count, size, n->node->rank, n->node->size, &first, &mine);
    TB_TRY(keep(c, n->node, tb_comm_allreduce(n->node, w->out, w->count, w->dtype, w->reduction, NULL, &request)));
    TB_TRY(finish(c, &request));
    TB_TRY(keep(c, n->between, tb_comm_allreduce(n->between, (char *)w->out + (size_t)first * size, mine, w->dtype,
                                                 w->reduction, NULL, NULL)));
    return gather_shards(c, w->out, w->count, size);
}

static int64_t wire_bytes(const nodes *n)
{
    tb_comm_stats within, between;
    tb_comm_get_stats(n->node, &within);
    tb_comm_get_stats(n->between, &between);
    return within.wire_bytes + between.wire_bytes;
}

static tb_status nodes_collective(tb_comm *c, const tbi_collective *w, tb_request *out)
{
    const nodes *n = c->state;
    if (w->kind != TBI_ALLREDUCE || w->map || w->dtype == TB_BF16 || w->dtype == TB_F16)
        return tbi_pass_collective(c, w, out);
    int64_t before = wire_bytes(n);
    tb_comm_label(n->node, "%s", c->label);
    tb_comm_label(n->between, "%s", c->label);
    tb_status st = allreduce(c, w);
    c->stats.wire_bytes += wire_bytes(n) - before;
    return st;
}

/* Memory that the node's ranks share: their step then copies nothing. */
static void *nodes_alloc(tb_comm *c, size_t bytes) { return tb_comm_alloc(((nodes *)c->state)->node, bytes); }
static void nodes_free(tb_comm *c, void *block) { tb_comm_free(((nodes *)c->state)->node, block); }

static void close_groups(nodes *n)
{
    tb_comm_close(n->between);
    tb_comm_close(n->node);
    tb_free(n);
}

static void nodes_close(tb_comm *c)
{
    nodes *n = c->state;
    (void)tbi_comm_keep_failure(n->between, c->failed);
    (void)tbi_comm_keep_failure(n->node, c->failed);
    close_groups(n);
    tbi_comm_unwrap(c);
}

static const tbi_comm_backend around_mpi = {
    .close = nodes_close,
    .send = tbi_pass_send,
    .recv = tbi_pass_recv,
    .poll = tbi_pass_poll,
    .missing = tbi_pass_missing,
    .abort = tbi_pass_abort,
    .collective = nodes_collective,
    .alloc = nodes_alloc,
    .free = nodes_free,
};

/* The two groups; `node` takes over the group over MPI that it is made with. */
static tb_status open_groups(tb_comm *mpi, int per_node, const tb_comm_options *options, nodes *n)
{
    tb_comm *here = NULL;
    TB_TRY(tb_comm_split(mpi, mpi->rank % per_node, &n->between));
    TB_TRY(tb_comm_split(mpi, mpi->rank / per_node, &here));
    tb_status st = tbi_comm_share_memory(here, options, &n->node);
    if (st != TB_OK) tb_comm_close(here);
    return tb_comm_agree(mpi, st);
}

tb_status tbi_comm_add_nodes(tb_comm *mpi, int per_node, const tb_comm_options *options)
{
    nodes *n = tb_calloc(1, sizeof *n);
    tb_status st = tb_comm_agree(mpi, n ? TB_OK : tb_error_code());
    if (st == TB_OK) st = open_groups(mpi, per_node, options, n);
    if (st == TB_OK) st = tb_comm_agree(mpi, tbi_comm_wrap(mpi, &around_mpi, n));
    if (st == TB_OK) mpi->name = "nodes";
    else if (n) close_groups(n);
    return st;
}
