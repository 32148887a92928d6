/* What the integer linear ops share. */
#pragma once
#include "tb_op.h"

enum { TB_U8S8_MAX_DEPTH = 66311 /* 255 * 127 * K stays below 2^31 */ };

/* A weight s8 [N, K], contiguous, in the layout of gemm_u8s8's kernels (tbi_use_packed). */
TB_MUST_USE tb_status tbi_packed_s8(tb_op_call *c, const tb_tensor *w, const int8_t **out);
