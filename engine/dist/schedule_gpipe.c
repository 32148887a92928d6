/* GPipe: all forwards, then all backwards. Every rank holds all m micro-batches; bubble (p-1)(F+B).
 * Backwards run in ascending order, so that gradients are added as plain accumulation adds them; the bubble is the
 * same as in descending order. */
#include "schedule_internal.h"

static tb_status refuse(const tb_schedule_config *c)
{
    if (c->chunks == 1) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "schedule gpipe has 1 stage per rank, not %d; interleaved_1f1b takes more",
                   c->chunks);
}

static tb_status fill(const tb_schedule_config *c, tb_schedule *s)
{
    for (int rank = 0; rank < c->ranks; rank++) {
        for (int i = 0; i < c->microbatches; i++) TB_TRY(tbi_schedule_work(s, rank, TB_DO_F, rank, i));
        for (int i = 0; i < c->microbatches; i++) TB_TRY(tbi_schedule_work(s, rank, TB_DO_B, rank, i));
    }
    return TB_OK;
}

TB_SCHEDULE(gpipe) = { .refuse = refuse, .fill = fill };
