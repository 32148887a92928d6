/* cross_entropy: l_r = log(sum_c exp(x_rc)) - x_r,label(r) for rows of logits, reduced over the rows that count. The
 * sum over rows is a sum over the batch: each of the context's blocks is summed in row order and divided, then the
 * pairwise tree; so ranks that hold parts of the batch and divide by the global count get the bits of one rank.
 * Hidden output: lse, the log of each row's sum, from which the backward op makes softmax without another reduction. */
#include "rows.h"
#include "tb_ops.h"
#include <math.h>

#ifndef TB_OPS_H
//>>> tb_ops.h
typedef enum tb_loss_reduction { TB_LOSS_MEAN, TB_LOSS_SUM, TB_LOSS_NONE } tb_loss_reduction;
typedef struct tb_ce_opts {
    tb_loss_reduction reduction;
    bool has_ignore_index; /* false: rows labelled -100 count for nothing, as in torch; true: those labelled */
    int64_t ignore_index;  /* this */
    tb_tensor *count;      /* 0-d: the mean divides by it; NULL: by the number of rows that count. Data parallelism
                              gives the global batch's count, and the ranks' losses add up to the mean */
} tb_ce_opts;
/* logits: [.., C] floats; labels: [..] i64 or i32, classes 0..C-1; opts NULL: all defaults. Returns a 0-d loss, or
 * [..] (0 for ignored rows) without reduction. The mean over no rows is NaN, as in torch. */
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
    if (x->rank < 1 || y->rank != x->rank - 1 || memcmp(x->dims, y->dims, (size_t)y->rank * sizeof(int64_t)) != 0)
        return TB_FAIL(TB_ERR_SHAPE, "%s: labels %s do not fit logits %s: one label for each row of classes", op,
                       tb_shape_text(y), tb_shape_text(x));
    if (r->label_dtype != TB_I64 && r->label_dtype != TB_I32)
        return TB_FAIL(TB_ERR_DTYPE, "%s: labels must be i64 or i32, not %s", op, tb_dtype_name(r->label_dtype));
    if (r->count && r->count->rank != 0)
        return TB_FAIL(TB_ERR_SHAPE, "%s: count must be one number (0-d), not %s", op, tb_shape_text(r->count));
    if ((unsigned)r->reduction > TB_LOSS_NONE)
        return TB_FAIL(TB_ERR_INVALID, "%s: no reduction has the number %d", op, (int)r->reduction);
    return TB_OK;
}

static int64_t label_at(const ce_rows *r, int64_t row)
{
    int64_t at = r->labels->is_contiguous ? row : tbi_element_at(r->labels, row);
    return tb_load_i64(r->label_dtype, (const char *)tb_op_data(r->labels) + at * (int64_t)tb_dtype_size(r->label_dtype));
}

/* Checks every label; *count: the rows that are not ignored. */
static tb_status check_labels(const tb_op_call *c, const ce_rows *r, int64_t *count)
{
    *count = 0;
    for (int64_t row = 0; row < r->rows; row++) {
        int64_t label = label_at(r, row);
        if (label == r->ignore_index) continue;
        if (label < 0 || label >= r->classes)
            return TB_FAIL(TB_ERR_INVALID, "%s: label %lld of row %lld is not one of %lld classes", c->op->name,
                           (long long)label, (long long)row, (long long)r->classes);
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

static tb_dtype stat_dtype(tb_dtype t) { return t == TB_F64 ? TB_F64 : TB_F32; }

/* ---- forward ---- */
static tb_status ce_shape(tb_op_call *c)
{
    ce_rows r = rows_of(c, 0, 2);
    TB_TRY(check_rows("cross_entropy", &r));
    tb_out_set(c, 0, r.dtype, r.reduction == TB_LOSS_NONE ? r.labels->rank : 0, r.labels->dims);
    tb_out_set(c, 1, stat_dtype(r.dtype), r.labels->rank, r.labels->dims);
    return TB_OK;
}

static double row_lse(const ce_rows *r, int64_t at)
{
    const char *x = (const char *)tb_op_data(r->logits) + at * (int64_t)tb_dtype_size(r->dtype);
    int64_t step = tbi_last_stride(r->logits) * (int64_t)tb_dtype_size(r->dtype);
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < r->classes; i++) max = fmax(max, tb_load_f64(r->dtype, x + i * step));
    if (!isfinite(max)) max = 0;
    for (int64_t i = 0; i < r->classes; i++) sum += exp(tb_load_f64(r->dtype, x + i * step) - max);
    return max + log(sum);
}

static double logit_at(const ce_rows *r, int64_t row, int64_t class)
{
    int64_t at = tbi_row_at(r->logits, row) + class * tbi_last_stride(r->logits);
    return tb_load_f64(r->dtype, (const char *)tb_op_data(r->logits) + at * (int64_t)tb_dtype_size(r->dtype));
}

static tb_status ce_ref(tb_op_call *c)
{
    ce_rows r = rows_of(c, 0, 2);
    int64_t counted;
    TB_TRY(check_labels(c, &r, &counted));
    char *loss = tb_op_data(c->out[0]), *lse = tb_op_data(c->out[1]);
    int64_t loss_size = (int64_t)tb_dtype_size(r.dtype), lse_size = (int64_t)tb_dtype_size(c->spec[1].dtype);
    double total = 0;
    for (int64_t row = 0; row < r.rows; row++) {
        int64_t label = label_at(&r, row);
        double row_sum = row_lse(&r, tbi_row_at(r.logits, row));
        double l = label == r.ignore_index ? 0 : row_sum - logit_at(&r, row, label);
        tb_store_f64(c->spec[1].dtype, lse + row * lse_size, row_sum);
        if (r.reduction == TB_LOSS_NONE) tb_store_f64(r.dtype, loss + row * loss_size, l);
        total += l;
    }
    if (r.reduction != TB_LOSS_NONE) tb_store_f64(r.dtype, loss, total / divisor(&r, counted));
    return TB_OK;
}

static tb_tensor *call_backward(const tb_grad_call *c)
{
    tb_tensor *in[] = {c->grad[0], c->in[0], c->in[1], c->out[1], c->n_in > 2 ? c->in[2] : NULL};
    return tb_call(&tb_op_cross_entropy_grad, c->attrs, 5, in);
}

static void ce_grad(tb_grad_call *c)
{
    if (!tb_grad_wants(c, 0)) return;
    if (c->grad[0]) tb_grad_set(c, 0, call_backward(c));
}

static void ce_cost(const tb_op_call *c, tb_cost *out)
{
    const tb_tensor *x = c->in[c->op == &tb_op_cross_entropy ? 0 : 1];
    double n = (double)x->numel;
    *out = (tb_cost){.flops = 4 * n, .k = tbi_last_dim(x), .bytes = n * (double)tb_dtype_size((tb_dtype)x->dtype)};
    if (c->op == &tb_op_cross_entropy_grad) out->bytes *= 2;
}

/* ---- backward: dx_rc = g (exp(x_rc - lse_r) - [c = label(r)]) / divisor, 0 for ignored rows ---- */
static tb_status ce_grad_shape(tb_op_call *c)
{
    ce_rows r = rows_of(c, 1, 4);
    TB_TRY(check_rows("cross_entropy_grad", &r));
    int rank = r.reduction == TB_LOSS_NONE ? r.labels->rank : 0;
    const tb_tensor *g = c->in[0], *lse = c->in[3];
    if (g->dtype != r.logits->dtype || lse->dtype != stat_dtype(r.dtype))
        return TB_FAIL(TB_ERR_DTYPE, "cross_entropy_grad: gradient %s and lse %s do not fit logits of %s",
                       tb_dtype_name((tb_dtype)g->dtype), tb_dtype_name((tb_dtype)lse->dtype), tb_dtype_name(r.dtype));
    if (g->rank != rank || memcmp(g->dims, r.labels->dims, (size_t)rank * sizeof(int64_t)) != 0 ||
        lse->rank != r.labels->rank || memcmp(lse->dims, r.labels->dims, (size_t)lse->rank * sizeof(int64_t)) != 0)
        return TB_FAIL(TB_ERR_SHAPE, "cross_entropy_grad: gradient %s and lse %s do not fit logits %s",
                       tb_shape_text(g), tb_shape_text(lse), tb_shape_text(r.logits));
    tb_out_like(c, 0, r.logits);
    return TB_OK;
}

static tb_status ce_grad_ref(tb_op_call *c)
{
    ce_rows r = rows_of(c, 1, 4);
    const tb_tensor *g = c->in[0], *lse = c->in[3];
    tb_dtype lse_dtype = (tb_dtype)lse->dtype;
    int64_t counted, size = (int64_t)tb_dtype_size(r.dtype), lse_size = (int64_t)tb_dtype_size(lse_dtype);
    TB_TRY(check_labels(c, &r, &counted));
    double over = divisor(&r, counted);
    char *out = tb_op_data(c->out[0]);
    const char *pg = tb_op_data(g), *pl = tb_op_data(lse);
    tb_walk w;
    tb_walk_init(&w, r.labels->rank, r.labels->dims);
    tb_walk_add(&w, g); /* one per row, or one for all */
    tb_walk_add(&w, lse);
    TB_WALK(&w) {
        int64_t label = label_at(&r, w.flat);
        double scale = tb_load_f64(r.dtype, pg + w.at[0] * size) / over;
        double row_sum = tb_load_f64(lse_dtype, pl + w.at[1] * lse_size);
        for (int64_t i = 0; i < r.classes; i++, out += size) {
            double p = exp(logit_at(&r, w.flat, i) - row_sum);
            tb_store_f64(r.dtype, out, label == r.ignore_index ? 0 : scale * (p - (i == label)));
        }
    }
    return TB_OK;
}

/* ---- samples ---- */
#define SHAPE(...) .rank = sizeof((int[]){__VA_ARGS__}) / sizeof(int), .dims = {__VA_ARGS__}
#define LABELS .has_dtype = true, .dtype = TB_I64, .no_grad = true

typedef struct ce_case {
    ce_attrs attrs;
    tb_sample_in logits, labels, count;
} ce_case;
static const ce_case ce_cases[] = {
    {{TB_LOSS_MEAN, -100}, {SHAPE(5, 3)}, {SHAPE(5), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_SUM, -100}, {SHAPE(2, 3, 4)}, {SHAPE(2, 3), LABELS, .hi = 3}, {.absent = true}},
    {{TB_LOSS_NONE, 1}, {SHAPE(4, 3)}, {SHAPE(4), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_MEAN, -1}, {SHAPE(3, 5)}, {SHAPE(3), LABELS, .lo = -1, .hi = 4}, {.lo = 8, .hi = 9, .no_grad = true}},
    {{TB_LOSS_SUM, -100}, {SHAPE(0, 3)}, {SHAPE(0), LABELS, .hi = 2}, {.absent = true}},
    {{TB_LOSS_MEAN, -100}, {SHAPE(37, 131)}, {SHAPE(37), LABELS, .hi = 130}, {.absent = true}},
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
        if (i == CE_CASES - 1) continue; /* lse has a dtype of its own in bf16 and f16; small cases show that */
        tb_sample(to, &k->attrs, 5, (tb_sample_in[]){g, k->logits, k->labels, lse, k->count});
    }
}

TB_OP(cross_entropy, .doc = "log-softmax and negative log-likelihood of labels", .n_in_min = 2, .n_in = 3, .n_out = 2,
      .n_hidden = 1, .dtypes = TB_FLOATS, .dtypes_reason = "logits are floats", TB_ATTRS(ce_attrs, ce_attr_table),
      .shape = ce_shape, .ref = ce_ref, .grad = ce_grad,
      .saves = TB_SAVE_IN(0) | TB_SAVE_IN(1) | TB_SAVE_IN(2) | TB_SAVE_OUT(1), .fusion = TB_FUSE_ROW, .cost = ce_cost,
      .samples = ce_samples, .tol = TB_TOL(4));
TB_OP(cross_entropy_grad, .doc = "gradient of cross_entropy", .n_in_min = 4, .n_in = 5, .n_out = 1,
      .dtypes = TB_FLOATS, .dtypes_reason = "logits are floats", TB_ATTRS(ce_attrs, ce_attr_table),
      .shape = ce_grad_shape, .ref = ce_grad_ref, .no_grad = "second derivatives go through log_softmax",
      .fusion = TB_FUSE_ROW, .cost = ce_cost, .samples = ce_grad_samples, .tol = TB_TOL(4));

tb_tensor *tb_cross_entropy(tb_tensor *logits, tb_tensor *labels, const tb_ce_opts *opts)
{
    const tb_ce_opts o = opts ? *opts : (tb_ce_opts){0};
    ce_attrs a = {.reduction = o.reduction, .ignore_index = o.has_ignore_index ? o.ignore_index : -100};
    return tb_call(&tb_op_cross_entropy, &a, TB_IN(logits, labels, o.count));
}
