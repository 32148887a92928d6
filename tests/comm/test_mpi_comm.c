/* The battery over MPI, with as many ranks as mpirun started. */
#include "comm_battery.h"

/* Every rank waits for a message that its right neighbour never sends; the group is unusable from then on. */
static void missing_rank_is_named_at_the_deadline(tb_comm *c)
{
    char x, who[32];
    int peer = (tb_comm_rank(c) + 1) % tb_comm_size(c);
    tb_request request = { 0 };
    snprintf(who, sizeof who, "for rank %d", peer);
    MUST_OK(tb_comm_irecv(c, &x, 1, peer, NULL, &request));
    MUST(tb_comm_wait(c, &request, 50000000) == TB_ERR_TIMEOUT);
    MUST(strstr(tb_error_message(), "receive of 1 bytes waited 0.") && strstr(tb_error_message(), who));
    MUST(tb_comm_barrier(c) == TB_ERR_CANCELLED);
}

int main(void)
{
    tb_comm *world, *apart;
    MUST_OK(tb_comm_open_world("mpi", NULL, &world));
    MUST(strcmp(tb_comm_backend(world), "mpi") == 0 && tb_comm_size(world) > 1);
    run_battery(world);
    MUST_OK(tb_comm_split(world, 0, &apart));
    run_battery(apart);
    missing_rank_is_named_at_the_deadline(apart);
    MUST_OK(tb_comm_barrier(world));
    tb_comm_close(apart);
    tb_comm_close(world);
    return 0;
}
