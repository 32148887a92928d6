/* Which parts of a graph run slice by slice of the batch (symbol 0): runs of neighbouring nodes whose results are too
 * large for L2 together, while slices of them that fit still use every weight often enough to be worth loading again.
 */
#include "plan.h"
#include "tb_ops.h"

/* With MANY_USES multiply-adds for a weight, or no more bytes of weights than of rows, loading weights again costs
 * little; so do FEW_BYTES of them, which stay in L1. */
enum { MANY_USES = 64, FEW_BYTES = 16 << 10 };

static bool depends(const tb_value *v)
{
    for (int i = 0; i < v->rank; i++)
        if (v->dims[i].per[0]) return true;
    return false;
}

/* Dimension 0 is a multiple of the batch, the others know nothing of it. */
static bool has_rows(const tb_value *v)
{
    if (v->rank == 0 || v->dims[0].base != 0 || v->dims[0].per[0] < 1) return false;
    for (int s = 1; s < TB_MAX_SYMBOLS; s++)
        if (v->dims[0].per[s]) return false;
    for (int i = 1; i < v->rank; i++)
        if (v->dims[i].per[0]) return false;
    return true;
}

/* An axis or axes attribute that names dimension 0. */
static bool works_along_rows(const tb_graph *g, const tb_node *n)
{
    int rank = g->values[n->in[0]].rank;
    for (int i = 0; i < n->op->n_attrs; i++) {
        const tb_attr *a = &n->op->attrs[i];
        const char *at = (const char *)n->attrs + a->offset;
        int64_t axis;
        if (a->type == TB_ATTR_I64 && strcmp(a->name, "axis") == 0) {
            memcpy(&axis, at, sizeof axis);
            if (axis == 0 || axis == -rank) return true;
        } else if (a->type == TB_ATTR_INTS && strcmp(a->name, "axes") == 0) {
            const tb_ints *axes = (const tb_ints *)at;
            for (int k = 0; k < axes->n; k++)
                if (axes->at[k] == 0 || axes->at[k] == -rank) return true;
            if (axes->n == 0) return true;
        }
    }
    return false;
}

static bool is_view(const tb_node *n) { return n->op->fusion == TB_FUSE_VIEW; }

static bool can_be_cut(const tb_graph *g, const tb_node *n)
{
    uint32_t by_rows = n->op->fusion == TB_FUSE_POINTWISE ? UINT32_MAX : n->op->by_rows;
    int64_t per = g->values[n->out[0]].dims[0].per[0];
    bool any = false;
    if (!by_rows || n->op->is_random || n->n_in < 1 || n->in[0] == TB_NO_VALUE || works_along_rows(g, n)) return false;
    if (n->n_symbolic && !is_view(n)) return false;
    for (int o = 0; o < n->n_out; o++)
        if (!has_rows(&g->values[n->out[o]])) return false;
    for (int k = 0; k < n->n_in; k++) {
        const tb_value *v = n->in[k] == TB_NO_VALUE ? NULL : &g->values[n->in[k]];
        if (!v || !depends(v)) continue;
        if (k > 31 || !(by_rows >> k & 1) || !has_rows(v)) return false;
        if (v->dims[0].per[0] != per && n->op != &tb_op_reshape) return false;
        any = true;
    }
    return any;
}

/* Rows of a slice that suit a node: from `least` on its weights are used enough, up to `most` fit into L2. */
typedef struct range {
    int64_t least, most;
} range;

static range suiting(tb_ctx *ctx, const tb_graph *g, const tb_node *n, const int64_t *sizes, int64_t bytes)
{
    int64_t one[TB_MAX_SYMBOLS] = {0};
    uint64_t attrs[MAX_ATTR_WORDS];
    tb_tensor tensors[MAX_OPERANDS], *in[MAX_OPERANDS], out;
    double row_bytes = 0, whole_bytes = 0, weights = 0;
    tb_cost cost = {0};
    memcpy(one, sizes, (size_t)g->n_symbols * sizeof *one);
    one[0] = 1;
    tbi_attrs_at(n, one, attrs);
    tb_op_call c = {.op = n->op, .ctx = ctx, .attrs = n->attrs ? attrs : NULL, .n_in = n->n_in, .in = in};
    for (int k = 0; k < n->n_in; k++) {
        in[k] = NULL;
        if (n->in[k] == TB_NO_VALUE) continue;
        const tb_value *v = &g->values[n->in[k]];
        tbi_describe(v, one, in[k] = &tensors[k]);
        if (depends(v))
            row_bytes += (double)tb_tensor_bytes(in[k]);
        else
            whole_bytes += (double)tb_tensor_bytes(in[k]), weights += (double)in[k]->numel;
    }
    for (int o = 0; o < n->n_out; o++) {
        tbi_describe(&g->values[n->out[o]], one, &out);
        row_bytes += (double)tb_tensor_bytes(&out);
    }
    int64_t most = row_bytes > 0 ? (int64_t)((double)bytes / row_bytes) : sizes[0];
    range r = {1, most < 1 ? 1 : most};
    if (whole_bytes <= FEW_BYTES || row_bytes == 0) return r;
    double least = whole_bytes / row_bytes;
    if (n->op->cost && n->op->shape(&c) == TB_OK) n->op->cost(&c, &cost);
    if (cost.flops > 0 && 2 * MANY_USES * weights / cost.flops < least) least = 2 * MANY_USES * weights / cost.flops;
    r.least = 1 + (int64_t)least;
    return r;
}

static bool is_seen_outside(const tb_graph *g, int value, int first, int end)
{
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i] == value) return true;
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; (i < first || i >= end) && k < g->nodes[i].n_in; k++)
            if (g->nodes[i].in[k] == value) return true;
    return false;
}

/* Ends a part before a view that others look through: they see the whole. */
static int before_seen_views(const tb_graph *g, int first, int end)
{
    for (int i = first; i < end; i++)
        if (is_view(&g->nodes[i]) && is_seen_outside(g, g->nodes[i].out[0], first, end)) {
            end = i;
            i = first - 1;
        }
    return end;
}

/* Of the upper half of what suits, the count that repeats the fewest rows. */
static void choose_rows(slice *s, range r, int64_t batch)
{
    int64_t least = r.least > (r.most + 1) / 2 ? r.least : (r.most + 1) / 2;
    int64_t fewest = INT64_MAX;
    for (int64_t rows = r.most; rows >= least && rows > 0; rows--) {
        int64_t n = (batch + rows - 1) / rows, repeated = n * rows - batch;
        if (repeated >= fewest) continue;
        fewest = repeated;
        s->rows = rows;
        s->n = n;
    }
}

int tbi_find_slices(tb_ctx *ctx, const tb_graph *g, const int64_t *sizes, int64_t bytes, slice *out)
{
    int n_out = 0, end;
    for (int i = 0; i < g->n_nodes; i = end > i ? end : i + 1) {
        range all = {1, sizes[0]};
        int nodes = 0;
        for (end = i; g->n_symbols > 0 && end < g->n_nodes && can_be_cut(g, &g->nodes[end]); end++) {
            if (is_view(&g->nodes[end])) continue;
            range r = suiting(ctx, g, &g->nodes[end], sizes, bytes);
            r.least = r.least > all.least ? r.least : all.least;
            r.most = r.most < all.most ? r.most : all.most;
            if (r.least > r.most) break;
            all = r;
        }
        end = before_seen_views(g, i, end);
        for (int k = i; k < end; k++) nodes += !is_view(&g->nodes[k]);
        slice s = {.first = i, .end = end};
        if (nodes > 1 && all.most < sizes[0]) choose_rows(&s, all, sizes[0]);
        if (s.n > 1) out[n_out++] = s;
    }
    return n_out;
}
