/* Communication among the ranks of a group: collectives and messages behind one interface.
 *
 *   self    one rank, nothing moves
 *   thread  ranks are threads of this process: tests, simulation
 *   shm     ranks are processes (or threads) of one node and share memory: no copies between them but the sums
 *   mpi     processes started by mpirun, on any number of nodes
 *   nodes   the same; sums go through the shared memory of each node before anything goes between nodes
 *
 * A group is made from (rank, size, 128-byte id), as NCCL makes it, or taken from mpirun. Every rank calls the same
 * collectives in the same order; messages between two ranks match in the order posted, per direction, without tags,
 * and independently of collectives. Nothing is buffered: a message may need its receiver before the sender is done.
 *
 * Sums do not depend on backend, bucket size or timing: element by element the ranks' values are added as a pairwise
 * tree in rank order, ((r0 + r1) + (r2 + r3)) + ..., in the data's own type (bf16 and f16: in f32, rounded once).
 *
 * Every wait ends: with the data, after the deadline (TB_ERR_TIMEOUT; the sentence names operation, label and the rank
 * that is missing), or when a rank aborts (TB_ERR_CANCELLED). After such a failure the communicator is unusable and
 * says so. A communicator belongs to one thread at a time. Buffers are host memory, borrowed until the request is
 * done, or after a failure until the communicator is closed. All calls take the stream they are ordered in (NULL: the
 * calling thread itself) and return a request; where `request` is NULL they wait with the default deadline. */
#pragma once
#include "tb_alloc.h"
#include "tb_dtype.h"
#include "tb_status.h"

typedef struct tb_comm tb_comm;
typedef struct tb_stream tb_stream; /* a device's queue of work; host backends take NULL only */
typedef struct tb_request {
    void *op; /* NULL: done */
} tb_request;

typedef enum tb_reduction { TB_REDUCE_SUM, TB_REDUCE_MAX, TB_REDUCE_MIN } tb_reduction;

/* ---- making a group ---- */
enum { TB_COMM_ID_BYTES = 128 };
typedef struct tb_comm_id {
    unsigned char bytes[TB_COMM_ID_BYTES];
} tb_comm_id;

typedef struct tb_comm_options {
    int64_t deadline_ns; /* default of every wait; 0 means 30 s */
    tb_heap *heap;       /* memory is accounted here (tag comm); NULL: the process heap */
    bool native;         /* mpi: allreduce by MPI_Allreduce, whose order of summing is its own: for comparison */
    int ranks;           /* tb_comm_open_world: only the first so many processes call it and form the group; 0: all */
} tb_comm_options;

/* Makes the name of a new group of `size` ranks; one rank (or the parent of all) calls it and hands the id to every
 * rank. What it stands for is freed when the last of its ranks has closed. UNSUPPORTED: the backend's groups come
 * from elsewhere (mpi: from mpirun). */
TB_MUST_USE tb_status tb_comm_make_id(const char *backend, int size, tb_comm_id *out);
/* Joins a group. Returns when all ranks have joined or the deadline has passed. */
TB_MUST_USE tb_status tb_comm_open(const char *backend, int rank, int size, const tb_comm_id *id,
                                   const tb_comm_options *options, tb_comm **out);
/* The group of all processes that mpirun started; a group of one where there is no mpirun. `backend` NULL: the
 * fastest that reaches all ranks. Starts MPI unless it has been started; then closing this communicator
 * finalizes it, so a process does that once. TB_FAKE_NODES=k makes one machine look like k, to test on. */
TB_MUST_USE tb_status tb_comm_open_world(const char *backend, const tb_comm_options *options, tb_comm **out);
/* What must be set in a process before MPI starts (see comm_mpi.c): for programs that call MPI_Init themselves. */
void tb_comm_prepare_mpi(void);
/* Ranks with equal color form a new group of the same backend, ranked by their rank here. color < 0: none, *out NULL.
 * Collective. */
TB_MUST_USE tb_status tb_comm_split(tb_comm *c, int color, tb_comm **out);
/* Waits for the other ranks to close as well (so nothing in flight is cut off), unless the communicator has failed.
 * NULL is accepted. Requests must be done. */
void tb_comm_close(tb_comm *c);

int tb_comm_rank(const tb_comm *c);
int tb_comm_size(const tb_comm *c);
const char *tb_comm_backend(const tb_comm *c); /* "self", "thread", "shm", "mpi", "nodes" */
int64_t tb_comm_deadline_ns(const tb_comm *c);

typedef struct tb_comm_caps {
    bool processes;   /* ranks are processes: one may die alone */
    bool in_place;    /* memory of tb_comm_alloc is reduced where it lies, without copies */
    bool cooperative; /* collectives return early and advance in polls and waits of any request; false: they block */
} tb_comm_caps;
tb_comm_caps tb_comm_get_caps(const tb_comm *c);

typedef struct tb_comm_stats {
    int64_t collectives, messages; /* posted by this rank */
    int64_t wire_bytes;            /* payload that this rank handed to others */
    int64_t wait_ns;               /* time inside waits */
} tb_comm_stats;
void tb_comm_get_stats(const tb_comm *c, tb_comm_stats *out);

/* What the rank is doing ("step 17, backward, bucket 3"): part of every failure's sentence. Cut to 95 bytes. */
void tb_comm_label(tb_comm *c, const char *fmt, ...) TB_PRINTF(2, 3);

/* Memory that this group reduces fastest (64-byte aligned, zeroed, tag comm); any memory works. NULL: no memory. */
void *tb_comm_alloc(tb_comm *c, size_t bytes);
void tb_comm_free(tb_comm *c, void *block); /* NULL is accepted */

/* Where this rank sees each rank's `mine`, a block of tb_comm_alloc: theirs[size]. Reading and writing it is ordered by
 * collectives (a barrier makes all earlier writes visible). Collective. UNSUPPORTED: ranks share no memory. */
TB_MUST_USE tb_status tb_comm_addresses(tb_comm *c, const void *mine, void **theirs);

/* ---- collectives ---- */
/* data[count] on every rank becomes the reduction over ranks. Dtypes: f32 f64 bf16 f16 i32 i64. */
TB_MUST_USE tb_status tb_comm_allreduce(tb_comm *c, void *data, int64_t count, tb_dtype dtype, tb_reduction reduction,
                                        tb_stream *stream, tb_request *request);
/* An allreduce (sum) with something done to each sum by the one rank that owns the element, before all ranks get it:
 * map(arg, first, n, values) changes values[n], the sums of elements [first, first + n), in place. It is called inside
 * this call, polls and waits, within one owned range at a time. */
typedef void (*tb_comm_map)(void *arg, int64_t first, int64_t n, void *values);
TB_MUST_USE tb_status tb_comm_allreduce_map(tb_comm *c, void *data, int64_t count, tb_dtype dtype, tb_comm_map map,
                                            void *arg, tb_stream *stream, tb_request *request);
/* The k-th range [*first, *first + *n) of an allreduce of `count` elements that this rank owns (n may be 0); false:
 * there are no more. */
bool tb_comm_owned(const tb_comm *c, int64_t count, tb_dtype dtype, int64_t k, int64_t *first, int64_t *n);
/* data[size * count] -> out[count]: rank r gets the reduction of block r. `out` may be block r of `data`. */
TB_MUST_USE tb_status tb_comm_reduce_scatter(tb_comm *c, const void *data, void *out, int64_t count, tb_dtype dtype,
                                             tb_reduction reduction, tb_stream *stream, tb_request *request);
/* data[bytes] of every rank -> out[size * bytes], in rank order. `data` may be block r of `out`. */
TB_MUST_USE tb_status tb_comm_allgather(tb_comm *c, const void *data, void *out, size_t bytes, tb_stream *stream,
                                        tb_request *request);
TB_MUST_USE tb_status tb_comm_bcast(tb_comm *c, void *data, size_t bytes, int root, tb_stream *stream,
                                    tb_request *request);
TB_MUST_USE tb_status tb_comm_barrier(tb_comm *c);
/* Ends a phase in which ranks may fail alone: every rank gets TB_OK only if all passed TB_OK; a rank that did not
 * keeps its own failure, the others get COMM, naming the first such rank. */
TB_MUST_USE tb_status tb_comm_agree(tb_comm *c, tb_status mine);

/* ---- messages ---- */
TB_MUST_USE tb_status tb_comm_isend(tb_comm *c, const void *data, size_t bytes, int peer, tb_stream *stream,
                                    tb_request *request);
/* `bytes` must be what the peer sends: COMM otherwise. */
TB_MUST_USE tb_status tb_comm_irecv(tb_comm *c, void *data, size_t bytes, int peer, tb_stream *stream,
                                    tb_request *request);

/* ---- requests ---- */
/* Waits up to deadline_ns (0: the default). On return the request is done, or the communicator has failed. */
TB_MUST_USE tb_status tb_comm_wait(tb_comm *c, tb_request *request, int64_t deadline_ns);
TB_MUST_USE tb_status tb_comm_wait_all(tb_comm *c, tb_request *requests, int n, int64_t deadline_ns);
/* Advances whatever can advance without waiting; *done tells of this request. request NULL: only advances. */
TB_MUST_USE tb_status tb_comm_poll(tb_comm *c, tb_request *request, bool *done);
/* Makes every rank's present and later calls fail with `why`, as far as the backend reaches them (mpi: ends the job
 * with `exit_code`, and does not return). */
void tb_comm_abort(tb_comm *c, int exit_code, const char *why);

/* ---- what can be put around a communicator: the pointer stays, groups split from it are plain ---- */
/* Before data moves, all ranks compare kind, count, dtype and root of the collective: a mismatch is COMM on every
 * rank, naming both sides. One more round of small messages per collective; shm compares in any case and pays
 * nothing. */
TB_MUST_USE tb_status tb_comm_add_check(tb_comm *c);
/* Flight recorder: the last 4096 operations of this rank, with label, times and state, in the mapped file
 * <prefix>.<rank>, which outlives the process. */
TB_MUST_USE tb_status tb_comm_add_recorder(tb_comm *c, const char *prefix);
/* The word in this rank's record that says since when (CLOCK_MONOTONIC, ns; 0: not) its waits end for reasons from
 * outside (a signal, the program around it): such a rank is not what the others waited for, and what it says later does
 * not count. A signal handler may set it. NULL: no recorder. */
#ifndef __cplusplus
_Atomic int64_t *tb_comm_recorder_excuse(tb_comm *c);
#endif
/* Strikes once, at the n-th operation (from 1) of a rank: "kind@rank:n[:ms]" with kind one of
 *   kill stop exit     the process ends by SIGKILL, stops, ends with status 3
 *   slow hang          the rank sleeps for ms, for ever
 *   mismatch corrupt   the count of the collective, the bytes of the message are one less; a bit of a sum's data is
 *                      turned */
TB_MUST_USE tb_status tb_comm_add_fault(tb_comm *c, const char *spec);

typedef struct tb_culprit {
    int rank;         /* -1: all had finished what they began */
    int other;        /* one of the two broke the rules, and the ranks do not agree which; -1: they do */
    char doing[208];  /* "allreduce #17 of 1024 f32 (step 4, bucket 2)": what it was in, or had done last; may be "" */
    bool inside;      /* it was in that operation; false: it was between operations */
    int64_t since_ns; /* CLOCK_MONOTONIC: when that began; 0: never */
} tb_culprit;
/* Reads the recorders of a group, says what each rank was doing last, and finds the rank that the others waited for or
 * that broke the rules. IO: no file can be read. */
struct tb_text;
TB_MUST_USE tb_status tb_comm_read_flight(const char *prefix, struct tb_text *report, tb_culprit *culprit);
