/* Plain gradient accumulation on one device: each micro-batch forward through all stages, then back. The reference
 * that every pipeline must equal: weight gradients are added over micro-batches ascending. Peak: one micro-batch. */
#include "schedule_internal.h"

static tb_status refuse(const tb_schedule_config *c)
{
    if (c->ranks == 1) return TB_OK;
    return TB_FAIL(TB_ERR_INVALID, "schedule accumulate runs on 1 rank, not %d; give its stages as chunks", c->ranks);
}

static tb_status fill(const tb_schedule_config *c, tb_schedule *s)
{
    for (int i = 0; i < c->microbatches; i++) {
        for (int stage = 0; stage < s->stages; stage++) TB_TRY(tbi_schedule_work(s, 0, TB_DO_F, stage, i));
        for (int stage = s->stages - 1; stage >= 0; stage--) TB_TRY(tbi_schedule_work(s, 0, TB_DO_B, stage, i));
    }
    return TB_OK;
}

TB_SCHEDULE(accumulate) = { .refuse = refuse, .fill = fill };
