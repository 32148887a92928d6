/* What a run leaves behind, in memory: one struct a kind of record, the launch that collects them, and the result
 * of a point (all its launches). The journal and the HDF5 file are two ways to store these and add nothing.
 *
 * Strings are borrowed by writers and owned by the launch or result they were read into; NULL reads back as "".
 * rank -1 means the launch as a whole. Times are nanoseconds: utc_ns since 1970, t0_ns/t1_ns of one process' clock. */
#pragma once
#include "tb_status.h"
#include <stddef.h>
#include <stdint.h>

#define TB_RESULT_SCHEMA_MAJOR 1 /* a reader refuses another major */
#define TB_RESULT_SCHEMA_MINOR 0 /* additions: a reader ignores what it does not know */

/* First record of every journal: which point this is, and which launch of it. */
typedef struct tb_point {
    const char *experiment;  /* "train_mnist" */
    const char *driver;      /* "train" */
    const char *profile;     /* "" or "smoke" */
    const char *hash;        /* SHA-256 of `config` and the driver's version; names the files */
    const char *label;       /* for people: "cnn ranks=2" */
    const char *config;      /* resolved configuration, canonical JSON, everything applied */
    const char *source;      /* the experiment's YAML as it was on disk */
    const char *scope;       /* measured | oversubscribed | emulated | modelled: default of the metrics */
    const char *run;         /* name of the run's folder */
    int64_t launch, launches; /* this launch, 0-based; how many are planned */
    int64_t ranks, threads;  /* threads: of each rank */
    int64_t seed;            /* root of all streams */
    int64_t utc_ns;          /* when the launch was started */
    const char *question;    /* the experiment's, for captions */
    const char *plots;       /* its plots, as a JSON list: scripts/plot draws them */
} tb_point;

/* Provenance: "build/git_sha", "host/cpu", "env/OMP_NUM_THREADS", "seeds/data", "data/<file>/sha256", ... */
typedef struct tb_fact {
    const char *key, *value;
    int64_t rank;
} tb_fact;

/* Declares a metric before its samples or values. */
typedef struct tb_metric {
    const char *name;        /* "step_ms": at most 100 bytes, no '/' */
    const char *unit;        /* "ms", "samples/s", "B", "" */
    const char *dir;         /* lower | higher | none */
    const char *kind;        /* ratio | exact | curve | parity | trend */
    const char *reduce;      /* over ranks, per iteration: max | min | sum | mean | rank0 */
    const char *scope;       /* as tb_point.scope; "" means the point's */
    const char *statistic;   /* over iterations: median (default) | last | max | min | p95 | p99 | total */
    double margin;           /* relative change that counts as one (0.05) */
    int64_t deterministic;   /* 1: the same bits every time; no interval is computed */
} tb_metric;

/* A batch of samples of one metric on one rank. steps NULL: first_step, first_step + 1, ... */
typedef struct tb_samples {
    const char *metric;
    int64_t rank;
    int64_t warmup;          /* 1: taken before the steady point */
    int64_t first_step;
    int64_t n;
    const int64_t *steps;
    const double *values;
} tb_samples;

/* One number of one rank: "peak_bytes.act", "params", "flops_per_step". */
typedef struct tb_value {
    const char *name, *unit;
    int64_t rank;
    double value;
} tb_value;

/* Text that belongs to the result: "log" (tail of stderr), "sample" (generated text), "weights_hash". */
typedef struct tb_artefact {
    const char *name, *text; /* name: at most 100 bytes, no '/' */
    int64_t rank;
} tb_artefact;

/* Something that happened, or took from t0 to t1: a phase, a micro-batch on a stage, a crash. */
typedef struct tb_event {
    const char *name;        /* "phase", "forward", "backward", "signal" */
    const char *text;        /* "warm-up", "rank 1 died: SIGKILL in step 17" */
    int64_t rank, track;     /* track: pipeline stage or thread */
    int64_t index;           /* micro-batch, request, step */
    int64_t t0_ns, t1_ns;    /* equal for an instant */
} tb_event;

/* A condition that was tested. A failed parity check means that no performance number of the launch counts. */
typedef struct tb_check {
    const char *name;        /* "parity.max_rel_err <= 1e-5" */
    const char *kind;        /* parity | valid | bound */
    const char *message;
    double value, limit;
    int64_t pass;
} tb_check;

/* Last record of a launch. */
typedef struct tb_end {
    const char *status;      /* ok | invalid | failed | timeout | interrupted */
    const char *reason;      /* one sentence; "" when ok */
    int64_t exit_code, signal, failed_rank; /* 0, 0, -1 when nothing died */
    int64_t utc_ns;
} tb_end;

/* All samples of one (metric, rank, warm-up), joined over batches. */
typedef struct tb_series {
    const char *metric;
    int64_t rank, warmup, n;
    int64_t *steps;
    double *values;
} tb_series;

/* Memory that lives as long as its owner. */
typedef struct tb_store {
    void **blocks;
    int n;
} tb_store;
void *tb_store_add(tb_store *store, size_t bytes); /* zeroed; NULL with the record filled */
void tb_store_free(tb_store *store);

/* One launch as it was read. Lists are in the order of writing. */
typedef struct tb_launch {
    tb_point point;
    tb_fact *facts;
    tb_metric *metrics;
    tb_series *series;
    tb_value *values;
    tb_artefact *artefacts;
    tb_event *events;
    tb_check *checks;
    tb_end end; /* status "running" when there is no end record */
    int n_facts, n_metrics, n_series, n_values, n_artefacts, n_events, n_checks;
    int64_t torn_bytes;      /* behind the last complete record: the writer died inside a write */
    int64_t damaged_records; /* in the middle, checksum wrong; skipped */
    tb_store store;          /* holds the strings */
} tb_launch;

/* One metric of a point over its launches. Launches that failed or are invalid give no number. */
typedef struct tb_summary {
    const char *metric, *unit, *dir, *scope;
    int64_t n_launches, n_samples, n_warmup, n_outliers;
    double value;         /* median over launches of the launch's statistic over iterations, ranks reduced */
    double lo, hi, level; /* interval and the level it really has; NaN, NaN, 0 when there is none */
    const char *method;   /* exact | differs (deterministic, yet not equal) | launches | iterations | none */
    double min, p25, p75, p95, p99, max, mean; /* of all samples, ranks reduced */
} tb_summary;

typedef struct tb_result {
    tb_launch **launches; /* by launch index */
    int n_launches;
    tb_summary *summaries; /* by tb_result_summarise(), or as stored */
    int n_summaries;
    tb_store store;
} tb_result;

TB_MUST_USE tb_status tb_launch_create(tb_launch **out);
void tb_launch_free(tb_launch *launch); /* NULL is accepted, here and below */
void tb_result_free(tb_result *result);

/* Reads the journals of one point, in any order; all must carry one hash. */
TB_MUST_USE tb_status tb_result_from_journals(const char *const *paths, int n, tb_result **out);
/* Computes .summaries at the wanted level (0.95, 0.99). */
TB_MUST_USE tb_status tb_result_summarise(tb_result *result, double level);
/* "ok" when every launch ended ok, every check passed and what is deterministic did not differ; else the status
 * of the first launch that is not, or "invalid". */
const char *tb_result_status(const tb_result *result);
const tb_summary *tb_result_summary(const tb_result *result, const char *metric); /* NULL when absent */

/* Lookups in one launch: NULL or "" when absent. */
const tb_metric *tb_launch_metric(const tb_launch *launch, const char *name);
const tb_series *tb_launch_series(const tb_launch *launch, const char *metric, int64_t rank, int64_t warmup);
const tb_value *tb_launch_value(const tb_launch *launch, const char *name, int64_t rank);
const char *tb_launch_fact(const tb_launch *launch, const char *key);
const char *tb_launch_artefact(const tb_launch *launch, const char *name, int64_t rank);
