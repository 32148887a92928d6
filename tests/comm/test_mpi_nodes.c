/* Where ranks sit on several nodes, memory cannot be shared: MPI is taken, and asking for shm says which rank is
 * away. */
#include "comm_battery.h"

int main(void)
{
    tb_comm *world, *first, *none;
    setenv("TB_FAKE_NODES", "2", 1);
    MUST_OK(tb_comm_open_world(NULL, NULL, &world));
    MUST(strcmp(tb_comm_backend(world), "mpi") == 0 && tb_comm_size(world) > 1);
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
