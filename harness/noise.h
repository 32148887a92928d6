/* How quiet the machine is, in about 0.2 s. Call it where all cores of the job are allowed: in `tb run`, before and
 * after a launch, not in a bound rank. On shared machines steal time reads zero while medians wander by tens of
 * percent, so noise is seen by timing fixed work and by pressure stall information. */
#pragma once
#include "journal.h"
#include <stdbool.h>

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
/* Whether two figures of core_to_core_ns are of unlike pairs of cores: by more than 100 ns and a factor of 2. On the
 * machine of results/headline, over 600 launches, the figures are 19 to 29 ns (one core's two threads), 46 to 79 (one
 * L3) or 249 to 305 (two); sums of 256 KiB to 4 MiB took 1.4 to 2.4 times as long on the last, while 20 and 60 ns
 * could not be told apart by any metric. NaN is unlike nothing. */
bool tb_noise_cores_moved(double before_ns, double after_ns);
/* Processor seconds since some start: what everybody spent on `cores` (NaN where the kernel does not tell), and what
 * this process and its children did. The difference is of other processes; the kernel's pressure figure does not tell
 * them from ranks that wait for each other. */
double tb_noise_busy_s(const int *cores, int n);
double tb_noise_own_s(void);
/* Above this share of the cores' time a launch ran on a busy machine. */
enum { TB_NOISE_BUSY_PERCENT = 5 };
/* What others took while a launch ran, in percent of the cores' time: the most of any launch; 0: not recorded. */
double tb_noise_others_percent(const tb_result *r);
/* As values "noise.<when>.calib_cv", ... of rank -1; `when`: before | after. What is NaN is left out. */
TB_MUST_USE tb_status tb_noise_write(tb_journal *j, const char *when, const tb_noise *noise);
