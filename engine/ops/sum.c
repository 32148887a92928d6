/* sum, mean over any axes. The reference sums in f64 (integers and bool: in i64, as torch does).
 *
 * In f32 the order of arithmetic is fixed by the shape and the axes alone, never by strides, threads or ISA.
 * Neighbouring reduced axes are one. They are summed from the innermost outwards: along memory, each row in the lanes
 * of row_sum; across memory, each column as one chain over ascending rows (column_sum). Where axis 0 is the batch, the
 * rows of that last step are cut into the context's batch blocks of ceil(n / blocks) samples, whose sums meet in a
 * pairwise tree. The mean divides the finished sum. */
#include "tb_op.h"
#include "tb_ops.h"

//>>> tb_ops.h
/* axes: n_axes of them (negative count from the end), n_axes = 0 means all. keep: reduced dimensions stay as 1.
 * Integers and bool give i64. */
tb_tensor *tb_sum(tb_tensor *x, int n_axes, const int64_t *axes, bool keep);
tb_tensor *tb_mean(tb_tensor *x, int n_axes, const int64_t *axes, bool keep); /* floats only */
tb_tensor *tb_sum_axis(tb_tensor *x, int64_t axis, bool keep);
/* The sum over axis 0 as a pairwise tree over the context's batch blocks: for bias gradients and losses. Ranks that
 * hold 8/p of the blocks each and finish the tree have the bits of one rank. into: NULL, or a contiguous tensor of the
 * result's shape and dtype that is overwritten and returned. */
tb_tensor *tb_sum_batch(tb_tensor *x, tb_tensor *into);
/* Sums x over its broadcast dimensions so that the result has `like`'s shape. */
tb_tensor *tb_sum_to(tb_tensor *x, int rank, const int64_t *dims);
//<<<

typedef struct sum_attrs {
    tb_ints axes;
    bool keep, mean, batch;
} sum_attrs;
static const tb_attr sum_attr_table[] = {
    TB_ATTR_LIST(sum_attrs, axes, "axes summed over; none means all"),
    TB_ATTR_BOOL(sum_attrs, keep, 0, "reduced dimensions stay as 1"),
    TB_ATTR_BOOL(sum_attrs, mean, 0, "divide by the number of terms"),
    TB_ATTR_BOOL(sum_attrs, batch, 0, "axis 0 is the batch: pairwise tree over fixed blocks"),
};

static tb_status reduced_axes(const tb_op_call *c, bool *is_reduced)
{
    const sum_attrs *a = c->attrs;
    return tbi_reduced_axes("sum", &a->axes, c->in[0]->rank, is_reduced);
}

/* The second input is memory for the result. */
static tb_status takes_given(tb_op_call *c)
{
    const tb_tensor *into = c->n_in > 1 ? c->in[1] : NULL;
    tb_out_spec *out = &c->spec[0];
    if (!into) return TB_OK;
    if (into->dtype != out->dtype || into->rank != out->rank || !into->is_contiguous ||
        memcmp(into->dims, out->dims, (size_t)out->rank * sizeof *out->dims) != 0)
        return TB_FAIL(TB_ERR_SHAPE, "sum: the result is a contiguous %s of %s, not %s of %s",
                       tb_dims_text(out->rank, out->dims), tb_dtype_name(out->dtype), tb_shape_text(into),
                       tb_dtype_name((tb_dtype)into->dtype));
    out->is_donated = true;
    out->view_of = 1;
    return TB_OK;
}

static tb_status sum_shape(tb_op_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK];
    int64_t dims[TB_MAX_RANK];
    int rank = 0;
    TB_TRY(reduced_axes(c, is_reduced));
    for (int i = 0; i < x->rank; i++)
        if (!is_reduced[i] || a->keep) dims[rank++] = is_reduced[i] ? 1 : x->dims[i];
    tb_dtype dtype = (tb_dtype)x->dtype;
    if (a->mean && !tb_dtype_is_float(dtype))
        return TB_FAIL(TB_ERR_DTYPE, "mean: not defined for %s; cast to a float first", tb_dtype_name(dtype));
    tb_out_set(c, 0, tb_dtype_is_float(dtype) ? dtype : TB_I64, rank, dims);
    return takes_given(c);
}

static tb_status sum_ref(tb_op_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK];
    tb_walk w;
    TB_TRY(reduced_axes(c, is_reduced));
    int64_t terms = tbi_walk_reduced(x, is_reduced, &w);
    tb_dtype from = (tb_dtype)x->dtype, to = c->spec[0].dtype;
    const char *in = tb_op_data(x);
    char *out = tb_op_data(c->out[0]);
    size_t from_size = tb_dtype_size(from), to_size = tb_dtype_size(to);
    double total = 0;
    int64_t count = 0;
    if (terms == 0)
        for (int64_t i = 0; i < c->out[0]->numel; i++)
            tb_store_f64(to, out + i * (int64_t)to_size, a->mean ? 0.0 / 0.0 : 0.0);
    TB_WALK(&w) {
        const void *p = in + w.at[0] * (int64_t)from_size;
        if (to == TB_I64) count += tb_load_i64(from, p);
        else total += tb_load_f64(from, p);
        if ((w.flat + 1) % terms) continue;
        char *q = out + w.flat / terms * (int64_t)to_size;
        if (to == TB_I64) tb_store_i64(to, q, count);
        else tb_store_f64(to, q, a->mean ? total / (double)terms : total);
        total = 0;
        count = 0;
    }
    return TB_OK;
}

/* ---- f32 through kernels ---- */
enum { ROW_SUM, COLUMN_SUM };
enum { STRIP = 256 /* columns a thread takes: 1 KiB of each row */, GRAIN = 16384 /* elements worth a thread */ };

/* One step: out[o][j] = sum over i of in[o][i][j], i < n, in blocks of `block` (n: one block). */
typedef struct step {
    const tb_kernel *kernel;
    const float *in;
    float *out;
    int64_t n, inner, strips, rows, rows_at_once, block;
    int blocks;
} step;

/* Sums of the blocks of a strip of columns lie side by side; the tree adds neighbours. */
static void add_tree(float *sum, int blocks, int64_t width, float *out)
{
    for (; blocks > 1; blocks /= 2)
        for (int b = 0; b < blocks / 2; b++)
            for (int64_t j = 0; j < width; j++)
                sum[b * width + j] = sum[2 * b * width + j] + sum[(2 * b + 1) * width + j];
    memcpy(out, sum, (size_t)width * sizeof *out);
}

/* Elements of the step's n in block b: the last blocks are shorter or empty. */
static int64_t block_length(const step *s, int b)
{
    int64_t left = s->n - b * s->block;
    return left < 0 ? 0 : left < s->block ? left : s->block;
}

static void sum_columns(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const step *s = arg;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t o = unit / s->strips, j = unit % s->strips * STRIP, width = s->inner - j < STRIP ? s->inner - j : STRIP;
        float partial[8 * STRIP], *out = s->out + o * s->inner + j;
        for (int b = 0; b < s->blocks; b++) {
            float *sum = s->blocks > 1 ? partial + b * width : out;
            int64_t from = b * s->block, rows = block_length(s, b);
            if (rows)
                s->kernel->run(&(tb_row_args){.rows = rows,
                                              .n = width,
                                              .out = sum,
                                              .in_stride = s->inner,
                                              .in = s->in + (o * s->n + from) * s->inner + j});
            else
                memset(sum, 0, (size_t)width * sizeof *sum);
        }
        if (s->blocks > 1) add_tree(partial, s->blocks, width, out);
    }
}

static void sum_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const step *s = arg;
    int64_t from = begin * s->rows_at_once, to = end * s->rows_at_once < s->rows ? end * s->rows_at_once : s->rows;
    tb_row_args a = {.rows = to - from, .n = s->n, .in = s->in + from * s->n, .in_stride = s->n, .out = s->out + from,
                     .out_stride = 1};
    s->kernel->run(&a);
}

/* One row in blocks: the blocks are rows themselves. */
static void sum_row_blocks(const step *s)
{
    float partial[8] = {0};
    for (int b = 0; b < s->blocks && block_length(s, b); b++)
        s->kernel->run(&(tb_row_args){
            .rows = 1, .n = block_length(s, b), .in = s->in + b * s->block, .out = partial + b, .out_stride = 1});
    add_tree(partial, s->blocks, 1, s->out);
}

static void run_step(tb_pool *pool, step *s, int64_t outer)
{
    if (s->inner > 1) {
        s->strips = (s->inner + STRIP - 1) / STRIP;
        if (outer * s->n * s->inner < GRAIN) sum_columns(s, 0, outer * s->strips, 0);
        else tb_pool_run(pool, outer * s->strips, sum_columns, s);
    } else if (s->blocks > 1) {
        sum_row_blocks(s);
    } else {
        s->rows = outer;
        s->rows_at_once = s->n < GRAIN ? GRAIN / s->n : 1;
        tb_pool_run(pool, (outer + s->rows_at_once - 1) / s->rows_at_once, sum_rows, s);
    }
}

/* Neighbouring axes of one kind, merged; axes of size 1 left out. */
typedef struct axis_groups {
    int n, reduced;
    int64_t size[TB_MAX_RANK];
    bool is_reduced[TB_MAX_RANK];
} axis_groups;

static axis_groups group_axes(const tb_tensor *x, const bool *is_reduced)
{
    axis_groups g = {0};
    for (int i = 0; i < x->rank; i++) {
        if (x->dims[i] == 1) continue;
        if (g.n == 0 || g.is_reduced[g.n - 1] != is_reduced[i]) {
            g.is_reduced[g.n] = is_reduced[i];
            g.reduced += is_reduced[i];
            g.size[g.n++] = 1;
        }
        g.size[g.n - 1] *= x->dims[i];
    }
    return g;
}

static tb_status sum_fast(tb_op_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_tensor *x = c->in[0];
    bool is_reduced[TB_MAX_RANK];
    TB_TRY(reduced_axes(c, is_reduced));
    const tb_kernel *columns = tb_call_kernel(c, COLUMN_SUM, (tb_dtype)x->dtype, &(tb_row_args){0});
    const tb_kernel *rows = tb_call_kernel(c, ROW_SUM, (tb_dtype)x->dtype, &(tb_row_args){0});
    if (!rows || !columns || x->numel == 0) return TB_ERR_UNSUPPORTED;

    axis_groups g = group_axes(x, is_reduced);
    int last = g.n - 1; /* innermost reduced group: after its step the rest fits into what `between` has */
    while (last > 0 && !g.is_reduced[last]) last--;
    int64_t copied = x->is_contiguous ? 0 : x->numel, between = g.reduced > 1 ? x->numel / g.size[last] : 0;
    float *scratch = copied + between ? tb_op_scratch(c, (size_t)(copied + 2 * between) * sizeof(float)) : NULL;
    if (copied + between && !scratch) return TB_ERR_OOM;
    if (copied) tbi_copy_elements(scratch, NULL, x);
    float *const buffer[2] = {scratch + copied, scratch + copied + between}, *out = tb_op_data(c->out[0]);

    step s = {.in = copied ? scratch : tb_op_data(x), .inner = 1};
    int64_t outer = x->numel;
    for (int i = g.n - 1, done = 0; i >= 0; i--) {
        outer /= g.size[i];
        if (g.is_reduced[i]) {
            bool is_batch = a->batch && i == 0 && is_reduced[0] && x->dims[0] > 1;
            s.kernel = s.inner > 1 ? columns : rows;
            c->kernel = s.kernel->name;
            s.n = g.size[i];
            s.blocks = is_batch ? c->ctx->batch_blocks : 1;
            s.block = is_batch ? (x->dims[0] + s.blocks - 1) / s.blocks * (s.n / x->dims[0]) : s.n;
            s.out = done + 1 == g.reduced ? out : buffer[done % 2];
            run_step(c->ctx->pool, &s, outer);
            s.in = s.out;
            done++;
        } else {
            s.inner *= g.size[i];
        }
    }
    int64_t n = c->out[0]->numel;
    if (g.reduced == 0) memcpy(out, s.in, (size_t)n * sizeof *out);
    for (int64_t i = 0; a->mean && i < n; i++) out[i] /= (float)(x->numel / n);
    return TB_OK;
}

static void sum_grad(tb_grad_call *c)
{
    const sum_attrs *a = c->attrs;
    const tb_out_spec *x = &c->in_spec[0];
    int64_t dims[TB_MAX_RANK], terms = 1;
    for (int i = 0; i < x->rank; i++) dims[i] = a->axes.n == 0 ? 1 : x->dims[i];
    for (int i = 0; i < a->axes.n; i++) dims[a->axes.at[i] < 0 ? a->axes.at[i] + x->rank : a->axes.at[i]] = 1;
    for (int i = 0; i < x->rank; i++)
        if (dims[i] == 1) terms *= x->dims[i];
    tb_tensor *g = tb_reshape(c->grad[0], x->rank, dims);
    if (a->mean) g = tb_mul(g, tb_scalar(x->dtype, 1.0 / (double)terms));
    tb_grad_set(c, 0, tb_expand(g, x->rank, x->dims));
}

static void sum_cost(const tb_op_call *c, tb_cost *out)
{
    int64_t in = c->in[0]->numel, to = 1;
    for (int i = 0; i < c->spec[0].rank; i++) to *= c->spec[0].dims[i];
    *out = (tb_cost){.flops = (double)in, .k = to ? in / to : 1,
                     .bytes = (double)in * (double)tb_dtype_size((tb_dtype)c->in[0]->dtype)};
}

static void sum_samples(tb_samples *to)
{
    static const tb_sample_in x = {TB_SHAPE(3, 4, 5)}, empty = {TB_SHAPE(0, 3)}, point = {.rank = 0},
                              units = {TB_SHAPE(1, 19, 1)}, deep = {TB_SHAPE(13, 2, 3, 2, 5)},
                              rows = {TB_SHAPE(9, 700)}, large = {TB_SHAPE(67, 3, 301)};
    tb_sample(to, &(sum_attrs){0}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {1, {-1}}}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {1, {0}}, .keep = true}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {2, {0, 2}}, .keep = true}, 1, &x);
    tb_sample(to, &(sum_attrs){.axes = {1, {0}}}, 1, &empty);
    tb_sample(to, &(sum_attrs){0}, 1, &point);
    tb_sample(to, &(sum_attrs){.axes = {2, {0, 2}}}, 1, &units);
    tb_sample(to, &(sum_attrs){.axes = {3, {0, 2, 4}}, .batch = true}, 1, &deep);
    tb_sample(to, &(sum_attrs){.axes = {3, {1, 2, 4}}, .batch = true}, 1, &deep);
    tb_sample(to, &(sum_attrs){.batch = true}, 1, &deep);
    tb_sample(to, &(sum_attrs){.axes = {1, {0}}, .batch = true}, 1, &rows);
    tb_sample(to, &(sum_attrs){.axes = {1, {0}}}, 1, &large);
    tb_sample(to, &(sum_attrs){.axes = {1, {2}}}, 1, &large);
    tb_sample(to, &(sum_attrs){.axes = {2, {0, 2}}, .batch = true}, 1, &large);
}

TB_OP(sum, .doc = "sum or mean over axes", .n_in_min = 1, .n_in = 2, .n_out = 1, .dtypes = TB_ALL_DTYPES,
      TB_ATTRS(sum_attrs, sum_attr_table), .shape = sum_shape, .ref = sum_ref, .fast = sum_fast,
      .primitives = {[ROW_SUM] = "row_sum", [COLUMN_SUM] = "column_sum"}, .grad = sum_grad, .fusion = TB_FUSE_ROW,
      .by_rows = 1, .cost = sum_cost, .samples = sum_samples, .tol = TB_TOL(2));

static tb_tensor *reduce(tb_tensor *x, int n_axes, const int64_t *axes, sum_attrs a)
{
    a.axes.n = n_axes < TB_MAX_RANK ? n_axes : TB_MAX_RANK;
    for (int i = 0; i < a.axes.n; i++) a.axes.at[i] = axes[i];
    return tb_call(&tb_op_sum, &a, TB_IN(x));
}

tb_tensor *tb_sum(tb_tensor *x, int n_axes, const int64_t *axes, bool keep)
{
    return reduce(x, n_axes, axes, (sum_attrs){.keep = keep});
}

tb_tensor *tb_mean(tb_tensor *x, int n_axes, const int64_t *axes, bool keep)
{
    return reduce(x, n_axes, axes, (sum_attrs){.keep = keep, .mean = true});
}

tb_tensor *tb_sum_axis(tb_tensor *x, int64_t axis, bool keep) { return tb_sum(x, 1, &axis, keep); }

tb_tensor *tb_sum_batch(tb_tensor *x, tb_tensor *into)
{
    return tb_call(&tb_op_sum, &(sum_attrs){.axes = {1, {0}}, .batch = true}, into ? 2 : 1, (tb_tensor *[]){x, into});
}

tb_tensor *tb_sum_to(tb_tensor *x, int rank, const int64_t *dims)
{
    int64_t axes[TB_MAX_RANK];
    int n = 0, pad = x->rank - rank;
    if (tb_is_poison(x)) return x;
    for (int i = 0; i < x->rank; i++)
        if (i < pad || (dims[i - pad] == 1 && x->dims[i] != 1)) axes[n++] = i;
    if (n == 0) return x;
    /* The batch leads: what is summed over axis 0 is a sum over samples. */
    tb_tensor *y = reduce(x, n, axes, (sum_attrs){.keep = true, .batch = axes[0] == 0});
    return tb_reshape(y, rank, dims);
}
