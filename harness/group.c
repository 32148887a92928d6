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

struct tb_group {
    MPI_Comm comm;
    int rank, size;
    int64_t deadline_ns;
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
    tb_free(world);
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
    if (!group) return;
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

/* Until `request` is done, or the deadline has passed. */
static tb_status wait(tb_group *group, int rc, MPI_Request *request, bool idle, const char *what)
{
    int64_t start = tb_now_ns();
    TB_TRY(check(rc, what));
    for (int done = 0;;) {
        TB_TRY(check(MPI_Test(request, &done, MPI_STATUS_IGNORE), what));
        if (done) return TB_OK;
        if (group->deadline_ns && tb_now_ns() - start > group->deadline_ns)
            return TB_FAIL(TB_ERR_TIMEOUT, "rank %d of %d waited %.1f s for another rank between steps (harness, %s)",
                           group->rank, group->size, (double)group->deadline_ns * 1e-9, what);
        if (idle) nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
}

tb_status tb_group_barrier(tb_group *group)
{
    MPI_Request request;
    if (!group->deadline_ns) return check(MPI_Barrier(group->comm), "barrier"); /* leaves most evenly */
    return wait(group, MPI_Ibarrier(group->comm, &request), &request, false, "barrier");
}

tb_status tb_group_idle_barrier(tb_group *group)
{
    MPI_Request request;
    return wait(group, MPI_Ibarrier(group->comm, &request), &request, true, "barrier");
}

tb_status tb_group_broadcast(tb_group *group, void *data, size_t bytes)
{
    MPI_Request request;
    if (bytes > INT_MAX) return TB_FAIL(TB_ERR_INVALID, "broadcast of more than 2 GiB");
    return wait(group, MPI_Ibcast(data, (int)bytes, MPI_BYTE, 0, group->comm, &request), &request, false, "broadcast");
}

tb_status tb_group_max(tb_group *group, int64_t *value)
{
    MPI_Request request;
    int64_t all = *value;
    int rc = MPI_Iallreduce(value, &all, 1, MPI_INT64_T, MPI_MAX, group->comm, &request);
    TB_TRY(wait(group, rc, &request, false, "agreement"));
    *value = all;
    return TB_OK;
}

static tb_status gather_bytes(tb_group *group, const void *data, int bytes, int *sizes, int *offsets,
                              void **all)
{
    int64_t total = 0;
    for (int r = 0; group->rank == 0 && r < group->size; r++) {
        offsets[r] = (int)total;
        total += sizes[r];
        if (total > INT_MAX) return TB_FAIL(TB_ERR_INVALID, "gather of more than 2 GiB: sync more often");
    }
    if (group->rank == 0 && !(*all = tb_calloc(1, (size_t)total + 1))) return TB_ERR_OOM;
    MPI_Request request;
    int rc = MPI_Igatherv(data, bytes, MPI_BYTE, *all, sizes, offsets, MPI_BYTE, 0, group->comm, &request);
    return wait(group, rc, &request, false, "gather");
}

tb_status tb_group_gather(tb_group *group, const void *data, size_t bytes, void **all, size_t *all_bytes)
{
    *all = NULL;
    if (bytes > INT_MAX) return TB_FAIL(TB_ERR_INVALID, "gather of more than 2 GiB: sync more often");
    int mine = (int)bytes;
    int *sizes = tb_calloc((size_t)group->size * 2, sizeof *sizes);
    if (!sizes) return TB_ERR_OOM;
    MPI_Request request;
    int rc = MPI_Igather(&mine, 1, MPI_INT, sizes, 1, MPI_INT, 0, group->comm, &request);
    tb_status st = wait(group, rc, &request, false, "gather");
    if (st == TB_OK) st = gather_bytes(group, data, mine, sizes, sizes + group->size, all);
    if (st == TB_OK && group->rank == 0) {
        *all_bytes = 0;
        for (int r = 0; r < group->size; r++) *all_bytes += (size_t)sizes[r];
    }
    tb_free(sizes);
    return st;
}
