/* Checks over a sweep, tested when all points are measured:
 *
 *   NAME equal over KEY                    "weights_hash equal over launch.ranks"
 *   NAME within TOL over KEY               relative difference of the points' numbers at most TOL
 *   NAME within TOL absolute over KEY
 *   NAME first N within TOL over KEY       the first N samples of a curve, one by one
 *
 * Points are compared that differ in KEY alone; the one with KEY's first value is the base. NAME is an
 * artefact, a value, a metric, or (first N) the series of a metric on rank 0, warm-up included. */
#pragma once
#include "experiment.h"
#include "record.h"

typedef struct tb_sweep_check {
    const char *text;   /* as written in the experiment */
    int n_compared;     /* pairs; 0: nothing to compare, which is neither pass nor failure */
    bool pass;
    char message[512];  /* the first failure, or the largest difference seen */
} tb_sweep_check;

/* results[i] belongs to e->points[i]; NULL where there is none. Fills at most `max`; returns how many. */
int tb_sweep_checks(const tb_experiment *e, tb_result *const *results, tb_sweep_check *out, int max);
