/* The queue, admission, the choice of the batch, and how finished rows go back to their requests. */
#include "batcher.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include "tb_log.h"
#include <stdlib.h>
#include <string.h>

/* ---- t(b) ---- */

int64_t tbi_batcher_cost(const tbi_batcher *b, int rows)
{
    int i = 0;
    while (i < b->n_sizes - 1 && b->sizes[i] < rows) i++;
    if (i == 0 || b->sizes[i] == rows) return b->cost_ns[i];
    int64_t below = b->cost_ns[i - 1], above = b->cost_ns[i];
    return below + (above - below) * (rows - b->sizes[i - 1]) / (b->sizes[i] - b->sizes[i - 1]);
}

static void learn_row_cost(tbi_batcher *b)
{
    b->row_ns = INT64_MAX;
    for (int i = 0; i < b->n_sizes; i++)
        if (b->cost_ns[i] / b->sizes[i] < b->row_ns) b->row_ns = b->cost_ns[i] / b->sizes[i];
}

/* Steps of 1/64 towards what was seen: the estimate settles at the median, and one run that lost its core to
 * somebody else does not make a size look bad for ever (a size that looks bad is not tried again). */
static void learn_cost(tbi_batcher *b, int rows, int64_t ns)
{
    for (int i = 0; i < b->n_sizes; i++) {
        if (b->sizes[i] != rows) continue;
        b->cost_ns[i] += ns > b->cost_ns[i] ? b->cost_ns[i] / 64 + 1 : -(b->cost_ns[i] / 64);
        learn_row_cost(b);
    }
}

int tbi_batcher_plan(const tbi_batcher *b, int queued, int64_t now_ns, int64_t deadline_ns)
{
    int most = queued < b->model->max_batch ? queued : b->model->max_batch, best = 1;
    double best_cost = (double)tbi_batcher_cost(b, 1);
    for (int i = 0; i <= b->n_sizes; i++) {
        int rows = i < b->n_sizes ? b->sizes[i] : most;
        if (rows > most || rows < best) continue;
        int64_t cost = tbi_batcher_cost(b, rows);
        bool in_time = now_ns + cost <= deadline_ns;
        if (in_time && (double)cost / rows <= best_cost) {
            best = rows;
            best_cost = (double)cost / rows;
        }
    }
    return best;
}

/* ---- the queue ---- */

static void unlink_request(tbi_batcher *b, tbi_request *r)
{
    if (r->prev) r->prev->next = r->next;
    else b->head = r->next;
    if (r->next) r->next->prev = r->prev;
    else b->tail = r->prev;
    r->prev = r->next = NULL;
    r->queued = false;
    b->queued_rows -= r->rows;
    b->queued_requests--;
}

static int seconds_up(int64_t ns) { return ns <= 0 ? 1 : (int)((ns + 999999999) / 1000000000); }

/* Until a row that arrives now could start: the queue at the best rate, after what is left of a running batch. */
static int64_t predicted_wait(const tbi_batcher *b, int64_t now_ns)
{
    int64_t wait = b->queued_rows * b->row_ns;
    if (!b->by_worker) return wait;
    int64_t left = tbi_worker_free_ns(b) - now_ns;
    return wait / b->n_workers + (left > 0 ? left : 0);
}

bool tbi_batcher_admit(tbi_batcher *b, tbi_request *r, int64_t now_ns, tbi_fault *fault)
{
    int64_t wait = predicted_wait(b, now_ns);
    if (b->queued_rows + r->rows > b->limit_rows) {
        fault->retry_after_s = seconds_up(wait);
        return tbi_fault_set(fault, TBI_FAULT_QUEUE_FULL, NULL, "the queue holds its limit of %d rows",
                             b->limit_rows);
    }
    if (r->deadline_ns != INT64_MAX && now_ns + wait + tbi_batcher_cost(b, r->rows) > r->deadline_ns) {
        fault->retry_after_s = seconds_up(wait);
        return tbi_fault_set(fault, TBI_FAULT_DEADLINE_UNATTAINABLE, NULL,
                             "the answer would come after the request's deadline");
    }
    r->queued = true;
    r->queued_ns = now_ns;
    r->batch = NULL;
    r->next = NULL;
    r->prev = b->tail;
    if (b->tail) b->tail->next = r;
    else b->head = r;
    b->tail = r;
    b->queued_rows += r->rows;
    b->queued_requests++;
    return true;
}

void tbi_batcher_cancel(tbi_batcher *b, tbi_request *r)
{
    if (r->queued) unlink_request(b, r);
    for (int i = 0; r->batch && i < r->batch->n_requests; i++)
        if (r->batch->requests[i] == r) r->batch->requests[i] = NULL;
    r->batch = NULL;
}

int64_t tbi_batcher_next_deadline(const tbi_batcher *b)
{
    int64_t next = INT64_MAX;
    for (const tbi_request *r = b->head; r; r = r->next)
        if (r->deadline_ns < next) next = r->deadline_ns;
    return next;
}

bool tbi_batcher_idle(const tbi_batcher *b) { return !b->head && b->n_busy == 0; }

static void expire(tbi_batcher *b, int64_t now_ns)
{
    for (tbi_request *r = b->head, *next; r; r = next) {
        next = r->next;
        if (r->deadline_ns > now_ns) continue;
        tbi_fault fault = {0};
        tbi_fault_set(&fault, TBI_FAULT_DEADLINE_EXPIRED, NULL,
                      "the deadline passed while the request waited");
        unlink_request(b, r);
        r->start_ns = r->done_ns = now_ns;
        b->finish(b->finish_arg, r, &fault, NULL);
    }
}

/* ---- batches ---- */

static size_t input_row(const tb_serve_model *m, int i)
{
    return (size_t)m->inputs[i].elements * tb_dtype_size(m->inputs[i].dtype);
}
static size_t output_row(const tb_serve_model *m, int o)
{
    return (size_t)m->outputs[o].elements * tb_dtype_size(m->outputs[o].dtype);
}

/* Rows of the oldest requests, `rows` at most, that a batch of that size would answer in time. */
static int rows_in_time(const tbi_batcher *b, int rows, int64_t now_ns)
{
    int64_t done = now_ns + tbi_batcher_cost(b, rows);
    int n = 0;
    for (const tbi_request *r = b->head; r && n < rows; r = r->next)
        if (r->deadline_ns >= done) n += r->rows;
    return n < rows ? n : rows;
}

/* The size that answers most rows in time for its cost; 0: none answers any. Where the queue is long, a small batch for
 * the sake of its oldest request would cost all behind it their time, and the next batch would be smaller still. */
static int plan_under_pressure(const tbi_batcher *b, int64_t now_ns)
{
    int most = b->queued_rows < b->model->max_batch ? b->queued_rows : b->model->max_batch, best = 0;
    double best_rate = 0;
    for (int i = 0; i <= b->n_sizes; i++) {
        int rows = i < b->n_sizes ? b->sizes[i] : most;
        if (rows > most) continue;
        double rate = (double)rows_in_time(b, rows, now_ns) / (double)tbi_batcher_cost(b, rows);
        if (rate > 0 && rate >= best_rate) best = rows, best_rate = rate;
    }
    return best;
}

/* Moves the oldest whole requests, up to the planned rows, into the batch; under pressure those that it would answer
 * too late stay behind and expire. A request alone is read where it lies if the loop itself runs it; workers always
 * read a copy, since a connection may end while they compute. */
static void fill(tbi_batcher *b, tbi_batch *batch, int64_t now_ns)
{
    int most = b->queued_rows < b->model->max_batch ? b->queued_rows : b->model->max_batch, rows = 0;
    int64_t earliest = tbi_batcher_next_deadline(b), done = INT64_MIN;
    if (now_ns + tbi_batcher_cost(b, most) > earliest) rows = plan_under_pressure(b, now_ns);
    if (rows) done = now_ns + tbi_batcher_cost(b, rows);
    else rows = tbi_batcher_plan(b, b->queued_rows, now_ns, earliest);
    batch->queued_rows = b->queued_rows;
    batch->rows = batch->n_requests = 0;
    for (tbi_request *r = b->head, *next; r && (batch->rows == 0 || batch->rows + r->rows <= rows); r = next) {
        next = r->next;
        if (r->deadline_ns < done) continue;
        unlink_request(b, r);
        r->batch = batch;
        r->batch_at = batch->rows;
        batch->requests[batch->n_requests++] = r;
        batch->rows += r->rows;
    }
    bool alone = batch->n_requests == 1 && !b->by_worker;
    for (int i = 0; i < b->model->n_inputs; i++) {
        char *to = batch->in[i];
        size_t row = input_row(b->model, i);
        batch->use[i] = alone ? batch->requests[0]->in[i].data : batch->in[i];
        for (int k = 0; !alone && k < batch->n_requests; k++) {
            const tbi_request *r = batch->requests[k];
            memcpy(to, r->in[i].data, row * (size_t)r->rows);
            to += row * (size_t)r->rows;
        }
    }
}

void tbi_batcher_note(tbi_batcher *b, const tbi_batch *batch)
{
    b->decisions[b->n_decisions++ % TBI_DECISIONS_KEPT] =
        (tbi_decision){.at_ns = batch->start_ns,
                       .queued_rows = batch->queued_rows,
                       .rows = batch->rows,
                       .predicted_ns = tbi_batcher_cost(b, batch->rows),
                       .took_ns = batch->done_ns - batch->start_ns};
    b->by_size[batch->rows].batches++;
    b->by_size[batch->rows].busy_ns += batch->done_ns - batch->start_ns;
    learn_cost(b, batch->rows, batch->done_ns - batch->start_ns);
}

static void give_back(tbi_batcher *b, tbi_batch *batch)
{
    tbi_fault failed = {0};
    tbi_batcher_note(b, batch);
    if (batch->status != TB_OK) tbi_fault_set(&failed, TBI_FAULT_INTERNAL, NULL, "the model failed");
    for (int k = 0; k < batch->n_requests; k++) {
        tbi_request *r = batch->requests[k];
        if (!r) continue;
        const void *out[TB_SERVE_MAX_TENSORS];
        for (int o = 0; o < b->model->n_outputs; o++)
            out[o] = (const char *)batch->out[o] + output_row(b->model, o) * (size_t)r->batch_at;
        r->batch = NULL;
        r->start_ns = batch->start_ns;
        r->done_ns = batch->done_ns;
        r->batch_rows = batch->rows;
        tbi_fault fault = failed;
        if (batch->done_ns > r->deadline_ns)
            tbi_fault_set(&fault, TBI_FAULT_DEADLINE_EXPIRED, NULL,
                          "the deadline passed while the model ran");
        b->finish(b->finish_arg, r, &fault, fault.code ? NULL : out);
    }
}

static void step_workers(tbi_batcher *b)
{
    tbi_batch *batch;
    while ((batch = tbi_worker_collect(b))) {
        b->n_busy--;
        batch->until_ns = 0;
        give_back(b, batch);
    }
    while (b->head && (batch = tbi_worker_idle(b))) {
        int64_t now = tb_now_ns();
        fill(b, batch, now);
        batch->until_ns = now + b->handover_ns + tbi_batcher_cost(b, batch->rows);
        b->n_busy++;
        tbi_worker_submit(b, batch);
    }
}

bool tbi_batcher_step(tbi_batcher *b, int64_t budget_ns)
{
    int64_t begin = tb_now_ns();
    if (b->head) expire(b, begin);
    if (b->by_worker) {
        step_workers(b);
        return false;
    }
    while (b->head) {
        fill(b, &b->batch, tb_now_ns());
        tbi_batch_run(&b->batch, b->model);
        give_back(b, &b->batch);
        if (b->batch.done_ns - begin > budget_ns) break;
        if (b->head) expire(b, b->batch.done_ns);
    }
    return b->head != NULL;
}

/* ---- life ---- */

tb_status tbi_batch_open(tbi_batch *batch, const tb_serve_model *m)
{
    bool ok = (batch->requests = tb_calloc((size_t)m->max_batch, sizeof *batch->requests)) != NULL;
    for (int i = 0; ok && i < m->n_inputs; i++)
        ok = (batch->in[i] = tb_calloc((size_t)m->max_batch, input_row(m, i))) != NULL;
    for (int o = 0; ok && o < m->n_outputs; o++)
        ok = (batch->out[o] = tb_calloc((size_t)m->max_batch, output_row(m, o))) != NULL;
    if (ok && m->scratch_bytes) ok = (batch->scratch = tb_calloc(1, m->scratch_bytes)) != NULL;
    return ok ? TB_OK
              : TB_FAIL(TB_ERR_OOM, "model '%s': no memory for a batch of %d rows", m->name, m->max_batch);
}

void tbi_batch_close(tbi_batch *batch)
{
    for (int i = 0; i < TB_SERVE_MAX_TENSORS; i++) {
        tb_free(batch->in[i]);
        tb_free(batch->out[i]);
    }
    tb_free(batch->scratch);
    tb_free(batch->requests);
    memset(batch, 0, sizeof *batch);
}

void tbi_batch_run(tbi_batch *batch, const tb_serve_model *model)
{
    batch->start_ns = tb_now_ns();
    batch->status = model->run(model, batch->rows, batch->use, batch->out, batch->scratch);
    batch->done_ns = tb_now_ns();
    if (batch->status != TB_OK) tb_log_write(TB_LOG_ERROR, "model '%s': %s", model->name, tb_error_message());
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Sizes 1, 2, 3, 4, 6, 8, 12, ... max_batch; the lower quartile of up to 20 runs, at most 20 ms a size. */
static tb_status measure(tbi_batcher *b)
{
    for (int rows = 1, step = 1; b->n_sizes < TBI_BATCH_SIZES; rows += step) {
        if (rows > b->model->max_batch || b->n_sizes == TBI_BATCH_SIZES - 1) rows = b->model->max_batch;
        int64_t times[20];
        int n = 0;
        b->batch.rows = rows;
        for (int i = 0; i < b->model->n_inputs; i++) b->batch.use[i] = b->batch.in[i];
        for (int64_t begin = tb_now_ns(); n < 20 && (n < 3 || tb_now_ns() - begin < 20000000); n++) {
            tbi_batch_run(&b->batch, b->model);
            if (b->batch.status != TB_OK) return b->batch.status;
            times[n] = b->batch.done_ns - b->batch.start_ns;
        }
        qsort(times, (size_t)n, sizeof *times, by_time);
        b->sizes[b->n_sizes] = rows;
        b->cost_ns[b->n_sizes++] = times[n / 4];
        if (rows == b->model->max_batch) break;
        if (rows >= 4 && (rows & (rows - 1)) == 0) step = rows / 2;
    }
    learn_row_cost(b);
    return TB_OK;
}

/* What a batch pays to go to a worker's thread and back, apart from the model. */
static void measure_handover(tbi_batcher *b)
{
    int64_t best = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        tbi_batch *batch = tbi_worker_idle(b), *done = NULL;
        for (int k = 0; k < b->model->n_inputs; k++) batch->use[k] = batch->in[k];
        batch->rows = 1;
        int64_t begin = tb_now_ns();
        tbi_worker_submit(b, batch);
        while (!(done = tbi_worker_collect(b))) tbi_worker_wait(b);
        int64_t ns = tb_now_ns() - begin - (done->done_ns - done->start_ns);
        if (ns < best) best = ns;
    }
    b->handover_ns = best;
}

tb_status tbi_batcher_create(const tb_serve_model *model, tb_serve_mode mode, int workers, int limit_rows,
                             tbi_batcher **out)
{
    tb_status st;
    tbi_batcher *b = tb_calloc(1, sizeof *b);
    if (!b) return tb_error_code();
    b->model = model;
    b->limit_rows = limit_rows;
    b->wake_fd = -1;
    b->by_size = tb_calloc((size_t)model->max_batch + 1, sizeof *b->by_size);
    if (!b->by_size) {
        st = tb_error_code();
        goto cleanup;
    }
    TB_GO(tbi_batch_open(&b->batch, model));
    TB_GO(measure(b));
    if (mode != TB_SERVE_LOOP) {
        TB_GO(tbi_workers_start(b, workers));
        measure_handover(b);
        b->by_worker = mode == TB_SERVE_WORKER || b->cost_ns[0] > TBI_SLOW_MODEL * b->handover_ns;
        if (!b->by_worker) tbi_workers_stop(b);
    }
    *out = b;
    return TB_OK;
cleanup:
    tbi_batcher_destroy(b);
    return st;
}

void tbi_batcher_destroy(tbi_batcher *b)
{
    if (!b) return;
    tbi_workers_stop(b);
    tbi_batch_close(&b->batch);
    tb_free(b->by_size);
    tb_free(b);
}
