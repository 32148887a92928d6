/* Shape rule, reference and kernel path of the pointwise family. */
#include "pointwise.h"

static inline bool are_alike(const tb_op_call *c)
{
    const tb_tensor *first = c->in[0];
    for (int k = 1; k < c->n_in; k++) {
        if (c->in[k]->rank != first->rank) return false;
        for (int i = 0; i < first->rank; i++)
            if (c->in[k]->dims[i] != first->dims[i]) return false;
    }
    return true;
}

tb_status tbi_pointwise_shape(tb_op_call *c)
{
    const tb_pointwise *p = c->op->family;
    int64_t dims[TB_MAX_RANK];
    int rank = c->in[0]->rank;
    if (are_alike(c)) {
        tb_out_set(c, 0, p && p->to_bool ? TB_BOOL : (tb_dtype)c->in[c->n_in - 1]->dtype, rank, c->in[0]->dims);
        return TB_OK;
    }
    memcpy(dims, c->in[0]->dims, sizeof dims);
    for (int i = 1; i < c->n_in; i++) {
        const tb_tensor so_far = {.rank = (uint8_t)rank};
        tb_tensor acc = so_far;
        memcpy(acc.dims, dims, sizeof dims);
        TB_TRY(tb_broadcast_dims(c->op->name, &acc, c->in[i], &rank, dims));
    }
    tb_out_set(c, 0, p && p->to_bool ? TB_BOOL : (tb_dtype)c->in[c->n_in - 1]->dtype, rank, dims);
    return TB_OK;
}

tb_status tbi_pointwise_ref(tb_op_call *c)
{
    const tb_pointwise *p = c->op->family;
    tb_walk w;
    tb_walk_init(&w, c->spec[0].rank, c->spec[0].dims);
    const char *in[3] = {0};
    tb_dtype dtype[3] = {0}, to = c->spec[0].dtype;
    bool all_integer = true;
    for (int i = 0; i < c->n_in; i++) {
        tb_walk_add(&w, c->in[i]);
        in[i] = tb_op_data(c->in[i]);
        dtype[i] = (tb_dtype)c->in[i]->dtype;
        all_integer &= !tb_dtype_is_float(dtype[i]);
    }
    char *out = tb_op_data(c->out[0]);
    TB_WALK(&w) {
        const void *at[3];
        for (int i = 0; i < c->n_in; i++) at[i] = in[i] + w.at[i] * (int64_t)tb_dtype_size(dtype[i]);
        void *to_at = out + w.flat * (int64_t)tb_dtype_size(to);
        if (all_integer && p->i) {
            int64_t x[3] = {0};
            for (int i = 0; i < c->n_in; i++) x[i] = tb_load_i64(dtype[i], at[i]);
            tb_store_i64(to, to_at, p->i(x[0], x[1], x[2], c->attrs));
        } else {
            double x[3] = {0};
            for (int i = 0; i < c->n_in; i++) x[i] = tb_load_f64(dtype[i], at[i]);
            tb_store_f64(to, to_at, p->f(x[0], x[1], x[2], c->attrs));
        }
    }
    return TB_OK;
}

/* ---- kernels: the shape is reduced to runs in which every operand is either contiguous or constant ---- */
enum { CHUNK = 16384 /* elements: 64 KiB of f32, half an L2 with three operands */ };

/* Merges neighbouring dimensions that all operands walk in one stride, and drops those of size 1. */
static void coalesce(tb_runs *r)
{
    int n = 0;
    for (int i = 0; i < r->rank; i++) {
        if (r->dims[i] == 1) continue;
        bool merges = n > 0;
        for (int k = 0; merges && k < r->n_in; k++)
            merges = r->strides[k][n - 1] == r->strides[k][i] * r->dims[i];
        if (merges) {
            r->dims[n - 1] *= r->dims[i];
            for (int k = 0; k < r->n_in; k++) r->strides[k][n - 1] = r->strides[k][i];
        } else {
            r->dims[n] = r->dims[i];
            for (int k = 0; k < r->n_in; k++) r->strides[k][n] = r->strides[k][i];
            n++;
        }
    }
    r->rank = n;
}

static void run_chunks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const tb_runs *r = arg;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        int64_t row = chunk / r->pieces, from = chunk % r->pieces * CHUNK;
        const void *in[TB_MAX_STREAMS];
        for (int k = 0; k < r->n_in; k++) {
            int64_t at = from * r->step[k], rest = row;
            for (int i = r->rank - 2; i >= 0; i--) {
                at += rest % r->dims[i] * r->strides[k][i];
                rest /= r->dims[i];
            }
            in[k] = (const char *)r->in[k] + at * (int64_t)r->in_size[k];
        }
        r->body(r, r->run - from < CHUNK ? r->run - from : CHUNK,
                (char *)r->out + (size_t)(row * r->run + from) * r->out_size, in);
    }
}

static void stream_from(tb_runs *r, int k, const tb_tensor *t, const int64_t *strides)
{
    int pad = r->rank - t->rank;
    for (int i = 0; i < r->rank; i++) r->strides[k][i] = i < pad || t->dims[i - pad] == 1 ? 0 : strides[i - pad];
}

/* Bit k: operand k is strided inside the run. */
static unsigned strided_inside(const tb_runs *r)
{
    unsigned bad = 0;
    for (int k = 0; k < r->n_in; k++) {
        int64_t step = r->rank > 0 ? r->strides[k][r->rank - 1] : 0;
        if (step != 0 && step != 1) bad |= 1u << k;
    }
    return bad;
}

/* Copies of those operands in row-major order, in the call's scratch. */
static tb_status pack(tb_runs *r, tb_op_call *c, unsigned which)
{
    size_t bytes = 0;
    for (int k = 0; k < c->n_in; k++)
        if (which >> k & 1) bytes += (tb_tensor_bytes(c->in[k]) + 63) & ~(size_t)63;
    char *to = tb_op_scratch(c, bytes);
    if (!to) return TB_ERR_OOM;
    for (int k = 0; k < c->n_in; k++) {
        int64_t strides[TB_MAX_RANK];
        const tb_tensor *t = c->in[k];
        if (!(which >> k & 1)) continue;
        tbi_copy_elements(to, NULL, t);
        tbi_row_major(t->rank, t->dims, strides);
        stream_from(r, k, t, strides);
        r->in[k] = to;
        to += (tb_tensor_bytes(t) + 63) & ~(size_t)63;
    }
    return TB_OK;
}

/* Strided operands: as they lie where a kernel can walk them, else packed. So values do not depend on strides. */
static tb_status prepare_strided(tb_runs *r, tb_op_call *c)
{
    for (int k = 0; k < c->n_in; k++) stream_from(r, k, c->in[k], c->in[k]->strides);
    tb_runs whole = *r;
    coalesce(r);
    unsigned bad = strided_inside(r);
    if (bad) {
        TB_TRY(pack(&whole, c, bad));
        *r = whole;
        coalesce(r);
    }
    if (r->rank > 0) r->run = r->dims[r->rank - 1];
    for (int k = 0; k < c->n_in; k++) r->step[k] = r->rank > 0 && r->strides[k][r->rank - 1] != 0;
    return TB_OK;
}

tb_status tbi_runs_prepare(tb_runs *r, tb_op_call *c)
{
    int64_t total = c->out[0]->numel;
    bool is_flat = true;
    r->n_in = c->n_in;
    r->rank = c->spec[0].rank;
    r->out = tb_op_data(c->out[0]);
    r->out_size = tb_dtype_size(c->spec[0].dtype);
    r->run = total;
    for (int k = 0; k < c->n_in; k++) {
        const tb_tensor *t = c->in[k];
        r->in_size[k] = tb_dtype_size((tb_dtype)t->dtype);
        r->in[k] = tb_op_data(t);
        r->step[k] = 1;
        is_flat &= t->is_contiguous && t->numel == total;
    }
    if (is_flat) {
        r->rank = 1;
    } else {
        memcpy(r->dims, c->spec[0].dims, sizeof r->dims);
        TB_TRY(prepare_strided(r, c));
    }
    r->pieces = (r->run + CHUNK - 1) / CHUNK;
    return TB_OK;
}

void tbi_runs_execute(const tb_runs *r, tb_op_call *c)
{
    int64_t total = c->out[0]->numel;
    if (total == 0) return;
    if (total <= CHUNK && r->rank <= 1) r->body(r, total, r->out, r->in);
    else if (total <= CHUNK) run_chunks((void *)(uintptr_t)r, 0, total / r->run * r->pieces, 0);
    else tb_pool_run(c->ctx->pool, total / r->run * r->pieces, run_chunks, (void *)(uintptr_t)r);
}

/* Contiguous, of one shape and one chunk: nothing to prepare. */
static bool is_one_run(const tb_op_call *c)
{
    int64_t total = c->out[0]->numel;
    if (total == 0 || total > CHUNK) return false;
    for (int k = 0; k < c->n_in; k++)
        if (!c->in[k]->is_contiguous || c->in[k]->numel != total) return false;
    return true;
}

static void one_kernel(const tb_runs *r, int64_t n, void *out, const void *const *in)
{
    const tb_kernel *kernel = r->what;
    kernel->run(&(tb_pointwise_args){.n = n, .out = out, .in = {in[0], in[1], in[2]}, .attrs = r->attrs,
                                     .step = {r->step[0], r->step[1], r->step[2]}});
}

tb_status tbi_pointwise_fast(tb_op_call *c)
{
    tb_pointwise_args args = {.n = c->out[0]->numel, .attrs = c->attrs, .step = {1, 1, 1}};
    const tb_tensor *last = c->in[c->n_in - 1];
    for (int k = c->n_in == 3; k < c->n_in - 1; k++) /* not where's condition */
        if (c->in[k]->dtype != last->dtype) return TB_ERR_UNSUPPORTED;
    const tb_kernel *kernel = tb_call_kernel(c, 0, (tb_dtype)last->dtype, &args);
    if (!kernel) return TB_ERR_UNSUPPORTED;
    if (is_one_run(c)) {
        args.out = tb_op_data(c->out[0]);
        for (int k = 0; k < c->n_in; k++) args.in[k] = tb_op_data(c->in[k]);
        kernel->run(&args);
        return TB_OK;
    }
    tb_runs r;
    r.in[1] = r.in[2] = NULL;
    r.step[1] = r.step[2] = 0;
    r.what = kernel;
    TB_TRY(tbi_runs_prepare(&r, c));
    r.attrs = c->attrs;
    r.body = one_kernel;
    tbi_runs_execute(&r, c);
    return TB_OK;
}

/* ---- samples ---- */
void tbi_pointwise_samples_in(tb_samples *to, const void *attrs, int n_in, double lo, double hi)
{
    static const tb_sample_in cases[][2] = {
        {{TB_SHAPE(3, 5)}, {TB_SHAPE(3, 5)}},       {{TB_SHAPE(2, 3, 4)}, {TB_SHAPE(4)}},
        {{TB_SHAPE(3, 1)}, {TB_SHAPE(1, 5)}},       {{.rank = 0}, {TB_SHAPE(2, 2)}},
        {{TB_SHAPE(2, 0, 3)}, {TB_SHAPE(1, 3)}},    {{TB_SHAPE(131)}, {TB_SHAPE(131)}},
        {{TB_SHAPE(2, 1, 3)}, {TB_SHAPE(4, 1)}},    {{TB_SHAPE(7)}, {.rank = 0}},
        {{TB_SHAPE(5, 7001)}, {TB_SHAPE(7001)}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tb_sample_in in[2] = {cases[i][0], cases[i][1]};
        in[0].lo = in[1].lo = lo;
        in[0].hi = in[1].hi = hi;
        tb_sample(to, attrs, n_in, in);
    }
}

void tbi_pointwise_samples1(tb_samples *to) { tbi_pointwise_samples_in(to, NULL, 1, 0, 0); }
void tbi_pointwise_samples2(tb_samples *to) { tbi_pointwise_samples_in(to, NULL, 2, 0, 0); }
