/* Messages over shared memory: per ordered pair of ranks and lane a ring of SHM_CHUNKS chunks, filled by the sender and
 * emptied by the receiver. Chunks of 64 KiB stay in the second-level cache between the two copies. */
#include "comm_shm.h"
#include <string.h>

static tb_status new_message(tb_comm *c, tbi_lane lane, shm_message value, tb_request *out)
{
    shm_comm *s = c->state;
    size_t ranks = (size_t)c->size, me = (size_t)c->rank, peer = (size_t)value.peer;
    size_t channel = (size_t)lane * ranks * ranks + (value.is_send ? me * ranks + peer : peer * ranks + me);
    shm_message *m = (shm_message *)s->spare_messages;
    if (m) s->spare_messages = m->op.next;
    else if (!(m = tb_calloc(1, sizeof *m))) return tb_error_code();
    *m = value;
    m->op.is_message = true;
    m->channel = &s->channels[channel];
    m->chunks = s->chunks + channel * SHM_CHUNKS * SHM_CHUNK;
    shm_queue *q = &(value.is_send ? s->sends : s->recvs)[(size_t)lane * ranks + peer];
    *q->last = m;
    q->last = &m->behind;
    s->n_messages++;
    out->op = m;
    return TB_OK;
}

tb_status tbi_shm_send(tb_comm *c, tbi_lane lane, const void *data, size_t bytes, int peer, tb_request *out)
{
    union { const void *from; void *to; } place = { .from = data }; /* a send only reads it */
    return new_message(c, lane, (shm_message){ .is_send = true, .peer = peer, .data = place.to, .bytes = bytes }, out);
}

tb_status tbi_shm_recv(tb_comm *c, tbi_lane lane, void *data, size_t bytes, int peer, tb_request *out)
{
    return new_message(c, lane, (shm_message){ .peer = peer, .data = data, .bytes = bytes }, out);
}

static void advance_send(shm_message *m)
{
    shm_channel *ch = m->channel;
    uint64_t put = atomic_load_explicit(&ch->put, memory_order_relaxed);
    while ((m->at < m->bytes || !m->begun) && put - atomic_load_explicit(&ch->got, memory_order_acquire) < SHM_CHUNKS) {
        size_t n = m->bytes - m->at < SHM_CHUNK ? m->bytes - m->at : SHM_CHUNK, slot = put % SHM_CHUNKS;
        ch->message_bytes[slot] = m->bytes;
        ch->chunk_bytes[slot] = (uint32_t)n;
        if (n) memcpy(m->chunks + slot * SHM_CHUNK, m->data + m->at, n);
        m->at += n;
        m->begun = true;
        atomic_store_explicit(&ch->put, ++put, memory_order_release);
    }
    m->op.done = m->begun && m->at == m->bytes;
}

static tb_status advance_recv(tb_comm *c, shm_message *m)
{
    shm_channel *ch = m->channel;
    uint64_t got = atomic_load_explicit(&ch->got, memory_order_relaxed);
    while ((m->at < m->bytes || !m->begun) && got < atomic_load_explicit(&ch->put, memory_order_acquire)) {
        size_t slot = got % SHM_CHUNKS, n = ch->chunk_bytes[slot];
        if (ch->message_bytes[slot] != m->bytes) {
            c->blamed = m->peer;
            c->disputed = true;
            return TB_FAIL(TB_ERR_COMM, "rank %d of %d: %s expects %zu bytes from rank %d, which sends %zu", c->rank,
                           c->size, c->doing, m->bytes, m->peer, (size_t)ch->message_bytes[slot]);
        }
        if (n) memcpy(m->data + m->at, m->chunks + slot * SHM_CHUNK, n);
        m->at += n;
        m->begun = true;
        atomic_store_explicit(&ch->got, ++got, memory_order_release);
    }
    m->op.done = m->begun && m->at == m->bytes;
    return TB_OK;
}

tb_status tbi_shm_advance_messages(tb_comm *c)
{
    shm_comm *s = c->state;
    for (int i = 0; s->n_messages && i < 2 * TBI_LANES * c->size; i++) {
        shm_queue *q = i < TBI_LANES * c->size ? &s->sends[i] : &s->recvs[i - TBI_LANES * c->size];
        while (q->first) {
            shm_message *m = q->first;
            if (m->is_send) advance_send(m);
            else TB_TRY(advance_recv(c, m));
            if (!m->op.done) break;
            q->first = m->behind;
            if (!q->first) q->last = &q->first;
            s->n_messages--;
        }
    }
    return TB_OK;
}
