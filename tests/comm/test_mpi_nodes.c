/* Where ranks sit on several nodes, memory cannot be shared by all: two ranks on each sum there first, one on each take
 * MPI alone, and asking for shm says which rank is away. */
#include "comm_battery.h"

/* One node's step waits for rank 1, which waits for a message that only goes on while rank 0 is in that step. */
static void messages_go_on_within_a_sum(tb_comm *c)
{
    enum { MANY = 1 << 20 };
    int rank = tb_comm_rank(c);
    float *data = calloc(MANY, sizeof *data), x = 1;
    tb_request request = {0};
    MUST(data);
    if (rank == 0) MUST_OK(tb_comm_isend(c, data, MANY * sizeof *data, 1, NULL, &request));
    if (rank == 1) MUST_OK(tb_comm_irecv(c, data, MANY * sizeof *data, 0, NULL, NULL));
    MUST_OK(tb_comm_allreduce(c, &x, 1, TB_F32, TB_REDUCE_SUM, NULL, NULL));
    MUST(x == (float)tb_comm_size(c));
    MUST_OK(tb_comm_wait(c, &request, 0));
    free(data);
}

int main(void)
{
    tb_comm *world, *first, *none;
    setenv("TB_FAKE_NODES", "2", 1);
    MUST_OK(tb_comm_open_world(NULL, NULL, &world));
    int ranks = tb_comm_size(world);
    MUST(ranks > 1 && strcmp(tb_comm_backend(world), ranks == 4 || ranks == 8 ? "nodes" : "mpi") == 0);
    run_battery(world);
    messages_go_on_within_a_sum(world);
    MUST(tb_comm_open_world("shm", NULL, &none) == TB_ERR_UNSUPPORTED);
    MUST(strstr(tb_error_message(), "shm reaches one node only"));
    MUST(tb_comm_open_world("thread", NULL, &none) == TB_ERR_UNSUPPORTED);
    /* a group of the first process alone: the others take no part */
    if (tb_comm_rank(world) == 0) {
        MUST_OK(tb_comm_open_world("mpi", &(tb_comm_options){ .ranks = 1 }, &first));
        MUST(tb_comm_size(first) == 1);
        tb_comm_close(first);
    }
    MUST_OK(tb_comm_barrier(world));
    tb_comm_close(world);
    return 0;
}
