/* Sums over ranks; the work is in rank_sum_f32.h. */
#include "vec_avx512.h"

#include "rank_sum_f32.h"

TB_KERNEL(rank_sum_f32_avx512) = RANK_SUM;
