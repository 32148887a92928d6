/* cross_entropy: l_r = log(sum_c exp(x_rc)) - x_r,label(r) for rows of logits, reduced over the rows that
 * count. The sum over rows is a sum over the batch: each of the context's blocks is summed in row order and
 * divided, then the pairwise tree; so ranks that hold parts of the batch and divide by the global count get
 * the bits of one rank. Hidden output: lse, the log of each row's sum, from which the backward op makes
 * softmax without another reduction. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
typedef enum tb_loss_reduction { TB_LOSS_MEAN, TB_LOSS_SUM, TB_LOSS_NONE } tb_loss_reduction;
typedef struct tb_ce_opts {
    tb_loss_reduction reduction;
    bool has_ignore_index; /* false: ignore_index is -100, as in torch */
    int64_t ignore_index;  /* rows with this label count for nothing */
    tb_tensor *count;      /* 0-d: the mean divides by it; NULL: by the number of rows that count. In data
                              parallelism the global batch's count: the ranks' losses add up to the mean */
} tb_ce_opts;
/* logits: [.., C] floats; labels: [..] i64 or i32, classes 0..C-1; opts NULL: all defaults. Returns a 0-d
 * loss, or [..] (0 for ignored rows) without reduction. The mean over no rows is NaN, as in torch. */
tb_tensor *tb_cross_entropy(tb_tensor *logits, tb_tensor *labels, const tb_ce_opts *opts);
//<<<
#endif

typedef struct ce_attrs {
    int64_t reduction, ignore_index;
} ce_attrs;
static const tb_attr ce_attr_table[] = {
    TB_ATTR_INT(ce_attrs, reduction, TB_LOSS_MEAN, "0 mean, 1 sum, 2 none"),
    TB_ATTR_INT(ce_attrs, ignore_index, -100, "rows with this label count for nothing"),
};

/* ---- what forward and backward share: inputs from `at` on are logits, labels; count is the last ---- */
typedef struct ce_rows {
    const tb_tensor *logits, *labels, *count;
    tb_dtype dtype, label_dtype;
    int64_t rows, classes, ignore_index;
    tb_loss_reduction reduction;
} ce_rows;

static ce_rows rows_of(const tb_op_call *c, int at, int count_at)
{
    const ce_attrs *a = c->attrs;
    const tb_tensor *x = c->in[at], *labels = c->in[at + 1];
    return (ce_rows){.logits = x, .labels = labels, .count = c->n_in > count_at ? c->in[count_at] : NULL,
                     .dtype = (tb_dtype)x->dtype, .label_dtype = (tb_dtype)labels->dtype, .rows = tbi_rows(x),
                     .classes = tbi_last_dim(x), .ignore_index = a->ignore_index,
                     .reduction = (tb_loss_reduction)a->reduction};
}

static tb_status check_rows(const char *op, const ce_rows *r)
{
    const tb_tensor *x = r->logits, *y = r->labels;
    if (x->rank < 1 || !tbi_has_dims(y, x->rank - 1, x->dims))
        return TB_FAIL(TB_ERR_SHAPE, "%s: labels %s do not fit logits %s: one label for each row of classes",
                       op, tb_shape_text(y), tb_shape_text(x));
    if (r->label_dtype != TB_I64 && r->label_dtype != TB_I32)
        return TB_FAIL(TB_ERR_DTYPE, "%s: labels must be i64 or i32, not %s", op,
                       tb_dtype_name(r->label_dtype));
    if (r->count && r->count->rank != 0)
        return TB_FAIL(TB_ERR_SHAPE, "%s: count must be one number (0-d), not %s", op,
                       tb_shape_text(r->count));
    if ((unsigned)r->reduction > TB_LOSS_NONE)
        return TB_FAIL(TB_ERR_INVALID, "%s: no reduction has the number %d", op, (int)r->reduction);
    return TB_OK;
}

static int64_t label_at(const ce_rows *r, int64_t row)
{
    int64_t at = r->labels->is_contiguous ? row : tbi_element_at(r->labels, row);
    return tb_load_i64(r->label_dtype,
                       (const char *)tb_op_data(r->labels) + at * (int64_t)tb_dtype_size(r->label_dtype));
}

/* Checks every label; *count: the rows that are not ignored. */
static tb_status check_labels(const tb_op_call *c, const ce_rows *r, int64_t *count)
{
    *count = 0;
    for (int64_t row = 0; row < r->rows; row++) {
        int64_t label = label_at(r, row);
        if (label == r->ignore_index) continue;
        if (label < 0 || label >= r->classes)
            return TB_FAIL(TB_ERR_INVALID, "%s: label %lld of row %lld is not one of %lld classes",
                           c->op->name, (long long)label, (long long)row, (long long)r->classes);
        ++*count;
    }
    return TB_OK;
}

/* What the sum over rows is divided by. */
static double divisor(const ce_rows *r, int64_t counted)
{
    if (r->reduction != TB_LOSS_MEAN) return 1;
    return r->count ? tb_load_f64((tb_dtype)r->count->dtype, tb_op_data(r->count)) : (double)counted;
}

/* ---- forward ---- */
static tb_status ce_shape(tb_op_call *c)
{
    ce_rows r = rows_of(c, 0, 2);
    TB_TRY(check_rows("cross_entropy", &r));
    tb_out_set(c, 0, r.dtype, r.reduction == TB_LOSS_NONE ? r.labels->rank : 0, r.labels->dims);
    tb_out_set(c, 1, tbi_stat_dtype(r.dtype), r.labels->rank, r.labels->dims);
    return TB_OK;
}

static double row_lse(const tb_tensor *x, int64_t at)
{
    int64_t n = tbi_last_dim(x), step = tbi_last_stride(x);
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, tbi_get(x, at + i * step));
    if (!isfinite(max)) max = 0;
    for (int64_t i = 0; i < n; i++) sum += exp(tbi_get(x, at + i * step) - max);
    return max + log(sum);
}

static tb_status ce_ref(tb_op_call *c)
{
    ce_rows r = rows_of(c, 0, 2);
    int64_t counted;
    double total = 0;
    TB_TRY(check_labels(c, &r, &counted));
    for (int64_t row = 0; row < r.rows; row++) {
        int64_t label = label_at(&r, row), at = tbi_row_at(r.logits, row);
        double lse = row_lse(r.logits, at);
        double loss =
            label == r.ignore_index ? 0 : lse - tbi_get(r.logits, at + label * tbi_last_stride(r.logits));
        tbi_put(c->out[1], row, lse);
        if (r.reduction == TB_LOSS_NONE) tbi_put(c->out[0], row, loss);
        total += loss;
    }
    if (r.reduction != TB_LOSS_NONE) tbi_put(c->out[0], 0, total / divisor(&r, counted));
    return TB_OK;
}

/* Labels as kernels take them: i64, adjacent; NULL without memory. */
static const int64_t *dense_labels(tb_op_call *c, const ce_rows *r)
{
    if (r->label_dtype == TB_I64 && r->labels->is_contiguous) return tb_op_data(r->labels);
    int64_t *to = tb_op_scratch(c, (size_t)(r->rows + 1) * sizeof *to);
    for (int64_t row = 0; to && row < r->rows; row++) to[row] = label_at(r, row);
    return to;
}

/* Each block in row order, in f64 and divided; then the tree in f32, as ranks go on with it. */
static double reduced(const float *loss, int64_t rows, int blocks, double over)
{
    float sums[8];
    int64_t block = tbi_block_rows(rows, blocks);
    for (int b = 0; b < blocks; b++) {
        double sum = 0;
        for (int64_t row = b * block; row < (b + 1) * block && row < rows; row++) sum += (double)loss[row];
        sums[b] = (float)(sum / over);
    }
    tbi_tree_f32(sums, blocks, 1);
    return (double)sums[0];
}

static tb_status ce_fast(tb_op_call *c)
{
    ce_rows r = rows_of(c, 0, 2);
    int64_t counted;
    bool is_row_loss = r.reduction == TB_LOSS_NONE;
    tb_row_args a = {
        .rows = r.rows, .n = r.classes, .in = tb_op_data(r.logits), .ignore_index = r.ignore_index};
    const tb_kernel *k =
        r.classes && tbi_rows_are_dense(r.logits, &a.in_stride) ? tb_call_kernel(c, 0, r.dtype, &a) : NULL;
    if (!k) return TB_ERR_UNSUPPORTED;
    TB_TRY(check_labels(c, &r, &counted));
    a.extra[0] = is_row_loss ? tb_op_data(c->out[0]) : tb_op_scratch(c, (size_t)(r.rows + 1) * sizeof(float));
    a.extra[1] = tb_op_data(c->out[1]);
    a.extra_in[0] = dense_labels(c, &r);
    if (!a.extra[0] || !a.extra_in[0]) return TB_ERR_OOM;
    tbi_run_rows(c, k, &a, (tbi_row_extras){{sizeof(float), sizeof(float)}, {sizeof(int64_t)}});
    if (!is_row_loss)
        tbi_put(c->out[0], 0, reduced(a.extra[0], r.rows, c->ctx->batch_blocks, divisor(&r, counted)));
    return TB_OK;
}

static tb_tensor *as_column(tb_tensor *t, const tb_out_spec *rows_like) /* [..] -> [.., 1] */
{
    int64_t dims[TB_MAX_RANK];
    memcpy(dims, rows_like->dims, sizeof dims);
    dims[rows_like->rank - 1] = 1;
    return tb_reshape(t, rows_like->rank, dims);
}

/* dlse / dx is the softmax: what second derivatives need. */
static void ce_grad(tb_grad_call *c)
{
    tb_tensor *x = c->in[0], *lse = c->out[1], *count = c->n_in > 2 ? c->in[2] : NULL;
    if (!tb_grad_wants(c, 0)) return;
    if (c->grad[0])
        tb_grad_set(c, 0,
                    tb_call(&tb_op_cross_entropy_grad, c->attrs, TB_IN(c->grad[0], x, c->in[1], lse, count)));
    if (c->grad[1]) {
        tb_tensor *p = tb_exp(tb_sub(x, as_column(lse, &c->in_spec[0])));
        tb_grad_set(c, 0, tb_mul(as_column(c->grad[1], &c->in_spec[0]), p));
    }
}

static void ce_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[c->op == &tb_op_cross_entropy ? 0 : 1];
    double n = (double)x->numel;
    *out = (tb_cost){.flops = 4 * n, .k = tbi_last_dim(x),
                     .bytes = n * (double)tb_dtype_size((tb_dtype)x->dtype)};
    if (c->op == &tb_op_cross_entropy_grad) out->bytes *= 2;
}

/* ---- backward: dx_rc = g (exp(x_rc - lse_r) - [c = label(r)]) / divisor, 0 for ignored rows ---- */
static tb_status ce_grad_shape(tb_op_call *c)
{
    ce_rows r = rows_of(c, 1, 4);
    TB_TRY(check_rows("cross_entropy_grad", &r));
    int rank = r.reduction == TB_LOSS_NONE ? r.labels->rank : 0;
    const tb_tensor *g = c->in[0], *lse = c->in[3];
    if (g->dtype != r.logits->dtype || lse->dtype != tbi_stat_dtype(r.dtype))
        return TB_FAIL(TB_ERR_DTYPE, "cross_entropy_grad: gradient %s and lse %s do not fit logits of %s",
                       tb_dtype_name((tb_dtype)g->dtype), tb_dtype_name((tb_dtype)lse->dtype),
                       tb_dtype_name(r.dtype));
    if (!tbi_has_dims(g, rank, r.labels->dims) || !tbi_has_dims(lse, r.labels->rank, r.labels->dims))
        return TB_FAIL(TB_ERR_SHAPE, "cross_entropy_grad: gradient %s and lse %s do not fit logits %s",
                       tb_shape_text(g), tb_shape_text(lse), tb_shape_text(r.logits));
    tb_out_like(c, 0, r.logits);
    return TB_OK;
}

static tb_status ce_grad_ref(tb_op_call *c)
{
    ce_rows r = rows_of(c, 1, 4);
    const tb_tensor *g = c->in[0], *x = r.logits, *lse = c->in[3];
    int64_t counted;
    TB_TRY(check_labels(c, &r, &counted));
    double over = divisor(&r, counted);
    for (int64_t row = 0; row < r.rows; row++) {
        int64_t label = label_at(&r, row), at = tbi_row_at(x, row);
        double scale = tbi_get(g, g->rank ? tbi_element_at(g, row) : 0) / over;
        double log_sum = tbi_get(lse, tbi_element_at(lse, row));
        for (int64_t i = 0; i < r.classes; i++) {
            double p = exp(tbi_get(x, at + i * tbi_last_stride(x)) - log_sum);
            tbi_put(c->out[0], row * r.classes + i, label == r.ignore_index ? 0 : scale * (p - (i == label)));
        }
    }
    return TB_OK;
}

static tb_status ce_grad_fast(tb_op_call *c)
{
    ce_rows r = rows_of(c, 1, 4);
    const tb_tensor *g = c->in[0], *lse = c->in[3];
    int64_t counted;
    float scale;
    tb_row_args a = {.rows = r.rows, .n = r.classes, .in = tb_op_data(r.logits), .out = tb_op_data(c->out[0]),
                     .out_stride = r.classes, .ignore_index = r.ignore_index};
    bool is_dense =
        r.classes && lse->is_contiguous && g->is_contiguous && tbi_rows_are_dense(r.logits, &a.in_stride);
    const tb_kernel *k = is_dense ? tb_call_kernel(c, 0, r.dtype, &a) : NULL;
    if (!k) return TB_ERR_UNSUPPORTED;
    TB_TRY(check_labels(c, &r, &counted));
    a.extra_in[0] = dense_labels(c, &r);
    a.extra_in[1] = tb_op_data(lse);
    if (!a.extra_in[0]) return TB_ERR_OOM;
    if (r.reduction == TB_LOSS_NONE) {
        a.in2 = tb_op_data(g);
        a.in2_stride = 1;
    } else {
        scale = (float)(tbi_get(g, 0) / divisor(&r, counted));
        a.in2 = &scale;
    }
    tbi_run_rows(c, k, &a, (tbi_row_extras){{0}, {sizeof(int64_t), sizeof(float)}});
    return TB_OK;
}

/* The op is linear in g. With p = exp(x - lse) and s = g / divisor for rows that count, dx = h s p and dlse =
 * -sum dx; s comes from the op itself: at lse = inf, p vanishes and -s one-hot is left. */
static void ce_grad_grad(tb_grad_call *c)
{
    tb_tensor *h = c->grad[0], *g = c->in[0], *x = c->in[1], *lse = c->in[3],
              *count = c->n_in > 4 ? c->in[4] : NULL;
    if (tb_grad_wants(c, 0)) {
        tb_tensor *per_g = tb_call(c->op, c->attrs, TB_IN(tb_ones_like(g), x, c->in[2], lse, count));
        tb_tensor *hq = tb_mul(h, per_g);
        tb_grad_set(c, 0, c->in_spec[0].rank ? tb_sum_axis(hq, -1, false) : tb_sum(hq, 0, NULL, false));
    }
    if (!tb_grad_wants(c, 1) && !tb_grad_wants(c, 3)) return;
    tb_tensor *inf = tb_full(c->in_spec[3].dtype, c->in_spec[3].rank, c->in_spec[3].dims, INFINITY);
    tb_tensor *s = tb_neg(tb_sum_axis(tb_call(c->op, c->attrs, TB_IN(g, x, c->in[2], inf, count)), -1, true));
    tb_tensor *dx = tb_mul(tb_mul(h, s), tb_exp(tb_sub(x, as_column(lse, &c->in_spec[1]))));
    if (tb_grad_wants(c, 1)) tb_grad_set(c, 1, dx);
    if (tb_grad_wants(c, 3)) tb_grad_set(c, 3, tb_neg(tb_sum_axis(dx, -1, false)));
}

/* ---- samples ---- */
#define LABELS .has_dtype = true, .dtype = TB_I64, .no_grad = true

typedef struct ce_case {
    ce_attrs attrs;
    tb_sample_in logits, labels, count;
} ce_case;
static const ce_case ce_cases[] = {
    {{TB_LOSS_MEAN, -100}, {TB_SHAPE(5, 3)}, {TB_SHAPE(5), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_SUM, -100}, {TB_SHAPE(2, 3, 4)}, {TB_SHAPE(2, 3), LABELS, .hi = 3}, {.absent = true}},
    {{TB_LOSS_NONE, 1}, {TB_SHAPE(4, 3)}, {TB_SHAPE(4), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_MEAN, -1}, {TB_SHAPE(3, 5)}, {TB_SHAPE(3), LABELS, .lo = -1, .hi = 4},
     {.lo = 8, .hi = 9, .no_grad = true}},
    {{TB_LOSS_SUM, -100}, {TB_SHAPE(0, 3)}, {TB_SHAPE(0), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_MEAN, -100}, {TB_SHAPE(1, 3)}, {TB_SHAPE(1), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_MEAN, -100}, {TB_SHAPE(37, 131)}, {TB_SHAPE(37), LABELS, .hi = 130}, {.absent = true}},
};
enum { CE_CASES = sizeof ce_cases / sizeof ce_cases[0] };

static void ce_samples(tb_samples *to)
{
    for (int i = 0; i < CE_CASES; i++) {
        const ce_case *k = &ce_cases[i];
        tb_sample(to, &k->attrs, 3, (tb_sample_in[]){k->logits, k->labels, k->count});
    }
}

static void ce_grad_samples(tb_samples *to)
{
    for (int i = 0; i < CE_CASES; i++) {
        const ce_case *k = &ce_cases[i];
        tb_sample_in g = {.rank = 0}, lse = k->labels;
        lse.has_dtype = lse.no_grad = false;
        lse.lo = 1, lse.hi = 3;
        if (k->attrs.reduction == TB_LOSS_NONE) g = lse;
        lse.is_stat = true;
        tb_sample(to, &k->attrs, 5, (tb_sample_in[]){g, k->logits, k->labels, lse, k->count});
    }
}

TB_OP(cross_entropy, .doc = "log-softmax and negative log-likelihood of labels", .n_in_min = 2, .n_in = 3,
      .n_out = 2, .n_hidden = 1, .dtypes = TB_FLOATS, .dtypes_reason = "logits are floats",
      TB_ATTRS(ce_attrs, ce_attr_table), .shape = ce_shape, .ref = ce_ref, .fast = ce_fast,
      .primitives = {"cross_entropy"}, .grad = ce_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1) | TB_SAVE_IN(2) | TB_SAVE_OUT(1), .fusion = TB_FUSE_ROW,
      .cost = ce_cost, .samples = ce_samples, .tol = TB_TOL(4));
TB_OP(cross_entropy_grad, .doc = "gradient of cross_entropy", .n_in_min = 4, .n_in = 5, .n_out = 1,
      .dtypes = TB_FLOATS, .dtypes_reason = "logits are floats", TB_ATTRS(ce_attrs, ce_attr_table),
      .shape = ce_grad_shape, .ref = ce_grad_ref, .fast = ce_grad_fast,
      .primitives = {"cross_entropy_grad"}, .grad = ce_grad_grad, .saves = TB_SAVE_ALL_IN,
      .fusion = TB_FUSE_ROW, .cost = ce_cost, .samples = ce_grad_samples, .tol = TB_TOL(4));

tb_tensor *tb_cross_entropy(tb_tensor *logits, tb_tensor *labels, const tb_ce_opts *opts)
{
    const tb_ce_opts o = opts ? *opts : (tb_ce_opts){0};
    ce_attrs a = {.reduction = o.reduction, .ignore_index = o.has_ignore_index ? o.ignore_index : -100};
    return tb_call(&tb_op_cross_entropy, &a, TB_IN(logits, labels, o.count));
}
