/* The models of one folder tree, DIR/<name>/<version>/: loading in the background, swapping, retiring.
 *
 * A model is opened, checked and measured by the loading thread; the loop thread only swaps a pointer.
 * Requests that began with the old model end with it; it is closed when the last one has. Names come from the
 * folder alone: a client's name is looked up in the list, never put into a path. */
#pragma once
#include "generator.h"
#include "tb_serve.h"
#include <pthread.h>

enum { TBI_MAX_MODELS = 64 };

/* A loaded model and what it has done. Lives until nothing uses it. */
typedef struct tbi_served {
    tb_serve_model *model;
    tbi_batcher *batcher;
    tbi_generator *generator;  /* NULL: a model of independent rows */
    int users;                 /* requests that hold it, from header to reply */
    uint64_t executions, successes, failures, rows;
    int64_t queue_ns, infer_ns, parse_ns, serialize_ns, last_ms;
    struct tbi_served *next;   /* list of the retired */
} tbi_served;

typedef enum tbi_model_state {
    TBI_MODEL_UNLOADED,
    TBI_MODEL_LOADING,
    TBI_MODEL_READY,
    TBI_MODEL_FAILED
} tbi_model_state;

typedef struct tbi_entry {
    char name[TB_SERVE_MAX_NAME + 1];
    tbi_served *live;          /* NULL: none */
    tbi_model_state state;     /* LOADING with live != NULL: the old version serves on */
    char reason[200];          /* of the last failure */
} tbi_entry;

typedef struct tbi_load tbi_load; /* one load under way */

typedef struct tbi_repository {
    char *dir;
    tbi_entry entries[TBI_MAX_MODELS];
    int n_entries;
    tbi_served *retired;
    const tb_serve_config *config;
    int wake_fd;               /* eventfd: a load has ended */
    pthread_t thread;
    bool thread_started, stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    tbi_load *todo, *current, *done; /* under lock */
    int loads_under_way;
} tbi_repository;

typedef void (*tbi_loaded)(void *arg, void *waiter, tbi_entry *e, tb_status st);

TB_MUST_USE tb_status tbi_repository_open(tbi_repository *r, const tb_serve_config *config, int wake_fd);
void tbi_repository_close(tbi_repository *r);
TB_MUST_USE tb_status tbi_repository_scan(tbi_repository *r);      /* adds the names of new folders */
tbi_entry *tbi_repository_find(tbi_repository *r, const char *name, size_t bytes); /* NULL: no such model */
TB_MUST_USE tb_status tbi_repository_load(tbi_repository *r, tbi_entry *e, void *waiter);
void tbi_repository_unload(tbi_repository *r, tbi_entry *e);
/* Swaps in what has been loaded; calls `loaded` for each (also for failures; waiter NULL: nobody waits). */
void tbi_repository_collect(tbi_repository *r, tbi_loaded loaded, void *arg);
void tbi_repository_forget(tbi_repository *r, const void *waiter); /* it no longer waits */
void tbi_repository_sweep(tbi_repository *r); /* closes retired models that nothing uses */

/* load.c: opens, checks, measures one version folder. */
TB_MUST_USE tb_status tbi_served_open(const tb_serve_config *config, const char *dir, const char *name,
                                      const char *version, tbi_served **out);
void tbi_served_close(tbi_served *s); /* NULL is accepted */
/* The highest version number among the folders of dir/name. */
TB_MUST_USE tb_status tbi_latest_version(const char *dir, const char *name,
                                         char version[TB_SERVE_MAX_NAME + 1]);
bool tbi_name_ok(const char *name); /* letters, digits, '_', '-', '.'; no leading '.'; 1 to 63 bytes */
