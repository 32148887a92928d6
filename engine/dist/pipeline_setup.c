/* Making a pipeline: cuts, checks, the bytes of its stages, the identity of its weights. */
#include "pipeline_internal.h"
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_hash.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int tbi_pipeline_boundary(const tb_pipeline_config *c, int stage, tb_dtype *dtype, int64_t *dims)
{
    const tb_boundary *b = &tb_model_block_at(c->model, c->cuts[stage])->in;
    *dtype = b->dtype;
    for (int i = 0; i < b->rank; i++)
        dims[i] = b->dims[i] == TB_DIM_BATCH ? c->rows : b->dims[i] == TB_DIM_TIME ? c->time : b->dims[i];
    return b->rank;
}

static int64_t boundary_bytes(const tb_pipeline_config *c, int stage)
{
    int64_t dims[TB_MAX_RANK];
    tb_dtype dtype;
    int rank = tbi_pipeline_boundary(c, stage, &dtype, dims);
    int64_t bytes = (int64_t)tb_dtype_size(dtype);
    for (int i = 0; i < rank; i++) bytes *= dims[i];
    return bytes;
}

/* ---- identity ---- */
typedef struct digest {
    char name[96], hex[TB_SHA256_HEX];
} digest;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const digest *)a)->name, ((const digest *)b)->name);
}

static tb_status digest_of(const tb_param *param, digest *out)
{
    size_t bytes = tb_tensor_bytes(param->tensor);
    void *host = tb_calloc(bytes, 1);
    if (!host) return TB_ERR_OOM;
    tb_status st = tb_tensor_read(param->tensor, host, bytes);
    if (st == TB_OK) st = tb_sha256_of(host, bytes, out->hex);
    tb_free(host);
    return st;
}

/* Every rank's digests, `most` places each; unused ones have no name. */
static tb_status gather_digests(const tb_pipeline *p, bool names_only, int64_t *most, digest **all)
{
    const tb_params *ps = tb_model_params(p->cfg.model);
    tb_comm *comm = p->cfg.comm;
    int ranks = comm ? tb_comm_size(comm) : 1;
    *most = tb_params_count(ps);
    if (comm) TB_TRY(tb_comm_allreduce(comm, most, 1, TB_I64, TB_REDUCE_MAX, NULL, NULL));
    size_t table = (size_t)*most * sizeof **all;
    *all = tb_calloc((size_t)ranks, table);
    if (!*all) return TB_ERR_OOM;
    digest *mine = *all + p->rank * *most;
    for (int i = 0; i < tb_params_count(ps); i++) {
        snprintf(mine[i].name, sizeof mine[i].name, "%s", tb_params_at(ps, i)->name);
        if (!names_only) TB_TRY(digest_of(tb_params_at(ps, i), &mine[i]));
    }
    return comm ? tb_comm_allgather(comm, mine, *all, table, NULL, NULL) : TB_OK;
}

/* Two ranks with one parameter would each learn their own. */
static tb_status refuse_shared(const tb_pipeline *p)
{
    digest *all = NULL;
    int64_t most = 0;
    tb_status st = gather_digests(p, true, &most, &all);
    int64_t n = st == TB_OK ? most * p->cfg.schedule->ranks : 0;
    if (n) qsort(all, (size_t)n, sizeof *all, by_name);
    for (int64_t i = 1; i < n && st == TB_OK; i++)
        if (all[i].name[0] && strcmp(all[i].name, all[i - 1].name) == 0)
            st = TB_FAIL(TB_ERR_UNSUPPORTED, "parameter %s is on two ranks of the pipeline: untie it (gpt:tie=false)",
                         all[i].name);
    tb_free(all);
    return st;
}

/* ---- making one ---- */
static tb_status check_config(const tb_pipeline_config *c, int ranks)
{
    const tb_schedule *s = c->schedule;
    tb_schedule_rule broken;
    TB_TRY(tb_schedule_check(s, &broken));
    if (s->ranks != ranks)
        return TB_FAIL(TB_ERR_INVALID, "schedule %s is for %d ranks, the group has %d", s->name, s->ranks, ranks);
    if (c->cuts[0] != 0 || c->cuts[s->stages] != tb_model_blocks(c->model))
        return TB_FAIL(TB_ERR_INVALID, "the cuts go from block %d to %d, the model has %d blocks", c->cuts[0],
                       c->cuts[s->stages], tb_model_blocks(c->model));
    for (int i = 0; i < s->stages; i++)
        if (c->cuts[i] >= c->cuts[i + 1]) return TB_FAIL(TB_ERR_INVALID, "stage %d of %d has no block", i, s->stages);
    return TB_OK;
}

static bool splits_backward(const tb_schedule *s)
{
    for (int r = 0; r < s->ranks; r++)
        for (int64_t i = 0; i < s->lists[r].n; i++)
            if (s->lists[r].at[i].kind == TB_DO_I) return true;
    return false;
}

static size_t largest_group(const tb_action_list *list)
{
    size_t largest = 1, n = 1;
    for (int64_t i = 1; i < list->n; i++) {
        n = list->at[i].joined ? n + 1 : 1;
        if (n > largest) largest = n;
    }
    return largest;
}

static tb_status open_pipeline(const tb_pipeline_config *c, tb_pipeline **out)
{
    const tb_schedule *s = c->schedule;
    if (c->recompute && splits_backward(s))
        return TB_FAIL(TB_ERR_UNSUPPORTED,
                       "schedule %s splits the backward pass: a recomputed stage gives both gradients "
                       "at once; leave recomputation out",
                       s->name);
    tb_pipeline *p = tb_calloc(1, sizeof *p);
    if (!p) return TB_ERR_OOM;
    p->cfg = *c;
    p->rank = c->comm ? tb_comm_rank(c->comm) : 0;
    p->cells = tb_calloc((size_t)s->stages * (size_t)s->microbatches, sizeof *p->cells);
    int blocks = tb_model_blocks(c->model);
    p->runs = tb_calloc((size_t)blocks * (size_t)s->microbatches, sizeof *p->runs);
    size_t group = largest_group(&s->lists[p->rank]), params = (size_t)tb_params_count(tb_model_params(c->model));
    p->requests = tb_calloc(group > params ? group : params, sizeof *p->requests);
    if (!p->cells || !p->runs || !p->requests) {
        tb_pipeline_destroy(p);
        return TB_ERR_OOM;
    }
    for (int64_t i = 0; i < (int64_t)blocks * s->microbatches; i++)
        p->runs[i] = (block_run){.p = p, .block = (int)(i % blocks), .microbatch = i / blocks};
    for (int i = 0; i < s->stages; i++) {
        p->own_stages += tbi_pipeline_owns(p, i);
        for (int64_t m = 0; m < s->microbatches; m++)
            *tbi_pipeline_cell(p, i, m) = (cell){.p = p, .stage = i, .microbatch = m};
    }
    *out = p;
    return TB_OK;
}

tb_status tb_pipeline_create(const tb_pipeline_config *config, tb_pipeline **out)
{
    *out = NULL;
    TB_TRY(check_config(config, config->comm ? tb_comm_size(config->comm) : 1));
    TB_TRY(open_pipeline(config, out));
    tb_status st = config->comm ? refuse_shared(*out) : TB_OK;
    if (st == TB_OK) return TB_OK;
    tb_pipeline_destroy(*out);
    *out = NULL;
    return st;
}

void tbi_pipeline_drop(tb_pipeline *p)
{
    int64_t cells = (int64_t)p->cfg.schedule->stages * p->cfg.schedule->microbatches;
    for (int64_t i = 0; i < cells; i++) {
        cell *c = &p->cells[i];
        tb_release(c->in);
        tb_release(c->root);
        tb_release(c->out);
        tb_release(c->grad_out);
        tb_release(c->grad_in);
        *c = (cell){.p = p, .stage = c->stage, .microbatch = c->microbatch};
    }
    tb_params_clear_grads(tb_model_params(p->cfg.model));
}

void tb_pipeline_destroy(tb_pipeline *p)
{
    if (!p) return;
    if (p->cells) tbi_pipeline_drop(p);
    tb_free(p->cells);
    tb_free(p->runs);
    tb_free(p->requests);
    tb_free(p);
}

/* ---- bytes of the stages ---- */
/* One micro-batch on one rank: all F, then all B (or all I, then all W). */
static tb_status make_probe(const tb_schedule *like, bool split, tb_schedule **out)
{
    TB_TRY(tb_schedule_create("probe", 1, like->stages, 1, out));
    tb_status st = TB_OK;
    for (int s = 0; st == TB_OK && s < like->stages; s++)
        st = tb_schedule_append(*out, 0, (tb_action){.kind = TB_DO_F, .stage = (uint16_t)s});
    for (int s = like->stages; st == TB_OK && s-- > 0;)
        st = tb_schedule_append(*out, 0, (tb_action){.kind = split ? TB_DO_I : TB_DO_B, .stage = (uint16_t)s});
    for (int s = 0; st == TB_OK && split && s < like->stages; s++)
        st = tb_schedule_append(*out, 0, (tb_action){.kind = TB_DO_W, .stage = (uint16_t)s});
    return st;
}

typedef struct probe {
    tb_stage_bytes *bytes;
    int stages;
    int64_t before; /* held before the action */
} probe;

/* What the action changed, less the boundary tensors that it took and gave (schedule_memory.c), is the stage's own. */
static void on_probe(void *arg, const tb_action *a, int64_t t0_ns, int64_t t1_ns, int64_t held)
{
    (void)t0_ns, (void)t1_ns;
    probe *q = arg;
    tb_stage_bytes *b = &q->bytes[a->stage];
    int64_t out = a->stage + 1 < q->stages ? q->bytes[a->stage + 1].input : 0;
    if (a->kind == TB_DO_F) b->act = held - q->before + b->input - out;
    if (a->kind == TB_DO_I) b->deferred = held - q->before + b->act + out - b->input;
    q->before = held;
}

tb_status tb_pipeline_stage_bytes(const tb_pipeline_config *c, tb_stage_bytes *bytes)
{
    tb_schedule *s = NULL;
    tb_pipeline *p = NULL;
    probe q = {.bytes = bytes, .stages = c->schedule->stages};
    tb_pipeline_config one = *c;
    tb_status st;
    memset(bytes, 0, (size_t)q.stages * sizeof *bytes);
    for (int i = 1; i < q.stages; i++) bytes[i].input = boundary_bytes(c, i);
    TB_GO(make_probe(c->schedule, splits_backward(c->schedule), &s));
    one.schedule = s;
    one.comm = one.replicas = NULL;
    one.optim = NULL;
    one.on_action = on_probe;
    one.on_action_arg = &q;
    TB_GO(open_pipeline(&one, &p));
    tb_model_set_training(c->model, true);
    st = tbi_pipeline_run(p);
cleanup:
    tb_pipeline_destroy(p);
    tb_schedule_free(s);
    return st;
}

/* ---- cuts ---- */
/* How many groups are needed when none may cost more than `most`; writes where they begin. */
static int groups_within(int blocks, const double *cost, double most, int stages, int *cuts)
{
    int n = 0;
    double sum = 0;
    for (int b = 0; b < blocks; b++) {
        if (cost[b] > most) return stages + 1;
        bool must = n > 0 && blocks - b <= stages - n; /* one block each for the groups that are left */
        if (n == 0 || sum + cost[b] > most || must) {
            if (n <= stages) cuts[n] = b;
            n++;
            sum = 0;
        }
        sum += cost[b];
    }
    return n;
}

tb_status tb_pipeline_cut(int blocks, const double *cost, int stages, int *cuts)
{
    if (stages < 1 || blocks < stages)
        return TB_FAIL(TB_ERR_INVALID, "%d blocks cannot be cut into %d stages", blocks, stages);
    double best = INFINITY; /* the dearest group is a run of blocks: try all */
    for (int first = 0; first < blocks; first++) {
        double sum = 0;
        for (int b = first; b < blocks; b++) {
            sum += cost[b];
            if (sum < best && groups_within(blocks, cost, sum, stages, cuts) <= stages) best = sum;
        }
    }
    (void)groups_within(blocks, cost, best, stages, cuts);
    cuts[stages] = blocks;
    return TB_OK;
}

tb_status tb_pipeline_weights_hash(const tb_pipeline *p, char hex[65])
{
    digest *all = NULL;
    tb_sha256 *h = NULL;
    int64_t most;
    tb_status st;
    TB_GO(gather_digests(p, false, &most, &all));
    int64_t n = most * (p->cfg.comm ? tb_comm_size(p->cfg.comm) : 1);
    qsort(all, (size_t)n, sizeof *all, by_name);
    TB_GO(tb_sha256_open(&h));
    for (int64_t i = 0; st == TB_OK && i < n; i++)
        if (all[i].name[0]) st = tb_sha256_add(h, &all[i], sizeof all[i]);
    tb_sha256_close(h, hex);
cleanup:
    tb_free(all);
    return st;
}
