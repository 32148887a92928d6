/* Rows of many requests, run together. One batcher serves one loaded model; it belongs to the server's loop
 * thread, which admits requests, steps it, and is told of every finished one.
 *
 * Natural batching: nothing waits for company. A batch takes what has arrived while the last one ran, so
 * batches grow by themselves with the load. How many rows a batch takes is decided from t(b), the measured
 * time of a batch of b rows (t is not monotone: two rows may cost more than twice one), and from the earliest
 * deadline.
 *
 * Two ways to run: in the loop (a fast model: a hand-over to another thread would cost more than the model),
 * or by worker threads (a slow model: the loop goes on reading requests, answering health, refusing what is
 * too late). */
#pragma once
#include "fault.h"
#include "infer.h"
#include "tb_serve.h"

enum {
    TBI_BATCH_SIZES = 32, /* measured sizes at most */
    TBI_DECISIONS_KEPT = 256,
    TBI_SLOW_MODEL = 16 /* hand-overs that one row must cost before a worker runs the model */
};

/* A request as the batcher sees it; embedded in a connection. Times are tb_now_ns(). */
typedef struct tbi_request {
    int rows;
    tbi_rows *in;          /* [n_inputs], rows filled; must stay until the request is finished or cancelled */
    int64_t deadline_ns;   /* INT64_MAX: none */
    int64_t first_ns, body_ns, parsed_ns, queued_ns, start_ns, done_ns, reply_ns; /* the stages of its life */
    int64_t parsing_ns;    /* of the time to body_ns: a body is parsed while it comes in */
    int batch_rows;        /* of the batch it ran in */
    int batch_at;          /* its first row there */
    struct tbi_request *prev, *next; /* the batcher's queue */
    struct tbi_batch *batch;         /* it runs in, else NULL */
    bool queued;
} tbi_request;

/* One run of the model and all its memory. */
typedef struct tbi_batch {
    void *in[TB_SERVE_MAX_TENSORS], *out[TB_SERVE_MAX_TENSORS], *scratch; /* room for max_batch rows */
    const void *use[TB_SERVE_MAX_TENSORS]; /* what run reads: in, or the one request's own rows */
    tbi_request **requests;                /* [max_batch]; NULL: cancelled while it ran */
    int n_requests, rows, queued_rows;
    int64_t start_ns, done_ns;
    int64_t until_ns;                      /* a worker's: when it should be done; 0: idle. The loop's alone */
    tb_status status;
} tbi_batch;

/* out[o]: the request's first row of output o; NULL unless fault->code is TBI_FAULT_NONE. */
typedef void (*tbi_finish)(void *arg, tbi_request *r, const tbi_fault *fault, const void *const *out);

typedef struct tbi_batch_size { /* counts of batches of one size */
    uint64_t batches;
    int64_t busy_ns;
} tbi_batch_size;

typedef struct tbi_decision { /* one batch: what was there, what was taken, what it was expected to cost and
                                 did */
    int64_t at_ns, predicted_ns, took_ns;
    int queued_rows, rows;
} tbi_decision;

typedef struct tbi_batcher {
    const tb_serve_model *model;
    tbi_finish finish;
    void *finish_arg;
    tbi_request *head, *tail;
    int queued_rows, queued_requests, limit_rows;
    bool by_worker;
    int n_workers, n_busy;
    int wake_fd; /* an eventfd that workers write when they finish; -1 without workers */
    struct tbi_worker *workers;
    tbi_batch batch;                   /* the loop's own */
    int sizes[TBI_BATCH_SIZES], n_sizes;
    int64_t cost_ns[TBI_BATCH_SIZES];  /* t(sizes[i]), the median of late */
    int64_t handover_ns;               /* to a worker and back, measured */
    int64_t row_ns;                    /* min over b of t(b) / b */
    tbi_batch_size *by_size;           /* [max_batch + 1] */
    tbi_decision decisions[TBI_DECISIONS_KEPT]; /* ring */
    uint64_t n_decisions;
} tbi_batcher;

/* Measures the model and decides how to run it. */
TB_MUST_USE tb_status tbi_batcher_create(const tb_serve_model *model, tb_serve_mode mode, int workers,
                                         int limit_rows, tbi_batcher **out);
void tbi_batcher_destroy(tbi_batcher *b); /* NULL is accepted; nothing may be queued or running */

/* Takes the request, or refuses it: the queue is full, or its deadline cannot be met. */
bool tbi_batcher_admit(tbi_batcher *b, tbi_request *r, int64_t now_ns, tbi_fault *fault);
void tbi_batcher_cancel(tbi_batcher *b, tbi_request *r); /* queued or running: it will not be finished */
/* Collects what workers have done, refuses what is overdue, starts what can start; runs in-loop batches for
 * up to `budget_ns`. Calls finish for every request that ended. True while the queue holds rows that could
 * run at once. */
bool tbi_batcher_step(tbi_batcher *b, int64_t budget_ns);
bool tbi_batcher_idle(const tbi_batcher *b);
int64_t tbi_batcher_next_deadline(const tbi_batcher *b); /* INT64_MAX: none */

void tbi_batcher_note(tbi_batcher *b, const tbi_batch *batch); /* a batch has run: counts, the decision, t(b) */
int64_t tbi_batcher_cost(const tbi_batcher *b, int rows); /* t(rows), interpolated between measured sizes */
/* How many of `queued` rows the next batch should take: argmin t(b) / b, and done by the deadline where
 * possible. */
int tbi_batcher_plan(const tbi_batcher *b, int queued, int64_t now_ns, int64_t deadline_ns);

/* worker.c */
tb_status tbi_workers_start(tbi_batcher *b, int n);
void tbi_workers_stop(tbi_batcher *b);
tbi_batch *tbi_worker_idle(tbi_batcher *b);            /* a free worker's batch, NULL: all busy */
void tbi_worker_submit(tbi_batcher *b, tbi_batch *batch);
tbi_batch *tbi_worker_collect(tbi_batcher *b);         /* one finished batch, NULL when there is none */
int64_t tbi_worker_free_ns(const tbi_batcher *b);      /* when the first worker should be idle */
void tbi_worker_wait(tbi_batcher *b);                  /* sleeps until a worker wakes the server */
tb_status tbi_batch_open(tbi_batch *batch, const tb_serve_model *model);
void tbi_batch_close(tbi_batch *batch);
void tbi_batch_run(tbi_batch *batch, const tb_serve_model *model);
