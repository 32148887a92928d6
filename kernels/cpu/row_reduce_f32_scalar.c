/* Sums and maxima of rows, f32, plain C: the same bits as the vector kernels. */
#include "vec_scalar.h"

#include "row_reduce_f32.h"

TB_KERNEL(row_sum_f32_scalar) = ROW_KERNEL(row_sum);
TB_KERNEL(row_max_f32_scalar) = ROW_KERNEL(row_max);
TB_KERNEL(column_sum_f32_scalar) = ROW_KERNEL(column_sum);
