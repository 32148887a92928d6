/* Collects the sample cases of an op. */
#include "tb_op.h"

void tb_sample(tb_samples *to, const void *attrs, int n_in, const tb_sample_in *in)
{
    if (to->n == to->capacity) {
        int capacity = to->capacity ? 2 * to->capacity : 8;
        tb_sample_case *more = tb_realloc(to->cases, (size_t)capacity * sizeof *more);
        if (!more) {
            to->failed = true;
            return;
        }
        to->cases = more;
        to->capacity = capacity;
    }
    tb_sample_case *c = &to->cases[to->n];
    *c = (tb_sample_case){.n_in = n_in};
    for (int i = 0; i < n_in; i++) c->in[i] = in[i];
    if (attrs) {
        c->attrs = tb_calloc(1, to->attrs_bytes);
        if (!c->attrs) {
            to->failed = true;
            return;
        }
        memcpy(c->attrs, attrs, to->attrs_bytes);
    }
    to->n++;
}

tb_status tb_samples_of(const tb_op *op, tb_samples *out)
{
    *out = (tb_samples){.attrs_bytes = op->attrs_bytes};
    if (op->samples) op->samples(out);
    if (!out->failed) return TB_OK;
    tb_samples_free(out);
    return TB_ERR_OOM;
}

void tb_samples_free(tb_samples *s)
{
    for (int i = 0; i < s->n; i++) tb_free(s->cases[i].attrs);
    tb_free(s->cases);
    *s = (tb_samples){0};
}
