/* Loaders: row order, sharding, filling, prefetching.
 *
 * Text rows of an epoch are the windows of `context` bytes from a start that the epoch draws in [0, context), so that
 * over the epochs every byte is seen at every place of a window. */
#include "tb_data.h"
#include "tb_alloc.h"
#include "tb_rng.h"
#include <pthread.h>
#include <string.h>

enum {
    IGNORED = -100,
    ROWS_AHEAD = 8, /* shuffled rows are fetched so early: each is a miss in every cache */
    CACHE_LINE = 64,
};

typedef struct slot {
    int64_t position;
    bool is_full;
    int64_t rows, first_row, global_rows, targets, epoch;
    void *x;
    int32_t *y;
} slot;

struct tb_loader {
    tb_loader_config cfg;
    const tb_data_part *part;
    int64_t rows, batches;   /* of an epoch */
    int64_t piece;           /* rows of a piece */
    int64_t position;        /* next to hand out */
    int64_t *order;          /* permutation of `order_epoch` */
    int64_t order_epoch, shift;
    float scale, offset;     /* a pixel's normalised value: byte * scale + offset */
    slot *slots;             /* ring: position p lives in slot p % n_slots */
    int n_slots;
    bool has_thread, stop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled, freed;
};

static bool is_text(const tb_loader *l) { return tb_dataset_kind(l->cfg.data) == TB_DATA_TEXT; }

static int64_t row_elements(const tb_loader *l)
{
    return is_text(l) ? l->cfg.context : tb_dataset_height(l->cfg.data) * tb_dataset_width(l->cfg.data);
}

/* ---- what a batch holds: a pure function of the position ---- */
static void enter_epoch(tb_loader *l, int64_t epoch)
{
    if (l->order_epoch == epoch) return;
    l->order_epoch = epoch;
    uint64_t stream = tb_stream_index(tb_stream_name(0, "shuffle"), (uint64_t)epoch);
    tb_random_permutation(l->cfg.seed, stream, l->rows, l->order);
    if (is_text(l)) {
        stream = tb_stream_index(tb_stream_name(0, "shift"), (uint64_t)epoch);
        l->shift = (int64_t)tb_random_below(l->cfg.seed, stream, 0, (uint64_t)l->cfg.context);
    }
}

static void prefetch_image(const tb_loader *l, int64_t row)
{
    int64_t n = row_elements(l);
    for (int64_t i = 0; i < n; i += CACHE_LINE) __builtin_prefetch(l->part->bytes + row * n + i);
}

static void fill_image(const tb_loader *l, int64_t row, slot *s, int64_t at)
{
    int64_t n = row_elements(l);
    const uint8_t *restrict from = l->part->bytes + row * n;
    if (l->cfg.raw) {
        memcpy((uint8_t *)s->x + at * n, from, (size_t)n);
    } else {
        float *restrict to = (float *)s->x + at * n, scale = l->scale, offset = l->offset;
        for (int64_t i = 0; i < n; i++) to[i] = (float)from[i] * scale + offset;
    }
    s->y[at] = l->part->labels[row];
    s->targets++;
}

static void fill_window(const tb_loader *l, int64_t row, slot *s, int64_t at)
{
    int64_t n = l->cfg.context, start = l->shift + row * n, end = l->part->rows;
    int32_t *x = (int32_t *)s->x + at * n, *y = s->y + at * n;
    for (int64_t i = 0; i < n; i++) {
        x[i] = start + i < end ? l->part->bytes[start + i] : 0;
        y[i] = start + i + 1 < end ? l->part->bytes[start + i + 1] : IGNORED;
        s->targets += y[i] != IGNORED;
    }
}

static void fill(tb_loader *l, int64_t position, slot *s)
{
    const tb_loader_config *c = &l->cfg;
    bool is_train = c->mode == TB_LOAD_TRAIN;
    int64_t pieces = l->batches * c->pieces, epoch = is_train ? position / pieces : 0;
    int64_t start = (is_train ? position % pieces : position) * l->piece;
    int64_t global = l->rows - start < l->piece ? l->rows - start : l->piece;
    if (global < 0) global = 0;
    if (is_train) enter_epoch(l, epoch);
    int64_t first = global * c->rank / c->ranks, last = global * (c->rank + 1) / c->ranks;
    s->position = position;
    s->rows = last - first;
    s->first_row = first;
    s->global_rows = global;
    s->epoch = epoch;
    s->targets = 0;
    const int64_t *order = is_train ? l->order + start + first : NULL;
    for (int64_t i = 0; i < s->rows; i++) {
        int64_t row = order ? order[i] : start + first + i;
        if (is_text(l)) {
            fill_window(l, row, s, i);
        } else {
            if (order && i + ROWS_AHEAD < s->rows) prefetch_image(l, order[i + ROWS_AHEAD]);
            fill_image(l, row, s, i);
        }
    }
}

/* ---- the thread ---- */
static void *prefetch(void *arg)
{
    tb_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    for (int64_t p = l->position; !l->stop;) {
        slot *s = &l->slots[p % l->n_slots];
        if (s->is_full) {
            pthread_cond_wait(&l->freed, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        fill(l, p++, s);
        pthread_mutex_lock(&l->lock);
        s->is_full = true;
        pthread_cond_signal(&l->filled);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static tb_status start_thread(tb_loader *l)
{
    for (int i = 0; i < l->n_slots; i++) l->slots[i].is_full = false;
    l->stop = false;
    if (l->cfg.ahead == 0) return TB_OK;
    int rc = pthread_create(&l->thread, NULL, prefetch, l);
    if (rc) return TB_FAIL(TB_ERR_INTERNAL, "loader: cannot start its thread: %s", strerror(rc));
    l->has_thread = true;
    return TB_OK;
}

static void stop_thread(tb_loader *l)
{
    if (!l->has_thread) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->freed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->has_thread = false;
}

/* The slot of the next position, full. */
static slot *next_slot(tb_loader *l)
{
    slot *s = &l->slots[l->position % l->n_slots];
    if (!l->has_thread) {
        fill(l, l->position, s);
        return s;
    }
    pthread_mutex_lock(&l->lock);
    while (!s->is_full) pthread_cond_wait(&l->filled, &l->lock);
    pthread_mutex_unlock(&l->lock);
    return s;
}

static void free_slot(tb_loader *l, slot *s)
{
    l->position++;
    if (!l->has_thread) return;
    pthread_mutex_lock(&l->lock);
    s->is_full = false;
    pthread_cond_signal(&l->freed);
    pthread_mutex_unlock(&l->lock);
}

/* ---- life ---- */
static tb_status check(const tb_loader *l)
{
    const tb_loader_config *c = &l->cfg;
    const char *name = tb_dataset_name(c->data);
    if (c->batch < 1 || c->rank < 0 || c->rank >= c->ranks || c->pieces < 1 || c->ahead < 0)
        return TB_FAIL(TB_ERR_INVALID, "loader of %s: batch %lld for rank %d of %d", name, (long long)c->batch, c->rank,
                       c->ranks);
    if (is_text(l) && (c->context < 1 || 2 * c->context >= l->part->rows))
        return TB_FAIL(TB_ERR_CONFIG, "loader of %s: a context of %lld does not fit a text of %lld bytes", name,
                       (long long)c->context, (long long)l->part->rows);
    if (c->mode == TB_LOAD_EVAL) return TB_OK;
    if (c->batch % (c->ranks * c->pieces))
        return TB_FAIL(TB_ERR_CONFIG,
                       "loader of %s: batch %lld cannot be cut into %d pieces for %d ranks; make it a multiple", name,
                       (long long)c->batch, c->pieces, c->ranks);
    if (c->batch > l->rows)
        return TB_FAIL(TB_ERR_CONFIG, "loader of %s: batch %lld is larger than an epoch of %lld rows", name,
                       (long long)c->batch, (long long)l->rows);
    return TB_OK;
}

static int64_t epoch_rows(const tb_loader *l)
{
    int64_t n = l->part->rows, t = l->cfg.context;
    if (!is_text(l)) return n;
    if (t < 1) return 0;
    return l->cfg.mode == TB_LOAD_TRAIN ? (n - t) / t : (n - 1 + t - 1) / t;
}

static tb_status allocate(tb_loader *l)
{
    const tb_loader_config *c = &l->cfg;
    size_t most = (size_t)((l->piece + c->ranks - 1) / c->ranks + 1), n = (size_t)row_elements(l);
    l->n_slots = c->ahead + 1;
    l->slots = tb_calloc((size_t)l->n_slots, sizeof *l->slots);
    l->order = tb_calloc((size_t)l->rows, sizeof *l->order);
    if (!l->slots || !l->order) return TB_ERR_OOM;
    for (int i = 0; i < l->n_slots; i++) {
        l->slots[i].x = tb_calloc(most * n, is_text(l) ? sizeof(int32_t) : c->raw ? 1 : sizeof(float));
        l->slots[i].y = tb_calloc(is_text(l) ? most * n : most, sizeof(int32_t));
        if (!l->slots[i].x || !l->slots[i].y) return TB_ERR_OOM;
    }
    l->scale = (float)(1 / (255 * tb_dataset_std(c->data)));
    l->offset = (float)(-tb_dataset_mean(c->data) / tb_dataset_std(c->data));
    return TB_OK;
}

tb_status tb_loader_open(const tb_loader_config *config, tb_loader **out)
{
    *out = NULL;
    tb_loader *l = tb_calloc(1, sizeof *l);
    if (!l) return TB_ERR_OOM;
    l->cfg = *config;
    if (l->cfg.ranks == 0) l->cfg.ranks = 1;
    if (l->cfg.pieces == 0) l->cfg.pieces = 1;
    l->piece = config->batch / l->cfg.pieces;
    l->part = tb_dataset_part(config->data, config->split);
    l->rows = epoch_rows(l);
    l->order_epoch = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_cond_init(&l->freed, NULL);
    tb_status st = check(l);
    if (st == TB_OK)
        l->batches =
            config->mode == TB_LOAD_TRAIN ? l->rows / config->batch : (l->rows + config->batch - 1) / config->batch;
    if (st == TB_OK) st = allocate(l);
    if (st == TB_OK) st = start_thread(l);
    if (st == TB_OK) *out = l;
    else tb_loader_close(l);
    return st;
}

void tb_loader_close(tb_loader *l)
{
    if (!l) return;
    stop_thread(l);
    for (int i = 0; l->slots && i < l->n_slots; i++) {
        tb_free(l->slots[i].x);
        tb_free(l->slots[i].y);
    }
    tb_free(l->slots);
    tb_free(l->order);
    pthread_cond_destroy(&l->freed);
    pthread_cond_destroy(&l->filled);
    pthread_mutex_destroy(&l->lock);
    tb_free(l);
}

tb_status tb_loader_next(tb_loader *l, tb_batch *out)
{
    slot *s = next_slot(l);
    const tb_dataset *d = l->cfg.data;
    *out = (tb_batch){.rows = s->rows, .first_row = s->first_row, .global_rows = s->global_rows, .targets = s->targets,
                      .epoch = s->epoch};
    if (is_text(l)) {
        const int64_t dims[] = {s->rows, l->cfg.context};
        out->x = tb_tensor_from(TB_I32, 2, dims, s->x);
        out->y = tb_tensor_from(TB_I32, 2, dims, s->y);
    } else {
        const int64_t dims[] = {s->rows, 1, tb_dataset_height(d), tb_dataset_width(d)};
        out->x = tb_tensor_from(l->cfg.raw ? TB_U8 : TB_F32, 4, dims, s->x);
        out->y = tb_tensor_from(TB_I32, 1, dims, s->y);
    }
    free_slot(l, s);
    return tb_is_poison(out->x) || tb_is_poison(out->y) ? tb_ctx_take_error(tb_ctx_current()) : TB_OK;
}

int64_t tb_loader_position(const tb_loader *l) { return l->position; }

tb_status tb_loader_seek(tb_loader *l, int64_t position)
{
    if (position < 0) return TB_FAIL(TB_ERR_INVALID, "loader: position %lld is negative", (long long)position);
    stop_thread(l);
    l->position = position;
    return start_thread(l);
}

int64_t tb_loader_batches(const tb_loader *l) { return l->batches; }
