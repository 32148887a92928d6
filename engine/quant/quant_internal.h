/* What the rewrites share. */
#pragma once
#include "tb_quant.h"

enum { TB_QUANT_MAX_DEPTH = 66311 /* 255 * 127 * K stays below 2^31 */ };

/* The values of an f32 result that fill one stretch of memory, in whatever order of the dimensions (attention leaves
 * its heads as they lie side by side); NULL: there are gaps, or another dtype. */
const float *tbi_observed(const tb_tensor *t);
/* Notes a layer that stays f32. */
void tbi_keep(tb_quant_report *r, const tb_graph *g, int node, const char *reason);
/* A constant "<layer>.<what>" with a copy of `data`. Layers that share weights share what is equal of theirs; what is
 * not gets the next free name, "<layer>.<what>.2". */
TB_MUST_USE tb_status tbi_layer_constant(tb_graph *g, const char *layer, const char *what, tb_dtype dtype, int rank,
                                         const int64_t *dims, const void *data, int *id);
