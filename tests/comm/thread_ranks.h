/* Runs a function on `size` ranks that are threads of this process. */
#pragma once
#include "comm_battery.h"
#include <pthread.h>

/* Each rank of shm maps the memory at another address, where ThreadSanitizer cannot see that one orders the other. */
#ifdef __SANITIZE_THREAD__
enum { BACKENDS = 1 };
#else
enum { BACKENDS = 2 };
#endif
static const char *const backends[] = {"thread", "shm"};

typedef struct thread_rank {
    pthread_t thread;
    const char *backend;
    int rank, size;
    int64_t deadline_ns;
    tb_comm_id id;
    void (*body)(tb_comm *c);
} thread_rank;

static inline void *thread_rank_main(void *arg)
{
    thread_rank *t = arg;
    tb_comm *c;
    MUST_OK(tb_comm_open(t->backend, t->rank, t->size, &t->id, &(tb_comm_options){.deadline_ns = t->deadline_ns}, &c));
    t->body(c);
    tb_comm_close(c);
    return NULL;
}

static inline void on_ranks(const char *backend, int size, int64_t deadline_ns, void (*body)(tb_comm *c))
{
    thread_rank ranks[64];
    tb_comm_id id;
    MUST_OK(tb_comm_make_id(backend, size, &id));
    for (int r = 0; r < size; r++) {
        ranks[r] = (thread_rank){
            .backend = backend, .rank = r, .size = size, .deadline_ns = deadline_ns, .id = id, .body = body};
        pthread_create(&ranks[r].thread, NULL, thread_rank_main, &ranks[r]);
    }
    for (int r = 0; r < size; r++) pthread_join(ranks[r].thread, NULL);
}
