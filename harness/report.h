/* What a run or a file of results says to people: tables of points and metrics, and the verdict of a run. */
#pragma once
#include "experiment.h"
#include "record.h"
#include "runner.h"

/* The closing table of a run, its checks over the sweep, and where things are. Returns the exit code. */
int tb_report_run(tb_runner *r, tb_result *const *results);
/* One point in full: configuration, metrics with intervals, values, checks, facts. */
void tb_report_result(const tb_result *result);
/* "12.3 ms  [11.9, 12.8]" */
void tb_format_summary(const tb_summary *s, char *out, size_t bytes);
void tb_report_estimate(const tb_experiment *e); /* one line on stdout, for --dry-run */
