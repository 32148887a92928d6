/* What a range does to the values that pass: noise of rounding, clipping, saturation. */
#include "quant_internal.h"
#include <math.h>

tb_status tb_quant_measure_create(const tb_ranges *ranges, tb_quant_measure *out)
{
    *out = (tb_quant_measure){.ranges = ranges};
    out->at = tb_calloc((size_t)ranges->n_nodes + 1, sizeof *out->at);
    return out->at ? TB_OK : TB_ERR_OOM;
}

void tb_quant_measure_free(tb_quant_measure *m)
{
    tb_free(m->at);
    *m = (tb_quant_measure){0};
}

static void note(void *arg, int node, const tb_op_call *call, int64_t ns)
{
    const tb_quant_measure *m = arg;
    const tb_tensor *t = call->out[0];
    tb_quant_tensor *to = &m->at[node];
    const float *x = tbi_observed(t);
    to->ns += ns;
    if (!x || m->ranges->runs[node] == 0) return;
    double lo = fmin((double)m->ranges->lo[node], 0), hi = fmax((double)m->ranges->hi[node], 0), step = (hi - lo) / 255;
    if (!(step > 0)) step = 1;
    double zero = rint(-lo / step);
    for (int64_t i = 0; i < t->numel; i++) {
        double value = (double)x[i], q = fmin(fmax(rint(value / step) + zero, 0), 255),
               error = (q - zero) * step - value;
        to->clipped += value < lo || value > hi;
        to->saturated += q == 255 || (q == 0 && lo < 0);
        to->signal += value * value;
        to->noise += error * error;
    }
    to->n += t->numel;
}

void tb_quant_measure_observe(tb_quant_measure *m, tb_session *s)
{
    tb_session_keep_whole(s); /* what slices repeat would count twice */
    tb_session_observe(s, note, m);
}
