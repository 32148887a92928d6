/* The contract between tb_comm.h and its backends. A backend is one file comm_<name>.c with a line
 *     TB_COMM(name) = { ... };
 * found by that line at build time. It must move messages; collectives that it leaves NULL are built from messages
 * (comm_messages.c). Arguments are checked before a backend is called. */
#pragma once
#include "tb_comm.h"

/* Two independent sequences of messages between each two ranks: the user's and those of collectives. */
typedef enum tbi_lane { TBI_LANE_USER, TBI_LANE_COLLECTIVE, TBI_LANES } tbi_lane;

typedef struct tbi_comm_backend {
    tb_status (*make_id)(int size, tb_comm_id *out);                 /* NULL: groups come from elsewhere */
    tb_status (*open)(tb_comm *c, const tb_comm_id *id);             /* sets c->state */
    tb_status (*split)(tb_comm *c, int color, tb_comm *child);       /* NULL: by ids; sets child's rank, size, state */
    void (*close)(tb_comm *c);
    tb_status (*send)(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out);
    tb_status (*recv)(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out);
    /* Advances; *done tells of `op` (NULL: none asked for). When done, op is gone. Never waits. */
    tb_status (*poll)(tb_comm *c, void *op, bool *done);
    int (*missing)(const tb_comm *c, const void *op);                /* the rank that op waits for; -1 unknown */
    void (*abort)(tb_comm *c, int exit_code, const char *why);
    tb_status (*allreduce)(tb_comm *c, void *data, int64_t count, tb_dtype dtype, tb_reduction r, tb_request *out);
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
    char label[96];
    char doing[96];      /* the call in progress: "allreduce #17 of 1048576 f32" */
    tb_status failed;    /* first failure that made it unusable */
    char *failure;       /* its sentence */
    tb_comm_stats stats;
    void *scratch;       /* of collectives built from messages */
    size_t scratch_bytes;
};

tb_status tbi_comm_wait_until(tb_comm *c, tb_request *request, int64_t until_ns);

/* Collectives built from messages; they return when done. */
tb_status tbi_messages_allreduce(tb_comm *c, void *data, int64_t count, tb_dtype dtype, tb_reduction r);
tb_status tbi_messages_reduce_scatter(tb_comm *c, const void *data, void *out, int64_t count, tb_dtype dtype,
                                      tb_reduction r);
tb_status tbi_messages_allgather(tb_comm *c, const void *data, void *out, size_t bytes);
tb_status tbi_messages_bcast(tb_comm *c, void *data, size_t bytes, int root);
tb_status tbi_messages_barrier(tb_comm *c);

/* out[i] = the pairwise tree, in order, over in[0][i] ... in[n-1][i]; out may be one of the inputs. */
void tbi_reduce_tree(const void *const *in, int n, void *out, int64_t count, tb_dtype dtype, tb_reduction r);
bool tbi_can_reduce(tb_dtype dtype);

/* Between two looks at what one waits for: spins, later gives the core away. */
void tbi_relax(unsigned *turns);
