/* Dynamic loss scaling: when the scale changes. */
#include "tb_optim.h"

tb_status tb_loss_scale_update(tb_loss_scale *s, bool taken)
{
    s->good_steps = taken ? s->good_steps + 1 : 0;
    s->skipped += !taken;
    if (!taken && s->scale <= 1)
        return TB_FAIL(TB_ERR_INVALID,
                       "loss scaling: gradients are not finite at scale %g either; lower the learning "
                       "rate or clip gradients",
                       s->scale);
    if (!taken) s->scale /= 2;
    if (s->growth_steps == 0 || s->good_steps < s->growth_steps) return TB_OK;
    s->good_steps = 0;
    if (s->scale < TB_LOSS_SCALE_MAX) s->scale *= 2;
    return TB_OK;
}
