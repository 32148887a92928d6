/* running_average: an exponential moving average, in place: average += momentum (scale * value - average).
 * What batch normalisation keeps of its batches' statistics; `scale` makes a biased variance unbiased. */
#include "rows.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* `average` contiguous, `value` of its shape, floats, each of its own dtype. Returns the new average (the
 * same storage). */
tb_tensor *tb_running_average(tb_tensor *average, tb_tensor *value, double momentum, double scale);
//<<<

typedef struct running_average_attrs {
    double momentum, scale;
} running_average_attrs;
static const tb_attr running_average_attr_table[] = {
    TB_ATTR_REAL(running_average_attrs, momentum, 0.1, "weight of the new value"),
    TB_ATTR_REAL(running_average_attrs, scale, 1, "of the new value"),
};

static tb_status running_average_shape(tb_op_call *c)
{
    const tb_tensor *average = c->in[0], *v = c->in[1];
    if (!average->is_contiguous || !tb_dtype_is_float((tb_dtype)v->dtype) ||
        !tbi_has_dims(v, average->rank, average->dims))
        return TB_FAIL(TB_ERR_SHAPE,
                       "running_average: average %s (contiguous) and value %s (floats) must be alike",
                       tb_shape_text(average), tb_shape_text(v));
    tb_out_like(c, 0, average);
    c->spec[0].is_donated = true;
    c->spec[0].view_of = 0;
    return TB_OK;
}

static tb_status running_average_ref(tb_op_call *c)
{
    const running_average_attrs *a = c->attrs;
    for (int64_t i = 0; i < c->in[0]->numel; i++) {
        double old = tbi_get(c->in[0], i);
        tbi_put(c->in[0], i,
                old + a->momentum * (a->scale * tbi_get(c->in[1], tbi_element_at(c->in[1], i)) - old));
    }
    return TB_OK;
}

static void running_average_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(3, 5)}, empty = {TB_SHAPE(0)}, unit = {TB_SHAPE(1)};
    tb_sample(to, &(running_average_attrs){0.1, 1}, 2, (tb_sample_in[]){unit, unit});
    tb_sample(to, &(running_average_attrs){0.1, 1}, 2, (tb_sample_in[]){x, x});
    tb_sample(to, &(running_average_attrs){0.5, 1.25}, 2, (tb_sample_in[]){x, x});
    tb_sample(to, &(running_average_attrs){0.1, 1}, 2, (tb_sample_in[]){empty, empty});
}

TB_OP(running_average, .doc = "an exponential moving average, in place", .n_in_min = 2, .n_in = 2, .n_out = 1,
      .dtypes = TB_FLOATS, .dtypes_reason = "averages are floats",
      TB_ATTRS(running_average_attrs, running_average_attr_table), .shape = running_average_shape,
      .ref = running_average_ref, .no_grad = "writes in place", .samples = running_average_samples,
      .tol = TB_TOL(4));

tb_tensor *tb_running_average(tb_tensor *average, tb_tensor *value, double momentum, double scale)
{
    return tb_call(&tb_op_running_average, &(running_average_attrs){momentum, scale}, TB_IN(average, value));
}
