/* quantize_u8, f32, AVX2: 32 numbers a turn. Rounded to an integer before the zero point
 * is added: ties do not depend on it. */
#include "tb_kernel.h"
#include <immintrin.h>
#include <math.h>

static inline __m256i quantized(const float *x, __m256 inverse, __m256 zero)
{
    __m256 q = _mm256_mul_ps(_mm256_loadu_ps(x), inverse);
    q = _mm256_add_ps(_mm256_round_ps(q, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), zero);
    q = _mm256_min_ps(_mm256_max_ps(q, _mm256_setzero_ps()), _mm256_set1_ps(255)); /* max gives 0 for NaN */
    return _mm256_cvtps_epi32(q);
}

static void run(const void *args)
{
    const tb_pointwise_args *a = args;
    const tb_quantize_args *s = a->attrs;
    const float *x = a->in[0];
    uint8_t *y = a->out;
    __m256 inverse = _mm256_set1_ps(s->inverse), zero = _mm256_set1_ps(s->zero);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* undoes the packs' work within 128-bit lanes */
    int64_t i = 0;
    for (; i + 32 <= a->n; i += 32) {
        __m256i low = _mm256_packus_epi32(quantized(x + i, inverse, zero), quantized(x + i + 8, inverse, zero));
        __m256i high = _mm256_packus_epi32(quantized(x + i + 16, inverse, zero), quantized(x + i + 24, inverse, zero));
        __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
        _mm256_storeu_si256((__m256i *)(y + i), bytes);
    }
    for (; i < a->n; i++) {
        float q = rintf(x[i] * s->inverse) + s->zero;
        y[i] = q >= 255 ? 255 : q > 0 ? (uint8_t)q : 0;
    }
}

static bool contiguous(const void *args) { return ((const tb_pointwise_args *)args)->step[0] == 1; }

TB_KERNEL(quantize_u8_f32_avx2) = {.name = "quantize_u8_f32_avx2", .primitive = "quantize_u8", .dtype = TB_F32,
                                   .isa = TB_ISA_AVX2, .supports = contiguous, .run = run};
