/* A group of one: collectives have nothing to move (comm_messages.c copies where data and result differ), and there
 * is nobody to send to. */
#include "comm_internal.h"
#include <string.h>

static tb_status make_id(int size, tb_comm_id *out)
{
    if (size != 1)
        return TB_FAIL(TB_ERR_INVALID, "backend self has 1 rank, not %d; thread, shm or mpi have more", size);
    memset(out, 0, sizeof *out);
    return TB_OK;
}

static tb_status self_open(tb_comm *c, const tb_comm_id *id)
{
    (void)id;
    return c->size == 1 ? TB_OK : TB_FAIL(TB_ERR_INVALID, "backend self has 1 rank, not %d", c->size);
}

static void self_close(tb_comm *c) { (void)c; }

static tb_status self_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    (void)c, (void)lane, (void)data, (void)bytes, (void)out;
    return TB_FAIL(TB_ERR_INVALID, "rank %d: a group of one has no other rank", peer);
}

static tb_status self_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    return self_send(c, lane, data, bytes, peer, out);
}

static tb_status self_poll(tb_comm *c, void *op, bool *done)
{
    (void)c;
    *done = op != NULL;
    return TB_OK;
}

static int self_missing(const tb_comm *c, const void *op)
{
    (void)c, (void)op;
    return -1;
}

static void self_abort(tb_comm *c, int exit_code, const char *why) { (void)c, (void)exit_code, (void)why; }

TB_COMM(self) = {
    .make_id = make_id,
    .open = self_open,
    .close = self_close,
    .send = self_send,
    .recv = self_recv,
    .poll = self_poll,
    .missing = self_missing,
    .abort = self_abort,
    .place = tbi_own_place,
    .at = tbi_own_at,
    .caps = {.in_place = true},
};
