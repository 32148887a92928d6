/* An experiment: one YAML file, with what it extends, a profile and -s applied, checked against the tables of
 * keys, and expanded into points. A point is a resolved configuration; its hash names its files. */
#pragma once
#include "expr.h"
#include "tb_conf.h"
#include "tb_driver.h"
#include "tb_hash.h"

typedef struct tb_plan_point {
    tb_conf *config;           /* {driver, launch, measure, metrics, params, valid}, complete */
    char *json;                /* its canonical text: what the worker gets and the file keeps */
    char hash[TB_SHA256_HEX];  /* of json and the driver's version */
    char *label; /* "cnn ranks=2": the keys of the sweep; the experiment's name where there are none */
    char *stem;                /* of its files: "cnn-ranks-2-1a2b3c4d" */
    const char *scope;         /* "oversubscribed" with more ranks x threads than cores, else "measured" */
    int ranks, threads;
} tb_plan_point;

typedef struct tb_experiment {
    char *name, *path;
    char *root;                /* folder that holds experiments/ and results/ */
    char *source;              /* the file's text */
    const char *question;      /* "" when none */
    char *plots;               /* canonical JSON list */
    const char *profile;       /* "" when none */
    const tb_driver *driver;
    tb_conf *tree;             /* everything but the sweep applied */
    tb_plan_point *points;
    int n_points;
    int64_t launches;          /* measure.launches: of each point */
    double timeout_s;          /* launch.timeout_s */
    double level;              /* measure.level: of intervals */
    bool interleaved;
    uint64_t seed;
} tb_experiment;

typedef struct tb_experiment_options {
    const char *profile;          /* NULL: none */
    const char *const *set;       /* "params.batch=8" */
    int n_set;
    const char *where;            /* NULL: every point */
} tb_experiment_options;

/* `name`: a file's path, or the name of one in experiments/ (of the current folder, else of the build's
 * source). Every refusal is one sentence that starts with the experiment's name or file:line:column. */
TB_MUST_USE tb_status tb_experiment_load(const char *name, const tb_experiment_options *options,
                                         tb_experiment **out);
void tb_experiment_free(tb_experiment *experiment); /* NULL is accepted */

/* The folder that holds experiments/: the current one, else that above the program. tb_free() it. */
TB_MUST_USE tb_status tb_experiment_root(char **out);

extern const tb_key tb_launch_keys[], tb_measure_keys[], tb_metric_keys[];
extern const int tb_n_launch_keys, tb_n_measure_keys, tb_n_metric_keys;

/* Lookup for tb_expr_test() in a tb_conf given as `arg`. */
bool tb_conf_lookup(const void *arg, const char *name, tb_expr_value *out, char *near);
