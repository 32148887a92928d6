/* What shape rules and reference loops share: output specifications, broadcasting, axes, the element walk. */
#include "tb_op.h"
#include "tb_ops.h"

void tb_out_set(tb_op_call *c, int o, tb_dtype dtype, int rank, const int64_t *dims)
{
    tb_out_spec *s = &c->spec[o];
    s->dtype = dtype;
    s->rank = rank; /* more than TB_MAX_RANK is refused when the tensor is made */
    for (int i = 0; i < rank && i < TB_MAX_RANK; i++) s->dims[i] = dims[i];
}

void tb_out_like(tb_op_call *c, int o, const tb_tensor *t) { tb_out_set(c, o, (tb_dtype)t->dtype, t->rank, t->dims); }

void tb_out_view(tb_op_call *c, int o, int rank, const int64_t *dims, const int64_t *strides, int64_t offset)
{
    tb_out_set(c, o, (tb_dtype)c->in[0]->dtype, rank, dims);
    tb_out_spec *s = &c->spec[o];
    s->is_view = true;
    s->view_of = 0;
    for (int i = 0; i < rank; i++) s->strides[i] = strides[i];
    s->offset = offset;
}

void tb_out_order(tb_op_call *c, int o, const tb_tensor *t)
{
    tb_out_spec *s = &c->spec[o];
    int order[TB_MAX_RANK]; /* axes, outermost first */
    for (int i = 0; i < s->rank; i++) {
        int at = i;
        if (t->strides[i] == 0 && t->dims[i] > 1) return; /* broadcast: no order to keep */
        for (; at > 0 && t->strides[order[at - 1]] < t->strides[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    int64_t step = 1;
    for (int i = s->rank - 1; i >= 0; i--) {
        s->is_laid_out |= order[i] != i;
        s->strides[order[i]] = step;
        step *= s->dims[order[i]];
    }
}

tb_status tb_axis_check(const char *op, int64_t axis, int rank, int *out)
{
    int64_t a = axis < 0 ? axis + rank : axis;
    if (a < 0 || a >= rank)
        return TB_FAIL(TB_ERR_SHAPE, "%s: axis %lld of a tensor with %d dimensions", op, (long long)axis, rank);
    *out = (int)a;
    return TB_OK;
}

tb_status tbi_reduced_axes(const char *op, const tb_ints *axes, int rank, bool *is_reduced)
{
    for (int i = 0; i < rank; i++) is_reduced[i] = axes->n == 0;
    for (int i = 0; i < axes->n; i++) {
        int axis = 0;
        TB_TRY(tb_axis_check(op, axes->at[i], rank, &axis));
        if (is_reduced[axis]) return TB_FAIL(TB_ERR_SHAPE, "%s: axis %d is named twice", op, axis);
        is_reduced[axis] = true;
    }
    return TB_OK;
}

tb_status tb_broadcast_dims(const char *op, const tb_tensor *a, const tb_tensor *b, int *rank, int64_t *dims)
{
    *rank = a->rank > b->rank ? a->rank : b->rank;
    for (int i = 1; i <= *rank; i++) {
        int64_t da = i <= a->rank ? a->dims[a->rank - i] : 1, db = i <= b->rank ? b->dims[b->rank - i] : 1;
        if (da != db && da != 1 && db != 1)
            return TB_FAIL(TB_ERR_SHAPE, "%s: shapes %s and %s do not broadcast: %lld against %lld in dimension %d", op,
                           tb_shape_text(a), tb_shape_text(b), (long long)da, (long long)db, -i);
        dims[*rank - i] = da == 1 ? db : da;
    }
    return TB_OK;
}

void tb_walk_init(tb_walk *w, int rank, const int64_t *dims)
{
    w->rank = rank;
    w->n = 0;
    w->flat = 0;
    w->total = 1;
    for (int i = 0; i < rank; i++) {
        w->dims[i] = dims[i];
        w->index[i] = 0;
        w->total *= dims[i];
    }
}

void tb_walk_add(tb_walk *w, const tb_tensor *t)
{
    int pad = w->rank - t->rank;
    for (int i = 0; i < w->rank; i++)
        w->strides[w->n][i] = i < pad || t->dims[i - pad] == 1 ? 0 : t->strides[i - pad];
    w->at[w->n++] = 0;
}

int64_t tbi_walk_reduced(const tb_tensor *x, const bool *is_reduced, tb_walk *w)
{
    int order[TB_MAX_RANK], n = 0;
    int64_t dims[TB_MAX_RANK], terms = 1;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < x->rank; i++)
            if (is_reduced[i] == (pass == 1)) order[n++] = i;
    for (int i = 0; i < x->rank; i++) {
        dims[i] = x->dims[order[i]];
        if (is_reduced[order[i]]) terms *= dims[i];
    }
    tb_walk_init(w, x->rank, dims);
    for (int i = 0; i < x->rank; i++) w->strides[0][i] = x->strides[order[i]];
    w->n = 1;
    w->at[0] = 0;
    return terms;
}

bool tb_walk_next(tb_walk *w)
{
    w->flat++;
    for (int axis = w->rank - 1; axis >= 0; axis--) {
        for (int k = 0; k < w->n; k++) w->at[k] += w->strides[k][axis];
        if (++w->index[axis] < w->dims[axis]) return true;
        for (int k = 0; k < w->n; k++) w->at[k] -= w->strides[k][axis] * w->dims[axis];
        w->index[axis] = 0;
    }
    return false;
}

void tb_grad_set(tb_grad_call *c, int i, tb_tensor *g)
{
    c->result[i] = c->result[i] ? tb_add(c->result[i], g) : g;
}
