/* tb_dispatch(): checks, promotion, shape rule, interceptors, execution. */
#include "tb_op.h"
#include "tb_ops.h"
#include "tb_text.h"

static const tb_op *const all_ops[TB_OP_COUNT] = {
#define TB_OP_ENTRY(name_) &tb_op_##name_,
#include "tb_op_list.inc"
#undef TB_OP_ENTRY
};

const tb_op *tb_op_at(int id) { return all_ops[id]; }

const tb_op *tb_op_find(const char *name)
{
    const char *names[TB_OP_COUNT];
    for (int i = 0; i < TB_OP_COUNT; i++) {
        names[i] = all_ops[i]->name;
        if (strcmp(names[i], name) == 0) return all_ops[i];
    }
    const char *near = tb_nearest(name, names, TB_OP_COUNT);
    (void)TB_FAIL(TB_ERR_NOT_FOUND, "no op '%s'%s%s%s", name, near ? "; nearest: '" : "", near ? near : "",
                  near ? "'" : "");
    return NULL;
}

/* ---- kernels of an op, best first, looked up once per context, op, primitive and dtype ---- */
enum { MAX_CANDIDATES = 8 };
typedef struct candidates {
    bool is_known;
    int8_t n;
    const tb_kernel *at[MAX_CANDIDATES];
} candidates;
typedef candidates op_candidates[TB_MAX_PRIMITIVES][TB_DTYPES];

static void drop_candidates(tb_ctx *ctx, void *state) { tb_heap_free(ctx->heap, state); }

static candidates *candidates_of(tb_op_call *c, int primitive, tb_dtype dtype)
{
    op_candidates *all = c->ctx->slot[TB_SLOT_OPS].state;
    if (!all) {
        all = tb_heap_alloc(c->ctx->heap, sizeof *all * TB_OP_COUNT, TB_MEM_OTHER);
        if (!all) return NULL;
        memset(all, 0, sizeof *all * TB_OP_COUNT);
        c->ctx->slot[TB_SLOT_OPS].state = all;
        c->ctx->slot[TB_SLOT_OPS].destroy = drop_candidates;
    }
    candidates *k = &all[c->op->id][primitive][dtype];
    if (!k->is_known) {
        k->n = (int8_t)tb_kernel_find(c->op->primitives[primitive], dtype, c->ctx->isa, k->at, MAX_CANDIDATES);
        k->is_known = true;
    }
    return k;
}

const tb_kernel *tb_call_kernel(tb_op_call *c, int primitive, tb_dtype dtype, const void *args)
{
    if (!c->op->primitives[primitive]) return NULL;
    const candidates *k = candidates_of(c, primitive, dtype);
    for (int i = 0; k && i < k->n; i++)
        if (!k->at[i]->supports || k->at[i]->supports(args)) {
            c->kernel = k->at[i]->name;
            return k->at[i];
        }
    return NULL;
}

void *tb_op_scratch(tb_op_call *c, size_t bytes)
{
    if (c->arena) { /* a planned run: the slab has room once a run has shown how much is needed */
        size_t at = c->arena->used;
        c->arena->used += (bytes + 63) & ~(size_t)63;
        if (c->arena->used > c->arena->wanted) c->arena->wanted = c->arena->used;
        if (c->arena->used <= c->arena->bytes) return c->arena->data + at;
    }
    void *p = tb_heap_alloc(c->ctx->heap, bytes, TB_MEM_WORKSPACE);
    if (p) c->scratch[c->n_scratch++] = p;
    return p;
}

tb_status tbi_use_packed(tb_op_call *c, const tb_tensor *weight, tbi_layout layout,
                         void (*pack)(const void *args, void *out), const void *args, bool is_needed, const void **out)
{
    *out = layout.bytes ? tbi_packed(weight, layout) : NULL;
    if (*out || layout.bytes == 0) return TB_OK;
    if (tbi_packing_pays(weight, c->arena)) {
        void *fresh = tbi_packed_new(weight, layout);
        if (!fresh) return TB_ERR_OOM;
        pack(args, fresh);
        *out = tbi_packed_keep(weight, fresh);
    }
    if (*out || !is_needed) return TB_OK;
    void *once = tb_op_scratch(c, layout.bytes);
    if (!once) return TB_ERR_OOM;
    pack(args, once);
    *out = once;
    return TB_OK;
}

/* ---- execution ---- */
static tb_status make_outputs(tb_op_call *c)
{
    for (int o = 0; o < c->op->n_out; o++) {
        const tb_out_spec *s = &c->spec[o];
        if (s->is_view) {
            c->out[o] = tbi_tensor_view(c->in[s->view_of], s->dtype, s->rank, s->dims, s->strides, s->offset);
        } else if (s->is_donated) {
            const tb_tensor *from = c->in[s->view_of];
            c->out[o] =
                tbi_tensor_view(c->in[s->view_of], s->dtype, from->rank, from->dims, from->strides, from->offset);
            if (c->out[o]) c->out[o]->storage->version++;
        } else {
            c->out[o] = tbi_tensor_new(c->ctx, s->dtype, s->rank, s->dims);
            if (c->out[o] && s->is_laid_out) tbi_lay_out(c->out[o], s->strides);
        }
        if (!c->out[o]) return tb_error_code();
    }
    return TB_OK;
}

static void drop_scratch(tb_op_call *c, int kept)
{
    while (c->n_scratch > kept) tb_heap_free(c->ctx->heap, c->scratch[--c->n_scratch]);
}

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Whether the fast path could do it, strides aside: a copy is no use where there is no kernel for the dtypes. */
static bool may_be_fast(tb_op_call *c)
{
    if (!c->op->primitives[0] || c->op->fast_without_kernel) return true;
    for (int p = 0; p < TB_MAX_PRIMITIVES && c->op->primitives[p]; p++)
        for (int i = 0; i < c->n_in; i++) {
            const candidates *k = c->in[i] ? candidates_of(c, p, (tb_dtype)c->in[i]->dtype) : NULL;
            if (k && k->n > 0) return true;
        }
    return false;
}

enum { MAX_DENSE = 16 };

/* The op's fast path on strided inputs that it could not walk: it gets them in row-major order, in scratch. */
static tb_status fast_on_copies(tb_op_call *c)
{
    struct {
        tb_tensor tensor;
        tb_storage storage;
    } copies[MAX_DENSE];
    tb_tensor *const *given = c->in, *in[MAX_DENSE];
    size_t bytes = 0, at = 0;
    bool is_donated[MAX_DENSE] = {false};
    if (c->n_in > MAX_DENSE) return TB_ERR_UNSUPPORTED;
    for (int o = 0; o < c->op->n_out; o++)
        if (c->spec[o].is_donated) is_donated[c->spec[o].view_of] = true;
    for (int i = 0; i < c->n_in; i++) {
        in[i] = given[i];
        if (!in[i] || in[i]->is_contiguous || is_donated[i]) continue;
        copies[i].tensor = *in[i];
        bytes += aligned(tb_tensor_bytes(in[i]));
        in[i] = &copies[i].tensor;
    }
    if (bytes == 0) return TB_ERR_UNSUPPORTED;
    drop_scratch(c, 0);
    char *memory = tb_op_scratch(c, bytes);
    if (!memory) return TB_ERR_OOM;
    for (int i = 0; i < c->n_in; i++) {
        if (in[i] == given[i]) continue;
        tb_tensor *t = in[i];
        tbi_copy_elements(memory + at, NULL, t);
        copies[i].storage = (tb_storage){.ctx = c->ctx,
                                         .device = c->ctx->device,
                                         .mem = {.data = memory + at},
                                         .bytes = tb_tensor_bytes(t),
                                         .is_wrapped = true};
        at += aligned(tb_tensor_bytes(t));
        tbi_row_major(t->rank, t->dims, t->strides);
        t->is_contiguous = true;
        t->offset = 0;
        t->storage = &copies[i].storage;
    }
    c->in = in;
    tb_status st = c->op->fast(c);
    c->in = given;
    return st;
}

tb_status tbi_op_compute(tb_op_call *c)
{
    tb_status st = TB_ERR_UNSUPPORTED;
    if (c->op->fast && !c->ctx->ref_only) {
        st = c->op->fast(c);
        if (st == TB_ERR_UNSUPPORTED && may_be_fast(c)) st = fast_on_copies(c);
    }
    if (st == TB_ERR_UNSUPPORTED) {
        c->kernel = "ref";
        st = c->op->ref(c);
    }
    drop_scratch(c, 0);
    return st;
}

static tb_status close_all(tb_op_call *c, tb_status st)
{
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i]) {
            tb_status closed = tbi_close(c->in[i]);
            if (st == TB_OK) st = closed;
        }
    for (int o = 0; o < c->op->n_out; o++) {
        tb_status closed = tbi_close(c->out[o]);
        if (st == TB_OK) st = closed;
    }
    if (st != TB_OK) tb_error_add("op %s, kernel %s", c->op->name, c->kernel ? c->kernel : "ref");
    return st;
}

static tb_status execute(tb_op_call *c)
{
    TB_TRY(make_outputs(c));
    if (!c->op->ref || c->spec[0].is_view) {
        c->kernel = "view";
        return TB_OK;
    }
    if (!c->ctx->device->has_data) return TB_OK;
    if (c->ctx->device->always_open) return tbi_op_compute(c);
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i]) tbi_open(c->in[i]);
    for (int o = 0; o < c->op->n_out; o++) tbi_open(c->out[o]);
    return close_all(c, tbi_op_compute(c));
}

/* ---- interceptors ---- */
void tb_interceptor_add(tb_ctx *ctx, tb_interceptor *i)
{
    tb_interceptor **link = &ctx->interceptors;
    for (; *link; link = &(*link)->next)
        if (*link == i) return;
    link = &ctx->interceptors;
    while (*link && (*link)->order <= i->order) link = &(*link)->next;
    i->next = *link;
    *link = i;
}

void tb_interceptor_remove(tb_ctx *ctx, tb_interceptor *i)
{
    for (tb_interceptor **link = &ctx->interceptors; *link; link = &(*link)->next)
        if (*link == i) {
            *link = i->next;
            i->next = NULL;
            return;
        }
}

tb_status tb_dispatch_next(tb_interceptor *self, tb_op_call *call)
{
    return self->next ? self->next->around(self->next, call) : execute(call);
}

/* ---- checks and promotion ---- */
static tb_status check_inputs(const tb_op *op, tb_tensor *const *in, int n_in)
{
    int most = op->n_in < 0 ? 1 << 16 : op->n_in;
    if (n_in < op->n_in_min || n_in > most)
        return TB_FAIL(TB_ERR_INVALID, "%s takes %d to %d inputs, not %d", op->name, op->n_in_min, most, n_in);
    for (int i = 0; i < n_in; i++)
        if (!in[i] && (i < op->n_in_min || op->n_in < 0))
            return TB_FAIL(TB_ERR_INVALID, "%s: input %d is missing (NULL)", op->name, i);
    return TB_OK;
}

static tb_status check_dtype(const tb_op *op, tb_dtype dtype)
{
    if (op->dtypes >> dtype & 1u) return TB_OK;
    return TB_FAIL(TB_ERR_DTYPE, "%s: not defined for %s%s%s", op->name, tb_dtype_name(dtype),
                   op->dtypes_reason ? ": " : "", op->dtypes_reason ? op->dtypes_reason : "");
}

static int category(tb_dtype t) { return tb_dtype_is_float(t) ? 2 : t == TB_BOOL ? 0 : 1; }

/* torch's rule: tensors with dimensions decide; 0-d tensors only where they are of a higher category. */
tb_dtype tb_common_dtype(tb_tensor *const *in, int n_in)
{
    int dtype[2] = {-1, -1}; /* of 0-d tensors, of the others */
    for (int i = 0; i < n_in; i++)
        if (in[i]) {
            int *d = &dtype[in[i]->rank > 0];
            *d = *d < 0 ? in[i]->dtype : (int)tb_dtype_promote((tb_dtype)*d, (tb_dtype)in[i]->dtype);
        }
    if (dtype[1] < 0) return (tb_dtype)dtype[0];
    if (dtype[0] < 0 || category((tb_dtype)dtype[0]) <= category((tb_dtype)dtype[1])) return (tb_dtype)dtype[1];
    return tb_dtype_promote((tb_dtype)dtype[0], (tb_dtype)dtype[1]);
}

static tb_status promote(const tb_op *op, tb_tensor *const *in, int n_in, tb_tensor **to)
{
    tb_dtype common = tb_common_dtype(in, n_in);
    if (op->promote == TB_PROMOTE_FLOAT && !tb_dtype_is_float(common)) common = TB_F32;
    for (int i = 0; i < n_in; i++) {
        to[i] = in[i] && in[i]->dtype != common ? tb_cast(in[i], common) : in[i];
        if (to[i] && tb_is_poison(to[i])) return tb_error_code();
    }
    return TB_OK;
}

/* Whether every input is there, whole and of one dtype, so that nothing is left to check or to promote. */
static inline bool is_plain(const tb_op *op, tb_tensor *const *in, int n_in)
{
    if (n_in < 1 || n_in < op->n_in_min || n_in > op->n_in || !in[0]) return false;
    unsigned dtype = in[0]->dtype;
    if (op->promote == TB_PROMOTE_FLOAT && !tb_dtype_is_float((tb_dtype)dtype)) return false;
    for (int i = 0; i < n_in; i++)
        if (!in[i] || in[i]->dtype != dtype || tbi_is_poison(in[i])) return false;
    return true;
}

static bool is_mixed(const tb_op *op, tb_tensor *const *in, int n_in)
{
    if (op->promote == TB_PROMOTE_NONE || n_in == 0 || !in[0]) return false;
    if (op->promote == TB_PROMOTE_FLOAT && !tb_dtype_is_float((tb_dtype)in[0]->dtype)) return true;
    for (int i = 1; i < n_in; i++)
        if (in[i] && in[i]->dtype != in[0]->dtype) return true;
    return false;
}

/* Checks and promotion; *in becomes `promoted`, of 8, where a cast was needed. */
static tb_status prepare(const tb_op *op, tb_tensor *const **in, int n_in, tb_tensor **promoted)
{
    TB_TRY(check_inputs(op, *in, n_in));
    if (n_in > 8 || !is_mixed(op, *in, n_in)) return TB_OK;
    TB_TRY(promote(op, *in, n_in, promoted));
    *in = promoted;
    return TB_OK;
}

static inline tb_status describe_results(tb_op_call *c)
{
    int typed_by = c->n_in > 0 ? c->op->typed_by : -1;
    if (typed_by >= 0) TB_TRY(check_dtype(c->op, (tb_dtype)c->in[typed_by]->dtype));
    TB_TRY(c->op->shape(c));
    return typed_by < 0 ? check_dtype(c->op, c->spec[0].dtype) : TB_OK;
}

tb_status tbi_op_types(tb_op_call *c)
{
    for (int o = 0; o < c->op->n_out; o++) c->spec[o].is_view = c->spec[o].is_donated = c->spec[o].is_laid_out = false;
    TB_TRY(check_inputs(c->op, c->in, c->n_in));
    if (is_mixed(c->op, c->in, c->n_in))
        return TB_FAIL(TB_ERR_DTYPE, "%s: its operands have several dtypes, or one that it takes as floats: cast them",
                       c->op->name);
    return describe_results(c);
}

static tb_status call_op(tb_op_call *c)
{
    TB_TRY(describe_results(c));
    tb_interceptor *first = c->ctx->interceptors;
    return first ? first->around(first, c) : execute(c);
}

tb_status tb_dispatch(const tb_op *op, const void *attrs, tb_tensor *const *in, int n_in, tb_tensor **out)
{
    tb_ctx *ctx = tbi_ctx();
    tb_tensor *promoted[8];
    tb_status st =
        ctx ? TB_OK : TB_FAIL(TB_ERR_INVALID, "%s: this thread has entered no context (tb_ctx_enter)", op->name);
    for (int o = 0; o < op->n_out; o++) out[o] = tb_poison();
    if (st == TB_OK && !is_plain(op, in, n_in)) {
        for (int i = 0; i < n_in; i++)
            if (in[i] && tbi_is_poison(in[i])) return TB_ERR_INVALID; /* the first failure stays the cause */
        st = prepare(op, &in, n_in, promoted);
    }
    if (st == TB_OK) {
        tb_op_call c;
        c.op = op, c.ctx = ctx, c.attrs = attrs, c.n_in = n_in, c.in = in, c.kernel = NULL, c.n_scratch = 0,
        c.arena = NULL;
        for (int o = 0; o < op->n_out; o++) {
            c.out[o] = NULL;
            c.spec[o].is_view = c.spec[o].is_donated = c.spec[o].is_laid_out = false;
        }
        st = call_op(&c);
        if (st == TB_OK)
            for (int o = 0; o < op->n_out; o++) out[o] = c.out[o];
    }
    if (st != TB_OK) tbi_poisoned(ctx);
    return st;
}

tb_tensor *tb_call(const tb_op *op, const void *attrs, int n_in, tb_tensor *const *in)
{
    tb_tensor *out[TB_MAX_OUT];
    tb_dispatch(op, attrs, in, n_in, out);
    return out[0];
}
