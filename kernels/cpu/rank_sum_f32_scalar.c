/* Sums over ranks; the work is in rank_sum_f32.h. */
#include "vec_scalar.h"

#include "rank_sum_f32.h"

TB_KERNEL(rank_sum_f32_scalar) = RANK_SUM;
