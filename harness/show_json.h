/* Results and experiments as JSON, for programs, on stdout. Both return the exit code. */
#pragma once
#include "experiment.h"
#include "results.h"

int tb_show_json(const tb_results *results);                  /* points with their metrics, checks and texts */
int tb_show_experiment_json(const tb_experiment *experiment); /* question, plots, points with their configurations */
