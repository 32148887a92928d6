/* ZB-H1: 1F1B with the backward split. Input gradients (I) go upstream at once, weight gradients (W) fill what were
 * bubbles: rank r runs W behind I by r micro-batches, so each rank holds p in all. Bubble (p-1)(F + I - W). */
#include "schedule_internal.h"

static tb_status refuse(const tb_schedule_config *c)
{
    if (c->chunks == 1) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "schedule zb_h1 has 1 stage per rank, not %d", c->chunks);
}

static tb_status fill(const tb_schedule_config *c, tb_schedule *s)
{
    int m = c->microbatches;
    for (int rank = 0; rank < c->ranks; rank++) {
        int ahead = c->ranks - rank - 1, behind = rank;
        for (int i = 0; i < m + ahead + behind; i++) {
            int back = i - ahead, weight = back - behind;
            if (i < m) TB_TRY(tbi_schedule_work(s, rank, TB_DO_F, rank, i));
            if (back >= 0 && back < m) TB_TRY(tbi_schedule_work(s, rank, TB_DO_I, rank, back));
            if (weight >= 0) TB_TRY(tbi_schedule_work(s, rank, TB_DO_W, rank, weight));
        }
    }
    return TB_OK;
}

TB_SCHEDULE(zb_h1) = { .refuse = refuse, .fill = fill };
