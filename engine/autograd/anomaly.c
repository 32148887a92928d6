/* Anomaly mode and the gradient check. */
#include "autograd_internal.h"
#include <math.h>

static tb_status count_nans(tb_tensor *t, int64_t *nans)
{
    *nans = 0;
    if (!t || !tb_dtype_is_float((tb_dtype)t->dtype) || !t->storage->device->has_data) return TB_OK;
    size_t size = tb_dtype_size((tb_dtype)t->dtype), bytes = tb_tensor_bytes(t);
    char *copy = tb_heap_alloc(t->ctx->heap, bytes, TB_MEM_WORKSPACE);
    if (!copy) return TB_ERR_OOM;
    tb_status st = tb_tensor_read(t, copy, bytes);
    for (size_t at = 0; st == TB_OK && at < bytes; at += size)
        *nans += isnan(tb_load_f64((tb_dtype)t->dtype, copy + at));
    tb_heap_free(t->ctx->heap, copy);
    return st;
}

tb_status tbi_anomaly_around(tb_interceptor *self, tb_op_call *c)
{
    TB_TRY(tb_dispatch_next(self, c));
    const tape *tp = c->ctx->slot[TB_SLOT_AUTOGRAD].state;
    int64_t nans = 0;
    for (int o = 0; o < c->op->n_out && nans == 0; o++) TB_TRY(count_nans(c->out[o], &nans));
    if (nans == 0) return TB_OK;
    for (int i = 0; i < c->n_in; i++) {
        int64_t earlier;
        TB_TRY(count_nans(c->in[i], &earlier));
        if (earlier) return TB_OK; /* passed on, not made here */
    }
    return TB_FAIL(TB_ERR_INVALID, "op %s made the first NaN: %lld of them in %s%s%s", c->op->name, (long long)nans,
                   tb_shape_text(c->out[0]), tp->backward_op ? ", in the gradient of " : "",
                   tp->backward_op ? tp->backward_op->name : "");
}

tb_status tb_anomaly_mode(tb_ctx *ctx, bool on)
{
    tape *tp = tbi_tape(ctx);
    if (!tp) return TB_ERR_OOM;
    if (on) tb_interceptor_add(ctx, &tp->anomaly);
    else tb_interceptor_remove(ctx, &tp->anomaly);
    return TB_OK;
}

/* Value of f with element `at` of input i moved by `delta`. */
static tb_status shifted(tb_scalar_fn f, void *arg, int n, tb_tensor *const *inputs, int i, int64_t at, double delta,
                         double *out)
{
    tb_scope *scope = tb_scope_open();
    tb_tensor *moved[16];
    size_t bytes = tb_tensor_bytes(inputs[i]);
    double *values = tb_heap_alloc(inputs[i]->ctx->heap, bytes, TB_MEM_WORKSPACE);
    tb_status st = values ? tb_tensor_read(inputs[i], values, bytes) : TB_ERR_OOM;
    if (st == TB_OK) {
        values[at] += delta;
        memcpy(moved, inputs, sizeof *moved * (size_t)n);
        moved[i] = tb_tensor_from(TB_F64, inputs[i]->rank, inputs[i]->dims, values);
        st = tb_item_f64(f(arg, n, moved), out);
    }
    tb_heap_free(inputs[i]->ctx->heap, values);
    tb_scope_close(scope);
    return st;
}

static tb_status check_input(tb_scalar_fn f, void *arg, int n, tb_tensor *const *inputs, int i, tb_tensor *grad,
                             double step, double tol)
{
    for (int64_t at = 0; at < inputs[i]->numel; at++) {
        double above, below, got = 0;
        TB_TRY(shifted(f, arg, n, inputs, i, at, step, &above));
        TB_TRY(shifted(f, arg, n, inputs, i, at, -step, &below));
        double expected = (above - below) / (2 * step);
        if (grad) {
            tb_scope *scope = tb_scope_open();
            tb_status st = tb_item_f64(tb_slice(tb_reshape(grad, 1, &grad->numel), 0, at, at + 1, 1), &got);
            tb_scope_close(scope);
            TB_TRY(st);
        }
        double scale = fmax(1.0, fmax(fabs(expected), fabs(got)));
        if (!(fabs(expected - got) <= tol * scale))
            return TB_FAIL(TB_ERR_PARITY, "gradient of input %d, element %lld: %.12g, differences say %.12g", i,
                           (long long)at, got, expected);
    }
    return TB_OK;
}

tb_status tb_gradcheck(tb_scalar_fn f, void *arg, int n, tb_tensor *const *inputs, double step, double tol)
{
    tb_tensor *grads[16];
    if (n < 1 || n > 16) return TB_FAIL(TB_ERR_INVALID, "gradcheck takes 1 to 16 inputs, not %d", n);
    for (int i = 0; i < n; i++)
        if (inputs[i]->dtype != TB_F64) return TB_FAIL(TB_ERR_DTYPE, "gradcheck: input %d is not f64", i);
    tb_ctx *ctx = inputs[0]->ctx;
    TB_TRY(tb_gradients(f(arg, n, inputs), NULL, n, inputs, grads));
    bool mode = tb_grad_mode(ctx, false);
    tb_status st = TB_OK;
    for (int i = 0; i < n && st == TB_OK; i++)
        if (tb_requires_grad(inputs[i])) st = check_input(f, arg, n, inputs, i, grads[i], step, tol);
    tb_grad_mode(ctx, mode);
    return st;
}
