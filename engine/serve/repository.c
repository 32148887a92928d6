/* The list of models, the loading thread, the swap. */
#include "repository.h"
#include "tb_alloc.h"
#include "tb_log.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct tbi_load {
    tbi_entry *entry;
    void *waiter;
    tbi_served *served; /* the result, NULL when it failed */
    tb_status status;
    char message[200];
    tbi_load *next;
};

/* The log tells where, clients are only told what: the repository's path is left out. */
static void note_failure(const tbi_repository *r, tbi_load *job)
{
    const char *from = tb_error_message();
    size_t dir = strlen(r->dir), n = 0;
    tb_log_write(TB_LOG_ERROR, "serve: model '%s' was not loaded: %s", job->entry->name, from);
    while (*from && n < sizeof job->message - 1) {
        if (strncmp(from, r->dir, dir) == 0)
            from += dir + (from[dir] == '/');
        else
            job->message[n++] = *from++;
    }
    job->message[n] = 0;
}

static void *load_models(void *arg)
{
    tbi_repository *r = arg;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        while (!r->todo && !r->stop) pthread_cond_wait(&r->wake, &r->lock);
        if (r->stop) break;
        tbi_load *job = r->current = r->todo;
        r->todo = job->next;
        job->next = NULL;
        pthread_mutex_unlock(&r->lock);

        char version[TB_SERVE_MAX_NAME + 1];
        job->status = tbi_latest_version(r->dir, job->entry->name, version);
        if (job->status == TB_OK)
            job->status = tbi_served_open(r->config, r->dir, job->entry->name, version, &job->served);
        if (job->status != TB_OK) note_failure(r, job);

        pthread_mutex_lock(&r->lock);
        r->current = NULL;
        job->next = r->done;
        r->done = job;
        uint64_t one = 1;
        while (write(r->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {}
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

tb_status tbi_repository_open(tbi_repository *r, const tb_serve_config *config, int wake_fd)
{
    r->config = config;
    r->wake_fd = wake_fd;
    r->dir = tb_strdup(config->repository);
    if (!r->dir) return tb_error_code();
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->wake, NULL);
    int error = pthread_create(&r->thread, NULL, load_models, r);
    if (error) return TB_FAIL(TB_ERR_INTERNAL, "serve: no loading thread (error %d)", error);
    r->thread_started = true;
    TB_TRY(tbi_repository_scan(r));
    for (int i = 0; i < r->n_entries; i++) TB_TRY(tbi_repository_load(r, &r->entries[i], NULL));
    return TB_OK;
}

static void free_loads(tbi_load *job)
{
    for (tbi_load *next; job; job = next) {
        next = job->next;
        tbi_served_close(job->served);
        tb_free(job);
    }
}

void tbi_repository_close(tbi_repository *r)
{
    if (!r->dir) return;
    if (r->thread_started) {
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_cond_signal(&r->wake);
        pthread_mutex_unlock(&r->lock);
        pthread_join(r->thread, NULL);
    }
    free_loads(r->todo);
    free_loads(r->done);
    for (int i = 0; i < r->n_entries; i++) tbi_served_close(r->entries[i].live);
    for (tbi_served *s = r->retired, *next; s; s = next) {
        next = s->next;
        tbi_served_close(s);
    }
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    tb_free(r->dir);
}

tb_status tbi_repository_scan(tbi_repository *r)
{
    DIR *d = opendir(r->dir);
    if (!d)
        return TB_FAIL(TB_ERR_NOT_FOUND, "serve: cannot read the repository '%s' (%s)", r->dir,
                       strerror(errno));
    for (struct dirent *e; (e = readdir(d));) {
        struct stat info;
        if (!tbi_name_ok(e->d_name) || fstatat(dirfd(d), e->d_name, &info, 0) != 0 || !S_ISDIR(info.st_mode))
            continue;
        if (tbi_repository_find(r, e->d_name, strlen(e->d_name))) continue;
        if (r->n_entries == TBI_MAX_MODELS) {
            tb_log_write(TB_LOG_WARN, "serve: more than %d models in the repository; the rest is left out",
                         TBI_MAX_MODELS);
            break;
        }
        snprintf(r->entries[r->n_entries++].name, TB_SERVE_MAX_NAME + 1, "%s", e->d_name);
    }
    closedir(d);
    return TB_OK;
}

tbi_entry *tbi_repository_find(tbi_repository *r, const char *name, size_t bytes)
{
    for (int i = 0; i < r->n_entries; i++)
        if (strlen(r->entries[i].name) == bytes && memcmp(r->entries[i].name, name, bytes) == 0)
            return &r->entries[i];
    return NULL;
}

tb_status tbi_repository_load(tbi_repository *r, tbi_entry *e, void *waiter)
{
    tbi_load *job = tb_calloc(1, sizeof *job), **last;
    if (!job) return tb_error_code();
    job->entry = e;
    job->waiter = waiter;
    e->state = TBI_MODEL_LOADING;
    r->loads_under_way++;
    pthread_mutex_lock(&r->lock);
    for (last = &r->todo; *last; last = &(*last)->next) {}
    *last = job;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    return TB_OK;
}

static void retire(tbi_repository *r, tbi_entry *e)
{
    if (!e->live) return;
    e->live->next = r->retired;
    r->retired = e->live;
    e->live = NULL;
}

void tbi_repository_unload(tbi_repository *r, tbi_entry *e)
{
    retire(r, e);
    e->state = TBI_MODEL_UNLOADED;
}

void tbi_repository_collect(tbi_repository *r, tbi_loaded loaded, void *arg)
{
    pthread_mutex_lock(&r->lock);
    tbi_load *job = r->done;
    r->done = NULL;
    pthread_mutex_unlock(&r->lock);
    for (tbi_load *next; job; job = next) {
        tbi_entry *e = job->entry;
        next = job->next;
        r->loads_under_way--;
        if (job->served) {
            retire(r, e);
            e->live = job->served;
            e->reason[0] = 0;
        } else {
            snprintf(e->reason, sizeof e->reason, "%s", job->message);
        }
        e->state = job->served || e->live ? TBI_MODEL_READY : TBI_MODEL_FAILED;
        loaded(arg, job->waiter, e, job->status);
        tb_free(job);
    }
}

static void forget_in(tbi_load *job, const void *waiter)
{
    for (; job; job = job->next)
        if (job->waiter == waiter) job->waiter = NULL;
}

void tbi_repository_forget(tbi_repository *r, const void *waiter)
{
    pthread_mutex_lock(&r->lock);
    forget_in(r->todo, waiter);
    forget_in(r->done, waiter);
    forget_in(r->current, waiter);
    pthread_mutex_unlock(&r->lock);
}

void tbi_repository_sweep(tbi_repository *r)
{
    for (tbi_served **at = &r->retired; *at;) {
        tbi_served *s = *at;
        if (s->users > 0 || !tbi_batcher_idle(s->batcher)) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        tbi_served_close(s);
    }
}
