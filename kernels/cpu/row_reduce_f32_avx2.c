/* Sums and maxima of rows, f32, AVX2. */
#include "vec_avx2.h"

#include "row_reduce_f32.h"

TB_KERNEL(row_sum_f32_avx2) = ROW_KERNEL(row_sum);
TB_KERNEL(row_max_f32_avx2) = ROW_KERNEL(row_max);
TB_KERNEL(column_sum_f32_avx2) = ROW_KERNEL(column_sum);
