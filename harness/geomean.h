/* Geometric means over points that the experiment names before it runs: an entry of `plots:`
 *
 *   {kind: geomean, metric: [NAME, ..], series: KEY, of: [{KEY: VALUE, ..}, ..]}
 *
 * Of every series (points with one value of KEY) and metric: the mean over the points that match an entry of `of`. One
 * that is missing or not ok leaves no number; one line tells how often. scripts/report has the same from the result
 * files. */
#pragma once
#include "experiment.h"
#include "record.h"

/* On stdout; results[i] belongs to e->points[i], NULL where there is none. */
void tb_geomeans_print(const tb_experiment *e, tb_result *const *results);
