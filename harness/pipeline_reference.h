/* The weights that a pipeline must have: those of plain accumulation on one rank. */
#pragma once
#include "pipeline_arrangement.h"

/* SHA-256 (tb_pipeline_weights_hash) after `steps` steps on one rank: each pipeline's micro-batches are folded by
 * themselves, then the sums are added by the pairwise tree. Leaves another context than it found. */
TB_MUST_USE tb_status tb_accumulated_hash(const tb_arrangement_config *c, int64_t steps, char hex[65]);
