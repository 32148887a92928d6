/* Sums over ranks; the work is in rank_sum_f32.h. */
#include "vec_avx2.h"

#include "rank_sum_f32.h"

TB_KERNEL(rank_sum_f32_avx2) = RANK_SUM;
