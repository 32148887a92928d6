/* MPI, the only file that knows it. Messages are nonblocking sends and receives that the calling thread polls, so each
 * wait has a deadline and each sum our order; collectives come from comm_messages.c.
 *
 * Open MPI's traps: it allocates temporaries per call, which above the C library's mmap threshold fault in anew each
 * time (mallopt keeps them); nothing progresses without a call (poll between work); its shared-memory transport reads
 * the peer's memory directly, which containers may forbid (probed before MPI starts). */
#include "comm_internal.h"
#include "tb_text.h"
#include <malloc.h>
#include <mpi.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIECE_BYTES = 1 << 30, MAX_PIECES = 16, NATIVE_PIECE_BYTES = 16 << 20 };

typedef struct op {
    struct op *next; /* of spare ones */
    int n, peer;
    bool receives;
    size_t bytes;
    MPI_Request requests[MAX_PIECES];
} op;

typedef struct mpi_comm {
    MPI_Comm comm;
    bool finalize; /* this is the world, and it started MPI */
    op *spare;
} mpi_comm;

static tb_status failed(const tb_comm *c, int code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return TB_FAIL(TB_ERR_COMM, "rank %d of %d: %s%s%s%s: %s: %s", c->rank, c->size, c->doing, c->label[0] ? " (" : "",
                   c->label, c->label[0] ? ")" : "", call, text);
}

/* May a process read the memory of one that is not its child? That is what the shared-memory transport does. */
static bool peers_can_be_read(void)
{
    static const char here = 1;
    pid_t parent = getpid(), child = fork();
    if (child < 0) return false;
    if (child == 0) {
        char there = 0;
        union { const char *from; void *to; } address = { .from = &here }; /* iovec has no const */
        struct iovec mine = { &there, 1 }, its = { address.to, 1 };
        _exit(process_vm_readv(parent, &mine, 1, &its, 1, 0) == 1 ? 0 : 1);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void tb_comm_prepare_mpi(void)
{
    static const char copy_mechanism[] = "OMPI_MCA_btl_vader_single_copy_mechanism";
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    if (!getenv(copy_mechanism) && !peers_can_be_read()) setenv(copy_mechanism, "none", 1);
}

static tb_status start_mpi(bool *started_here)
{
    int started = 0, provided = 0;
    MPI_Initialized(&started);
    *started_here = !started;
    if (started) return TB_OK;
    tb_comm_prepare_mpi();
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return TB_FAIL(TB_ERR_COMM, "MPI_Init_thread failed; was the program started by the mpirun of the same MPI?");
    return TB_OK;
}

static tb_status adopt(tb_comm *c, MPI_Comm comm, bool finalize)
{
    mpi_comm *m = tb_calloc(1, sizeof *m);
    if (!m) return tb_error_code();
    m->comm = comm;
    m->finalize = finalize;
    c->state = m;
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &c->rank);
    MPI_Comm_size(comm, &c->size);
    return TB_OK;
}

/* The first `ranks` processes; only they call, so it cannot be a split of all. */
static int first_of_world(int ranks, MPI_Comm *out)
{
    enum { TAG = 7 };
    MPI_Group all, some;
    int range[1][3] = { { 0, ranks - 1, 1 } };
    int code = MPI_Comm_group(MPI_COMM_WORLD, &all);
    if (code == MPI_SUCCESS) code = MPI_Group_range_incl(all, 1, range, &some);
    if (code != MPI_SUCCESS) return code;
    code = MPI_Comm_create_group(MPI_COMM_WORLD, some, TAG, out);
    MPI_Group_free(&some);
    MPI_Group_free(&all);
    return code;
}

static tb_status mpi_open(tb_comm *c, const tb_comm_id *id)
{
    MPI_Comm comm;
    bool started_here;
    int all;
    if (id)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "MPI groups come from tb_comm_open_world and tb_comm_split, not from ids");
    TB_TRY(start_mpi(&started_here));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_size(MPI_COMM_WORLD, &all);
    if (c->size > all)
        return TB_FAIL(TB_ERR_INVALID, "a group of %d ranks was asked for; mpirun started %d", c->size, all);
    int code = first_of_world(c->size ? c->size : all, &comm);
    if (code != MPI_SUCCESS) return failed(c, code, "MPI_Comm_create_group");
    return adopt(c, comm, started_here);
}

static tb_status mpi_split(tb_comm *c, int color, tb_comm *child)
{
    const mpi_comm *m = c->state;
    MPI_Comm comm;
    int code = MPI_Comm_split(m->comm, color < 0 ? MPI_UNDEFINED : color, c->rank, &comm);
    if (code != MPI_SUCCESS) return failed(c, code, "MPI_Comm_split");
    return comm == MPI_COMM_NULL ? TB_OK : adopt(child, comm, false);
}

/* A process that leaves without MPI_Finalize makes mpirun end the job: right after a failure, wrong otherwise. */
static void mpi_close(tb_comm *c)
{
    mpi_comm *m = c->state;
    for (op *o = m->spare, *next; o; o = next) next = o->next, tb_free(o);
    if (!c->failed) {
        MPI_Comm_free(&m->comm);
        if (m->finalize) MPI_Finalize();
    }
    tb_free(m);
}

static tb_status new_op(tb_comm *c, bool receives, size_t bytes, int peer, op **out)
{
    mpi_comm *m = c->state;
    *out = NULL;
    if (bytes > (size_t)PIECE_BYTES * MAX_PIECES)
        return TB_FAIL(TB_ERR_INVALID, "%s: at most %d GiB go in one message", c->doing, MAX_PIECES);
    op *o = m->spare;
    if (o) m->spare = o->next;
    else if (!(o = tb_calloc(1, sizeof *o))) return tb_error_code();
    *o = (op){ .peer = peer, .receives = receives, .bytes = bytes };
    *out = o;
    return TB_OK;
}

/* The next piece of a message: how much of `bytes` is left after `done`, at most PIECE_BYTES. */
static int piece(size_t bytes, size_t done) { return (int)(bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES); }

static tb_status mpi_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    const mpi_comm *m = c->state;
    op *o;
    TB_TRY(new_op(c, false, bytes, peer, &o));
    out->op = o;
    for (size_t done = 0; done < bytes || o->n == 0; done += PIECE_BYTES) {
        int code = MPI_Isend((const char *)data + done, piece(bytes, done), MPI_BYTE, peer, (int)lane, m->comm,
                             &o->requests[o->n++]);
        if (code != MPI_SUCCESS) return failed(c, code, "MPI_Isend");
    }
    return TB_OK;
}

static tb_status mpi_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    const mpi_comm *m = c->state;
    op *o;
    TB_TRY(new_op(c, true, bytes, peer, &o));
    out->op = o;
    for (size_t done = 0; done < bytes || o->n == 0; done += PIECE_BYTES) {
        int code = MPI_Irecv((char *)data + done, piece(bytes, done), MPI_BYTE, peer, (int)lane, m->comm,
                             &o->requests[o->n++]);
        if (code != MPI_SUCCESS) return failed(c, code, "MPI_Irecv");
    }
    return TB_OK;
}

/* MPI reports a message that is too long, and takes one that is too short for success. */
static tb_status check_length(tb_comm *c, const op *o, const MPI_Status *statuses)
{
    size_t got = 0;
    for (int i = 0; o->receives && i < o->n; i++) {
        int n = 0;
        MPI_Get_count(&statuses[i], MPI_BYTE, &n);
        got += (size_t)n;
    }
    if (!o->receives || got == o->bytes) return TB_OK;
    c->blamed = o->peer;
    c->disputed = true;
    return TB_FAIL(TB_ERR_COMM, "rank %d of %d: %s expects %zu bytes from rank %d, which sends %zu", c->rank, c->size,
                   c->doing, o->bytes, o->peer, got);
}

static tb_status mpi_poll(tb_comm *c, void *wanted, bool *done)
{
    mpi_comm *m = c->state;
    op *o = wanted;
    int flag = 0;
    *done = false;
    if (!o) {
        int code = MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, m->comm, &flag, MPI_STATUS_IGNORE);
        return code == MPI_SUCCESS ? TB_OK : failed(c, code, "MPI_Iprobe");
    }
    MPI_Status statuses[MAX_PIECES];
    int class, code = MPI_Testall(o->n, o->requests, &flag, statuses);
    for (int i = 0; code == MPI_ERR_IN_STATUS && i < o->n; i++)
        if (statuses[i].MPI_ERROR != MPI_SUCCESS && statuses[i].MPI_ERROR != MPI_ERR_PENDING)
            code = statuses[i].MPI_ERROR;
    if (code != MPI_SUCCESS) {
        c->blamed = o->peer;
        c->disputed = MPI_Error_class(code, &class) == MPI_SUCCESS && class == MPI_ERR_TRUNCATE;
        if (!c->disputed) return failed(c, code, o->receives ? "receive" : "send");
        return TB_FAIL(TB_ERR_COMM, "rank %d of %d: %s expects %zu bytes from rank %d, which sends more", c->rank,
                       c->size, c->doing, o->bytes, o->peer);
    }
    if (!flag) return TB_OK;
    TB_TRY(check_length(c, o, statuses));
    *done = true;
    o->next = m->spare;
    m->spare = o;
    return TB_OK;
}

static bool mpi_type(tb_dtype t, MPI_Datatype *out)
{
    *out = t == TB_F32 ? MPI_FLOAT : t == TB_F64 ? MPI_DOUBLE : t == TB_I32 ? MPI_INT32_T : MPI_INT64_T;
    return t == TB_F32 || t == TB_F64 || t == TB_I32 || t == TB_I64;
}

/* By messages, which keeps our order and deadlines; MPI_Allreduce only where the options ask for it. */
static tb_status mpi_collective(tb_comm *c, const tbi_collective *what, tb_request *out)
{
    const mpi_comm *m = c->state;
    MPI_Datatype type;
    out->op = NULL;
    if (!c->native || what->kind != TBI_ALLREDUCE || what->map || !mpi_type(what->dtype, &type))
        return tbi_messages_collective(c, what);
    MPI_Op how = what->reduction == TB_REDUCE_SUM ? MPI_SUM : what->reduction == TB_REDUCE_MAX ? MPI_MAX : MPI_MIN;
    int64_t size = (int64_t)tb_dtype_size(what->dtype), most = NATIVE_PIECE_BYTES / size;
    for (int64_t at = 0; at < what->count; at += most) {
        int n = (int)(what->count - at < most ? what->count - at : most);
        int code = MPI_Allreduce(MPI_IN_PLACE, (char *)what->out + at * size, n, type, how, m->comm);
        if (code != MPI_SUCCESS) return failed(c, code, "MPI_Allreduce");
    }
    return TB_OK;
}

static int missing(const tb_comm *c, const void *wanted)
{
    (void)c;
    return ((const op *)wanted)->peer;
}

static void mpi_abort(tb_comm *c, int exit_code, const char *why)
{
    const mpi_comm *m = c->state;
    fprintf(stderr, "tb: rank %d of %d ends the job: %s\n", c->rank, c->size, why);
    fflush(stderr);
    MPI_Abort(m->comm, exit_code);
}

TB_COMM(mpi) = {
    .open = mpi_open, .split = mpi_split, .close = mpi_close, .send = mpi_send, .recv = mpi_recv, .poll = mpi_poll,
    .missing = missing, .abort = mpi_abort, .collective = mpi_collective,
    .caps = { .processes = true },
};
