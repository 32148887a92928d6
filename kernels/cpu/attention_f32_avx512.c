/* Attention and its gradient, f32; the work is in attention_f32.h and attention_grad_f32.h. */
#include "vec_avx512.h"

#include "blocking.h"
BLOCKING_F32_AVX512;
#include "attention_grad_f32.h"

TB_KERNEL(attention_f32_avx512) = ATTENTION_KERNEL(attention);
TB_KERNEL(attention_grad_f32_avx512) = ATTENTION_KERNEL(attention_grad);
