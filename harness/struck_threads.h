/* The same with ranks that are threads of this process: two sums a step, one of which a fault strikes. */
#pragma once
#include "struck_program.h"

enum { STRUCK_THREAD_OPERATIONS = 80 };

/* Only faults that end the sums, and no process: mismatch, slow. plan->ranks at most 16. gone_s counts until all
 * threads have returned; they cannot be killed. */
TB_MUST_USE tb_status tb_struck_threads(const tb_struck_plan *plan, tb_struck *out);
