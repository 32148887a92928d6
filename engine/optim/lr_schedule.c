/* Learning rate schedules. */
#include "tb_optim.h"
#include <math.h>

double tb_lr_at(const tb_lr_schedule *s, int64_t step)
{
    if (step < s->warmup) return s->rate * (double)(step + 1) / (double)s->warmup;
    if (s->kind == TB_LR_CONSTANT) return s->rate;
    int64_t length = s->steps - s->warmup, done = step - s->warmup;
    if (done >= length) return s->floor;
    return s->floor + (s->rate - s->floor) / 2 * (1 + cos(3.14159265358979323846 * (double)done / (double)length));
}

tb_status tb_lr_check(const tb_lr_schedule *s)
{
    if (s->kind == TB_LR_COSINE && s->steps <= s->warmup)
        return TB_FAIL(TB_ERR_CONFIG, "a warm-up of %lld steps leaves nothing of a cosine schedule of %lld",
                       (long long)s->warmup, (long long)s->steps);
    for (int i = 0; i <= 8; i++) {
        double rate = tb_lr_at(s, s->steps * i / 8);
        if (!(rate >= 0 && isfinite(rate)))
            return TB_FAIL(TB_ERR_CONFIG, "the learning rate of step %lld is %g", (long long)(s->steps * i / 8), rate);
    }
    return TB_OK;
}
