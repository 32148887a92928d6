/* What the files of the shm backend share: the layout of the memory that all ranks of a group map.
 *
 *   head       one page: who we are, whether somebody aborted
 *   entries    [SLOTS][ranks]: pieces of collectives in flight; each rank writes its own
 *   channels   [lanes][from][to]: messages
 *   chunks     the channels' data
 *   regions    one a rank: its staging, then what tb_comm_alloc hands out
 *
 * It is an anonymous file (memfd): it takes memory as it is touched, and the last process to leave frees it, whatever
 * way it leaves. */
#pragma once
#include "comm_internal.h"
#include <stdatomic.h>

enum {
    SHM_SLOTS = 64,
    SHM_PIECE = 1 << 20,  /* bytes of one piece of a collective */
    SHM_STAGES = 4,       /* pieces that one rank may have staged at once */
    SHM_CHUNKS = 4,
    SHM_CHUNK = 64 << 10, /* bytes of one piece of a message */
    SHM_MAX_RANKS = 256
};

typedef struct shm_head {
    uint64_t magic;
    int32_t ranks, creator_pid, creator_fd;
    _Atomic int32_t fd_closed;
    _Atomic int32_t aborted_by; /* rank + 1; SHM_WRITING while `why` is being written */
    char why[256];
    _Atomic int32_t pids[SHM_MAX_RANKS];
} shm_head;

/* One rank's part in one piece of a collective. `ready` and `done` hold the piece's number + 1. */
typedef struct shm_entry {
    _Alignas(64) _Atomic uint64_t ready; /* the fields below are valid and the data may be read */
    uint64_t offset;                     /* of the data in the mapping */
    uint64_t stride;                     /* REDUCE_SCATTER: bytes from one rank's block to the next */
    int64_t count;                       /* of the whole collective, with kind, dtype, ...: must agree */
    int32_t kind, dtype, reduction, root;
    _Alignas(64) _Atomic uint64_t done;  /* this rank's share of the work is done */
} shm_entry;

typedef struct shm_channel {
    _Alignas(64) _Atomic uint64_t put; /* chunks, by the sender */
    uint64_t message_bytes[SHM_CHUNKS];
    uint32_t chunk_bytes[SHM_CHUNKS];
    _Alignas(64) _Atomic uint64_t got; /* by the receiver */
} shm_channel;

typedef struct shm_op { /* behind a request */
    struct shm_op *next;
    bool is_message, done;
} shm_op;

typedef struct shm_piece_op {
    shm_op op;
    tbi_collective what;
    uint64_t first, n;  /* its pieces are numbered [first, first + n) over the life of the group */
    int64_t piece_count;/* elements of a piece */
} shm_piece_op;

typedef struct shm_message {
    shm_op op;
    bool is_send;
    int peer;
    shm_channel *channel;
    char *chunks;
    char *data;
    size_t bytes, at; /* of the message; moved so far */
    bool begun;
    struct shm_message *behind; /* the next of the same channel and direction */
} shm_message;

typedef struct shm_queue { /* messages of one channel end, in order */
    shm_message *first, **last;
} shm_queue;

typedef struct shm_comm {
    char *base;
    size_t bytes;
    shm_head *head;
    shm_entry *entries;
    shm_channel *channels;
    char *chunks, *regions;
    struct shm_region *region; /* of this rank */
    shm_op *spare_pieces, *spare_messages;
    shm_op *open, **open_last;        /* collectives, in order */
    uint64_t posted, published, acted, finished; /* pieces so far */
    shm_queue *sends, *recvs;         /* [TBI_LANES * ranks] */
    int n_messages;                   /* open ones */
    tb_isa isa;
    const void **in;                  /* [ranks] scratch of a sum */
    void **out;
    int64_t last_liveness_ns;
} shm_comm;

static inline shm_entry *shm_entry_of(const shm_comm *s, uint64_t piece, int rank)
{
    return &s->entries[(piece % SHM_SLOTS) * (uint64_t)s->head->ranks + (uint64_t)rank];
}

/* shm_region.c: memory inside the mapping, for one rank. */
tb_status tbi_shm_region_open(shm_comm *s, char *at, size_t bytes);
void tbi_shm_region_close(shm_comm *s, tb_heap *heap);
void *tbi_shm_region_alloc(tb_comm *c, size_t bytes);
void tbi_shm_region_free(tb_comm *c, void *block);

/* shm_collective.c */
tb_status tbi_shm_collective(tb_comm *c, const tbi_collective *what, tb_request *out);
tb_status tbi_shm_advance_collectives(tb_comm *c);
int tbi_shm_missing_in_collective(const tb_comm *c);

/* shm_message.c */
tb_status tbi_shm_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out);
tb_status tbi_shm_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out);
tb_status tbi_shm_advance_messages(tb_comm *c);
