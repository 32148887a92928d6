/* What a driver is: the code that an experiment measures. One driver, one file, harness/drivers/<name>.c,
 * with one TB_DRIVER(name, .doc = "...", .keys = ..., .setup = ..., .run_once = ..., ...); found at build
 * time by that line. Every rank of a launch calls the same functions in the same order:
 *
 *     setup, check, then run_once again and again (the harness warms up, times, decides when it is enough)
 *                   or run once (the driver owns its loop: training), then finish, teardown.
 *
 * A failing function ends the launch; its sentence becomes the reason. On several ranks the process then
 * leaves the others by MPI_Abort, without teardown, so a driver may fail on one rank alone.
 *
 * Ranks that communicate open tb_run_open_comm() in setup and close it in teardown: the harness has started MPI
 * and ends it, and its own traffic is not in the driver's counts. */
#pragma once
#include "record.h"
#include "tb_comm.h"
#include "tb_conf.h"
#include <stdbool.h>
#include <stdint.h>

/* What a driver knows of the launch it runs in. Read only; lives until teardown. */
typedef struct tb_run {
    const char *experiment, *label;
    const char *device;    /* launch.device: "cpu" */
    int rank, ranks;
    int threads;           /* of this rank */
    const int *cores;      /* this rank's own processors, n_cores = threads; NULL, 0 where ranks share them */
    int n_cores;
    uint64_t seed;         /* measure.seed: root of every stream */
    bool traced;           /* --trace: write a profile as artefact "trace" */
    const tb_conf *config; /* the resolved point; params through tb_param_*() */
    const char *flight;    /* prefix of this launch's flight records; NULL: none are kept */
    struct tb_group *group;
    struct tb_recorder *recorder; /* behind tb_emit_*; NULL drops what is emitted */
} tb_run;

typedef struct tb_driver {
    const char *name;
    int version;           /* part of the point's hash: raise it when the meaning of a number changes */
    const char *doc;
    const tb_key *keys;    /* of params */
    int n_keys;
    const tb_metric *metrics; /* all that it may emit samples of; an experiment may refine them by name */
    int n_metrics;
    /* What else it may emit that conditions and checks can name: values, checks, texts; NULL at the end.
     * "batch.*" stands for all names that begin so. */
    const char *const *emits;
    bool needs_pair; /* the time between two cores decides its figures: launches whose cores moved are repeated */
    tb_status (*setup)(const tb_run *run, void **state);
    tb_status (*check)(const tb_run *run, void *state);    /* or NULL; after a failed check nothing is timed */
    tb_status (*run_once)(const tb_run *run, void *state); /* one iteration; either this or run */
    tb_status (*run)(const tb_run *run, void *state);
    tb_status (*finish)(const tb_run *run, void *state);   /* or NULL; values, hashes, generated text */
    void (*teardown)(void *state);                         /* also after a failed setup; state may be NULL */
} tb_driver;

#define TB_DRIVER(name_, ...) const tb_driver tb_driver_##name_ = {.name = #name_, __VA_ARGS__}
#define TB_DRIVER_ENTRY(name_) extern const tb_driver tb_driver_##name_;
#include "tb_driver_list.inc"
#undef TB_DRIVER_ENTRY

int tb_driver_count(void);
const tb_driver *tb_driver_at(int index);
const tb_driver *tb_driver_find(const char *name); /* NULL when there is none */
/* `iter_ms` where the harness's loop times run_once, then the driver's table. */
int tb_driver_metric_count(const tb_driver *driver);
const tb_metric *tb_driver_metric_at(const tb_driver *driver, int index);
/* Whether a launch of the driver may have a metric, value, check or text of the name. Where not, *near is one
 * that it may have, or NULL. */
bool tb_driver_emits(const tb_driver *driver, const char *name, const char **near);

/* Parameters. The table of keys has checked and completed them, so a read cannot fail; a name that is not in
 * the table is the driver's bug and fails an assertion. Strings live as long as the run. */
int64_t tb_param_int(const tb_run *run, const char *key);
double tb_param_num(const tb_run *run, const char *key);
bool tb_param_bool(const tb_run *run, const char *key);
const char *tb_param_str(const tb_run *run, const char *key);

/* Records. They go to the launch's journal; strings are copied. A full disk is told by tb_run_sync() and ends
 * the launch, so the emitters themselves return nothing. `step` counts up from 0 in each series; a sample
 * emitted while tb_run_warming(run, true) is kept apart. */
void tb_emit_sample(const tb_run *run, const char *metric, int64_t step, double value);
void tb_emit_value(const tb_run *run, const char *name, const char *unit, double value);
void tb_emit_text(const tb_run *run, const char *name, const char *text);  /* "weights_hash", "sample" */
void tb_emit_fact(const tb_run *run, const char *key, const char *value);  /* "data/train/sha256" */
/* Passes when value <= limit: an error, a count of differences. `message` says what a failure means. */
void tb_emit_check(const tb_run *run, const char *name, const char *kind, double value, double limit,
                   const char *message);
void tb_emit_event(const tb_run *run, const char *name, const char *text, int64_t track, int64_t index,
                   int64_t t0_ns, int64_t t1_ns);
void tb_run_warming(const tb_run *run, bool warming);

/* What this rank is doing, for the progress line and for the sentence about a crash ("died: SIGSEGV in step
 * 17, backward"). `phase` is a string literal. Costs nanoseconds. `total` 0: not known. */
void tb_run_phase(const tb_run *run, const char *phase, int64_t step, int64_t total);
/* The number beside the progress: "loss", 0.31, "". */
void tb_run_headline(const tb_run *run, const char *name, double value, const char *unit);

/* Collective, at the ends of blocks (every second or so, outside what is timed): brings all ranks' records to
 * the journal and syncs it. `*stop` (the same on every rank) says that the user wants an end: leave the loop
 * and return TB_OK; what was measured is kept and the launch is marked interrupted. */
TB_MUST_USE tb_status tb_run_sync(const tb_run *run, bool *stop);
/* Collective. All ranks wait; for use before a timed block. */
TB_MUST_USE tb_status tb_run_barrier(const tb_run *run);

/* Collective: the launch's ranks as a communicator (tb_comm_open_world; `backend` NULL: the fastest that reaches all).
 * Over several ranks it keeps a flight record, compares calls before data moves, has launch.deadline_s for every wait
 * where that is given (else the options' deadline), and does what launch.fault asks for. */
TB_MUST_USE tb_status tb_run_open_comm(const tb_run *run, const char *backend, const tb_comm_options *options,
                                       tb_comm **out);
void tb_run_close_comm(tb_comm *comm); /* NULL is accepted */
