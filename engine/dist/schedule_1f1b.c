/* 1F1B (PipeDream-Flush): rank r runs p-r-1 forwards ahead, then alternates one forward and one backward. It holds
 * min(m, p-r) micro-batches; bubble (p-1)(F+B), as GPipe. */
#include "schedule_internal.h"

static tb_status refuse(const tb_schedule_config *c)
{
    if (c->chunks == 1) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "schedule 1f1b has 1 stage per rank, not %d; interleaved_1f1b takes more",
                   c->chunks);
}

static tb_status fill(const tb_schedule_config *c, tb_schedule *s)
{
    for (int rank = 0; rank < c->ranks; rank++) {
        int ahead = c->ranks - rank - 1;
        for (int i = 0; i < c->microbatches + ahead; i++) {
            if (i < c->microbatches) TB_TRY(tbi_schedule_work(s, rank, TB_DO_F, rank, i));
            if (i >= ahead) TB_TRY(tbi_schedule_work(s, rank, TB_DO_B, rank, i - ahead));
        }
    }
    return TB_OK;
}

TB_SCHEDULE(1f1b) = { .refuse = refuse, .fill = fill };
