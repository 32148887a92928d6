/* What `tb run` says before and after. */
#pragma once
#include "experiment.h"
#include "record.h"
#include "runner.h"

/* The closing table of a run, its checks over the sweep, and where things are. Returns the exit code. */
int tb_report_run(tb_runner *r, tb_result *const *results);
void tb_report_estimate(const tb_experiment *e); /* one line on stdout, for --dry-run */
