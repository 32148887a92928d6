/* Worker threads of one batcher. A worker owns one batch, whose state goes idle -> submitted -> finished ->
 * idle. The thread takes the middle step, the loop the others; so while a batch is idle it is the loop's
 * alone. */
#include "batcher.h"
#include "tb_alloc.h"
#include "tb_cpu.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { IDLE, SUBMITTED, FINISHED };

typedef struct tbi_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    const tb_serve_model *model;
    tbi_batch batch;
    int state;   /* under lock */
    bool stop, started;
    int wake_fd;
} tbi_worker;

static void wake_server(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

static void *work(void *arg)
{
    tbi_worker *w = arg;
    tb_cpu_denormals_on();
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->state != SUBMITTED && !w->stop) pthread_cond_wait(&w->wake, &w->lock);
        if (w->stop) break;
        pthread_mutex_unlock(&w->lock);
        tbi_batch_run(&w->batch, w->model);
        pthread_mutex_lock(&w->lock);
        w->state = FINISHED;
        wake_server(w->wake_fd);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

tb_status tbi_workers_start(tbi_batcher *b, int n)
{
    b->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (b->wake_fd < 0)
        return TB_FAIL(TB_ERR_IO, "model '%s': no eventfd (%s)", b->model->name, strerror(errno));
    b->workers = tb_calloc((size_t)n, sizeof *b->workers);
    if (!b->workers) return tb_error_code();
    for (int i = 0; i < n; i++) {
        tbi_worker *w = &b->workers[i];
        w->model = b->model;
        w->wake_fd = b->wake_fd;
        pthread_mutex_init(&w->lock, NULL);
        pthread_cond_init(&w->wake, NULL);
        b->n_workers = i + 1;
        TB_TRY(tbi_batch_open(&w->batch, b->model));
        int error = pthread_create(&w->thread, NULL, work, w);
        if (error)
            return TB_FAIL(TB_ERR_INTERNAL, "model '%s': no thread for worker %d (error %d)", b->model->name,
                           i, error);
        w->started = true;
    }
    return TB_OK;
}

void tbi_workers_stop(tbi_batcher *b)
{
    for (int i = 0; i < b->n_workers; i++) {
        tbi_worker *w = &b->workers[i];
        if (w->started) {
            pthread_mutex_lock(&w->lock);
            w->stop = true;
            pthread_cond_signal(&w->wake);
            pthread_mutex_unlock(&w->lock);
            pthread_join(w->thread, NULL);
        }
        pthread_cond_destroy(&w->wake);
        pthread_mutex_destroy(&w->lock);
        tbi_batch_close(&w->batch);
    }
    tb_free(b->workers);
    b->workers = NULL;
    b->n_workers = 0;
    if (b->wake_fd >= 0) close(b->wake_fd);
    b->wake_fd = -1;
}

static tbi_batch *first_in(tbi_batcher *b, int state, int next)
{
    for (int i = 0; i < b->n_workers; i++) {
        tbi_worker *w = &b->workers[i];
        pthread_mutex_lock(&w->lock);
        bool found = w->state == state;
        if (found) w->state = next;
        pthread_mutex_unlock(&w->lock);
        if (found) return &w->batch;
    }
    return NULL;
}

tbi_batch *tbi_worker_idle(tbi_batcher *b) { return first_in(b, IDLE, IDLE); }
tbi_batch *tbi_worker_collect(tbi_batcher *b) { return first_in(b, FINISHED, IDLE); }

void tbi_worker_submit(tbi_batcher *b, tbi_batch *batch)
{
    int i = 0;
    while (&b->workers[i].batch != batch) i++;
    pthread_mutex_lock(&b->workers[i].lock);
    b->workers[i].state = SUBMITTED;
    pthread_cond_signal(&b->workers[i].wake);
    pthread_mutex_unlock(&b->workers[i].lock);
}

int64_t tbi_worker_free_ns(const tbi_batcher *b)
{
    int64_t first = INT64_MAX;
    for (int i = 0; i < b->n_workers; i++)
        if (b->workers[i].batch.until_ns < first) first = b->workers[i].batch.until_ns;
    return first;
}

void tbi_worker_wait(tbi_batcher *b)
{
    uint64_t n;
    poll(&(struct pollfd){.fd = b->wake_fd, .events = POLLIN}, 1, -1);
    while (read(b->wake_fd, &n, sizeof n) < 0 && errno == EINTR) {}
}
