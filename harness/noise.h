/* How quiet the machine is, in about 0.2 s. Call it where all cores of the job are allowed: in `tb run`, before and
 * after a launch, not in a bound rank. On shared machines steal time reads zero while medians wander by tens of
 * percent, so noise is seen by timing fixed work and by pressure stall information. */
#pragma once
#include "journal.h"

typedef struct tb_noise {
    double calib_median_ns;      /* a fixed chain of multiplications, timed 1000 times */
    double calib_cv;             /* its standard deviation / mean */
    double calib_p99_over_p50;
    double psi_some_percent;     /* cpu.some avg10 of /proc/pressure; NaN where the kernel has none */
    double load_1min;
    double timer_ns;             /* smallest step of CLOCK_MONOTONIC */
    double timer_overhead_ns;    /* of reading it */
    double core_to_core_ns;      /* one way between the first two cores of the cpuset; NaN with one core */
    double involuntary_switches; /* of this thread while it measured */
} tb_noise;

TB_MUST_USE tb_status tb_noise_measure(tb_noise *out);
/* As values "noise.<when>.calib_cv", ... of rank -1; `when`: before | after. What is NaN is left out. */
TB_MUST_USE tb_status tb_noise_write(tb_journal *j, const char *when, const tb_noise *noise);
