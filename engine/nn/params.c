/* Parameter sets: names, order, buffers, the gradient arena, the hash. */
#include "tb_alloc.h"
#include "tb_autograd.h"
#include "tb_hash.h"
#include "tb_ops.h"
#include "tb_params.h"
#include "tb_rng.h"
#include "tb_text.h"
#include <string.h>

enum { PREFIX_BYTES = 128, ARENA_ALIGN = 64 };

typedef struct entry {
    tb_param param;
    char *name;
} entry;

typedef struct entries {
    entry *at;
    int n, capacity;
} entries;

typedef struct omitted { /* what would make it */
    struct omitted *next;
    char *name;
    tb_init init;
    int rank;
    int64_t dims[TB_MAX_RANK];
} omitted;

struct tb_params {
    tb_dtype dtype;
    uint64_t seed;
    entries params, buffers;
    omitted *omitted;
    bool omits;
    char prefix[PREFIX_BYTES];
    bool training;
    tb_tensor *arena;
    tb_status status;
    char *message;
};

tb_status tb_params_create(tb_dtype dtype, uint64_t seed, tb_params **out)
{
    *out = NULL;
    if (!tb_dtype_is_float(dtype))
        return TB_FAIL(TB_ERR_DTYPE, "parameters are floats, not %s", tb_dtype_name(dtype));
    tb_params *ps = tb_calloc(1, sizeof *ps);
    if (!ps) return TB_ERR_OOM;
    ps->dtype = dtype;
    ps->seed = seed;
    *out = ps;
    return TB_OK;
}

static void release_all(entries *e)
{
    for (int i = 0; i < e->n; i++) {
        tb_release(e->at[i].param.tensor);
        tb_free(e->at[i].name);
    }
    tb_free(e->at);
}

void tb_params_destroy(tb_params *ps)
{
    if (!ps) return;
    release_all(&ps->params);
    release_all(&ps->buffers);
    for (omitted *o = ps->omitted, *next; o; o = next) {
        next = o->next;
        tb_free(o->name);
        tb_free(o);
    }
    tb_release(ps->arena);
    tb_free(ps->message);
    tb_free(ps);
}

int tb_params_count(const tb_params *ps) { return ps->params.n; }
const tb_param *tb_params_at(const tb_params *ps, int index) { return &ps->params.at[index].param; }
int tb_params_buffer_count(const tb_params *ps) { return ps->buffers.n; }
const tb_param *tb_params_buffer_at(const tb_params *ps, int index) { return &ps->buffers.at[index].param; }
tb_dtype tb_params_dtype(const tb_params *ps) { return ps->dtype; }
const bool *tb_params_training(const tb_params *ps) { return &ps->training; }
void tb_params_set_training(tb_params *ps, bool training) { ps->training = training; }
tb_tensor *tb_params_arena(const tb_params *ps) { return ps->arena; }

int64_t tb_params_numel(const tb_params *ps)
{
    int64_t n = 0;
    for (int i = 0; i < ps->params.n; i++) n += tb_tensor_numel(ps->params.at[i].param.tensor);
    return n;
}

static entry *find(const entries *e, const char *name)
{
    for (int i = 0; i < e->n; i++)
        if (strcmp(e->at[i].name, name) == 0) return &e->at[i];
    return NULL;
}

const tb_param *tb_params_find(const tb_params *ps, const char *name)
{
    const entry *e = find(&ps->params, name);
    if (e) return &e->param;
    const char **names = tb_calloc((size_t)ps->params.n + 1, sizeof *names);
    for (int i = 0; names && i < ps->params.n; i++) names[i] = ps->params.at[i].name;
    const char *near = names ? tb_nearest(name, names, ps->params.n) : NULL;
    (void)TB_FAIL(TB_ERR_NOT_FOUND, "no parameter '%s'%s%s%s", name, near ? "; nearest: '" : "", near ? near : "",
                  near ? "'" : "");
    tb_free(names);
    return NULL;
}

/* ---- building ---- */
static tb_tensor *failed(tb_params *ps, tb_status st)
{
    if (ps->status == TB_OK) {
        ps->status = st;
        ps->message = tb_strdup(tb_error_message());
    }
    return tb_poison();
}

tb_status tb_params_status(const tb_params *ps)
{
    if (ps->status != TB_OK) tb_error_set(ps->status, ps->message ? ps->message : "out of memory");
    return ps->status;
}

/* The new tensor, owned by the caller. */
static tb_status make_tensor(const tb_params *ps, const char *name, tb_dtype dtype, tb_init init, int rank,
                             const int64_t *dims, tb_tensor **out)
{
    tb_ctx *ctx = tb_ctx_current();
    if (!ctx) return TB_FAIL(TB_ERR_INVALID, "parameter %s: this thread has entered no context", name);
    tb_mem_tag before = tb_ctx_set_tag(ctx, TB_MEM_PARAM);
    tb_scope *scope = tb_scope_open();
    tb_tensor *t = tb_retain(tb_tensor_empty(dtype, rank, dims));
    tb_scope_close(scope);
    tb_ctx_set_tag(ctx, before);
    tb_status st = tb_ctx_take_error(ctx);
    uint64_t stream = tb_stream_name(tb_stream_name(0, "init"), name);
    if (st == TB_OK) st = tb_init_fill(t, init, ps->seed, stream);
    if (st == TB_OK) {
        tb_tensor_set_name(t, name);
        *out = t;
    } else {
        tb_release(t);
    }
    return st;
}

/* `to`: the set's parameters or its buffers. */
static tb_status append(tb_params *ps, entries *to, char *name, tb_init init, int rank, const int64_t *dims)
{
    bool learns = to == &ps->params;
    tb_dtype dtype = learns || ps->dtype == TB_F64 ? ps->dtype : TB_F32;
    if (find(&ps->params, name) || find(&ps->buffers, name))
        return TB_FAIL(TB_ERR_INVALID, "two parameters are named '%s'", name);
    if (to->n == to->capacity) {
        int capacity = to->capacity ? 2 * to->capacity : 16;
        entry *grown = tb_realloc(to->at, (size_t)capacity * sizeof *grown);
        if (!grown) return TB_ERR_OOM;
        to->at = grown;
        to->capacity = capacity;
    }
    entry *e = &to->at[to->n];
    *e = (entry){.name = name, .param = {.name = name, .decays = learns && rank >= 2, .uses = 1}};
    TB_TRY(make_tensor(ps, name, dtype, init, rank, dims, &e->param.tensor));
    tb_status st = learns ? tb_require_grad(e->param.tensor) : TB_OK;
    if (st == TB_OK)
        to->n++;
    else
        tb_release(e->param.tensor);
    return st;
}

static tb_status note(tb_params *ps, char *name, tb_init init, int rank, const int64_t *dims)
{
    omitted *o = tb_calloc(1, sizeof *o);
    if (!o) return TB_ERR_OOM;
    *o = (omitted){.next = ps->omitted, .name = name, .init = init, .rank = rank};
    memcpy(o->dims, dims, (size_t)rank * sizeof *dims);
    ps->omitted = o;
    return TB_OK;
}

tb_tensor *tb_params_add(tb_params *ps, const char *name, tb_init init, int rank, const int64_t *dims)
{
    if (ps->status != TB_OK) return tb_poison();
    char *full = tb_asprintf("%s%s", ps->prefix, name);
    if (!full) return failed(ps, TB_ERR_OOM);
    tb_status st =
        ps->omits ? note(ps, full, init, rank, dims) : append(ps, &ps->params, full, init, rank, dims);
    if (st == TB_OK && ps->omits) return tb_poison();
    if (st == TB_OK) return ps->params.at[ps->params.n - 1].param.tensor;
    tb_free(full);
    return failed(ps, st);
}

tb_tensor *tb_params_add_buffer(tb_params *ps, const char *name, double value, int rank, const int64_t *dims)
{
    if (ps->status != TB_OK || ps->omits)
        return tb_poison(); /* nobody shares a buffer: an omitted one is not noted */
    char *full = tb_asprintf("%s%s", ps->prefix, name);
    if (!full) return failed(ps, TB_ERR_OOM);
    tb_status st = append(ps, &ps->buffers, full, tb_init_constant(value), rank, dims);
    if (st == TB_OK) return ps->buffers.at[ps->buffers.n - 1].param.tensor;
    tb_free(full);
    return failed(ps, st);
}

void tb_params_omit(tb_params *ps, bool omit) { ps->omits = omit; }

/* The link to the noted parameter of that name; to NULL where there is none. */
static omitted **find_omitted(tb_params *ps, const char *name)
{
    omitted **o = &ps->omitted;
    while (*o && strcmp((*o)->name, name) != 0) o = &(*o)->next;
    return o;
}

static tb_tensor *make_omitted(tb_params *ps, omitted **link)
{
    omitted *o = *link;
    tb_status st = append(ps, &ps->params, o->name, o->init, o->rank, o->dims);
    if (st != TB_OK) return failed(ps, st);
    *link = o->next;
    tb_free(o); /* the set has taken the name */
    return ps->params.at[ps->params.n - 1].param.tensor;
}

tb_tensor *tb_params_share(tb_params *ps, const char *name)
{
    omitted **noted = find_omitted(ps, name);
    if (ps->status == TB_OK && *noted) return ps->omits ? tb_poison() : make_omitted(ps, noted);
    const tb_param *p = ps->status == TB_OK ? tb_params_find(ps, name) : NULL;
    if (!p) return failed(ps, TB_ERR_NOT_FOUND);
    if (!ps->omits) find(&ps->params, name)->param.uses++;
    return p->tensor;
}

size_t tb_params_enter(tb_params *ps, const char *part)
{
    size_t mark = strlen(ps->prefix);
    int room = (int)(PREFIX_BYTES - mark);
    if (part[0] && snprintf(ps->prefix + mark, (size_t)room, "%s.", part) >= room)
        failed(ps, TB_FAIL(TB_ERR_INVALID, "the name of part '%s' is longer than %d characters", part, PREFIX_BYTES));
    return mark;
}

void tb_params_leave(tb_params *ps, size_t mark) { ps->prefix[mark] = '\0'; }

/* ---- gradients ---- */
static int64_t arena_elements(const tb_params *ps, const tb_param *p, bool apart)
{
    int64_t unit = ARENA_ALIGN / (int64_t)tb_dtype_size(ps->dtype);
    return (tb_tensor_numel(p->tensor) * (apart ? p->uses : 1) + unit - 1) / unit * unit;
}

/* Its gradient's place in the arena; in rows for the uses of a shared parameter. */
static tb_status place(const tb_param *p, tb_tensor *arena, int64_t at, bool apart)
{
    tb_tensor *t = p->tensor;
    int front = apart && p->uses > 1;
    int64_t dims[TB_MAX_RANK + 1] = {p->uses}, numel = tb_tensor_numel(t) * (front ? p->uses : 1);
    memcpy(dims + front, tb_tensor_dims(t), sizeof *dims * (size_t)tb_tensor_rank(t));
    return tb_grad_set_buffer(t, tb_reshape(tb_slice(arena, 0, at, at + numel, 1), tb_tensor_rank(t) + front, dims));
}

tb_status tb_params_make_arena(tb_params *ps, bool apart)
{
    tb_ctx *ctx = tb_ctx_current();
    int64_t total = 0, at = 0;
    TB_TRY(tb_params_status(ps));
    for (int i = 0; i < ps->params.n; i++) total += arena_elements(ps, &ps->params.at[i].param, apart);
    tb_mem_tag before = tb_ctx_set_tag(ctx, TB_MEM_GRAD);
    bool recorded = tb_grad_mode(ctx, false);
    tb_scope *scope = tb_scope_open();
    tb_tensor *arena = tb_zeros(ps->dtype, 1, &total);
    tb_status st = tb_ctx_take_error(ctx);
    for (int i = 0; st == TB_OK && i < ps->params.n; i++) {
        st = place(&ps->params.at[i].param, arena, at, apart);
        at += arena_elements(ps, &ps->params.at[i].param, apart);
    }
    if (st == TB_OK) ps->arena = tb_retain(arena);
    tb_scope_close(scope);
    tb_grad_mode(ctx, recorded);
    tb_ctx_set_tag(ctx, before);
    return st;
}

tb_status tb_params_join_grads(tb_params *ps)
{
    for (int i = 0; i < ps->params.n; i++) TB_TRY(tb_grad_join(ps->params.at[i].param.tensor));
    return TB_OK;
}

void tb_params_clear_grads(tb_params *ps)
{
    for (int i = 0; i < ps->params.n; i++) tb_grad_clear(ps->params.at[i].param.tensor);
}

/* ---- identity ---- */
static tb_status add_to_hash(tb_sha256 *h, const tb_param *p, void *host)
{
    size_t bytes = tb_tensor_bytes(p->tensor);
    TB_TRY(tb_sha256_add(h, p->name, strlen(p->name) + 1));
    const char *shape = tb_shape_text(p->tensor);
    TB_TRY(tb_sha256_add(h, shape, strlen(shape) + 1));
    TB_TRY(tb_tensor_read(p->tensor, host, bytes));
    return tb_sha256_add(h, host, bytes);
}

static size_t largest(const entries *e, size_t most)
{
    for (int i = 0; i < e->n; i++)
        if (tb_tensor_bytes(e->at[i].param.tensor) > most) most = tb_tensor_bytes(e->at[i].param.tensor);
    return most;
}

tb_status tb_params_hash(const tb_params *ps, char hex[65])
{
    tb_sha256 *h = NULL;
    void *host = tb_calloc(largest(&ps->buffers, largest(&ps->params, 1)), 1);
    tb_status st = host ? tb_sha256_open(&h) : TB_ERR_OOM;
    for (int i = 0; st == TB_OK && i < ps->params.n; i++) st = add_to_hash(h, &ps->params.at[i].param, host);
    for (int i = 0; st == TB_OK && i < ps->buffers.n; i++)
        st = add_to_hash(h, &ps->buffers.at[i].param, host);
    tb_sha256_close(h, hex);
    tb_free(host);
    return st;
}
