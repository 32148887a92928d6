/* Ranks by MPI. Errors are returned by MPI (MPI_ERRORS_RETURN) and become sentences here. */
#include "group.h"
#include "tb_alloc.h"
#include "tb_comm.h"
#include "tb_cpu.h"
#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LENT = 3 };

struct tb_group {
    MPI_Comm comm;
    int rank, size;
    int64_t deadline_ns;
    bool failed;      /* a wait ended early: its request is still MPI's, and so is the memory lent for it */
    void *lent[LENT]; /* what the requests under way read and write; a collective request cannot be cancelled */
    int n_lent;
};

static int env_int(const char *name)
{
    const char *text = getenv(name);
    return text ? atoi(text) : -1;
}

int tb_group_env_rank(void) { return env_int("OMPI_COMM_WORLD_RANK"); }

int tb_group_env_size(void) { return env_int("OMPI_COMM_WORLD_SIZE"); }

static tb_status check(int rc, const char *what)
{
    if (rc == MPI_SUCCESS) return TB_OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(rc, text, &n);
    return TB_FAIL(TB_ERR_COMM, "MPI, %s: %s", what, text);
}

static tb_status wrap(MPI_Comm comm, tb_group **out)
{
    tb_group *group = tb_calloc(1, sizeof *group);
    if (!group) return TB_ERR_OOM;
    group->comm = comm;
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &group->rank);
    MPI_Comm_size(comm, &group->size);
    *out = group;
    return TB_OK;
}

tb_status tb_group_start(tb_group **world)
{
    *world = NULL;
    int level;
    tb_comm_prepare_mpi();
    TB_TRY(check(MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level), "start"));
    return wrap(MPI_COMM_WORLD, world);
}

void tb_group_end(tb_group *world)
{
    if (!world) return;
    if (!world->failed) tb_free(world);
    MPI_Finalize();
}

void tb_group_abort(int exit_code)
{
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    _Exit(exit_code);
}

tb_status tb_group_first(tb_group *world, int n, tb_group **out)
{
    *out = NULL;
    MPI_Comm comm;
    int color = world->rank < n ? 0 : MPI_UNDEFINED;
    TB_TRY(check(MPI_Comm_split(world->comm, color, world->rank, &comm), "split"));
    return comm == MPI_COMM_NULL ? TB_OK : wrap(comm, out);
}

void tb_group_leave(tb_group *group)
{
    if (!group || group->failed) return;
    MPI_Comm_free(&group->comm);
    tb_free(group);
}

int tb_group_rank(const tb_group *group) { return group->rank; }

int tb_group_size(const tb_group *group) { return group->size; }

const char *tb_group_library(void)
{
    static _Thread_local char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int n = 0;
    MPI_Get_library_version(text, &n);
    text[strcspn(text, "\n")] = '\0';
    return text;
}

void tb_group_set_deadline(tb_group *group, int64_t ns) { group->deadline_ns = ns; }

/* ---- waiting ---- */
/* Memory for a request, the group's until take_back(). NULL: no memory. */
static void *lend(tb_group *group, size_t bytes)
{
    void *block = tb_calloc(bytes ? bytes : 1, 1);
    if (block) group->lent[group->n_lent++] = block;
    return block;
}

/* Behind the last request of an operation; `st` is the operation's. */
static tb_status take_back(tb_group *group, tb_status st)
{
    while (!group->failed && group->n_lent) tb_free(group->lent[--group->n_lent]);
    return st;
}

static tb_status usable(const tb_group *group)
{
    if (!group->failed) return TB_OK;
    return TB_FAIL(TB_ERR_CANCELLED, "rank %d of %d: the harness has given up this group before", group->rank,
                   group->size);
}

/* Until `request` is done, or the deadline has passed. */
static tb_status wait_for(tb_group *group, MPI_Request *request, bool idle, const char *what)
{
    int64_t start = tb_now_ns();
    for (int done = 0;;) {
        TB_TRY(check(MPI_Test(request, &done, MPI_STATUS_IGNORE), what));
        if (done) return TB_OK;
        if (group->deadline_ns && tb_now_ns() - start > group->deadline_ns)
            return TB_FAIL(TB_ERR_TIMEOUT, "rank %d of %d waited %.1f s for another rank between steps (harness, %s)",
                           group->rank, group->size, (double)group->deadline_ns * 1e-9, what);
        if (idle) nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
}

static tb_status wait(tb_group *group, int rc, MPI_Request *request, bool idle, const char *what)
{
    tb_status st = check(rc, what);
    if (st == TB_OK) st = wait_for(group, request, idle, what);
    group->failed |= st != TB_OK;
    return st;
}

/* ---- operations ---- */
tb_status tb_group_barrier(tb_group *group)
{
    MPI_Request request;
    TB_TRY(usable(group));
    if (!group->deadline_ns) return check(MPI_Barrier(group->comm), "barrier"); /* leaves most evenly */
    return wait(group, MPI_Ibarrier(group->comm, &request), &request, false, "barrier");
}

tb_status tb_group_idle_barrier(tb_group *group)
{
    MPI_Request request;
    TB_TRY(usable(group));
    return wait(group, MPI_Ibarrier(group->comm, &request), &request, true, "barrier");
}

tb_status tb_group_broadcast(tb_group *group, void *data, size_t bytes)
{
    MPI_Request request;
    TB_TRY(usable(group));
    if (bytes > INT_MAX) return TB_FAIL(TB_ERR_INVALID, "broadcast of more than 2 GiB");
    void *lent = lend(group, bytes);
    if (!lent) return TB_ERR_OOM;
    memcpy(lent, data, bytes);
    int rc = MPI_Ibcast(lent, (int)bytes, MPI_BYTE, 0, group->comm, &request);
    tb_status st = wait(group, rc, &request, false, "broadcast");
    if (st == TB_OK) memcpy(data, lent, bytes);
    return take_back(group, st);
}

tb_status tb_group_max(tb_group *group, int64_t *value)
{
    MPI_Request request;
    TB_TRY(usable(group));
    int64_t *lent = lend(group, 2 * sizeof *lent);
    if (!lent) return TB_ERR_OOM;
    lent[0] = *value;
    int rc = MPI_Iallreduce(&lent[0], &lent[1], 1, MPI_INT64_T, MPI_MAX, group->comm, &request);
    tb_status st = wait(group, rc, &request, false, "agreement");
    if (st == TB_OK) *value = lent[1];
    return take_back(group, st);
}

/* sizes[size], then as many offsets; mine: lent. *all is lent as well, and the caller's once that is done. */
static tb_status gather_bytes(tb_group *group, const void *mine, int bytes, int *sizes, void **all, size_t *all_bytes)
{
    int64_t total = 0;
    int *offsets = sizes + group->size;
    for (int r = 0; group->rank == 0 && r < group->size; r++) {
        offsets[r] = (int)total;
        total += sizes[r];
        if (total > INT_MAX) return TB_FAIL(TB_ERR_INVALID, "gather of more than 2 GiB: sync more often");
    }
    void *to = group->rank == 0 ? lend(group, (size_t)total + 1) : NULL;
    if (group->rank == 0 && !to) return TB_ERR_OOM;
    MPI_Request request;
    int rc = MPI_Igatherv(mine, bytes, MPI_BYTE, to, sizes, offsets, MPI_BYTE, 0, group->comm, &request);
    TB_TRY(wait(group, rc, &request, false, "gather"));
    if (group->rank > 0) return TB_OK;
    group->n_lent--;
    *all = to;
    *all_bytes = (size_t)total;
    return TB_OK;
}

tb_status tb_group_gather(tb_group *group, const void *data, size_t bytes, void **all, size_t *all_bytes)
{
    *all = NULL;
    TB_TRY(usable(group));
    if (bytes > INT_MAX) return TB_FAIL(TB_ERR_INVALID, "gather of more than 2 GiB: sync more often");
    int *sizes = lend(group, ((size_t)group->size * 2 + 1) * sizeof *sizes);
    void *mine = sizes ? lend(group, bytes) : NULL;
    if (!mine) return take_back(group, TB_ERR_OOM);
    int *own = &sizes[group->size * 2];
    *own = (int)bytes;
    memcpy(mine, data, bytes);
    MPI_Request request;
    int rc = MPI_Igather(own, 1, MPI_INT, sizes, 1, MPI_INT, 0, group->comm, &request);
    tb_status st = wait(group, rc, &request, false, "gather");
    if (st == TB_OK) st = gather_bytes(group, mine, (int)bytes, sizes, all, all_bytes);
    return take_back(group, st);
}
