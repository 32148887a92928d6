/* Slots, steps, drawing tokens. */
#include "generator.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_rng.h"
#include <math.h>
#include <string.h>

/* ---- the model ---- */

static int find_tensor(const tb_serve_tensor *t, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0) return i;
    return -1;
}

static int next_of(const tb_serve_model *m, int input) /* the output "<input>.next", -1: none */
{
    char name[TB_SERVE_MAX_NAME + 8];
    snprintf(name, sizeof name, "%s.next", m->inputs[input].name);
    return find_tensor(m->outputs, m->n_outputs, name);
}

bool tbi_model_steps(const tb_serve_model *m)
{
    for (int i = 0; i < m->n_inputs; i++)
        if (next_of(m, i) >= 0) return true;
    return false;
}

static size_t state_row(const tbi_generator *g, int s)
{
    const tb_serve_tensor *t = &g->batcher->model->inputs[g->state_in[s]];
    return (size_t)t->elements * tb_dtype_size(t->dtype);
}

static bool is_scalar(const tb_serve_tensor *t, int n, int at, tb_dtype dtype)
{
    return at >= 0 && at < n && t[at].elements == 1 && t[at].dtype == dtype;
}

/* The first state [.., capacity, width] tells how many tokens a row may have. */
static tb_status describe(tbi_generator *g)
{
    const tb_serve_model *m = g->batcher->model;
    g->token = find_tensor(m->inputs, m->n_inputs, "token");
    g->place = find_tensor(m->inputs, m->n_inputs, "place");
    g->logits = find_tensor(m->outputs, m->n_outputs, "logits");
    for (int i = 0; i < m->n_inputs; i++) {
        int o = next_of(m, i);
        if (o < 0) continue;
        if (m->inputs[i].elements != m->outputs[o].elements || m->inputs[i].dtype != m->outputs[o].dtype)
            return TB_FAIL(TB_ERR_SHAPE, "model '%s': '%s' and '%s' differ", m->name, m->inputs[i].name,
                           m->outputs[o].name);
        g->state_in[g->n_states] = i;
        g->state_out[g->n_states++] = o;
    }
    const tb_serve_tensor *state = &m->inputs[g->state_in[0]];
    if (!is_scalar(m->inputs, m->n_inputs, g->token, TB_U8) || !is_scalar(m->inputs, m->n_inputs, g->place, TB_F32) ||
        g->logits < 0 || m->outputs[g->logits].dtype != TB_F32 || m->outputs[g->logits].elements > 256 ||
        g->n_states + 2 != m->n_inputs || state->rank < 2)
        return TB_FAIL(TB_ERR_UNSUPPORTED, "model '%s': a model with states takes 'token' u8, 'place' f32 and states "
                       "[.., tokens, width], and gives 'logits' f32 of at most 256 tokens", m->name);
    g->capacity = (int)state->shape[state->rank - 2];
    return TB_OK;
}

tb_status tbi_generator_create(tbi_batcher *b, int limit, tbi_generator **out)
{
    tb_status st;
    tbi_generator *g = tb_calloc(1, sizeof *g);
    if (!g) return tb_error_code();
    g->batcher = b;
    g->limit = limit;
    TB_GO(describe(g));
    g->slots = tb_calloc((size_t)b->model->max_batch, sizeof *g->slots);
    if (!g->slots) {
        st = tb_error_code();
        goto cleanup;
    }
    g->batch = b->by_worker ? tbi_worker_idle(b) : &b->batch;
    for (int i = 0; i < b->model->n_inputs; i++) g->batch->use[i] = g->batch->in[i];
    for (int s = 0; s < g->n_states; s++) {
        tb_free(g->batch->out[g->state_out[s]]);
        g->batch->out[g->state_out[s]] = g->batch->in[g->state_in[s]];
    }
    *out = g;
    return TB_OK;
cleanup:
    tb_free(g);
    return st;
}

void tbi_generator_destroy(tbi_generator *g)
{
    if (!g) return;
    for (int s = 0; s < g->n_states; s++) g->batch->out[g->state_out[s]] = NULL; /* the input frees it */
    tb_free(g->slots);
    tb_free(g);
}

/* ---- queue and slots ---- */

/* Until a slot is free, if every text goes to its full length. */
static int64_t predicted_wait(const tbi_generator *g)
{
    int most = g->batcher->model->max_batch, waiting = g->n_queued - (most - g->n_slots);
    if (waiting < 0) return 0;
    int64_t step = tbi_batcher_cost(g->batcher, most), tokens = g->capacity;
    for (int i = 0; i < g->n_slots; i++) {
        const tbi_generation *r = g->slots[i];
        int64_t left = r ? r->prompt->bytes + r->max_tokens - r->fed : 0;
        if (left < tokens) tokens = left;
    }
    return step * (tokens + (int64_t)(waiting / most) * g->capacity);
}

bool tbi_generator_admit(tbi_generator *g, tbi_generation *r, int64_t now_ns, tbi_fault *fault)
{
    const tbi_prompt *p = r->prompt;
    int left = g->capacity - p->bytes + 1; /* the last token is not read again */
    if (p->bytes > g->capacity || p->max_tokens > left)
        return tbi_fault_set(fault, TBI_FAULT_BAD_REQUEST, "max_tokens",
                             "the text and max_tokens together must be at most %d tokens", g->capacity + 1);
    int64_t wait = predicted_wait(g);
    fault->retry_after_s = 1 + (int)(wait / 1000000000);
    if (g->n_queued == g->limit)
        return tbi_fault_set(fault, TBI_FAULT_QUEUE_FULL, NULL, "the queue holds its limit of %d requests", g->limit);
    if (r->deadline_ns != INT64_MAX && now_ns + wait > r->deadline_ns)
        return tbi_fault_set(fault, TBI_FAULT_DEADLINE_UNATTAINABLE, NULL,
                             "the first token would come after the request's deadline");
    fault->retry_after_s = 0;
    r->max_tokens = p->max_tokens ? (int)p->max_tokens : left;
    r->n = r->fed = r->matched = 0;
    r->slot = -1;
    r->reason = TBI_UNFINISHED;
    r->queued_ns = now_ns;
    r->next = NULL;
    if (g->tail) g->tail->next = r;
    else g->head = r;
    g->tail = r;
    g->n_queued++;
    return true;
}

static void unlink_queued(tbi_generator *g, tbi_generation *r)
{
    tbi_generation *before = NULL;
    for (tbi_generation *q = g->head; q != r; q = q->next) before = q;
    if (before) before->next = r->next;
    else g->head = r->next;
    if (g->tail == r) g->tail = before;
    g->n_queued--;
}

void tbi_generator_cancel(tbi_generator *g, tbi_generation *r)
{
    if (r->slot < 0) unlink_queued(g, r);
    else g->slots[r->slot] = NULL;
}

int64_t tbi_generator_next_deadline(const tbi_generator *g)
{
    int64_t next = INT64_MAX;
    for (const tbi_generation *r = g->head; r; r = r->next)
        if (r->deadline_ns < next) next = r->deadline_ns;
    return next;
}

/* The last row moves into the place of one that has left. */
static void close_gaps(tbi_generator *g)
{
    for (int i = 0; i < g->n_slots; i++) {
        while (g->n_slots > i && !g->slots[g->n_slots - 1]) g->n_slots--;
        if (i >= g->n_slots || g->slots[i]) continue;
        int last = --g->n_slots;
        for (int s = 0; s < g->n_states; s++) {
            char *rows = g->batch->in[g->state_in[s]];
            size_t row = state_row(g, s);
            memcpy(rows + (size_t)i * row, rows + (size_t)last * row, row);
        }
        g->slots[i] = g->slots[last];
        g->slots[i]->slot = i;
        g->slots[last] = NULL;
    }
}

static void end(tbi_generator *g, tbi_generation *r, tbi_fault_code code, const char *message)
{
    tbi_fault fault = {0};
    if (r->slot >= 0) g->slots[r->slot] = NULL;
    else unlink_queued(g, r);
    tbi_fault_set(&fault, code, NULL, "%s", message);
    g->generated(g->arg, r, &fault);
}

static void expire(tbi_generator *g, int64_t now_ns)
{
    for (tbi_generation *r = g->head, *next; r; r = next) {
        next = r->next;
        if (r->deadline_ns <= now_ns)
            end(g, r, TBI_FAULT_DEADLINE_EXPIRED, "the deadline passed while the request waited");
    }
    for (int i = 0; i < g->n_slots; i++)
        if (g->slots[i] && g->slots[i]->deadline_ns <= now_ns)
            end(g, g->slots[i], TBI_FAULT_DEADLINE_EXPIRED, "the deadline passed before the text was complete");
}

static void seat_queued(tbi_generator *g)
{
    while (g->head && g->n_slots < g->batcher->model->max_batch) {
        tbi_generation *r = g->head;
        unlink_queued(g, r);
        r->slot = g->n_slots;
        g->slots[g->n_slots++] = r;
    }
}

/* ---- tokens ---- */

static int most_likely(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* From softmax(logits / temperature), by inversion: the first token whose cumulated share exceeds a uniform number. */
static int draw(const float *logits, int n, double temperature, uint64_t seed, uint64_t number)
{
    double share[256], sum = 0, max = (double)logits[most_likely(logits, n)];
    for (int i = 0; i < n; i++) sum += share[i] = exp(((double)logits[i] - max) / temperature);
    double left = tb_random_uniform(seed, 0, number) * sum;
    for (int i = 0; i < n - 1; i++)
        if ((left -= share[i]) < 0) return i;
    return n - 1;
}

/* How many bytes at the end of the text begin `stop`, one byte later: Knuth, Morris, Pratt without the table, since
 * `stop` is short. */
static int match_stop(const char *stop, int matched, char next)
{
    while (stop[matched] != next && matched > 0) {
        int shorter = matched - 1;
        while (shorter > 0 && memcmp(stop, stop + matched - shorter, (size_t)shorter) != 0) shorter--;
        matched = shorter;
    }
    return stop[matched] == next && *stop ? matched + 1 : 0;
}

static void take_token(tbi_generator *g, tbi_generation *r, const float *logits)
{
    static const tbi_fault none;
    const tbi_prompt *p = r->prompt;
    int n = (int)g->batcher->model->outputs[g->logits].elements;
    if (++r->fed < p->bytes) return; /* still reading the prompt */
    r->last = (uint8_t)(p->temperature > 0 ? draw(logits, n, p->temperature, (uint64_t)p->seed, (uint64_t)r->n)
                                           : most_likely(logits, n));
    if (r->n++ == 0) r->first_ns = tb_now_ns();
    r->matched = match_stop(p->stop, r->matched, (char)r->last);
    r->reason = *p->stop && !p->stop[r->matched] ? TBI_BY_STOP : r->n == r->max_tokens ? TBI_BY_LENGTH : TBI_UNFINISHED;
    if (r->reason) g->slots[r->slot] = NULL;
    g->generated(g->arg, r, &none);
}

static void take_tokens(tbi_generator *g)
{
    const tb_serve_tensor *t = &g->batcher->model->outputs[g->logits];
    tbi_batcher_note(g->batcher, g->batch);
    for (int i = 0; i < g->batch->rows; i++) {
        tbi_generation *r = g->slots[i];
        if (!r) continue;
        if (g->batch->status != TB_OK) end(g, r, TBI_FAULT_INTERNAL, "the model failed");
        else take_token(g, r, (const float *)g->batch->out[g->logits] + (size_t)i * (size_t)t->elements);
    }
}

static void fill(tbi_generator *g)
{
    g->batch->rows = g->n_slots;
    g->batch->queued_rows = g->n_slots + g->n_queued;
    for (int i = 0; i < g->n_slots; i++) {
        const tbi_generation *r = g->slots[i];
        ((uint8_t *)g->batch->in[g->token])[i] = r->fed < r->prompt->bytes ? r->prompt->text[r->fed] : r->last;
        ((float *)g->batch->in[g->place])[i] = (float)r->fed;
    }
}

bool tbi_generator_step(tbi_generator *g)
{
    if (g->is_running) {
        if (!tbi_worker_collect(g->batcher)) return false;
        g->is_running = false;
        g->batcher->n_busy--;
        take_tokens(g);
    }
    if (g->n_slots == 0 && !g->head) return false;
    expire(g, tb_now_ns());
    close_gaps(g);
    seat_queued(g);
    if (g->n_slots == 0) return false;
    fill(g);
    if (g->batcher->by_worker) {
        g->is_running = true;
        g->batcher->n_busy++;
        tbi_worker_submit(g->batcher, g->batch);
        return false;
    }
    tbi_batch_run(g->batch, g->batcher->model);
    take_tokens(g);
    return true;
}
