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
