/* Putting something around a communicator, and handing calls on to what it was. */
#include "comm_internal.h"
#include <string.h>

tb_status tbi_comm_wrap(tb_comm *c, const tbi_comm_backend *around, void *state)
{
    tb_comm *inner = tb_calloc(1, sizeof *inner);
    if (!inner) return tb_error_code();
    *inner = *c;
    inner->parent = NULL;
    inner->failure = NULL;
    inner->blamed = -1;
    c->scratch = NULL;
    c->scratch_bytes = 0;
    c->stats.wire_bytes = 0;
    c->inner = inner;
    c->backend = around;
    c->state = state;
    return TB_OK;
}

void tbi_comm_unwrap(tb_comm *c)
{
    tb_comm *inner = c->inner;
    inner->failed = c->failed;
    inner->failure = c->failure;
    inner->backend->close(inner);
    tb_heap_free(inner->heap, inner->scratch);
    tb_free(inner);
    c->inner = NULL;
}

/* What the caller is doing, so that inner failures can say it. */
static tb_comm *inside(tb_comm *c)
{
    memcpy(c->inner->doing, c->doing, sizeof c->doing);
    memcpy(c->inner->label, c->label, sizeof c->label);
    return c->inner;
}

tb_status tbi_pass_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    return c->inner->backend->send(inside(c), lane, data, bytes, peer, out);
}

tb_status tbi_pass_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    return c->inner->backend->recv(inside(c), lane, data, bytes, peer, out);
}

tb_status tbi_pass_poll(tb_comm *c, void *op, bool *done) { return c->inner->backend->poll(c->inner, op, done); }
int tbi_pass_missing(const tb_comm *c, const void *op) { return c->inner->backend->missing(c->inner, op); }

void tbi_pass_abort(tb_comm *c, int exit_code, const char *why)
{
    c->inner->backend->abort(c->inner, exit_code, why);
}

tb_status tbi_pass_collective(tb_comm *c, const tbi_collective *what, tb_request *out)
{
    tb_comm *inner = inside(c);
    if (inner->backend->collective) return inner->backend->collective(inner, what, out);
    return tbi_messages_collective(inner, what);
}

void *tbi_pass_alloc(tb_comm *c, size_t bytes) { return tb_comm_alloc(c->inner, bytes); }
void tbi_pass_free(tb_comm *c, void *block) { tb_comm_free(c->inner, block); }
