/* The timed loop around a driver's run_once: warm-up until steady, then blocks of iterations behind a
 * barrier. */
#pragma once
#include "tb_driver.h"

/* Emits `iter_ms` of each rank. `*steady`: whether the warm-up met its condition. */
TB_MUST_USE tb_status tb_loop_run(const tb_run *run, const tb_driver *driver, void *state, bool *steady,
                                  bool *stopped);
