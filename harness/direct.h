/* Direct mode: `mpirun -n N build/tb run EXPERIMENT`. One process start carries all points with ranks <= N on
 * groups of the first ranks; there is one launch, so no interval over launches, and a dead rank ends the
 * whole run. */
#pragma once
#include "experiment.h"
#include "runner.h"

/* Every rank of the job calls it. Returns the exit code; rank 0 reports. */
int tb_direct_run(const char *name, const tb_experiment_options *options, tb_run_mode mode, const char *out,
                  bool traced, const volatile int *interrupts, int argc, char *const *argv);
