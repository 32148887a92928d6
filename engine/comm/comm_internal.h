/* The contract between tb_comm.h and its backends. A backend is one file comm_<name>.c with a line
 *     TB_COMM(name) = { ... };
 * found by that line at build time. It must move messages; collectives that it leaves NULL are built from messages
 * (comm_messages.c). Arguments are checked before a backend is called. */
#pragma once
#include "tb_comm.h"
#include "tb_cpu.h"
#include <stddef.h>

/* Two independent sequences of messages between each two ranks: the user's and those of collectives. */
typedef enum tbi_lane { TBI_LANE_USER, TBI_LANE_COLLECTIVE, TBI_LANES } tbi_lane;

typedef enum tbi_collective_kind {
    TBI_ALLREDUCE,
    TBI_REDUCE_SCATTER,
    TBI_ALLGATHER,
    TBI_BCAST,
    TBI_BARRIER
} tbi_collective_kind;

/* One collective as the caller asked for it. ALLGATHER and BCAST count bytes (dtype U8). */
typedef struct tbi_collective {
    tbi_collective_kind kind;
    const void *data; /* input; of ALLREDUCE and BCAST the same as out */
    void *out;
    int64_t count;
    tb_dtype dtype;
    tb_reduction reduction;
    int root;        /* ALLREDUCE: 1 where there is a map, so that ranks find out when they disagree */
    tb_comm_map map; /* ALLREDUCE: what the owner does to sums, or NULL */
    void *map_arg;
} tbi_collective;

typedef struct tbi_comm_backend {
    tb_status (*make_id)(int size, tb_comm_id *out);                 /* NULL: groups come from elsewhere */
    /* Sets c->state. id NULL: the processes that mpirun started, the first c->size of them (0: all). */
    tb_status (*open)(tb_comm *c, const tb_comm_id *id);
    tb_status (*split)(tb_comm *c, int color, tb_comm *child);       /* NULL: by ids; sets child's rank, size, state */
    void (*close)(tb_comm *c);
    tb_status (*send)(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out);
    tb_status (*recv)(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out);
    /* Advances; *done tells of `op` (NULL: none asked for). When done, op is gone. Never waits. */
    tb_status (*poll)(tb_comm *c, void *op, bool *done);
    void (*give_up)(tb_comm *c, void *op);                           /* NULL, or: the wait for op has failed */
    int (*missing)(const tb_comm *c, const void *op);                /* the rank that op waits for; -1 unknown */
    void (*abort)(tb_comm *c, int exit_code, const char *why);
    tb_status (*collective)(tb_comm *c, const tbi_collective *what, tb_request *out); /* NULL: by messages */
    void *(*alloc)(tb_comm *c, size_t bytes);                        /* NULL: the heap */
    void (*free)(tb_comm *c, void *block);
    ptrdiff_t (*place)(const tb_comm *c, const void *mine);          /* NULL: no shared memory. What to tell others, */
    void *(*at)(const tb_comm *c, ptrdiff_t place);                  /* and what another's answer means here */
    int64_t piece_bytes;                                             /* of an allreduce; 0: TBI_PIECE_BYTES */
    tb_comm_caps caps;
} tbi_comm_backend;

#define TB_COMM(name_) const tbi_comm_backend tbi_comm_##name_

struct tb_comm {
    const tbi_comm_backend *backend;
    const char *name;
    void *state;
    int rank, size;
    tb_heap *heap;
    int64_t deadline_ns;
    bool native;         /* as the options say */
    char label[96];
    char doing[96];      /* the call in progress: "allreduce #17 of 1048576 f32" */
    tb_status failed;    /* first failure that made it unusable */
    char *failure;       /* its sentence */
    int blamed;          /* the rank that the newest failure names as its cause; -1: none */
    bool disputed;       /* that rank and this one say different things: either may be wrong */
    tb_comm_stats stats;
    struct tb_comm *inner;  /* of one that something was put around: what it was before */
    struct tb_comm *parent; /* the group that this one was made with and closes behind it, or NULL */
    void *scratch;       /* of collectives built from messages */
    size_t scratch_bytes;
};

/* A failure of the group, not of the arguments, makes the communicator unusable: the first is kept. Returns st. */
tb_status tbi_comm_keep_failure(tb_comm *c, tb_status st);
tb_status tbi_comm_usable(const tb_comm *c); /* CANCELLED where a failure was kept */

tb_status tbi_comm_wait_until(tb_comm *c, tb_request *request, int64_t until_ns);
/* The one whose newest failure names a rank: c, or what it was put around; without such a failure, the innermost. */
const tb_comm *tbi_comm_accuser(const tb_comm *c);

/* Of what each rank says it calls, all[ranks] a `stride` apart: a rank of the largest party, and the first that says
 * otherwise (-1: none does). True: that one's party is as large, so either may be wrong. */
bool tbi_find_odd(const void *all, size_t stride, int ranks, bool (*agree)(const void *one, const void *other),
                  int *most, int *odd);

/* A collective built from messages; done on return. */
tb_status tbi_messages_collective(tb_comm *c, const tbi_collective *what);

/* Puts `around` with its state around c, which stays where it is; what it was becomes c->inner. The tbi_pass_
 * functions hand a call on to it. */
tb_status tbi_comm_wrap(tb_comm *c, const tbi_comm_backend *around, void *state);
void tbi_comm_unwrap(tb_comm *c); /* closes what it was: the last act of a wrapper's close */
tb_status tbi_pass_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out);
tb_status tbi_pass_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out);
tb_status tbi_pass_poll(tb_comm *c, void *op, bool *done);
int tbi_pass_missing(const tb_comm *c, const void *op);
void tbi_pass_abort(tb_comm *c, int exit_code, const char *why);
tb_status tbi_pass_collective(tb_comm *c, const tbi_collective *what, tb_request *out);
void *tbi_pass_alloc(tb_comm *c, size_t bytes);
void tbi_pass_free(tb_comm *c, void *block);

/* `place` and `at` of backends with one address space: a place is the address itself, as a distance from nothing. */
ptrdiff_t tbi_own_place(const tb_comm *c, const void *mine);
void *tbi_own_at(const tb_comm *c, ptrdiff_t place);

tb_status tbi_comm_open_backend(const char *name, int rank, int size, const tb_comm_id *id,
                                const tb_comm_options *options, tb_comm **out);

/* A group over shared memory of the same ranks, which closes `mpi` behind it. */
tb_status tbi_comm_share_memory(tb_comm *mpi, const tb_comm_options *options, tb_comm **out);
/* Ranks of several nodes, per_node (a power of two) on each, in order: sums go through each node's shared memory first.
 * Collective. */
tb_status tbi_comm_add_nodes(tb_comm *mpi, int per_node, const tb_comm_options *options);

/* An allreduce is cut into pieces, and these into a shard for each rank, which sums it: elements [*first, *first + *n)
 * of a piece of `count`. Shards end at multiples of 64 bytes: no two ranks write one cache line. */
enum { TBI_PIECE_BYTES = 16 << 20 };
void tbi_shard(int64_t count, size_t size, int rank, int ranks, int64_t *first, int64_t *n);

/* out[i] = the pairwise tree, in order, over in[0][i] ... in[n-1][i]; out may be one of the inputs. */
void tbi_reduce_tree(const void *const *in, int n, void *out, int64_t count, tb_dtype dtype, tb_reduction r);
/* What sums over ranks fastest on `isa`; NULL: nothing does but the tree above. */
const struct tb_kernel *tbi_reduce_kernel(int n, int n_out, tb_dtype dtype, tb_reduction r, tb_isa isa);
/* The tree into n_out places, which may be among the inputs, by that kernel. */
void tbi_reduce_to(const void *const *in, int n, void *const *out, int n_out, int64_t count, tb_dtype dtype,
                   tb_reduction r, const struct tb_kernel *kernel);
bool tbi_can_reduce(tb_dtype dtype);

/* Between two looks at what one waits for: spins, later gives the core away. */
void tbi_relax(unsigned *turns);
