/* A seed draws the leaves and the ops of a graph; every op takes any value made so far, so values are used several
 * times, twice by one op, through views of views, broadcast, cut, and next to constants. */
#pragma once
#include "tb_test.h"
#include "tb_autograd.h"
#include "tb_op.h"
#include "tb_ops.h"
#include "tb_rng.h"

enum { MAX_LEAVES = 5, MAX_VALUES = 32, MAX_NUMEL = 64 };

typedef struct builder {
    uint64_t seed, at; /* of the draws: they depend on shapes only, so any build of a seed is the same graph */
    bool is_smooth;    /* no kinks: the gradients have gradients */
    bool recomputes;   /* some steps are segments */
    tb_tensor *values[MAX_VALUES];
    int n;
} builder;

static int roll(builder *b, int n) { return (int)tb_random_below(b->seed, 1, b->at++, (uint64_t)n); }
static bool toss(builder *b) { return roll(b, 2); }

static tb_tensor *numbers(builder *b, tb_dtype t, int rank, const int64_t *dims)
{
    double x[MAX_NUMEL * 4];
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    assert_true(n <= MAX_NUMEL * 4);
    for (int64_t i = 0; i < n; i++) x[i] = (float)tb_random_normal(b->seed, 2, b->at * 1024 + (uint64_t)i);
    b->at++;
    return tb_cast(tb_tensor_from(TB_F64, rank, dims, x), t);
}

static tb_tensor *indices(builder *b, int rank, const int64_t *dims, int64_t below)
{
    int64_t x[MAX_NUMEL * 4], n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    for (int64_t i = 0; i < n; i++) x[i] = roll(b, (int)below);
    return tb_tensor_from(TB_I64, rank, dims, x);
}

/* A value, the late ones more often. */
static tb_tensor *any(builder *b)
{
    return b->values[toss(b) ? b->n - 1 - roll(b, b->n < 3 ? b->n : 3) : roll(b, b->n)];
}

static int axis_of(builder *b, const tb_tensor *x)
{
    int axis = roll(b, x->rank);
    return toss(b) ? axis : axis - x->rank;
}

/* x / sqrt(1 + mean x^2): keeps magnitudes near one. */
static tb_tensor *tamed(tb_tensor *x)
{
    return tb_div(x, tb_sqrt(tb_add_number(tb_mean(tb_mul(x, x), 0, NULL, false), 1)));
}

/* One and above, smoothly. */
static tb_tensor *positive(tb_tensor *x) { return tb_add_number(tb_mul(x, x), 1); }

/* ---- views ---- */
static tb_tensor *reshaped(builder *b, tb_tensor *x)
{
    int64_t dims[4] = {1, 1, 1, 1}, left = x->numel;
    int rank = 1 + roll(b, 4);
    for (int64_t p = 2; left > 1; p += p > 2 ? 2 : 1)
        for (; left % p == 0; left /= p) dims[roll(b, rank)] *= p;
    return tb_reshape(x, rank, dims);
}

static tb_tensor *permuted(builder *b, tb_tensor *x)
{
    int64_t order[TB_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        int j = roll(b, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return tb_permute(x, x->rank, order);
}

static tb_tensor *cut(builder *b, tb_tensor *x)
{
    if (x->rank == 0) return x;
    int axis = roll(b, x->rank), from = roll(b, (int)x->dims[axis]);
    return tb_slice(x, axis, from, from + 1 + roll(b, (int)x->dims[axis]), 1 + roll(b, 3));
}

static tb_tensor *expanded(builder *b, tb_tensor *x)
{
    int64_t dims[TB_MAX_RANK], n = x->numel;
    int front = x->rank < 4 ? roll(b, 2) : 0;
    for (int i = 0; i < front + x->rank; i++) {
        dims[i] = i < front ? 1 : x->dims[i - front];
        int64_t times = 1 + roll(b, 3);
        if (dims[i] != 1 || n * times > MAX_NUMEL) continue;
        dims[i] = times;
        n *= times;
    }
    return tb_expand(x, front + x->rank, dims);
}

static tb_tensor *viewed(builder *b, tb_tensor *x)
{
    switch (roll(b, 4)) {
    case 0:
        return reshaped(b, x);
    case 1:
        return permuted(b, x);
    case 2:
        return cut(b, x);
    default:
        return expanded(b, x);
    }
}

/* Elements of x, repeated or cut off, in another shape. */
static tb_tensor *shaped(builder *b, tb_tensor *x, int rank, const int64_t *dims)
{
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    if (toss(b)) x = viewed(b, x);
    tb_tensor *row = tb_reshape(x, 1, &(int64_t){-1});
    int64_t times = (n + row->numel - 1) / row->numel;
    if (times > 1) row = tb_reshape(tb_expand(row, 2, (int64_t[]){times, row->numel}), 1, &(int64_t){-1});
    return tb_reshape(tb_slice(row, 0, 0, n, 1), rank, dims);
}

/* x so that it broadcasts with `to`. */
static tb_tensor *fitted(builder *b, tb_tensor *x, const tb_tensor *to)
{
    if (x->rank > to->rank) return shaped(b, x, to->rank, to->dims);
    for (int i = 0; i < x->rank; i++) {
        int64_t want = to->dims[to->rank - x->rank + i];
        if (x->dims[i] == want || x->dims[i] == 1) continue;
        int64_t at = roll(b, (int)x->dims[i]);
        x = toss(b) ? tb_sum_axis(x, i, true) : tb_slice(x, i, at, at + 1, 1);
    }
    return x;
}

/* ---- ops ---- */
static tb_tensor *smooth_unary(builder *b, tb_tensor *x)
{
    switch (roll(b, 11)) {
    case 0:
        return tb_tanh(x);
    case 1:
        return tb_sigmoid(x);
    case 2:
        return tb_gelu_tanh(x);
    case 3:
        return tb_gelu_erf(x);
    case 4:
        return tb_silu(x);
    case 5:
        return tb_neg(x);
    case 6:
        return tb_exp(tb_tanh(x));
    case 7:
        return tb_log(positive(x));
    case 8:
        return tb_sqrt(positive(x));
    case 9:
        return tb_rsqrt(positive(x));
    default:
        return tb_mul_number(x, 0.75);
    }
}

static tb_tensor *unary(builder *b, tb_tensor *x)
{
    if (b->is_smooth || roll(b, 3)) return smooth_unary(b, x);
    switch (roll(b, 3)) {
    case 0:
        return tb_relu(x);
    case 1:
        return tb_abs(x);
    default:
        return tb_clamp(x, -1.25, roll(b, 2) ? 0.75 : (double)INFINITY);
    }
}

static tb_tensor *reduced(builder *b, tb_tensor *x)
{
    int64_t axes[TB_MAX_RANK];
    int n = 0;
    bool keep = toss(b);
    for (int i = 0; i < x->rank; i++)
        if (toss(b)) axes[n++] = toss(b) ? i : i - x->rank;
    switch (roll(b, b->is_smooth ? 2 : 3)) {
    case 0:
        return tamed(tb_sum(x, n, axes, keep));
    case 1:
        return tb_mean(x, n, axes, keep);
    default:
        return tb_max(x, n, axes, keep);
    }
}

static tb_tensor *along_rows(builder *b, tb_tensor *x)
{
    if (x->rank == 0) return tb_tanh(x);
    int64_t c = x->dims[x->rank - 1];
    int way = roll(b, 4), axis = axis_of(b, x);
    if (way < 2) return way ? tb_softmax(x, axis) : tb_log_softmax(x, axis);
    tb_tensor *gamma = toss(b) ? shaped(b, any(b), 1, &c) : NULL, *beta = toss(b) ? shaped(b, any(b), 1, &c) : NULL;
    return tb_layer_norm(x, gamma, beta, 0.1);
}

static tb_tensor *binary(builder *b, tb_tensor *x)
{
    tb_tensor *y = roll(b, 4) ? any(b) : toss(b) ? x : viewed(b, x), *t;
    y = fitted(b, y, x);
    if (toss(b)) t = x, x = y, y = t;
    switch (roll(b, b->is_smooth ? 5 : 8)) {
    case 0:
        return tb_mul_number(tb_add(x, y), 0.75);
    case 1:
        return tb_mul_number(tb_sub(x, y), 0.75);
    case 2:
        return tamed(tb_mul(x, y));
    case 3:
        return tb_div(x, positive(y));
    case 4:
        return tb_pow(positive(tb_tanh(x)), tb_tanh(y));
    case 5:
        return tb_maximum(x, y);
    case 6:
        return tb_minimum(x, y);
    default:
        return tb_where(tb_gt(numbers(b, TB_F32, x->rank, x->dims), tb_scalar(TB_F32, 0)), x, tamed(tb_mul(y, x)));
    }
}

static tb_tensor *product(builder *b, tb_tensor *x)
{
    if (x->rank == 0) return tamed(tb_mul(x, x));
    int64_t k = x->dims[x->rank - 1], n = 1 + roll(b, 5);
    if (roll(b, 3) == 0 && x->rank >= 2) return tamed(tb_matmul(x, tb_transpose(x, -1, -2)));
    if (toss(b)) return tamed(tb_matmul(x, shaped(b, any(b), 2, (int64_t[]){k, n})));
    tb_tensor *w = shaped(b, any(b), 2, (int64_t[]){n, k}), *bias = toss(b) ? shaped(b, any(b), 1, &n) : NULL;
    return tamed(tb_linear(x, w, bias));
}

static tb_tensor *joined(builder *b, tb_tensor *x)
{
    if (x->rank == 0) return tamed(tb_add(x, x));
    int axis = roll(b, x->rank), n = 1 + roll(b, 3), at = roll(b, n);
    tb_tensor *parts[3];
    for (int i = 0; i < n; i++) {
        int64_t dims[TB_MAX_RANK];
        memcpy(dims, x->dims, sizeof dims);
        dims[axis] = 1 + roll(b, 2);
        parts[i] = i == at || roll(b, 4) == 0 ? x : shaped(b, any(b), x->rank, dims);
    }
    return tb_concat(n, parts, axis);
}

/* Parts of x, some of them twice, some not at all. */
static tb_tensor *split(builder *b, tb_tensor *x)
{
    if (x->rank == 0 || x->dims[x->rank - 1] < 2) return tamed(tb_add(x, x));
    int64_t c = x->dims[x->rank - 1], first = 1 + roll(b, (int)c - 1), sizes[2] = {first, c - first};
    tb_tensor *parts[2];
    tb_tensor_split(x, -1, 2, sizes, parts);
    tb_tensor *h = parts[roll(b, 2)];
    return tamed(toss(b) ? tb_mul(h, h) : tb_add(h, fitted(b, parts[roll(b, 2)], h)));
}

static tb_tensor *indexed(builder *b, tb_tensor *x)
{
    if (x->rank == 0) return tamed(tb_sub(x, tb_mul(x, x)));
    int64_t dims[TB_MAX_RANK];
    int axis = roll(b, x->rank), way = roll(b, 4);
    memcpy(dims, x->dims, sizeof dims);
    if (way == 0) {
        tb_tensor *w = shaped(b, x, 2, (int64_t[]){4, 3}), *at = indices(b, 2, (int64_t[]){2, 3}, 4);
        return tb_embedding(w, at);
    }
    if (way == 1) { /* every place once */
        dims[axis] = 1;
        tb_tensor *at = indices(b, x->rank, dims, x->dims[axis]);
        return tb_scatter(x, axis, at, shaped(b, any(b), x->rank, dims));
    }
    dims[axis] = 1 + roll(b, 4);
    tb_tensor *at = indices(b, x->rank, dims, x->dims[axis]);
    return way == 2 ? tb_gather(x, axis, at) : tamed(tb_scatter_add(x, axis, at, shaped(b, any(b), x->rank, dims)));
}

static tb_tensor *image_op(builder *b, tb_tensor *x)
{
    const int64_t image[4] = {2, 2, 4, 3};
    tb_tensor *y = shaped(b, x, 4, image);
    const tb_pool2d_opts pool = {
        .kernel = {2, 2}, .stride = {1 + roll(b, 2), 1}, .pad = {roll(b, 2), 1}, .exclude_pad = toss(b)};
    if (toss(b)) y = tb_permute(y, 4, (int64_t[]){1, 0, 2, 3});
    switch (roll(b, b->is_smooth ? 3 : 4)) {
    case 0: {
        int groups = 1 + roll(b, 2);
        tb_tensor *w = shaped(b, any(b), 4, (int64_t[]){2, 2 / groups, 3, 2});
        tb_tensor *bias = toss(b) ? shaped(b, any(b), 1, &(int64_t){2}) : NULL;
        return tamed(tb_conv2d(
            y, w, bias, &(tb_conv2d_opts){.stride = {1 + roll(b, 2), 1}, .pad = {roll(b, 2), 1}, .groups = groups}));
    }
    case 1:
        return tb_batch_norm(y, toss(b) ? shaped(b, any(b), 1, &(int64_t){2}) : NULL,
                             toss(b) ? shaped(b, any(b), 1, &(int64_t){2}) : NULL, 0.1, NULL, NULL);
    case 2:
        return tb_avg_pool2d(y, &pool);
    default:
        return tb_max_pool2d(y, &pool);
    }
}

static tb_tensor *attention(builder *b, tb_tensor *x)
{
    tb_tensor *q = tamed(shaped(b, x, 4, (int64_t[]){1, 2, 3, 2})), *k, *v;
    int64_t keys = toss(b) ? 3 : 4;
    k = toss(b) && keys == 3 ? q : tamed(shaped(b, any(b), 4, (int64_t[]){1, 2, keys, 2}));
    v = toss(b) ? k : shaped(b, any(b), 4, (int64_t[]){1, 2, keys, 3});
    if (toss(b)) q = tb_permute(tamed(shaped(b, x, 4, (int64_t[]){1, 3, 2, 2})), 4, (int64_t[]){0, 2, 1, 3});
    return tb_scaled_dot_product_attention(q, k, v, &(tb_attention_opts){.causal = toss(b)});
}

static tb_tensor *loss_of(builder *b, tb_tensor *x)
{
    const int64_t classes[] = {roll(b, 3), roll(b, 4), roll(b, 4)}; /* one row counts at least */
    tb_tensor *logits = shaped(b, x, 2, (int64_t[]){3, 4}), *labels = tb_tensor_from(TB_I64, 1, &(int64_t){3}, classes);
    return tb_cross_entropy(
        logits, labels,
        &(tb_ce_opts){.reduction = (tb_loss_reduction)roll(b, 3), .has_ignore_index = true, .ignore_index = 3});
}

/* What a segment reads besides its input. */
typedef struct segment_of {
    uint64_t seed;
    tb_tensor *leaf;
} segment_of;

static tb_tensor *block(void *arg, tb_tensor *x)
{
    const segment_of *s = arg;
    builder b = {.seed = s->seed, .values = {s->leaf, x}, .n = 2};
    tb_tensor *h = tb_dropout(smooth_unary(&b, x), 0.25, tb_next_key());
    h = tb_add(h, fitted(&b, s->leaf, h));
    return tb_add(tb_mul(h, smooth_unary(&b, h)), h);
}

static tb_tensor *segment(builder *b, tb_tensor *x, segment_of *kept)
{
    *kept = (segment_of){b->seed + 1000003 * (uint64_t)b->n, b->values[0]};
    if (x->rank == 0) x = tb_reshape(x, 1, &(int64_t){1});
    return tamed(b->recomputes ? tb_recompute(block, kept, x) : block(kept, x));
}

static tb_tensor *step(builder *b, segment_of *kept)
{
    tb_tensor *x = any(b);
    switch (roll(b, 15)) {
    case 0:
    case 1:
        return unary(b, x);
    case 2:
    case 3:
    case 4:
        return binary(b, x);
    case 5:
        return reduced(b, x);
    case 6:
        return along_rows(b, x);
    case 7:
        return product(b, x);
    case 8:
        return joined(b, x);
    case 9:
        return split(b, x);
    case 10:
        return indexed(b, x);
    case 11:
        return image_op(b, x);
    case 12:
        return toss(b) ? attention(b, x) : loss_of(b, x);
    case 13:
        return b->is_smooth ? viewed(b, x) : segment(b, x, kept);
    default:
        return viewed(b, viewed(b, x));
    }
}

/* ---- a graph ---- */
typedef struct graph {
    uint64_t seed;
    bool is_smooth, recomputes;
    segment_of kept[MAX_VALUES];
} graph;

/* The loss: a weighted sum of the last values, of one in between and of the first leaf. */
static tb_tensor *build(void *arg, int n, tb_tensor *const *leaves)
{
    graph *g = arg;
    builder b = {.seed = g->seed, .is_smooth = g->is_smooth, .recomputes = g->recomputes, .n = n};
    memcpy(b.values, leaves, sizeof *leaves * (size_t)n);
    tb_ctx_set_stream(tb_ctx_current(), 11, 0);
    for (int steps = 4 + roll(&b, 14); steps > 0; steps--) {
        bool is_apart = toss(&b);
        tb_scope *scope = is_apart ? tb_scope_open() : NULL;
        tb_tensor *y = step(&b, &g->kept[b.n]);
        if (y->numel == 0) y = b.values[0]; /* a cut that left nothing */
        if (y->numel > MAX_NUMEL) y = tb_mean(y, 1, (int64_t[]){0}, false);
        if (y->numel > MAX_NUMEL) y = tb_mean(y, 0, NULL, false);
        if (is_apart) tb_scope_escape(scope, y);
        b.values[b.n++] = y;
    }
    tb_tensor *total = tb_mean(b.values[0], 0, NULL, false);
    for (int i = 0; i < 4; i++) {
        tb_tensor *y = b.values[i < 3 && b.n - 1 - i >= n ? b.n - 1 - i : roll(&b, b.n)];
        tb_tensor *w = numbers(&b, tb_tensor_dtype(y), y->rank, y->dims);
        total = tb_add(total, tb_sum(tb_mul(y, w), 0, NULL, false));
    }
    return total;
}

typedef struct leaves {
    int n;
    tb_tensor *at[MAX_LEAVES];
} leaves;

/* Two to five leaves; the first needs a gradient, of the others most. */
static leaves draw_leaves(uint64_t seed, tb_dtype t)
{
    builder b = {.seed = seed, .at = 1 << 20};
    leaves l = {.n = 2 + roll(&b, MAX_LEAVES - 1)};
    for (int i = 0; i < l.n; i++) {
        int64_t dims[4];
        int rank = roll(&b, 5);
        for (int d = 0; d < rank; d++) dims[d] = 1 + roll(&b, rank > 3 ? 2 : 3);
        l.at[i] = numbers(&b, t, rank, dims);
        if (i == 0 || roll(&b, 5)) assert_ok(tb_require_grad(l.at[i]));
    }
    return l;
}
