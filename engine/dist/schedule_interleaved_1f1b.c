/* Interleaved 1F1B: each rank holds v chunks, stage c*p + r is chunk c of rank r, and micro-batches pass through in
 * groups of p per chunk. Bubble (p-1)(F+B)/v for v times the messages; rank r holds at most 2(p-r-1) + (v-1)p + 1
 * chunk activations. Needs p | m: a group must be full. */
#include "schedule_internal.h"

static tb_status refuse(const tb_schedule_config *c)
{
    if (c->microbatches % c->ranks == 0) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "schedule interleaved_1f1b: %d micro-batches are not a multiple of %d ranks",
                   c->microbatches, c->ranks);
}

/* The k-th forward of a rank is micro-batch k mod p of group k / (p v), chunk (k / p) mod v; backwards take the chunks
 * from the last to the first. */
static tb_status work(const tb_schedule_config *c, tb_schedule *s, int rank, tb_action_kind kind, int64_t k)
{
    int64_t p = c->ranks, v = c->chunks, chunk = k / p % v;
    if (kind == TB_DO_B) chunk = v - 1 - chunk;
    return tbi_schedule_work(s, rank, kind, (int)(chunk * p + rank), k / (p * v) * p + k % p);
}

static tb_status fill(const tb_schedule_config *c, tb_schedule *s)
{
    int64_t total = (int64_t)c->microbatches * c->chunks;
    for (int rank = 0; rank < c->ranks; rank++) {
        int64_t ahead = 2 * (int64_t)(c->ranks - rank - 1) + (int64_t)(c->chunks - 1) * c->ranks;
        for (int64_t k = 0; k < total + ahead; k++) {
            if (k < total) TB_TRY(work(c, s, rank, TB_DO_F, k));
            if (k >= ahead) TB_TRY(work(c, s, rank, TB_DO_B, k - ahead));
        }
    }
    return TB_OK;
}

TB_SCHEDULE(interleaved_1f1b) = { .refuse = refuse, .fill = fill };
