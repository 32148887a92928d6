/* Results as JSON, for programs: points with their metrics, checks and texts, on stdout. */
#pragma once
#include "results.h"

int tb_show_json(const tb_results *results); /* returns the exit code */
